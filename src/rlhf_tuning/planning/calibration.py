"""What this machine has: memory, and how fast it is at a model's own products and at the rest."""

import time
from collections.abc import Callable
from typing import Any

from rlhf_tuning import machine
from rlhf_tuning.models.architecture import Architecture
from rlhf_tuning.planning.forecast import Hardware

#: Assumed, not measured: what share of a lone product's speed training reaches on a GPU.
_GPU_SHARE = 0.55
_SECONDS = 0.6
#: No side of the product is longer, so that a large model is as quick to calibrate for.
_LONGEST = 8192


def this_machine(
    model: Architecture, *, tokens: int, dtype: str, clock: Callable[[], float] = time.perf_counter
) -> Hardware:
    """Measure what the machine at hand has for a model.

    Args:
        model: Its hidden and intermediate sizes are those of the product.
        tokens: Rows of the product: the tokens of a micro-batch.
        dtype: As the pipeline's parameter.
        clock: Seconds; the processor's, where others use the machine.
    """
    import torch

    from rlhf_tuning.models import base_model
    from rlhf_tuning.ops import lanes, linear

    device, compute = base_model.device(), base_model.choose_dtype(dtype)
    gpu = device.type == "cuda"
    rows, hidden, intermediate = (min(size, _LONGEST) for size in (tokens, model.hidden, model.intermediate))
    left = torch.randn(rows, hidden, device=device).to(compute)
    layer = torch.nn.Linear(hidden, intermediate, bias=False, device=device, dtype=compute)
    beside = lanes.count(layer)

    def multiply(rows: torch.Tensor) -> torch.Tensor:
        return linear.multiply(rows, layer.weight)

    with torch.no_grad():
        product = _seconds(lambda: list(lanes.each(layer, multiply, [left] * beside)), clock, gpu)
    block = torch.ones(2**27 if gpu else 2**25, device=device)
    target = torch.empty_like(block)
    copying = _seconds(lambda: target.copy_(block), clock, gpu)
    exponentials = _seconds(lambda: torch.exp(block, out=target), clock, gpu)
    bytes_moved = 2 * block.numel() * block.element_size()
    flops = beside * 2 * rows * hidden * intermediate / product
    return Hardware(
        name=torch.cuda.get_device_name() if gpu else "this machine",
        devices=torch.cuda.device_count() if gpu else 1,
        memory=float(torch.cuda.get_device_properties(0).total_memory if gpu else machine.memory()),
        flops=flops * (_GPU_SHARE if gpu else 1),
        bandwidth=bytes_moved / copying,
        elementwise=bytes_moved / exponentials,
        link=32e9,  # PCIe, which every machine has at the least
        number_bytes=compute.itemsize,
        cpu=not gpu,
        processor=_words(gpu),
        measured=True,
    )


def _words(gpu: bool) -> str:
    import torch

    if gpu:
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    threads = torch.get_num_threads()
    return f"{threads} core{'s' if threads > 1 else ''}, {torch.backends.cpu.get_cpu_capability()}"


def _seconds(work: Callable[[], Any], clock: Callable[[], float], gpu: bool) -> float:
    """Return the quickest of as many repetitions as fit into some time: what else runs only slows them down."""
    import torch

    work()
    best, began = float("inf"), time.monotonic()
    while best == float("inf") or time.monotonic() - began < _SECONDS:
        if gpu:
            torch.cuda.synchronize()
        start = clock()
        work()
        if gpu:
            torch.cuda.synchronize()
        best = min(best, clock() - start)
    return best
