"""TRL's RewardTrainer with the prompt of a pair computed once for both answers.

TRL's loss and metrics stay; what its model is asked for comes from packed rows. Only the hidden state at each answer's last
token meets the score head.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from peft import PeftModel
from trl import RewardTrainer

from rlhf_tuning import packing


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


class PairTrainer(RewardTrainer):  # type: ignore[misc]
    """RewardTrainer over batches of `collate_pairs`, in one process."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], *rest: Any, **settings: Any) -> Any:
        """Return TRL's loss of the packed pairs."""
        classifier = self.accelerator.unwrap_model(model)
        if isinstance(classifier, PeftModel):
            classifier = classifier.get_base_model()

        def score(**batch: Any) -> SimpleNamespace:
            # The trunk is called past the model's own forward, which is where autocast would have been entered.
            with self.accelerator.autocast():
                hidden = packing.last_hidden(
                    classifier.base_model,
                    batch["input_ids"],
                    batch["position_ids"],
                    batch["visible"],
                    batch["answers"],
                )
                return SimpleNamespace(logits=classifier.score(hidden))  # (2 x pairs, 1)

        return super().compute_loss(score, inputs, *rest, **settings)
