"""Rows on their way through the checks: many at a time, as canonical lines and as arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import xxhash

from rlhf_tuning.data.rows import Judgement, Kind

Integers: TypeAlias = npt.NDArray[np.int64]
Hashes: TypeAlias = npt.NDArray[np.uint64]
Flags: TypeAlias = npt.NDArray[np.bool_]

PROMPT, CHOSEN, REJECTED = range(3)


class Columns(NamedTuple):
    """Rows of one kind by column.

    Attributes:
        prompts: Canonical conversations.
        keys: What tells the conversations apart, as `rows.prompt_key` gives it.
        chosen: The preferred answers, or those of demonstrations and feedback, as canonical strings; empty for prompts.
        rejected: The other answers of preferences, likewise.
        first_chosen: Whether the first candidate is the preferred one; empty where a format has no order.
        openings: What tells apart how the dialogues of demonstrations begin, as `keys`; empty for other kinds.
        details: What each row says besides its texts, as `rows.encode_detail` gives it; empty where none does.
        judgements: Of feedback.
    """

    prompts: Sequence[bytes]
    keys: Sequence[bytes]
    chosen: Sequence[bytes]
    rejected: Sequence[bytes]
    first_chosen: Sequence[bool]
    openings: Sequence[bytes] = ()
    details: Sequence[bytes] = ()
    judgements: Sequence[Judgement] = ()


@dataclass(frozen=True)
class Batch:
    """Good rows of one file, in its order.

    Args:
        kind: Of every row.
        format: Name of their row format.
        encoded: The canonical lines, one after the other.
        ends: [rows] where each line ends in `encoded`.
        line_numbers: [rows] where each row stands in its file.
        hashes: [rows, 3, 2] 128-bit hashes of prompt, chosen and rejected answer, in two words; zero where there is none.
            The answer of a demonstration or of feedback stands where the chosen one does.
        sizes: [rows, 3] bytes of the same three in `encoded`.
        first_chosen: [rows] whether the first candidate is the preferred one; empty where a format has no order.
        openings: [rows, 2] of demonstrations hashes of how their dialogues begin; None for other kinds.
        details: [rows, 2] hashes of what rows say besides their texts, zero for nothing; None where none says anything.
        judgements: Of feedback; empty for other kinds.
    """

    kind: Kind
    format: str
    encoded: bytes
    ends: Integers
    line_numbers: Integers
    hashes: Hashes
    sizes: Integers
    first_chosen: Flags
    openings: Hashes | None = None
    details: Hashes | None = None
    judgements: Sequence[Judgement] = ()

    def __len__(self) -> int:
        return len(self.ends)

    @cached_property
    def row_hashes(self) -> Hashes:
        """[rows, 2] a hash of all that a row holds."""
        hashes = np.stack([mix(*(self.hashes[:, part, word] for part in range(3))) for word in range(2)], axis=1)
        # A row without a detail has the same hash whatever stands beside it, and whichever way it was read.
        return hashes if self.details is None else np.where(self.details == 0, hashes, mix(hashes, self.details))

    def line(self, index: int) -> bytes:
        """Return the canonical line of a row."""
        return self.encoded[int(self.ends[index - 1]) if index else 0 : int(self.ends[index])]


def make_batch(kind: Kind, format: str, columns: Columns, line_numbers: Integers) -> Batch:
    """Encode and hash rows.

    Args:
        kind: Of every row.
        format: Name of their row format.
        columns: The rows.
        line_numbers: [rows] where they stand.
    """
    rows = len(columns.prompts)
    hashes = np.zeros((rows, 3, 2), np.uint64)
    sizes = np.zeros((rows, 3), np.int64)
    hashes[:, PROMPT], sizes[:, PROMPT] = _hashes(columns.keys), list(map(len, columns.prompts))
    for part, answers in ((CHOSEN, columns.chosen), (REJECTED, columns.rejected)):
        if answers:
            hashes[:, part], sizes[:, part] = _hashes(answers), list(map(len, answers))
    details = [b", " + detail if detail else b"" for detail in columns.details] or [b""] * rows
    if kind == "preference":
        lines = [
            b'{"prompt": %b, "chosen": %b, "rejected": %b%b}\n' % row
            for row in zip(columns.prompts, columns.chosen, columns.rejected, details, strict=True)
        ]
    elif kind in ("demonstration", "feedback"):
        lines = [
            b'{"prompt": %b, "answer": %b%b}\n' % row
            for row in zip(columns.prompts, columns.chosen, details, strict=True)
        ]
    else:
        lines = [b'{"prompt": %b%b}\n' % row for row in zip(columns.prompts, details, strict=True)]
    return Batch(
        kind=kind,
        format=format,
        encoded=b"".join(lines),
        ends=np.cumsum(list(map(len, lines)), dtype=np.int64),
        line_numbers=line_numbers,
        hashes=hashes,
        sizes=sizes,
        first_chosen=np.array(columns.first_chosen, dtype=np.bool_),
        openings=_hashes(columns.openings) if columns.openings else None,
        details=np.where([[not detail] for detail in columns.details], np.uint64(0), _hashes(columns.details))
        if columns.details
        else None,
        judgements=columns.judgements,
    )


def _hashes(texts: Sequence[bytes]) -> Hashes:
    """Return [texts, 2] what `read_rows.c` computes as well: XXH64 with the seeds 0 and 1."""
    digests = [[xxhash.xxh64_intdigest(text, seed) for seed in (0, 1)] for text in texts]
    return np.array(digests, np.uint64).reshape(len(texts), 2)


def mix(*words: Hashes) -> Hashes:
    """Return one 64-bit hash for each position of several arrays; their order matters."""
    mixed = np.zeros_like(words[0])
    for word in words:
        mixed = (mixed ^ word) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(32)
    mixed *= np.uint64(0xD6E8FEB86659FD93)
    return mixed ^ (mixed >> np.uint64(32))
