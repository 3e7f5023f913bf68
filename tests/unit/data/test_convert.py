import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.data.reading import as_lines, read

from rlhf_tuning.data.convert import Converted, convert
from rlhf_tuning.errors import DataError

Rows = list[dict[str, Any]]

PAIRS: Rows = [
    {"prompt": f"Describe {place}.", "chosen": f"{place}, calm.", "rejected": "Sea."} for place in ("Rye", "Deal")
]


def converted(folder: Path, *contents: Rows | bytes, **settings: Any) -> tuple[Converted, Rows]:
    names = [str(folder / f"{number}.jsonl") for number, _ in enumerate(contents)]
    for name, content in zip(names, contents, strict=True):
        Path(name).write_bytes(content if isinstance(content, bytes) else as_lines(content))
    done = convert(names, str(folder / "new.jsonl"), **settings)
    return done, [json.loads(line) for line in (folder / "new.jsonl").read_bytes().splitlines()]


def test_rows_of_a_parquet_file_are_read(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    content = [
        {"chosen": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["chosen"]}]}
        | {"rejected": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["rejected"]}]}
        | {"score_chosen": 5.5, "score_rejected": 1.0}
        for row in PAIRS
    ]
    parquet.write_table(pyarrow.Table.from_pylist(content), tmp_path / "a.parquet")
    done = convert([str(tmp_path / "a.parquet")], str(tmp_path / "new.jsonl"))
    rows = read((tmp_path / "new.jsonl").read_bytes(), accepts=("preference",)).rows
    assert [(row["chosen"], row["margin"]) for row in rows] == [(row["chosen"], 0.5) for row in PAIRS]
    assert (done.read, done.written) == (2, 2)


def test_good_rows_stay_as_they_are_between_those_that_are_nearly_so(tmp_path: Path) -> None:
    done, rows = converted(tmp_path, [{**PAIRS[0], "id": 7}], [PAIRS[1]])
    assert rows == PAIRS
    assert done.taken == "id is left out"


def test_a_file_with_good_rows_of_another_meaning_between_is_not_guessed(tmp_path: Path) -> None:
    other = {"question": "Where?", "good": "a", "chosen": "a", "rejected": "b"}
    with pytest.raises(DataError, match="No preference can be made of rows with the fields"):
        converted(tmp_path, [*PAIRS, other], to="preference")


def test_rows_that_are_not_like_the_others_stop_it_unless_so_many_may_be_left_out(tmp_path: Path) -> None:
    content = [{"question": row["prompt"], "chosen": row["chosen"], "rejected": row["rejected"]} for row in PAIRS]
    # Beyond the rows by which the layout is found.
    lines = as_lines(content) * 10_000 + b'{"question": "Where?", "chosen": "Here."}\nno JSON\n'
    with pytest.raises(
        DataError, match=r"0.jsonl, row 20,001: no field rejected, which the other rows have.*--max-bad-rows N"
    ):
        converted(tmp_path, lines)
    assert not (tmp_path / "new.jsonl").exists()
    done, rows = converted(tmp_path, lines, max_bad_rows=2)
    assert len(rows) == 20_000
    assert [place.partition(":")[0].rpartition(", ")[2] for place in done.bad] == ["row 20,001", "row 20,002"]


@pytest.mark.parametrize(
    ("strange", "told"),
    [
        ({"rejected": None}, "rejected: null; the other rows have an array there"),
        ({"chosen": "text"}, r'chosen: "text" \(a string\); the other rows have an array there'),
        ({"chosen": [{"role": "user"}]}, r"chosen\[\].content: missing; the other rows have it"),
        (None, "no field chosen, messages, prompt, .*, which the other rows have"),
    ],
)
def test_a_few_odd_rows_make_no_demonstrations_of_preferences(
    strange: dict[str, Any] | None, told: str, tmp_path: Path
) -> None:
    said = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Here."}]
    row: dict[str, Any] = {"prompt": "Where?", "chosen": said, "rejected": [said[0], {**said[1], "content": "No."}]}
    row |= {"prompt_id": "a", "messages": said, "score_chosen": 8.0, "score_rejected": 6.0}
    content = [row] * 7 + [{**row, **strange} if strange else {"foo": 1}]
    with pytest.raises(DataError, match=rf"but not all rows are like that. .*0.jsonl, row 8: {told}. Mend"):
        converted(tmp_path, content)
    done, rows = converted(tmp_path, content, max_bad_rows=1)
    assert (done.kind, len(rows), len(done.bad)) == ("preference", 7, 1)


