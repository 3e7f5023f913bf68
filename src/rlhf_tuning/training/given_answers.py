"""How probable a model that learns finds answers that are given."""

from collections.abc import Sequence
from typing import Any

import torch

from rlhf_tuning.distributed import processes
from rlhf_tuning.evaluation.evaluate import answer_log_probabilities
from rlhf_tuning.models import base_model
from rlhf_tuning.step import Progress

Example = tuple[Sequence[int], Sequence[int]]

#: Answers that are asked for at a time.
_TOGETHER = {"cpu": 8, "cuda": 32}


def log_probabilities_of(
    model: Any, examples: Sequence[Example], *, compute: torch.dtype, label: str = ""
) -> list[float]:
    """Return log p(answer | prompt) of each example in nats, known to every process.

    Args:
        model: A causal language model, with the adapter that is on.
        examples: Each a prompt and an answer, as tokens; those of like length beside each other.
        compute: Of matrix products, as in training.
        label: Under which progress is told; empty for none.
    """

    def ask(some: Sequence[Example]) -> list[float]:
        progress = Progress(label, len(some), unit="answer") if label else None
        with torch.autocast(base_model.device().type, dtype=compute, enabled=compute != torch.float32):
            return answer_log_probabilities(
                model,
                [prompt for prompt, _ in some],
                [answer for _, answer in some],
                batch_size=_TOGETHER[base_model.device().type],
                on_progress=progress.update if progress else lambda done: None,
            )

    training = model.training
    model.eval()
    found = processes.spread(ask, examples)
    model.train(training)
    return found
