"""Bulk inference: the answers of one model to a file of prompts, as JSON lines. What was answered before a stop is kept.

Prompts are answered in batches of similar length, longest first. A batch is sampled with a seed of its own, so its answers
depend on nothing that came before: a run that goes on where another stopped ends with the same file, and so do several
processes, of which each answers some of the batches.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xxhash import xxh32_intdigest

from rlhf_tuning import environment, step
from rlhf_tuning.data.importer import read_canonical
from rlhf_tuning.distributed import processes, sharding
from rlhf_tuning.generation.generate import Answer, batches_of, generate_answers
from rlhf_tuning.limits import check_limits
from rlhf_tuning.models import base_model
from rlhf_tuning.models.model_reference import content_fingerprint, local_folder
from rlhf_tuning.models.text_format import TextFormat
from rlhf_tuning.models.tokenizer import load_tokenizer


@dataclass(frozen=True, kw_only=True)
class InferenceConfig:
    """Settings of bulk inference, named as the pipeline's parameters are.

    `batch_size` counts prompts; `temperature` 0 takes the likeliest token each time.
    """

    large_model_reference: str
    prompt_sequence_length: int = 512
    target_sequence_length: int = 64
    temperature: float = 1.0
    batch_size: int = 64
    seed: int = 0
    dtype: str = "auto"

    def __post_init__(self) -> None:
        check_limits(**asdict(self))


def write_predictions(
    config: InferenceConfig, *, prompts_path: str, predictions_path: str, label: str, work_dir: str = ""
) -> int:
    """Answer every prompt and write one JSON line each, in the order of the prompts.

    A line holds what a line of the Vertex job held, `inputs.inputs_pretokenized` (the prompt's text) and `prediction` (the
    answer's text); and `prompt` (the conversation), `tokens`, `ended` and `token_ids`.

    Args:
        config: The model and how to sample.
        prompts_path: Canonical prompt rows.
        predictions_path: The file to write.
        label: What the progress line calls this.
        work_dir: Folder that keeps finished batches until the file is written; a later call with the same model, prompts and
            settings takes them from there. Nothing is kept when it is empty.

    Returns:
        How many lines were written.

    Raises:
        ModelError: If the model cannot be loaded.
    """
    processes.join()
    conversations = [row["prompt"] for row in read_canonical(prompts_path)]
    text_format = TextFormat(
        load_tokenizer(config.large_model_reference),
        prompt_sequence_length=config.prompt_sequence_length,
        target_sequence_length=config.target_sequence_length,
    )
    lengths = [len(text_format.prompt_ids(conversation)) for conversation in conversations]
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    batches = batches_of(order, config.batch_size)
    kept = _KeptBatches(Path(work_dir) / _fingerprint(config, prompts_path) if work_dir else None)
    answers: dict[int, Answer] = {}
    for number, rows in enumerate(batches):
        answers.update(zip(rows, kept.read(number, len(rows)), strict=False))
    processes.wait()  # all have read what is kept before any adds to it
    if answers:
        step.say(f"{len(answers):,} of {len(conversations):,} {label} are there already, from a run that was stopped")
    progress = step.Progress(label, len(conversations), "answer")
    missing = [number for number, rows in enumerate(batches) if rows[0] not in answers]
    model = _load(config) if missing else None

    def write(numbers: Sequence[int]) -> list[list[Answer]]:
        found = []
        done = len(answers)
        with sharding.in_step(model):
            for number in numbers:
                rows = batches[number]
                written = generate_answers(
                    model,
                    text_format,
                    [conversations[row] for row in rows],
                    temperature=config.temperature,
                    batch_size=len(rows),
                    seed=xxh32_intdigest(f"{config.seed}:{number}".encode()),
                )
                kept.write(number, written)
                found.append(written)
                done += len(written) * environment.process_count()  # the others are about as far
                progress.update(min(done, len(conversations)))
        return found

    if missing:
        for number, written in zip(missing, processes.spread(write, missing), strict=True):
            answers.update(zip(batches[number], written, strict=True))
    if not environment.is_main_process():
        return len(answers)
    path = Path(predictions_path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as stream:
        for row, conversation in enumerate(conversations):
            stream.write(json.dumps(_line(conversation, answers[row]), ensure_ascii=False) + "\n")
    kept.forget()
    return len(answers)


def read_predictions(path: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a predictions file."""
    with Path(path).open(encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)


class _KeptBatches:
    """The answers to finished batches, a file each, in a folder of their own; without a folder nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def read(self, number: int, count: int) -> list[Answer]:
        """Return the `count` answers of a batch, or none when it is not finished."""
        if self._folder is None:
            return []
        try:
            rows = json.loads((self._folder / f"{number:06}.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return []
        return [Answer(**row | {"ids": tuple(row["ids"])}) for row in rows] if len(rows) == count else []

    def write(self, number: int, answers: Sequence[Answer]) -> None:
        """Keep the answers of a batch: whole, or not at all."""
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{number:06}.json"
        staging = path.with_suffix(f".{os.getpid()}")
        staging.write_text(json.dumps([asdict(answer) for answer in answers]), encoding="utf-8")
        staging.replace(path)

    def forget(self) -> None:
        """Remove everything."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _load(config: InferenceConfig) -> Any:
    dtype = base_model.choose_dtype(config.dtype)
    base_model.check_memory(config.large_model_reference, dtype=dtype)
    base_model.check_disk(config.large_model_reference)
    model = base_model.load_causal_lm(config.large_model_reference, dtype=dtype, shard=True)
    base_model.check_context(
        model,
        prompt_sequence_length=config.prompt_sequence_length,
        target_sequence_length=config.target_sequence_length,
    )
    return model


def _fingerprint(config: InferenceConfig, prompts_path: str) -> str:
    """Return what changes with anything that the answers depend on. A tuned model's folder has another name in each run."""
    folder = local_folder(config.large_model_reference)
    model = content_fingerprint(folder) if folder else config.large_model_reference
    with open(prompts_path, "rb") as stream:
        prompts = hashlib.file_digest(stream, "sha256").hexdigest()
    settings = asdict(config) | {"large_model_reference": model, "prompts": prompts}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]


def _line(conversation: Sequence[dict[str, str]], answer: Answer) -> dict[str, Any]:
    return {
        "inputs": {"inputs_pretokenized": "\n\n".join(turn["content"] for turn in conversation)},
        "prediction": answer.text,
        "prompt": conversation,
        "tokens": answer.tokens,
        "ended": answer.ended,
        "token_ids": answer.ids,
    }
