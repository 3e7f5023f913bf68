import pytest

from rlhf_pipelines.local.failure import count_memory_kills, explain_death

TRACEBACK = [
    "    Traceback (most recent call last):",
    '      File "x.py", line 1, in <module>',
    "    ModuleNotFoundError: No module named 'torch'",
]


def test_kernel_that_killed_for_memory_is_certain() -> None:
    assert "because the machine ran out of memory" in explain_death([], memory_kills=1)


@pytest.mark.parametrize("line", ["    Killed", "/bin/sh: line 5:  4711 Killed    python -m kfp.dsl.executor_main"])
def test_killed_process_points_to_memory(line: str) -> None:
    assert "the likely cause is that memory ran out" in explain_death(["before", line], 0)


def test_crash_in_native_code_is_named() -> None:
    assert "process crashed (Segmentation fault)" in explain_death(["    Segmentation fault"], 0)


def test_last_line_of_a_traceback_is_the_message() -> None:
    assert explain_death(TRACEBACK, 0) == "ModuleNotFoundError: No module named 'torch'"


def test_silence_points_to_memory() -> None:
    assert "killed" in explain_death([], 0)


def test_anything_else_shows_the_last_lines() -> None:
    assert explain_death([str(number) for number in range(9)], 0).endswith("Its last lines:\n4\n5\n6\n7\n8")


def test_memory_kills_are_counted_or_unknown() -> None:
    assert count_memory_kills() >= 0
