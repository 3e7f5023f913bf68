"""A sample of a dataset's rows: those with the smallest hashes, so that it depends neither on order nor on files."""

import heapq
from typing import NamedTuple

import numpy as np

from rlhf_tuning.data.batch import Batch


class SampleRow(NamedTuple):
    """One sampled row. `place` is its hash, then the numbers of its file and line, which tell equal rows apart."""

    place: tuple[int, int, int]
    file: str
    line: bytes


class Sample:
    """Keeps the rows with the smallest hashes.

    Args:
        size: How many.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._rows: list[tuple[tuple[int, int, int], SampleRow]] = []  # a heap; the largest place comes first

    def add(self, batch: Batch, file: str, file_number: int) -> None:
        """Look at rows of a file."""
        if not self.size:
            return
        hashes = batch.row_hashes[:, 0]
        full = len(self._rows) == self.size
        for index in np.flatnonzero(hashes <= self._bar).tolist() if full else range(len(batch)):
            place = (int(hashes[index]), file_number, int(batch.line_numbers[index]))
            self._push(SampleRow(place, file, batch.line(index)))

    def merge(self, other: "Sample") -> None:
        """Look at the rows that another sample kept."""
        for _, row in other._rows:
            self._push(row)

    def rows(self) -> list[SampleRow]:
        """Return the sampled rows in the order of their hashes."""
        return sorted(row for _, row in self._rows)

    @property
    def _bar(self) -> np.uint64:
        return np.uint64(-self._rows[0][0][0])

    def _push(self, row: SampleRow) -> None:
        key = (-row.place[0], -row.place[1], -row.place[2])
        if len(self._rows) < self.size:
            heapq.heappush(self._rows, (key, row))
        elif key > self._rows[0][0]:
            heapq.heapreplace(self._rows, (key, row))
