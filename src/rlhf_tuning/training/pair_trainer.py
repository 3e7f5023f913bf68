"""TRL's RewardTrainer with the prompt of a pair computed once for both answers, where the model can share it.

TRL's loss and metrics stay; what its model is asked for comes from packed rows. Only the hidden state at each answer's last
token meets the score head.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import RewardTrainer

from rlhf_tuning.models import base_model
from rlhf_tuning.ops import lanes, packing

#: The tensors of `packing.last_hidden`.
_Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]


def collate_pairs(examples: Sequence[dict[str, Any]], *, share: bool) -> dict[str, torch.Tensor]:
    """Pack each pair into a row, or without `share` each answer.

    `answers` lists the chosen ones first, then the rejected ones, as TRL does, whose loss takes `margin` too.
    """
    both = [[example[name] for example in examples] for name in ("chosen_ids", "rejected_ids")]
    if share:
        packed = packing.pack([packing.share_beginning(pair) for pair in zip(*both, strict=True)])
        answers = torch.cat([packed.answers[::2], packed.answers[1::2]])
    else:
        packed = packing.pack([([], [ids]) for ids in both[0] + both[1]])
        answers = packed.answers
    tensors = {
        "input_ids": packed.input_ids,
        "position_ids": packed.position_ids,
        "answers": answers,
        "margin": torch.tensor([example["margin"] for example in examples]),
        # TRL counts tokens by it.
        "attention_mask": packed.real.long(),
    }
    return tensors if packed.owners is None else tensors | {"owners": packed.owners}


class PairTrainer(RewardTrainer):  # type: ignore[misc]
    """RewardTrainer over batches of `collate_pairs`, whose steps take the same pairs in however many processes."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        classifier = base_model.causal_lm(self.model)

        def score(batch: _Batch) -> torch.Tensor:
            scores: torch.Tensor = classifier.score(packing.last_hidden(classifier.base_model, *batch))
            return scores

        def side_by_side(batch: _Batch) -> torch.Tensor:
            parts, order = _parts(batch, lanes.count(classifier))
            return torch.cat(lanes.with_gradients(classifier, score, parts))[order]

        packing.take_packed(classifier, side_by_side)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        dataset = train_dataset or self.train_dataset
        step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return LengthGroupedSampler(step, lengths=list(dataset[self.args.length_column_name]))

    def compute_loss(self, model: Any, inputs: dict[str, Any], *rest: Any, **settings: Any) -> Any:
        """Return TRL's loss of the packed pairs."""

        def score(**batch: Any) -> SimpleNamespace:
            tensors = tuple(batch.get(name) for name in ("input_ids", "position_ids", "owners", "answers"))
            # Through whatever is wrapped around the model: it is what averages gradients over processes.
            with self.accelerator.autocast():
                return SimpleNamespace(logits=model(packed=tensors))  # (2 x pairs, 1)

        return super().compute_loss(score, inputs, *rest, **settings)


def _parts(batch: _Batch, lanes: int) -> tuple[list[_Batch], torch.Tensor]:
    """Divide packed rows into parts, and say where in the parts' answers, one part after the other, each answer is."""
    input_ids, position_ids, owners, answers = batch
    count, length = input_ids.shape
    size = -(-count // lanes)
    row = answers[:, 0] // length
    parts: list[_Batch] = []
    for start in range(0, count, size):
        rows = slice(start, start + size)
        own = answers[(row >= start) & (row < start + size)] - start * length
        parts.append((input_ids[rows], position_ids[rows], None if owners is None else owners[rows], own))
    return parts, (row // size).argsort(stable=True).argsort()
