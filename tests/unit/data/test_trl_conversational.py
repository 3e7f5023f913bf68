from typing import Any

import pytest
from tests.unit.data.reading import as_lines, read, read_rows

from rlhf_tuning.data.problems import Fault
from rlhf_tuning.data.reader import EITHER, PREFERENCES, PROMPTS
from rlhf_tuning.data.rows import Kind, Row
from rlhf_tuning.data.trl_conversational import parse, recognises

SYSTEM = {"role": "system", "content": "Be brief."}
HELLO = {"role": "user", "content": "Hello"}
GOOD_DAY = {"role": "assistant", "content": "Good day"}
DESCRIBE = {"role": "user", "content": "Describe it."}
TURNS = [HELLO, GOOD_DAY, DESCRIBE]


def answer(text: object) -> list[dict[str, object]]:
    return [{"role": "assistant", "content": text}]


PREFERENCE = {"prompt": TURNS, "chosen": answer("A calm sea."), "rejected": answer("Sea.")}


def found(record: dict[str, Any], accepts: tuple[Kind, ...] = PROMPTS) -> list[tuple[str, str]]:
    faults: list[Fault] = []
    parse(record, accepts=accepts, instruction="", faults=faults)
    return [(fault.code, fault.field) for fault in faults]


def test_messages_are_the_turns() -> None:
    assert parse({"prompt": TURNS}, accepts=PROMPTS, instruction="", faults=[]) == Row(TURNS)


def test_roles_need_not_alternate() -> None:
    assert found({"prompt": [SYSTEM, HELLO, HELLO, GOOD_DAY, GOOD_DAY, DESCRIBE]}) == []


@pytest.mark.parametrize(
    ("turns", "instruction", "expected"),
    [
        (TURNS, "", TURNS),
        (TURNS, "Be kind.", [{"role": "system", "content": "Be kind."}, *TURNS]),
        ([SYSTEM, *TURNS], "", [SYSTEM, *TURNS]),
        ([SYSTEM, *TURNS], "Be kind.", [SYSTEM, *TURNS]),
        ([DESCRIBE], "Be kind.", [{"role": "system", "content": "Be kind."}, DESCRIBE]),
        ([SYSTEM, DESCRIBE], "Be kind.", [SYSTEM, DESCRIBE]),
    ],
)
def test_a_system_message_takes_the_place_of_the_instruction(
    turns: list[dict[str, str]], instruction: str, expected: list[dict[str, str]]
) -> None:
    row = parse({"prompt": turns}, accepts=PROMPTS, instruction=instruction, faults=[])
    assert row == Row(expected)
    # The fast path reads the second line.
    rows = read(as_lines([{"prompt": turns}] * 2), instruction=instruction, block_bytes=1).rows
    assert rows == [{"prompt": expected}] * 2


