"""The weights of the best checkpoint while a trainer goes on: kept, and put back."""

from pathlib import Path
from typing import Any

import torch

from rlhf_tuning import environment
from rlhf_tuning.distributed import sharding


class BestWeights:
    """Keeps what learns of a model.

    Of several processes the main one, which saves the model, keeps it; of a plain model that is divided each keeps its part.

    Args:
        model: The model that learns: a PeftModel with its adapter named `default`, or a plain one.
        scratch: A folder of this process for the weights of a plain model; an adapter's are kept in memory.
    """

    def __init__(self, model: Any, scratch: str) -> None:
        from peft import PeftModel

        self._model, self._file = model, Path(scratch) / "best.pt"
        self._lora = isinstance(model, PeftModel)
        self._keeps = environment.is_main_process() or (not self._lora and sharding.has_shards(model))
        self._adapter: dict[str, torch.Tensor] = {}

    def keep(self) -> None:
        """Keep the weights of now."""
        if not self._keeps:
            return
        if not self._lora:
            torch.save(sharding.parts(self._model), self._file)
            return
        from peft import get_peft_model_state_dict

        # The trainer's steps change these tensors in place.
        weights = get_peft_model_state_dict(self._model, adapter_name="default")
        self._adapter = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the kept weights, for a checkpoint; nothing where none are kept."""
        if self._lora or not self._file.exists():
            return self._adapter
        kept: dict[str, torch.Tensor] = torch.load(self._file, weights_only=True, map_location="cpu", mmap=True)
        return kept

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Keep those that a checkpoint had."""
        if self._lora:
            self._adapter = state
        elif state:
            torch.save(state, self._file)

    def restore(self) -> None:
        """Put the kept weights back."""
        if not self._keeps:
            return
        if not self._lora:
            kept = torch.load(self._file, weights_only=True, map_location="cpu")
            with torch.no_grad():
                for name, weight in sharding.parts(self._model).items():
                    weight.copy_(kept[name])
            return
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(self._model, self._adapter, adapter_name="default")
