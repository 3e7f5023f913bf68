"""What a prompt brings besides its text, for rewards: read, kept with it, and refused where it is none."""

import json

import pytest

from rlhf_tuning.data.formats import parse_line
from rlhf_tuning.data.importer import import_prompts, read_canonical
from rlhf_tuning.data.problems import Fault
from rlhf_tuning.data.reader import PREFERENCES, PROMPTS

PROMPT_ROWS = [
    {"input_text": "6 x 7?"},
    {"prompt": "6 x 7?"},
    {"prompt": [{"role": "user", "content": "6 x 7?"}]},
    {"messages": [{"author": "user", "content": "6 x 7?"}]},
    {"contents": [{"role": "user", "parts": [{"text": "6 x 7?"}]}]},
]


@pytest.mark.parametrize("record", PROMPT_ROWS)
def test_a_prompt_of_any_format_may_have_references(record):
    faults: list[Fault] = []
    row = {**record, "references": {"answer": "42", "words": ""}}
    parsed = parse_line(json.dumps(row).encode(), accepts=PROMPTS, instruction="", faults=faults)
    assert not faults
    assert parsed is not None
    assert parsed[1].references == {"answer": "42", "words": ""}


@pytest.mark.parametrize("references", [{}, "42", ["42"], {"answer": 42}, {"answer": None}, {" ": "42"}])
def test_references_are_texts_by_name(references):
    faults: list[Fault] = []
    row = {"prompt": "6 x 7?", "references": references}
    assert parse_line(json.dumps(row).encode(), accepts=PROMPTS, instruction="", faults=faults) is None
    assert faults[0].field.startswith("references")


def test_a_preference_has_no_use_for_references():
    faults: list[Fault] = []
    row = {"prompt": "6 x 7?", "chosen": "42", "rejected": "41", "references": {"answer": "42"}}
    assert parse_line(json.dumps(row).encode(), accepts=PREFERENCES, instruction="", faults=faults) is None
    assert [fault.code for fault in faults] == ["extra_field"]


def test_the_import_keeps_them_beside_their_prompts_and_holds_them_out_together(tmp_path):
    rows = [{"prompt": f"{n} x 7?", "references": {"answer": str(7 * n)}} for n in range(40)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"prompt": "7 x 7?"}]))

    def imported(eval_dataset):
        summary = import_prompts(
            prompt_dataset=str(tmp_path / "prompts.jsonl"),
            eval_dataset=eval_dataset,
            instruction="Reckon.",
            prompts_path=str(tmp_path / "learnt"),
            eval_prompts_path=str(tmp_path / "measured"),
        )
        return summary.fingerprint, *(list(read_canonical(tmp_path / name)) for name in ("learnt", "measured"))

    fingerprint, learnt, measured = imported("")
    assert len(measured) == 4
    for row in [*learnt, *measured]:
        number = row["prompt"][0]["content"].removeprefix("Reckon.\n\n").split()[0]
        assert row.get("references", {"answer": str(7 * int(number))}) == {"answer": str(7 * int(number))}
    assert sum("references" in row for row in [*learnt, *measured]) == 40
    # As an evaluation dataset of its own, too; and other references are other content.
    (tmp_path / "eval.jsonl").write_text(json.dumps({"prompt": "99 x 7?", "references": {"answer": "693"}}) + "\n")
    assert imported(str(tmp_path / "eval.jsonl"))[2][0]["references"] == {"answer": "693"}
    rows[3]["references"] = {"answer": "22"}
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"prompt": "7 x 7?"}]))
    assert imported("")[0] != fingerprint
