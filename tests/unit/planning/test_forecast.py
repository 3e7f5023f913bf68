from dataclasses import replace
from itertools import pairwise

import pytest

from rlhf_tuning.accelerators import GPUS
from rlhf_tuning.errors import ParameterError
from rlhf_tuning.models.architecture import LLAMA_1B, LLAMA_8B, LLAMA_70B, SMOLLM2_135M
from rlhf_tuning.planning.forecast import GB, Forecast, Hardware, Plan, alternatives, forecast, gpu_hardware

CPU = Hardware(name="a CPU", memory=16 * GB, flops=4e11, bandwidth=3e10, elementwise=1e10, cpu=True, measured=True)
A100 = gpu_hardware("a100-80gb", GPUS["a100-80gb"], 1)
EIGHT = gpu_hardware("a100-80gb", GPUS["a100-80gb"], 8)
PLAN = Plan(batch_size=16)


def peaks(found: Forecast) -> list[float]:
    return [phase.peak[1] for phase in found.phases]


def times(found: Forecast) -> list[float]:
    return [phase.step_seconds for phase in found.phases]


@pytest.mark.parametrize("hardware", [CPU, A100, EIGHT], ids=lambda hardware: hardware.name)
@pytest.mark.parametrize("lora_dim", [16, 0])
@pytest.mark.parametrize(
    ("change", "phases"),
    [
        ({"prompt_sequence_length": 2048}, (0, -1)),
        ({"target_sequence_length": 256}, (0, -1)),
        ({"num_generations": 16}, (-1,)),
        ({"batch_size": 64}, (0, -1)),
    ],
)
def test_more_to_do_takes_no_less_memory_and_more_time(hardware, lora_dim, change, phases):
    plan = replace(PLAN, lora_dim=lora_dim, reward_lora_dim=lora_dim)
    less, more = forecast(plan, LLAMA_1B, hardware), forecast(replace(plan, **change), LLAMA_1B, hardware)
    for phase in phases:
        assert times(more)[phase] > times(less)[phase]
        assert peaks(more)[phase] >= peaks(less)[phase]
    assert more.all_hours > less.all_hours


@pytest.mark.parametrize("hardware", [CPU, A100, EIGHT], ids=lambda hardware: hardware.name)
def test_a_larger_model_takes_more_of_all(hardware):
    # Small batches would not do: what calling a layer costs is then most of it, and SmolLM2 has more layers.
    found = [forecast(Plan(batch_size=128), model, hardware) for model in (SMOLLM2_135M, LLAMA_1B, LLAMA_8B)]
    for small, large in pairwise(found):
        assert all(a < b for a, b in zip(peaks(small) + times(small), peaks(large) + times(large), strict=True))


def test_memory_of_full_fine_tuning_is_what_float32_with_adam_takes():
    plan = replace(PLAN, lora_dim=0, reward_lora_dim=0, kl_coeff=0.0, max_kl=0.0, held_out_reward_model_share=0.0)
    memory = forecast(plan, LLAMA_1B, A100).phases[-1].memory["training"]
    # Weights, gradients and both moments of the policy, and the reward model's weights: 20 bytes each.
    assert memory > 20 * LLAMA_1B.parameters
    assert memory < 27 * LLAMA_1B.parameters


def test_a_reference_of_its_own_is_held_where_all_weights_learn():
    plan = replace(PLAN, lora_dim=0, reward_lora_dim=0)
    without = forecast(replace(plan, kl_coeff=0.0, max_kl=0.0), LLAMA_1B, A100).phases[-1]
    beside = forecast(plan, LLAMA_1B, A100).phases[-1]
    assert beside.memory["training"] - without.memory["training"] == pytest.approx(4 * LLAMA_1B.parameters)
    assert without.seconds["reference"] == 0 < beside.seconds["reference"]


def test_a_reward_model_of_another_base_is_held_beside():
    shared = forecast(PLAN, LLAMA_8B, A100).phases[-1].memory["training"]
    apart = forecast(PLAN, LLAMA_8B, A100, reward_base=LLAMA_1B).phases[-1].memory["training"]
    one = (LLAMA_1B.linear + LLAMA_1B.embedding) * 2
    assert apart - shared == pytest.approx(2 * one - 2 * 4 * LLAMA_8B.adapter(16))


