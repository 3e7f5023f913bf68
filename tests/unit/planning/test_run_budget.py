import json
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest

from rlhf_tuning.accelerators import GPUS
from rlhf_tuning.errors import ParameterError
from rlhf_tuning.models.architecture import LLAMA_8B, SMOLLM2_135M
from rlhf_tuning.parameters import PARAMETERS
from rlhf_tuning.planning import run_budget
from rlhf_tuning.planning.forecast import GB, Hardware, Plan, gpu_hardware
from rlhf_tuning.planning.run_budget import (
    RunBudget,
    StepBudget,
    check_budget,
    check_run,
    keep_outcome,
    kept_back,
    of_plan,
    step_budget,
    stopped_in,
)
from rlhf_tuning.step import running_step

CPU = Hardware(
    name="a CPU", memory=16 * GB, flops=2e11, bandwidth=3e10, elementwise=1e10, number_bytes=4, cpu=True, measured=True
)
PLAN = Plan(
    batch_size=8,
    prompt_tokens=20,
    answer_tokens=40,
    reward_model_train_steps=60,
    reinforcement_learning_train_steps=100,
    preferences=1000,
)
DEFAULTS = {name: parameter.default for name, parameter in PARAMETERS.items()} | {"dataset_uri": ""}
STEPS = ("Reward Model Trainer", "Held-out Reward Model Trainer", "Reinforcer")


def budget(hours, plan=PLAN, **values):
    return of_plan(DEFAULTS | {"max_hours": hours} | values, plan, SMOLLM2_135M, SMOLLM2_135M)


def needed(plan=PLAN, hardware=CPU):
    return budget(1.0, plan).forecast(hardware).all_hours


def step(name, hours, *, spent=0.0, known=(), plan=PLAN):
    run = budget(hours, plan)
    found = StepBudget(run=run, step=name, began=0.0, spent=spent, known=known)
    return found.seconds(run.forecast(CPU))


def refused(found, hardware=CPU):
    with pytest.raises(ParameterError) as caught:
        check_budget(found, hardware)
    return str(caught.value)


def flags(message, *names):
    """Return what a refusal names of these flags, as one change."""
    pattern = " ".join(f"--{name.replace('_', '-')} ([0-9.]+)" for name in names)
    found = re.search(f"(?:: |; ){pattern}(?:;|\\.$)", message)
    return {name: float(value) for name, value in zip(names, found.groups(), strict=True)} if found else None


def test_a_cost_is_hours_at_its_price_and_the_smaller_of_both_limits_counts():
    assert budget(0.0, max_cost=12.0, price_per_hour=4.0).hours == 3
    assert budget(2.0, max_cost=12.0, price_per_hour=4.0).hours == 2
    assert str(budget(4.0, max_cost=12.0, price_per_hour=4.0)) == "12.00 at 4 an hour, 3 h 00 min"
    assert str(budget(2.0, max_cost=12.0, price_per_hour=4.0)) == "2 h 00 min"
    with pytest.raises(ParameterError, match="max_cost is given, and no price_per_hour"):
        budget(0.0, max_cost=12.0)


def test_it_is_the_same_after_it_was_handed_on():
    found = budget(2.0, max_cost=12.0, price_per_hour=4.0)
    assert RunBudget.from_text(found.as_text()) == found
    assert found.as_text() == RunBudget.from_text(found.as_text()).as_text()


def test_without_a_limit_there_is_none_and_no_data_is_read():
    assert check_run(DEFAULTS) == ""


def test_a_run_within_the_error_of_its_forecast_is_begun():
    check_budget(budget(0.71 * needed()), CPU)
    refused(budget(0.69 * needed()))
    gpu = gpu_hardware("l4", GPUS["l4"], 1)
    check_budget(budget(0.51 * needed(hardware=gpu)), gpu)
    refused(budget(0.49 * needed(hardware=gpu)), gpu)


def test_what_would_fit_does_and_one_step_more_does_not():
    hours = 0.6 * needed()
    message = refused(budget(hours))
    assert f"this run is forecast to take {run_budget.told_hours(needed())} on a CPU" in message
    last = flags(message, "reinforcement_learning_train_steps")
    both = flags(message, "reward_model_train_steps", "reinforcement_learning_train_steps")
    assert both["reinforcement_learning_train_steps"] > last["reinforcement_learning_train_steps"] > 1
    for change in (last, both):
        steps = {name: int(value) for name, value in change.items()}
        assert needed(replace(PLAN, **steps)) <= hours
        assert needed(replace(PLAN, **{name: value + 2 for name, value in steps.items()})) > hours
    assert needed() <= flags(message, "max_hours")["max_hours"] < 1.12 * needed()
    assert "--train-until-budget, to train for as long as it lasts" in message
    assert "--machine" not in message


