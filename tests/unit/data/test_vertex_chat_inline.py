from typing import Any

import pytest
from tests.unit.data.reading import as_lines, read, read_rows

from rlhf_tuning.data.problems import Fault
from rlhf_tuning.data.reader import EITHER, PREFERENCES, PROMPTS
from rlhf_tuning.data.rows import Kind, Row
from rlhf_tuning.data.vertex_chat_inline import parse, recognises

HELLO = {"author": "user", "content": "Hello"}
GOOD_DAY = {"author": "assistant", "content": "Good day"}
LAST = {
    "author": "user",
    "content": "Describe it.",
    "candidate_0": "Sea.",
    "candidate_1": "A calm sea.",
    "choice": 1,
}
RECORD: dict[str, Any] = {"messages": [HELLO, GOOD_DAY, LAST]}
TURNS = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Good day"},
    {"role": "user", "content": "Describe it."},
]


def found(record: dict[str, Any], accepts: tuple[Kind, ...] = PREFERENCES) -> list[tuple[str, str]]:
    faults: list[Fault] = []
    parse(record, accepts=accepts, instruction="", faults=faults)
    return [(fault.code, fault.field) for fault in faults]


def test_a_preference_names_the_chosen_and_the_rejected() -> None:
    faults: list[Fault] = []
    for accepts in (PREFERENCES, EITHER):
        row = parse(RECORD, accepts=accepts, instruction="", faults=faults)
        assert row == Row(TURNS, "A calm sea.", "Sea.", first_chosen=False)
    assert faults == []


def test_it_becomes_the_very_row_that_candidates_beside_the_messages_become() -> None:
    candidates = {field: LAST[field] for field in ("candidate_0", "candidate_1", "choice")}
    plain = {"author": "user", "content": "Describe it."}
    beside = read_rows([{"messages": [HELLO, GOOD_DAY, plain], **candidates}])
    inside = read_rows([RECORD])
    assert [batch.encoded for batch in inside] == [batch.encoded for batch in beside]
    assert [batch.format for batch in inside] == ["vertex_chat_inline"]
    assert (inside[0].hashes == beside[0].hashes).all()


@pytest.mark.parametrize(
    ("fields", "instruction", "system"),
    [
        ({}, "", None),
        ({}, "Be kind.", "Be kind."),
        ({"context": "Be brief."}, "", "Be brief."),
        ({"context": "Be brief."}, "Be kind.", "Be brief."),
        ({"context": ""}, "Be kind.", None),
        ({"context": " "}, "Be kind.", None),
    ],
)
def test_the_context_takes_the_place_of_the_instruction(
    fields: dict[str, str], instruction: str, system: str | None
) -> None:
    turns = ([{"role": "system", "content": system}] if system else []) + TURNS
    # One by the careful path, one by the fast one.
    rows = read(as_lines([{**RECORD, **fields}] * 2), instruction=instruction, block_bytes=1).rows
    assert rows == [{"prompt": turns, "chosen": "A calm sea.", "rejected": "Sea."}] * 2


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ({"choice": "1"}, [("wrong_type", "messages[2].choice")]),
        ({"choice": True}, [("wrong_type", "messages[2].choice")]),
        ({"choice": 1.0}, [("wrong_type", "messages[2].choice")]),
        ({"choice": 2}, [("wrong_choice", "messages[2].choice")]),
        ({"candidate_0": ""}, [("blank_text", "messages[2].candidate_0")]),
        ({"candidate_1": 7}, [("wrong_type", "messages[2].candidate_1")]),
        ({"candidate_1": "a\0"}, [("nul_character", "messages[2].candidate_1")]),
        ({"candidate_1": "Sea."}, [("identical_candidates", "messages[2].candidate_1")]),
        ({"content": " "}, [("blank_text", "messages[2].content")]),
        ({"author": "assistant"}, [("wrong_turn", "messages[2].author")]),
        ({"author": "bot"}, [("wrong_author", "messages[2].author")]),
        ({"id": 7}, [("extra_field", "messages[2].id")]),
    ],
)
def test_refuses_a_last_message_that_is_no_preference(last: dict[str, object], expected: list[tuple[str, str]]) -> None:
    record = {"messages": [HELLO, GOOD_DAY, {**LAST, **last}]}
    assert found(record) == expected
    # After a good row, where the fast path looks first.
    reading = read(as_lines([RECORD, record]), block_bytes=1)
    assert reading.found == [(code, 2, field) for code, field in expected]


@pytest.mark.parametrize("field", ["content", "candidate_0", "candidate_1", "choice"])
def test_every_field_of_the_last_message_is_required(field: str) -> None:
    last = {key: value for key, value in LAST.items() if key != field}
    record = {"messages": [HELLO, GOOD_DAY, last]}
    for accepts in (PREFERENCES, EITHER):
        assert found(record, accepts) == [("missing_field", f"messages[2].{field}")]
    assert read(as_lines([RECORD, record]), block_bytes=1).found == [("missing_field", 2, f"messages[2].{field}")]


@pytest.mark.parametrize("field", ["candidate_0", "candidate_1", "choice"])
def test_candidates_in_another_message_are_extra(field: str) -> None:
    for number in (0, 1):
        messages = [HELLO, GOOD_DAY, LAST]
        messages[number] = {**messages[number], field: LAST[field]}
        assert found({"messages": messages}) == [("extra_field", f"messages[{number}].{field}")]
        reading = read(as_lines([RECORD, {"messages": messages}]), block_bytes=1)
        assert reading.found == [("extra_field", 2, f"messages[{number}].{field}")]


def test_candidates_both_inside_and_beside_the_messages_are_a_fault() -> None:
    for field in ("candidate_0", "candidate_1", "choice"):
        reading = read(as_lines([RECORD, {**RECORD, field: LAST[field]}]), block_bytes=1)
        assert reading.lines == [1]
        assert reading.found
        assert {line for _, line, _ in reading.found} == {2}


def test_preference_fields_are_extra_among_prompts() -> None:
    expected = [("extra_field", f"messages[2].{field}") for field in ("candidate_0", "candidate_1", "choice")]
    assert found(RECORD, PROMPTS) == expected


def test_fields_beside_the_messages_are_extra() -> None:
    assert found({**RECORD, "input_text": "a"}) == [("extra_field", "input_text")]
    assert found({**RECORD, "context": 1}) == [("wrong_type", "context")]


def test_a_conversation_begins_with_the_user() -> None:
    assert found({"messages": [GOOD_DAY, LAST]}) == [("wrong_turn", "messages[0].author")]
    assert found({"messages": ["Hello", LAST]}) == [("wrong_type", "messages[0]")]


def test_is_recognised_by_candidates_in_the_last_message() -> None:
    assert recognises(RECORD)
    assert recognises({"messages": [{"author": "user", "choice": 1}]})
    for messages in ([], "Hello", [HELLO], [LAST, HELLO], ["Hello"]):
        assert not recognises({"messages": messages})
    assert not recognises({"messages": [LAST], "candidate_0": "a", "candidate_1": "b", "choice": 1})