def test_the_buffer_of_keys_and_values_is_as_large_as_its_numbers():
    short, long = (
        forecast(replace(PLAN, target_sequence_length=tokens, batch_size=8), LLAMA_8B, A100)
        .phases[-1]
        .memory["rollout"]
        for tokens in (64, 65)
    )
    # 32 layers of 8 heads of 128 numbers of 2 bytes, twice, for each of 32 answers.
    assert long - short == 32 * (2 * 32 * 8 * 128 * 2)


def test_layers_are_divided_only_where_they_leave_each_gpu_too_little():
    assert not forecast(PLAN, LLAMA_8B, EIGHT).sharded
    large = forecast(PLAN, LLAMA_70B, EIGHT)
    assert large.sharded
    assert large.fits
    assert not forecast(PLAN, LLAMA_70B, A100).fits
    # An eighth of the layers, and the embedding and the output head.
    beside = LLAMA_70B.parameters - LLAMA_70B.linear
    assert large.peak > 2 * (LLAMA_70B.linear / 8 + beside)
    # With all else that there is, less than half of the weights.
    assert large.peak < LLAMA_70B.parameters


def test_weights_that_all_learn_are_divided_with_what_they_need_beside_them():
    plan = replace(PLAN, lora_dim=0, reward_lora_dim=0, kl_coeff=0.0, max_kl=0.0, held_out_reward_model_share=0.0)
    found = forecast(plan, LLAMA_8B, EIGHT)
    assert found.sharded
    assert found.fits
    assert not forecast(plan, LLAMA_8B, A100).fits
    # Weights, gradients, both moments and the reward model's weights: an eighth of the layers' and the rest's whole.
    beside = LLAMA_8B.parameters - LLAMA_8B.linear
    held = 16 * (LLAMA_8B.linear / 8 + beside) + 4 * (LLAMA_8B.linear / 8 + LLAMA_8B.embedding)
    memory = found.phases[-1].memory["training"]
    assert held < memory < 1.5 * held
    # A copy to measure KL against is divided too.
    with_reference = forecast(replace(plan, kl_coeff=0.1), LLAMA_8B, EIGHT).phases[-1].memory["training"]
    two_layers = 2 * 2 * LLAMA_8B.linear / LLAMA_8B.layers
    assert with_reference - memory == pytest.approx(4 * (LLAMA_8B.linear / 8 + beside) + two_layers)


def test_all_weights_of_a_model_that_one_gpu_can_tune_are_not_divided():
    assert not forecast(replace(PLAN, lora_dim=0, reward_lora_dim=0), LLAMA_1B, EIGHT).sharded


def test_eight_gpus_divide_the_batch():
    one, eight = (forecast(Plan(), LLAMA_1B, hardware) for hardware in (A100, EIGHT))
    assert times(one)[0] / 8 < times(eight)[0] < times(one)[0] / 5


def test_hours_are_steps_times_seconds_and_what_comes_beside():
    found = forecast(Plan(reward_model_train_steps=300, held_out_reward_model_share=0.25), LLAMA_1B, A100)
    assert [phase.steps for phase in found.phases] == [300, 100, 1000]
    assert set(found.hours) == {"validation of reward models", "centring of scores", "watch", "evaluation", "start-up"}
    steps = sum(phase.steps * phase.step_seconds for phase in found.phases) / 3600
    assert found.all_hours == pytest.approx(steps + sum(found.hours.values()))


def test_the_validation_of_the_reward_model_is_counted_by_how_many_preferences_there_are():
    unknown, few, many = (forecast(Plan(preferences=n), LLAMA_1B, A100) for n in (0, 200, 200_000))
    name = "validation of reward models"
    assert name not in few.hours
    assert 0 < many.hours[name] < 0.03 * unknown.hours[name]
    # Four times an epoch a ninth as many as are learnt from, a forward pass beside three and checkpointing's.
    assert 0.05 < unknown.hours[name] / (unknown.phases[0].hours + unknown.phases[1].hours) < 0.15


def test_without_held_out_reward_model_and_watch_there_is_nothing_for_them():
    found = forecast(Plan(held_out_reward_model_share=0.0, watch_prompts=0), LLAMA_1B, A100)
    assert [phase.name for phase in found.phases] == ["reward model", "reinforcement learning"]
    assert "watch" not in found.hours


def test_shorter_texts_than_the_limits_take_less_time_and_as_much_memory():
    limits = forecast(Plan(), LLAMA_1B, A100)
    short = forecast(Plan(prompt_tokens=100, answer_tokens=30), LLAMA_1B, A100)
    assert short.all_hours < limits.all_hours / 2
    assert peaks(short) == peaks(limits)