def test_other_names_of_steps_are_those_of_the_pipeline():
    alone = replace(
        PLAN, reward_model_train_steps=0, reinforcement_learning_train_steps=0, held_out_reward_model_share=0
    )
    supervised = replace(alone, supervised_train_steps=300, watch_prompts=0)
    found = budget(0.5 * needed(supervised), supervised, dataset_uri="rows.jsonl")
    assert 1 < flags(refused(found), "train_steps")["train_steps"] < 150
    preference = replace(alone, preference_train_steps=300)
    found = budget(0.5 * needed(preference), preference, epoch_count=3.0)
    assert 0.1 < flags(refused(found), "epoch_count")["epoch_count"] < 1.5


def test_a_machine_is_named_that_is_cheap_enough_by_the_list():
    slow = gpu_hardware("l4", GPUS["l4"], 1)
    values = {"max_hours": 1.0, "max_cost": 1000.0, "price_per_hour": 1.0004, "location": "us-central1"}
    long = replace(PLAN, batch_size=64, reward_model_train_steps=600, reinforcement_learning_train_steps=1000)
    large = of_plan(DEFAULTS | values, long, LLAMA_8B, LLAMA_8B)
    hours = large.forecast(slow).all_hours
    found = replace(large, max_hours=0.45 * hours, max_cost=1.5 * hours)
    message = refused(found, slow)
    kind, price = re.search(r"--machine (\S+) --price-per-hour ([0-9.]+)", message).groups()
    assert kind.startswith(("l4", "a100", "h100"))
    assert float(price) > 1.0004
    assert "--machine" not in refused(replace(found, location="nowhere"), slow)


def test_a_run_that_is_to_train_until_its_budget_needs_time_for_one_step_of_each():
    asked = {"train_until_budget": True}
    check_budget(budget(needed() / 3, **asked), CPU)
    least = replace(PLAN, reward_model_train_steps=1, reinforcement_learning_train_steps=1)
    message = refused(budget(0.6 * needed(least), **asked))
    [hours] = re.findall(r"--max-hours ([0-9.]+), for a single step of each training", message)
    assert needed(least) <= float(hours) < 1.1 * needed(least)
    assert "--train-until-budget" not in message


def test_what_is_left_is_shared_by_what_is_not_done_and_enough_is_kept_back():
    for hours in (needed() / 3, needed(), 10 * needed()):
        found = budget(hours).forecast(CPU)
        start = kept_back(found) - kept_back(found, started=1)
        assert start == pytest.approx(1.3 * 3600 * found.start_hours)
        shares = [step(name, hours) - start for name in STEPS]
        assert sum(shares) == pytest.approx(3600 * hours - kept_back(found))
        # Fewer steps, and scores that are centred as long.
        assert 3 > shares[0] / shares[1] > 1.5
        # One after the other, each of which takes all that it may.
        spent, known = 0.0, []
        for name in STEPS:
            spent += step(name, hours, spent=spent, known=known)
            known.append(name)
        assert spent == pytest.approx(3600 * hours - kept_back(found, started=3))


def test_what_one_step_leaves_over_goes_to_those_after_it():
    all_of_it = step("Reinforcer", needed(), spent=100.0, known=STEPS[:2])
    assert all_of_it == pytest.approx(step("Reinforcer", needed(), known=STEPS[:2]) - 100)
    # What was taken from an earlier run is known, and took nothing.
    assert all_of_it > step("Reinforcer", needed(), spent=100.0, known=STEPS[:1])


def test_a_budget_that_is_used_up_leaves_nothing():
    assert step("Reinforcer", 0.01, spent=1e6, known=STEPS[:2]) == 0


def test_the_time_before_a_step_is_that_of_this_run_and_what_an_attempt_before_took(tmp_path):
    def artifact(run, name):
        return SimpleNamespace(uri=f"/runs/{run}/step/{name}", metadata={})

    def made(run, name, seconds, earlier=0.0):
        found = artifact(run, "model")
        with running_step(name, outputs=[found]) as clock:
            clock.started -= seconds
            clock.earlier = earlier
        return found

    inputs = [made("2", "Reward Model Trainer", 50, earlier=30), made("1", "Held-out Reward Model Trainer", 70)]
    with running_step("Reinforcer", inputs=inputs, outputs=[artifact("2", "adapter")]) as clock:
        assert step_budget("", clock) == ""
        found = StepBudget.from_text(step_budget(budget(2.0).as_text(), clock))
    assert found.run == budget(2.0)
    assert found.spent == pytest.approx(80, abs=0.5)
    assert set(found.known) == set(STEPS[:2])
    assert not found.is_first


def test_what_a_budget_ended_is_found_beside_what_was_trained(tmp_path):
    for name, reason in (("reward", "It ended the reward model."), ("adapter", ""), ("nothing", None)):
        (tmp_path / name).mkdir()
        if reason is not None:
            keep_outcome(tmp_path / name, reason)
    folders = [str(tmp_path / name) for name in ("reward", "adapter", "nothing")]
    assert stopped_in("", *folders) == ["It ended the reward model."]
    assert json.loads((tmp_path / "adapter" / "budget.json").read_text()) == {"reason": ""}
