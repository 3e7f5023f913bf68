"""Supervised tuning: training, evaluation, upload. Parameters as Vertex's job for its own models had them."""

from typing import Any, NamedTuple

from kfp import dsl

from rlhf_components import preprocess_inputs, validate_inputs
from rlhf_pipelines import evaluate_and_promote
from rlhf_pipelines.phases import supervised_phase
from rlhf_pipelines.wiring import Values, takes_parameters


class SupervisedTuningOutputs(NamedTuple):
    """Where the model is, and what a person wants to look at."""

    model_resource_name: str
    endpoint_resource_name: str
    summary: dsl.Markdown
    report: dsl.HTML
    data_report: dsl.HTML


def for_target(target: str) -> Any:
    """Return the pipeline for a target: they differ in where the tuned model goes."""
    promote_if_better = evaluate_and_promote.for_target(target, eval_demonstrations=dsl.Input[dsl.Dataset])

    @dsl.pipeline(
        name="supervised-tuning-pipeline",
        display_name="Supervised tuning",
        description="Tunes a language model on demonstrations: prompts with the answers that it is to give.",
    )
    @takes_parameters("supervised_tuning_pipeline")
    def supervised_tuning_pipeline(values: Values) -> SupervisedTuningOutputs:
        """Tune a language model on demonstrations.

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
            preprocess_inputs(**values.of(preprocess_inputs, method="supervised"))
            .set_display_name("Preprocess Inputs")
            .set_caching_options(False)
            .after(inputs)
        )
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
        return SupervisedTuningOutputs(
            model_resource_name=outcome.outputs["model_resource_name"],
            endpoint_resource_name=outcome.outputs["endpoint_resource_name"],
            summary=outcome.outputs["summary"],
            report=outcome.outputs["report"],
            data_report=inputs.outputs["data_report"],
        )

    return supervised_tuning_pipeline


supervised_tuning_pipeline = for_target("local")
