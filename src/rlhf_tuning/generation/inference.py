"""Bulk inference: the answers of one model to a file of prompts, as JSON lines. What was answered before a stop is kept.

Prompts are answered in batches of similar length, longest first. A batch is sampled with a seed of its own, so its answers
depend on nothing that came before: a run that goes on where another stopped ends with the same file, and so do several
processes, of which each answers some of the batches. Where vLLM answers (`vllm_engine`), it gets the prompts in the same
order, each with a seed of its own, and a batch is kept once its last answer is there.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from xxhash import xxh32_intdigest

from rlhf_tuning import environment, step
from rlhf_tuning.data.importer import read_canonical
from rlhf_tuning.distributed import processes, sharding
from rlhf_tuning.errors import RunError
from rlhf_tuning.generation.generate import Answer, answer_of, batches_of, end_token_ids, generate_answers
from rlhf_tuning.generation.vllm_engine import Request, VllmModel, chosen_vllm
from rlhf_tuning.limits import check_context, check_limits
from rlhf_tuning.models import base_model
from rlhf_tuning.models.model_reference import content_fingerprint, local_folder
from rlhf_tuning.models.text_format import Conversation, TextFormat
from rlhf_tuning.models.tokenizer import load_tokenizer
from rlhf_tuning.vllm_program import Vllm


@dataclass(frozen=True, kw_only=True)
class InferenceConfig:
    """Settings of bulk inference, named as the pipeline's parameters are.

    `batch_size` counts prompts; `temperature` 0 takes the likeliest token each time. `inference_engine` says what samples
    the answers, see `vllm_engine.chosen_vllm`. vLLM has as many prompts under way as it likes.
    """

    large_model_reference: str
    prompt_sequence_length: int = 512
    target_sequence_length: int = 64
    temperature: float = 1.0
    batch_size: int = 64
    seed: int = 0
    dtype: str = "auto"
    inference_engine: str = "auto"

    def __post_init__(self) -> None:
        check_limits(**asdict(self))


def write_predictions(
    config: InferenceConfig, *, prompts_path: str, predictions_path: str, label: str, work_dir: str = ""
) -> dict[str, float]:
    """Answer every prompt and write one JSON line each, in the order of the prompts.

    A line holds what a line of the Vertex job held, `inputs.inputs_pretokenized` (the prompt's text) and `prediction` (the
    answer's text); and `prompt` (the conversation), its `references` if it has some, `tokens`, `ended` and `token_ids`.

    Args:
        config: The model and how to sample.
        prompts_path: Canonical prompt rows.
        predictions_path: The file to write.
        label: What the progress line calls this.
        work_dir: Folder that keeps finished batches until the file is written; a later call with the same model, prompts and
            settings takes them from there. Nothing is kept when it is empty.

    Returns:
        `rows`, how many lines were written; `tokens_per_second`, how fast the model answered once it was loaded, 0 where it
        did not.

    Raises:
        ModelError: If the model cannot be loaded.
        UserError: If vLLM is asked for and is not here.
        RunError: If it is asked for and fails.
    """
    processes.join()
    examples = list(read_canonical(prompts_path))
    conversations = [row["prompt"] for row in examples]
    most_tokens = len(conversations) * config.target_sequence_length
    vllm = processes.from_main(lambda: chosen_vllm(config.inference_engine, tokens=most_tokens))
    text_format = TextFormat(
        load_tokenizer(config.large_model_reference),
        prompt_sequence_length=config.prompt_sequence_length,
        target_sequence_length=config.target_sequence_length,
    )
    lengths = [len(text_format.prompt_ids(conversation)) for conversation in conversations]
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    batches = batches_of(order, config.batch_size)
    kept = _KeptBatches(Path(work_dir) / _fingerprint(config, prompts_path, vllm) if work_dir else None)
    answers: dict[int, Answer] = {}
    for number, rows in enumerate(batches):
        answers.update(zip(rows, kept.read(number, len(rows)), strict=False))
    processes.wait()  # all have read what is kept before any adds to it
    if answers:
        step.say(f"{len(answers):,} of {len(conversations):,} {label} are there already, from a run that was stopped")
    progress = step.Progress(label, len(conversations), "answer")
    work = _Work(config, text_format, conversations, batches, kept, progress)
    ways: list[Callable[[_Work, Sequence[int]], list[list[Answer]]]] = [_answer_by_loop]
    if vllm:
        ways.insert(0, partial(_answer_by_vllm, vllm))
    there = set(answers)
    for answer in ways:
        missing = [number for number, rows in enumerate(batches) if rows[0] not in answers]
        for number, written in zip(missing, answer(work, missing) if missing else [], strict=True):
            answers.update(zip(batches[number], written, strict=False))
    new = sum(answer.tokens for row, answer in answers.items() if row not in there)
    found = {"rows": len(answers), "tokens_per_second": work.pace(new)}
    if not environment.is_main_process():
        return found
    path = Path(predictions_path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as stream:
        for row, example in enumerate(examples):
            stream.write(json.dumps(_line(example, answers[row]), ensure_ascii=False) + "\n")
    kept.forget()
    return found


def read_predictions(path: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a predictions file."""
    with Path(path).open(encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)


@dataclass(frozen=True)
class _Work:
    """What there is to answer; `batches` holds places in `conversations`."""

    config: InferenceConfig
    text_format: TextFormat
    conversations: Sequence[Conversation]
    batches: Sequence[Sequence[int]]
    kept: "_KeptBatches"
    progress: step.Progress
    started: list[float] = field(default_factory=list)

    def start(self) -> None:
        """Take note that a model is ready to answer."""
        self.started.append(time.monotonic())

    def pace(self, tokens: int) -> float:
        """Return the tokens a second of so many since then; 0 where no model was ready here."""
        return tokens / max(time.monotonic() - self.started[0], 1e-9) if self.started else 0.0

    def reporter(self, missing: Sequence[int]) -> Callable[[int], None]:
        """Return what is told how many answers to the batches that are missing there are by now."""
        total = len(self.conversations)
        there = total - sum(len(self.batches[number]) for number in missing)
        return lambda done: self.progress.update(min(there + done, total))


def _answer_by_loop(work: _Work, missing: Sequence[int]) -> list[list[Answer]]:
    """Return the answers to the batches that are missing, each process some of them, sampled by our own loop."""
    config = work.config
    model = _load(config)
    report = work.reporter(missing)
    work.start()

    def write(numbers: Sequence[int]) -> list[list[Answer]]:
        found = []
        done = 0
        with sharding.in_step(model):
            for number in numbers:
                rows = work.batches[number]
                written = generate_answers(
                    model,
                    work.text_format,
                    [work.conversations[row] for row in rows],
                    temperature=config.temperature,
                    batch_size=len(rows),
                    seed=xxh32_intdigest(f"{config.seed}:{number}".encode()),
                )
                work.kept.write(number, written)
                found.append(written)
                done += len(written) * environment.process_count()  # the others are about as far
                report(done)
        return found

    return processes.spread(write, missing)


def _answer_by_vllm(vllm: Vllm, work: _Work, missing: Sequence[int]) -> list[list[Answer]]:
    """Return the answers to the batches that are missing, sampled by vLLM; where it fails and need not be, no answers.

    Each process has a vLLM of its own on its GPU. The main one alone has one where the model is too large for a GPU, so that
    it takes all of them, and where there is none.
    """
    config, text_format = work.config, work.text_format
    dtype = base_model.choose_dtype(config.dtype)
    base_model.check_memory(config.large_model_reference, dtype=dtype)
    base_model.check_disk(config.large_model_reference)
    model = VllmModel(vllm, config.large_model_reference, dtype=dtype)
    check_context(
        model.positions,
        prompt_sequence_length=config.prompt_sequence_length,
        target_sequence_length=config.target_sequence_length,
    )
    ends = end_token_ids(model.generation_config, text_format.tokenizer)
    gpus = environment.process_count() if base_model.is_too_large(config.large_model_reference, dtype) else 1
    alone = gpus > 1 or vllm.device == "cpu"
    at_work = 1 if alone else environment.process_count()
    report = work.reporter(missing)

    def started() -> None:
        step.say("vLLM has started")
        work.start()

    def write(numbers: Sequence[int]) -> list[list[Answer]]:
        batch_of = {row: number for number in numbers for row in work.batches[number]}
        left = {number: len(work.batches[number]) for number in numbers}
        answers: dict[int, Answer] = {}
        done = 0
        prompts = ((row, text_format.prompt_ids(work.conversations[row])) for row in batch_of)
        sampled = model.answers(
            (
                Request(row=row, tokens=ids, seed=xxh32_intdigest(f"{config.seed}:{row}".encode()))
                for row, ids in prompts
            ),
            ends=ends,
            most_prompt_tokens=config.prompt_sequence_length,
            most_tokens=config.target_sequence_length,
            temperature=config.temperature,
            gpus=gpus,
            on_start=started,
        )
        try:
            with closing(sampled):
                for row, ids in sampled if batch_of else ():
                    answers[row] = answer_of(ids, ends, text_format)
                    number = batch_of[row]
                    left[number] -= 1
                    if not left[number]:
                        work.kept.write(number, [answers[row] for row in work.batches[number]])
                        done += len(work.batches[number]) * at_work  # the others are about as far
                        report(done)
        except RunError as error:
            if config.inference_engine == "vllm":
                raise RunError(f"{error} Set inference_engine to 'own' to do without it.") from None
            step.say(f"Warning: {error} What is missing is answered without vLLM.")
        return [[] if left[number] else [answers[row] for row in work.batches[number]] for number in numbers]

    step.say(f"Starting vLLM {vllm.version} ({vllm.device}), which takes a minute or more")
    if alone:
        return processes.from_main(lambda: write(missing))
    return processes.spread(write, missing)


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


def _fingerprint(config: InferenceConfig, prompts_path: str, vllm: Vllm | None) -> str:
    """Return what changes with anything that the answers depend on. A tuned model's folder has another name in each run."""
    folder = local_folder(config.large_model_reference)
    model = content_fingerprint(folder) if folder else config.large_model_reference
    with open(prompts_path, "rb") as stream:
        prompts = hashlib.file_digest(stream, "sha256").hexdigest()
    engine = "vllm" if vllm else "own"
    settings = asdict(config) | {"large_model_reference": model, "prompts": prompts, "inference_engine": engine}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]


def _line(example: dict[str, Any], answer: Answer) -> dict[str, Any]:
    return {
        "inputs": {"inputs_pretokenized": "\n\n".join(turn["content"] for turn in example["prompt"])},
        "prediction": answer.text,
        # No more of it: the prompts may be another model's answers.
        **{name: example[name] for name in ("prompt", "references") if name in example},
        "tokens": answer.tokens,
        "ended": answer.ended,
        "token_ids": answer.ids,
    }