@pytest.mark.parametrize("name", ["prompt_tokens", "answer_tokens"])
def test_refuses_mean_lengths_beyond_the_limits(name):
    with pytest.raises(ParameterError, match=f"{name} is 600; it must be between 1 and the limit"):
        Plan(**{name: 600})


def test_alternatives_are_changes_that_fit():
    plan = replace(PLAN, lora_dim=0, reward_lora_dim=0)
    found = alternatives(plan, LLAMA_8B, A100)
    assert found == ["--lora-dim 16 --reward-lora-dim 16", "--machine a100-80gb-x8"]
    assert not forecast(plan, LLAMA_8B, A100).fits
    assert forecast(replace(plan, lora_dim=16, reward_lora_dim=16), LLAMA_8B, A100).fits
    assert forecast(plan, LLAMA_8B, EIGHT).fits


def test_answers_that_a_gpu_cannot_decode_together_it_decodes_in_turns():
    plan = Plan(batch_size=512, num_generations=2)
    together = forecast(replace(plan, batch_size=64), LLAMA_8B, A100).phases[-1].memory["rollout"]
    assert together < forecast(plan, LLAMA_8B, A100).phases[-1].memory["rollout"] < A100.memory
    assert forecast(plan, LLAMA_8B, A100).fits


def test_float32_takes_the_gpu_s_float32_speed():
    assert gpu_hardware("h100", GPUS["h100"], 1, dtype="float32").flops == pytest.approx(0.4 * 67e12)
    assert gpu_hardware("h100", GPUS["h100"], 1).flops == pytest.approx(0.4 * 989e12)


def test_constants_are_those_of_the_code_that_runs():
    from rlhf_tuning.generation import generate, rollout
    from rlhf_tuning.ops import lanes, log_probabilities
    from rlhf_tuning.planning.forecast import (
        ANSWERED_TOGETHER,
        HEAD_POSITIONS,
        HEAD_TOKENS,
        LANES,
        PREFILL_TOKENS,
        ROWS_TOGETHER,
        SAMPLING_SHARE,
        VALIDATIONS,
        micro_batch,
    )
    from rlhf_tuning.training import over_optimisation, reward_model, training_log
    from rlhf_tuning.training.reward_model import RewardModelConfig

    assert {True: rollout.ROWS_TOGETHER["cpu"], False: rollout.ROWS_TOGETHER["cuda"]} == ROWS_TOGETHER
    assert (rollout._COUNTED_ON, rollout._PREFILL_TOKENS) == (SAMPLING_SHARE, PREFILL_TOKENS)
    assert (HEAD_POSITIONS, HEAD_TOKENS) == (log_probabilities.HEAD_POSITIONS, log_probabilities._HEAD_TOKENS)
    assert (lanes._LANES, reward_model._LOOKS_AN_EPOCH) == (LANES, VALIDATIONS)
    assert {True: generate.TOGETHER["cpu"], False: generate.TOGETHER["cuda"]} == ANSWERED_TOGETHER
    for size in (1, 6, 7, 64):
        assert micro_batch(size, 8) == training_log.micro_batch(size, 8)
    for steps, interval in ((1000, 0), (1000, 7), (5, 0), (24, 8)):
        plan = Plan(reinforcement_learning_train_steps=steps, watch_interval=interval)
        assert plan.looks == len(over_optimisation.look_steps(steps, interval))
    config = RewardModelConfig(large_model_reference="", held_out=True, held_out_reward_model_share=0.25)
    assert Plan().held_out_steps == config.most_steps


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["reward model", "reinforcement learning"])
def test_memory_of_a_real_run_is_within_a_quarter_of_the_forecast(tmp_path, phase, monkeypatch):
    from benchmarks import scale

    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # one for each lane
    case = scale.Case(phase=phase, model="10m", dtype="float32")
    scale.prepare(case, tmp_path)
    found = scale.measure(case, tmp_path, steps=2)
    hardware = replace(CPU, number_bytes=4)
    assert scale.forecast_of(case, hardware).peak[1] == pytest.approx(found["bytes"], rel=0.25)


VALUES = {"batch_size": 16, "train_steps": 50, "supervised_train_steps": 200, "reward_model_train_steps": 100}


