import math

import pytest

from rlhf_tuning.errors import ParameterError
from rlhf_tuning.limits import check_context, check_limits, problem_with
from rlhf_tuning.parameters import PARAMETERS


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("reward_model_train_steps", 0),
        ("reward_model_train_steps", -1),
        ("prompt_sequence_length", 8193),
        ("target_sequence_length", 1025),
        ("kl_coeff", -0.01),
        ("reinforcement_learning_rate_multiplier", 0),
        ("num_generations", 1),
        ("lora_dim", -1),
        ("kl_coeff", math.nan),
        ("kl_coeff", math.inf),
        ("batch_size", True),
        ("batch_size", "8"),
        ("rl_algorithm", "ppo"),
        ("dtype", "float16"),
        ("scorer", "vibes"),
        ("accelerator_type", "TPU"),
        ("enable_checkpoint_selection", "maybe"),
        ("tuning_method", "distillation"),
    ],
)
def test_a_value_beyond_its_limit_is_named_with_what_is_accepted(name, value):
    problem = problem_with(name, value)
    assert name in problem
    assert str(value) in problem
    assert "must be" in problem or "Use 'GPU'" in problem


def test_of_the_old_supervised_job_defaults_are_taken_and_a_context_length_is_answered_with_what_says_so_here():
    assert "prompt_sequence_length and target_sequence_length" in problem_with("max_context_length", "8k")
    assert problem_with("max_context_length", "") == ""
    assert problem_with("accelerator_type", "") == ""


@pytest.mark.parametrize("name", [name for name, parameter in PARAMETERS.items() if parameter.limit])
def test_the_lowest_allowed_value_is_allowed(name):
    limit = PARAMETERS[name].limit
    lowest = limit.low + 1e-6 if limit.open_low else limit.low
    assert problem_with(name, lowest) == ""


@pytest.mark.parametrize("project", ["p", "123456789012", "a.b:c"])
@pytest.mark.parametrize("version", ["", "/versions/latest", "/versions/12"])
def test_names_of_secrets_pass(project, version):
    assert problem_with("judge_key_secret", f"projects/{project}/secrets/A_b-1{version}") == ""
    assert problem_with("judge_key_secret", "") == ""


def test_every_problem_is_named_at_once():
    with pytest.raises(ParameterError) as caught:
        check_limits(batch_size=0, kl_coeff=-1.0, seed=3)
    assert "batch_size" in str(caught.value)
    assert "kl_coeff" in str(caught.value)
    assert "seed" not in str(caught.value)


def test_texts_may_fill_a_model_s_positions_but_for_the_token_that_ends_them():
    check_context(100, prompt_sequence_length=90, target_sequence_length=9)
    check_context(0, prompt_sequence_length=8192, target_sequence_length=1024)
    with pytest.raises(ParameterError, match="than the 100 positions of palms/tiny"):
        check_context(100, prompt_sequence_length=90, target_sequence_length=10, model="palms/tiny")
