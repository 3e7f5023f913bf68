"""Supervised tuning: training, evaluation, upload. Parameters as Vertex's job for its own models had them."""

from typing import Any

from kfp import dsl

from rlhf_pipelines import evaluate_and_promote
from rlhf_pipelines.first_steps import first_steps
from rlhf_pipelines.phases import supervised_phase
from rlhf_pipelines.wiring import Values, takes_parameters


def for_target(target: str) -> Any:
    """Return the pipeline for a target: they differ in where the tuned model goes."""
    promote_if_better = evaluate_and_promote.for_target(target, eval_demonstrations=dsl.Input[dsl.Dataset])

    @dsl.pipeline(
        name="supervised-tuning-pipeline",
        display_name="Supervised tuning",
        description="Tunes a language model on demonstrations: prompts with the answers that it is to give.",
    )
    @takes_parameters("supervised_tuning_pipeline")
    def supervised_tuning_pipeline(values: Values) -> evaluate_and_promote.TuningOutputs:
        """Tune a language model on demonstrations.

        Returns:
            model_resource_name: The registered model.
            endpoint_resource_name: The endpoint, or empty where there is none.
            summary: The comparison with the champion, or with the base model, and the gate's decision, as text.
            report: The whole report, as one HTML page.
            data_report: What is in the data, as one HTML page.
        """
        inputs, models = first_steps(values, method="supervised", target=target)
        values = values.adding(inputs.outputs).adding(models.outputs)
        tuned = supervised_phase(**values.of(supervised_phase)).set_display_name("Supervised Tuning")
        outcome = promote_if_better(
            **values.adding(tuned.outputs).of(
                promote_if_better,
                instruction=values["default_context"],
                # A model that is to answer otherwise than before moves as far as the demonstrations are away.
                gate_max_kl=0.0,
                gate_max_length_ratio=0.0,
            )
        ).set_display_name("Evaluate and Promote")
        return evaluate_and_promote.tuning_outputs(outcome, inputs)

    return supervised_tuning_pipeline


supervised_tuning_pipeline = for_target("local")
