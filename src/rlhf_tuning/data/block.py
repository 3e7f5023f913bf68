"""The fast path: a block of lines that are all good rows of one format and kind, read at once by `read_rows.c`.

Whatever is out of the ordinary (a bad row, a blank line, a duplicate key, another format) makes `read_block` return
None, and the block is read line by line, where each problem is found and named. So the fast path may only accept what
the careful path accepts, and must give the same rows: a property test holds the two together.

Where the package was installed without a C compiler there is no fast path, and every block is read line by line.
"""

import ctypes
import functools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rlhf_tuning.data.batch import Batch
from rlhf_tuning.data.formats import Format
from rlhf_tuning.data.rows import Kind, encode_text, encode_turn
from rlhf_tuning.data.shape import Field, Shape
from rlhf_tuning.step import say

#: Made of `read_rows.c` when the package is installed.
LIBRARY = Path(__file__).with_name("_read_rows.so")

_NEWLINE = ord("\n")

#: No row is shorter than this one, and no canonical row longer than twice what it was made of, and this.
_SHORTEST_ROW, _ADDED_TO_ROW = b'{"prompt":"a"}\n', 64


def read_block(block: bytes, first_line: int, row_format: Format, kind: Kind, *, instruction: str) -> Batch | None:
    """Return the rows of a block, or None where it must be read line by line.

    Args:
        block: Whole lines, the last one with its newline.
        first_line: Number of the first of them.
        row_format: What the rows are expected to be.
        kind: Likewise.
        instruction: Prepended to every prompt.
    """
    read_rows, shape = _read_rows(), row_format.shapes.get(kind)
    if read_rows is None or shape is None:
        return None
    lines = int(np.count_nonzero(np.frombuffer(block, np.uint8) == _NEWLINE))  # several times faster than bytes.count
    most = min(lines, len(block) // len(_SHORTEST_ROW))
    prefix = _prefix(shape, instruction)
    texts = np.empty(len(block), np.uint8)
    encoded = np.empty(2 * len(block) + most * (len(prefix) + _ADDED_TO_ROW), np.uint8)
    ends, sizes = np.empty(most, np.int64), np.empty((most, 3), np.int64)
    hashes, choices = np.empty((most, 3, 2), np.uint64), np.empty(most, np.bool_)
    rows = read_rows(
        block,
        len(block),
        ctypes.byref(_c_shape(shape, prefix)),
        *(_address(array) for array in (texts, encoded)),
        len(encoded),
        most,
        *(_address(array) for array in (ends, hashes, sizes, choices)),
    )
    if rows < 1:
        return None
    return Batch(
        kind=kind,
        format=row_format.name,
        encoded=encoded[: ends[rows - 1]].tobytes(),
        ends=ends[:rows],
        line_numbers=np.arange(first_line, first_line + rows, dtype=np.int64),
        hashes=hashes[:rows],
        sizes=sizes[:rows],
        first_chosen=~choices[: rows if Field.CHOICE in shape.required else 0],
    )


def _prefix(shape: Shape, instruction: str) -> bytes:
    """Return what the instruction puts before a text, or before the first turn of a conversation."""
    if not instruction:
        return b""
    if Field.PROMPT in shape.required:
        return encode_text(f"{instruction}\n\n")[1:-1]
    return encode_turn("system", encode_text(instruction)) + b", "


def is_fast() -> bool:
    """Say whether there is a fast path."""
    return _read_rows() is not None


@functools.cache
def tell_if_slow() -> None:
    """Tell the person once where there is none."""
    if not is_fast():
        say(
            "Data is read slowly here, with the same answers: rlhf-pipelines was installed without a C compiler. "
            "Install one (gcc, clang) and then the package anew to read it some ten times as fast."
        )


@functools.cache
def _read_rows() -> Any:
    if not LIBRARY.exists():
        return None
    read_rows = ctypes.CDLL(str(LIBRARY)).read_rows
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    read_rows.argtypes = [ctypes.c_char_p, size, pointer, pointer, pointer, size, size, *[pointer] * 4]
    read_rows.restype = size
    return read_rows


class _CField(ctypes.Structure):
    _fields_ = (
        ("key", ctypes.c_char_p),
        ("size", ctypes.c_int64),
        ("what", ctypes.c_int32),
        ("place", ctypes.c_int32),
    )


class _CShape(ctypes.Structure):
    _fields_ = (
        ("fields", ctypes.POINTER(_CField)),
        ("count", ctypes.c_int64),
        ("required", ctypes.c_uint32),
        ("system", ctypes.c_uint32),
        ("answers", ctypes.c_uint32),
        ("prefix", ctypes.c_char_p),
        ("prefix_size", ctypes.c_int64),
    )


@functools.lru_cache(64)
def _c_shape(shape: Shape, prefix: bytes) -> _CShape:
    """Return a shape as read_rows.c has it; it keeps what it points to alive."""
    places = [(0, item) for item in shape.row] + [(1, item) for item in shape.message]
    fields = [_CField(key.encode(), len(key), what, place) for place, (key, what) in places]
    return _CShape(
        (_CField * len(fields))(*fields),
        len(fields),
        sum(1 << what for what in shape.required),
        shape.system,
        shape.answers,
        prefix,
        len(prefix),
    )


def _address(array: npt.NDArray[Any]) -> int:
    return int(array.ctypes.data)
