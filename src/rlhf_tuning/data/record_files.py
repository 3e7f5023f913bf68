"""The objects that a file of any make holds, one after the other: JSON lines, JSON, tables of text, Parquet.

What a file is tells its beginning, not its name. Only a table written column by column, and rows in a field of one object,
are read whole. Nothing in a file is run.
"""

import codecs
import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from rlhf_tuning.data.layout import Record
from rlhf_tuning.data.other_files import HEAD_BYTES, Form, other_file
from rlhf_tuning.data.problems import Fault, shorten
from rlhf_tuning.data.sources import LINE_BYTES, LongLine, Source, read_blocks, read_pieces
from rlhf_tuning.data.strict_json import DECODER, decode_object
from rlhf_tuning.errors import DataError, how_to_install

_BATCH_ROWS = 1000
_BETWEEN_OBJECTS = re.compile(r"[\s,]*")

#: No letter, dash, quotation mark or the like of Windows' Western encoding; a character of UTF-8; a run of another script.
_NO_WESTERN = re.compile(
    rb"[^\x00-\x7f\x80\x85\x91-\x97\xa0\xab\xb0\xbb\xc0-\xff]|[\xc2-\xf4][\x80-\xbf]|[\x80-\xff]{3}"
)


class Item(NamedTuple):
    """One object of a file.

    Attributes:
        place: Where it stands: its line, or which row it is.
        record: The object; None where it cannot be read.
        problem: Why it cannot.
        western: Whether its letters were taken for those of Windows' Western encoding.
    """

    place: int
    record: Record | None
    problem: str = ""
    western: bool = False


def read_items(source: Source, *, parameter: str) -> Iterator[Item]:
    """Yield what a file holds.

    Args:
        source: The file.
        parameter: What named it, for messages.

    Raises:
        DataError: If it is of a make that has to be unpacked or saved otherwise first, or cannot be read to its end.
    """
    form = _form(source, parameter)
    if form is None:
        yield from _json_lines(source, parameter)
        return
    try:
        for place, record in enumerate(_READERS[form.name](source, parameter, form.detail), 1):
            yield Item(place, record) if isinstance(record, dict) else Item(place, None, "no object")
    except (ValueError, RecursionError, csv.Error) as error:
        raise DataError(
            f"{parameter}: {source.name} is not what it seems to be, {form.name}: {str(error).removesuffix('.')}."
        ) from error


def is_old_western(line: bytes) -> bool:
    """Say whether a line is a JSON object with single letters in Windows' Western encoding."""
    if line.isascii() or _NO_WESTERN.search(line):
        return False
    return decode_object(line.decode("cp1252").encode(), []) is not None


def _form(source: Source, parameter: str) -> Form | None:
    """Return in which form a file holds its rows, None for JSON lines."""
    head = b""
    pieces = read_pieces(source, parameter=parameter)
    for piece in pieces:
        head += piece
        if len(head) > 2 * HEAD_BYTES:
            break
    end = head.find(b"\n") + 1
    cut = not end and len(head) > 2 * HEAD_BYTES
    end = end or len(head)
    other = other_file(head[:end], head[end:], source.name, cut=cut)
    if other is not None and other.form is None:
        raise DataError(f"{parameter}: {source.name} is {other.found}. {other.advice}")
    return other and other.form


def _json_lines(source: Source, parameter: str) -> Iterator[Item]:
    line = 0
    for block in read_blocks(source, parameter=parameter):
        if isinstance(block, LongLine):
            line += 1
            yield Item(line, None, f"a line of {block.size:,} bytes, at most {LINE_BYTES:,} are read")
            continue
        for raw in block.removeprefix(codecs.BOM_UTF8 if not line else b"").removesuffix(b"\n").split(b"\n"):
            line += 1
            if raw.strip():
                yield _of_line(raw, line)


def _of_line(raw: bytes, line: int) -> Item:
    western = is_old_western(raw)
    faults: list[Fault] = []
    record = decode_object(raw.decode("cp1252").encode() if western else raw, faults)
    return Item(line, record, "; ".join(fault.found for fault in faults), western)


