from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from rlhf_tuning.data.check import DatasetCheck, check_datasets
from rlhf_tuning.data.importer import import_preferences, import_prompts
from rlhf_tuning.errors import DataError

WriteRows = Callable[[str, Sequence[Mapping[str, object]]], str]

PROMPTS = [{"input_text": f"Describe place {number}."} for number in range(10)]
OTHERS = [{"input_text": f"Describe room {number}."} for number in range(4)]


def as_preferences(prompts: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    return [
        {**prompt, "candidate_0": "a", "candidate_1": "b", "choice": number % 2}
        for number, prompt in enumerate(prompts)
    ]


def check(**settings: Any) -> DatasetCheck:
    result = check_datasets(
        **{"prompt_dataset": "", "preference_dataset": "", "eval_dataset": "", "instruction": "", **settings}
    )
    result.raise_if_unusable()
    assert result.warnings == [finding.message for finding in result.summary.findings]
    return result


def codes(result: DatasetCheck) -> list[str]:
    return [finding.code for finding in result.summary.findings]


def test_counts_and_fingerprints_each_dataset(write_rows: WriteRows) -> None:
    result = check(
        prompt_dataset=write_rows("p.jsonl", PROMPTS),
        preference_dataset=write_rows("r.jsonl", as_preferences(PROMPTS[:7])),
        eval_dataset=write_rows("e.jsonl", OTHERS),
    )
    assert result.counts == {"prompt_dataset": 10, "preference_dataset": 7, "eval_dataset": 4}
    fingerprints = {result.prompt_fingerprint, result.preference_fingerprint, result.eval_fingerprint}
    assert len(fingerprints) == 3
    assert all(fingerprint.startswith("sha256:") for fingerprint in fingerprints)
    assert codes(result) == ["few_preferences"]


def test_a_dataset_that_is_not_used_has_no_fingerprint(write_rows: WriteRows) -> None:
    result = check(prompt_dataset=write_rows("p.jsonl", PROMPTS[:1]))
    assert (result.preference_fingerprint, result.eval_fingerprint) == ("", "")
    assert result.counts == {"prompt_dataset": 1}


def test_finds_the_fingerprints_that_the_importer_finds(tmp_path: Path, write_rows: WriteRows) -> None:
    prompt_dataset, preference_dataset = (
        write_rows("p.jsonl", PROMPTS),
        write_rows("r.jsonl", as_preferences(PROMPTS)),
    )
    result = check(prompt_dataset=prompt_dataset, preference_dataset=preference_dataset, instruction="Be kind.")
    prompts = import_prompts(
        prompt_dataset=prompt_dataset,
        eval_dataset="",
        instruction="Be kind.",
        prompts_path=str(tmp_path / "1"),
        eval_prompts_path=str(tmp_path / "2"),
    )
    preferences = import_preferences(
        preference_dataset=preference_dataset,
        eval_dataset="",
        instruction="Be kind.",
        preferences_path=str(tmp_path / "3"),
        eval_preferences_path=str(tmp_path / "4"),
    )
    assert result.prompt_fingerprint == prompts.fingerprint
    assert result.preference_fingerprint == preferences.fingerprint
    assert check(prompt_dataset=prompt_dataset).prompt_fingerprint != prompts.fingerprint


def test_lists_the_problems_of_all_datasets_at_once(write_rows: WriteRows) -> None:
    with pytest.raises(DataError) as caught:
        check(
            prompt_dataset=write_rows("p.jsonl", [*PROMPTS, {"input_text": ""}]),
            preference_dataset=write_rows("r.jsonl", [*as_preferences(PROMPTS), PROMPTS[0]]),
            eval_dataset=write_rows("e.jsonl", [*OTHERS, *as_preferences(OTHERS)]),
        )
    message = str(caught.value)
    assert message.startswith("eval_dataset and preference_dataset and prompt_dataset cannot be used: 6 problems.")
    for line in (
        "p.jsonl:11: input_text",
        "r.jsonl:11: found a row without preference fields, which belongs into prompt_dataset",
        "e.jsonl:5: found a row with preference fields",
    ):
        assert line in message


def test_names_every_dataset_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"prompt_dataset is .*a\.jsonl.*\npreference_dataset is .*b\.jsonl"):
        check(prompt_dataset=str(tmp_path / "a.jsonl"), preference_dataset=str(tmp_path / "b.jsonl"))


def test_refuses_to_check_nothing() -> None:
    with pytest.raises(DataError, match="no dataset to check"):
        check()


def test_an_evaluation_prompt_among_the_prompts_is_named_once(write_rows: WriteRows) -> None:
    eval_dataset = write_rows("e.jsonl", [*OTHERS, {"messages": [{"author": "user", "content": "Describe place 3."}]}])
    with pytest.raises(DataError) as caught:
        check(prompt_dataset=write_rows("p.jsonl", PROMPTS * 2), eval_dataset=eval_dataset)
    assert "eval_prompt_in_training (1)" in str(caught.value)
    assert "e.jsonl:5: found the prompt of" in str(caught.value)
    assert "p.jsonl:4;" in str(caught.value)


def test_the_instruction_decides_whether_two_prompts_are_the_same(write_rows: WriteRows) -> None:
    chat = {"messages": [{"author": "user", "content": "Describe place 3."}]}
    datasets = {
        "prompt_dataset": write_rows("p.jsonl", PROMPTS),
        "eval_dataset": write_rows("e.jsonl", [chat]),
    }
    assert check(**datasets, instruction="Be kind.").counts["eval_dataset"] == 1
    with pytest.raises(DataError, match="eval_prompt_in_training"):
        check(**datasets)


