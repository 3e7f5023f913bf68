"""TRL's KTOTrainer without the work that its layout makes needless. Its loss and metrics are TRL's.

- Examples are packed into few rows, none seeing another, see `log_probabilities.pack_apart`.
- The reference is asked once, before the first step: its log-probabilities come with the rows. No copy of the model is kept
  for it, also where all weights learn.
- The output head is applied where a token of an answer is predicted and nowhere else.
- A layer and its adapter are one function, see `linear`; on a CPU a part of the examples is computed beside the other, see
  `lanes`.

The reference point, by which a loss is shifted, is that of the whole step, and not of the few examples that go through the
model at once: so results do not depend on how many these are, and are what TRL has where a step is one pass.
"""

from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from trl import KTOTrainer

from rlhf_tuning import step
from rlhf_tuning.models import base_model
from rlhf_tuning.ops import linear, log_probabilities, packing
from rlhf_tuning.ops.padding import placed, unpadded
from rlhf_tuning.training.preference_trainer import InTheRows

#: Examples of a pass that TRL asks for, since its reference point is of these.
_LEAST = 2


class FeedbackTrainer(KTOTrainer):  # type: ignore[misc]
    """KTOTrainer of rows in the order of the steps.

    They have `prompt_ids`, `completion_ids`, `label`, `ref_logps`, and of the reference point `KL_completion_ids` and
    `ref_KL_logps`.

    Args:
        model: A causal language model.
        args: TRL's settings.
        settings: TRL's arguments, by name.
    """

    def __init__(self, *, model: Any, args: Any, **settings: Any) -> None:
        # What keeps a mixture's experts equally busy in pretraining would here be learnt beside the feedback.
        args.router_aux_loss_coef = 0.0
        rows = args.per_device_train_batch_size
        args.per_device_train_batch_size = max(rows, _LEAST)
        super().__init__(model=model, ref_model=InTheRows(model.config), args=args, **settings)
        args.per_device_train_batch_size = rows
        self._train_batch_size = args.train_batch_size
        self.ref_model, self.precompute_ref_logps = None, True
        causal_lm = base_model.causal_lm(self.model)
        packing.take_packed(causal_lm, partial(log_probabilities.of_parts, causal_lm, temperature=1.0))
        examples = [row["prompt_ids"] + row["completion_ids"] for row in self.train_dataset]
        longest = max(len(row["prompt_ids"]) + len(row["KL_completion_ids"]) for row in self.train_dataset)
        longest = max(longest, *map(len, examples))
        with self.accelerator.autocast():
            self._packs = packing.is_exact(causal_lm.base_model, packing.telling_apart(examples), longest=longest)
        if not self._packs:
            step.say("This model's examples cannot share a row, so each has its own")
        linear.quicken(causal_lm)

    def _prepare_dataset(self, dataset: Any, *rest: Any) -> Any:
        return dataset

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """Return the passes of a step, which know its reference point: by how much likelier its other answers became."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        ask = partial(self._asked, self.model_wrapped)
        risen = [
            super(FeedbackTrainer, self)._compute_kl_logps(ask, batch) - batch["ref_KL_logps"] for batch in batches
        ]
        for batch in batches:
            batch["KL_logps"] = torch.cat(risen).mean().expand_as(batch["ref_KL_logps"])
            batch["ref_KL_logps"] = torch.zeros_like(batch["ref_KL_logps"])
        return batches, items

    def _compute_kl_logps(self, model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return batch["KL_logps"]

    def compute_loss(self, model: Any, inputs: dict[str, torch.Tensor], *rest: Any, **settings: Any) -> Any:
        """Return TRL's loss of the examples, packed."""
        return super().compute_loss(partial(self._asked, model), inputs, *rest, **settings)

    def _asked(self, model: Any, *, labels: torch.Tensor, **batch: Any) -> SimpleNamespace:
        """Return what TRL asks a model for."""
        of_answers = labels != -100
        prompts, answers = unpadded(batch["input_ids"], batch["attention_mask"], of_answers)
        of_answers = of_answers[:, 1:]  # as TRL has log-probabilities: where a token is predicted
        parts, order = log_probabilities.pack_in_parts(self.model, prompts, answers, several=self._packs)
        # Through whatever is wrapped around the model: it is what averages gradients over processes.
        with self.accelerator.autocast():
            found, entropy = model(packed=parts)  # (examples, longest answer)
        return SimpleNamespace(
            log_probs=placed(found[order], answers, of_answers),
            entropy=placed(entropy[order], answers, of_answers),
            # Which would take the logits once more, and nobody asks for.
            mean_logits=torch.zeros_like(of_answers, dtype=torch.float32),
        )
