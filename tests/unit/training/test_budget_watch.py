"""A training that its budget ends, on tiny real models."""

import json
import shutil
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from process_phases import train_policy, train_supervised, write_data
from safetensors.torch import load_file
from stopped_trainings import prepare, train

from rlhf_tuning import environment
from rlhf_tuning.errors import ModelError, ParameterError
from rlhf_tuning.models.architecture import SMOLLM2_135M
from rlhf_tuning.models.start_model import keep_record
from rlhf_tuning.parameters import PARAMETERS
from rlhf_tuning.planning.forecast import GB, Hardware, Plan
from rlhf_tuning.planning.run_budget import StepBudget, keep_outcome, kept_back, of_plan
from rlhf_tuning.training import budget_watch, checkpoints, reinforcement, reward_model, tuning
from rlhf_tuning.training.budget_watch import BudgetWatch

CPU = Hardware(
    name="a CPU", memory=16 * GB, flops=2e11, bandwidth=3e10, elementwise=1e10, number_bytes=4, cpu=True, measured=True
)
PLAN = Plan(batch_size=8, prompt_tokens=20, answer_tokens=40, reward_model_train_steps=60, preferences=1000)
REWARD_MODELS = ("Reward Model Trainer", "Held-out Reward Model Trainer")
DEFAULTS = {name: parameter.default for name, parameter in PARAMETERS.items()}
#: What beside the weights each leaves, with what looked at it last.
LEFT = {
    "supervised": ("supervised/adapter", "held_out_loss.json"),
    "reward model": ("reward", "held_out_loss.json"),
    "held-out reward model": ("reward", ""),  # of too few preferences to set any aside
    "preferences": ("tuned/adapter", "held_out_loss.json"),
    "feedback": ("tuned/adapter", "held_out_loss.json"),
    "rloo": ("rl/adapter", "watch.json"),
}


def told(hours, *, name="Reinforcer", spent=0.0, known=REWARD_MODELS, checked=False):
    run = of_plan(DEFAULTS | {"max_hours": hours}, PLAN, SMOLLM2_135M, SMOLLM2_135M)
    run = replace(run, checked=checked)
    return StepBudget(run=run, step=name, began=1000.0, spent=spent, known=known)


@pytest.fixture
def clock(monkeypatch):
    """What time it is, on a machine of known speed."""
    found = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(budget_watch.time, "time", lambda: found.now)
    monkeypatch.setattr(budget_watch, "measure_here", lambda *_: CPU)
    return found


@pytest.fixture
def watch(clock, monkeypatch):
    """A watch over a training, with so many seconds for it."""

    def make(seconds, *, before=0.0):
        made = BudgetWatch("", dtype="float32", label="the training")
        made._budget, made._ends = told(2.0), lambda: 1000.0 + seconds
        clock.now = 1000.0
        made.load_state_dict({"seconds": before, "reason": "", "steps": [], "between": 0.0})
        made.on_train_begin(None, None, SimpleNamespace())
        return made

    return make


def steps(watch, clock, lengths, *, between=0.0):
    """Return how many of these steps are taken."""
    control = SimpleNamespace(should_training_stop=False)
    for number, seconds in enumerate(lengths, start=1):
        clock.now += between
        watch.on_step_begin(None, None, control)
        clock.now += seconds
        watch.on_step_end(None, SimpleNamespace(global_step=number, max_steps=len(lengths)), control)
        if control.should_training_stop:
            return number
    return len(lengths)


def test_no_step_is_begun_that_would_not_be_done_in_time(watch, clock):
    training = watch(35)
    assert steps(training, clock, [10] * 9) == 3
    assert training.reason.startswith("The budget, 2 h 00 min, ended the training at step 3 of 9: ")


def test_what_is_done_between_two_steps_counts_and_the_longest_of_some_steps(watch, clock):
    assert steps(watch(35), clock, [10] * 9, between=5) == 2
    # The first, which warms up, is soon forgotten.
    assert steps(watch(59), clock, [20, *[1] * 50]) == 40
    assert steps(watch(59), clock, [20, *[1] * 5, 20, 20]) == 7


def test_one_step_is_taken_in_any_case_and_all_where_there_is_time(watch, clock):
    assert steps(watch(-100), clock, [10] * 9) == 1
    enough = watch(1000)
    assert steps(enough, clock, [10] * 9) == 9
    assert not enough.stopped


