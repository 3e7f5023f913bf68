"""Rows of an answer and what was thought of it: how they are read, and what is found in them."""

from typing import Any

import pytest
from tests.unit.data.conftest import WriteRows
from tests.unit.data.reading import as_lines, read, read_rows

from rlhf_tuning.data.check import DatasetCheck, check_datasets
from rlhf_tuning.data.feedback_tally import FeedbackTally, OneSided
from rlhf_tuning.data.reader import DEMONSTRATIONS, FEEDBACK
from rlhf_tuning.data.rows import Judgement

USER, ANSWER = {"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Here."}
TURNS = [USER, ANSWER, {"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes."}]


def parts(turn: dict[str, str]) -> dict[str, Any]:
    return {"role": turn["role"].replace("assistant", "model"), "parts": [{"text": turn["content"]}]}


SHOWN: dict[str, dict[str, Any]] = {
    "tuning_text": {"input_text": "Where?", "output_text": "Here."},
    "prompt_completion": {"prompt": "Where?", "completion": "Here."},
    "chat_messages": {"messages": TURNS},
    "tuning_chat": {"messages": [{"author": turn["role"], "content": turn["content"]} for turn in TURNS]},
    "gemini_contents": {"contents": list(map(parts, TURNS))},
}


@pytest.mark.parametrize("name", SHOWN)
@pytest.mark.parametrize("judged", [{"label": True}, {"label": False}, {"rating": 4}, {"rating": -0.5}], ids=str)
def test_a_demonstration_with_a_label_or_a_rating_is_feedback_on_its_last_answer(
    name: str, judged: dict[str, Any]
) -> None:
    [batch] = read_rows([{**SHOWN[name], **judged, "user": "u1"}], accepts=FEEDBACK)
    assert (batch.format, batch.kind, len(batch)) == (name, "feedback", 1)
    reading = read(as_lines([{**SHOWN[name], **judged}]), accepts=FEEDBACK)
    dialogue = len(SHOWN[name].get("messages", SHOWN[name].get("contents", []))) > 0
    prompt, answer = (TURNS[:3], "Yes.") if dialogue else ([USER], "Here.")
    assert reading.rows == [{"prompt": prompt, "answer": answer, **judged}]
    # Who judged is looked at, and not kept.
    assert batch.encoded == reading.batches[0].encoded
    assert batch.judgements[0].raters == ("user u1",)


def test_rows_that_differ_in_what_was_thought_have_hashes_of_their_own() -> None:
    row = SHOWN["tuning_text"]
    judged = [{"label": True}, {"label": False}, {"rating": 1}, {"rating": 0}]
    batches = read_rows([{**row, **each} for each in judged], accepts=FEEDBACK)
    assert len({tuple(hashes) for batch in batches for hashes in batch.row_hashes.tolist()}) == 4


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"label": "true"}, "wrong_type", "label"),
        ({"label": 1}, "wrong_type", "label"),
        ({"rating": "4"}, "wrong_type", "rating"),
        ({"rating": True}, "wrong_type", "rating"),
        ({"rating": 1e9}, "wrong_type", "rating"),
        ({"label": True, "rating": 4}, "extra_field", "rating"),
        ({"label": True, "user": 7}, "wrong_type", "user"),
        ({"label": True, "completion": " "}, "blank_text", "completion"),
        ({"label": True, "id": 7}, "extra_field", "id"),
        ({}, "unknown_format", ""),
    ],
    ids=str,
)
def test_refuses_what_is_no_feedback(fields: dict[str, Any], code: str, field: str) -> None:
    reading = read(as_lines([{**SHOWN["prompt_completion"], **fields}]), accepts=FEEDBACK)
    assert reading.found == [(code, 1, field)]


def test_feedback_is_no_demonstration() -> None:
    reading = read(as_lines([{**SHOWN["tuning_text"], "label": True}]), accepts=DEMONSTRATIONS)
    assert reading.found == [("extra_field", 1, "label")]


def checked(write_rows: WriteRows, rows: list[dict[str, Any]]) -> DatasetCheck:
    return check_datasets(feedback_dataset=write_rows("thumbs.jsonl", rows), instruction="")


def thumbs(*labels: bool, **more: Any) -> list[dict[str, Any]]:
    return [{"prompt": f"{place}?", "completion": "Yes.", "label": label, **more} for place, label in enumerate(labels)]


def found(check: DatasetCheck) -> dict[str, str]:
    return {finding.code: finding.message for finding in check.summary.findings}


