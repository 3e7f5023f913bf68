"""What is wrong with a dataset: all problems are counted, the first of each kind kept, and all become one message."""

import json
import os
import shutil
from collections import Counter
from typing import NamedTuple

from rlhf_tuning.errors import DataError

#: How many problems of each kind are kept to be shown.
SHOWN_OF_EACH = 20

#: Code to what it means. A code is stable: people and programs may rely on it.
CODES: dict[str, str] = {
    "empty_dataset": "the dataset has no row",
    "unreadable_file": "a file cannot be read to its end",
    "blank_line": "a blank line between rows",
    "long_line": "a line longer than 16 MiB, which no row needs",
    "invalid_utf8": "not UTF-8 text",
    "invalid_json": "not JSON",
    "not_an_object": "JSON, but not an object",
    "duplicate_key": "a key stands twice in one object",
    "not_a_number": "NaN and infinities are not JSON",
    "unknown_format": "no known row format",
    "missing_field": "a required field is missing",
    "extra_field": "a field that has no meaning here",
    "wrong_type": "a field of the wrong type",
    "blank_text": "a text that is empty or blank",
    "nul_character": "a text with a NUL character",
    "lone_surrogate": "a text with half of a surrogate pair, which is no character",
    "wrong_choice": "`choice` is not the index of a candidate",
    "identical_candidates": "both candidates are the same text",
    "no_messages": "a conversation without messages",
    "wrong_author": "an unknown author of a message",
    "wrong_turn": "a message of a conversation where it cannot stand",
    "mixed_rows": "some rows have preference fields and others have none",
    "eval_prompt_in_training": "an evaluation prompt also stands in the prompt dataset",
    "too_few_rows": "too few rows to hold some out for evaluation",
    "refused_conversation": "the model's chat template refuses a conversation",
}

#: Those that concern a whole file or dataset: no bad rows that could be set aside.
FILE_CODES = frozenset(
    {"empty_dataset", "unreadable_file", "eval_prompt_in_training", "too_few_rows", "refused_conversation"}
)


class Fault(NamedTuple):
    """One thing wrong with a row, before it is known where the row stands."""

    code: str
    field: str
    found: str
    accepted: str


class Problem(NamedTuple):
    """One thing wrong with a dataset. `line` is 0 where it concerns no single line."""

    code: str
    parameter: str
    file: str
    line: int
    field: str
    found: str
    accepted: str

    @property
    def location(self) -> str:
        """Return `file:line`, as editors and compilers write it."""
        name = printable(self.file)
        return f"{name}:{self.line}" if self.line else name

    def __str__(self) -> str:
        field = f"{self.field}: " if self.field else ""
        return f"{self.location}: {field}found {self.found}; accepted: {self.accepted}"


class Problems:
    """Collects what is wrong in one or several datasets, in little memory however much there is.

    Args:
        path: Where every problem is written, one JSON object a line; none where it is empty.
    """

    def __init__(self, path: str = "") -> None:
        self.path = path
        self.counts: Counter[str] = Counter()
        self.kept: dict[str, list[Problem]] = {}
        self.set_aside: Counter[str] = Counter()
        self.warnings: list[str] = []
        self._parameters: Counter[str] = Counter()
        self._unwritten: list[str] = []

    def add(self, problem: Problem) -> None:
        """Count a problem, write it, and keep it if it is among the first of its kind."""
        self.counts[problem.code] += 1
        self._parameters[problem.parameter] += 1
        kept = self.kept.setdefault(problem.code, [])
        if len(kept) < SHOWN_OF_EACH:
            kept.append(problem)
        if self.path:
            self._unwritten.append(json.dumps(problem._asdict()) + "\n")
            if len(self._unwritten) >= 1000:
                self.flush()

    def flush(self) -> None:
        """Write what waits to be written."""
        if self._unwritten:
            with open(self.path, "a", encoding="utf-8") as stream:
                stream.writelines(self._unwritten)
            self._unwritten.clear()

    def add_faults(self, faults: list[Fault], *, parameter: str, file: str, line: int) -> None:
        """Add what is wrong with the row at `file` and `line`."""
        for fault in faults:
            self.add(Problem(fault.code, parameter, file, line, fault.field, fault.found, fault.accepted))

    def merge(self, other: "Problems", *, set_aside: bool = False) -> None:
        """Add all that another collection has, and take over what it wrote.

        Args:
            other: Of one file.
            set_aside: Whether its bad rows are set aside: then only what concerns the file as a whole is a problem.
        """
        self.warnings += other.warnings
        for code, problems in other.kept.items():
            if set_aside and code not in FILE_CODES:
                self.set_aside[code] += other.counts[code]
                continue
            self.counts[code] += other.counts[code]
            self._parameters[problems[0].parameter] += other.counts[code]
            kept = self.kept.setdefault(code, [])
            kept += problems[: SHOWN_OF_EACH - len(kept)]
        if self.path and other.path:
            self.flush()
            other.flush()
        if self.path and other.path and os.path.exists(other.path):
            with open(other.path, "rb") as source, open(self.path, "ab") as target:
                shutil.copyfileobj(source, target)

    def render(self) -> str:
        """Return one message: each kind in the order of `CODES`, with its count and its first problems."""
        parameters = " and ".join(sorted(self._parameters))
        total = self.counts.total()
        parts = [f"{parameters} cannot be used: {total:,} problem{'s' if total != 1 else ''}."]
        for code, meaning in CODES.items():
            if not self.counts[code]:
                continue
            kept = self.kept[code]
            parts.append(f"{code} ({self.counts[code]:,}): {meaning}")
            parts.extend(f"  {problem}" for problem in kept)
            if self.counts[code] > len(kept):
                parts.append(f"  and {self.counts[code] - len(kept):,} more")
        parts.append("Nothing was imported. Mend the dataset and run again.")
        return "\n".join(parts)

    def raise_if_any(self) -> None:
        """Stop when anything was wrong.

        Raises:
            DataError: With every kind of problem in its message.
        """
        if self.counts:
            raise DataError(self.render())


def describe(value: object) -> str:
    """Return a JSON value as a message shows it: short, on one line, and with its type where that may be unclear."""
    match value:
        case None:
            return "null"
        case bool():
            return f"{json.dumps(value)} (a boolean)"
        case int() | float():
            return f"{shorten(str(value))} (a number)"
        case str():
            return f"{shorten(json.dumps(value[:200]))} (a string)"
        case list():
            return f"an array of {len(value)}"
        case dict():
            return f"an object with {len(value)} fields" if len(value) != 1 else "an object with 1 field"
        case _:
            return type(value).__name__


def printable(name: str) -> str:
    """Return a file's name, with escapes where it would break a line, command a terminal, or is no text at all."""
    return name if name.isprintable() else ascii(name)[1:-1]


def shorten(text: str, limit: int = 80) -> str:
    """Return `text`, or its beginning where it is longer than `limit`."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
