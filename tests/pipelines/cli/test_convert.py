import json
from pathlib import Path

import pytest

from rlhf_pipelines.cli import rlhf

TIE = {"prompt": "Where?", "response_1": "Here.", "response_2": "No.", "preference_strength": 0}


def test_says_what_was_taken_for_what_and_what_was_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [TIE, {**TIE, "preference_strength": -1}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = tmp_path / "new.jsonl"
    assert rlhf.main(["convert", str(tmp_path / "a.jsonl"), "--output", str(output)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("Rows as HelpSteer2 has them: preference_strength below 0 is taken for response_1")
    assert told[1:] == ["Left out, 1: they prefer no answer.", f"1 preference rows of 2 read: {output}"]
    assert rlhf.main(["validate", "--preference-dataset", str(output), "--output-dir", str(tmp_path / "report")]) == 2
    # Nothing but the number of rows is wrong with it.
    assert "too_few_rows" in capsys.readouterr().err


def test_rows_that_nothing_can_be_made_of_are_wrong_inputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n')
    assert rlhf.main(["convert", str(tmp_path / "a.jsonl"), "--output", str(tmp_path / "new.jsonl")]) == 2
    assert "Nothing can be made of rows with the fields a" in capsys.readouterr().err
