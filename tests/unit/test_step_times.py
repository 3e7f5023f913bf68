import json
from types import SimpleNamespace

import pytest

from rlhf_tuning.reports.run_report import steps_so_far
from rlhf_tuning.step import running_step
from rlhf_tuning.step_times import STEP_TIMES, run_folder

ROOTS = {
    "local": ("/runs", ""),
    "vertex": ("gs://bucket/root/123456789", "_-8123456789012345678"),
    "kubeflow": ("minio://mlpipeline/v2/artifacts/rlhf-pipeline", "/0f8b5c1e-2d3a-4b6c-8d9e-aabbccddeeff"),
}


@pytest.fixture(params=ROOTS)
def made(request):
    """Make an artifact with the address that a backend gives it, or find it as a step that gets it does."""
    root, step_suffix = ROOTS[request.param]

    def artifact(run, step, name):
        return SimpleNamespace(uri=f"{root}/{run}/{step}{step_suffix}/{name}", metadata={"rows": 3})

    return artifact


def received(artifact):
    """Return an artifact as the next step gets it: metadata travel as JSON."""
    return SimpleNamespace(uri=artifact.uri, metadata=json.loads(json.dumps(artifact.metadata)))


def told(times):
    return [(step.name, step.seconds, step.cached) for step in steps_so_far(times)]


def test_a_step_knows_the_times_of_all_before_it_each_once_and_of_itself(made, monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    for name in ("time", "monotonic"):
        monkeypatch.setattr(f"rlhf_tuning.step_times.time.{name}", lambda: clock.now)
    prompts, model, adapter = (made("run", "step", name) for name in ("prompts", "model", "adapter"))
    with running_step("Import Prompt Dataset", outputs=[prompts]):
        clock.now += 5
    assert prompts.metadata["rows"] == 3
    with running_step("Reinforcer", inputs=[received(prompts), None], outputs=[adapter, model]):
        clock.now += 61.04
    with running_step(
        "Evaluate", inputs=[received(adapter), None, received(model)], outputs=[made("run", "e", "x")]
    ) as ours:
        clock.now += 2
        assert told(ours.times()) == [
            ("Import Prompt Dataset", 5.0, False),
            ("Reinforcer", 61.0, False),
            ("Evaluate", 2.0, False),
        ]


def test_what_an_earlier_run_had_done_is_marked_and_not_counted(made):
    cached, fresh = made("run-1", "train", "model"), made("run-2", "infer", "predictions")
    with running_step("Reinforcer", outputs=[cached]):
        pass
    with running_step("Infer", inputs=[received(cached)], outputs=[fresh]):
        pass
    inputs = [received(fresh), received(cached)]
    with running_step("Evaluate", inputs=inputs, outputs=[made("run-2", "evaluate", "report")]) as clock:
        assert told(clock.times()) == [("Reinforcer", 0.0, True), ("Infer", 0.0, False), ("Evaluate", 0.0, False)]


def test_an_artifact_without_times_is_one_of_an_older_version_and_no_error(made):
    with running_step(
        "Evaluate", inputs=[made("run", "train", "model")], outputs=[made("run", "e", "report")]
    ) as clock:
        assert [took.name for took in clock.times()] == ["Evaluate"]


def test_a_step_that_fails_hands_no_time_on(made):
    artifact = made("run", "train", "model")
    with pytest.raises(ZeroDivisionError), running_step("Reinforcer", outputs=[artifact]):
        print(1 / 0)
    assert STEP_TIMES not in artifact.metadata


def test_a_step_without_artifacts_has_no_run():
    with running_step("Validate Inputs") as clock:
        assert [took.run for took in clock.times()] == [""]


def test_a_step_s_artifacts_lie_in_the_folder_of_its_run(made):
    assert run_folder(made("run", "train", "model").uri) == run_folder(made("run", "infer", "predictions").uri)
    assert run_folder(made("run", "train", "model").uri).endswith("/run")
