"""Phase 1 alone: a reward model from human preferences, or from feedback."""

from typing import Any, NamedTuple

from kfp import dsl

from rlhf_pipelines.first_steps import first_steps
from rlhf_pipelines.phases import reward_model_phase
from rlhf_pipelines.wiring import Values, takes_parameters


class RewardModelPipelineOutputs(NamedTuple):
    """The trained reward model and its held-out accuracy."""

    reward_model: dsl.Model
    metrics: dsl.Metrics
    data_report: dsl.HTML


@dsl.pipeline(
    name="reward-model-pipeline",
    display_name="Reward model",
    description="Trains a reward model from human preferences, or feedback: the first phase of RLHF alone.",
)
@takes_parameters("reward_model_pipeline")
def reward_model_pipeline(values: Values) -> RewardModelPipelineOutputs:
    """Train a reward model from human preferences, or from feedback.

    Returns:
        reward_model: The reward model.
        metrics: Its held-out accuracy.
        data_report: What is in the data, as one HTML page.
    """
    inputs, models = first_steps(values)
    values = values.adding(inputs.outputs)
    phase_1 = reward_model_phase(
        **values.of(
            reward_model_phase,
            large_model_reference=models.outputs["reward_model_reference"],
            large_model_fingerprint=models.outputs["reward_model_fingerprint"],
            held_out_reward_model_share=0.0,
            prompt_dataset="",
        )
    ).set_display_name("Train Reward Model")
    return RewardModelPipelineOutputs(
        reward_model=phase_1.outputs["reward_model"],
        metrics=phase_1.outputs["metrics"],
        data_report=inputs.outputs["data_report"],
    )


def for_target(target: str) -> Any:
    """Return the pipeline for a target; it is the same for all."""
    return reward_model_pipeline
