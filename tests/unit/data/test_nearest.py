import json
from typing import Any

import pytest

from rlhf_tuning.data.formats import parse_line
from rlhf_tuning.data.nearest import closest_field
from rlhf_tuning.data.problems import Fault
from rlhf_tuning.data.reader import EITHER, PREFERENCES, PROMPTS


def fault_of(record: dict[str, Any], accepts: Any) -> Fault:
    faults: list[Fault] = []
    assert parse_line(json.dumps(record).encode(), accepts=accepts, instruction="", faults=faults) is None
    [fault] = faults
    return fault


@pytest.mark.parametrize(
    ("accepts", "fields", "code", "said"),
    [
        (PROMPTS, "text", "unknown_format", "did you mean input_text by text?"),
        (PROMPTS, "InputText", "unknown_format", "did you mean input_text by InputText?"),
        (PROMPTS, "message id", "unknown_format", "a row with messages, the nearest format; did you mean messages by"),
        (PREFERENCES, "question chosen rejected", "unknown_format", "did you mean prompt by question?"),
        (EITHER, "chosen rejected", "unknown_format", "the nearest format; prompt is missing"),
        (PREFERENCES, "prompt candidate_0 candidate_1 choice", "several_formats", "did you mean input_text by prompt?"),
        (PREFERENCES, "input_text chosen rejected", "several_formats", "did you mean prompt by input_text?"),
        (
            PREFERENCES,
            "prompt chosen rejected messages",
            "several_formats",
            "the nearest format; messages has no place in it",
        ),
        (EITHER, "prompt chosen rejected messages id", "several_formats", "messages, id have no place in it"),
        (
            PROMPTS,
            "input_text messages",
            "several_formats",
            "a row with input_text, the nearest format; messages has no",
        ),
        (PROMPTS, "id source", "unknown_format", "a row with input_text (and candidate_0"),
    ],
)
def test_fields_of_no_format_or_of_two_are_one_fault_that_says_what_to_change(
    accepts: Any, fields: str, code: str, said: str
) -> None:
    fault = fault_of(dict.fromkeys(fields.split(), "a"), accepts)
    assert fault.code == code
    assert fault.found == f"the fields {', '.join(fields.split())}"
    assert said in fault.accepted


def test_names_that_only_differ_in_their_number_are_not_taken_for_each_other() -> None:
    assert closest_field("candidate_1", ["candidate_2", "candidate1"]) == "candidate1"
    assert closest_field("candidate_1", ["candidate_0", "candidate"]) == ""
    assert closest_field("candidate_1", [*map(str, range(100)), "candidate1"]) == ""  # not looked for so far


def test_a_row_of_very_many_fields_with_long_names_is_described_in_short() -> None:
    record = {f"{'x' * 1000}{number}": 1 for number in range(5_000)}
    fault = fault_of({**record, "chosen": 1}, PREFERENCES)
    assert len(fault.found) + len(fault.accepted) < 500
