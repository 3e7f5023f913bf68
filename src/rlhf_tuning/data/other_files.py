"""Files that hold rows otherwise than as JSON lines: what they are, by how they begin, and how to convert them.

A file is judged by its beginning, and only where no line there is an object by itself: one bad line is a bad row.
"""

import csv
import json
import re
from typing import NamedTuple

import msgspec

from rlhf_tuning.data.fields import PREFERENCE_FIELDS
from rlhf_tuning.data.problems import printable, shorten
from rlhf_tuning.data.trl_standard import PREFERENCE

_FIELDS = {"input_text", "messages", *PREFERENCE_FIELDS, *PREFERENCE, "output_text", "completion", "contents"}

_UTF16 = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"{\0": "UTF-16LE", b"[\0": "UTF-16LE", b"\0{": "UTF-16BE"}


class Form(NamedTuple):
    """In which form a file holds its rows.

    Attributes:
        name: As `record_files` knows it.
        detail: The field that holds the rows, what divides the columns, or the encoding.
    """

    name: str
    detail: str = ""


class OtherFile(NamedTuple):
    """What a file is instead of JSON lines.

    Attributes:
        found: In words.
        form: Where `rlhf convert` reads it.
        advice: What to do with it where that does not.
    """

    found: str
    form: Form | None = None
    advice: str = ""


_ARRAY_FORM, _OBJECTS_FORM = Form("one JSON array"), Form("JSON objects of several lines each")

#: What binary files and the like begin with: what they are, and what to do with those that have to be unpacked first.
_BEGINNINGS: tuple[tuple[bytes, OtherFile], ...] = (
    (b"PAR1", OtherFile("a Parquet file", Form("a Parquet file"))),
    (b"\xd0\xcf\x11\xe0", OtherFile("an old Excel file", advice="Save it in Excel as CSV UTF-8 first.")),
    (b"ARROW1", OtherFile("an Arrow file", advice="Write it with to_json(PATH) of the datasets library.")),
    (b"\x28\xb5\x2f\xfd", OtherFile("a file packed with zstd", advice="Unpack it first: zstd -d")),
    (b"BZh", OtherFile("a file packed with bzip2", advice="Unpack it first: bzip2 -dk")),
    (b"\xfd7zXZ\0", OtherFile("a file packed with xz", advice="Unpack it first: xz -dk")),
    (b"version https://git-lfs", OtherFile("a pointer of Git LFS, not the data itself", advice="Run: git lfs pull")),
    (b"<!doctype html", OtherFile("a web page", advice="Download the raw file behind it.")),
    (b"<html", OtherFile("a web page", advice="Download the raw file behind it.")),
)
_EXCEL_MARKS = (b"[Content_Types].xml", b"xl/")
_COLUMN = re.compile(r"[\w .-]{1,40}")
_ARRAY = re.compile(rb"\[\s*\{")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LINES_LOOKED_AT = 10

#: So much of what follows its first line tells what a file is.
HEAD_BYTES = 2**18
_HEADER_CHARACTERS = 5_000


def other_file(first: bytes, rest: bytes, name: str, *, cut: bool = False) -> OtherFile | None:
    """Return what a file seems to be, or None where it is to be read line by line.

    Args:
        first: Its first line, with its end.
        rest: What follows, at least `HEAD_BYTES` of it where there is so much.
        name: The file.
        cut: Whether only the beginning of the first line is at hand.
    """
    if (binary := _binary(first + rest[:512])) is not None:
        return binary
    line, rest = first.removeprefix(_BYTE_ORDER_MARK).lstrip(), rest[:HEAD_BYTES]
    if not line:
        line, rest = rest.lstrip(), b""
    if cut:
        return _of_form(_ARRAY_FORM) if _ARRAY.match(line) and not rest.strip() else None
    return _json(line, rest) if line[:1] in (b"{", b"[") else _table(line + rest, name)


