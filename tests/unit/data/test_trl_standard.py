import pytest
from tests.unit.data.reading import as_lines, read, read_rows

from rlhf_tuning.data.problems import Fault
from rlhf_tuning.data.reader import EITHER, PREFERENCES, PROMPTS
from rlhf_tuning.data.rows import Kind, Row
from rlhf_tuning.data.trl_standard import parse, recognises

PREFERENCE = {"prompt": "Describe it.", "chosen": "A calm sea.", "rejected": "Sea."}
TURNS = [{"role": "user", "content": "Describe it."}]


def found(record: dict[str, object], accepts: tuple[Kind, ...] = PREFERENCES) -> list[tuple[str, str]]:
    faults: list[Fault] = []
    parse(record, accepts=accepts, instruction="", faults=faults)
    return [(fault.code, fault.field) for fault in faults]


def test_a_prompt_is_one_user_turn() -> None:
    assert parse({"prompt": "Describe it."}, accepts=PROMPTS, instruction="", faults=[]) == Row(TURNS)


def test_the_instruction_stands_before_the_text_with_an_empty_line_between() -> None:
    row = parse({"prompt": "Sea."}, accepts=PROMPTS, instruction="Describe it.", faults=[])
    assert row == Row([{"role": "user", "content": "Describe it.\n\nSea."}])


def test_a_preference_has_its_answers_and_no_order() -> None:
    faults: list[Fault] = []
    for accepts in (PREFERENCES, EITHER):
        row = parse(PREFERENCE, accepts=accepts, instruction="", faults=faults)
        assert row == Row(TURNS, "A calm sea.", "Sea.", first_chosen=None)
    assert faults == []
    for batch in read_rows([PREFERENCE, PREFERENCE]):
        assert (batch.format, batch.kind, len(batch), len(batch.first_chosen)) == ("trl_standard", "preference", 1, 0)


@pytest.mark.parametrize("instruction", ["", 'Say "it"\n\\ é'])
def test_many_rows_read_at_once_are_those_read_one_by_one(instruction: str) -> None:
    for rows in ([{"prompt": "a\n é 😀"}, {"prompt": '"b" /'}] * 2, [PREFERENCE, {**PREFERENCE, "chosen": "é/"}] * 2):
        fast = read(as_lines(rows), instruction=instruction, block_bytes=1)
        assert fast.rows == read(as_lines(rows), instruction=instruction, fast=False).rows
        assert fast.rows[0] == fast.rows[2]
        assert len(fast.rows) == 4


@pytest.mark.parametrize("field", ["chosen", "rejected"])
def test_every_field_of_a_preference_is_required(field: str) -> None:
    record: dict[str, object] = {key: value for key, value in PREFERENCE.items() if key != field}
    for accepts in (PREFERENCES, EITHER):
        assert found(record, accepts) == [("missing_field", field)]


def test_preference_fields_are_extra_among_prompts() -> None:
    assert found(dict(PREFERENCE), PROMPTS) == [("extra_field", "chosen"), ("extra_field", "rejected")]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"prompt": ""}, [("blank_text", "prompt")]),
        ({"prompt": 1}, [("wrong_type", "prompt")]),
        ({"chosen": None}, [("wrong_type", "chosen")]),
        ({"chosen": [{"role": "assistant", "content": "a"}]}, [("wrong_type", "chosen")]),
        ({"rejected": " \n"}, [("blank_text", "rejected")]),
        ({"rejected": "a\0"}, [("nul_character", "rejected")]),
        ({"chosen": "\ud83d"}, [("lone_surrogate", "chosen")]),
        ({"rejected": "A calm sea."}, [("identical_candidates", "rejected")]),
        ({"choice": 1}, [("extra_field", "choice")]),
        ({"score_chosen": 0.5}, [("extra_field", "score_chosen")]),
    ],
)
def test_refuses_what_is_no_preference(fields: dict[str, object], expected: list[tuple[str, str]]) -> None:
    assert found({**PREFERENCE, **fields}) == expected


def test_finds_everything_wrong_with_a_row_at_once() -> None:
    expected = [("wrong_type", "prompt"), ("blank_text", "chosen"), ("wrong_type", "rejected")]
    assert found({"prompt": 1, "chosen": "", "rejected": True}) == expected


def test_is_recognised_by_prompt() -> None:
    assert recognises(PREFERENCE)
    assert not recognises({"input_text": "a"})
