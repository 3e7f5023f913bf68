import json
from pathlib import Path

import pytest

from rlhf_pipelines.cli import rlhf
from rlhf_tuning.accelerators import GPUS
from rlhf_tuning.errors import ModelNotAtHandError
from rlhf_tuning.planning import run_budget
from rlhf_tuning.planning.forecast import gpu_hardware


def write(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def prompts(path: Path, count: int = 10) -> str:
    return write(path, [{"input_text": f"Describe place {number}."} for number in range(count)])


def test_data_that_can_be_used_ends_with_status_0_and_names_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    status = rlhf.main(["validate", "--prompt-dataset", prompts(tmp_path / "p.jsonl"), "--output-dir", str(output)])
    assert status == 0
    shown = capsys.readouterr().out
    assert "Rows: prompt_dataset 10" in shown
    assert f"The data can be used, with 1 warning. Report: {output / 'report.html'}" in shown
    assert (output / "report.html").stat().st_size > 10_000


def test_data_that_cannot_be_used_ends_with_status_2_and_names_each_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = write(tmp_path / "p.jsonl", [{"input_text": "a"}, {"input_text": " "}])
    assert rlhf.main(["validate", "--prompt-dataset", dataset, "--output-dir", str(tmp_path / "out")]) == 2
    assert "p.jsonl:2: input_text: found" in capsys.readouterr().err
    assert (tmp_path / "out" / "report.html").exists()


def test_a_regression_suite_is_read_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["validate", "--prompt-dataset", prompts(tmp_path / "p.jsonl"), "--output-dir", str(tmp_path / "out")]
    assert rlhf.main([*command, "--regression-suite", "general"]) == 0
    assert "Regression suite: 102 prompts" in capsys.readouterr().out
    suite = write(tmp_path / "suite.jsonl", [{"prompt": "p", "assert": [{"type": "is"}]}])
    assert rlhf.main([*command, "--regression-suite", suite]) == 2
    assert "line 1: type 'is' is none of equals" in capsys.readouterr().err


def test_a_regression_suite_is_read_without_a_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": f"p{number}", "assert": [{"type": "equals", "value": "a"}]} for number in range(60)]
    suite = write(tmp_path / "suite.jsonl", rows)
    assert rlhf.main(["validate", "--regression-suite", suite, "--output-dir", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "Regression suite: 60 prompts. No dataset is given" in shown
    assert "The data can be used" not in shown
    small = write(tmp_path / "small.jsonl", rows[:3])
    assert rlhf.main(["validate", "--regression-suite", small, "--output-dir", str(tmp_path / "out")]) == 2
    assert "has 3 prompts with assert. With gate_max_regression 0.1 it takes" in capsys.readouterr().err


def test_a_base_model_that_could_not_be_looked_at_is_told_with_the_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def away(*arguments: object, **settings: object) -> None:
        raise ModelNotAtHandError("The hub cannot be reached.")

    monkeypatch.setattr("rlhf_tuning.validation.check_base_model", away)
    command = ["validate", "--prompt-dataset", prompts(tmp_path / "p.jsonl"), "--output-dir", str(tmp_path / "out")]
    assert rlhf.main([*command, "--large-model-reference", "palms/mistyped"]) == 0
    assert "with 1 warning. The base model was not checked, as the warning says." in capsys.readouterr().out
    assert rlhf.main(command) == 0
    assert "The base model was not checked" not in capsys.readouterr().out


def test_one_prompt_for_rewards_is_refused_as_the_run_would(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = write(tmp_path / "p.jsonl", [{"input_text": "Describe the place."}] * 3)
    rewards = '[{"kind": "unfinished"}]'
    command = ["validate", "--prompt-dataset", dataset, "--output-dir", str(tmp_path / "out")]
    assert rlhf.main([*command, "--rewards", rewards]) == 2
    assert "prompt_dataset" in capsys.readouterr().err
    assert rlhf.main(command) == 0  # to be answered, which needs no other


def test_rewards_are_tried_whether_or_not_the_pipeline_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewards = tmp_path / "rewards.json"
    command = ["validate", "--rewards", str(rewards), "--output-dir", str(tmp_path / "out")]
    data = prompts(tmp_path / "p.jsonl")
    rewards.write_text(json.dumps([{"kind": "string_match", "expression": "Describe", "operation": "partial_match"}]))
    assert rlhf.main([*command, "--prompt-dataset", data]) == 0
    assert "Rewards, tried on" in capsys.readouterr().out
    rewards.write_text(json.dumps([{"kind": "python", "code": "def evaluate(example, response): return 1 / 0"}]))
    assert rlhf.main([*command, "--prompt-dataset", data]) == 2
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_the_values_of_a_whole_run_may_be_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = tmp_path / "values.json"
    values.write_text(json.dumps({"prompt_dataset": prompts(tmp_path / "p.jsonl"), "kl_coeff": 0.2, "lora_dim": 4}))
    flags = ["--parameter-values", str(values), "--output-dir", str(tmp_path / "out"), "--max_bad_rows", "1"]
    assert rlhf.main(["validate", *flags]) == 0
    values.write_text(json.dumps({"prompt_dataset": "p.jsonl", "prompt_datasett": "p.jsonl"}))
    assert rlhf.main(["validate", *flags]) == 2
    assert "Did you mean prompt_dataset?" in capsys.readouterr().err


def test_values_of_a_run_that_it_would_refuse_are_refused_here_too_and_all_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = tmp_path / "values.json"
    wrong = {"kl_coeff": -1, "rl_algorithm": "dpo", "lora_dim": "8", "batch_size": 0, "seed": None, "temperature": 0.5}
    values.write_text(json.dumps({"prompt_dataset": prompts(tmp_path / "p.jsonl"), **wrong}))
    assert rlhf.main(["validate", "--parameter-values", str(values), "--output-dir", str(tmp_path / "out")]) == 2
    shown = capsys.readouterr().err
    assert "4 parameters cannot be used" in shown
    for name in ("kl_coeff is -1", "rl_algorithm is 'dpo'", "lora_dim must be a whole number", "batch_size is 0"):
        assert name in shown
    assert not (tmp_path / "out").exists()


def test_the_embedded_sample_can_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_model: Path) -> None:
    flags = ["--large-model-reference", str(tiny_model), "--output-dir", str(tmp_path / "out")]
    assert rlhf.main(["validate", "--sample", *flags]) == 0
    assert "preference_dataset 1," in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "no dataset to check"),
        (["--prompt-dataset", "missing.jsonl"], "no such file or folder"),
        (["--prompt-datset", "p.jsonl"], "Did you mean --prompt-dataset?"),
        (["--kl-coeff", "1"], "--kl-coeff is a parameter of pipelines, which this command does not ask for"),
    ],
)
def test_a_mistake_is_named_with_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert rlhf.main(["validate", *flags, "--output-dir", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_a_mistake_of_the_person(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    dataset = prompts(tmp_path / "p.jsonl")
    assert rlhf.main(["validate", "--prompt-dataset", dataset, "--output-dir", str(tmp_path / "file" / "out")]) == 2
    assert "--output-dir" in capsys.readouterr().err
    assert rlhf.main(["validate", "--prompt-dataset", dataset, "--output-dir", str(tmp_path / "file")]) == 2
    assert "file is a file. Name a folder" in capsys.readouterr().err


def test_an_older_verdict_is_not_left_behind_by_a_check_that_did_not_end(tmp_path: Path) -> None:
    flags = ["--output-dir", str(tmp_path / "out")]
    assert rlhf.main(["validate", "--prompt-dataset", prompts(tmp_path / "p.jsonl"), *flags]) == 0
    assert rlhf.main(["validate", "--prompt-dataset", str(tmp_path / "missing.jsonl"), *flags]) == 2
    assert not (tmp_path / "out" / "report.html").exists()


def test_refused_rows_come_with_the_way_to_leave_some_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = write(tmp_path / "p.jsonl", [{"input_text": "a"}, {"input_text": ""}, {"input_text": ""}])
    flags = ["--prompt-dataset", dataset, "--output-dir", str(tmp_path / "out")]
    assert rlhf.main(["validate", *flags]) == 2
    assert "say how many with max_bad_rows" in capsys.readouterr().err
    assert rlhf.main(["validate", *flags, "--max-bad-rows", "1"]) == 2
    assert "Up to max_bad_rows (1) bad rows" in capsys.readouterr().err


def test_demonstrations_are_checked_with_the_context_that_they_get(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[dict[str, object]] = [{"input_text": f"Ask {n}.", "output_text": f"Answer {n}."} for n in range(10)]
    flags = ["--dataset-uri", write(tmp_path / "d.jsonl", rows), "--default-context", "Be brief."]
    assert rlhf.main(["validate", *flags, "--output-dir", str(tmp_path / "out")]) == 0
    assert "Rows: dataset_uri 10" in capsys.readouterr().out
    report = (tmp_path / "out" / "report.html").read_text()
    assert "Demonstrations" in report
    assert "Be brief." in report


def test_the_run_of_a_pipeline_is_told_what_that_pipeline_would_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_model: Path
) -> None:
    rows: list[dict[str, object]] = [
        {"input_text": f"Describe {n}.", "candidate_0": f"Salt {n}.", "candidate_1": "Gulls.", "choice": n % 2}
        for n in range(40)
    ]
    values = {
        "preference_dataset": write(tmp_path / "p.jsonl", rows),
        "large_model_reference": str(tiny_model),
        "epoch_count": 40,
    }
    (tmp_path / "values.json").write_text(json.dumps(values))
    flags = ["--parameter-values", str(tmp_path / "values.json"), "--output-dir", str(tmp_path / "out")]
    assert rlhf.main(["validate", *flags]) == 0
    assert "epoch_count" not in capsys.readouterr().out
    assert rlhf.main(["validate", "--pipeline", "preference_tuning_pipeline", *flags]) == 0
    assert "epoch_count shows each preference 40 times" in capsys.readouterr().out
    assert rlhf.main(["validate", "--pipeline", "rlhf_pipeline", *flags]) == 2
    said = capsys.readouterr().err
    assert "epoch_count is no parameter of rlhf_pipeline" in said
    assert "prompt_dataset is missing" in said


def test_a_budget_that_cannot_do_is_refused_and_one_that_can_is_said_to(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = gpu_hardware("l4", GPUS["l4"], 1)
    monkeypatch.setattr(run_budget, "measure_here", lambda *_: machine)
    preferences = [{"prompt": f"{n}?", "chosen": "salt", "rejected": "0 1"} for n in range(30)]
    values = {
        "prompt_dataset": prompts(tmp_path / "p.jsonl"),
        "preference_dataset": write(tmp_path / "q.jsonl", preferences),
        "large_model_reference": str(tiny_model),
        "reinforcement_learning_train_steps": 100_000,
    }
    (tmp_path / "values.json").write_text(json.dumps(values))
    flags = ["--parameter-values", str(tmp_path / "values.json"), "--output-dir", str(tmp_path / "out")]
    assert rlhf.main(["validate", *flags, "--max-hours", "1000"]) == 0
    assert "The budget can do, by the forecast for this machine." in capsys.readouterr().out
    assert rlhf.main(["validate", *flags, "--max-hours", "2"]) == 2
    assert "The budget is 2 h 00 min, and this run is forecast to take " in capsys.readouterr().err
