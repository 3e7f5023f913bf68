import pytest
from tests.unit.data.reading import as_lines, read

from rlhf_tuning.data.problems import Fault
from rlhf_tuning.data.reader import PREFERENCES, PROMPTS
from rlhf_tuning.data.rows import Row
from rlhf_tuning.data.vertex_chat import parse, recognises

MESSAGES = [
    {"author": "user", "content": "Hello"},
    {"author": "assistant", "content": "Good day"},
    {"author": "user", "content": "Describe it."},
]
TURNS = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Good day"},
    {"role": "user", "content": "Describe it."},
]


def found(messages: object, **more: object) -> list[tuple[str, str]]:
    faults: list[Fault] = []
    parse({"messages": messages, **more}, accepts=PROMPTS, instruction="", faults=faults)
    return [(fault.code, fault.field) for fault in faults]


def test_messages_become_turns_with_their_authors_as_roles() -> None:
    assert parse({"messages": MESSAGES}, accepts=PROMPTS, instruction="", faults=[]) == Row(TURNS)


def test_authors_need_not_alternate() -> None:
    assert found([MESSAGES[0], MESSAGES[0], MESSAGES[1], MESSAGES[1], MESSAGES[2]]) == []


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
    faults: list[Fault] = []
    row = parse({"messages": MESSAGES, **fields}, accepts=PROMPTS, instruction=instruction, faults=faults)
    assert row is not None
    expected = ([{"role": "system", "content": system}] if system else []) + TURNS
    assert row.prompt == expected
    assert faults == []
    # The second line is read by the fast path.
    rows = read(as_lines([{"messages": MESSAGES, **fields}] * 2), instruction=instruction, block_bytes=1).rows
    assert rows == [{"prompt": expected}] * 2


def test_a_preference_names_the_chosen_and_the_rejected() -> None:
    record = {"messages": MESSAGES, "candidate_0": "Sea.", "candidate_1": "A calm sea.", "choice": 1}
    faults: list[Fault] = []
    assert parse(record, accepts=PREFERENCES, instruction="", faults=faults) == Row(
        TURNS, "A calm sea.", "Sea.", first_chosen=False
    )
    assert faults == []


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ("Hello", [("wrong_type", "messages")]),
        ([], [("no_messages", "messages")]),
        (["Hello"], [("wrong_type", "messages[0]")]),
        ([{"author": "user"}], [("missing_field", "messages[0].content")]),
        (
            [{"role": "user", "content": "a"}],
            [("missing_field", "messages[0].author")],
        ),
        ([{"author": "bot", "content": "a"}], [("wrong_author", "messages[0].author")]),
        ([{"author": 1, "content": "a"}], [("wrong_type", "messages[0].author")]),
        ([{"author": "user", "content": " "}], [("blank_text", "messages[0].content")]),
        ([*MESSAGES, MESSAGES[1]], [("wrong_turn", "messages[3].author")]),
        (MESSAGES[1:], [("wrong_turn", "messages[0].author")]),
        ([MESSAGES[1]], [("wrong_turn", "messages[0].author")]),
    ],
)
def test_refuses_messages_that_are_no_conversation_begun_and_ended_by_the_user(
    messages: object, expected: list[tuple[str, str]]
) -> None:
    assert found(messages) == expected


def test_says_which_message_must_be_the_users() -> None:
    faults: list[Fault] = []
    parse({"messages": [*MESSAGES[1:], MESSAGES[1]]}, accepts=PROMPTS, instruction="", faults=faults)
    assert [fault.accepted for fault in faults] == ['"user" in the first message', '"user" in the last message']


def test_refuses_a_context_that_is_not_text() -> None:
    assert found(MESSAGES, context=None) == [("wrong_type", "context")]


def test_refuses_input_text_beside_messages() -> None:
    assert found(MESSAGES, input_text="a") == [("extra_field", "input_text")]


def test_is_recognised_by_messages() -> None:
    assert recognises({"messages": []})
    assert not recognises({"input_text": "a"})
