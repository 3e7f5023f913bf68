import pytest

from rlhf_tuning.data.problems import Fault
from rlhf_tuning.data.reader import EITHER, PREFERENCES, PROMPTS
from rlhf_tuning.data.rows import Row
from rlhf_tuning.data.vertex_text import parse, recognises

PREFERENCE = {"input_text": "Describe it.", "candidate_0": "Sea.", "candidate_1": "A calm sea.", "choice": 1}


def test_a_prompt_is_one_user_turn() -> None:
    row = parse({"input_text": "Describe it."}, accepts=PROMPTS, instruction="", faults=[])
    assert row == Row([{"role": "user", "content": "Describe it."}])


def test_the_instruction_stands_before_the_text_with_an_empty_line_between() -> None:
    row = parse({"input_text": "Sea."}, accepts=PROMPTS, instruction="Describe it.", faults=[])
    assert row == Row([{"role": "user", "content": "Describe it.\n\nSea."}])


def test_a_preference_names_the_chosen_and_the_rejected() -> None:
    faults: list[Fault] = []
    for accepts in (PREFERENCES, EITHER):
        row = parse(PREFERENCE, accepts=accepts, instruction="", faults=faults)
        assert row == Row([{"role": "user", "content": "Describe it."}], "A calm sea.", "Sea.", first_chosen=False)
    assert faults == []


@pytest.mark.parametrize("field", list(PREFERENCE))
def test_every_field_of_a_preference_is_required(field: str) -> None:
    faults: list[Fault] = []
    record = {key: value for key, value in PREFERENCE.items() if key != field}
    assert parse(record, accepts=PREFERENCES, instruction="", faults=faults) is None
    assert [(fault.code, fault.field) for fault in faults] == [("missing_field", field)]


def test_preference_fields_are_extra_among_prompts() -> None:
    faults: list[Fault] = []
    parse(PREFERENCE, accepts=PROMPTS, instruction="", faults=faults)
    assert {fault.code for fault in faults} == {"extra_field"}
    assert [fault.field for fault in faults] == ["candidate_0", "candidate_1", "choice"]


def test_finds_everything_wrong_with_a_row_at_once() -> None:
    faults: list[Fault] = []
    record = {"input_text": " ", "candidate_0": 1, "candidate_1": "a\0", "choice": "1"}
    parse(record, accepts=PREFERENCES, instruction="", faults=faults)
    assert [fault.code for fault in faults] == ["blank_text", "wrong_type", "nul_character", "wrong_type"]


def test_is_recognised_by_input_text() -> None:
    assert recognises(PREFERENCE)
    assert not recognises({"messages": []})
