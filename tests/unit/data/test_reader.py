import gzip
import os
from pathlib import Path

import pytest

from rlhf_tuning.data.problems import Problems
from rlhf_tuning.data.reader import EITHER, PROMPTS, LocatedRow, check_instruction, read_rows
from rlhf_tuning.data.sources import resolve
from rlhf_tuning.errors import ParameterError

A, B = b'{"input_text": "a"}', b'{"input_text": "b"}'
PREFERENCE = b'{"input_text": "a", "candidate_0": "x", "candidate_1": "y", "choice": 0}'


def read(path: Path, *, accepts: tuple[object, ...] = PROMPTS) -> tuple[list[LocatedRow], Problems]:
    problems = Problems()
    sources = resolve(str(path), parameter="eval_dataset")
    rows = list(
        read_rows(
            sources,
            parameter="eval_dataset",
            accepts=accepts,  # type: ignore[arg-type]
            instruction="",
            problems=problems,
        )
    )
    return rows, problems


def found(problems: Problems) -> list[tuple[str, int]]:
    return [(problem.code, problem.line) for kept in problems.kept.values() for problem in kept]


def test_yields_rows_of_all_files_with_their_places(tmp_path: Path) -> None:
    (tmp_path / "1.jsonl").write_bytes(A + b"\n" + B + b"\n")
    (tmp_path / "2.jsonl.gz").write_bytes(gzip.compress(B))
    rows, problems = read(tmp_path)
    places = [(row.prompt[0]["content"], Path(file).name, line) for row, file, line in rows]
    assert places == [("a", "1.jsonl", 1), ("b", "1.jsonl", 2), ("b", "2.jsonl.gz", 1)]
    assert not problems.counts
    assert not problems.warnings


def test_accepts_a_byte_order_mark_crlf_and_blank_lines_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + A + b"\r\n" + B + b"\r\n\r\n \n\n")
    rows, problems = read(tmp_path)
    assert len(rows) == 2
    assert not problems.counts


def test_each_blank_line_before_a_row_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\n" + A + b"\n\n \r\n" + B + b"\n\n")
    rows, problems = read(tmp_path)
    assert len(rows) == 2
    assert found(problems) == [("blank_line", 1), ("blank_line", 3), ("blank_line", 4)]


def test_goes_on_after_bad_rows_and_names_each_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([A, b"{", B, b'{"input_text": 1}', A, b'{"input_text": "cut']))
    rows, problems = read(tmp_path)
    assert [line for _, _, line in rows] == [1, 3, 5]
    assert found(problems) == [("invalid_json", 2), ("invalid_json", 6), ("wrong_type", 4)]
    assert problems.kept["wrong_type"][0].location == f"{tmp_path}/a.jsonl:4"
    assert problems.kept["wrong_type"][0].parameter == "eval_dataset"


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf\r\n"])
def test_a_dataset_without_rows_is_a_problem(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    rows, problems = read(tmp_path)
    assert rows == []
    assert found(problems) == [("empty_dataset", 0)]


def test_a_dataset_of_many_empty_files_names_some_of_them(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.jsonl").touch()
    _, problems = read(tmp_path)
    assert problems.kept["empty_dataset"][0].file.endswith("2.jsonl and 2 more")


def test_a_dataset_of_bad_rows_only_is_not_called_empty(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"{}\n")
    _, problems = read(tmp_path)
    assert found(problems) == [("unknown_format", 1)]


def test_an_empty_file_among_others_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(A)
    (tmp_path / "b.jsonl").touch()
    rows, problems = read(tmp_path)
    assert len(rows) == 1
    assert not problems.counts
    [warning] = problems.warnings
    assert warning.startswith("eval_dataset: 1 of 2 files are empty")
    assert "b.jsonl" in warning


def test_a_file_that_breaks_off_is_a_problem_and_the_next_file_is_still_read(tmp_path: Path) -> None:
    whole = gzip.compress(A + b"\n" + os.urandom(50_000))
    (tmp_path / "a.jsonl.gz").write_bytes(whole[:20_000])
    (tmp_path / "b.jsonl").write_bytes(B)
    rows, problems = read(tmp_path)
    assert rows[-1].file.endswith("b.jsonl")
    [problem] = problems.kept["unreadable_file"]
    assert problem.file.endswith("a.jsonl.gz")
    assert problem.found.startswith("its gzip data is damaged")


def test_rows_of_another_kind_than_the_first_are_problems_where_either_kind_may_stand(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([A, PREFERENCE, B, PREFERENCE]))
    rows, problems = read(tmp_path, accepts=EITHER)
    assert [line for _, _, line in rows] == [1, 3]
    assert found(problems) == [("mixed_rows", 2), ("mixed_rows", 4)]
    assert problems.kept["mixed_rows"][0].accepted.endswith("a.jsonl:1)")


def test_rows_of_one_kind_are_fine_where_either_kind_may_stand(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([PREFERENCE, PREFERENCE]))
    rows, problems = read(tmp_path, accepts=EITHER)
    assert [row.kind for row, _, _ in rows] == ["preference", "preference"]
    assert not problems.counts


def test_a_blank_instruction_is_none() -> None:
    assert check_instruction(" \n") == ""
    assert check_instruction(" Be kind. ") == " Be kind. "


@pytest.mark.parametrize("instruction", ["a\ud800", "a\0"])
def test_refuses_an_instruction_that_is_no_text(instruction: str) -> None:
    with pytest.raises(ParameterError, match="instruction"):
        check_instruction(instruction)