def _of_form(form: Form) -> OtherFile:
    return OtherFile(form.name, form)


def _binary(head: bytes) -> OtherFile | None:
    if head[:4] == b"PK\3\4":
        excel = any(mark in head[:2000] for mark in _EXCEL_MARKS)
        if excel:
            return OtherFile("an Excel file", advice="Save it in Excel as CSV UTF-8 first.")
        return OtherFile("a zip archive", advice="Unpack it first.")
    if head[257:262] == b"ustar":
        return OtherFile("a tar archive", advice="Unpack it first.")
    if encoding := _UTF16.get(head[:2]):
        return OtherFile(f"text in {encoding}", Form("text in another encoding", encoding))
    for beginning, other in _BEGINNINGS:
        if head[: len(beginning)].lower() == beginning.lower():
            return other
    return None


def _json(line: bytes, rest: bytes) -> OtherFile | None:
    """Say whether text that begins with a bracket is an array of rows, or rows of several lines each."""
    value = _decoded(line)
    if value is not None:
        if rest.strip():
            return None
        if isinstance(value, dict):
            return _one_object(value)
        rows = isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)
        return _of_form(_ARRAY_FORM) if rows else None
    text = (line + rest).decode(errors="replace")
    if array := _ARRAY.match(line + rest):
        return _of_form(_ARRAY_FORM) if _is_array(text, array.end() - 1) else None
    try:
        row, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None
    following = text[end:].lstrip()[:1]
    if "\n" not in text[:end] or following not in ("{", ""):
        return None
    return (None if following else _one_object(row)) or _of_form(_OBJECTS_FORM)


def _is_array(text: str, start: int) -> bool:
    """Say whether objects with commas between them begin at `start`, as far as they can be seen."""
    for number in range(_LINES_LOOKED_AT):
        try:
            row, end = json.JSONDecoder().raw_decode(text, start)
        except (ValueError, RecursionError):
            return number > 0
        following = text[end:].lstrip()[:1]
        if not isinstance(row, dict) or following not in (",", "]", ""):
            return False
        if following != ",":
            return True
        start = end + re.match(r"\s*,\s*", text[end:]).end()  # type: ignore[union-attr]
    return True


def _decoded(line: bytes) -> object:
    """Return the JSON value of a line, or None where it is none."""
    try:
        return msgspec.json.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _one_object(record: dict[str, object]) -> OtherFile | None:
    """Say whether the only object of a file holds all rows."""
    if record.keys() & _FIELDS:
        tables = all(isinstance(column, dict) and "0" in column for column in record.values())
        return OtherFile("a table written column by column", Form("a table by columns")) if tables else None
    for key, value in record.items():
        if isinstance(value, list) and value and isinstance(value[0], dict) and key.isidentifier() and key.isascii():
            return OtherFile(f"one JSON object with the rows in its field {key}", Form("one JSON object", key))
    return None


def _table(text: bytes, name: str) -> OtherFile | None:
    """Say whether text that begins with no bracket is a table of comma-separated values, or the like."""
    lines = [line for line in text.split(b"\n", _LINES_LOOKED_AT) if line.strip()][:_LINES_LOOKED_AT]
    if any(line.lstrip().startswith(b"{") for line in lines[1:]) or not lines:
        return None
    header = lines[0].decode(errors="replace").strip()
    for delimiter in ",\t;|" if len(header) <= _HEADER_CHARACTERS else "":
        try:
            columns = next(csv.reader([header], delimiter=delimiter))
        except csv.Error:
            return None
        named = all(map(_COLUMN.fullmatch, columns)) and bool(_FIELDS & set(columns))
        if named or (len(columns) > 1 and name.removesuffix(".gz").endswith((".csv", ".tsv"))):
            what = f"a table with the columns {shorten(printable(', '.join(columns)))}, as a CSV file has them"
            return OtherFile(what, Form("a table of text", delimiter))
    return None