def test_evaluation_preferences_that_are_trained_on_are_refused(write_rows: WriteRows) -> None:
    spaced = [{"input_text": f" {row['input_text'].upper()}"} for row in PROMPTS[:2]]
    with pytest.raises(DataError) as caught:
        check(
            preference_dataset=write_rows("r.jsonl", as_preferences(PROMPTS)),
            eval_dataset=write_rows("e.jsonl", as_preferences([*OTHERS, *spaced])),
        )
    assert "eval_preference_in_training (2)" in str(caught.value)
    assert "r.jsonl:1;" in str(caught.value)


def test_preferences_with_evaluation_prompts_are_told_to_be_left_out(write_rows: WriteRows) -> None:
    result = check(
        preference_dataset=write_rows("r.jsonl", as_preferences(PROMPTS)),
        eval_dataset=write_rows("e.jsonl", [*OTHERS, *PROMPTS[:2]]),
    )
    assert codes(result) == ["eval_prompt_in_preferences", "few_preferences"]
    assert result.warnings[0].startswith("2 of 6 prompts of eval_dataset also stand in preference_dataset.")


def test_passes_on_the_warning_about_an_empty_file(tmp_path: Path, write_rows: WriteRows) -> None:
    write_rows("many/a.jsonl", PROMPTS)
    write_rows("many/b.jsonl", [])
    result = check(prompt_dataset=str(tmp_path / "many"))
    assert codes(result) == ["empty_files"]
    assert "1 of 2 files are empty" in result.warnings[0]


def test_too_few_prompts_to_split_are_a_problem_where_a_model_is_tuned(write_rows: WriteRows) -> None:
    one = write_rows("p.jsonl", PROMPTS[:1] * 2)
    preferences = write_rows("r.jsonl", as_preferences(PROMPTS))
    assert check(prompt_dataset=one).counts["prompt_dataset"] == 2
    with pytest.raises(DataError, match=r"prompt_dataset cannot be used(.*\n)*too_few_rows"):
        check(prompt_dataset=one, preference_dataset=preferences)
    check(prompt_dataset=one, preference_dataset=preferences, eval_dataset=write_rows("e.jsonl", OTHERS))


def test_too_few_preferences_to_split_are_a_problem_without_evaluation_preferences(write_rows: WriteRows) -> None:
    one = write_rows("r.jsonl", as_preferences(PROMPTS[:1] * 2))
    for eval_dataset in ("", write_rows("e.jsonl", OTHERS)):
        with pytest.raises(DataError, match=r"preference_dataset cannot be used(.*\n)*too_few_rows"):
            check(preference_dataset=one, eval_dataset=eval_dataset)
    check(preference_dataset=one, eval_dataset=write_rows("f.jsonl", as_preferences(OTHERS)))


def test_choices_that_count_from_one_are_refused_however_many_bad_rows_may_be_set_aside(
    write_rows: WriteRows,
) -> None:
    rows = [{**row, "choice": 1 + number % 2} for number, row in enumerate(as_preferences(PROMPTS))]
    result = check_datasets(
        prompt_dataset="",
        preference_dataset=write_rows("r.jsonl", rows),
        eval_dataset="",
        instruction="",
        max_bad_rows=1_000,
    )
    assert result.summary.problem_counts == {"choices_from_one": 1, "wrong_choice": len(rows) // 2}
    first = result.summary.problems[0]
    assert (first.code, first.found) == ("choices_from_one", "only 1 and 2, never 0")
    assert "choice 1 is taken for candidate_0, and 2 for candidate_1" in result.problems
    rows[0]["choice"] = 0
    mixed = check_datasets(
        prompt_dataset="",
        preference_dataset=write_rows("r.jsonl", rows),
        eval_dataset="",
        instruction="",
        max_bad_rows=1_000,
    )
    assert mixed.summary.usable


def test_of_a_folder_the_file_is_named_in_which_choices_count_from_one(write_rows: WriteRows) -> None:
    one, other = ({**row, "choice": choice} for choice, row in enumerate(as_preferences(PROMPTS)[:2], 1))
    write_rows("folder/a.jsonl", [one])
    folder = Path(write_rows("folder/b.jsonl", [other])).parent
    [problem, _] = check_datasets(preference_dataset=str(folder), instruction="").summary.problems
    assert (problem.code, problem.file) == ("choices_from_one", str(folder / "b.jsonl"))


@pytest.mark.parametrize("max_bad_rows", [0, 1_000])
def test_datasets_that_were_swapped_are_called_so(write_rows: WriteRows, max_bad_rows: int) -> None:
    result = check_datasets(
        prompt_dataset=write_rows("p.jsonl", as_preferences(PROMPTS)),
        preference_dataset=write_rows("r.jsonl", PROMPTS),
        eval_dataset="",
        instruction="",
        max_bad_rows=max_bad_rows,
    )
    assert set(result.summary.problem_counts) == {"wrong_kind"}
    assert result.summary.problem_counts["wrong_kind"] == 2 * len(PROMPTS) + 2
    for name in ("prompt", "preference"):
        assert f"this looks like the {name} dataset" in result.problems
    assert len(result.problems.splitlines()) < 15
