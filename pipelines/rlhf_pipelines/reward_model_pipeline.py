"""Phase 1 alone: a reward model from human preferences."""

from typing import Any, NamedTuple

from kfp import dsl

from rlhf_components.preprocess_inputs import preprocess_inputs
from rlhf_components.validate_inputs import validate_inputs
from rlhf_pipelines.phases import reward_model_phase


class RewardModelPipelineOutputs(NamedTuple):
    """The trained reward model and its held-out accuracy."""

    reward_model: dsl.Model
    metrics: dsl.Metrics
    data_report: dsl.HTML


@dsl.pipeline(
    name="reward-model-pipeline",
    display_name="Reward model",
    description="Trains a reward model from human preferences: the first phase of RLHF alone.",
)
def reward_model_pipeline(
    preference_dataset: str,
    large_model_reference: str,
    prompt_sequence_length: int = 512,
    target_sequence_length: int = 64,
    reward_model_learning_rate_multiplier: float = 1.0,
    reward_model_train_steps: int = 1000,
    instruction: str = "",
    eval_dataset: str = "",
    reward_lora_dim: int = 16,
    batch_size: int = 64,
    seed: int = 0,
    reward_model_reference: str = "",
    dtype: str = "auto",
    max_bad_rows: int = 0,
) -> RewardModelPipelineOutputs:
    """Train a reward model from human preferences.

    Args:
        preference_dataset: JSONL of human preferences: a path, a gs:// path, or a glob.
        large_model_reference: Base model: a hub id, a folder, a gs:// folder, or an alias.
        prompt_sequence_length: Most tokens of a prompt, up to 8192.
        target_sequence_length: Most tokens of an answer, up to 1024.
        reward_model_learning_rate_multiplier: Times the base learning rate of the reward model.
        reward_model_train_steps: Optimizer steps of the reward model.
        instruction: Put before every prompt; the default context of chat rows.
        eval_dataset: JSONL of preferences to measure on; a part of the data is held out when empty.
        reward_lora_dim: LoRA rank of the reward model; 0 trains all weights.
        batch_size: Preferences (phase 1) or prompts (phase 2) in one optimizer step, on all GPUs together.
        seed: Of every random choice.
        reward_model_reference: Base of the reward model; the policy's own when empty.
        dtype: auto, float32 or bfloat16, for frozen weights and matrix products.
        max_bad_rows: Bad rows of each dataset that are set aside; one more and the data is refused.

    Returns:
        reward_model: The reward model.
        metrics: Its held-out accuracy.
        data_report: What is in the data, as one HTML page.
    """
    inputs = (
        validate_inputs(
            prompt_dataset="",
            preference_dataset=preference_dataset,
            eval_dataset=eval_dataset,
            instruction=instruction,
            large_model_reference=large_model_reference,
            prompt_sequence_length=prompt_sequence_length,
            target_sequence_length=target_sequence_length,
            reward_model_learning_rate_multiplier=reward_model_learning_rate_multiplier,
            reward_model_train_steps=reward_model_train_steps,
            reward_lora_dim=reward_lora_dim,
            batch_size=batch_size,
            seed=seed,
            dtype=dtype,
            max_bad_rows=max_bad_rows,
        )
        .set_display_name("Validate Inputs")
        .set_caching_options(False)
    )
    models = (
        preprocess_inputs(large_model_reference=large_model_reference, reward_model_reference=reward_model_reference)
        .set_display_name("Preprocess Inputs")
        .set_caching_options(False)
        .after(inputs)
    )
    phase_1 = reward_model_phase(
        preference_dataset=preference_dataset,
        eval_dataset=eval_dataset,
        instruction=instruction,
        preference_fingerprint=inputs.outputs["preference_fingerprint"],
        eval_fingerprint=inputs.outputs["eval_fingerprint"],
        large_model_reference=models.outputs["reward_model_reference"],
        large_model_fingerprint=models.outputs["reward_model_fingerprint"],
        prompt_sequence_length=prompt_sequence_length,
        target_sequence_length=target_sequence_length,
        reward_model_learning_rate_multiplier=reward_model_learning_rate_multiplier,
        reward_model_train_steps=reward_model_train_steps,
        reward_lora_dim=reward_lora_dim,
        batch_size=batch_size,
        seed=seed,
        dtype=dtype,
        max_bad_rows=max_bad_rows,
        held_out_reward_model_share=0.0,
    ).set_display_name("Train Reward Model")
    return RewardModelPipelineOutputs(
        reward_model=phase_1.outputs["reward_model"],
        metrics=phase_1.outputs["metrics"],
        data_report=inputs.outputs["data_report"],
    )


def for_target(target: str) -> Any:
    """Return the pipeline for a target; it is the same for all."""
    return reward_model_pipeline
