"""Why a step died, in words, when it left no message of its own."""

import re
from collections.abc import Sequence
from pathlib import Path

_EXCEPTION = re.compile(r"^\s*(?P<name>(?:\w+\.)*\w*(?:Error|Exception|Interrupt|Exit))(?:: (?P<text>.*))?$")
_CRASH = re.compile(r"\b(Segmentation fault|Bus error|Illegal instruction|Aborted|Floating point exception)\b")
_KILLED = re.compile(r"(^|\s)Killed\b")

_LESS_MEMORY = "Lower batch_size or the sequence lengths, close other programs, or use a machine with more memory."


def explain_death(last_lines: Sequence[str], memory_kills: int) -> str:
    """Return what most likely ended a step that reported no error.

    Args:
        last_lines: The end of its output.
        memory_kills: How many processes the kernel killed for want of memory while the step ran.
    """
    if memory_kills > 0:
        return f"The step was killed because the machine ran out of memory. {_LESS_MEMORY}"
    shell_words = [line.strip() for line in last_lines[-3:]]
    if any(_KILLED.search(line) for line in shell_words):
        return f"The step was killed from outside; the likely cause is that memory ran out. {_LESS_MEMORY}"
    if crash := next((match[1] for line in shell_words if (match := _CRASH.search(line))), None):
        return f"The step's process crashed ({crash}), which points to a fault in a native library, or to full memory."
    if any("Traceback (most recent call last)" in line for line in last_lines):
        for line in reversed(last_lines):
            if match := _EXCEPTION.match(line):
                return f"{match['name']}: {match['text'] or ''}".rstrip(": ")
    if not last_lines:
        return f"The step ended without a word: it was killed; the likely cause is that memory ran out. {_LESS_MEMORY}"
    return "The step ended without an error message. Its last lines:\n" + "\n".join(last_lines[-5:])


def count_memory_kills() -> int:
    """Return how many processes the kernel has killed for want of memory, here or in this container; 0 if unknown."""
    return _counter("/proc/vmstat", "oom_kill") + _counter("/sys/fs/cgroup/memory.events", "oom_kill")


def _counter(file: str, name: str) -> int:
    try:
        for line in Path(file).read_text(encoding="ascii").splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
    except (OSError, ValueError):
        pass
    return 0
