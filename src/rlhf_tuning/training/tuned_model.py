"""Saving what was tuned, whatever the method: the model as plain transformers loads it, and the settings."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rlhf_tuning import registry
from rlhf_tuning.models import base_model


def save_tuned_model(
    model: Any,
    weights: Mapping[str, torch.Tensor] | None,
    tokenizer: Any,
    settings: Mapping[str, Any],
    *,
    adapter_dir: str,
    model_dir: str,
) -> None:
    """Save a tuned model and the settings of its training.

    An adapter, which is saved already, is merged into the base weights as they are stored, not into the bfloat16 copy that
    was trained on, which would round away a good part of what was learnt.

    Args:
        model: With all weights tuned; None for one with an adapter, which is loaded anew.
        weights: Of a model that is divided over processes, whole.
        tokenizer: Goes with it.
        settings: Of the training, with `large_model_reference` and `dtype`.
        adapter_dir: Has the adapter, if there is one; gets the settings.
        model_dir: Gets the model.
    """
    Path(adapter_dir).mkdir(parents=True, exist_ok=True)
    if model is None:
        reference = settings["large_model_reference"]
        # In the machine's memory where a GPU has too little.
        on_cpu = base_model.is_too_large(reference, base_model.choose_dtype(settings["dtype"]))
        base = base_model.load_causal_lm(reference, dtype="auto", on_cpu=on_cpu)
        model = merged(base, adapter_dir)
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(model_dir, state_dict=weights)
    tokenizer.save_pretrained(model_dir)
    (Path(adapter_dir) / registry.TUNING_SETTINGS).write_text(
        json.dumps(dict(settings), indent=2) + "\n", encoding="utf-8"
    )


def merged(base: Any, adapter_dir: str) -> Any:
    """Return a base model with an adapter merged into it.

    An adapter on embeddings leaves the output head as it is. Where both are one weight they part, and so they are saved.
    """
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

    model = PeftModel.from_pretrained(base, adapter_dir, torch_device="cpu")
    embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
    if isinstance(embedding, BaseTunerLayer) and embedding.weight is head.weight:
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
        base.config.get_text_config().tie_word_embeddings = base.config.tie_word_embeddings = False
    return model.merge_and_unload()
