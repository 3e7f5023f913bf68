"""Bulk inference: the answers of one model to a file of prompts, as JSON lines."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlhf_tuning import base_model, step
from rlhf_tuning.data.importer import read_canonical
from rlhf_tuning.generation import generate_answers
from rlhf_tuning.limits import check_limits
from rlhf_tuning.text_format import TextFormat
from rlhf_tuning.tokenizer import load_tokenizer


@dataclass(frozen=True, kw_only=True)
class InferenceConfig:
    """Settings of bulk inference, named as the pipeline's parameters are. `batch_size` counts prompts."""

    large_model_reference: str
    prompt_sequence_length: int = 512
    target_sequence_length: int = 64
    temperature: float = 1.0
    batch_size: int = 64
    seed: int = 0
    dtype: str = "auto"

    def __post_init__(self) -> None:
        check_limits(**asdict(self))


def write_predictions(config: InferenceConfig, *, prompts_path: str, predictions_path: str, label: str) -> int:
    """Answer every prompt and write one JSON line each, in the order of the prompts.

    A line holds `prompt` (the conversation), `prediction` (the answer's text), `tokens`, `ended` and `token_ids`.

    Args:
        config: The model and how to sample.
        prompts_path: Canonical prompt rows.
        predictions_path: The file to write.
        label: What the progress line calls this.

    Returns:
        How many lines were written.

    Raises:
        ModelError: If the model cannot be loaded.
    """
    conversations = [row["prompt"] for row in read_canonical(prompts_path)]
    tokenizer = load_tokenizer(config.large_model_reference)
    model = base_model.load_causal_lm(config.large_model_reference, dtype=base_model.choose_dtype(config.dtype))
    base_model.check_context(
        model,
        prompt_sequence_length=config.prompt_sequence_length,
        target_sequence_length=config.target_sequence_length,
    )
    progress = step.Progress(label, len(conversations), "answer")
    answers = generate_answers(
        model,
        TextFormat(
            tokenizer,
            prompt_sequence_length=config.prompt_sequence_length,
            target_sequence_length=config.target_sequence_length,
        ),
        conversations,
        temperature=config.temperature,
        batch_size=config.batch_size,
        seed=config.seed,
        on_progress=progress.update,
    )
    path = Path(predictions_path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as stream:
        for conversation, answer in zip(conversations, answers, strict=True):
            row = {
                "prompt": conversation,
                "prediction": answer.text,
                "tokens": answer.tokens,
                "ended": answer.ended,
                "token_ids": answer.ids,
            }
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
    return len(answers)


def read_predictions(path: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a predictions file."""
    with Path(path).open(encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)
