"""What is wrong with a dataset: all problems are counted, the first of each kind kept, and all become one message."""

import itertools
import json
import os
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from rlhf_tuning.errors import DataError

#: How many problems of each kind are kept to be shown.
SHOWN_OF_EACH = 20

#: How many of those may say the same of different rows.
SHOWN_ALIKE = 3

#: A command names so many files at most.
_FILES_NAMED = 20

#: Code to what it means. A code is stable: people and programs may rely on it.
CODES: dict[str, str] = {
    "empty_dataset": "the dataset has no row",
    "unreadable_file": "a file cannot be read to its end",
    "not_json_lines": "a file that holds something else than one JSON object on each line",
    "blank_line": "a blank line between rows",
    "long_line": "a line longer than 16 MiB, which no row needs",
    "invalid_utf8": "not UTF-8 text",
    "invalid_json": "not JSON",
    "not_an_object": "JSON, but not an object",
    "duplicate_key": "a key stands twice in one object",
    "not_a_number": "NaN and infinities are not JSON",
    "unknown_format": "no known row format",
    "several_formats": "fields of more than one row format",
    "wrong_kind": "rows of another kind than belongs there: prompts, preferences or demonstrations",
    "missing_field": "a required field is missing",
    "extra_field": "a field that has no meaning here",
    "wrong_type": "a field of the wrong type",
    "blank_text": "a text that is empty or blank",
    "nul_character": "a text with a NUL character",
    "lone_surrogate": "a text with half of a surrogate pair, which is no character",
    "choices_from_one": "`choice` counts the candidates from 1",
    "wrong_choice": "`choice` is not the index of a candidate",
    "wrong_margin": "`margin` is no number from 0 to 10",
    "identical_candidates": "both candidates are the same text",
    "no_messages": "a conversation without messages",
    "wrong_author": "an unknown author of a message",
    "wrong_turn": "a message of a conversation where it cannot stand",
    "mixed_rows": "some rows have preference fields and others have none",
    "eval_prompt_in_training": "an evaluation prompt also stands in the prompt dataset",
    "eval_preference_in_training": "an evaluation preference has a prompt that also stands in the preference dataset",
    "eval_demonstration_in_training": "a prompt to measure on also stands in the demonstrations to learn from",
    "too_few_rows": "too few rows to hold some out for evaluation",
    "refused_conversation": "the model's chat template refuses a conversation, or does not say all of it",
}

#: Those that concern a whole file or dataset: no bad rows that could be set aside.
FILE_CODES = frozenset(
    {
        "empty_dataset",
        "unreadable_file",
        "not_json_lines",
        "choices_from_one",
        "eval_prompt_in_training",
        "eval_preference_in_training",
        "eval_demonstration_in_training",
        "too_few_rows",
        "refused_conversation",
    }
)

#: Those of a text. All others are of how a row is made, which a conversion may mend.
OF_TEXTS = frozenset({"blank_text", "nul_character", "lone_surrogate", "identical_candidates", "no_messages"})

#: What differs between two problems that say the same: numbers, and what is quoted.
_VALUES = re.compile(r"""\d+|"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'""")
_INDEX = re.compile(r"\[\d+\]")
_BAD_ROW = b'{"bad_row": '


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

    @property
    def gist(self) -> tuple[str, ...]:
        """Return what problems that say the same of different rows have in common; with an extra field, that field."""
        field = _INDEX.sub("[]", self.field) if "[" in self.field else self.field
        return self.parameter, field, "" if self.code == "extra_field" else _VALUES.sub("", self.found)

    def __str__(self) -> str:
        field = f"{self.field}: " if self.field else ""
        # What was found may be whole sentences.
        return f"{self.location}: {field}found {self.found.removesuffix('.')}; accepted: {self.accepted}"