@pytest.mark.parametrize(
    ("row", "strange"),
    [
        ({"prompt": "Where?", "chosen": "Here.", "rejected": "No."}, {"rejected": None}),
        ({"question": "Where?", "chosen": "Here.", "rejected": "No."}, {"rejected": None}),
        ({"question": "Where?", "chosen": "Here.", "rejected": "No."}, {"history": "Before."}),
        (
            {"chosen": "Human: Where?\n\nAssistant: Here.", "rejected": "Human: Where?\n\nAssistant: No."},
            {"chosen": "x"},
        ),
        ({"question": "Where?", "answer_a": "Here.", "answer_b": "No.", "winner": "A"}, {"winner": None}),
    ],
)
def test_the_layout_is_that_of_nearly_all_rows(row: dict[str, Any], strange: dict[str, Any], tmp_path: Path) -> None:
    content = [row] * 3 + [{**row, **strange}]
    with pytest.raises(DataError, match=r"0.jsonl, row 4: "):
        converted(tmp_path, content)
    done, rows = converted(tmp_path, content, max_bad_rows=1)
    assert (done.kind, len(rows), len(done.bad)) == ("preference", 3, 1)


def test_rows_that_may_be_left_out_are_fewer_than_those_that_tell_the_layout(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Nothing can be made"):
        converted(tmp_path, [PAIRS[0], {"foo": 1}], max_bad_rows=9)
    with pytest.raises(DataError, match="--max-bad-rows is -1; it must be at least 0"):
        converted(tmp_path, PAIRS, max_bad_rows=-1)


def test_a_later_row_with_a_field_that_may_mean_something_is_not_read_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlhf_tuning.data.convert.ROWS_TRIED", 2)
    content = [{"question": row["prompt"], "chosen": row["chosen"], "rejected": row["rejected"]} for row in PAIRS]
    with pytest.raises(DataError, match="row 3: a field 'system', which the other rows do not have"):
        converted(tmp_path, [*content, {**content[0], "system": "Be terse."}])


def test_texts_that_nothing_can_be_learnt_from_are_left_out_and_counted(tmp_path: Path) -> None:
    content = [{"question": row["prompt"], "chosen": row["chosen"], "rejected": row["rejected"]} for row in PAIRS]
    blank, same = {**content[0], "question": " "}, {**content[0], "rejected": f" {content[0]['chosen']}"}
    done, rows = converted(tmp_path, [*content, blank, same])
    assert rows == PAIRS
    assert done.left_out == {"a text that is empty or blank": 1, "both of their answers are the same text": 1}


def test_scores_that_say_otherwise_than_names_leave_a_row_out(tmp_path: Path) -> None:
    content = [{**PAIRS[0], "chosen_score": 2, "rejected_score": score} for score in (1, 3, 2, None)]
    done, rows = converted(tmp_path, content)
    assert rows == [PAIRS[0]] * 2
    assert done.left_out == {"their scores prefer the other answer": 1, "they prefer no answer": 1}


def test_a_margin_of_another_make_is_kept(tmp_path: Path) -> None:
    content = [{"question": "Where?", "answer_a": "Here.", "answer_b": "No.", "winner": "A", "margin": 0.5}] * 2
    _, rows = converted(tmp_path, content)
    assert [row["margin"] for row in rows] == [0.5, 0.5]


def test_choices_counted_from_one_are_counted_from_zero_in_good_rows_too(tmp_path: Path) -> None:
    row = {"input_text": "Where?", "candidate_0": "Here.", "candidate_1": "No."}
    _, rows = converted(tmp_path, [{**row, "choice": 1}] * 9 + [{**row, "choice": 2}])
    assert [row["choice"] for row in rows] == [0] * 9 + [1]
    (tmp_path / "new.jsonl").unlink()
    lines = as_lines([{**row, "choice": choice} for choice in [1, 2] * 10_000 + [0]])
    with pytest.raises(DataError, match="row 20,001"):
        converted(tmp_path, lines)


@pytest.mark.parametrize(("label", "rating"), [(True, False), (4, 1)])
def test_feedback_becomes_preferences_where_a_prompt_has_answers_of_different_worth(
    label: Any, rating: Any, tmp_path: Path
) -> None:
    field = "label" if isinstance(label, bool) else "rating"
    content = [
        {"prompt": "Where?", "completion": "Here.", field: label},
        {"prompt": "Who?", "completion": "I.", field: label},
        {"prompt": "Where?", "completion": "No.", field: rating, "user": "u"},
    ]
    done, rows = converted(tmp_path, content, to="preference")
    margin = {} if field == "label" else {"margin": 1.0}
    assert rows == [{"prompt": "Where?", "chosen": "Here.", "rejected": "No.", **margin}]
    assert done.left_out == {"they have fewer than two answers to compare": 1}
    assert (done.kind, done.read, done.written) == ("preference", 3, 1)


def test_an_answer_that_was_judged_often_has_the_mean_of_its_ratings(tmp_path: Path) -> None:
    judged = [("Here.", 5), ("Here.", 3), ("No.", 2), ("No. ", 2), ("Perhaps.", 1)]
    content = [{"prompt": "Where?", "completion": answer, "rating": rating} for answer, rating in judged]
    _, rows = converted(tmp_path, content, to="preference")
    assert [(row["rejected"], row["margin"]) for row in rows] == [("No.", 0.5), ("Perhaps.", 0.75)]
    assert {row["chosen"] for row in rows} == {"Here."}


@pytest.mark.parametrize(
    ("field", "values"),
    [("thumbs_up", (True, False)), ("feedback", ("like", "dislike")), ("label", (1, 0)), ("vote", ("👍", "👎"))],
)
def test_thumbs_of_another_make_become_feedback(field: str, values: tuple[Any, Any], tmp_path: Path) -> None:
    content = [{"question": "Where?", "answer": "Here.", field: value} for value in values]
    done, rows = converted(tmp_path, content)
    assert [row["label"] for row in rows] == [True, False]
    assert done.kind == "feedback"


@pytest.mark.parametrize(
    ("column", "values"), [("label", ("true", "False")), ("label", ("1", "0")), ("rating", ("4", "1.5"))]
)
def test_feedback_in_a_table_of_text_is_read(column: str, values: tuple[str, str], tmp_path: Path) -> None:
    table = f"prompt,completion,{column}\nWhere?,Here.,{values[0]}\nWhere?,No.,{values[1]}\n"
    _, rows = converted(tmp_path, table.encode(), to="feedback")
    assert [row[column] for row in rows] == ([True, False] if column == "label" else [4, 1.5])


@pytest.mark.parametrize("values", [("yes", "no"), (1, 2), (True, "x")])
def test_a_label_that_may_mean_anything_is_not_guessed(values: tuple[Any, Any], tmp_path: Path) -> None:
    content = [{"question": "Where?", "answer": "Here.", "label": value} for value in values]
    with pytest.raises(DataError, match="No feedback can be made"):
        converted(tmp_path, content, to="feedback")


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "new.jsonl").write_text("kept")
    with pytest.raises(DataError, match="is there already"):
        converted(tmp_path, PAIRS)
    assert (tmp_path / "new.jsonl").read_text() == "kept"


