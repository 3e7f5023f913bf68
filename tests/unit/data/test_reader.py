import gzip
import io
import json
import os
import random
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
from benchmarks.fuzz_rows import SHAPES, AllProblems, Maker, write
from tests.unit.data.reading import read as read_file

from rlhf_tuning.data import reader, sources
from rlhf_tuning.data.batch import Batch
from rlhf_tuning.data.formats import parse_line
from rlhf_tuning.data.problems import Fault, Problems
from rlhf_tuning.data.reader import EITHER, PREFERENCES, PROMPTS, FileReader, check_instruction
from rlhf_tuning.data.rows import Kind, encode_detail
from rlhf_tuning.data.scan import Scan, ScannedDataset, gather, scan_in_turn
from rlhf_tuning.data.sources import Source, resolve
from rlhf_tuning.errors import ParameterError

A, B = b'{"input_text": "a"}', b'{"input_text": "b"}'
PREFERENCE = b'{"input_text": "a", "candidate_0": "x", "candidate_1": "y", "choice": 0}'


class Read(NamedTuple):
    dataset: ScannedDataset
    batches: list[Batch]
    problems: Problems

    @property
    def places(self) -> list[tuple[str, int]]:
        """Return file and line of each good row."""
        return [
            (Path(file.source.name).name, line)
            for file, batches in zip(self.dataset.files, self.by_file(), strict=True)
            for batch in batches
            for line in batch.line_numbers.tolist()
        ]

    def by_file(self) -> list[list[Batch]]:
        """Return the batches of each file: as many rows as the file has."""
        batches = iter(self.batches)
        result = []
        for file in self.dataset.files:
            mine: list[Batch] = []
            while sum(map(len, mine)) < file.fingerprint.rows:
                mine.append(next(batches))
            result.append(mine)
        return result


