"""TRL's SFTTrainer without the work that its layout makes needless. Its loss, of the answers' tokens alone, is TRL's.

- Examples are packed into few rows, none seeing another, see `log_probabilities.pack_apart`; TRL pads each to the longest,
  or packs for kernels that keep examples apart, which not every machine has.
- The output head is applied where a token of an answer is predicted and nowhere else.
- A layer and its adapter are one function, see `linear`; on a CPU a part of the examples is computed beside the other, see
  `lanes`.

A step takes `batch_size` examples, also where the rows of the data begin anew.
"""

from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from trl import SFTTrainer

from rlhf_tuning import step
from rlhf_tuning.models import base_model
from rlhf_tuning.ops import linear, log_probabilities, packing
from rlhf_tuning.ops.padding import unpadded


class AnswerTrainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer of rows with `input_ids` and `labels`, which are those of an answer at the end.

    Args:
        order: The rows of every step of the training, one step after the other.
        args: TRL's settings.
        settings: TRL's arguments, by name.
    """

    def __init__(self, *, order: Sequence[int], args: Any, **settings: Any) -> None:
        # What keeps a mixture's experts equally busy in pretraining would here be learnt beside the answers.
        args.router_aux_loss_coef = 0.0
        super().__init__(args=args, **settings)
        self._order = order
        # The loss counts the tokens of a whole step, whatever the model's code says of itself.
        self.model_accepts_loss_kwargs = True
        causal_lm = base_model.causal_lm(self.model)
        packing.take_packed(causal_lm, partial(log_probabilities.of_parts, causal_lm, temperature=1.0))
        examples = self.train_dataset["input_ids"]
        trunk = causal_lm.base_model
        with self.accelerator.autocast():
            self._packs = packing.is_exact(trunk, packing.telling_apart(examples), longest=max(map(len, examples)))
        if not self._packs:
            step.say("This model's examples cannot share a row, so each has its own")
        linear.quicken(causal_lm)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return self._order

    def compute_loss(self, model: Any, inputs: dict[str, torch.Tensor], *rest: Any, **settings: Any) -> Any:
        """Return TRL's loss of the examples, packed."""
        labels = inputs["labels"]
        prompts, answers = unpadded(inputs["input_ids"], inputs["attention_mask"], labels != -100)
        parts, order = log_probabilities.pack_in_parts(self.model, prompts, answers, several=self._packs)

        def log_probs(**batch: Any) -> SimpleNamespace:
            # Through whatever is wrapped around the model: it is what averages gradients over processes.
            with self.accelerator.autocast():
                found, entropy = model(packed=parts)  # (examples, longest answer)
            return SimpleNamespace(
                log_probs=found[order],
                entropy=entropy[order],
                label_mask=labels != -100,
                is_top1=torch.zeros_like(labels),  # which would take the logits once more, and nobody asks for
            )

        return super().compute_loss(log_probs, inputs, *rest, **settings)
