"""The formats of demonstrations, from a line to the canonical rows, and all that is made of them."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.data.reading import as_lines, read

from rlhf_tuning.data.check import check_datasets
from rlhf_tuning.data.findings import Training
from rlhf_tuning.data.formats import DEMONSTRATION_FORMATS, parse_line
from rlhf_tuning.data.importer import import_demonstrations, read_canonical, sample_unasked
from rlhf_tuning.data.problems import Fault
from rlhf_tuning.data.reader import DEMONSTRATIONS, TO_LABEL
from rlhf_tuning.errors import DataError

USER, ASSISTANT, MODEL = ({"role": role} for role in ("user", "assistant", "model"))
ASKED = [{"role": "user", "content": "a"}]
DIALOGUE = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]


def said(speaker: str, text: str, key: str = "role") -> dict[str, str]:
    return {key: speaker, "content": text}


def content(role: str, *texts: str) -> dict[str, object]:
    return {"role": role, "parts": [{"text": text} for text in texts]}


def rows_of(record: dict[str, Any], instruction: str = "") -> list[dict[str, Any]]:
    reading = read(as_lines([record]), accepts=DEMONSTRATIONS, instruction=instruction)
    assert not reading.found
    return reading.rows


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("tuning_text", {"input_text": "a", "output_text": "b"}),
        ("tuning_chat", {"messages": [said("user", "a", "author"), said("assistant", "b", "author")]}),
        ("chat_messages", {"messages": [said("user", "a"), said("assistant", "b")]}),
        ("chat_messages", {"messages": [said("user", "a"), said("model", "b")]}),
        ("prompt_completion", {"prompt": "a", "completion": "b"}),
        ("prompt_completion", {"prompt": ASKED, "completion": [said("assistant", "b")]}),
        ("gemini_contents", {"contents": [content("user", "a"), content("model", "b")]}),
    ],
)
def test_each_format_becomes_the_same_row(name: str, record: dict[str, Any]) -> None:
    parsed = parse_line(json.dumps(record).encode(), accepts=DEMONSTRATIONS, instruction="", faults=[])
    assert parsed is not None
    assert parsed[0].name == name
    assert parsed[0] in DEMONSTRATION_FORMATS
    assert rows_of(record) == [{"prompt": ASKED, "answer": "b"}]


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [said(*turn, "author") for turn in DIALOGUE], "context": "Be kind."},
        {"messages": [said("system", "Be kind."), *(said(*turn) for turn in DIALOGUE)]},
        {
            "system_instruction": {"role": "anybody", "parts": [{"text": "Be "}, {"text": "kind."}]},
            "contents": [content("model" if who == "assistant" else who, text) for who, text in DIALOGUE],
        },
    ],
)
def test_every_answer_of_a_dialogue_is_learnt_with_all_before_it_as_its_prompt(record: dict[str, Any]) -> None:
    system = [{"role": "system", "content": "Be kind."}]
    assert rows_of(record, instruction="Be brief.") == [
        {"prompt": [*system, *ASKED], "answer": "b"},
        {"prompt": [*system, *(said(*turn) for turn in DIALOGUE[:3])], "answer": "d"},
    ]


def test_of_a_prompt_with_its_completion_the_completion_alone_is_learnt() -> None:
    turns = [said(*turn) for turn in DIALOGUE]
    assert rows_of({"prompt": turns[:3], "completion": turns[3:]}) == [{"prompt": turns[:3], "answer": "d"}]


def test_the_instruction_stands_before_texts_and_is_the_system_turn_of_chats_without_one() -> None:
    assert rows_of({"input_text": "a", "output_text": "b"}, "Do.")[0]["prompt"][0]["content"] == "Do.\n\na"
    for record in (
        {"messages": [said("user", "a"), said("assistant", "b")]},
        {"contents": [content("user", "a"), content("model", "b")]},
    ):
        assert rows_of(record, "Do.")[0]["prompt"] == [{"role": "system", "content": "Do."}, *ASKED]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"input_text": "a", "output_text": " "}, ("blank_text", "output_text")),
        ({"input_text": "a", "output": "b"}, ("missing_field", "output_text")),
        ({"prompt": "a", "completion": 1}, ("wrong_type", "completion")),
        ({"messages": []}, ("no_messages", "messages")),
        ({"messages": [said("assistant", "b")]}, ("wrong_turn", "messages[0].role")),
        ({"messages": [*ASKED, said("assistant", "b"), said("user", "c")]}, ("wrong_turn", "messages[2].role")),
        (
            {"messages": [*ASKED, said("assistant", "b"), said("assistant", "c")]},
            ("wrong_turn", "messages[2].role"),
        ),
        ({"messages": [*ASKED, said("system", "s"), said("assistant", "b")]}, ("wrong_turn", "messages[1].role")),
        ({"messages": [*ASKED, said("tool", "b")]}, ("wrong_author", "messages[1].role")),
        ({"contents": [content("user", "a"), content("assistant", "b")]}, ("wrong_author", "contents[1].role")),
        ({"contents": [content("user", "a")]}, ("wrong_kind", "")),
        ({"contents": [content("model", "a")]}, ("wrong_turn", "contents[0].role")),
        ({"contents": [content("user", ""), content("model", "b")]}, ("blank_text", "contents[0].parts")),
        (
            {"contents": [{**USER, "parts": [{"fileData": {"fileUri": "gs://a/b"}}]}, content("model", "b")]},
            ("extra_field", "contents[0].parts[0].fileData"),
        ),
        (
            {"contents": [content("user", "a"), content("model", "b")], "tools": []},
            ("extra_field", "tools"),
        ),
        ({"input_text": "a", "candidate_0": "b", "candidate_1": "c", "choice": 0}, ("wrong_kind", "")),
        ({"input_text": "a"}, ("wrong_kind", "")),
        ({"messages": ASKED, "context": "c", "input_text": "b"}, ("several_formats", "")),
        ({"question": "a", "reply": "b"}, ("unknown_format", "")),
    ],
)
def test_what_is_no_demonstration_is_refused_with_its_field(record: dict[str, Any], expected: tuple[str, str]) -> None:
    faults: list[Fault] = []
    assert parse_line(json.dumps(record).encode(), accepts=DEMONSTRATIONS, instruction="", faults=faults) is None
    assert [(fault.code, fault.field) for fault in faults] == [expected]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def pair(number: int, answer: str = "") -> dict[str, Any]:
    return {"input_text": f"Ask {number}.", "output_text": answer or f"Answer {number}."}


def test_no_dialogue_is_divided_between_learning_and_measuring(tmp_path: Path) -> None:
    dialogues = [{"messages": [said(who, f"{text} {number}") for who, text in DIALOGUE]} for number in range(40)]
    names = ("learnt", "measured", "prompts")
    paths = {name: str(tmp_path / name) for name in names}
    summary = import_demonstrations(
        dataset_uri=write(tmp_path / "rows.jsonl", dialogues),
        evaluation_data_uri="",
        instruction="",
        demonstrations_path=paths["learnt"],
        eval_demonstrations_path=paths["measured"],
        eval_prompts_path=paths["prompts"],
        eval_prompts=3,
    )
    learnt, measured, prompts = (list(read_canonical(path)) for path in paths.values())
    assert (summary.rows, summary.eval_rows, summary.eval_prompts) == (len(learnt), len(measured), len(prompts))
    assert (len(learnt), len(measured), len(prompts)) == (72, 8, 3)
    openings = [{row["prompt"][0]["content"] for row in rows} for rows in (learnt, measured)]
    assert not openings[0] & openings[1]
    assert all(prompt["prompt"] in [row["prompt"] for row in measured] for prompt in prompts)


def test_the_evaluation_data_is_measured_on_where_it_is_given(tmp_path: Path) -> None:
    summary = import_demonstrations(
        dataset_uri=write(tmp_path / "rows.jsonl", [pair(number) for number in range(9)]),
        evaluation_data_uri=write(tmp_path / "eval.jsonl", [pair(20), pair(20, "Other."), pair(21)]),
        instruction="",
        demonstrations_path=str(tmp_path / "learnt"),
        eval_demonstrations_path=str(tmp_path / "measured"),
        eval_prompts_path=str(tmp_path / "prompts"),
        eval_prompts=1,
    )
    assert (summary.rows, summary.eval_rows, summary.eval_prompts) == (9, 3, 2)


@pytest.mark.parametrize(("dialogues", "apart"), [(75, True), (74, False)])
def test_where_there_are_enough_no_dialogue_both_chooses_the_checkpoint_and_is_answered(
    tmp_path: Path, dialogues: int, apart: bool
) -> None:
    turns = [
        [said("user", f"{number}"), said("assistant", "b"), said("user", "c"), said("assistant", "d")]
        for number in range(dialogues)
    ]
    asked = str(tmp_path / "prompts")
    measured = str(tmp_path / "measured")
    import_demonstrations(
        dataset_uri=write(tmp_path / "learnt.jsonl", [pair(number) for number in range(1000, 1010)]),
        evaluation_data_uri=write(tmp_path / "evaluation.jsonl", [{"messages": dialogue} for dialogue in turns]),
        instruction="",
        demonstrations_path=str(tmp_path / "demonstrations"),
        eval_demonstrations_path=measured,
        eval_prompts_path=asked,
    )
    rows, judged = sample_unasked(measured, asked, most=1000, seed=0)
    openings = [{row["prompt"][0]["content"] for row in some} for some in (rows, read_canonical(asked))]
    assert judged is not apart
    assert len(rows) == (50 if apart else 2 * dialogues)
    assert list(map(len, openings)) == ([25, 50] if apart else [74, 74])
    assert not (apart and openings[0] & openings[1])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text(json.dumps({"prompt": [said("user", "of an evaluation dataset")]}) + "\n")
    for asked in ("", str(elsewhere)):
        rows, judged = sample_unasked(measured, asked, most=1000, seed=0)
        assert len(rows) == 2 * dialogues
        assert not judged
    few = tmp_path / "few"
    few.write_text("".join(json.dumps(row) + "\n" for row in rows[:8]))
    assert sample_unasked(few, str(elsewhere), most=1000, seed=0) == (rows[:8], False)


def test_what_is_measured_on_is_not_learnt(tmp_path: Path) -> None:
    dialogue = {
        "prompt": [said("user", "Ask 3."), said("assistant", "b"), said("user", "c")],
        "completion": [said("assistant", "d")],
    }
    datasets = {
        "dataset_uri": write(tmp_path / "rows.jsonl", [pair(1), dialogue]),
        "evaluation_data_uri": write(tmp_path / "eval.jsonl", [{"input_text": "  ASK 3. ", "output_text": "z"}]),
    }
    paths = {name: str(tmp_path / name) for name in ("demonstrations", "eval_demonstrations", "eval_prompts")}
    outputs = {f"{name}_path": path for name, path in paths.items()}
    summary = import_demonstrations(**datasets, instruction="", **outputs)
    assert (summary.rows, summary.left_out, summary.eval_rows) == (1, 1, 1)

    write(tmp_path / "rows.jsonl", [pair(1), pair(3)])
    assert "eval_demonstration_in_training (1)" in check_datasets(**datasets, instruction="").problems
    with pytest.raises(DataError, match=r"eval.jsonl:1: found the prompt of .*rows.jsonl:2"):
        import_demonstrations(**datasets, instruction="", **outputs)


def test_findings_of_their_own(tmp_path: Path) -> None:
    rows = [pair(number) for number in range(40)] + [pair(1, "Another."), pair(2)]
    rows.append({"input_text": "Describe the harbour.", "output_text": "Describe the harbour. It smells of salt."})
    check = check_datasets(
        dataset_uri=write(tmp_path / "rows.jsonl", rows),
        evaluation_data_uri=write(tmp_path / "eval.jsonl", [pair(98), pair(99)]),
        instruction="",
        training=Training(
            load_text_format=lambda: None,
            batch_size=8,
            reward_model_train_steps=0,
            reinforcement_learning_train_steps=0,
            train_steps=100,
        ),
    )
    assert check.counts == {"evaluation_data_uri": 2, "dataset_uri": 43}
    assert check.demonstration_fingerprint.startswith("sha256:")
    assert check.eval_fingerprint.startswith("sha256:")
    found = {finding.code: finding for finding in check.summary.findings}
    assert set(found) == {
        "repeated_demonstrations",
        "other_answers",
        "few_demonstrations",
        "many_epochs",
        "prompt_in_answers",
    }
    assert found["many_epochs"].message == (
        "train_steps and batch_size show each of the 43 rows of dataset_uri 19 times; past 10 times a model learns its rows "
        "by heart. Set train_steps to 53 at most, or add rows."
    )
    assert found["other_answers"].message.startswith("1 of 43 demonstrations of dataset_uri answer a prompt otherwise")
    (example,) = found["other_answers"].examples
    assert (example.location, example.text) == (
        f"{tmp_path}/rows.jsonl:2",
        f"answers the same prompt otherwise than {tmp_path}/rows.jsonl:41",
    )
    (learnt, measured) = check.summary.datasets
    assert (learnt.parameter, measured.parameter) == ("dataset_uri", "evaluation_data_uri")
    assert [lengths.part for lengths in learnt.lengths] == ["prompt", "answer"]
    assert learnt.examples[0].answer is not None


def test_a_dataset_of_another_kind_is_told_in_one_sentence(tmp_path: Path) -> None:
    check = check_datasets(
        dataset_uri=write(tmp_path / "rows.jsonl", [{"input_text": "a"}, {"input_text": "b"}]), instruction=""
    )
    assert "no row with the answer that is to be learnt" in check.problems
    assert "belongs into prompt_dataset" in check.problems


@pytest.mark.parametrize(
    ("record", "answer"),
    [
        ({"input_text": "a"}, ""),
        ({"input_text": "a", "output_text": "b"}, "b"),
        ({"messages": [said("user", "a", "author")]}, ""),
        ({"messages": [said("user", "a", "author"), said("assistant", "b", "author")]}, "b"),
        ({"messages": [said("user", "a"), said("assistant", "b")]}, "b"),
        ({"prompt": "a"}, ""),
        ({"prompt": ASKED, "completion": [said("assistant", "b")]}, "b"),
        ({"contents": [content("user", "a")]}, ""),
        ({"contents": [content("user", "a"), content("model", "b")]}, "b"),
    ],
)
def test_a_row_to_label_may_have_an_answer_or_none(record: dict[str, Any], answer: str) -> None:
    reading = read(as_lines([record, {"input_text": "z"}]), accepts=TO_LABEL, instruction="")
    assert not reading.found
    assert reading.rows[0] == {"prompt": ASKED, "answer": answer}


def test_a_bad_row_to_label_is_told_by_what_is_nearest() -> None:
    faults: list[Fault] = []
    assert parse_line(b'{"input_text": ""}', accepts=TO_LABEL, instruction="", faults=faults) is None
    assert [fault.field for fault in faults] == ["input_text"]


def test_prompts_without_an_answer_are_counted_and_imported_with_those_that_have_one(tmp_path: Path) -> None:
    rows = [{"input_text": f"prompt {n}", **({"output_text": "known"} if n % 3 else {})} for n in range(60)]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    check = check_datasets(dataset_uri=str(data), instruction="", to_label=True)
    check.raise_if_unusable()
    assert check.to_label == 20
    summary = import_demonstrations(
        dataset_uri=str(data),
        evaluation_data_uri="",
        instruction="",
        demonstrations_path=str(tmp_path / "learnt"),
        eval_demonstrations_path=str(tmp_path / "measured"),
        eval_prompts_path=str(tmp_path / "asked"),
        demonstration_fingerprint=check.demonstration_fingerprint,
        to_label=True,
    )
    assert (summary.rows, summary.eval_rows) == (54, 6)
    both = [*read_canonical(tmp_path / "learnt"), *read_canonical(tmp_path / "measured")]
    assert sorted(row["answer"] for row in both) == [""] * 20 + ["known"] * 40