def test_rows_of_no_known_make_are_refused_with_their_fields(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Nothing can be made of rows with the fields a, b"):
        converted(tmp_path, [{"a": 1, "b": "x"}])


def test_what_a_label_stands_for_is_asked_where_that_cannot_be_told(tmp_path: Path) -> None:
    content = [{"question": "Where?", "answer_a": "Here.", "answer_b": "No.", "label": label} for label in (0, 1)]
    with pytest.raises(DataError, match="which value stands for which cannot be told"):
        converted(tmp_path, content, to="preference")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        (
            "a.csv",
            'prompt,chosen,rejected\n"x\ny",a,b\n"open,a\nz,b\n',
            "the row that begins on line 4: .*mark may be open",
        ),
        ("a.csv", 'prompt,chosen,rejected\n"x"y,a,b\n', "the row that begins on line 2: "),
        ("a.parquet", "hello", "none is a JSON object. .*a.parquet, row 1: Expecting value"),
        ("a.jsonl", "[1,2]\n3\n", "none is a JSON object. .*a.jsonl, row 1: an array of 2"),
        ("a.jsonl", "", "nothing stands in .*a.jsonl"),
        ("a.json", '[{"prompt": "x"}, {"prompt": "y"', "it ends in the middle of row 2"),
        ("a.json", '[{"prompt": "x"}, {"prompt": "y', "it ends in the middle of row 2"),
        ("a.json", '[{"prompt": "x"},\n', "it ends behind row 1, and its array is not closed"),
        ("a.json", '[{"prompt": "x"}, {prompt: "y"}, {}]', "row 2: Expecting property name .* at 'prompt: "),
    ],
)
def test_a_file_that_cannot_be_read_is_told_by_name_and_place(
    name: str, content: str, told: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=told) as refused:
        convert([str(tmp_path / name)], str(tmp_path / "new.jsonl"))
    assert name in str(refused.value)


def test_a_file_that_is_not_there_is_told_by_the_name_that_the_help_has(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^FROM is .*nope.jsonl', but there is no such file"):
        convert([str(tmp_path / "nope.jsonl")], str(tmp_path / "new.jsonl"))
