import json

import pytest

from rlhf_pipelines.local.run_events import (
    RunFailed,
    RunFollower,
    RunMessage,
    StepFailed,
    StepFinished,
    StepMessage,
    StepProgress,
    StepStarted,
    Update,
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def event(**fields: object) -> str:
    return "    @rlhf " + json.dumps(fields)


def kfp(message: str) -> str:
    return f"12:00:00.000 - INFO - {message}"


EXECUTING = kfp("Executing task \x1b[96m'train'\x1b[0m")
SUCCEEDED = kfp("Task \x1b[96m'train'\x1b[0m finished with status \x1b[92mSUCCESS\x1b[0m")
FAILED = "12:00:00.000 - ERROR - Task \x1b[96m'train'\x1b[0m finished with status \x1b[91mFAILURE\x1b[0m"
PLAN = event(
    event="plan",
    steps=[
        {"task": "prepare", "component": "prepare", "name": "Prepare Data"},
        {"task": "train", "component": "train", "name": "Toy Trainer"},
    ],
)
PROGRESS = event(
    event="progress", label="training", done=3, total=9, unit="step", seconds_left=1.5, metrics={"loss": 0.25}
)


def follow(*lines: str, clock: Clock | None = None) -> tuple[RunFollower, list[Update]]:
    follower = RunFollower(clock or Clock())
    updates = [update for line in lines if (update := follower.feed(line)[0]) is not None]
    return follower, updates


def test_step_is_named_as_the_plan_names_it() -> None:
    _, updates = follow(PLAN, EXECUTING)
    assert updates == [StepStarted("Toy Trainer", 1, 2)]


def test_step_outside_the_plan_still_has_a_name() -> None:
    _, updates = follow(kfp("Executing task 'import-prompts'"))
    assert updates == [StepStarted("Import prompts", 0, 0)]


def test_progress_belongs_to_the_running_step() -> None:
    _, updates = follow(PLAN, EXECUTING, PROGRESS)
    assert updates[1:] == [StepProgress("Toy Trainer", "training", 3, 9, "step", 1.5, {"loss": 0.25})]


def test_finished_step_keeps_its_newest_metrics_and_its_duration() -> None:
    clock = Clock()
    follower = RunFollower(clock)
    for line in (PLAN, EXECUTING, PROGRESS):
        follower.feed(line)
    clock.now += 7
    assert follower.feed(SUCCEEDED) == (StepFinished("Toy Trainer", 7.0, {"loss": 0.25}, cached=False), False)
    assert follower.running_step is None


def test_time_in_loops_is_counted_once_by_what_they_count() -> None:
    def progress(label: str, done: int, unit: str) -> str:
        return event(event="progress", label=label, done=done, total=9, unit=unit, seconds_left=None, metrics={})

    clock = Clock()
    follower = RunFollower(clock)
    for seconds, line in (
        (0, PLAN),
        (0, EXECUTING),
        (5, progress("training", 0, "step")),  # after 5 seconds of start-up
        (2, progress("training", 1, "step")),
        (0, progress("answers", 0, "answer")),  # a look within the training
        (3, progress("answers", 9, "answer")),
        (1, progress("training", 9, "step")),
        (4, progress("answers", 0, "answer")),  # and one after it
        (2, progress("answers", 9, "answer")),
        (7, SUCCEEDED),
    ):
        clock.now += seconds
        follower.feed(line)
    (finished,) = follower.finished
    assert finished.seconds == 24.0
    assert finished.loops == {"step": 6.0, "answer": 2.0}


def test_cached_step_is_finished() -> None:
    follower, updates = follow(PLAN, kfp("Task prepare cache hit (key=aeea5b439b9f); skipping execution."))
    assert updates == follower.finished == [StepFinished("Prepare Data", 0.0, {}, cached=True)]


def test_two_steps_of_one_component_keep_their_own_names() -> None:
    plan = event(
        event="plan",
        steps=[{"task": "a", "component": "a", "name": "First"}, {"task": "a", "component": "a", "name": "Second"}],
    )
    _, updates = follow(plan, kfp("Executing task 'a'"), kfp("Executing task 'a'"))
    assert updates == [StepStarted("First", 1, 2), StepStarted("Second", 2, 2)]


def test_failed_step_tells_its_own_message_and_status() -> None:
    follower, updates = follow(
        PLAN, EXECUTING, event(event="error", step="Train", text="row 3 is bad", status=2), "    said", FAILED
    )
    assert updates[-1] == StepFailed("Toy Trainer", 0.0, "row 3 is bad", 2, ("    said",))
    assert follower.failed == updates[-1:]


def test_step_that_dies_without_a_word_keeps_its_last_lines_only() -> None:
    _, updates = follow(
        PLAN, EXECUTING, "    [KFP Executor] input", event(event="start", step="Train"), "    Killed", "    ", FAILED
    )
    assert updates[-1] == StepFailed("Toy Trainer", 0.0, "", 1, ("    Killed",))


def test_message_is_handed_on() -> None:
    _, updates = follow(PLAN, EXECUTING, event(event="message", text="200 rows"))
    assert updates[-1] == StepMessage("Toy Trainer", "200 rows")


def test_message_of_the_run_belongs_to_no_step() -> None:
    line = event(event="run_message", text="About 12 minutes")
    assert follow(line, PLAN, EXECUTING, line)[1][::2] == [RunMessage("About 12 minutes")] * 2


def test_error_outside_a_step_fails_the_run() -> None:
    follower, updates = follow(event(event="error", step="", text="ImportError: x", status=1))
    assert updates == follower.failed == [RunFailed("ImportError: x", 1)]


@pytest.mark.parametrize(
    "line",
    [
        "    @rlhf {not json",
        "    @rlhf []",
        "    @rlhf {}",
        event(event="progress", label="x"),
        event(event="progress", label="x", done="3", total=9, unit="step", seconds_left=None, metrics={}),
        event(event="plan", steps=[{"task": "a"}]),
    ],
)
def test_malformed_event_is_kept_as_text(line: str) -> None:
    follower, _ = follow(PLAN, EXECUTING)
    assert follower.feed(line) == (None, False)


def test_output_of_a_step_is_not_taken_for_kfps_log() -> None:
    _, updates = follow(PLAN, EXECUTING, "    " + FAILED)
    assert len(updates) == 1


def test_not_a_number_is_a_metric() -> None:
    line = event(
        event="progress", label="x", done=1, total=2, unit="step", seconds_left=None, metrics={"loss": float("nan")}
    )
    _, updates = follow(PLAN, EXECUTING, line)
    assert isinstance(updates[-1], StepProgress)