def test_the_share_of_positive_labels_is_told_where_nearly_all_are_alike(write_rows: WriteRows) -> None:
    check = checked(write_rows, thumbs(*[True] * 38, False, False))
    assert found(check)["one_sided_labels"].startswith("95.0% [")
    [summary] = check.summary.datasets
    assert (summary.labels, summary.liked, summary.kind) == (40, 38, "feedback")
    assert "one_sided_labels" not in found(checked(write_rows, thumbs(*[True] * 20, *[False] * 20)))


def test_labels_that_contradict_each_other_are_told_with_their_places(write_rows: WriteRows) -> None:
    rows = thumbs(True, False, True) + thumbs(True, True, True)
    check = checked(write_rows, rows)
    [finding] = [each for each in check.summary.findings if each.code == "contradicting_labels"]
    assert finding.message.startswith("1 answers of feedback_dataset were liked by some and not by others")
    assert finding.examples[0].location.endswith("thumbs.jsonl:2")
    assert "repeated" not in " ".join(found(check))


def test_who_labels_all_alike_is_told_where_chance_does_not_explain_it(write_rows: WriteRows) -> None:
    balanced = [row for _ in range(20) for row in thumbs(True, False, user="fair", source="app")]
    check = checked(
        write_rows, [*balanced, *thumbs(*[True] * 30, user="eager", source="app"), *thumbs(*[False] * 3, user="new")]
    )
    [finding] = [each for each in check.summary.findings if each.code == "one_sided_raters"]
    assert finding.message.startswith("1 users or sources of feedback_dataset label all alike, 30 rows together")
    assert [(each.location, each.text) for each in finding.examples] == [("user eager", "30 labels, all positive")]


def test_little_feedback_is_found(write_rows: WriteRows) -> None:
    assert found(checked(write_rows, thumbs(True, False)))["few_feedback"].startswith("feedback_dataset has 2 rows.")
    assert "few_feedback" not in found(checked(write_rows, thumbs(*[True, False] * 500)))


def test_ratings_that_are_all_the_same_are_told(write_rows: WriteRows) -> None:
    rows = [{"prompt": "a", "completion": text, "rating": 4} for text in ("x", "y")]
    assert found(checked(write_rows, rows))["same_rating"] == (
        "Every rating of feedback_dataset is 4: nothing can be learnt from them."
    )


def test_feedback_among_preferences_comes_with_the_command_that_makes_pairs(write_rows: WriteRows) -> None:
    rows = [{"prompt": "a", "completion": text, "label": text == "x"} for text in ("x", "y")]
    check = check_datasets(preference_dataset=write_rows("a.jsonl", rows), instruction="")
    [told] = check.summary.advice
    assert "the answer of the highest mean label or rating is taken for chosen" in told
    assert "--to preference" in told.splitlines()[-1]


def test_a_tally_of_parts_is_that_of_the_whole() -> None:
    judgements = [Judgement(float(place % 3 == 0), rated=False, raters=(f"user {place % 2}",)) for place in range(60)]
    judgements += [Judgement(1.0, rated=False, raters=("user all",))] * 9 + [Judgement(4.0, rated=True)] * 2
    whole, one, other = FeedbackTally(), FeedbackTally(), FeedbackTally()
    whole.add(judgements)
    one.add(judgements[:35])
    other.add(judgements[35:])
    one.merge(other)
    assert (one.labels, one.liked, one.ratings) == (whole.labels, whole.liked, whole.ratings) == (69, 29, {4.0: 2})
    assert one.one_sided() == whole.one_sided() == [OneSided("user all", 9, liked=True)]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "a", "response": "b", "label": True}, "prompt, completion, label or rating, optional user"),
        (
            {"prompt": "a", "completion": "b", "label": True, "id": 7},
            "only the fields prompt, completion, label or rating",
        ),
        ({"prompt": "a", "completion": "b"}, "label or rating is missing"),
        ({"prompt": "a", "completion": "b", "score": 3}, "did you mean rating by score?"),
        ({"prompt": "a", "completion": "b", "thumbs_up": True}, "did you mean label by thumbs_up?"),
    ],
    ids=str,
)
def test_what_is_accepted_names_what_was_thought_of_the_answer(row: dict[str, Any], words: str) -> None:
    reading = read(as_lines([row]), accepts=FEEDBACK)
    [kept] = reading.problems.kept.values()
    assert words in kept[0].accepted


def test_a_command_that_mends_feedback_speaks_of_no_pairs(write_rows: WriteRows) -> None:
    check = checked(write_rows, [{"prompt": f"{n}?", "completion": "Yes.", "thumbs_up": n % 2 > 0} for n in range(9)])
    [told] = check.summary.advice
    assert "thumbs_up is taken for label" in told
    assert "chosen" not in told
    assert "--to feedback" in told
