import copy
import json
from typing import Any

import pytest
from tests.unit.data.reading import as_lines, read

from rlhf_tuning.data.formats import parse_line
from rlhf_tuning.data.gemini_preferences import parse
from rlhf_tuning.data.problems import Fault
from rlhf_tuning.data.reader import DEMONSTRATIONS, EITHER, PREFERENCES, PROMPTS
from rlhf_tuning.data.rows import Kind, Row


def content(role: str, *texts: str) -> dict[str, Any]:
    return {"role": role, "parts": [{"text": text} for text in texts]}


def completion(score: Any, text: str) -> dict[str, Any]:
    return {"score": score, "completion": content("model", text)}


PROMPT: dict[str, Any] = {
    "system_instruction": {"parts": [{"text": "Be terse."}]},
    "contents": [content("user", "Where?"), content("model", "Here."), content("user", "Sure", "?")],
}
PREFERENCE: dict[str, Any] = {**PROMPT, "completions": [completion(1, "Yes."), completion(0, "Perhaps.")]}
TURNS = [
    {"role": "system", "content": "Be terse."},
    {"role": "user", "content": "Where?"},
    {"role": "assistant", "content": "Here."},
    {"role": "user", "content": "Sure?"},
]


@pytest.mark.parametrize("scores", [(0, 1), (0.0, 1.0), (-3, 2.5)])
def test_the_completion_of_the_higher_score_is_chosen_wherever_it_stands(scores: tuple[float, float]) -> None:
    low, high = scores
    answers = [completion(low, "Perhaps."), completion(high, "Yes.")]
    for completions in (answers, answers[::-1]):
        row = parse({**PROMPT, "completions": completions}, accepts=EITHER, instruction="", faults=[])
        # Their order is that of the file's writer: it tells nothing of what people saw first.
        assert row == Row(TURNS, "Yes.", "Perhaps.", first_chosen=None)


def test_contents_alone_are_a_prompt_with_the_instruction_where_no_system_instruction_stands() -> None:
    row = parse({"contents": PROMPT["contents"]}, accepts=PROMPTS, instruction="Be kind.", faults=[])
    assert row == Row([{"role": "system", "content": "Be kind."}, *TURNS[1:]])
    camel = {"systemInstruction": {"role": "x", **PROMPT["system_instruction"]}, "contents": PROMPT["contents"]}
    assert parse(camel, accepts=EITHER, instruction="Be kind.", faults=[]) == Row(TURNS)


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return the preference with one value in it replaced, or left out where that is `...`."""
    record: Any = copy.deepcopy(PREFERENCE)
    *way, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    place = record
    for step in way:
        place = place[step]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return record  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("path", "value", "code", "field"),
    [
        ("completions", [completion(1, "a")], "wrong_type", "completions"),
        ("completions", {}, "wrong_type", "completions"),
        ("completions.0", "Yes.", "wrong_type", "completions[0]"),
        ("completions.1.score", 1, "wrong_choice", "completions[1].score"),
        ("completions.1.score", "0", "wrong_type", "completions[1].score"),
        ("completions.1.score", False, "wrong_type", "completions[1].score"),
        ("completions.1.score", ..., "missing_field", "completions[1].score"),
        ("completions.0.completion", "Yes.", "wrong_type", "completions[0].completion"),
        ("completions.0.completion.role", "user", "wrong_turn", "completions[0].completion.role"),
        ("completions.0.completion.role", "assistant", "wrong_author", "completions[0].completion.role"),
        ("completions.0.completion.parts", [{"text": " "}], "blank_text", "completions[0].completion.parts"),
        (
            "completions.1.completion.parts",
            [{"text": "Yes. "}],
            "identical_candidates",
            "completions[1].completion.parts",
        ),
        ("contents.2.role", "model", "wrong_turn", "contents[2].role"),
        ("references", {"answer": "Yes."}, "extra_field", "references"),
        ("systemInstruction", {"parts": [{"text": "x"}]}, "extra_field", "system_instruction"),
        ("margin", -0.5, "wrong_margin", "margin"),
    ],
)
def test_refuses_what_is_no_preference(path: str, value: Any, code: str, field: str) -> None:
    faults: list[Fault] = []
    parse(changed(path, value), accepts=PREFERENCES, instruction="", faults=faults)
    assert [(fault.code, fault.field) for fault in faults] == [(code, field)]


@pytest.mark.parametrize("score", ["1e999", "-1e999"])
def test_a_score_beyond_all_numbers_is_refused(score: str) -> None:
    faults: list[Fault] = []
    line = json.dumps(PREFERENCE).replace('"score": 1', f'"score": {score}').encode()
    assert parse_line(line, accepts=PREFERENCES, instruction="", faults=faults) is None
    assert [fault.code for fault in faults] == ["wrong_type"]


@pytest.mark.parametrize(
    ("record", "accepts", "found"),
    [
        (PREFERENCE, PROMPTS, "a row with preference fields"),
        (PROMPT, PREFERENCES, "a row without preference fields"),
        (PREFERENCE, DEMONSTRATIONS, "a row with preference fields"),
        (PROMPT, DEMONSTRATIONS, "a row without preference fields"),
    ],
)
def test_a_row_of_another_kind_is_one_problem(record: dict[str, Any], accepts: tuple[Kind, ...], found: str) -> None:
    problem = read(as_lines([record]), accepts=accepts).problem
    assert problem.code == "wrong_kind"
    assert problem.found.startswith(found)
