import pytest

from rlhf_tuning.errors import ParameterError
from rlhf_tuning.models.architecture import SMOLLM2_135M
from rlhf_tuning.planning import budget
from rlhf_tuning.planning.forecast import (
    GB,
    Hardware,
    Plan,
    forecast,
    preference_step_seconds,
    supervised_step_seconds,
)

CPU = Hardware(name="a CPU", memory=16 * GB, flops=2e11, bandwidth=3e10, elementwise=1e10, number_bytes=4, cpu=True)
PLAN = Plan(batch_size=8, prompt_tokens=20, answer_tokens=40, reward_model_train_steps=60)


@pytest.fixture
def trainings(monkeypatch):
    monkeypatch.setattr(budget, "plan_here", lambda values: (PLAN, SMOLLM2_135M, SMOLLM2_135M, CPU))
    return budget.seconds_of_trainings({})


@pytest.mark.parametrize("training", list(budget.TRAININGS))
def test_as_many_steps_are_taken_as_fit_and_no_more(trainings, training):
    seconds = trainings[training]
    steps = budget.steps_within(900, seconds, label="this")
    assert seconds(steps) <= 900 < seconds(steps + 1)
    assert steps > 1


def test_reinforcement_learning_pays_for_its_reward_models_and_its_watch(trainings):
    found = forecast(PLAN, SMOLLM2_135M, CPU)
    before = sum(phase.hours for phase in found.phases[:-1]) * 3600
    assert trainings["reinforcement"](1) > before
    with pytest.raises(ParameterError, match=r"too small for RLHF: 0\.1 minutes, and one step with what comes before"):
        budget.steps_within(6, trainings["reinforcement"], label="RLHF")


def test_a_pair_and_its_reference_take_longer_than_one_answer_and_shorter_than_samples():
    one, pair = supervised_step_seconds(PLAN, SMOLLM2_135M, CPU), preference_step_seconds(PLAN, SMOLLM2_135M, CPU)
    assert 1.5 * one < pair < 4 * one
    assert pair < forecast(PLAN, SMOLLM2_135M, CPU).phases[-1].step_seconds
    longer = Plan(batch_size=16, prompt_tokens=20, answer_tokens=40)
    assert supervised_step_seconds(longer, SMOLLM2_135M, CPU) > 1.5 * one
