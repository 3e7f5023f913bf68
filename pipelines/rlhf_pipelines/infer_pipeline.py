"""Bulk inference with any model: a base model, or the folder of a tuned one."""

from typing import Any, NamedTuple

from kfp import dsl

from rlhf_components.import_prompt_dataset import import_prompt_dataset
from rlhf_components.infer import infer
from rlhf_components.preprocess_inputs import preprocess_inputs
from rlhf_components.validate_inputs import validate_inputs


class InferOutputs(NamedTuple):
    """The answers."""

    predictions: dsl.Dataset


@dsl.pipeline(
    name="infer-pipeline",
    display_name="Bulk inference",
    description="Answers every prompt of a dataset with one model.",
)
def infer_pipeline(
    prompt_dataset: str,
    large_model_reference: str,
    prompt_sequence_length: int = 512,
    target_sequence_length: int = 64,
    instruction: str = "",
    batch_size: int = 64,
    temperature: float = 1.0,
    seed: int = 0,
    dtype: str = "auto",
    max_bad_rows: int = 0,
) -> InferOutputs:
    """Answer every prompt of a dataset with one model.

    Args:
        prompt_dataset: JSONL of prompts without labels: a path, a gs:// path, or a glob.
        large_model_reference: The model: a hub id, a folder (a tuned model's too), a gs:// folder, or an alias.
        prompt_sequence_length: Most tokens of a prompt, up to 8192.
        target_sequence_length: Most tokens of an answer, up to 1024.
        instruction: Put before every prompt; the default context of chat rows.
        batch_size: Prompts answered at once.
        temperature: Sampling temperature; 0 takes the likeliest token each time.
        seed: Of every random choice.
        dtype: auto, float32 or bfloat16, for frozen weights and matrix products.
        max_bad_rows: Bad rows of each dataset that are set aside; one more and the data is refused.

    Returns:
        predictions: JSON lines, one a prompt: inputs.inputs_pretokenized, prediction, prompt, tokens, ended, token_ids.
    """
    inputs = (
        validate_inputs(
            prompt_dataset=prompt_dataset,
            preference_dataset="",
            eval_dataset="",
            instruction=instruction,
            large_model_reference=large_model_reference,
            prompt_sequence_length=prompt_sequence_length,
            target_sequence_length=target_sequence_length,
            batch_size=batch_size,
            temperature=temperature,
            seed=seed,
            dtype=dtype,
            max_bad_rows=max_bad_rows,
        )
        .set_display_name("Validate Inputs")
        .set_caching_options(False)
    )
    models = (
        preprocess_inputs(large_model_reference=large_model_reference, reward_model_reference="")
        .set_display_name("Preprocess Inputs")
        .set_caching_options(False)
        .after(inputs)
    )
    data = import_prompt_dataset(
        prompt_dataset=prompt_dataset,
        eval_dataset="",
        instruction=instruction,
        prompt_fingerprint=inputs.outputs["prompt_fingerprint"],
        eval_fingerprint="",
        eval_prompts=0,
        seed=seed,
        max_bad_rows=max_bad_rows,
    ).set_display_name("Import Prompt Dataset")
    answers = infer(
        prompts=data.outputs["prompts"],
        large_model_reference=models.outputs["large_model_reference"],
        large_model_fingerprint=models.outputs["large_model_fingerprint"],
        prompt_sequence_length=prompt_sequence_length,
        target_sequence_length=target_sequence_length,
        temperature=temperature,
        batch_size=batch_size,
        seed=seed,
        dtype=dtype,
    ).set_display_name("Perform Inference")
    return InferOutputs(predictions=answers.outputs["predictions"])


def for_target(target: str) -> Any:
    """Return the pipeline for a target; it is the same for all."""
    return infer_pipeline
