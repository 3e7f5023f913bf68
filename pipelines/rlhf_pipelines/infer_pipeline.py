"""Bulk inference with any model: a base model, or the folder of a tuned one."""

from typing import Any, NamedTuple

from kfp import dsl

from rlhf_components import import_prompt_dataset, infer
from rlhf_pipelines.first_steps import first_steps
from rlhf_pipelines.wiring import Values, takes_parameters


class InferOutputs(NamedTuple):
    """The answers."""

    predictions: dsl.Dataset


@dsl.pipeline(
    name="infer-pipeline",
    display_name="Bulk inference",
    description="Answers every prompt of a dataset with one model.",
)
@takes_parameters("infer_pipeline")
def infer_pipeline(values: Values) -> InferOutputs:
    """Answer every prompt of a dataset with one model.

    Returns:
        predictions: JSON lines, one a prompt: inputs.inputs_pretokenized, prediction, prompt, tokens, ended, token_ids.
    """
    inputs, models = first_steps(values)
    values = values.adding(inputs.outputs).adding(models.outputs)
    data = import_prompt_dataset(**values.of(import_prompt_dataset, eval_prompts=0)).set_display_name(
        "Import Prompt Dataset"
    )
    answers = infer(**values.of(infer, prompts=data.outputs["prompts"])).set_display_name("Perform Inference")
    return InferOutputs(predictions=answers.outputs["predictions"])


def for_target(target: str) -> Any:
    """Return the pipeline for a target; it is the same for all."""
    return infer_pipeline
