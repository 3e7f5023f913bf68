"""A base model whose layers are divided over several processes, for one that does not fit on a GPU.

Of each layer's frozen weights every GPU keeps a part; a layer is gathered where it is computed, in the forward and again in
the backward pass, and let go afterwards. That is torch's FSDP (`fully_shard`; Zhao et al. 2023, arXiv:2304.11277). What is
small is whole in every process: adapters, embeddings, norms and the output head. So only LoRA tuning can be divided.

Two things follow. A gathering takes all processes, so all must pass through the model equally often, though one may have
longer answers or fewer rows than another: `in_step`. And torch's DistributedDataParallel does not take such a model, so
`train_together` averages the gradients of what learns.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed, nn

from rlhf_tuning import environment, step

#: Groups of processes whose flags are on a CPU, so that asking them does not wait for a GPU; made once in a process.
_flags: list[Any] = []

#: Models in which processes are kept in step now, by `id` of the trunk.
_in_step: set[int] = set()


def is_sharded(weight: torch.Tensor) -> bool:
    """Say whether of a weight only a part is here."""
    from torch.distributed.tensor import DTensor

    return isinstance(weight, DTensor)


def _has_shards(model: nn.Module) -> bool:
    return any(is_sharded(weight) for weight in model.parameters())


def load_sharded(whole: Callable[[], Any], empty: Callable[[], Any], device: torch.device) -> Any:
    """Return a model whose layers are divided over the processes.

    Args:
        whole: Loads it onto the CPU; called in the main process alone, which hands out the parts.
        empty: Makes it without weights, on the meta device.
        device: Where the parts go.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    step.say(f"The model's layers are divided over {environment.process_count()} processes")
    full = whole() if environment.is_main_process() else None
    model = empty()
    _shard(model)
    model.to_empty(device=device)
    model.tie_weights()
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(model, {} if full is None else full.state_dict(), options=options)
    # Those that are worked out, not stored, are in no state dictionary.
    buffers = dict(full.named_buffers()) if full is not None else {}
    for name, buffer in model.named_buffers():
        if full is not None:
            buffer.copy_(buffers[name])
        distributed.broadcast(buffer, src=0)
    if model.can_generate():
        settings = [None if full is None else full.generation_config]
        distributed.broadcast_object_list(settings, src=0)
        (model.generation_config,) = settings
    return model.eval()


def _shard(model: Any) -> None:
    from torch.distributed.fsdp import fully_shard

    parts = layers(model)
    sharded = {weight for layer in parts for weight in layer.parameters()}
    for layer in parts:
        fully_shard(layer)
    trunk = model.base_model
    fully_shard(trunk, ignored_params={weight for weight in trunk.parameters() if weight not in sharded})


@contextmanager
def in_step(model: Any) -> Iterator[None]:
    """Let processes pass through a divided model as often as each needs: those that need less make empty passes.

    Every process must enter it, equally often. With a model that is whole nothing happens.

    Args:
        model: A model of transformers, or its trunk; not wrapped in anything.
    """
    trunk = model.base_model
    if id(trunk) in _in_step or not _has_shards(trunk):
        yield
        return

    def go_on(*_: Any) -> None:
        _any_goes_on(True)

    asking = trunk.register_forward_pre_hook(go_on)
    _in_step.add(id(trunk))
    try:
        yield
    finally:
        asking.remove()
        _in_step.discard(id(trunk))
    nothing = torch.zeros((1, 1), dtype=torch.long, device=trunk.device)
    with torch.no_grad():
        while _any_goes_on(False):
            trunk(input_ids=nothing, use_cache=False)


def _any_goes_on(this: bool) -> bool:
    """Ask all processes whether any has a pass to make."""
    if not _flags:
        _flags.append(distributed.new_group(backend="gloo"))
    flag = torch.tensor([int(this)])
    distributed.all_reduce(flag, op=distributed.ReduceOp.MAX, group=_flags[0])
    return bool(flag.item())


def train_together(trainer: Any) -> None:
    """Have a trainer of a divided model average the gradients of what learns, which begins the same in every process.

    With a model that is whole nothing changes: accelerate wraps it in DistributedDataParallel.

    Args:
        trainer: One of transformers', with its model as it will learn.
    """
    model = trainer.model
    if not _has_shards(model):
        return
    processes = environment.process_count()

    def average(gradient: torch.Tensor) -> torch.Tensor:
        mean = gradient / processes
        distributed.all_reduce(mean)
        return mean

    for weight in model.parameters():
        if weight.requires_grad:
            distributed.broadcast(weight.data, src=0)
            weight.register_hook(average)
    # What accelerate does beside wrapping.
    forward = model.forward

    def cast(*args: Any, **settings: Any) -> Any:
        with trainer.accelerator.autocast():
            return forward(*args, **settings)

    model.forward = cast
    model._is_accelerate_prepared = True


def layers(model: Any) -> list[nn.Module]:
    """Return what of a model is sharded, before it is: its layers, which transformers names as not to be split further."""
    kinds = set(model._no_split_modules or ())
    return [module for module in model.base_model.modules() if type(module).__name__ in kinds]
