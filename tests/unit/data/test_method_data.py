import json
from pathlib import Path

import pytest

from rlhf_tuning.data.check import check_datasets
from rlhf_tuning.data.importer import import_demonstrations, import_preferences, import_prompts, read_canonical
from rlhf_tuning.data.method_data import import_method_data, write_method_data
from rlhf_tuning.errors import DataError


@pytest.fixture
def given(tmp_path):
    """Datasets of a run; some prompts are in all of them."""
    rows = {
        "preferences": [
            {"input_text": f"Describe place {n}.", "candidate_0": f"Salt {n}.", "candidate_1": f"Gem {n}!", "choice": 0}
            | ({"margin": 0.5} if n % 2 else {})
            for n in range(200)
        ],
        "prompts": [{"input_text": f"Describe place {n}."} for n in range(100, 300)],
        "eval": [{"input_text": f"DESCRIBE  place {n}."} for n in range(20)],
        "shown": [{"input_text": f"Describe place {n}.", "output_text": f"Bread {n}."} for n in range(10, 60)],
    }
    for name, content in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    return tmp_path


def divide(given, folder="made", **changed):
    settings = {
        "prompt_dataset": str(given / "prompts.jsonl"),
        "preference_dataset": str(given / "preferences.jsonl"),
        "eval_dataset": str(given / "eval.jsonl"),
        "dataset_uri": "",
        "instruction": "Be brief.",
        "eval_prompts": 50,
        "judge_share": 0.25,
    }
    return write_method_data(given / folder, **settings | changed)


def prompts_in(data, name):
    rows = [json.loads(line) for line in Path(data.path(name)).read_text().splitlines()]
    assert len(rows) == data.rows[name]
    return {" ".join(row["prompt"][-1]["content"].lower().split()) for row in rows}


@pytest.mark.parametrize("evaluated", ["eval.jsonl", ""])
@pytest.mark.parametrize("shown", ["shown.jsonl", ""])
def test_nothing_that_judges_is_learnt_from(given, evaluated, shown):
    data = divide(
        given,
        eval_dataset=evaluated and str(given / evaluated),
        dataset_uri=shown and str(given / shown),
    )
    learnt = prompts_in(data, "preferences") | prompts_in(data, "demonstrations")
    held_out = prompts_in(data, "eval_prompts")
    assert not held_out & (learnt | prompts_in(data, "prompts") | prompts_in(data, "judge_preferences"))
    choices, judged = prompts_in(data, "choices"), prompts_in(data, "judge_preferences")
    assert choices
    assert 0.1 < len(judged) / (len(judged) + data.rows["preferences"]) < 0.4
    assert not choices & judged
    assert not (choices | judged) & prompts_in(data, "preferences")
    if not shown:
        assert prompts_in(data, "demonstrations") == prompts_in(data, "preferences")


def test_the_same_data_is_divided_in_the_same_way_and_other_data_is_told_by_the_fingerprint(given):
    one, again = divide(given), divide(given, "again")
    for name in one.rows:
        assert Path(one.path(name)).read_bytes() == Path(again.path(name)).read_bytes()
    assert one.fingerprint == again.fingerprint
    more = (given / "prompts.jsonl").read_text() + '{"input_text": "One more."}\n'
    (given / "prompts.jsonl").write_text(more)
    assert divide(given).fingerprint != one.fingerprint


@pytest.mark.parametrize("changed", [{"eval_prompts": 7}, {"judge_share": 0.5}])
def test_data_that_is_divided_otherwise_has_another_fingerprint(given, changed):
    assert divide(given, eval_dataset="", **changed).fingerprint != divide(given, eval_dataset="").fingerprint


def test_without_a_share_no_preferences_are_kept_for_a_judge(given):
    data = divide(given, judge_share=0.0)
    assert data.rows["judge_preferences"] == 0
    assert data.rows["preferences"] > 0.8 * 180


def test_the_files_are_datasets_that_have_the_instruction_already(given, tmp_path):
    data = divide(given)
    paths = {name: str(tmp_path / name) for name in ("a", "b", "c")}
    rest = {"instruction": "", "seed": 3}
    summary = import_prompts(
        prompt_dataset=data.path("prompts"),
        eval_dataset=data.path("eval_prompts"),
        prompts_path=paths["a"],
        eval_prompts_path=paths["b"],
        **rest,
    )
    assert (summary.rows, summary.eval_rows) == (data.rows["prompts"], data.rows["eval_prompts"])
    assert json.loads(Path(paths["a"]).read_text().splitlines()[0])["prompt"][0]["content"].startswith(
        "Be brief.\n\nDescribe place "
    )
    summary = import_preferences(
        preference_dataset=data.path("preferences"),
        eval_dataset=data.path("eval_prompts"),
        preferences_path=paths["a"],
        eval_preferences_path=paths["b"],
        **rest,
    )
    assert summary.rows + summary.eval_rows == data.rows["preferences"]
    assert summary.left_out == 0
    assert {json.loads(row).get("margin") for row in Path(paths["a"]).read_text().splitlines()} == {None, 0.5}
    summary = import_demonstrations(
        dataset_uri=data.path("demonstrations"),
        evaluation_data_uri="",
        demonstrations_path=paths["a"],
        eval_demonstrations_path=paths["b"],
        eval_prompts_path=paths["c"],
        **rest,
    )
    assert summary.rows + summary.eval_rows == data.rows["demonstrations"]


def test_what_each_training_gets_in_one_pipeline_is_nothing_that_it_is_measured_or_judged_on(given, tmp_path):
    names = ("demonstrations", "preferences", "judge_preferences")
    paths = {
        name: str(tmp_path / name)
        for name in (*names, *(f"eval_{name}" for name in names), "prompts", "evaluation_prompts", "choices")
    }
    data = divide(given)
    rows = import_method_data(data, paths, seed=1)
    assert rows == {name: sum(1 for _ in read_canonical(path)) for name, path in paths.items()}
    asked = {
        name: {row["prompt"][-1]["content"].lower() for row in read_canonical(path)} for name, path in paths.items()
    }
    assert all(asked.values())
    for name in names:
        assert not asked[name] & (asked[f"eval_{name}"] | asked["evaluation_prompts"] | asked["choices"])
    assert not asked["judge_preferences"] & (asked["preferences"] | asked["demonstrations"])
    assert not asked["prompts"] & asked["evaluation_prompts"]


@pytest.mark.parametrize("which", ["prompt", "preference", "demonstration", "eval"])
def test_data_that_has_changed_since_it_was_checked_is_refused(given, which):
    files = {"prompt_dataset": "prompts", "preference_dataset": "preferences", "eval_dataset": "eval"}
    check = check_datasets(
        **{parameter: str(given / f"{name}.jsonl") for parameter, name in files.items()},
        supervised_dataset=str(given / "shown.jsonl"),
        instruction="Be brief.",
    )
    known = {name: getattr(check, f"{name}_fingerprint") for name in ("prompt", "preference", "demonstration", "eval")}
    shown = str(given / "shown.jsonl")
    assert divide(given, dataset_uri=shown, fingerprints=known).rows["demonstrations"]
    with pytest.raises(DataError, match="has changed since"):
        divide(given, dataset_uri=shown, fingerprints=known | {which: "another"})
