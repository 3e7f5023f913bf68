import json
from dataclasses import replace

import pytest

from rlhf_tuning.errors import ParameterError
from rlhf_tuning.models.architecture import SMOLLM2_135M
from rlhf_tuning.parameters import PARAMETERS
from rlhf_tuning.planning import budget, expectation
from rlhf_tuning.planning.forecast import GB, Hardware, Plan, forecast

CPU = Hardware(name="a CPU", memory=16 * GB, flops=2e11, bandwidth=3e10, elementwise=1e10, number_bytes=4, cpu=True)
PLAN = Plan(batch_size=8, prompt_tokens=20, answer_tokens=40, reward_model_train_steps=60, preferences=1000)


@pytest.fixture
def takes(monkeypatch):
    monkeypatch.setattr(budget, "plan_here", lambda values: (PLAN, SMOLLM2_135M, SMOLLM2_135M, CPU))
    return budget.forecast_here(vars(PLAN) | {"reward_model_train_steps": 1000, "adapter_size": 16})


@pytest.mark.parametrize("training", list(budget.TRAININGS))
def test_as_many_steps_are_taken_as_fit_and_no_more(takes, training):
    seconds = takes(training, {})
    steps = budget.steps_within(900, seconds, label="this")
    assert seconds(steps) <= 900 < seconds(steps + 1)
    assert steps > 1


def test_reinforcement_learning_pays_for_its_reward_models_and_its_watch(takes):
    found = forecast(PLAN, SMOLLM2_135M, CPU)
    before = sum(phase.hours for phase in found.phases[:-1]) * 3600
    assert takes("reinforcement", {})(1) > before
    with pytest.raises(ParameterError, match=r"too small for RLHF: 0\.1 minutes, and one step with what comes before"):
        budget.steps_within(6, takes("reinforcement", {}), label="RLHF")


def test_a_pair_and_its_reference_take_longer_than_one_answer_and_shorter_than_samples(takes):
    one, pair = (takes(training, {})(101) - takes(training, {})(1) for training in ("supervised", "preference"))
    assert one < pair < 100 * forecast(PLAN, SMOLLM2_135M, CPU).phases[-1].step_seconds


def test_a_parameter_of_one_method_counts(takes):
    assert takes("preference", {"batch_size": 16})(900) > 1.5 * takes("preference", {})(900)
    assert takes("preference", {"adapter_size": 0})(900) > takes("preference", {"lora_dim": 0})(900)
    first = takes("reinforcement", {"supervise_on_preferred": True, "supervised_train_steps": 50})(9)
    assert first == pytest.approx(takes("supervised", {})(50) + takes("reinforcement", {})(9))
    assert takes("reinforcement", {"held_out_reward_model_share": 0.0})(1) < takes("reinforcement", {})(1)


def test_preference_tuning_without_a_judge_pays_for_all_preferences_of_its_file(tiny_model, tmp_path, monkeypatch):
    row = {"prompt": "salt " * 99, "chosen": "gulls " * 99, "rejected": "bread " * 99}
    (tmp_path / "preferences.jsonl").write_text((json.dumps(row) + "\n") * 1600)
    monkeypatch.setattr(expectation, "measure_here", lambda *_: CPU)
    values = {name: parameter.default for name, parameter in PARAMETERS.items()} | {
        "large_model_reference": str(tiny_model),
        "preference_dataset": str(tmp_path / "preferences.jsonl"),
        "prompt_dataset": str(tmp_path / "preferences.jsonl"),
    }
    plan, model, reward_base, _ = expectation.plan_here(values)
    judged = {"held_out_reward_model_share": 0.0}
    alone = Plan.of_preference_tuning(values | judged, plan.preferences)
    alone = replace(alone, prompt_tokens=plan.prompt_tokens, answer_tokens=plan.answer_tokens)
    found = forecast(alone, model, CPU, reward_base=reward_base)
    beside = sum(hours for name, hours in found.hours.items() if name not in ("evaluation", "start-up"))
    seconds = 3600 * (found.phases[0].hours + beside)
    assert alone.preference_train_steps == pytest.approx(1600 * 0.9 / 64, abs=1.5)
    assert budget.forecast_here(values)("preference", judged)(alone.preference_train_steps) == pytest.approx(seconds)
