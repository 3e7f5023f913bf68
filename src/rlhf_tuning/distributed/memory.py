"""How much memory this process's GPU still has, and whether it has run out once: then half as much goes through at a time.

A CPU's memory says nothing of that kind beforehand.
"""

import gc
import math
from collections.abc import Iterator
from contextlib import contextmanager

_halved = False


def free() -> float:
    """Return the bytes that this process can still take of its GPU; infinite without one."""
    import torch

    if not torch.cuda.is_available():
        return math.inf
    kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return float(torch.cuda.mem_get_info()[0] + kept)


def has_run_out() -> bool:
    """Say whether this is the second attempt, after memory had run out in the first."""
    return _halved


def at_a_time(most: int) -> int:
    """Return how many rows go through a model at a time: all of `most`, or half of them in the second attempt."""
    return max(1, most // 2) if _halved else most


@contextmanager
def halved() -> Iterator[None]:
    """Make what happens meanwhile the second attempt."""
    import torch

    global _halved
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    _halved = True
    try:
        yield
    finally:
        _halved = False