def test_what_a_training_took_before_it_was_stopped_counts(watch, clock):
    assert steps(watch(75, before=40), clock, [10] * 9) == 3
    training = watch(75)
    steps(training, clock, [10] * 9, between=1)
    assert training.state_dict() == {"seconds": 66.0, "reason": training.reason, "steps": [10.0] * 6, "between": 1.0}


@pytest.mark.parametrize(("seconds", "stays"), [(75, True), (76, True), (77, False)])
def test_a_training_that_was_ended_stays_so_unless_there_is_time_for_a_step_now(watch, clock, seconds, stays):
    ended = {"seconds": 66.0, "reason": "It was ended.", "steps": [10.0] * 6, "between": 1.0}
    again, control = watch(seconds), SimpleNamespace()
    again.load_state_dict(ended)
    again.on_train_begin(None, None, control)
    assert control.should_training_stop == again.stopped == stays


def test_a_training_whose_budget_is_gone_goes_on(clock):
    again, control = BudgetWatch("", dtype="float32", label="the training"), SimpleNamespace()
    again.load_state_dict({"seconds": 66.0, "reason": "It was ended.", "steps": [10.0], "between": 1.0})
    again.on_train_begin(None, None, control)
    assert not control.should_training_stop


def test_without_a_budget_nothing_is_measured_stopped_or_left(clock, tmp_path):
    training = BudgetWatch("", dtype="float32", label="the training")
    assert steps(training, clock, [1e9] * 9) == 9
    assert training.finish(tmp_path) == {}
    assert not list(tmp_path.iterdir())


def text_of(budget):
    run = json.loads(budget.run.as_text())
    return json.dumps(vars(budget) | {"run": run, "known": list(budget.known)})


def test_the_end_is_that_of_the_steps_share_before_what_comes_after_it(clock, capsys):
    budget = told(2.0, spent=600.0)
    found = budget.run.forecast(CPU)
    training = BudgetWatch(text_of(budget), dtype="float32", label="reinforcement learning")
    left = 2 * 3600 - 600 - kept_back(found, started=3)
    assert training._ends() == pytest.approx(1000 + left)
    clock.now += 30
    training.on_train_begin(None, None, SimpleNamespace())
    assert training._ends() == pytest.approx(1000 + left - 30)  # to save takes as long as to load did
    clock.now += 3000
    rewarded = told(2.0, name="Reward Model Trainer", known=[], checked=True)
    training = BudgetWatch(text_of(rewarded), dtype="float32", label="the reward model")
    centring = 3600 * found.hours["centring of scores"] / len(REWARD_MODELS)
    assert 1000 + rewarded.seconds(found) - training._ends() == pytest.approx(1.3 * centring)
    assert "Budget: 2 h 00 min; steps before this one took 10 min 00 s" in capsys.readouterr().out


def test_where_steps_take_longer_than_forecast_more_is_kept_back_for_what_comes_after(clock):
    budget = told(20.0)
    found = budget.run.forecast(CPU)
    training = BudgetWatch(text_of(budget), dtype="float32", label="reinforcement learning")
    training.on_train_begin(None, None, SimpleNamespace())
    ends, forecast = training._ends(), budget.step_seconds(found)
    steps(training, clock, [0.5 * forecast] * 9)
    assert training._ends() == ends
    steps(training, clock, [3 * forecast] * 3)  # so few are no measure
    assert training._ends() == ends
    steps(training, clock, [3 * forecast] * 3)
    evaluation = kept_back(found, 3.0) - kept_back(found)
    assert training._ends() == pytest.approx(ends - evaluation)
    assert evaluation == pytest.approx(1.3 * 2 * 3600 * found.hours["evaluation"])


@pytest.mark.slow
def test_two_processes_end_at_the_same_step(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "PROCESSES", "2")
    write_data(tmp_path)
    plan = Plan(supervised_train_steps=100, reward_model_train_steps=0, reinforcement_learning_train_steps=0)
    run = of_plan(DEFAULTS | {"max_hours": 1e-6}, plan, SMOLLM2_135M, SMOLLM2_135M)
    budget = StepBudget(run=replace(run, checked=True), step="Supervised Trainer", began=0.0, spent=0.0, known=[])
    found = train_supervised(tiny_model, tmp_path, budget=text_of(budget), train_steps=100)
    assert found["stopped_by_budget"] == found["steps"] == 1