def _text(source: Source, parameter: str, encoding: str = "utf-8-sig") -> Iterator[str]:
    decoder = codecs.getincrementaldecoder(encoding)()
    for piece in read_pieces(source, parameter=parameter):
        yield decoder.decode(piece)
    yield decoder.decode(b"", final=True)


def _lines(pieces: Iterable[str]) -> Iterator[str]:
    held = ""
    for piece in pieces:
        *lines, held = (held + piece).split("\n")
        yield from (f"{line}\n" for line in lines)
    if held:
        yield held


def _objects(source: Source, parameter: str, _detail: str) -> Iterator[Any]:
    """Yield objects that stand one after the other, in an array or with nothing but space between them."""
    text, place, count, depth = "", 0, 0, 0
    pieces = _text(source, parameter)
    for piece in pieces:
        text, place = text[place:] + piece, 0
        if len(text) > 4 * LINE_BYTES:
            raise ValueError(f"an object of more than {LINE_BYTES:,} characters")
        while True:
            place = _BETWEEN_OBJECTS.match(text, place).end()  # type: ignore[union-attr]
            if text[place : place + 1] in ("[", "]", ""):
                if place >= len(text):
                    break
                depth += 1 if text[place] == "[" else -1
                place += 1
                continue
            try:
                value, place = DECODER.raw_decode(text, place)
            except json.JSONDecodeError:
                break  # it may go on in the next piece
            count += 1
            yield value
    if text[place:].strip():
        try:
            DECODER.raw_decode(text, place)
        except json.JSONDecodeError as error:
            if error.pos < len(text.rstrip()) and not error.msg.startswith("Unterminated"):
                found = f"{error.msg.removesuffix(' at')} at {shorten(ascii(text[error.pos : error.pos + 100]))}"
                raise ValueError(f"row {count + 1:,}: {found}") from error
            raise ValueError(f"it ends in the middle of row {count + 1:,}") from error
    if depth > 0:
        raise ValueError(f"it ends behind row {count:,}, and its array is not closed")


def _in_field(source: Source, parameter: str, field: str) -> Iterator[Any]:
    yield from DECODER.decode("".join(_text(source, parameter)))[field]


def _columns(source: Source, parameter: str, _detail: str) -> Iterator[Any]:
    table = DECODER.decode("".join(_text(source, parameter)))
    for row in zip(*(column.values() for column in table.values()), strict=True):
        yield dict(zip(table, row, strict=True))


def _table(source: Source, parameter: str, delimiter: str) -> Iterator[Any]:
    csv.field_size_limit(LINE_BYTES)
    table = csv.DictReader(_lines(_text(source, parameter)), delimiter=delimiter, strict=True)
    while table.fieldnames:
        begin = table.line_num + 1
        try:
            row = next(table)
        except StopIteration:
            return
        except csv.Error as error:
            open_quote = "; a quotation mark may be open" if "end of data" in str(error) else ""
            raise ValueError(f"the row that begins on line {begin:,}: {error}{open_quote}") from error
        # A row with more cells than the table has columns is no row of it.
        yield row if None not in row else list(row.values())


def _other_encoding(source: Source, parameter: str, encoding: str) -> Iterator[Any]:
    for line in _lines(_text(source, parameter, encoding)):
        if line.strip("\ufeff \r\n\t"):
            yield DECODER.decode(line.lstrip("\ufeff"))


def _parquet(source: Source, _parameter: str, _detail: str) -> Iterator[Any]:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise DataError(
            f"{source.name} is a Parquet file, and pyarrow reads those. {how_to_install('train')}"
        ) from error
    with source.open() as stream, ParquetFile(stream) as table:
        for batch in table.iter_batches(batch_size=_BATCH_ROWS):
            yield from batch.to_pylist()


_READERS: dict[str, Callable[[Source, str, str], Iterator[Any]]] = {
    "one JSON array": _objects,
    "JSON objects of several lines each": _objects,
    "one JSON object": _in_field,
    "a table by columns": _columns,
    "a table of text": _table,
    "text in another encoding": _other_encoding,
    "a Parquet file": _parquet,
}
