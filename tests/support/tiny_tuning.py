"""A tiny model that learns from a few answers, by whatever method, and what it then says of others."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from rlhf_tuning.models import base_model
from rlhf_tuning.models.text_format import TextFormat
from rlhf_tuning.models.tokenizer import load_tokenizer

GOOD, BAD = "Enjoy the sun at Gulf Shores.", "0 1 2 3 4 5"
_LENGTHS = {"prompt_sequence_length": 32, "target_sequence_length": 24}


def prompt(number: int) -> list[dict[str, str]]:
    """Return one of many prompts, which are of different lengths."""
    return [{"role": "user", "content": f"Create {number}{' a description' * (number % 5)}."}]


def tune(
    train: Callable[..., dict[str, float]],
    config: Callable[..., Any],
    folder: Path,
    *,
    data: str,
    learnt: Sequence[Mapping[str, Any]],
    held_out: Sequence[Mapping[str, Any]],
    **settings: Any,
) -> dict[str, float]:
    """Tune in a folder, and return what was found.

    Args:
        train: A method's function.
        config: Makes its settings.
        folder: Gets `learnt.jsonl`, `held_out.jsonl`, `adapter` and `model`.
        data: What the method learns from, as the function's parameters have it.
        learnt: Rows of that.
        held_out: Rows to measure on.
        settings: The settings.
    """
    return train(
        config(**_LENGTHS, dtype="float32", **settings),
        **{
            f"{data}_path": write(folder / "learnt.jsonl", learnt),
            f"eval_{data}_path": write(folder / "held_out.jsonl", held_out),
        },
        adapter_dir=str(folder / "adapter"),
        model_dir=str(folder / "model"),
        tensorboard_dir=str(folder / "events"),
    )


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    """Write rows, and return where."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def records(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def nats_and_tokens(model: Path, rows: Sequence[Mapping[str, Any]], answer: str) -> tuple[float, int]:
    """Return how probable a saved model finds all answers together, by transformers' own and one at a time."""
    network = base_model.load_causal_lm(str(model), dtype=torch.float32)
    text_format = TextFormat(load_tokenizer(str(model)), **_LENGTHS)
    nats, tokens = 0.0, 0
    for row in rows:
        begun, learnt = text_format.prompt_ids(row["prompt"]), text_format.learnt_ids(row[answer])
        labels = torch.tensor([[-100] * len(begun) + learnt])
        with torch.no_grad():
            loss = network(input_ids=torch.tensor([begun + learnt]), labels=labels).loss
        nats, tokens = nats - loss.item() * len(learnt), tokens + len(learnt)
    return nats, tokens


def gain(folder: Path, base: Path, rows: Sequence[Mapping[str, Any]], answer: str) -> float:
    """Return by how much likelier the model tuned in a folder finds each answer than the base does, nats."""
    tuned, before = (nats_and_tokens(model, rows, answer)[0] for model in (folder / "model", base))
    return (tuned - before) / len(rows)