def test_a_preference_has_its_answers_and_no_order() -> None:
    faults: list[Fault] = []
    for accepts in (PREFERENCES, EITHER):
        row = parse(PREFERENCE, accepts=accepts, instruction="", faults=faults)
        assert row == Row(TURNS, "A calm sea.", "Sea.", first_chosen=None)
    assert faults == []
    rows = read(as_lines([PREFERENCE] * 2), block_bytes=1).rows
    assert rows == [{"prompt": TURNS, "chosen": "A calm sea.", "rejected": "Sea."}] * 2
    [batch] = read_rows([PREFERENCE])
    assert (batch.format, batch.kind, len(batch.first_chosen)) == ("trl_conversational", "preference", 0)


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([], [("no_messages", "prompt")]),
        (["Hello"], [("wrong_type", "prompt[0]")]),
        ([{"role": "user"}], [("missing_field", "prompt[0].content")]),
        (
            [{"author": "user", "content": "a"}],
            [("missing_field", "prompt[0].role")],
        ),
        ([{**HELLO, "name": "Ada"}], [("extra_field", "prompt[0].name")]),
        ([{"role": "bot", "content": "a"}], [("wrong_author", "prompt[0].role")]),
        ([{"role": "tool", "content": "a"}], [("wrong_author", "prompt[0].role")]),
        ([{"role": 1, "content": "a"}], [("wrong_type", "prompt[0].role")]),
        ([{"role": "user", "content": " "}], [("blank_text", "prompt[0].content")]),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}]}], [("wrong_type", "prompt[0].content")]),
        ([{"role": "system", "content": ""}, HELLO], [("blank_text", "prompt[0].content")]),
        ([SYSTEM], [("no_messages", "prompt")]),
        ([SYSTEM, GOOD_DAY], [("wrong_turn", "prompt[1].role")]),
        ([SYSTEM, GOOD_DAY, HELLO], [("wrong_turn", "prompt[1].role")]),
        ([GOOD_DAY, HELLO], [("wrong_turn", "prompt[0].role")]),
        ([*TURNS, GOOD_DAY], [("wrong_turn", "prompt[3].role")]),
        ([SYSTEM, SYSTEM, HELLO], [("wrong_turn", "prompt[1].role")]),
        ([HELLO, SYSTEM], [("wrong_turn", "prompt[1].role")]),
        ([HELLO, SYSTEM, HELLO], [("wrong_turn", "prompt[1].role")]),
    ],
)
def test_refuses_messages_that_are_no_conversation_begun_and_ended_by_the_user(
    turns: list[object], expected: list[tuple[str, str]]
) -> None:
    assert found({"prompt": turns}) == expected
    # After a good row, where the fast path looks first.
    reading = read(as_lines([{"prompt": TURNS}, {"prompt": turns}]), block_bytes=1)
    assert [(code, field) for code, line, field in reading.found if line == 2] == expected
    assert reading.lines == [1]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"chosen": "A calm sea."}, [("wrong_type", "chosen")]),
        ({"rejected": None}, [("wrong_type", "rejected")]),
        ({"chosen": []}, [("no_messages", "chosen")]),
        ({"chosen": [*answer("a"), *answer("b")]}, [("wrong_turn", "chosen")]),
        ({"chosen": [HELLO]}, [("wrong_turn", "chosen[0].role")]),
        ({"rejected": [SYSTEM]}, [("wrong_turn", "rejected[0].role")]),
        ({"rejected": [{"role": "bot", "content": "a"}]}, [("wrong_author", "rejected[0].role")]),
        ({"rejected": answer(" ")}, [("blank_text", "rejected[0].content")]),
        ({"chosen": answer("a\0")}, [("nul_character", "chosen[0].content")]),
        ({"rejected": answer("A calm sea.")}, [("identical_candidates", "rejected")]),
        ({"choice": 1}, [("extra_field", "choice")]),
        ({"score": 0.5}, [("extra_field", "score")]),
    ],
)
def test_refuses_answers_that_are_not_one_message_of_the_assistant(
    fields: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    record = {**PREFERENCE, **fields}
    assert found(record, PREFERENCES) == expected
    reading = read(as_lines([PREFERENCE, record]), block_bytes=1)
    assert [(code, field) for code, line, field in reading.found if line == 2] == expected
    assert reading.lines == [1]


@pytest.mark.parametrize("field", ["chosen", "rejected"])
def test_every_field_of_a_preference_is_required(field: str) -> None:
    record = {key: value for key, value in PREFERENCE.items() if key != field}
    for accepts in (PREFERENCES, EITHER):
        assert found(record, accepts) == [("missing_field", field)]


def test_preference_fields_are_extra_among_prompts() -> None:
    assert found(PREFERENCE) == [("extra_field", "chosen"), ("extra_field", "rejected")]


def test_is_recognised_by_a_prompt_that_is_an_array() -> None:
    assert recognises({"prompt": []})
    assert not recognises({"prompt": "a"})
    assert not recognises({"messages": []})


def test_answers_that_repeat_the_prompt_are_not_called_the_same_for_it() -> None:
    faults: list[Fault] = []
    row = {"prompt": [HELLO], "chosen": [HELLO, *answer("a")], "rejected": [HELLO, *answer("b")]}
    parse(row, accepts=PREFERENCES, instruction="", faults=faults)
    assert [(fault.code, fault.field) for fault in faults] == [("wrong_turn", "chosen"), ("wrong_turn", "rejected")]
