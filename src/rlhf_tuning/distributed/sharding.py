"""A base model whose layers are divided over several processes, for one that does not fit on a GPU.

Of each layer's weights every GPU keeps a part; a layer is gathered where it is computed, in the forward and again in the
backward pass, and let go afterwards. That is torch's FSDP (`fully_shard`; Zhao et al. 2023, arXiv:2304.11277). What is
small is whole in every process: adapters, embeddings, the final norm and the output head. Where all weights learn, so are
divided each layer's gradients and what the optimizer keeps: FSDP averages these gradients over the processes after every
backward pass, so that nobody ever holds them all.

Weights that learn in float32 and are multiplied in bfloat16 are gathered in bfloat16, half as much to move: autocast would
round them just so. What a layer has beside its matrices (norms, biases) stays whole there, since autocast does not round it.
Such layers work in bfloat16 wherever they are called, also where a whole model is asked in float32: by the watch, and where
a reward model is measured.

Two things follow. A gathering takes all processes, so all must pass through the model equally often, though one may have
longer answers or fewer rows than another: `in_step`. And torch's DistributedDataParallel does not take such a model, so
`train_together` averages the gradients of what is whole and learns.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import distributed, nn

from rlhf_tuning import environment, step
from rlhf_tuning.distributed import processes

#: Models in which processes are kept in step now, by `id` of the trunk.
_in_step: set[int] = set()

#: Of the products of divided layers whose weights have another dtype, by trunk.
_products: WeakKeyDictionary[nn.Module, torch.dtype] = WeakKeyDictionary()


def is_sharded(weight: torch.Tensor) -> bool:
    """Say whether of a weight only a part is here."""
    from torch.distributed.tensor import DTensor

    return isinstance(weight, DTensor)


def has_shards(model: nn.Module) -> bool:
    """Say whether any of a model's weights is divided."""
    return environment.process_count() > 1 and any(is_sharded(weight) for weight in model.parameters())


def products(model: Any) -> torch.dtype:
    """Return the dtype in which a model works where nothing around it says otherwise.

    Args:
        model: A model of transformers, or its trunk; not wrapped in anything.
    """
    dtype: torch.dtype = _products.get(model.base_model, model.dtype)
    return dtype


def load_sharded(
    whole: Callable[[], Any], empty: Callable[[], Any], device: torch.device, *, compute: torch.dtype | None = None
) -> Any:
    """Return a model whose layers are divided over the processes.

    Args:
        whole: Loads it onto the CPU; called in the main process alone, which hands out the parts.
        empty: Makes it without weights, on the meta device.
        device: Where the parts go.
        compute: Of matrix products in its layers, wherever they are called; that of the weights when None.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    step.say(f"The model's layers are divided over {environment.process_count()} processes")
    full = whole() if environment.is_main_process() else None
    model = empty()
    _shard(model, compute, device)
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


def _shard(model: Any, compute: torch.dtype | None, device: torch.device) -> None:
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    trunk = model.base_model
    for layer in layers(model):
        if compute is None or compute == model.dtype:
            fully_shard(layer)
            continue
        # Gradients are summed up in float32, as they are in a single process.
        precision = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32, cast_forward_inputs=False)
        beside = {weight for weight in layer.parameters() if weight.ndim < 2}
        fully_shard(layer, mp_policy=precision, ignored_params=beside)
        layer.forward = torch.autocast(device.type, dtype=compute)(layer.forward)
        _products[trunk] = compute
    fully_shard(trunk, ignored_params=set(trunk.parameters()))


@contextmanager
def in_step(model: Any) -> Iterator[None]:
    """Let processes pass through a divided model as often as each needs: those that need less make empty passes.

    Every process must enter it, equally often. With a model that is whole nothing happens.

    Args:
        model: A model of transformers, or its trunk; not wrapped in anything.
    """
    trunk = model.base_model
    if id(trunk) in _in_step or not has_shards(trunk):
        yield
        return

    def go_on(*_: Any) -> None:
        processes.any_says(True)

    asking = trunk.register_forward_pre_hook(go_on)
    _in_step.add(id(trunk))
    try:
        yield
    finally:
        asking.remove()
        _in_step.discard(id(trunk))
    nothing = torch.zeros((1, 1), dtype=torch.long, device=trunk.device)
    with torch.no_grad():
        while processes.any_says(False):
            trunk(input_ids=nothing, use_cache=False)


def train_together(trainer: Any) -> None:
    """Have a trainer of a divided model average the gradients of what learns whole, which begins the same everywhere.

    The gradients of divided weights FSDP averages itself. The Trainer clips both kinds by one norm and gives each kind a
    group of its own in the optimizer, since torch's fused operations do not mix them. With a model that is whole nothing
    changes: accelerate wraps it in DistributedDataParallel.

    Args:
        trainer: One of transformers', with its model as it will learn.
    """
    model = trainer.model
    if not has_shards(model):
        return
    processes = environment.process_count()

    def average(gradient: torch.Tensor) -> torch.Tensor:
        mean = gradient / processes
        distributed.all_reduce(mean)
        return mean

    for weight in model.parameters():
        if weight.requires_grad and not is_sharded(weight):
            distributed.broadcast(weight.data, src=0)
            weight.register_hook(average)
    # What accelerate does beside wrapping.
    forward = model.forward

    def cast(*args: Any, **settings: Any) -> Any:
        with trainer.accelerator.autocast():
            return forward(*args, **settings)

    model.forward = cast
    model._is_accelerate_prepared = True


def whole_weights(model: Any) -> dict[str, torch.Tensor] | None:
    """Return the whole weights of a divided model, in the main process and the machine's memory; elsewhere none.

    Every process must call it. None where the model is whole, which has them.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    if not has_shards(model):
        return None
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights: dict[str, Any] = get_model_state_dict(model, options=options)
    return weights


def parts(model: Any) -> dict[str, torch.Tensor]:
    """Return what this process holds of a model's weights, by name; a change of it changes the model."""
    return {name: weight.to_local() if is_sharded(weight) else weight for name, weight in model.named_parameters()}


def as_part_of(weight: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """Return this process's part of something that is divided as a weight is, such as what an optimizer keeps of it."""
    from torch.distributed.tensor import DTensor

    assert isinstance(weight, DTensor)
    return DTensor.from_local(
        part.to(weight.device),
        weight.device_mesh,
        weight.placements,
        run_check=False,
        shape=weight.shape,
        stride=weight.stride(),
    )


def layers(model: Any) -> list[nn.Module]:
    """Return what of a model is sharded, before it is: its layers, which transformers names as not to be split further."""
    kinds = set(model._no_split_modules or ())
    return [module for module in model.base_model.modules() if type(module).__name__ in kinds]
