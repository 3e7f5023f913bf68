import json
import zipfile
from pathlib import Path

import pytest
from tests.unit.data.reading import as_lines, read

from rlhf_tuning.data.convert import convert
from rlhf_tuning.data.other_files import other_file
from rlhf_tuning.data.problems import convert_command
from rlhf_tuning.data.reader import PREFERENCES

ROWS: list[dict[str, object]] = [
    {"input_text": 'Say "hi",\nplease', "candidate_0": "Hé", "candidate_1": "漢字", "choice": 0},
    {"input_text": "b", "candidate_0": "x;y", "candidate_1": "z\tz", "choice": 1},
    {"input_text": "c", "candidate_0": "x", "candidate_1": "{", "choice": 1},
]


def table(delimiter: str) -> bytes:
    def quoted(value: object) -> str:
        return '"' + str(value).replace('"', '""') + '"'

    rows = [delimiter.join(map(quoted, row.values())) for row in ROWS]
    return "\r\n".join([delimiter.join(ROWS[0]), *rows, ""]).encode()


def columns() -> bytes:
    return json.dumps({key: {str(index): row[key] for index, row in enumerate(ROWS)} for key in ROWS[0]}).encode()


OTHERS: list[tuple[str, bytes, str]] = [
    ("p.json", json.dumps(ROWS).encode(), "one JSON array"),
    ("p.jsonl", json.dumps(ROWS).encode() + b"\n", "one JSON array"),
    ("p.json", json.dumps(ROWS, indent=2).encode(), "one JSON array"),
    ("p.json", b"\xef\xbb\xbf[\n" + b",\n".join(json.dumps(row).encode() for row in ROWS) + b"\n]\n", "one JSON array"),
    ("p q.json", json.dumps({"version": 1, "data": ROWS}).encode(), "one JSON object with the rows in its field data"),
    ("p.json", json.dumps({"data": ROWS}, indent=1).encode(), "one JSON object with the rows in its field data"),
    ("p.json", "\n".join(json.dumps(row, indent=1) for row in ROWS).encode(), "JSON objects of several lines each"),
    ("p.json", columns(), "a table written column by column"),
    ("p.csv", table(","), "a table with the columns input_text, candidate_0, candidate_1, choice, as a CSV file"),
    ("p.jsonl", b"\xef\xbb\xbf" + table(","), "a table with the columns"),
    ("p.tsv", table("\t"), "a table with the columns"),
    ("it's.csv", table(";"), "a table with the columns"),
    ("p.jsonl", as_lines(ROWS).decode().encode("utf-16"), "text in UTF-16"),
    ("p.jsonl", as_lines(ROWS).decode().encode("utf-16-le"), "text in UTF-16LE"),
    ("p.jsonl", as_lines(ROWS).decode().encode("utf-16-be"), "text in UTF-16BE"),
]


@pytest.mark.parametrize(("name", "content", "found"), OTHERS, ids=lambda value: ascii(value)[:40])
def test_a_file_of_rows_in_another_shape_is_one_problem_whose_command_converts_it(
    tmp_path: Path, name: str, content: bytes, found: str
) -> None:
    reading = read(content, accepts=PREFERENCES)
    assert reading.found == [("not_json_lines", 0, "")]
    assert reading.problem.found.startswith(found)
    assert (reading.batches, reading.reader.bad_rows, reading.reader.empty) == ([], 0, False)

    (tmp_path / name).write_bytes(content)
    assert "Convert it: rlhf convert a.jsonl --to preference --output a-new.jsonl" in reading.problem.accepted
    convert([str(tmp_path / name)], str(tmp_path / "new"), to="preference")
    converted = read((tmp_path / "new").read_bytes(), accepts=PREFERENCES)
    assert not converted.found
    assert converted.rows == read(as_lines(ROWS)).rows


