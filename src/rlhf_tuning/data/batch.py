"""Rows on their way through the checks: many at a time, as canonical lines and as arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
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

_QUOTE = ord('"')
_BEGIN, _CHOSEN, _REJECTED, _END = b'{"prompt": ', b', "chosen": ', b', "rejected": ', b"}\n"


class Columns(NamedTuple):
    """Rows of one kind by column; what a format makes of its rows.

    Args:
        prompts: Canonical conversations, without what they all begin and end with.
        begin: What every conversation begins with.
        end: What every conversation ends with.
        keys: What tells the conversations apart, as `rows.prompt_key` gives it.
        chosen: The preferred answers; empty for prompts.
        rejected: The other answers; empty for prompts.
        first_chosen: Whether the first candidate is the preferred one; empty where a format has no order.
        texts: Every value of the rows, beside their answers, that must be a string and not blank.
        open_texts: Every value that must be a string and may be blank.
        quotes: How many quotation marks the rows have outside these values and the answers when each key stands once.
    """

    prompts: Sequence[JsonString]
    begin: bytes
    end: bytes
    keys: Sequence[JsonString]
    chosen: Sequence[JsonString]
    rejected: Sequence[JsonString]
    first_chosen: Sequence[bool]
    texts: Sequence[JsonString]
    open_texts: Sequence[JsonString]
    quotes: int


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

    @cached_property
    def row_hashes(self) -> Hashes:
        """[rows, 2] a hash of all that a row holds."""
        return np.stack([mix(*(self.hashes[:, part, word] for part in range(3))) for word in range(2)], axis=1)

    def line(self, index: int) -> bytes:
        """Return the canonical line of a row."""
        return self.encoded[int(self.ends[index - 1]) if index else 0 : int(self.ends[index])]


def make_batch(
    kind: Kind, format: str, columns: Columns, line_numbers: Integers, answer_sizes: Integers | None = None
) -> Batch:
    """Encode and hash rows.

    Args:
        kind: Of every row.
        format: Name of their row format.
        columns: The rows.
        line_numbers: [rows] where they stand.
        answer_sizes: [2, rows] bytes of the chosen and the rejected answers, where they are known already.
    """
    rows = len(columns.prompts)
    begin, end = _BEGIN + columns.begin, columns.end
    hashes = np.zeros((rows, 3, 2), np.uint64)
    sizes = np.zeros((rows, 3), np.int64)
    hashes[:, PROMPT] = _hashes(columns.keys)
    sizes[:, PROMPT] = text_sizes(columns.prompts) + len(columns.begin) + len(columns.end)
    if kind == "preference":
        if answer_sizes is None:
            answer_sizes = np.stack([text_sizes(columns.chosen), text_sizes(columns.rejected)])
        hashes[:, CHOSEN], hashes[:, REJECTED] = _hashes(columns.chosen), _hashes(columns.rejected)
        sizes[:, CHOSEN:] = answer_sizes.T
        parts = zip(
            repeat(begin),
            columns.prompts,
            repeat(end + _CHOSEN),
            columns.chosen,
            repeat(_REJECTED),
            columns.rejected,
            repeat(_END),
            strict=False,
        )
        constant = len(_BEGIN) + len(_CHOSEN) + len(_REJECTED) + len(_END)
        encoded = b"".join(chain.from_iterable(parts))
    else:
        constant = len(_BEGIN) + len(_END)
        encoded = b"".join(chain.from_iterable(zip(repeat(begin), columns.prompts, repeat(end + _END), strict=False)))
    return Batch(
        kind=kind,
        format=format,
        encoded=encoded,
        ends=np.cumsum(sizes.sum(axis=1) + constant),
        line_numbers=line_numbers,
        hashes=hashes,
        sizes=sizes,
        first_chosen=np.array(columns.first_chosen, dtype=np.bool_),
    )


def text_sizes(texts: Sequence[JsonString]) -> Integers:
    """Return [texts] how many bytes each has."""
    return np.fromiter(map(len, texts), np.int64, len(texts))


def is_blank(text: JsonString) -> bool:
    """Say whether a JSON value is a string without any visible character."""
    # Only a string is decoded: a number may be too large for that.
    return memoryview(text)[0] == _QUOTE and not msgspec.json.decode(text).strip()


def _hashes(texts: Sequence[JsonString]) -> Hashes:
    return np.frombuffer(b"".join(map(xxhash.xxh3_128_digest, texts)), "<u8").reshape(len(texts), 2)


def mix(*words: Hashes) -> Hashes:
    """Return one 64-bit hash for each position of several arrays; their order matters."""
    mixed = np.zeros_like(words[0])
    for word in words:
        mixed = (mixed ^ word) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(32)
    mixed *= np.uint64(0xD6E8FEB86659FD93)
    return mixed ^ (mixed >> np.uint64(32))