def read(path: Path, folder: Path, *, accepts: Any = PROMPTS) -> Read:
    problems = Problems()
    batches: list[Batch] = []
    scan = Scan(parameter="eval_dataset", accepts=accepts, instruction="", folder=folder)
    files = scan_in_turn(resolve(str(path), parameter="eval_dataset"), scan, sink=batches.append)
    return Read(gather(files, scan, problems), batches, problems)


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a scan writes, away from the dataset."""
    return tmp_path_factory.mktemp("scan")


def found(problems: Problems) -> list[tuple[str, int]]:
    return [(problem.code, problem.line) for kept in problems.kept.values() for problem in kept]


def test_yields_rows_of_all_files_with_their_places(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "1.jsonl").write_bytes(A + b"\n" + B + b"\n")
    (tmp_path / "2.jsonl.gz").write_bytes(gzip.compress(B))
    result = read(tmp_path, folder)
    assert result.places == [("1.jsonl", 1), ("1.jsonl", 2), ("2.jsonl.gz", 1)]
    assert b"".join(batch.encoded for batch in result.batches).decode() == "".join(
        f'{{"prompt": [{{"role": "user", "content": "{text}"}}]}}\n' for text in "abb"
    )
    assert not result.problems.counts
    assert not result.problems.warnings


def test_blocks_after_the_first_are_numbered_on(tmp_path: Path) -> None:
    content = b"\n".join([A, B, A, b"{", B, A, b"", A])
    reading = read_file(content, block_bytes=1)
    assert reading.lines == [1, 2, 3, 5, 6, 8]
    assert reading.found == [("invalid_json", 4, ""), ("blank_line", 7, "")]
    assert read_file(content).lines == reading.lines


def test_accepts_a_byte_order_mark_crlf_and_blank_lines_at_the_end(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + A + b"\r\n" + B + b"\r\n\r\n \n\n")
    result = read(tmp_path, folder)
    assert result.dataset.rows == 2
    assert not result.problems.counts


def test_each_blank_line_before_a_row_is_a_problem(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\n" + A + b"\n\n \r\n" + B + b"\n\n")
    result = read(tmp_path, folder)
    assert result.dataset.rows == 2
    assert found(result.problems) == [("blank_line", 1), ("blank_line", 3), ("blank_line", 4)]


def test_goes_on_after_bad_rows_and_names_each_with_its_line(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([A, b"{", B, b'{"input_text": 1}', A, b'{"input_text": "cut']))
    result = read(tmp_path, folder)
    assert [line for _, line in result.places] == [1, 3, 5]
    assert found(result.problems) == [("invalid_json", 2), ("invalid_json", 6), ("wrong_type", 4)]
    assert result.problems.kept["wrong_type"][0].location == f"{tmp_path}/a.jsonl:4"
    assert result.problems.kept["wrong_type"][0].parameter == "eval_dataset"


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf\r\n"])
def test_a_dataset_without_rows_is_a_problem(tmp_path: Path, folder: Path, content: bytes) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    result = read(tmp_path, folder)
    assert result.batches == []
    assert found(result.problems) == [("empty_dataset", 0)]


def test_a_dataset_of_many_empty_files_names_some_of_them(tmp_path: Path, folder: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.jsonl").touch()
    problems = read(tmp_path, folder).problems
    assert problems.kept["empty_dataset"][0].file.endswith("2.jsonl and 2 more")


def test_a_dataset_of_bad_rows_only_is_not_called_empty(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"{}\n")
    assert found(read(tmp_path, folder).problems) == [("unknown_format", 1)]


def test_an_empty_file_among_others_is_a_warning(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(A)
    (tmp_path / "b.jsonl").touch()
    result = read(tmp_path, folder)
    assert result.dataset.rows == 1
    assert not result.problems.counts
    [warning] = result.problems.warnings
    assert warning.startswith("eval_dataset: 1 of 2 files are empty")
    assert "b.jsonl" in warning


def test_the_name_of_an_empty_file_can_be_printed(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "1.jsonl").write_bytes(A)
    (tmp_path / "2\n\udce9.jsonl").touch()
    [warning] = read(tmp_path, folder).problems.warnings
    assert "2\\n\\udce9.jsonl" in warning
    assert warning.isprintable()


def test_a_file_that_breaks_off_is_a_problem_and_the_next_file_is_still_read(tmp_path: Path, folder: Path) -> None:
    whole = gzip.compress(A + b"\n" + os.urandom(50_000))
    (tmp_path / "a.jsonl.gz").write_bytes(whole[:20_000])
    (tmp_path / "b.jsonl").write_bytes(B)
    result = read(tmp_path, folder)
    assert result.places[0] == ("a.jsonl.gz", 1)
    assert result.places[-1] == ("b.jsonl", 1)
    [problem] = result.problems.kept["unreadable_file"]
    assert problem.file.endswith("a.jsonl.gz")
    assert problem.found.startswith("its gzip data is damaged")


def test_rows_of_another_kind_than_the_first_are_problems_where_either_kind_may_stand(
    tmp_path: Path, folder: Path
) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([A, PREFERENCE, B, PREFERENCE]))
    (tmp_path / "b.jsonl").write_bytes(PREFERENCE)
    result = read(tmp_path, folder, accepts=EITHER)
    assert result.places == [("a.jsonl", 1), ("a.jsonl", 3)]
    assert found(result.problems) == [("mixed_rows", 2), ("mixed_rows", 4), ("mixed_rows", 1)]
    assert all(problem.accepted.endswith("a.jsonl:1)") for problem in result.problems.kept["mixed_rows"])


def test_rows_of_one_kind_are_fine_where_either_kind_may_stand(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([PREFERENCE, PREFERENCE]))
    result = read(tmp_path, folder, accepts=EITHER)
    assert {batch.kind for batch in result.batches} == {"preference"}
    assert (result.dataset.kind, result.dataset.rows) == ("preference", 2)
    assert not result.problems.counts


@pytest.mark.parametrize("end", [b"\n", b"\n\n \r\n"])
def test_a_small_file_is_read_fast_from_its_second_row_on(monkeypatch: pytest.MonkeyPatch, end: bytes) -> None:
    blocks: list[bytes] = []
    parse = reader.parse_line
    monkeypatch.setattr(reader, "parse_line", lambda raw, **settings: blocks.append(raw) or parse(raw, **settings))
    assert read_file(b"\n".join([A] * 50) + b"\n").lines == list(range(1, 51))
    assert blocks == [A]
    # A bad row is looked for line by line, from the first on.
    blocks.clear()
    assert read_file(b"\n".join([A] * 5 + [b"{"]) + end).lines == [1, 2, 3, 4, 5]
    assert blocks == [*[A] * 5, b"{"]


def test_rows_of_several_formats_may_stand_in_one_file_and_keep_their_order() -> None:
    chat = b'{"messages": [{"author": "user", "content": "c"}]}'
    for block_bytes in (1, 2**20):
        reading = read_file(b"\n".join([A, chat, chat, B, B]), block_bytes=block_bytes)
        assert [row["prompt"][0]["content"] for row in reading.rows] == ["a", "c", "c", "b", "b"]
        assert reading.lines == [1, 2, 3, 4, 5]
        assert not reading.problems.counts


def test_a_blank_instruction_is_none() -> None:
    assert check_instruction(" \n") == ""
    assert check_instruction(" Be kind. ") == " Be kind. "


@pytest.mark.parametrize("instruction", ["a\ud800", "a\0"])
def test_refuses_an_instruction_that_is_no_text(instruction: str) -> None:
    with pytest.raises(ParameterError, match="instruction"):
        check_instruction(instruction)


class Dribble(io.RawIOBase):
    """Gives a file's bytes a few at a time, as a network does."""

    def __init__(self, content: bytes, sizes: random.Random) -> None:
        self._content, self._sizes = io.BytesIO(content), sizes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        first = self._content.tell() == 0  # never less than the two bytes by which gzip is known
        piece = self._content.read(min(len(buffer), max(2 * first, self._sizes.choice([1, 2, 3, 7, 50, 10**6]))))
        buffer[: len(piece)] = piece
        return len(piece)


