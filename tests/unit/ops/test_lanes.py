"""Parts of a batch computed side by side."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import nn

from rlhf_tuning.ops import lanes


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def network(*, learns: bool = True) -> nn.Module:
    """A large frozen layer before a small one."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 512), nn.Tanh(), nn.Linear(512, 4))
    model[0].requires_grad_(False)
    model[2].requires_grad_(learns)
    return model


def test_parts_are_computed_in_threads_of_one_core_each() -> None:
    meeting = threading.Barrier(2, timeout=60)  # broken unless both parts are worked on at a time

    def work(part: int) -> tuple[str, int]:
        meeting.wait()
        return threading.current_thread().name, torch.get_num_threads()

    found = list(lanes.each(network(), work, [0, 1]))
    assert len({name for name, _ in found}) == 2
    assert [threads for _, threads in found] == [1, 1]
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("state", [torch.no_grad, nullcontext, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_a_lane_is_in_the_state_of_its_caller(state: Callable[[], AbstractContextManager[Any]]) -> None:
    def seen(part: int) -> tuple[bool, bool]:
        return torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")

    with state():
        assert list(lanes.each(network(), seen, [0, 1])) == [seen(0), seen(1)]


def test_results_come_in_order_as_they_are_known() -> None:
    later = threading.Event()

    def work(part: int) -> int:
        if part == 1:
            assert later.wait(timeout=60)  # set once the first has been seen
        return part

    found = lanes.each(network(), work, [0, 1, 2, 3])
    assert next(found) == 0
    later.set()
    assert list(found) == [1, 2, 3]


def test_lanes_have_no_lanes_of_their_own() -> None:
    model = network()
    assert list(lanes.each(model, lambda _: lanes.count(model), [0, 1])) == [1, 1]
    assert lanes.count(model) == 2


def test_a_process_of_one_thread_computes_one_part_after_the_other() -> None:
    torch.set_num_threads(1)
    assert set(lanes.each(network(), lambda _: threading.current_thread().name, [0, 1])) == {"MainThread"}


def test_an_error_in_a_lane_reaches_the_caller_and_leaves_the_threads_as_they_were() -> None:
    def fail(part: int) -> None:
        raise ValueError(f"part {part}")

    with pytest.raises(ValueError, match="part 0"):
        list(lanes.each(network(), fail, [0, 1]))
    assert torch.get_num_threads() == 2


def test_what_was_not_begun_before_an_error_is_left() -> None:
    begun: list[int] = []
    failed = threading.Event()

    def work(part: int) -> None:
        begun.append(part)
        if part == 0:
            failed.set()
            raise ValueError("stop")
        assert failed.wait(timeout=60)
        time.sleep(0.01)

    with pytest.raises(ValueError, match="stop"):
        list(lanes.each(network(), work, range(1000)))
    assert len(begun) < 1000


def test_a_part_is_always_computed_by_the_same_thread() -> None:
    def name(part: int) -> str:
        time.sleep(0.01 * (part == 0))
        return threading.current_thread().name

    first = list(lanes.each(network(), name, [0, 1]))
    assert all(list(lanes.each(network(), name, [0, 1])) == first for _ in range(10))


def test_gradients_are_those_of_all_parts_together() -> None:
    model = network()
    rows = torch.randn(6, 64)
    wanted = torch.randn(6, 4)

    def gradients(found: torch.Tensor) -> list[torch.Tensor]:
        model.zero_grad()
        (found * wanted).sum().backward()
        return [weight.grad for weight in model.parameters() if weight.grad is not None]

    together = gradients(model(rows))
    apart = gradients(torch.cat(lanes.with_gradients(model, model, [rows[:2], rows[2:]])))
    assert len(together) == 2
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(other, one)


def test_the_backward_pass_goes_through_the_parts_side_by_side() -> None:
    model = network()
    seen: list[str] = []

    class Noted(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
            return rows.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
            seen.append(threading.current_thread().name)
            return gradients[0]

    def work(rows: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = Noted.apply(model(rows))  # type: ignore[no-untyped-call]
        return found

    torch.cat(lanes.with_gradients(model, work, [torch.randn(2, 64), torch.randn(2, 64)])).sum().backward()
    assert len(seen) == 2
    assert all(name.startswith("lane") for name in seen)


def test_a_model_that_all_learns_keeps_one_copy_of_its_gradients() -> None:
    model = network()
    assert lanes.learns_side_by_side(model)
    model.requires_grad_(True)
    assert not lanes.learns_side_by_side(model)
    found = torch.cat(lanes.with_gradients(model, model, [torch.randn(2, 64), torch.randn(2, 64)]))
    assert found.grad_fn is not None
    assert all("WithGradients" not in function.name() for function, _ in found.grad_fn.next_functions if function)


def test_without_anything_that_learns_there_is_no_graph() -> None:
    model = network()
    with torch.no_grad():
        found = lanes.with_gradients(model, model, [torch.randn(2, 64), torch.randn(2, 64)])
    assert not any(part.requires_grad for part in found)


@pytest.mark.parametrize(
    ("rows", "count", "expected"),
    [
        ("aabb", 2, ["aa", "bb"]),
        ("aaab", 2, ["aaa", "b"]),
        ("aaaa", 2, ["aaaa"]),
        ("abc", 2, ["a", "bc"]),
        ("abcdef", 3, ["ab", "cd", "ef"]),
        ("abab", 1, ["abab"]),
        ("", 2, []),
    ],
)
def test_equal_neighbours_share_a_part(rows: str, count: int, expected: list[str]) -> None:
    assert [rows[part] for part in lanes.shares(rows, count)] == expected


def test_memory_that_lanes_have_freed_goes_back_to_the_system() -> None:
    def resident() -> int:
        with open("/proc/self/status", encoding="ascii") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

    def work(part: int) -> None:
        kept = [torch.ones(10_000) for _ in range(2_000)]  # 80 MB in pieces that malloc does not map by themselves
        pin = torch.ones(10_000)
        kept.clear()
        held.append(pin)

    held: list[torch.Tensor] = []
    list(lanes.each(network(), work, [0, 1]))
    before = resident()
    lanes.let_go()
    assert resident() < before - 50_000
