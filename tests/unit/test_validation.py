import json
import re
from pathlib import Path
from typing import Any

import pytest

from rlhf_tuning.data.check import DatasetCheck
from rlhf_tuning.errors import DataError, ModelError, ParameterError
from rlhf_tuning.validation import ValidationConfig, validate_data


def preference(number: int, **more: object) -> dict[str, object]:
    row = {"input_text": f"Describe place {number}.", "candidate_0": f"Long answer {number}.", "candidate_1": "Short."}
    return {**row, "choice": number % 2, **more}


def write(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def validate(tmp_path: Path, **settings: Any) -> tuple[DatasetCheck, list[str]]:
    config = ValidationConfig(
        **{"prompt_dataset": "", "preference_dataset": "", "eval_dataset": "", "instruction": "", **settings}
    )
    told: list[str] = []
    check = validate_data(
        config,
        report_path=str(tmp_path / "out" / "report.html"),
        problems_path=str(tmp_path / "out" / "problems.jsonl"),
        bad_rows_path=str(tmp_path / "out" / "bad_rows.jsonl"),
        tell=told.append,
    )
    return check, told


def test_good_data_leaves_a_report_and_empty_lists_of_problems(tmp_path: Path) -> None:
    check, told = validate(tmp_path, preference_dataset=write(tmp_path / "p.jsonl", [preference(n) for n in range(30)]))
    assert check.counts == {"preference_dataset": 30}
    assert told[0] == "Rows: preference_dataset 30"
    assert "The data can be used" in (tmp_path / "out" / "report.html").read_text()
    assert (tmp_path / "out" / "problems.jsonl").read_bytes() == b""
    assert (tmp_path / "out" / "bad_rows.jsonl").read_bytes() == b""


def test_bad_data_is_refused_and_the_report_and_all_problems_are_written_all_the_same(tmp_path: Path) -> None:
    rows = [preference(n, choice="1") if n % 2 else preference(n) for n in range(100)]
    with pytest.raises(DataError) as caught:
        validate(tmp_path, preference_dataset=write(tmp_path / "p.jsonl", rows))
    problems = [json.loads(line) for line in (tmp_path / "out" / "problems.jsonl").read_text().splitlines()]
    assert [problem["line"] for problem in problems] == list(range(2, 101, 2))
    assert {problem["code"] for problem in problems} == {"wrong_type"}
    bad_rows = [json.loads(line) for line in (tmp_path / "out" / "bad_rows.jsonl").read_text().splitlines()]
    assert bad_rows == rows[1::2]
    assert "and 47 more that say the same" in str(caught.value)
    assert str(tmp_path / "out" / "problems.jsonl") in str(caught.value)
    assert "cannot be used" in (tmp_path / "out" / "report.html").read_text()


def test_bad_rows_up_to_the_number_allowed_are_set_aside_and_counted(tmp_path: Path) -> None:
    rows = [preference(n) for n in range(30)] + [preference(n, choice=2) for n in range(3)]
    dataset = write(tmp_path / "p.jsonl", rows)
    check, told = validate(tmp_path, preference_dataset=dataset, max_bad_rows=3)
    assert check.counts == {"preference_dataset": 30}
    assert check.summary.datasets[0].set_aside == 3
    assert any("3 bad rows of preference_dataset were set aside" in line for line in told)
    assert len((tmp_path / "out" / "bad_rows.jsonl").read_text().splitlines()) == 3
    with pytest.raises(DataError, match=r"wrong_choice \(3\)"):
        validate(tmp_path, preference_dataset=dataset, max_bad_rows=2)


def test_lengths_are_counted_in_the_tokens_of_the_base_model(tmp_path: Path, tiny_model: Path) -> None:
    dataset = write(tmp_path / "p.jsonl", [preference(n) for n in range(30)])
    check, told = validate(
        tmp_path, preference_dataset=dataset, large_model_reference=str(tiny_model), target_sequence_length=4
    )
    lengths = check.summary.datasets[0].lengths
    assert [(entry.part, entry.unit, entry.limit) for entry in lengths] == [
        ("prompt", "tokens", 512),
        ("chosen", "tokens", 4),
        ("rejected", "tokens", 4),
    ]
    assert lengths[1].cut > 0
    assert any("longer than target_sequence_length 4 and lose their end" in line for line in told)


def test_a_model_that_cannot_be_looked_at_leaves_lengths_in_characters_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfApi

    def unreachable(*arguments: object, **settings: object) -> None:
        raise ConnectionError

    monkeypatch.setattr(HfApi, "model_info", unreachable)
    dataset = write(tmp_path / "p.jsonl", [preference(n) for n in range(30)])
    check, told = validate(tmp_path, preference_dataset=dataset, large_model_reference="palms/no-model")
    assert {entry.unit for entry in check.summary.datasets[0].lengths} == {"characters"}
    assert any(line.startswith("Warning: Lengths were not checked") and "no-model" in line for line in told)
    assert check.summary.findings[-1].code == "lengths_not_checked"
    assert check.warnings[-1] == check.summary.findings[-1].message
    assert "no-model" in (tmp_path / "out" / "report.html").read_text()


def test_a_model_that_cannot_be_tuned_is_refused_before_any_row_is_read(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no-model.*there is no such folder"):
        validate(tmp_path, preference_dataset="none.jsonl", large_model_reference=str(tmp_path / "no-model"))
    assert list(tmp_path.iterdir()) == []


def test_texts_longer_than_the_model_s_positions_are_refused_once_the_data_is_checked(
    tmp_path: Path, tiny_model: Path
) -> None:
    dataset = write(tmp_path / "p.jsonl", [preference(n) for n in range(30)])
    lengths = {"prompt_sequence_length": 1000, "target_sequence_length": 24}
    with pytest.raises(ParameterError, match="more than the 1024 positions of the base model"):
        validate(tmp_path, preference_dataset=dataset, large_model_reference=str(tiny_model), **lengths)
    assert (tmp_path / "out" / "report.html").exists()


def test_without_a_model_the_lengths_that_were_not_checked_are_a_warning_that_counts(tmp_path: Path) -> None:
    dataset = write(tmp_path / "p.jsonl", [{"input_text": f"Describe place {n}."} for n in range(30)])
    check, told = validate(tmp_path, prompt_dataset=dataset)
    assert len(check.warnings) == len(check.summary.findings) == 1
    assert told[-1].startswith("Warning: Lengths were not checked")
    assert told[-1].endswith("No large_model_reference is given.")


def test_the_report_says_of_which_model_and_day_it_is(tmp_path: Path, tiny_model: Path) -> None:
    dataset = write(tmp_path / "p.jsonl", [{"input_text": f"Describe place {n}."} for n in range(30)])
    validate(tmp_path, prompt_dataset=dataset, large_model_reference=str(tiny_model))
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"Base model <b>{tiny_model}</b>" in page
    assert re.search(r"Made <b>\d{4}-\d\d-\d\d \d\d:\d\d UTC</b>", page)


def test_a_check_that_is_interrupted_leaves_no_files_of_its_own_and_none_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = write(tmp_path / "p.jsonl", [{"input_text": " "}])
    with pytest.raises(DataError):
        validate(tmp_path, prompt_dataset=dataset)
    assert (tmp_path / "out" / "bad_rows.jsonl").read_bytes()

    def interrupt(*arguments: object, **settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rlhf_tuning.data.check.examine", interrupt)
    with pytest.raises(KeyboardInterrupt):
        validate(tmp_path, prompt_dataset=dataset)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.html"]


def test_problems_name_the_line_of_their_row_among_the_bad_rows(tmp_path: Path) -> None:
    bad = [preference(1, choice="1"), preference(2, choice=7, candidate_0=""), preference(3, extra=1)]
    (tmp_path / "p").mkdir()
    for name, rows in (("a", [preference(0), bad[0]]), ("b", [*bad[1:], preference(4)])):
        write(tmp_path / "p" / f"{name}.jsonl", rows)
    evaluation = write(tmp_path / "e.jsonl", [preference(9), preference(5, candidate_1=" ")])
    with pytest.raises(DataError):
        validate(tmp_path, preference_dataset=str(tmp_path / "p"), eval_dataset=evaluation)
    bad_rows = (tmp_path / "out" / "bad_rows.jsonl").read_text().splitlines()
    problems = [json.loads(line) for line in (tmp_path / "out" / "problems.jsonl").read_text().splitlines()]
    assert len(problems) == 5
    for problem in problems:
        lines = Path(problem["file"]).read_text().splitlines()
        assert bad_rows[problem["bad_row"] - 1] == lines[problem["line"] - 1]


def test_what_no_number_of_bad_rows_can_mend_does_not_come_with_the_way_to_set_rows_aside(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("input_text\nDescribe the sea.\n")
    with pytest.raises(DataError, match="not_json_lines") as caught:
        validate(tmp_path, prompt_dataset=str(tmp_path / "p.csv"))
    assert "max_bad_rows" not in str(caught.value)


def test_prompts_alone_are_not_trained_on_so_no_epochs_are_counted(tmp_path: Path) -> None:
    prompts = write(tmp_path / "q.jsonl", [{"input_text": f"Prompt {n}."} for n in range(20)])
    check, _ = validate(tmp_path, prompt_dataset=prompts)
    assert check.summary.datasets[0].epochs is None
    preferences = write(tmp_path / "p.jsonl", [preference(n) for n in range(30)])
    check, _ = validate(tmp_path, prompt_dataset=prompts, preference_dataset=preferences)
    assert {entry.parameter: entry.epochs for entry in check.summary.datasets} == {
        "preference_dataset": 2.0,
        "prompt_dataset": pytest.approx(1000 * 64 / 20),
    }


def test_refuses_settings_out_of_range(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="max_bad_rows"):
        validate(tmp_path, prompt_dataset="p.jsonl", max_bad_rows=-1)


def test_a_model_of_the_retired_job_is_refused_before_any_row_is_read(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="large_model_reference is 'text-bison@001'"):
        validate(tmp_path, large_model_reference="text-bison@001")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("prompts", "evaluated", "settings", "warned"),
    [
        (499, 0, {}, "49 evaluation prompts will be compared, and a promotion takes 50"),
        (500, 0, {}, ""),
        (500, 0, {"eval_prompts": 40}, "Raise eval_prompts to 50 or more, or give an eval_dataset"),
        (500, 40, {}, "Give eval_dataset more prompts, or lower gate_min_prompts"),
        (9, 0, {"gate_min_prompts": 1}, ""),
        (500, 0, {"independent_judge": False}, "Nobody independent will judge the tuned model"),
    ],
)
def test_a_run_that_can_promote_nothing_is_told_before_it_begins(
    tmp_path: Path, prompts: int, evaluated: int, settings: dict[str, Any], warned: str
) -> None:
    datasets = {
        "prompt_dataset": write(tmp_path / "p.jsonl", [{"input_text": f"Ask {number}."} for number in range(prompts)]),
        "preference_dataset": write(tmp_path / "r.jsonl", [preference(number) for number in range(30)]),
    }
    if evaluated:
        rows: list[dict[str, object]] = [{"input_text": f"Test {number}."} for number in range(evaluated)]
        datasets["eval_dataset"] = write(tmp_path / "e.jsonl", rows)
    check, _ = validate(tmp_path, **datasets, **settings)
    found = [finding.message for finding in check.summary.findings if finding.code == "nothing_promotes"]
    assert len(found) == bool(warned)
    assert all(warned in message for message in found)


def test_a_run_that_tunes_on_preferences_compares_on_their_prompts(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", [preference(number) for number in range(200)])
    check, _ = validate(tmp_path, preference_dataset=path, tunes_on_preferences=True, epoch_count=2.0)
    (found,) = [finding.message for finding in check.summary.findings if finding.code == "nothing_promotes"]
    assert found.startswith("Answers to 20 evaluation prompts will be compared")
    assert (
        "Give an eval_dataset with 50 prompts, or preference_dataset 500 or more, or lower gate_min_prompts." in found
    )
    assert check.summary.datasets[0].epochs == 2.0


def test_a_run_that_tunes_on_feedback_compares_on_its_prompts(tmp_path: Path) -> None:
    rows = [{"prompt": f"Ask {number}.", "completion": "Yes.", "label": number % 2 > 0} for number in range(200)]
    path = write(tmp_path / "f.jsonl", rows)
    check, _ = validate(tmp_path, feedback_dataset=path, tunes_on_preferences=True, epoch_count=4.0)
    found = {finding.code: finding.message for finding in check.summary.findings}
    assert "or feedback_dataset 500 or more" in found["nothing_promotes"]
    assert "epoch_count shows each answer 4 times" in found["many_epochs"]
    assert check.feedback_fingerprint


def test_evaluation_prompts_that_stand_in_feedback_are_told_to_be_left_out(tmp_path: Path) -> None:
    rows = [{"prompt": f"Ask {number}.", "completion": "Yes.", "label": number % 2 > 0} for number in range(20)]
    asked = [{"input_text": f"Ask {number}."} for number in range(18, 22)]
    datasets = {
        "feedback_dataset": write(tmp_path / "f.jsonl", rows),
        "eval_dataset": write(tmp_path / "e.jsonl", asked),
    }
    check, _ = validate(tmp_path, **datasets)
    found = {finding.code: finding.message for finding in check.summary.findings}
    assert found["eval_prompt_in_preferences"].startswith(
        "2 of 4 prompts of eval_dataset also stand in feedback_dataset. The rows of these prompts are left out"
    )


def test_a_supervised_run_with_too_few_prompts_to_compare_is_told_so(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"input_text": f"Ask {n}.", "output_text": f"Answer {n}."} for n in range(120)]
    check, _ = validate(tmp_path, dataset_uri=write(tmp_path / "d.jsonl", rows))
    (found,) = [finding.message for finding in check.summary.findings if finding.code == "nothing_promotes"]
    assert found.startswith("Answers to 12 evaluation prompts will be compared, and a promotion takes 50")
    assert "Give an evaluation_data_uri with 50 prompts, or dataset_uri 500 or more" in found


def demonstrations(*numbers: int) -> list[dict[str, object]]:
    return [{"input_text": f"Describe place {number}.", "output_text": "Gulls call."} for number in numbers]


def test_the_data_of_a_supervised_phase_is_checked_like_the_other_and_against_the_evaluation(tmp_path: Path) -> None:
    datasets = {
        "preference_dataset": write(tmp_path / "p.jsonl", [preference(n) for n in range(30)]),
        "prompt_dataset": write(tmp_path / "q.jsonl", [{"input_text": f"Ask {n}."} for n in range(30)]),
        "eval_dataset": write(tmp_path / "e.jsonl", [{"input_text": f"describe  place {n}."} for n in range(200, 260)]),
    }
    good = write(tmp_path / "good.jsonl", demonstrations(*range(30)))
    check, _ = validate(tmp_path, **datasets, supervised_dataset=good)
    assert check.counts["supervised_dataset"] == 30
    assert check.demonstration_fingerprint
    found = " ".join(check.warnings)
    assert "supervised_dataset has 30 demonstrations" in found
    assert "Set supervised_train_steps to 4 at most" in found
    leaks = write(tmp_path / "leaks.jsonl", demonstrations(*range(30), 201))
    with pytest.raises(DataError, match=r"eval_demonstration_in_training \(1\)"):
        validate(tmp_path, **datasets, supervised_dataset=leaks)
    with pytest.raises(DataError, match=r"wrong_kind|unknown_format"):
        validate(tmp_path, **datasets, supervised_dataset=datasets["prompt_dataset"])


def test_a_supervised_phase_learns_from_one_source() -> None:
    with pytest.raises(ParameterError, match="learns from one of the two"):
        ValidationConfig(supervised_dataset="d.jsonl", supervise_on_preferred=True)


def prompts_with_references(tmp_path: Path) -> str:
    return write(
        tmp_path / "q.jsonl", [{"prompt": f"{n} x 7?", "references": {"answer": f"{7 * n}"}} for n in range(30)]
    )


def test_rewards_are_tried_on_a_few_rows_with_what_these_bring(tmp_path: Path) -> None:
    listed = [
        {"kind": "string_match", "expression": "{{references.answer}}"},
        {"kind": "unfinished"},
        # These are not: they cost, or take what the step may not have.
        {"kind": "judge", "judge": "gemini", "model": "m"},
        {"kind": "python", "function": "no_such_package:evaluate"},
    ]
    _, told = validate(tmp_path, prompt_dataset=prompts_with_references(tmp_path), rewards=json.dumps(listed))
    [said] = [line for line in told if line.startswith("Rewards")]
    assert re.fullmatch(
        r"Rewards, tried on \d answers of the data: string_match 1 \(spread 0\), unfinished 0 \(spread 0\)", said
    )


def test_evaluation_prompts_without_references_are_refused_where_rewards_with_such_judge(tmp_path: Path) -> None:
    settings = {
        "prompt_dataset": prompts_with_references(tmp_path),
        "eval_dataset": write(tmp_path / "e.jsonl", [{"prompt": f"{n} x 8?"} for n in range(60)]),
        "rewards": json.dumps([{"kind": "string_match", "expression": "{{references.answer}}"}]),
    }
    validate(tmp_path, **settings)
    with pytest.raises(DataError, match=r"references\.answer, which .* Give every row of eval_dataset"):
        validate(tmp_path, **settings, rewards_judge=True)


def test_a_reward_is_tried_on_preferences_alone(tmp_path: Path) -> None:
    rows = [{"prompt": f"Ask {n}.", "chosen": "Sit, please.", "rejected": "Sit."} for n in range(30)]
    preferences = write(tmp_path / "p.jsonl", rows)
    for expression, words in (("please", "string_match 0.5"), ("{{references.answer}}", "were not tried")):
        listed = [{"kind": "string_match", "expression": expression, "operation": "partial_match"}]
        _, told = validate(tmp_path, preference_dataset=preferences, rewards=json.dumps(listed))
        [said] = [line for line in told if line.startswith("Rewards")]
        assert words in said


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        ({"kind": "python", "code": "def evaluate(example, response): return 1 / 0"}, "failed with ZeroDivisionError"),
        ({"kind": "reward_model"}, "this run trains none"),
    ],
)
def test_a_reward_that_cannot_be_used_is_found_with_the_data(tmp_path: Path, listed: object, words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        validate(tmp_path, prompt_dataset=prompts_with_references(tmp_path), rewards=json.dumps([listed]))


def test_where_a_judge_is_to_prefer_a_reward_model_will_be_trained_and_the_gate_s_need_is_told_before(
    tmp_path: Path,
) -> None:
    asked = {"preference_prompt_dataset": write(tmp_path / "asked.jsonl", [{"input_text": f"{n}?"} for n in range(30)])}
    listed = json.dumps([{"kind": "reward_model", "weight": 0.5}, {"kind": "unfinished"}])
    for rewards in ("", listed):
        check, _ = validate(tmp_path, prompt_dataset=prompts_with_references(tmp_path), rewards=rewards, **asked)
        assert "nothing_promotes" in [finding.code for finding in check.summary.findings]


def test_a_student_that_answers_by_itself_has_its_teacher_s_tokens(tmp_path, tiny_model, tiny_plain_model):
    from rlhf_tuning.models.tokenizer import load_tokenizer

    def distil(teacher: str) -> list[str]:
        rows = [{"input_text": f"Describe place {number}."} for number in range(20)]
        return validate(
            tmp_path,
            dataset_uri=write(tmp_path / "prompts.jsonl", rows),
            large_model_reference=str(tiny_model),
            teacher_model_reference=teacher,
            on_policy=True,
        )[1]

    assert not any("tokens" in line for line in distil(str(tiny_plain_model)))
    assert any("was not checked" in line for line in distil("nobody/nothing"))
    tokenizer = load_tokenizer(str(tiny_model))
    tokenizer.add_tokens(["harbour"])
    tokenizer.save_pretrained(tmp_path / "other")
    (tmp_path / "other" / "config.json").write_text((tiny_model / "config.json").read_text())
    with pytest.raises(ParameterError, match="are not the same"):
        distil(str(tmp_path / "other"))
