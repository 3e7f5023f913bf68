"""Parts of a batch computed side by side on a CPU, each in a thread with its share of the cores.

torch divides every single operation over all cores. A small model's operations are too small for that: two cores work out
one product 1.6 times as fast as one core does, and what stands between the products no faster at all. A thread that passes
through the whole model with its part of the batch loses neither. The weights are there once, and the numbers are the same
up to rounding (`tests/unit/test_lanes.py`).

Elsewhere, such as on a GPU or in a process that has one core, parts are computed one after the other.
"""

import ctypes
import platform
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from itertools import chain, pairwise
from typing import Any, TypeVar

import torch

from rlhf_tuning.distributed import sharding

#: Measured with two cores. Python runs one thread at a time, so many more could not be fed.
_LANES = 2

#: Gradients are added up at the end, for which each lane holds a copy of its own; where all weights learn that is too much.
_MOST_LEARNING = 0.1

_Part = TypeVar("_Part")
_Found = TypeVar("_Found")

_thread = threading.local()


def count(model: Any) -> int:
    """Return how many parts of a batch this model computes side by side here.

    Args:
        model: Of torch.
    """
    if next(model.parameters()).device.type != "cpu" or sharding.has_shards(model) or hasattr(_thread, "lane"):
        return 1
    return min(_LANES, torch.get_num_threads())


def learns_side_by_side(model: Any) -> bool:
    """Say whether gradients are worked out side by side too."""
    weights = list(model.parameters())
    learning = sum(weight.numel() for weight in weights if weight.requires_grad)
    return count(model) > 1 and learning <= _MOST_LEARNING * sum(weight.numel() for weight in weights)


def shares(rows: Sequence[Any], lanes: int) -> list[slice]:
    """Divide rows into at most so many parts of about equal size; equal rows that are neighbours stay together."""
    cuts = [place for place in range(len(rows)) if place == 0 or rows[place] != rows[place - 1]] + [len(rows)]
    ends = sorted({min(cuts, key=lambda cut: abs(cut - len(rows) * lane / lanes)) for lane in range(lanes + 1)})
    return [slice(start, end) for start, end in pairwise(ends)]


def even_shares(sizes: Sequence[int], lanes: int) -> list[list[int]]:
    """Divide things of some sizes into at most so many shares of about equal size, the large ones first.

    Returns:
        The places of each share's.
    """
    shares: list[list[int]] = [[] for _ in range(min(lanes, len(sizes)))]
    filled = [0] * len(shares)
    for place in sorted(range(len(sizes)), key=lambda place: -sizes[place]):
        share = filled.index(min(filled))
        shares[share].append(place)
        filled[share] += sizes[place]
    return shares


def each(model: Any, work: Callable[[_Part], _Found], parts: Sequence[_Part]) -> Iterator[_Found]:
    """Yield what `work` finds for each part, in order, without gradients that go beyond it.

    Args:
        model: What `work` calls; its adapters and its mode stay as they are until all is found.
        work: Draws no random numbers.
        parts: Many, or of similar size.
    """
    lanes = min(count(model), len(parts))
    if lanes < 2:
        yield from map(work, parts)
        return
    threads = torch.get_num_threads()
    state = (torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu"))

    found: list[Future[_Found]] = [Future() for _ in parts]
    rest = iter(range(lanes, len(parts)))

    def compute(first: int) -> None:
        with _lane(threads // lanes, *state):
            for place in chain([first], rest):
                try:
                    found[place].set_result(work(parts[place]))
                except Exception as error:
                    found[place].set_exception(error)

    # MKL knows one number of threads for all.
    torch.set_num_threads(threads // lanes)
    # The same part is always the same thread's, because each thread has memory of its own that it does not give away.
    running = [thread.submit(compute, first) for first, thread in enumerate(_lane_threads()[:lanes])]
    try:
        for future in found:
            yield future.result()
    finally:
        list(rest)  # what nobody has begun is not wanted any more, where something went wrong
        wait(running)
        torch.set_num_threads(threads)


def with_gradients(model: Any, work: Callable[[_Part], torch.Tensor], parts: Sequence[_Part]) -> list[torch.Tensor]:
    """Return what `work` finds for each part, as tensors whose gradients reach the model's weights.

    Args:
        model: What `work` calls.
        work: Draws no random numbers; what it returns depends on nothing that learns but the model's weights.
        parts: Of similar size.
    """
    if not torch.is_grad_enabled():
        return list(each(model, work, parts))
    if len(parts) < 2 or not learns_side_by_side(model):
        return list(map(work, parts))
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return list(_WithGradients.apply(model, work, parts, *weights))  # type: ignore[no-untyped-call]


class _WithGradients(torch.autograd.Function):
    """A graph for each part, which the backward pass goes through side by side as well."""

    @staticmethod
    def forward(
        ctx: Any, model: Any, work: Callable[[Any], torch.Tensor], parts: Sequence[Any], *weights: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        def with_graph(part: Any) -> torch.Tensor:
            with torch.enable_grad():
                return work(part)

        ctx.model, ctx.weights = model, weights
        ctx.found = list(each(model, with_graph, parts))
        return tuple(found.detach() for found in ctx.found)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        def of_weights(part: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor | None, ...]:
            gradients: tuple[torch.Tensor | None, ...] = torch.autograd.grad(
                part[0], ctx.weights, part[1], allow_unused=True
            )
            return gradients

        found, ctx.found = ctx.found, None
        total: list[torch.Tensor | None] = [None] * len(ctx.weights)
        for part in each(ctx.model, of_weights, list(zip(found, gradients, strict=True))):
            for place, gradient in enumerate(part):
                if gradient is not None:
                    before = total[place]
                    total[place] = gradient if before is None else before + gradient
        return (None, None, None, *total)


def let_go() -> None:
    """Hand freed memory back to the system, for the other threads to have: glibc keeps it for the one that freed it."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def _lane(threads: int, gradients: bool, autocast: bool, dtype: torch.dtype) -> Iterator[None]:
    """Be in a lane, in the state that the caller is in: torch keeps it for each thread by itself."""
    torch.set_num_threads(threads)
    _thread.lane = True
    try:
        # What autocast keeps of weights it has cast is shared by all threads, and with it the graph that cast them.
        with torch.set_grad_enabled(gradients), torch.autocast("cpu", dtype, enabled=autocast, cache_enabled=False):
            yield
    finally:
        del _thread.lane


@cache
def _lane_threads() -> list[ThreadPoolExecutor]:
    return [ThreadPoolExecutor(1, thread_name_prefix=f"lane-{lane}") for lane in range(_LANES)]