def test_the_first_training_refuses_what_nobody_could_forecast_before(clock):
    with pytest.raises(ParameterError, match="this run is forecast to take"):
        BudgetWatch(text_of(told(0.01, known=[])), dtype="float32", label="the reward model")
    BudgetWatch(text_of(told(0.01)), dtype="float32", label="reinforcement learning")
    BudgetWatch(text_of(told(0.01, known=[], checked=True)), dtype="float32", label="the reward model")


@pytest.fixture(scope="module")
def prepared(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    prepare(tiny_model, folder)
    return folder


def with_time(ends):
    """Return what makes a watch with time until then."""

    def make(budget, **given):
        made = BudgetWatch(budget, **given)
        made._budget, made._ends = told(2.0), lambda: ends
        return made

    return make


@pytest.mark.parametrize("kind", LEFT)
def test_every_training_that_is_ended_looks_once_more_and_leaves_its_model(
    kind, tiny_model, prepared, tmp_path, monkeypatch
):
    for module in (reinforcement, reward_model, tuning):
        monkeypatch.setattr(module, "BudgetWatch", with_time(0.0))
    train(kind, tiny_model, prepared, tmp_path / "run", None)
    folder, looked = LEFT[kind]
    left = tmp_path / "run" / folder
    assert "at step 1 of " in json.loads((left / "budget.json").read_text())["reason"]
    assert len((left / "metrics.jsonl").read_text().splitlines()) == 1
    assert not looked or json.loads((left / looked).read_text())["last_step"] == 1
    assert list(left.glob("*adapter_model.safetensors"))


def test_a_training_that_was_ended_and_not_saved_goes_on_with_a_larger_budget_alone(
    tiny_model, prepared, tmp_path, monkeypatch, capsys
):
    def fail(*given, **settings):
        raise ModelError("The step fails.")

    def train_until(ends, name):
        """Return what was said, how many steps were taken, and what the budget did."""
        monkeypatch.setattr(reward_model, "BudgetWatch", with_time(ends))
        train("reward model", tiny_model, prepared, tmp_path / name, tmp_path / f"kept-{name}")
        left = tmp_path / name / "reward"
        reason = json.loads((left / "budget.json").read_text())["reason"]
        return capsys.readouterr().out, len((left / "metrics.jsonl").read_text().splitlines()), reason

    monkeypatch.setattr(checkpoints, "_SAVING_SHARE", 0)
    with monkeypatch.context() as patch:
        patch.setattr(BudgetWatch, "on_train_end", fail)
        with pytest.raises(ModelError, match="The step fails"):
            train_until(0.0, "same")
    shutil.copytree(tmp_path / "kept-same", tmp_path / "kept-larger")
    said, steps, reason = train_until(0.0, "same")
    assert "goes on behind its last step" in said
    assert (steps, "at step 1 of 6" in reason) == (1, True)
    said, steps, reason = train_until(1e12, "larger")
    assert "goes on behind step 1 of 6" in said
    assert (steps, reason) == (6, "")


def test_a_reward_model_that_was_ended_too_early_leaves_the_supervised_model_or_nothing(
    clock, tiny_model, prepared, tmp_path, capsys
):
    write_data(tmp_path)
    reward = shutil.copytree(prepared / "reward", tmp_path / "reward")
    measured = {"n": 40, "accuracy": 0.55, "accuracy_low": 0.4, "accuracy_high": 0.69}
    (reward / "evaluation.json").write_text(json.dumps(measured))
    keep_outcome(reward, "The budget, 90 s, ended the reward model at step 2 of 1,000.")
    tune = partial(train_policy, folder=tmp_path, name="rl", budget=text_of(told(2.0)), min_reward_model_accuracy=0.5)
    words = (
        "^The budget, 90 s, ended the reward model at step 2 of 1,000. The reward model agrees with people on 55.0% "
    )
    with pytest.raises(ModelError, match=words):
        tune(tiny_model)
    start = shutil.copytree(tiny_model, tmp_path / "start")
    keep_record(start, adapter_dir=reward, made_from={})
    assert tune(start) == {"stopped_by_budget": 1.0, "seconds_before": 0.0}
    assert "so the supervised model is returned as it is" in capsys.readouterr().out
    assert "agrees with people on 55.0%" in json.loads((tmp_path / "rl/adapter/budget.json").read_text())["reason"]
    (returned, began) = (load_file(folder / "model.safetensors") for folder in (tmp_path / "rl/model", start))
    assert all(torch.equal(returned[name], weight) for name, weight in began.items())
