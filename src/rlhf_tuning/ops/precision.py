"""A model computed in float32, whatever its weights are kept in.

Nothing is rounded then but what was rounded when they were saved: what shorter products do, and other layouts, shows.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from rlhf_tuning.distributed import sharding


@contextmanager
def in_float32(model: Any, device: torch.device) -> Iterator[None]:
    """Let a model compute in float32 on a device, a layer at a time, from weights that stay as and where they are.

    So a GPU needs room for one layer, embeddings and output head.

    Args:
        model: A model of transformers, or its trunk, whole in this process.
        device: Where it computes.
    """
    layers = sharding.layers(model)
    inside = {id(part) for layer in layers for part in _parts(layer)}
    beside = [part for part in _parts(model) if id(part) not in inside]
    handles = []
    kept = _placed(beside, device)
    for layer in layers:
        held: list[tuple[torch.Tensor, torch.Tensor]] = []

        def before(layer: nn.Module, _: object, held: list[Any] = held) -> None:
            held += _placed(_parts(layer), device)

        def after(layer: nn.Module, _: object, __: object, held: list[Any] = held) -> None:
            _put_back(held)

        handles += [layer.register_forward_pre_hook(before), layer.register_forward_hook(after, always_call=True)]
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for handle in handles:
            handle.remove()
        _put_back(kept)


def _parts(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


def _placed(parts: Sequence[torch.Tensor], device: torch.device) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Move tensors, in float32 where they are of a smaller float; return each with what it held."""
    held = [(part, part.data) for part in parts]
    for part, data in held:
        part.data = data.to(device, torch.float32 if data.dtype in (torch.bfloat16, torch.float16) else data.dtype)
    return held


def _put_back(held: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    for part, data in held:
        part.data = data
    held.clear()
