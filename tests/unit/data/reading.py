"""Reads what a test wrote, as a file of a dataset that stands in memory."""

import io
import json
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple, cast
from unittest import mock

from rlhf_tuning.data import reader as reader_module
from rlhf_tuning.data.batch import Batch
from rlhf_tuning.data.problems import Problem, Problems
from rlhf_tuning.data.reader import BLOCK_BYTES, EITHER, FileReader
from rlhf_tuning.data.rows import Kind
from rlhf_tuning.data.sources import Source


class Reading(NamedTuple):
    """What a file held."""

    reader: FileReader
    batches: list[Batch]
    problems: Problems

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Return the good rows."""
        return [json.loads(line) for batch in self.batches for line in batch.encoded.splitlines()]

    @property
    def lines(self) -> list[int]:
        """Return where the good rows stand."""
        return [line for batch in self.batches for line in batch.line_numbers.tolist()]

    @property
    def found(self) -> list[tuple[str, int, str]]:
        """Return code, line and field of every problem, by line."""
        problems = [problem for kept in self.problems.kept.values() for problem in kept]
        return [(problem.code, problem.line, problem.field) for problem in sorted(problems, key=lambda each: each.line)]

    @property
    def problem(self) -> Problem:
        """Return the only problem."""
        [problem] = [problem for kept in self.problems.kept.values() for problem in kept]
        return problem


def as_lines(rows: Iterable[Mapping[str, object]]) -> bytes:
    """Return rows as the content of a JSONL file."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def in_memory(content: bytes, name: str = "a.jsonl") -> Source:
    """Return a file that stands in memory."""
    return Source(name=name, open=partial(cast(Any, io.BytesIO), content), size=len(content))


def read(
    content: bytes,
    *,
    accepts: tuple[Kind, ...] = EITHER,
    instruction: str = "",
    block_bytes: int = BLOCK_BYTES,
    fast: bool = True,
) -> Reading:
    """Read the content of a file; in blocks of one line each where `block_bytes` is 1.

    The first line of a file is always read by itself, and the others at once where they can be and `fast` says so.
    """
    problems = Problems()
    reader = FileReader(
        in_memory(content), parameter="eval_dataset", accepts=accepts, instruction=instruction, problems=problems
    )
    read_block = reader_module.read_block if fast else lambda *arguments, **settings: None
    with (
        mock.patch.object(reader_module, "BLOCK_BYTES", block_bytes),
        mock.patch.object(reader_module, "read_block", read_block),
    ):
        return Reading(reader, list(reader.batches()), problems)


def read_rows(rows: Iterable[Mapping[str, object]], **settings: Any) -> list[Batch]:
    """Return rows that are all good, as batches."""
    reading = read(as_lines(rows), **settings)
    assert not reading.found
    return reading.batches