class Plainly(NamedTuple):
    """What a file holds."""

    rows: list[tuple[int, str, Any]]
    problems: list[tuple[int, str]]
    bad_lines: list[bytes]


def read_plainly(content: bytes, *, accepts: tuple[Kind, ...], instruction: str, longest: int) -> Plainly:
    """Return what a file holds, line by line, with the whole of it in memory."""
    lines = content.split(b"\n")
    result = Plainly([], [], [])
    blank: list[int] = []
    kind = ""
    for number, raw in enumerate(lines if lines[-1] else lines[:-1], 1):
        line = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 and len(raw) <= longest else raw
        if len(line) <= longest and not line.strip():
            blank.append(number)
            continue
        result.problems.extend((place, "blank_line") for place in blank)
        blank.clear()
        if len(line) > longest:
            result.problems.append((number, "long_line"))
            continue
        faults: list[Fault] = []
        parsed = parse_line(line, accepts=accepts, instruction=instruction, faults=faults)
        kind = kind or (parsed[1].kind if parsed else "")
        if parsed is not None and parsed[1].kind == kind:
            row = {part: getattr(parsed[1], part) for part in ("prompt", "chosen", "rejected", "answer")}
            kept = {key: value for key, value in row.items() if value is not None}
            kept |= json.loads(b"{%b}" % encode_detail(parsed[1]))
            result.rows.append((number, parsed[0].name, kept))
        else:
            codes = [fault.code for fault in faults] or ["mixed_rows"]
            result.problems.extend((number, code) for code in codes)
            result.bad_lines.append(line)
    return result


def any_content(seed: int) -> tuple[bytes, tuple[Kind, ...]]:
    """Return a file with rows of one format or two, some damaged, blank or long, and its end perhaps cut off."""
    pick, make = random.Random(seed), Maker(seed)
    shapes = [pick.choice(SHAPES), pick.choice(SHAPES)]
    written = make.ordinary()
    end = written.pop("end")
    lines = []
    for _ in range(pick.choice([0, 1, 3, 10, 30])):
        line = write(make.record(shapes[pick.random() < 0.05], rare=pick.random() < 0.05), **written)
        lines.append(
            pick.choices([line, make.damaged(line), pick.choice([b"", b" ", b"\r"]), line + b" " * 600], [85, 5, 5, 5])[
                0
            ]
        )
    content = b"\xef\xbb\xbf" * (pick.random() < 0.2) + b"".join(line + end for line in lines)
    content = content[: len(content) - pick.choice([0, 0, 0, 1, 5])] + pick.choice([b"", b"", b"\n\r\n \n"])
    return content, pick.choice([(shapes[0][1],), (shapes[0][1],), PROMPTS, PREFERENCES, EITHER])


@pytest.mark.parametrize("seed", range(0, 400, 50))
def test_a_file_holds_the_same_however_its_bytes_arrive_and_are_cut_into_blocks(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    lines = 0
    for number in range(seed, seed + 50):
        pick = random.Random(number)
        content, accepts = any_content(number)
        longest, instruction = pick.choice([500, 2**24]), pick.choice(["", "Be brief."])
        monkeypatch.setattr(sources, "LINE_BYTES", longest)
        monkeypatch.setattr(reader, "BLOCK_BYTES", pick.choice([1, 20, 100, 1000, 2**19]))
        part = pick.randrange(len(content) + 1)
        stored = gzip.compress(content[:part]) + gzip.compress(content[part:]) if number % 3 == 0 else content
        problems = AllProblems()
        bad_lines: list[bytes] = []
        file = FileReader(
            Source(name="a.jsonl", open=lambda: cast(Any, Dribble(stored, pick)), size=len(stored)),  # noqa: B023
            parameter="prompt_dataset",
            accepts=accepts,
            instruction=instruction,
            problems=problems,
            bad_row=bad_lines.append,
        )
        rows = [
            (int(line), batch.format, json.loads(batch.line(index)))
            for batch in file.batches()
            for index, line in enumerate(batch.line_numbers)
        ]
        expected = read_plainly(content, accepts=accepts, instruction=instruction, longest=longest)
        assert rows == expected.rows
        assert [(problem.line, problem.code) for problem in problems.all] == expected.problems
        assert bad_lines == expected.bad_lines
        assert file.bad_rows == len({line for line, _ in expected.problems})
        assert file.empty == (not rows and not file.bad_rows)
        lines += len(rows)
    assert lines > 100
