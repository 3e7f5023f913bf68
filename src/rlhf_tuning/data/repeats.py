"""Rows that say the same or the opposite, found in a dataset of any size: hashes wait on disk and are sorted in parts."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rlhf_tuning.data.batch import CHOSEN, PROMPT, REJECTED, Batch, Hashes, Integers, mix

#: How many hashes are sorted at once: 32 MiB of them.
PART_ROWS = 2**22

_EXAMPLES = 5
#: Prompts that stand more than once, among which examples of different answers are looked for.
_CANDIDATES = 1000
_LINE_BITS, _CHUNK_ROWS = 40, 2**18
_ONE = np.uint64(1)


class Place(NamedTuple):
    """A row, by the number of its file in the dataset and its line."""

    file_number: int
    line: int


class Repeats(NamedTuple):
    """What is said more than once.

    Attributes:
        distinct_prompts: How many different prompts there are.
        repeated: How many rows could go, since an earlier one is the same.
        contradictions: How many pairs of answers to one prompt are preferred one way in some rows and the other way in
            others.
        repeated_examples: Rows that are the same, a group at a time.
        contradiction_examples: Two rows that contradict each other, a pair at a time.
        other_answers: How many demonstrations answer a prompt otherwise than an earlier one.
        other_answer_examples: Demonstrations of one prompt with different answers, a group at a time.
    """

    distinct_prompts: int
    repeated: int
    contradictions: int
    repeated_examples: list[list[Place]]
    contradiction_examples: list[list[Place]]
    other_answers: int = 0
    other_answer_examples: Sequence[list[Place]] = ()


class RepeatFinder:
    """Takes note of rows on disk, then finds the repeats. It can be pickled.

    A record is three words: the prompt's hash; the hash of the prompt with its two answers in any order, whose last
    bit says which of them is preferred, or of feedback whether its answer was liked; and the place.

    Args:
        folder: For the hashes, 24 bytes a row.
    """

    def __init__(self, folder: Path) -> None:
        handle, name = tempfile.mkstemp(prefix="hashes-", dir=folder)
        os.close(handle)
        self._files = [Path(name)]

    def add(self, batch: Batch, file_number: int) -> None:
        """Take note of rows of a file."""
        hashes = batch.hashes
        prompts = mix(hashes[:, PROMPT, 0], hashes[:, PROMPT, 1])
        chosen, rejected = hashes[:, CHOSEN, 0], hashes[:, REJECTED, 0]
        pairs = mix(hashes[:, PROMPT, 0], np.minimum(chosen, rejected), np.maximum(chosen, rejected))
        records = np.empty((len(batch), 3), np.uint64)
        records[:, 0] = prompts
        ways = [bool(judgement.value) and not judgement.rated for judgement in batch.judgements]
        records[:, 1] = pairs & ~_ONE | (np.array(ways, np.bool_) if ways else chosen < rejected)
        records[:, 2] = batch.line_numbers.astype(np.uint64) | np.uint64(file_number << _LINE_BITS)
        with self._files[0].open("ab") as stream:
            stream.write(records.tobytes())

    def merge(self, other: "RepeatFinder") -> None:
        """Take over the rows that another one took note of."""
        self._files += other._files

    def find(self, *, demonstrations: bool = False) -> Repeats:
        """Return what is repeated.

        Args:
            demonstrations: Whether the rows are some, so that different answers to one prompt are looked for.
        """
        rows = sum(file.stat().st_size for file in self._files) // 24
        parts = rows // PART_ROWS + 1
        distinct = repeated = contradictions = 0
        repeated_keys: list[int] = []
        repeated_prompts: list[int] = []
        contradicted_keys: list[int] = []
        for part in range(parts):
            prompts, of_each = _distinct(self._part(0, part, parts))
            distinct += len(prompts)
            repeated_prompts += prompts[of_each > 1][:_CANDIDATES].tolist() if demonstrations else []
            keys, counts = _distinct(self._part(1, part, parts))
            repeated += int((counts - 1).sum())
            repeated_keys += keys[counts > 1][:_EXAMPLES].tolist()
            # The two ways to prefer one pair are neighbours: they differ in the last bit.
            both = np.flatnonzero((keys[:-1] ^ keys[1:]) == _ONE)
            contradictions += len(both)
            contradicted_keys += (keys[both] & ~_ONE)[:_EXAMPLES].tolist()
        repeated_places = self._places(repeated_keys[:_EXAMPLES])
        ways = self._places([key | way for key in contradicted_keys[:_EXAMPLES] for way in (0, 1)])
        pairs = [sorted([one[0], other[0]]) for one, other in zip(ways[::2], ways[1::2], strict=True)]
        found = Repeats(distinct, repeated, contradictions, repeated_places, pairs)
        if not demonstrations:
            return found
        return found._replace(
            other_answers=rows - repeated - distinct,
            other_answer_examples=self._other_answers(repeated_prompts[:_CANDIDATES]),
        )

    def _other_answers(self, prompts: list[int]) -> list[list[Place]]:
        """Return of some prompts the places of the first few rows with different answers."""
        answers: dict[int, dict[int, Place]] = {prompt: {} for prompt in prompts}
        wanted = np.array(prompts, np.uint64)
        for chunk in self._chunks() if prompts else ():
            for index in np.flatnonzero(np.isin(chunk[:, 0], wanted)).tolist():
                prompt, answer, place = chunk[index].tolist()
                answers[prompt].setdefault(answer, _place(place))
        several = [sorted(places.values())[:_EXAMPLES] for places in answers.values() if len(places) > 1]
        return several[:_EXAMPLES]

    def _chunks(self) -> Iterator[Hashes]:
        for file in self._files:
            with file.open("rb") as stream:
                while chunk := stream.read(24 * _CHUNK_ROWS):
                    yield np.frombuffer(chunk, np.uint64).reshape(-1, 3)

    def _part(self, column: int, part: int, parts: int) -> Hashes:
        """Return the values of a column that fall into one of several parts; equal values fall into the same."""
        found = [
            chunk[:, column][(chunk[:, column] >> _ONE) % np.uint64(parts) == np.uint64(part)]
            if parts > 1
            else chunk[:, column]
            for chunk in self._chunks()
        ]
        return np.concatenate(found) if found else np.empty(0, np.uint64)

    def _places(self, keys: list[int]) -> list[list[Place]]:
        """Return for each key where rows with it stand: the first few of them."""
        places: dict[int, list[Place]] = {key: [] for key in keys}
        wanted = np.array(keys, np.uint64)
        for chunk in self._chunks() if keys else ():
            column = chunk[:, 1]
            for index in np.flatnonzero(np.isin(column, wanted)).tolist():
                place = int(chunk[index, 2])
                group = places[int(column[index])]
                if len(group) < _EXAMPLES:
                    group.append(_place(place))
        return [sorted(group) for group in places.values()]


def _place(word: int) -> Place:
    return Place(word >> _LINE_BITS, word & (2**_LINE_BITS - 1))


def _distinct(values: Hashes) -> tuple[Hashes, Integers]:
    """Return the different values in order, and how often each stands there; several times faster than np.unique."""
    values = np.sort(values)
    first = np.flatnonzero(np.diff(values, prepend=~values[:1]) != 0)
    return values[first], np.diff(first, append=len(values))