def test_a_supervised_phase_is_forecast_where_there_is_one():
    without = forecast(Plan.of(VALUES), LLAMA_1B, A100)
    beside = forecast(Plan.of(VALUES | {"supervise_on_preferred": True}), LLAMA_1B, A100)
    assert [phase.name for phase in beside.phases] == ["supervised tuning", *(phase.name for phase in without.phases)]
    assert [phase.step_seconds for phase in beside.phases[1:]] == times(without)
    assert beside.phases[0].steps == 200
    # Its examples have one answer where a preference has two.
    assert times(beside)[0] < times(beside)[1]
    assert set(beside.hours) - set(without.hours) == {"held-out loss"}
    assert beside.hours["evaluation"] > without.hours["evaluation"]


def test_supervised_tuning_alone_is_forecast_by_its_own_names():
    found = forecast(Plan.of(VALUES | {"dataset_uri": "d.jsonl"}), LLAMA_1B, A100)
    assert [(phase.name, phase.steps) for phase in found.phases] == [("supervised tuning", 50)]
    assert set(found.hours) == {"held-out loss", "evaluation", "start-up"}
    assert found.peak == pytest.approx(max(found.phases[0].memory.values()))


def test_rewards_without_preferences_are_all_that_is_learnt_from():
    with_both = forecast(Plan.of(VALUES | {"rewards": "[]", "preference_dataset": "p.jsonl"}), LLAMA_1B, A100)
    alone = forecast(Plan.of(VALUES | {"rewards": "[]"}), LLAMA_1B, A100)
    assert [phase.name for phase in alone.phases] == ["reinforcement learning"]
    assert alone.all_hours < with_both.all_hours == forecast(Plan.of(VALUES), LLAMA_1B, A100).all_hours
    judged = forecast(Plan.of(VALUES | {"rewards": "[]", "preference_prompt_dataset": "p.jsonl"}), LLAMA_1B, A100)
    assert judged.all_hours == with_both.all_hours, "a reward model learns what the judge prefers"


def test_a_reward_model_alone_compares_no_answers():
    both = replace(PLAN, held_out_reward_model_share=0.0)
    alone = forecast(replace(both, reinforcement_learning_train_steps=0), LLAMA_1B, A100)
    # It scores held-out preferences.
    assert 0 < alone.hours["evaluation"] < forecast(both, LLAMA_1B, A100).hours["evaluation"] / 5


def test_preference_tuning_takes_its_own_steps_and_no_reward_model_but_the_one_that_judges():
    values = {
        "loss_type": "sigmoid",
        "epoch_count": 2.0,
        "adapter_size": 0,
        "batch_size": 16,
        "held_out_reward_model_share": 0.25,
        "reward_model_max_epochs": 2.0,
        "reward_model_train_steps": 1000,
        "reinforcement_learning_train_steps": 1000,
    }
    plan = Plan.of_preference_tuning(values, 3200)
    found = forecast(plan, LLAMA_1B, A100)
    # Of 3,200 a tenth is held out, and a quarter of the others left to the judge.
    assert [(phase.name, phase.steps) for phase in found.phases] == [
        ("held-out reward model", 90),
        ("preference tuning", 270),
    ]
    assert {"reference", "held-out preferences", "evaluation"} <= found.hours.keys()
    assert "centring of scores" not in found.hours
    # No copy of the model is the reference, and nothing is sampled in a step.
    policy = forecast(replace(PLAN, lora_dim=0), LLAMA_1B, A100)
    assert found.phases[-1].peak[1] < policy.phases[-1].peak[1]
    assert found.phases[-1].step_seconds < policy.phases[-1].step_seconds
    # A supervised phase comes before it, and a third model is asked for answers.
    values |= {"supervise_on_preferred": True, "supervised_train_steps": 50}
    after = forecast(Plan.of_preference_tuning(values, 3200), LLAMA_1B, A100)
    assert (after.phases[0].name, after.phases[0].steps) == ("supervised tuning", 50)
    assert after.phases[1:] == found.phases
    assert set(after.hours) - set(found.hours) == {"held-out loss"}
    assert after.hours["evaluation"] > found.hours["evaluation"]
    tight = replace(A100, memory=20 * GB)
    assert "--adapter-size 16" in alternatives(replace(plan, reward_lora_dim=16), LLAMA_1B, tight)[0]
    with pytest.raises(ParameterError, match="--preferences is 0"):
        Plan.of_preference_tuning(values, 0)


def test_the_reward_model_is_validated_on_a_part_of_what_is_not_left_to_the_held_out_one():
    half = Plan(preferences=8000, held_out_reward_model_share=0.5)
    assert half.validated == Plan(preferences=4000, held_out_reward_model_share=0.0).validated
    assert half.validated > Plan(preferences=8000, held_out_reward_model_share=0.0).validated
