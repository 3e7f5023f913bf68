import pytest

from rlhf_tuning.data.fields import check_fields, kind_of, read_preference, read_text
from rlhf_tuning.data.problems import Fault
from rlhf_tuning.data.reader import EITHER, PREFERENCES, PROMPTS


@pytest.mark.parametrize("value", [None, 1, 1.0, True, ["a"], {"a": "b"}])
def test_refuses_what_is_not_a_string(value: object) -> None:
    faults: list[Fault] = []
    assert read_text(value, "input_text", faults) == ""
    assert [(fault.code, fault.field) for fault in faults] == [("wrong_type", "input_text")]


@pytest.mark.parametrize(
    ("value", "code", "found"),
    [
        ("", "blank_text", '"" (a string)'),
        (" \t\n\u3000", "blank_text", '" \\t\\n\\u3000" (a string)'),
        ("a\0b", "nul_character", "NUL at character 2"),
        ("ab\ud83d", "lone_surrogate", "\\ud83d alone at character 3"),
        ("\udc00b", "lone_surrogate", "\\udc00 alone at character 1"),
    ],
)
def test_refuses_text_that_cannot_be_trained_on(value: str, code: str, found: str) -> None:
    faults: list[Fault] = []
    read_text(value, "input_text", faults)
    assert [(fault.code, fault.found) for fault in faults] == [(code, found)]


@pytest.mark.parametrize("value", ["a", " a ", "漢😀", "<|im_end|>", "a\x01b"])
def test_returns_good_text_unchanged(value: str) -> None:
    faults: list[Fault] = []
    assert read_text(value, "input_text", faults) == value
    assert faults == []


def test_accepts_blank_text_where_it_has_a_meaning() -> None:
    faults: list[Fault] = []
    assert read_text(" ", "context", faults, blank=True) == " "
    assert faults == []


@pytest.mark.parametrize(("choice", "quoted"), [("0", True), ("1", True), ("2", False), (True, False)])
def test_a_choice_that_only_has_quotes_too_many_is_called_so(choice: object, quoted: bool) -> None:
    faults: list[Fault] = []
    read_preference({"candidate_0": "a", "candidate_1": "b", "choice": choice}, faults)
    [fault] = faults
    assert fault.accepted.endswith(", without quotes") == quoted


def test_names_each_missing_and_each_extra_field() -> None:
    faults: list[Fault] = []
    record = {"b": 1, "x\ud800\n": None, "y": 1, "o": 1}
    assert not check_fields(record, faults, required=("a", "b"), optional=("o",), where="messages[0].")
    assert [(fault.code, fault.field) for fault in faults] == [
        ("missing_field", "messages[0].a"),
        ("extra_field", "messages[0].x\\ud800\\n"),
        ("extra_field", "messages[0].y"),
    ]
    assert faults[0].accepted == "the fields a, b, optional o"


@pytest.mark.parametrize(
    ("record", "field", "name"),
    [
        ({"input_text": 1, "candidate_0": 1, "candidate1": 1, "id": 1}, "candidate_1", "candidate1"),
        ({"Input_Text": 1, "candidate_0": 1, "candidate_1": 1}, "input_text", "Input_Text"),
        ({"input_text": 1, "candidate-0": 1, "candidate_1": 1}, "candidate_0", "candidate-0"),
        ({"question": 1, "candidate_0": 1, "candidate_1": 1}, "input_text", "question"),
    ],
)
def test_a_misspelt_field_is_one_fault_that_names_what_was_meant(
    record: dict[str, object], field: str, name: str
) -> None:
    faults: list[Fault] = []
    check_fields(record, faults, required=("input_text", "candidate_0", "candidate_1"))
    assert (faults[0].code, faults[0].field, faults[0].found) == ("missing_field", field, name)
    assert faults[0].accepted.endswith(f"; did you mean {field}?")
    assert [fault.field for fault in faults[1:]] == (["id"] if "id" in record else [])


def test_accepts_required_fields_with_and_without_optional_ones() -> None:
    faults: list[Fault] = []
    assert check_fields({"a": 1}, faults, required=("a",), optional=("o",))
    assert check_fields({"o": 1, "a": 1}, faults, required=("a",), optional=("o",))
    assert faults == []


@pytest.mark.parametrize(
    ("choice", "code"),
    [("1", "wrong_type"), (True, "wrong_type"), (1.0, "wrong_type"), (None, "wrong_type")]
    + [(value, "wrong_choice") for value in (2, -1, 10**30)],
)
def test_refuses_a_choice_that_is_not_the_integer_0_or_1(choice: object, code: str) -> None:
    faults: list[Fault] = []
    read_preference({"candidate_0": "a", "candidate_1": "b", "choice": choice}, faults)
    assert [(fault.code, fault.field) for fault in faults] == [(code, "choice")]


@pytest.mark.parametrize(("choice", "expected"), [(0, ("a", "b", True)), (1, ("b", "a", False))])
def test_choice_is_the_index_of_the_chosen_candidate(choice: int, expected: tuple[str, str, bool]) -> None:
    faults: list[Fault] = []
    assert read_preference({"candidate_0": "a", "candidate_1": "b", "choice": choice}, faults) == expected
    assert faults == []


def test_refuses_identical_candidates() -> None:
    faults: list[Fault] = []
    read_preference({"candidate_0": "a", "candidate_1": "a", "choice": 0}, faults)
    assert [fault.code for fault in faults] == ["identical_candidates"]


@pytest.mark.parametrize("same", ["a ", "\n a", "\u3000a\t"])
def test_refuses_candidates_that_are_identical_but_for_white_space_around_them(same: str) -> None:
    faults: list[Fault] = []
    read_preference({"candidate_0": "a", "candidate_1": same, "choice": 0}, faults)
    assert [(fault.code, fault.found) for fault in faults] == [
        ("identical_candidates", "the text of candidate_0, but for white space around it")
    ]


def test_two_blank_candidates_are_blank_not_identical() -> None:
    faults: list[Fault] = []
    read_preference({"candidate_0": " ", "candidate_1": " ", "choice": 0}, faults)
    assert [(fault.code, fault.field) for fault in faults] == [
        ("blank_text", "candidate_0"),
        ("blank_text", "candidate_1"),
    ]


def test_reads_a_row_as_what_is_accepted_and_else_by_its_fields() -> None:
    assert kind_of({"choice": 0}, PROMPTS) == "prompt"
    assert kind_of({}, PREFERENCES) == "preference"
    assert kind_of({"input_text": "a"}, EITHER) == "prompt"
    assert kind_of({"candidate_1": "a"}, EITHER) == "preference"
