"""Reward tuning: reinforcement learning on rewards of one's own, without preferences; evaluation, upload."""

from typing import Any

from kfp import dsl

from rlhf_pipelines import evaluate_and_promote
from rlhf_pipelines.first_steps import first_steps
from rlhf_pipelines.phases import reinforcement_phase_with
from rlhf_pipelines.wiring import Values, takes_parameters


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
    def reward_tuning_pipeline(values: Values) -> evaluate_and_promote.TuningOutputs:
        """Tune a language model on rewards of one's own.

        Returns:
            model_resource_name: The registered model.
            endpoint_resource_name: The endpoint, or empty where there is none.
            summary: The comparison with the champion, or with the base model, and the gate's decision, as text.
            report: The whole report, as one HTML page.
            data_report: What is in the data, as one HTML page.
        """
        inputs, models = first_steps(values, method="reward", target=target)
        values = values.adding(inputs.outputs).adding(models.outputs)
        tuned = reinforcement_phase(**values.of(reinforcement_phase)).set_display_name("Reinforcement Learning")
        outcome = promote_if_better(
            **values.adding(tuned.outputs).of(promote_if_better, true_rewards=values["rewards"])
        ).set_display_name("Evaluate and Promote")
        return evaluate_and_promote.tuning_outputs(outcome, inputs)

    return reward_tuning_pipeline


reward_tuning_pipeline = for_target("local")
