import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from rlhf_tuning.data import known_rows
from rlhf_tuning.data.importer import import_preferences
from rlhf_tuning.errors import DataError

WriteRows = Callable[[str, Sequence[Mapping[str, object]]], str]


def preferences(numbers: Sequence[int]) -> list[dict[str, object]]:
    return [
        {"input_text": f"Place {number}.", "candidate_0": f"Long {number}.", "candidate_1": "Short.", "choice": 0}
        for number in numbers
    ]


@pytest.fixture
def known(tmp_path: Path, write_rows: WriteRows) -> str:
    """The rows 0 to 39, as the import keeps them."""
    path = str(tmp_path / "out/rows")
    import_preferences(
        preference_dataset=write_rows("known.jsonl", preferences(range(40))),
        eval_dataset="",
        instruction="",
        preferences_path=str(tmp_path / "out/training"),
        eval_preferences_path=str(tmp_path / "out/held-out"),
        preference_rows_path=path,
    )
    return path


def new(dataset: str, known_path: str, instruction: str = "") -> int:
    return known_rows.count_new({"preference_dataset": dataset}, instruction=instruction, known_path=known_path)[
        "preference_dataset"
    ].new


def test_the_same_rows_in_another_order_and_in_other_files_are_not_new(known: str, write_rows: WriteRows) -> None:
    write_rows("again/a.jsonl", preferences(range(39, 19, -1)))
    write_rows("again/b.jsonl", preferences(range(20)))
    assert new(str(Path(known).parent.parent / "again" / "*.jsonl"), known) == 0


def test_rows_that_were_held_out_are_known_too(known: str) -> None:
    assert len(known_rows.read(known)) == 40
    assert Path(known).stat().st_size == 8 * 40


def test_distinct_new_rows_are_counted_once_and_missing_ones_not_at_all(known: str, write_rows: WriteRows) -> None:
    dataset = write_rows("more.jsonl", preferences([*range(10), 50, 51, 51, 52]))
    assert new(dataset, known) == 3
    assert known_rows.count_new({"preference_dataset": dataset}, instruction="", known_path=known) == {
        "preference_dataset": known_rows.NewRows(rows=14, new=3)
    }


def test_another_choice_or_another_instruction_makes_a_row_new(known: str, write_rows: WriteRows) -> None:
    changed = [{**row, "choice": 1} for row in preferences([7])]
    assert new(write_rows("changed.jsonl", changed + preferences([8])), known) == 1
    assert new(write_rows("same.jsonl", preferences(range(40))), known, instruction="Be brief.") == 40


def test_every_row_is_new_where_nothing_is_known(write_rows: WriteRows) -> None:
    assert new(write_rows("rows.jsonl", preferences([1, 2, 2])), "") == 2


def test_a_bad_row_is_refused_as_everywhere(known: str, write_rows: WriteRows) -> None:
    rows = [*preferences([50]), {"input_text": "Place.", "candidate_0": "a", "candidate_1": "b", "choice": 2}]
    with pytest.raises(DataError, match=r"bad.jsonl:2"):
        new(write_rows("bad.jsonl", rows), known)


@pytest.mark.parametrize("content", [b"1234567", np.array([3, 2], "<u8").tobytes(), json.dumps([1] * 3).encode()])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rows").write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        known_rows.read(tmp_path / "rows")
