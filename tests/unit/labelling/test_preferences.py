"""Preferences by a judge: a server's, with two tiny models that answer."""

import json
from pathlib import Path
from typing import Any

import pytest
from judge_server import KEY, judge_server, longer_wins, material

from rlhf_tuning import environment
from rlhf_tuning.data.importer import import_preferences, read_canonical
from rlhf_tuning.errors import DataError, ParameterError
from rlhf_tuning.evaluation.judges import asking
from rlhf_tuning.labelling import preferences
from rlhf_tuning.labelling.preferences import PreferenceLabelConfig, PreferenceLabels, label_preferences
from rlhf_tuning.labelling.tasks import task_rubric

PROMPTS: list[list[dict[str, str]]] = [
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "one"}],
    [{"role": "user", "content": "two"}],
    [{"role": "user", "content": "three"}, {"role": "assistant", "content": "3"}, {"role": "user", "content": "four"}],
    [{"role": "user", "content": "five"}],
    [{"role": "user", "content": "six"}],
]
#: The longer one wins: B, A, a tie, two that are the same, and one that is no text.
ANSWERS = [["a", "long a", "two", "same", "a\0"], ["long b", "b", "six", "same ", "b"]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Waits are short, and the cache is the test's own."""
    monkeypatch.setattr(asking, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(environment, "CACHE_DIR", tmp_path / "cache")
    monkeypatch.setattr(environment, "JUDGE_API_KEY", KEY)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both models answer as it is written above."""
    answers = iter(ANSWERS)
    monkeypatch.setattr(preferences, "_answers", lambda *given, **named: next(answers))


def label(folder: Path, url: str, **settings: Any) -> PreferenceLabels:
    (folder / "prompts").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    given = {"large_model_a_reference": "a", "large_model_b_reference": "b", "judge": "language_model"}
    of_the_step = ("human_preference_dataset", "human_preference_fingerprint", "instruction", "max_bad_rows")
    more = {name: settings.pop(name) for name in of_the_step if name in settings}
    return label_preferences(
        PreferenceLabelConfig(judge_model="judge-1", judge_endpoint=f"{url}/v1", **given | settings),
        prompts_path=str(folder / "prompts"),
        preferences_path=str(folder / "labels.jsonl"),
        judgements_path=str(folder / "judgements.jsonl"),
        work_dir=str(folder / "work"),
        **more,
    )


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.usefixtures("scripted")
def test_what_the_judge_prefers_in_both_orders_is_a_dataset_and_ties_are_counted(tmp_path: Path) -> None:
    with judge_server() as server:
        found = label(tmp_path, server.url)
    assert len(server.questions) == 6, "what is the same is not asked about"
    assert (found.prompts, found.first, found.second) == (5, 1, 1)
    assert found.left_out == {"tie": 1, "same": 1, "no_text": 1}
    assert [row["choice"] for row in written(tmp_path / "judgements.jsonl")] == ["B", "A", "tie", "same", "no_text"]
    # Imported with an instruction or without, the prompts are those that were answered.
    import_preferences(
        preference_dataset=str(tmp_path / "labels.jsonl"),
        eval_dataset="",
        instruction="Be rude.",
        preferences_path=str(tmp_path / "learnt"),
        eval_preferences_path=str(tmp_path / "measured"),
    )
    both = [*read_canonical(tmp_path / "learnt"), *read_canonical(tmp_path / "measured")]
    assert sorted(both, key=lambda row: row["chosen"]) == [
        {"prompt": PROMPTS[1], "chosen": "long a", "rejected": "b"},
        {"prompt": PROMPTS[0], "chosen": "long b", "rejected": "a"},
    ]


@pytest.mark.usefixtures("scripted")
def test_a_judge_that_prefers_a_place_labels_nothing(tmp_path: Path) -> None:
    with (
        judge_server(lambda question: "Verdict: A") as server,
        pytest.raises(DataError, match="preferred no answer of 5 pairs: 1 left out: an answer holds"),
    ):
        label(tmp_path, server.url)
    assert not (tmp_path / "labels.jsonl").exists()


@pytest.mark.usefixtures("scripted")
def test_the_judge_is_held_against_people_where_some_have_said_what_they_prefer(tmp_path: Path) -> None:
    rows = [
        {"input_text": f"Is {n} a lot?", "candidate_0": "no", "candidate_1": "certainly", "choice": int(n > 0)}
        for n in range(10)
    ]
    (tmp_path / "human.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with judge_server() as server:
        found = label(tmp_path, server.url, human_preference_dataset=str(tmp_path / "human.jsonl"), instruction="Say:")
    assert found.human is not None
    assert (found.human.share, found.human.n) == (0.9, 10)
    assert any("Say:\n\nIs 3 a lot?" in material(question).get("user", "") for question in server.questions)
    assert "agrees with 90%" in found.warning()
    assert found.metrics()["agreement"] == 0.9
    assert "nobody held it against people" in PreferenceLabels(judge="judge j").warning()


def test_other_preferences_of_people_than_were_checked_are_refused_and_bad_rows_set_aside(tmp_path: Path) -> None:
    row = {"candidate_0": "no", "candidate_1": "certainly", "choice": 1}
    people = tmp_path / "human.jsonl"
    people.write_text("".join(json.dumps({"input_text": f"Is {n} a lot?", **row}) + "\n" for n in range(9)) + "{}\n")
    asked = {"human_preference_dataset": str(people)}
    with judge_server() as server:
        with pytest.raises(DataError, match="human_preference_dataset"):
            label(tmp_path, server.url, **asked)
        with pytest.raises(DataError, match="human_preference_dataset has changed since Validate Inputs"):
            label(tmp_path, server.url, **asked, max_bad_rows=1, human_preference_fingerprint="another")
    assert not server.questions


def test_models_that_are_loaded_answer_once_even_if_the_judge_is_away(tmp_path: Path, tiny_model: Path) -> None:
    config = {"large_model_a_reference": str(tiny_model), "large_model_b_reference": str(tiny_model)}
    settings = {"target_sequence_length": 6, "prompt_sequence_length": 48, "dtype": "float32", **config}
    with judge_server(longer_wins, [(404, {}, "")] * 10) as server:
        with pytest.raises(ParameterError, match="status 404"):
            label(tmp_path, server.url, **settings)
        kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").glob("answers-*.jsonl")}
        assert len(kept) == 2
        server.faults.clear()
        label(tmp_path, server.url, **settings)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "work").glob("answers-*.jsonl")} == kept
    rows = written(tmp_path / "judgements.jsonl")
    assert any(row["response_a"] != row["response_b"] for row in rows), "the same model samples by another seed"


def test_nothing_is_asked_where_nobody_prefers_or_all_answers_are_the_same() -> None:
    same = {"large_model_a_reference": "a", "large_model_b_reference": "a"}
    with pytest.raises(ParameterError, match="Neither judge nor scorer"):
        PreferenceLabelConfig(**same)
    with pytest.raises(ParameterError, match="the same model, and sampling_strategy is 'greedy'"):
        PreferenceLabelConfig(**same, scorer="house_style", sampling_strategy="greedy")
    with pytest.raises(ParameterError, match="the same model, and temperature is 0"):
        PreferenceLabelConfig(**same, scorer="house_style", temperature=0.0)


def test_a_task_has_a_rubric_whatever_its_version() -> None:
    assert task_rubric("summarization@001") == task_rubric("summarization") != task_rubric("question_answering@latest")
    with pytest.raises(ParameterError, match="task_type is 'chat@001'; it must be summarization or question_answering"):
        task_rubric("chat@001")
