"""TRL's RewardTrainer with the prompt of a pair computed once for both answers, where the model can share it.

TRL's loss and metrics stay; what its model is asked for comes from packed rows. Only the hidden state at each answer's last
token meets the score head. Where there is feedback on single answers, beside pairs or alone, `JudgementTrainer` adds its
loss, see `cumulative_link`.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn.functional import logsigmoid
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import RewardTrainer

from rlhf_tuning.models import base_model
from rlhf_tuning.ops import lanes, packing
from rlhf_tuning.training import cumulative_link
from rlhf_tuning.training.cumulative_link import Cuts

#: The tensors of `packing.last_hidden`.
_Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]


def collate_pairs(examples: Sequence[dict[str, Any]], *, share: bool) -> dict[str, torch.Tensor]:
    """Pack each pair into a row, or without `share` each answer.

    `answers` lists the chosen ones first, then the rejected ones, as TRL does, whose loss takes `margin` too.
    """
    return _collated(examples, [], share=share)


def collate_judgements(examples: Sequence[dict[str, Any]], *, share: bool) -> dict[str, torch.Tensor]:
    """Do as `collate_pairs`, with the single answers of feedback behind all pairs: those without `rejected_ids`."""
    pairs = [example for example in examples if example["rejected_ids"]]
    singles = [example for example in examples if not example["rejected_ids"]]
    levels = torch.tensor([(example["below"], example["above"]) for example in singles], dtype=torch.long)
    return {**_collated(pairs, singles, share=share), "levels": levels.reshape(-1, 2)}


def _collated(
    pairs: Sequence[dict[str, Any]], singles: Sequence[dict[str, Any]], *, share: bool
) -> dict[str, torch.Tensor]:
    both = [[pair[name] for pair in pairs] for name in ("chosen_ids", "rejected_ids")]
    alone: list[packing.Group] = [([], [single["chosen_ids"]]) for single in singles]
    if share:
        packed = packing.pack([*(packing.share_beginning(pair) for pair in zip(*both, strict=True)), *alone])
        of_pairs = packed.answers[: 2 * len(pairs)]
        answers = torch.cat([of_pairs[::2], of_pairs[1::2], packed.answers[2 * len(pairs) :]])
    else:
        packed = packing.pack([*(([], [ids]) for ids in both[0] + both[1]), *alone])
        answers = packed.answers
    tensors = {
        "input_ids": packed.input_ids,
        "position_ids": packed.position_ids,
        "answers": answers,
        "margin": torch.tensor([pair["margin"] for pair in pairs]),
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
            return SimpleNamespace(logits=self._scores(model, batch))  # (2 x pairs, 1)

        return super().compute_loss(score, inputs, *rest, **settings)

    def _scores(self, model: Any, batch: dict[str, Any]) -> torch.Tensor:
        tensors = tuple(batch.get(name) for name in ("input_ids", "position_ids", "owners", "answers"))
        # Through whatever is wrapped around the model: it is what averages gradients over processes.
        with self.accelerator.autocast():
            scores: torch.Tensor = model(packed=tensors)
        return scores


class JudgementTrainer(PairTrainer):
    """PairTrainer over batches of `collate_judgements`. The loss is the mean over rows, each a pair or a single answer.

    Args:
        cuts: Learnt beside the model.
        settings: As of PairTrainer.
    """

    def __init__(self, *args: Any, cuts: Cuts, **settings: Any) -> None:
        super().__init__(*args, **settings)
        # Where the optimizer and checkpoints find it.
        self.model.cuts = cuts.to(self.args.device)

    def create_optimizer(self, *args: Any) -> Any:
        """Let cuts move in a step as far as scores do, to which every weight of the head adds its own step."""
        values = self.model.cuts.values
        values.requires_grad_(False)
        optimizer = super().create_optimizer(*args)
        values.requires_grad_(True)
        rate = self.args.learning_rate * base_model.causal_lm(self.model).config.get_text_config().hidden_size
        optimizer.add_param_group({"params": [values], "lr": rate, "weight_decay": 0.0})
        return optimizer

    def compute_loss(self, model: Any, inputs: dict[str, Any], *rest: Any, **settings: Any) -> Any:
        """Return the mean of the pairs' and the single answers' losses."""
        scores = self._scores(model, inputs)[:, 0]  # (2 x pairs + singles,)
        pairs = len(inputs["margin"])
        chosen, rejected, alone = scores[:pairs], scores[pairs : 2 * pairs], scores[2 * pairs :]
        below, above = self.model.cuts()[inputs["levels"]].unbind(1)
        of_pairs = -logsigmoid(chosen - rejected - inputs["margin"])
        found = torch.cat([of_pairs, cumulative_link.losses(alone, below, above)])
        with torch.no_grad():
            right = torch.cat([chosen > rejected, (below < alone) & (alone < above)])
            shown = {"accuracy": right.float().mean(), "mean_reward": scores.mean()}
            for name, value in shown.items():
                self._metrics["train"][name].append(self.accelerator.gather(value).mean().item())
        # In every pass all that learns has a part, as several processes need it.
        return found.mean() + 0 * self.model.cuts.values.sum()


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
