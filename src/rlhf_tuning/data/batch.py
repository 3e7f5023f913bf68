"""Rows on their way through the checks: many at a time, as canonical lines and as arrays."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import NamedTuple, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash
from msgspec import Raw

from rlhf_tuning.data.rows import Kind

#: A JSON string, as it stands in a canonical line or in a file that wrote it the same way.
JsonString: TypeAlias = bytes | Raw

Integers: TypeAlias = npt.NDArray[np.int64]
Hashes: TypeAlias = npt.NDArray[np.uint64]
Flags: TypeAlias = npt.NDArray[np.bool_]

PROMPT, CHOSEN, REJECTED = range(3)

_BEGIN, _CHOSEN, _REJECTED, _END = b'{"prompt": ', b', "chosen": ', b', "rejected": ', b"}\n"


class Columns(NamedTuple):
    """Rows of one kind by column; what a format makes of its rows.

    Args:
        prompts: Canonical conversations.
        chosen: The preferred answers; empty for prompts.
        rejected: The other answers; empty for prompts.
        first_chosen: Whether the first candidate is the preferred one; empty where a format has no order.
        texts: Every value of the rows that must be a string and not blank.
        open_texts: Every value that must be a string and may be blank.
        quotes: How many quotation marks the rows have outside these values when each key stands once.
    """

    prompts: Sequence[bytes]
    chosen: Sequence[JsonString]
    rejected: Sequence[JsonString]
    first_chosen: Sequence[bool]
    texts: Sequence[JsonString]
    open_texts: Sequence[JsonString]
    quotes: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Good rows of one file, in its order.

    Args:
        kind: Of every row.
        format: Name of their row format.
        encoded: The canonical lines, one after the other.
        ends: [rows] where each line ends in `encoded`.
        line_numbers: [rows] where each row stands in its file.
        hashes: [rows, 3, 2] 128-bit hashes of prompt, chosen and rejected answer, in two words; zero where there is none.
        sizes: [rows, 3] bytes of the same three in `encoded`.
        first_chosen: [rows] whether the first candidate is the preferred one; empty where a format has no order.
    """

    kind: Kind
    format: str
    encoded: bytes
    ends: Integers
    line_numbers: Integers
    hashes: Hashes
    sizes: Integers
    first_chosen: Flags

    def __len__(self) -> int:
        return len(self.ends)

    def line(self, index: int) -> bytes:
        """Return the canonical line of a row."""
        return self.encoded[int(self.ends[index - 1]) if index else 0 : int(self.ends[index])]


def make_batch(kind: Kind, format: str, columns: Columns, line_numbers: Integers) -> Batch:
    """Encode and hash rows."""
    rows = len(columns.prompts)
    prompts = columns.prompts
    parts: list[Iterable[JsonString]] = [repeat(_BEGIN, rows), prompts]
    hashes = np.zeros((rows, 3, 2), np.uint64)
    sizes = np.zeros((rows, 3), np.int64)
    hashes[:, PROMPT] = _hashes(prompts)
    sizes[:, PROMPT] = _sizes(prompts)
    constant = len(_BEGIN) + len(_END)
    if kind == "preference":
        parts += [repeat(_CHOSEN), columns.chosen, repeat(_REJECTED), columns.rejected]
        hashes[:, CHOSEN], hashes[:, REJECTED] = _hashes(columns.chosen), _hashes(columns.rejected)
        sizes[:, CHOSEN], sizes[:, REJECTED] = _sizes(columns.chosen), _sizes(columns.rejected)
        constant += len(_CHOSEN) + len(_REJECTED)
    parts.append(repeat(_END))
    return Batch(
        kind=kind,
        format=format,
        encoded=b"".join(chain.from_iterable(zip(*parts, strict=False))),
        ends=np.cumsum(sizes.sum(axis=1) + constant),
        line_numbers=line_numbers,
        hashes=hashes,
        sizes=sizes,
        first_chosen=np.array(columns.first_chosen, dtype=np.bool_),
    )


def is_blank(text: JsonString) -> bool:
    """Say whether a JSON value is a string without any visible character."""
    value = msgspec.json.decode(text)
    return isinstance(value, str) and not value.strip()


def _hashes(texts: Sequence[JsonString]) -> Hashes:
    return np.frombuffer(b"".join(map(xxhash.xxh3_128_digest, texts)), "<u8").reshape(len(texts), 2)


def _sizes(texts: Sequence[JsonString]) -> Integers:
    return np.fromiter(map(len, texts), np.int64, len(texts))


def mix(*words: Hashes) -> Hashes:
    """Return one 64-bit hash for each position of several arrays; their order matters."""
    mixed = np.zeros_like(words[0])
    for word in words:
        mixed = (mixed ^ word) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(32)
    mixed *= np.uint64(0xD6E8FEB86659FD93)
    return mixed ^ (mixed >> np.uint64(32))


def row_hashes(batch: Batch) -> Hashes:
    """Return [rows, 2] a hash of all that a row holds."""
    hashes = batch.hashes
    return np.stack([mix(*(hashes[:, part, word] for part in range(3))) for word in range(2)], axis=1)