class Problems:
    """Collects what is wrong in one or several datasets, in little memory however much there is.

    Args:
        path: Where every problem is written, one JSON object a line; none where it is empty.

    `kept` has the first problems of each code, `counts` how many there are, and `alike` how many of them say what one of
    those kept says. `advice` says how to mend a whole dataset.
    """

    def __init__(self, path: str = "") -> None:
        self.path = path
        self.counts: Counter[str] = Counter()
        self.kept: dict[str, list[Problem]] = {}
        self.alike: dict[str, Counter[tuple[str, ...]]] = {}
        self.set_aside: Counter[str] = Counter()
        self.warnings: list[str] = []
        self.advice: list[str] = []
        self._shown: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self._parameters: Counter[str] = Counter()
        self._unwritten: list[str] = []
        self._bad_rows = 0

    def add(self, problem: Problem, *, bad_row: int = 0) -> None:
        """Count a problem, write it, and keep it if it is among the first of its kind.

        Args:
            problem: What is wrong.
            bad_row: Which of the bad rows that are kept it concerns, counted from 1; 0 for none.
        """
        gist = problem.gist
        self._count(problem.code, gist, problem.parameter, 1)
        self._keep(problem, gist)
        if self.path:
            # The number stands first, where `merge` finds it.
            self._unwritten.append(json.dumps({"bad_row": bad_row, **problem._asdict()}) + "\n")
            if len(self._unwritten) >= 1000:
                self.flush()

    def _count(self, code: str, gist: tuple[str, ...], parameter: str, count: int) -> None:
        self.counts[code] += count
        self._parameters[parameter] += count
        alike = self.alike.setdefault(code, Counter())
        if gist in alike or len(self.kept.get(code, ())) < SHOWN_OF_EACH:
            alike[gist] += count

    def _keep(self, problem: Problem, gist: tuple[str, ...]) -> None:
        kept = self.kept.setdefault(problem.code, [])
        most = 1 if problem.code == "extra_field" else SHOWN_ALIKE
        if len(kept) < SHOWN_OF_EACH and self._shown[problem.code, gist] < most:
            self._shown[problem.code, gist] += 1
            kept.append(problem)

    def flush(self) -> None:
        """Write what waits to be written."""
        if self._unwritten:
            with open(self.path, "a", encoding="utf-8") as stream:
                stream.writelines(self._unwritten)
            self._unwritten.clear()

    def add_faults(self, faults: list[Fault], *, parameter: str, file: str, line: int, bad_row: int = 0) -> None:
        """Add what is wrong with the row at `file` and `line`; `bad_row` is as for `add`."""
        for fault in faults:
            problem = Problem(fault.code, parameter, file, line, fault.field, fault.found, fault.accepted)
            self.add(problem, bad_row=bad_row)

    def merge(self, other: "Problems", *, set_aside: bool = False, bad_rows: int = 0) -> None:
        """Add all that another collection has, and take over what it wrote.

        Args:
            other: Of one file.
            set_aside: Whether its bad rows are set aside: then only what concerns the file as a whole is a problem.
            bad_rows: How many bad rows of the file are kept, after those of earlier files.
        """
        self.warnings += other.warnings
        for code, problems in other.kept.items():
            if set_aside and code not in FILE_CODES:
                self.set_aside[code] += other.counts[code]
                continue
            untold = other.counts[code] - other.alike[code].total()
            for gist, count in other.alike[code].items():
                self._count(code, gist, gist[0], count)
            self.counts[code] += untold
            self._parameters[problems[0].parameter] += untold
            for problem in problems:
                self._keep(problem, problem.gist)
        if self.path and other.path:
            self.flush()
            other.flush()
        if self.path and other.path and os.path.exists(other.path):
            with open(other.path, "rb") as source, open(self.path, "ab") as target:
                for line in source:
                    number, rest = line.removeprefix(_BAD_ROW).split(b",", 1)
                    bad_row = int(number) and int(number) + self._bad_rows
                    target.write(b"%b%d,%b" % (_BAD_ROW, bad_row, rest))
        self._bad_rows += bad_rows

    def repeats(self) -> dict[Problem, int]:
        """Return the last kept problem of those that say the same, and how many more do."""
        repeats: dict[Problem, int] = {}
        for code, kept in self.kept.items():
            last = {problem.gist: problem for problem in kept}
            for gist, problem in last.items():
                if more := self.alike[code][gist] - self._shown[code, gist]:
                    repeats[problem] = more
        return repeats

    def render(self) -> str:
        """Return one message: each kind in the order of `CODES`, with its count and its first problems."""
        parameters = " and ".join(sorted(self._parameters))
        total = self.counts.total()
        parts = [f"{parameters} cannot be used: {total:,} problem{'s' if total != 1 else ''}."]
        repeats = self.repeats()
        for code, meaning in CODES.items():
            if not self.counts[code]:
                continue
            parts.append(f"{code} ({self.counts[code]:,}): {meaning}")
            rest = self.counts[code]
            for problem in self.kept[code]:
                parts.append(f"  {problem}")
                more = repeats.get(problem, 0)
                parts += [f"    and {more:,} more that say{'s' * (more == 1)} the same"] if more else []
                rest -= 1 + more
            parts += [f"  and {rest:,} more"] if rest else []
        parts += self.advice
        parts.append("Nothing was imported. Mend the dataset and run again.")
        return "\n".join(parts)

    def raise_if_any(self) -> None:
        """Stop when anything was wrong.

        Raises:
            DataError: With every kind of problem in its message.
        """
        if self.counts:
            raise DataError(self.render())


def convert_command(names: Sequence[str], to: str, *, max_bad_rows: int = 0) -> str:
    """Return the command that converts files into one new file of JSON lines.

    Args:
        names: The files.
        to: What their rows are to become; where it is empty, their fields say it.
        max_bad_rows: How many of them have to be left out.
    """
    name = names[0]
    base = os.path.basename(name) if name.startswith("gs://") else name
    stem = base.removesuffix(".gz")
    root = os.path.splitext(stem)[0].removesuffix(".jsonl")
    if not os.access(os.path.dirname(root) or os.curdir, os.W_OK):
        root = os.path.basename(root)
    new = _unused(f"{root}-new" if stem.endswith(".jsonl") else root)
    left_out = f"--max-bad-rows {max_bad_rows} " if max_bad_rows else ""
    shown = names if len(names) <= _FILES_NAMED else [*names[:_FILES_NAMED], "..."]
    return f"rlhf convert {' '.join(map(_quoted, shown))} {f'--to {to} ' * bool(to)}{left_out}--output {_quoted(new)}"


def _quoted(name: str) -> str:
    """Return a name as a shell reads it, whatever stands in it."""
    return shlex.quote(name) if name.isprintable() else "FILE"


def _unused(root: str) -> str:
    """Return the name of a file of JSON lines that is not there yet: a command must not write over one that is."""
    names = (f"{root}{'' if number == 1 else f'-{number}'}.jsonl" for number in itertools.count(1))
    return next(name for name in names if not os.path.exists(name))


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
