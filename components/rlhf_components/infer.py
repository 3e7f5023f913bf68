"""Perform Inference: the answers of one model to a set of prompts."""

from typing import Optional

from kfp import dsl

from rlhf_tuning.images import TRAINER_IMAGE


@dsl.component(base_image=TRAINER_IMAGE, install_kfp_package=False)
def infer(
    prompts: dsl.Input[dsl.Dataset],
    predictions: dsl.Output[dsl.Dataset],
    large_model_reference: str,
    large_model_fingerprint: str = "",
    model: Optional[dsl.Input[dsl.Model]] = None,
    label: str = "",
    prompt_sequence_length: int = 512,
    target_sequence_length: int = 64,
    temperature: float = 1.0,
    batch_size: int = 64,
    seed: int = 0,
    dtype: str = "auto",
    inference_engine: str = "auto",
) -> None:
    """Answer every prompt with one model.

    Args:
        prompts: Canonical prompt rows.
        predictions: JSON lines: inputs.inputs_pretokenized and prediction, as the Vertex job had them; prompt, tokens,
            ended, token_ids.
        large_model_reference: The model that answers, or the base of the one that does.
        large_model_fingerprint: From Preprocess Inputs. When empty, kfp's cache goes by the model's name.
        model: A tuned model; without it the base answers.
        label: Which model answers, for people; `tuned model` or `base model` when empty.
        prompt_sequence_length: Most tokens of a prompt.
        target_sequence_length: Most tokens of an answer.
        temperature: Of the samples; 0 takes the likeliest token each time.
        batch_size: Most prompts of a batch.
        seed: Of the samples.
        dtype: auto, float32 or bfloat16.
        inference_engine: What samples the answers: own (our loop), vllm, or auto: vLLM where it is installed, runs on a GPU,
            and has enough to do for its start to pay.
    """
    from pathlib import Path

    from rlhf_tuning.distributed import processes
    from rlhf_tuning.generation.inference import InferenceConfig, write_predictions
    from rlhf_tuning.step import running_step

    which = label or ("tuned model" if model else "base model")
    with running_step(f"Perform Inference ({which})", inputs=[prompts, model], outputs=[predictions]):
        config = InferenceConfig(
            large_model_reference=model.path if model else large_model_reference,
            prompt_sequence_length=prompt_sequence_length,
            target_sequence_length=target_sequence_length,
            temperature=temperature,
            batch_size=batch_size,
            seed=seed,
            dtype=dtype,
            inference_engine=inference_engine,
        )
        found = processes.run(
            write_predictions,
            config,
            trains=False,
            prompts_path=prompts.path,
            predictions_path=predictions.path,
            label=f"answers of the {which}",
            # Beside the runs: a retry, and a run that is started again, finds there what was answered.
            work_dir=str(Path(predictions.path).parents[2] / ".answers"),
        )
        predictions.metadata.update(
            prompt_rows=found["rows"],
            tokens_per_second=found["tokens_per_second"],
            model=which,
            base_model=large_model_reference,
            base_model_fingerprint=large_model_fingerprint,
            prompt_fingerprint=prompts.metadata.get("fingerprint", ""),
        )
