"""The weights of a model as they were at its best step, to be put back when the training is over."""

from pathlib import Path
from typing import Any

import torch

from rlhf_tuning import environment
from rlhf_tuning.distributed import sharding


class KeptWeights:
    """Keeps the weights of one step: of a PeftModel its adapter named `default`, in memory; of a plain model all, on disk.

    Of several processes the main one keeps an adapter, as it saves it. Of a plain model that is divided each keeps its part.

    Args:
        model: The model that learns.
        scratch: A folder of this process.
    """

    def __init__(self, model: Any, scratch: str) -> None:
        from peft import PeftModel

        self._model = model
        self._lora = isinstance(model, PeftModel)
        self._keeps = environment.is_main_process() or (not self._lora and sharding.has_shards(model))
        self._file = Path(scratch) / "best.pt"
        self._adapter: dict[str, torch.Tensor] = {}

    def keep(self) -> None:
        """Keep the weights as they are now, in the place of what was kept before."""
        if not self._keeps:
            return
        if not self._lora:
            torch.save(sharding.parts(self._model), self._file)
            return
        from peft import get_peft_model_state_dict

        # The trainer's steps change these tensors in place.
        weights = get_peft_model_state_dict(self._model, adapter_name="default")
        self._adapter = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}

    def restore(self) -> None:
        """Put back what was kept."""
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
