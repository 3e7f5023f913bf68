"""Reward tuning: reinforcement learning on rewards of one's own, without preferences; evaluation, upload."""

from typing import Any, NamedTuple

from kfp import dsl

from rlhf_components import preprocess_inputs, validate_inputs
from rlhf_pipelines import evaluate_and_promote
from rlhf_pipelines.phases import reinforcement_phase_with
from rlhf_pipelines.wiring import Values, takes_parameters


class RewardTuningOutputs(NamedTuple):
    """Where the model is, and what a person wants to look at."""

    model_resource_name: str
    endpoint_resource_name: str
    summary: dsl.Markdown
    report: dsl.HTML
    data_report: dsl.HTML


def for_target(target: str) -> Any:
    """Return the pipeline for a target: they differ in where the tuned model goes."""
    reinforcement_phase = reinforcement_phase_with()
    promote_if_better = evaluate_and_promote.for_target(target, true_rewards=str)

    @dsl.pipeline(
        name="reward-tuning-pipeline",
        display_name="Reward tuning",
        description="Tunes a language model on what programs, services and checks of your own reward, without preferences.",
    )
    @takes_parameters("reward_tuning_pipeline")
    def reward_tuning_pipeline(values: Values) -> RewardTuningOutputs:
        """Tune a language model on rewards of one's own.

        Returns:
            model_resource_name: The registered model.
            endpoint_resource_name: The endpoint, or empty where there is none.
            summary: The comparison with the champion, or with the base model, and the gate's decision, as text.
            report: The whole report, as one HTML page.
            data_report: What is in the data, as one HTML page.
        """
        inputs = (
            validate_inputs(**values.of(validate_inputs, target=target))
            .set_display_name("Validate Inputs")
            .set_caching_options(False)
        )
        models = (
            preprocess_inputs(**values.of(preprocess_inputs, method="reward"))
            .set_display_name("Preprocess Inputs")
            .set_caching_options(False)
            .after(inputs)
        )
        values = values.adding(inputs.outputs).adding(models.outputs)
        tuned = reinforcement_phase(**values.of(reinforcement_phase)).set_display_name("Reinforcement Learning")
        outcome = promote_if_better(
            **values.adding(tuned.outputs).of(promote_if_better, true_rewards=values["rewards"])
        ).set_display_name("Evaluate and Promote")
        return RewardTuningOutputs(
            model_resource_name=outcome.outputs["model_resource_name"],
            endpoint_resource_name=outcome.outputs["endpoint_resource_name"],
            summary=outcome.outputs["summary"],
            report=outcome.outputs["report"],
            data_report=inputs.outputs["data_report"],
        )

    return reward_tuning_pipeline


reward_tuning_pipeline = for_target("local")
