"""The fast path: a block of lines that are all good rows of one format and kind, read at once.

Whatever is out of the ordinary (a bad row, a blank line, a duplicate key, another format) makes `read_block` return
None, and the block is read line by line, where each problem is found and named. So this file may only accept what the
careful path accepts, and must give the same rows: a property test holds the two together.

How it is fast: msgspec checks the JSON and the fields and leaves every text as the bytes of the file, and numpy checks
the whole block at once for what msgspec lets through: broken UTF-8, duplicate keys, two rows on a line, texts that are
no strings or are blank, and texts not written in the one canonical way.
"""

import functools
import re

import msgspec
import numpy as np
import numpy.typing as npt

from rlhf_tuning.data.batch import CHOSEN, REJECTED, Batch, Columns, Integers, is_blank, make_batch, text_sizes
from rlhf_tuning.data.formats import Format
from rlhf_tuning.data.rows import Kind, encode_text

Bytes = npt.NDArray[np.uint8]

_NEWLINE, _SPACE, _QUOTE, _SLASH, _BACKSLASH, _U, _OPEN, _CLOSE = (ord(character) for character in '\n "/\\u{}')

#: Legal when escaped, and counted where they stand: rows with them are read one by one.
_CONTROL_CHARACTER = re.compile("[\0-\x07\x0b\x0e-\x1f]")


def read_block(block: bytes, first_line: int, row_format: Format, kind: Kind, *, instruction: str) -> Batch | None:
    """Return the rows of a block, or None where it must be read line by line.

    Args:
        block: Whole lines, the last one with its newline.
        first_line: Number of the first of them.
        row_format: What the rows are expected to be.
        kind: Likewise.
        instruction: Prepended to every prompt.
    """
    many = row_format.many.get(kind)
    if many is None:
        return None
    if b"\r" in block:
        block = block.replace(b"\r\n", b"\n")
    array = np.frombuffer(block, np.uint8)
    try:
        block.decode()
        rows = _decoder(many.fields).decode_lines(block)
        if not rows or not _one_row_a_line(array, len(rows)):
            return None
        columns: Columns | None = many.columns(rows, instruction=instruction)
        if columns is None or (sizes := _sizes_if_good(array, columns)) is None:
            return None
        answer_sizes = sizes.reshape(2, -1) if kind == "preference" else None
        if _has_other_escapes(array):
            if not all(map(_make_canonical, rows)):
                return None
            columns, answer_sizes = many.columns(rows, instruction=instruction), None
            assert columns is not None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    lines = np.arange(first_line, first_line + len(rows), dtype=np.int64)
    batch = make_batch(kind, row_format.name, columns, lines, answer_sizes)
    if kind == "preference" and (batch.hashes[:, CHOSEN] == batch.hashes[:, REJECTED]).all(axis=1).any():
        return None
    return batch


@functools.cache
def _decoder(fields: type[msgspec.Struct]) -> msgspec.json.Decoder[msgspec.Struct]:
    return msgspec.json.Decoder(fields)


def _has_other_escapes(array: Bytes) -> bool:
    """Say whether a backslash stands before a `u` or a `/`."""
    following = array[np.flatnonzero(array == _BACKSLASH) + 1]
    return bool(((following == _U) | (following == _SLASH)).any())


def _make_canonical(part: msgspec.Struct) -> bool:
    """Write every text of a row or a message in the canonical way, and say whether none has a control character."""
    for field in part.__struct_fields__:
        value = getattr(part, field)
        if isinstance(value, msgspec.Raw):
            written = bytes(value)
            if b"\\u" in written or b"\\/" in written:
                text = msgspec.json.decode(written)
                if b"\\u00" in written and _CONTROL_CHARACTER.search(text):
                    return False
                setattr(part, field, msgspec.Raw(encode_text(text)))
        elif isinstance(value, list) and not all(map(_make_canonical, value)):
            return False
    return True


def _one_row_a_line(array: Bytes, rows: int) -> bool:
    """Say whether every newline stands between two objects: with as many objects as newlines, each has its own line.

    Inside one object `}` and `{` never meet without a comma.
    """
    newlines = np.flatnonzero(array == _NEWLINE)
    closed = (array[newlines - 1] == _CLOSE).all()
    opened = array[0] == _OPEN and (array[newlines[:-1] + 1] == _OPEN).all()
    return bool(len(newlines) == rows and closed and opened)


def _sizes_if_good(array: Bytes, columns: Columns) -> Integers | None:
    """Return the sizes of the chosen and then the rejected answers.

    Or None, where a text is no string or is blank, or a key stands twice.
    """
    texts = [*columns.open_texts, *columns.texts, *columns.chosen, *columns.rejected]
    joined = np.frombuffer(b"".join((*texts, b"  ")), np.uint8)
    sizes = text_sizes(texts)
    starts = np.cumsum(sizes) - sizes
    if not (joined[starts] == _QUOTE).all():
        return None
    # A repeated key brings its quotation marks, and those of the value that it replaces.
    if np.count_nonzero(array == _QUOTE) != columns.quotes + np.count_nonzero(joined == _QUOTE):
        return None
    first, second = joined[starts + 1], joined[starts + 2]
    doubtful = np.flatnonzero(~(_visible(first) | ((first == _SPACE) & _visible(second)))).tolist()
    may_be_blank = len(columns.open_texts)
    if any(is_blank(texts[index]) for index in doubtful if index >= may_be_blank):
        return None
    return sizes[may_be_blank + len(columns.texts) :]


def _visible(characters: Bytes) -> npt.NDArray[np.bool_]:
    """Say which bytes surely begin a character that can be seen."""
    return np.asarray((characters > _SPACE) & (characters < 127) & (characters != _QUOTE) & (characters != _BACKSLASH))
