"""TRL's RewardTrainer with the prompt of a pair computed once for both answers.

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


def collate_pairs(examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Pack each pair into a row; `answers` lists the chosen ones first, then the rejected ones, as TRL does."""
    packed = packing.pack(
        [packing.share_beginning([example["chosen_ids"], example["rejected_ids"]]) for example in examples]
    )
    return {
        "input_ids": packed.input_ids,
        "position_ids": packed.position_ids,
        "visible": packed.visible,
        "answers": torch.cat([packed.answers[::2], packed.answers[1::2]]),
        # TRL counts tokens by it.
        "attention_mask": packed.real.long(),
    }


class StepTrainer(RewardTrainer):  # type: ignore[misc]
    """RewardTrainer whose steps take the same pairs in however many processes."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        dataset = train_dataset or self.train_dataset
        step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return LengthGroupedSampler(step, lengths=list(dataset[self.args.length_column_name]))


class PairTrainer(StepTrainer):
    """RewardTrainer over batches of `collate_pairs`."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        classifier = base_model.causal_lm(self.model)

        def score(batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
            scores: torch.Tensor = classifier.score(packing.last_hidden(classifier.base_model, *batch))
            return scores

        def side_by_side(batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
            parts, order = _parts(batch, lanes.count(classifier))
            return torch.cat(lanes.with_gradients(classifier, score, parts))[order]

        packing.take_packed(classifier, side_by_side)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *rest: Any, **settings: Any) -> Any:
        """Return TRL's loss of the packed pairs."""

        def score(**batch: Any) -> SimpleNamespace:
            tensors = tuple(batch[name] for name in ("input_ids", "position_ids", "visible", "answers"))
            # Through whatever is wrapped around the model: it is what averages gradients over processes.
            with self.accelerator.autocast():
                return SimpleNamespace(logits=model(packed=tensors))  # (2 x pairs, 1)

        return super().compute_loss(score, inputs, *rest, **settings)


def _parts(batch: tuple[torch.Tensor, ...], lanes: int) -> tuple[list[tuple[torch.Tensor, ...]], torch.Tensor]:
    """Divide packed rows into parts, and say where in the parts' answers, one part after the other, each answer is."""
    input_ids, position_ids, visible, answers = batch
    count, length = input_ids.shape
    size = -(-count // lanes)
    row = answers[:, 0] // length
    parts: list[tuple[torch.Tensor, ...]] = []
    for start in range(0, count, size):
        rows = slice(start, start + size)
        own = answers[(row >= start) & (row < start + size)] - start * length
        parts.append((input_ids[rows], position_ids[rows], visible[rows], own))
    return parts, (row // size).argsort(stable=True).argsort()