def test_objects_of_several_lines_are_one_problem() -> None:
    content = "".join(json.dumps(row, indent=2) + "\n" for row in ROWS).encode()
    for text in (content, content[: len(content) // 3 * 2], json.dumps(ROWS[0], indent=2).encode()):
        reading = read(text)
        assert reading.found == [("not_json_lines", 0, "")]


def test_binary_files_are_one_problem_each(tmp_path: Path) -> None:
    for name, member in (("a zip archive", "rows.jsonl"), ("an Excel file", "[Content_Types].xml")):
        with zipfile.ZipFile(tmp_path / "a", "w") as archive:
            archive.writestr(member, "x\n" * 100)
        assert read((tmp_path / "a").read_bytes()).problem.found == name
    for name, content in (
        ("a Parquet file", b"PAR1\x15\x04\n\n\xff"),
        ("a file packed with zstd", b"\x28\xb5\x2f\xfd\n\xff"),
        ("a tar archive", bytes(257) + b"ustar\n\n"),
        ("a web page", b"<!DOCTYPE html>\n<html>\n"),
        ("a pointer of Git LFS, not the data itself", b"version https://git-lfs.github.com/spec/v1\noid a\n"),
    ):
        reading = read(content)
        assert reading.found == [("not_json_lines", 0, "")]
        assert reading.problem.found == name


@pytest.mark.parametrize(
    "first",
    [
        b"[",
        b"{",
        b"]",
        b'[{"input_text": "a"}]',
        b'[{"input_text": "a"},',
        b'{"input_text":',
        b'{"input_text": "a"',
        b'{"input_text": "a",',
        b'{"data": [{"input_text": "a"}]}',
        b"input_text,candidate_0,candidate_1,choice",
        b"input_text",
        b"Describe the sea, the sky.",
        b"\xff\xfa",
        b"[" * 100_000,
    ],
    ids=lambda first: ascii(first[:40]),
)
def test_a_file_whose_first_line_alone_is_bad_is_read_line_by_line(first: bytes) -> None:
    reading = read(first + b"\n" + as_lines(ROWS))
    assert {line for _, line, _ in reading.found} == {1}
    assert "not_json_lines" not in reading.problems.counts
    assert reading.lines == [2, 3, 4]


def test_a_line_too_long_to_be_kept_that_is_an_array_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf_tuning.data.sources.LINE_BYTES", 200)
    reading = read(json.dumps(ROWS).encode() * 3)
    assert reading.found == [("not_json_lines", 0, "")]
    assert reading.problem.found == "one JSON array"
    among_rows = read(json.dumps(ROWS).encode() + b"\n" + as_lines(ROWS))
    assert among_rows.found == [("long_line", 1, "")]
    assert among_rows.lines == [2, 3, 4]


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("data/p.json.gz", "rlhf convert data/p.json.gz --to prompt --output p.jsonl"),
        ("gs://b/d/p.json", "rlhf convert gs://b/d/p.json --to prompt --output p.jsonl"),
        ("it's.csv", """rlhf convert 'it'"'"'s.csv' --to prompt --output 'it'"'"'s.jsonl'"""),
        ("a b\n.json", "rlhf convert FILE --to prompt --output FILE"),
    ],
)
def test_the_command_fits_where_the_file_is(name: str, command: str) -> None:
    assert convert_command([name], "prompt") == command


def test_of_very_many_files_the_command_names_the_first() -> None:
    command = convert_command([f"{number}.jsonl" for number in range(100)], "")
    assert command.startswith("rlhf convert 0.jsonl 1.jsonl ")
    assert " 19.jsonl ... --output" in command


def test_an_array_of_numbers_and_a_cut_off_row_are_bad_rows() -> None:
    for content in (b"[1, 2]", b"[]", b'{"input_text": "a', b'{"input_text": "a"}', b'[\n"a",\n"b"\n]\n', b"", b"\n\n"):
        assert other_file(content, b"", "a.jsonl") is None
