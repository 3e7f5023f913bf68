"""TRL's DPOTrainer without the work that its layout makes needless. Its losses and metrics are TRL's, with margins beside.

- The prompt of a pair is computed once for both answers, where the model can share it (`packing.is_exact`).
- The reference is asked once, before the first step: its log-probabilities come with the rows. No copy of the model is kept
  for it, also where all weights learn.
- The output head is applied where a token of an answer is predicted and nowhere else.
- A layer and its adapter are one function, see `linear`; on a CPU some pairs are computed beside the others, see `lanes`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from trl import DPOTrainer

from rlhf_tuning.models import base_model
from rlhf_tuning.ops import lanes, linear, log_probabilities, packing
from rlhf_tuning.ops.padding import placed, unpadded
from rlhf_tuning.training.preference_loss import nats_for


class PreferenceTrainer(DPOTrainer):  # type: ignore[misc]
    """DPOTrainer of rows with `prompt_ids`, both answers' ids and `ref_..._logps`, and a `margin` (see `preference_loss`).

    Args:
        order: The rows of every step of the training, one step after the other.
        share: Whether both answers of a pair share a row, and with it the prompt.
        model: A causal language model.
        args: TRL's settings.
        settings: TRL's arguments, by name.
    """

    def __init__(self, *, order: Sequence[int], share: bool, model: Any, args: Any, **settings: Any) -> None:
        # What keeps a mixture's experts equally busy in pretraining would here be learnt beside the preferences.
        args.router_aux_loss_coef = 0.0
        args.remove_unused_columns = False
        super().__init__(model=model, ref_model=InTheRows(model.config), args=args, **settings)
        self.ref_model, self.precompute_ref_logps = None, True
        self._order, self._share = order, share
        self.data_collator: Any = partial(_with_margins, self.data_collator)
        causal_lm = base_model.causal_lm(self.model)
        packing.take_packed(causal_lm, partial(log_probabilities.of_parts, causal_lm, temperature=1.0))
        linear.quicken(causal_lm)

    def _prepare_dataset(self, dataset: Any, *rest: Any) -> Any:
        return dataset

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return self._order

    def compute_loss(self, model: Any, inputs: dict[str, torch.Tensor], *rest: Any, **settings: Any) -> Any:
        """Return TRL's loss of the pairs, packed.

        TRL's losses know no margins, so what a margin asks for counts as nats that the rejected answer has yet to lose.
        """
        of_answers = inputs["completion_mask"].bool()
        prompts, answers = unpadded(inputs["input_ids"], inputs["attention_mask"], of_answers)
        of_answers = of_answers[:, 1:]  # as TRL has log-probabilities: where a token is predicted
        pairs = len(prompts) // 2
        together = lanes.count(self.model) if lanes.learns_side_by_side(self.model) else 1
        sizes = [len(prompts[pair]) + len(answers[pair]) + len(answers[pairs + pair]) for pair in range(pairs)]
        # Both answers of a pair beside each other: TRL has all chosen ones first.
        shares = [
            [row for pair in share for row in (pair, pairs + pair)] for share in lanes.even_shares(sizes, together)
        ]
        order = torch.tensor([row for share in shares for row in share], device=of_answers.device).argsort()
        width = max(map(len, answers))
        references = torch.cat([inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]])  # (answers,)

        def log_probs(**batch: Any) -> SimpleNamespace:
            parts = [
                log_probabilities.pack(
                    [prompts[row] for row in share],
                    [answers[row] for row in share],
                    device=of_answers.device,
                    width=width,
                    share=self._share,
                )
                for share in shares
            ]
            # Through whatever is wrapped around the model: it is what averages gradients over processes.
            with self.accelerator.autocast():
                found, entropy = model(packed=parts)  # (answers, longest answer)
            rewards.append(self.beta * (placed(found.detach()[order], answers, of_answers).sum(dim=1) - references))
            return SimpleNamespace(
                log_probs=placed(found[order], answers, of_answers),
                entropy=placed(entropy[order], answers, of_answers),
                # Which would take the logits once more, and nobody asks for.
                mean_logits=torch.zeros_like(of_answers, dtype=torch.float32),
                is_top1=torch.zeros_like(of_answers),
            )

        rewards: list[torch.Tensor] = []
        given = {name: value for name, value in inputs.items() if name != "margin"}
        given["ref_rejected_logps"] = inputs["ref_rejected_logps"] - nats_for(
            inputs["margin"],
            rejected_tokens=inputs["completion_mask"][pairs:].sum(dim=1),
            loss_type=self.loss_types[0],
            beta=self.beta,
        )
        loss = super().compute_loss(log_probs, given, *rest, **settings)
        self._count(*rewards[0].chunk(2))
        return loss

    def _count(self, chosen: torch.Tensor, rejected: torch.Tensor) -> None:
        """Put the rewards as they are, (pairs,) each, in the place of those that margins have moved."""
        chosen, rejected = self.accelerator.gather((chosen, rejected))
        counted = {
            "rewards/rejected": rejected,
            "rewards/margins": chosen - rejected,
            "rewards/accuracies": (chosen > rejected).float(),
        }
        for name, values in counted.items():
            self._metrics["train"][name][-1] = values.mean().item()


def _with_margins(collate: Callable[[Sequence[dict[str, Any]]], dict[str, Any]], rows: Sequence[dict[str, Any]]) -> Any:
    return collate(rows) | {"margin": torch.tensor([row["margin"] for row in rows])}


class InTheRows(nn.Module):
    """What TRL takes for a reference, so that it loads none: the rows hold what it would be asked for."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
