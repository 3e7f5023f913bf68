"""Labels by a teacher: behind a server with the faults that such servers have, and a tiny model that is loaded."""

import json
from pathlib import Path
from typing import Any

import pytest
from judge_server import KEY, JudgeServer, judge_server

from rlhf_tuning import environment
from rlhf_tuning.errors import DataError, ParameterError, RunError
from rlhf_tuning.evaluation.judges import asking
from rlhf_tuning.labelling.demonstrations import Labels, label_demonstrations
from rlhf_tuning.labelling.teacher import TeacherConfig


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits are short, and prompts are asked one after the other."""
    monkeypatch.setattr(asking, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(asking, "WORKERS", 1)
    monkeypatch.setattr(environment, "TEACHER_API_KEY", KEY)


def row(prompt: str, answer: str = "") -> dict[str, Any]:
    return {"prompt": [{"role": "user", "content": prompt}], "answer": answer}


def label(
    folder: Path, student: Path, rows: list[dict[str, Any]], eval_rows: list[dict[str, Any]], **settings: Any
) -> Labels:
    """Label rows in a folder, which keeps what the teacher said from one call to the next."""
    for name, given in (("rows", rows), ("eval_rows", eval_rows)):
        (folder / name).write_text("".join(json.dumps(each) + "\n" for each in given))
    config = TeacherConfig(large_model_reference=str(student), target_sequence_length=12, **settings)
    return label_demonstrations(
        config,
        rows_path=str(folder / "rows"),
        eval_rows_path=str(folder / "eval_rows"),
        demonstrations_path=str(folder / "demonstrations"),
        eval_demonstrations_path=str(folder / "eval_demonstrations"),
        labels_path=str(folder / "labels.jsonl"),
        work_dir=str(folder / "work"),
    )


def behind(server: JudgeServer, **settings: Any) -> dict[str, Any]:
    return {
        "teacher": "language_model",
        "teacher_model_reference": "big-1",
        "teacher_endpoint": f"{server.url}/v1",
        **settings,
    }


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_teacher_answers_what_has_no_answer_each_prompt_once(tmp_path: Path, tiny_model: Path) -> None:
    rows = [row("one"), row("two", "mine"), row("one")]
    rows[2]["prompt"].insert(0, {"role": "system", "content": "Be brief."})
    with judge_server(lambda question: f"<think>Hm.</think> on {question}") as server:
        found = label(tmp_path, tiny_model, rows, [row("one")], **behind(server, temperature=0.5))
        (first, second) = server.bodies
    assert first["messages"] == rows[0]["prompt"]
    assert second["messages"] == rows[2]["prompt"]
    assert (first["model"], first["temperature"]) == ("big-1", 0.5)
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    demonstrations = written(tmp_path / "demonstrations")
    assert [each["answer"] for each in demonstrations] == ["on one", "mine", "on Be brief."]
    assert written(tmp_path / "eval_demonstrations") == [row("one", "on one")]
    assert written(tmp_path / "labels.jsonl")[1] == {
        "prompt": rows[1]["prompt"],
        "completion": [{"role": "assistant", "content": "mine"}],
    }
    assert (found.rows, found.eval_rows, found.labelled, found.kept) == (3, 1, 3, 1)


def test_answers_that_rows_bring_are_replaced_where_that_is_asked_for(tmp_path: Path, tiny_model: Path) -> None:
    with judge_server(lambda question: "theirs") as server:
        label(tmp_path, tiny_model, [row("one", "mine")], [row("two")], **behind(server, keep_answers=False))
    assert written(tmp_path / "demonstrations") == [row("one", "theirs")]


def test_a_run_that_was_stopped_asks_about_no_prompt_twice(tmp_path: Path, tiny_model: Path) -> None:
    rows = [row(str(number)) for number in range(8)]
    # Five are answered before the server goes away.
    faults: list[Any] = ["say:early"] * 5 + ["drop"] * asking.ATTEMPTS * asking.MOST_UNANSWERED
    with judge_server(lambda question: "late", faults) as server:
        with pytest.raises(RunError, match=r"The teacher at .* did not answer 3 questions in a row"):
            label(tmp_path, tiny_model, rows, [row("0")], **behind(server))
        assert not (tmp_path / "demonstrations").exists()
        (kept,) = (tmp_path / "work").glob("teacher-*/*.jsonl")
        with kept.open("a") as stream:
            stream.write('{"prompt": "cut o')  # as a kill leaves it
        server.questions.clear()
        label(tmp_path, tiny_model, rows, [row("0")], **behind(server))
        assert sorted(server.questions) == ["5", "6", "7"]
        answers = [each["answer"] for each in written(tmp_path / "demonstrations")]
        assert answers == ["early"] * 5 + ["late"] * 3
        server.questions.clear()
        label(tmp_path, tiny_model, rows, [row("0")], **behind(server, teacher_model_reference="other"))
        assert len(server.questions) == 8


def test_more_prompts_than_calls_are_refused_before_one_is_asked(tmp_path: Path, tiny_model: Path) -> None:
    with judge_server() as server:
        with pytest.raises(ParameterError, match="2 prompts would be put to the teacher, and teacher_max_calls is 1"):
            label(tmp_path, tiny_model, [row("one")], [row("two")], **behind(server, teacher_max_calls=1))
        assert not server.questions


def test_what_the_teacher_did_not_answer_to_its_end_is_left_out_and_counted(tmp_path: Path, tiny_model: Path) -> None:
    long = "The harbour smells of salt and warm bread, and gulls call all day. " * 3
    replies = {"empty": " ", "cut": "Enjoy some fun", "long": long, "fine": "Natural Beauty.", "nul": "a\0"}
    # What is measured on comes first.
    faults: list[Any] = ["", "", "cut", "cut", (400, {}, '{"error": {"message": "not that"}}'), "", ""]
    with judge_server(lambda question: replies[question], faults) as server:
        rows = [row("empty"), row("cut"), row("long"), row("refused"), row("nul")]
        found = label(tmp_path, tiny_model, rows, [row("fine")], **behind(server))
    # What is longer than the student learns of it is learnt without its end anyway.
    assert written(tmp_path / "demonstrations") == [row("long", long.strip())]
    assert found.left_out == {"empty": 1, "cut": 1, "refused": 1, "no_text": 1}
    assert "1 rows are left out: the teacher refused the prompt (status 400: not that)" in found.lines()
    assert "1 rows are left out: the answer was cut off before its end" in found.lines()


def test_no_label_at_all_ends_the_run(tmp_path: Path, tiny_model: Path) -> None:
    with (
        judge_server(lambda question: "") as server,
        pytest.raises(DataError, match="No demonstration is left to learn"),
    ):
        label(tmp_path, tiny_model, [row("one")], [row("two", "mine")], **behind(server))


def test_a_teacher_that_is_loaded_answers_as_bulk_inference_does(tmp_path: Path, tiny_model: Path) -> None:
    rows = [row(f"Create a description for {name}.") for name in ("Plantation Palms", "Gulf Shores")]
    found = label(tmp_path, tiny_model, rows, [row("0 1 2")], teacher_model_reference=str(tiny_model), dtype="float32")
    # An untrained model does not end, and says more than the student learns.
    assert (found.labelled, found.left_out.total()) == (3, 0)
    assert all(each["answer"] for each in written(tmp_path / "demonstrations"))


@pytest.mark.parametrize("teacher", ["language_model", "gemini"])
def test_no_more_is_asked_once_the_money_is_spent(teacher, tmp_path: Path, tiny_model: Path) -> None:
    if teacher == "gemini":
        pytest.importorskip("google.genai")
    rows = [row(str(number)) for number in range(6)]
    with judge_server(lambda question: "salt") as server:
        server.tokens = 1000
        settings = behind(server, teacher=teacher, teacher_price=2.0, teacher_max_cost=0.007)
        if teacher == "gemini":
            settings["teacher_endpoint"] = server.url
        found = label(tmp_path, tiny_model, rows[2:], rows[:2], **settings)
        assert len(server.questions) == 4
    assert found.left_out == {"spent": 2}
    assert found.cost == pytest.approx(0.008)
    assert "The teacher's server cost 0.01" in found.lines()


def test_what_a_stopped_run_spent_on_answers_counts(tmp_path: Path, tiny_model: Path) -> None:
    rows = [row(str(number)) for number in range(4)]
    with judge_server(lambda question: "salt") as server:
        server.tokens = 1000
        settings = behind(server, teacher_price=2.0, teacher_max_cost=0.006)
        label(tmp_path, tiny_model, rows[1:3], rows[:1], **settings)
        found = label(tmp_path, tiny_model, rows[1:], rows[:1], **settings)
        assert len(server.questions) == 3
    assert (found.labelled, found.left_out) == (3, {"spent": 1})
    assert found.cost == pytest.approx(0.006)


def test_a_server_that_counts_no_tokens_cannot_be_limited_by_cost(tmp_path: Path, tiny_model: Path) -> None:
    with judge_server(lambda question: "salt") as server:
        settings = behind(server, teacher_price=2.0, teacher_max_cost=1.0)
        with pytest.raises(ParameterError, match="does not tell how many tokens"):
            label(tmp_path, tiny_model, [row("one")], [row("two")], **settings)
