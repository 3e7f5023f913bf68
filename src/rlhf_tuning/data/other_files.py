"""Files that hold rows otherwise than as JSON lines: what they are, by how they begin, and how to convert them.

A file is judged by its beginning, and only where no line there is an object by itself: one bad line is a bad row.
"""

import csv
import json
import re
from typing import NamedTuple

import msgspec

from rlhf_tuning.data.fields import PREFERENCE_FIELDS
from rlhf_tuning.data.problems import convert, printable, shorten
from rlhf_tuning.data.trl_standard import PREFERENCE

_FIELDS = {"input_text", "messages", *PREFERENCE_FIELDS, *PREFERENCE, "output_text", "completion", "contents"}

_UTF16 = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"{\0": "UTF-16LE", b"[\0": "UTF-16LE", b"\0{": "UTF-16BE"}
_ROWS = "python3 -c 'import json, sys; [print(json.dumps(row)) for row in json.load(sys.stdin.buffer){key}]'"
_COLUMNS = (
    "python3 -c 'import json, sys; table = json.load(sys.stdin.buffer); [print(json.dumps(dict(zip(table, row)))) "
    "for row in zip(*(column.values() for column in table.values()))]'"
)
# Between two objects is no comma, and no string of JSON goes over a line's end.
_OBJECTS = (
    'python3 -c \'import json, re, sys; text = sys.stdin.buffer.read().decode("utf-8-sig"); '
    '[print(json.dumps(row)) for row in json.loads("[" + re.sub(r"}\\s*\\n\\s*{", "},{", text) + "]")]\''
)
_CSV = (
    "python3 -c 'import csv, io, json, sys; [print(json.dumps({row})) for row in "
    'csv.DictReader(io.TextIOWrapper(sys.stdin.buffer, "utf-8-sig", newline=""){delimiter})]\''
)
_PARQUET = (
    "python3 -c 'import io, json, sys, pyarrow.parquet as pq; [print(json.dumps(row, default=str)) for row in "
    "pq.read_table(io.BytesIO(sys.stdin.buffer.read())).to_pylist()]'"
)
_PANDAS = (
    "python3 -c 'import io, sys, pandas; pandas.read_excel(io.BytesIO(sys.stdin.buffer.read()))"
    '.to_json(sys.stdout, orient="records", lines=True)\''
)

#: What binary files and the like begin with: what they are, and the program that converts them, or what else to do.
_BEGINNINGS: tuple[tuple[bytes, str, str], ...] = (
    (b"PAR1", "a Parquet file", _PARQUET),
    (b"\xd0\xcf\x11\xe0", "an old Excel file", "Save it in Excel as CSV UTF-8 first."),
    (b"ARROW1", "an Arrow file", "Write it with to_json(PATH) of the datasets library."),
    (b"\x28\xb5\x2f\xfd", "a file packed with zstd", "zstd -dc"),
    (b"BZh", "a file packed with bzip2", "bzip2 -dc"),
    (b"\xfd7zXZ\0", "a file packed with xz", "xz -dc"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the data itself", "Run: git lfs pull"),
    (b"<!doctype html", "a web page", "Download the raw file behind it."),
    (b"<html", "a web page", "Download the raw file behind it."),
)
_EXCEL_MARKS = (b"[Content_Types].xml", b"xl/")
_COLUMN = re.compile(r"[\w .-]{1,40}")
_ARRAY = re.compile(rb"\[\s*\{")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_ESCAPED = {"\t": "\\t"}
_LINES_LOOKED_AT = 10

#: So much of what follows its first line tells what a file is.
HEAD_BYTES = 2**18
_HEADER_CHARACTERS = 5_000


class OtherFile(NamedTuple):
    """What a file is instead of JSON lines, and how to convert it."""

    found: str
    accepted: str


def other_file(first: bytes, rest: bytes, name: str, *, cut: bool = False) -> OtherFile | None:
    """Return what a file seems to be, or None where it is to be read line by line.

    Args:
        first: Its first line, with its end.
        rest: What follows, at least `HEAD_BYTES` of it where there is so much.
        name: The file.
        cut: Whether only the beginning of the first line is at hand.
    """
    found = _binary(first + rest[:512])
    if found is None:
        line, rest = first.removeprefix(_BYTE_ORDER_MARK).lstrip(), rest[:HEAD_BYTES]
        if not line:
            line, rest = rest.lstrip(), b""
        if cut:
            found = ("one JSON array", _ROWS.format(key="")) if _ARRAY.match(line) and not rest.strip() else None
        else:
            found = _json(line, rest) if line[:1] in (b"{", b"[") else _table(line + rest, name)
    if found is None:
        return None
    what, program = found
    # A program is written in small letters; all else is a sentence.
    how = f"Convert it: {convert((name,), program)}" if program[0].islower() else program
    return OtherFile(what, f"one JSON object on each line. {how}")


def _binary(head: bytes) -> tuple[str, str] | None:
    if head[:4] == b"PK\3\4":
        excel = any(mark in head[:2000] for mark in _EXCEL_MARKS)
        return ("an Excel file", _PANDAS) if excel else ("a zip archive", "Unpack it first.")
    if head[257:262] == b"ustar":
        return "a tar archive", "Unpack it first."
    if encoding := _UTF16.get(head[:2]):
        return f"text in {encoding}", f"iconv -f {encoding} -t UTF-8"
    for beginning, what, program in _BEGINNINGS:
        if head[: len(beginning)].lower() == beginning.lower():
            return what, program
    return None


def _json(line: bytes, rest: bytes) -> tuple[str, str] | None:
    """Say whether text that begins with a bracket is an array of rows, or rows of several lines each."""
    value = _decoded(line)
    if value is not None:
        if rest.strip():
            return None
        if isinstance(value, dict):
            return _one_object(value)
        rows = isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)
        return ("one JSON array", _ROWS.format(key="")) if rows else None
    text = (line + rest).decode(errors="replace")
    if array := _ARRAY.match(line + rest):
        return ("one JSON array", _ROWS.format(key="")) if _is_array(text, array.end() - 1) else None
    try:
        row, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None
    following = text[end:].lstrip()[:1]
    if "\n" not in text[:end] or following not in ("{", ""):
        return None
    return (None if following else _one_object(row)) or ("JSON objects of several lines each", _OBJECTS)


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


def _one_object(record: dict[str, object]) -> tuple[str, str] | None:
    """Say whether the only object of a file holds all rows."""
    if record.keys() & _FIELDS:
        tables = all(isinstance(column, dict) and "0" in column for column in record.values())
        return ("a table written column by column", _COLUMNS) if tables else None
    for key, value in record.items():
        if isinstance(value, list) and value and isinstance(value[0], dict) and key.isidentifier() and key.isascii():
            return f"one JSON object with the rows in its field {key}", _ROWS.format(key=f'["{key}"]')
    return None


def _table(text: bytes, name: str) -> tuple[str, str] | None:
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
            row = 'row | {"choice": int(row["choice"])}' if "choice" in columns else "row"
            other = "" if delimiter == "," else f', delimiter="{_ESCAPED.get(delimiter, delimiter)}"'
            what = f"a table with the columns {shorten(printable(', '.join(columns)))}, as a CSV file has them"
            return what, _CSV.format(row=row, delimiter=other)
    return None
