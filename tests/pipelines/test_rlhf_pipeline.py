"""The whole job through kfp's local runner, on a tiny real model: it learns, resumes, and says what is wrong."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_tuning.registry import list_models

pytestmark = pytest.mark.slow

UPLOAD = "Upload and Deploy Tuned Model"
GOOD, BAD = "salt and gulls and salt", "0 1 2 3 4 5"


def rlhf(*arguments, cwd, check=True):
    """Run the command as a person would."""
    result = subprocess.run(
        [sys.executable, "-m", "rlhf_pipelines.cli", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    output = result.stdout + result.stderr
    assert "Traceback" not in output, output
    if check:
        assert result.returncode == 0, output
    return result.returncode, output


@pytest.fixture(scope="module")
def job(tiny_model, tmp_path_factory):
    """A folder with data, and the parameter values of a short job on it."""
    folder = tmp_path_factory.mktemp("job")
    rows = [
        {
            "input_text": f"Create {number}.",
            "candidate_0": GOOD if number % 2 else BAD,
            "candidate_1": BAD if number % 2 else GOOD,
            "choice": (number + 1) % 2,
        }
        for number in range(60)
    ]
    files = {
        "preferences.jsonl": rows,
        "suite.jsonl": [
            {"prompt": f"Say {n}.", "assert": [{"type": "not-equals", "value": "What no model of a test says."}]}
            for n in range(40)
        ],
        "prompts.jsonl": [{"input_text": f"Create {number}, please."} for number in range(40)],
        "eval.jsonl": [{"input_text": f"Create {number} now."} for number in range(100)],
    }
    for name, content in files.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in content))
    values = {
        "preference_dataset": str(folder / "preferences.jsonl"),
        "prompt_dataset": str(folder / "prompts.jsonl"),
        "eval_dataset": str(folder / "eval.jsonl"),
        "large_model_reference": str(tiny_model),
        "model_display_name": "tiny",
        "prompt_sequence_length": 48,
        "target_sequence_length": 12,
        "reward_model_train_steps": 25,
        "reward_model_max_epochs": 0.0,
        "reward_model_learning_rate_multiplier": 50.0,
        "reinforcement_learning_train_steps": 40,
        "reinforcement_learning_rate_multiplier": 50.0,
        "kl_coeff": 0.01,
        "batch_size": 8,
        "reward_lora_dim": 8,
        "lora_dim": 8,
        # So short a job wins by little.
        "gate_reward_model_margin": 0.0,
        "regression_suite": str(folder / "suite.jsonl"),
        "registry_dir": str(folder / "registry"),
        "dtype": "float32",
    }
    (folder / "values.json").write_text(json.dumps(values))
    return folder


@pytest.fixture(scope="module")
def finished(job):
    _, output = rlhf("run", "--parameter-values", "values.json", "--pipeline-root", "runs", cwd=job)
    return job, output


def artifact(folder: Path, pattern: str) -> Path:
    (found,) = (folder / "runs").glob(pattern)
    return found


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def steps_of(file: Path, *keys: str) -> dict:
    content = json.loads(file.read_text())
    for key in keys:
        content = content[key]
    return {step["name"]: step for step in content["steps"]}


def test_both_phases_learn(finished):
    job, _ = finished
    reward_model = records(artifact(job, "*/train-reward-model/reward_model/metrics.jsonl"))
    policy = records(artifact(job, "*/train-policy/adapter/metrics.jsonl"))
    assert len(reward_model) == 25
    assert len(policy) == 40
    assert reward_model[-1]["loss"] < 0.5 * reward_model[0]["loss"]
    first, last = (sum(record["reward"] for record in part) / 5 for part in (policy[:5], policy[-5:]))
    assert last > first + 0.5 * policy[0]["reward_std"]


def test_the_tuned_model_differs_from_the_base_and_beats_it_by_reward(finished, tiny_model):
    import torch

    from rlhf_tuning.models import base_model

    job, _ = finished
    (version,) = list_models(job / "registry")
    base = base_model.load_causal_lm(str(tiny_model), dtype=torch.float32).state_dict()
    tuned = base_model.load_causal_lm(str(version.path / "model"), dtype=torch.float32).state_dict()
    assert any(not torch.equal(base[name], tuned[name]) for name in base)
    assert version.manifest["evaluation"]["difference_reward_low"] > 0
    assert version.manifest["evaluation"]["eval_prompts"] == 100


def test_the_run_ends_with_the_comparison_the_report_and_the_command_that_calls_the_model(finished):
    job, output = finished
    assert output.count(" on this machine (1 core, ") == 1  # about how long it takes
    assert "Win rate by reward" in output
    assert "rlhf predict --model tiny@1" in output
    decision = "Promoted: the tuned model takes the place of the base model."
    assert output.count(decision) == 1
    assert decision in artifact(job, "logs/*.log").read_text()  # where a step's container would have printed it
    assert "40 of 40, where the base model passes 40: +0 points" in output
    report = artifact(job, "*/evaluate/report")
    assert re.search(r"^Report: \./runs/r\S+/report\.html$", output, re.MULTILINE)
    assert "Time and cost by step" in (job / "runs" / "report.html").read_text()
    assert report.read_text().lstrip().lower().startswith("<!doctype html>")
    assert 'id="regression"' in report.read_text()


def test_the_evaluation_s_own_report_has_the_times_of_the_steps_before_it(finished):
    """On a cluster there is no other."""
    job, _ = finished
    assert "Time by step" in artifact(job, "*/evaluate/report").read_text()
    run = artifact(job, "*/evaluate").parent
    so_far = steps_of(run / "evaluate" / "evaluation", "report")
    measured = steps_of(run / "run.json")
    assert list(so_far)[-1] == "Evaluate Tuned Model"
    # Steps that do not wait for each other start in any order.
    assert set(so_far) == {
        "Import Preference Dataset",
        "Reward Model Trainer",
        "Held-out Reward Model Trainer",
        "Import Prompt Dataset",
        "Reinforcer",
        "Perform Inference (champion)",
        "Perform Inference (tuned model)",
        "Evaluate Tuned Model",
    }
    beside = {"Validate Inputs", "Preprocess Inputs", "Choose Start", "Find Champion", UPLOAD}
    assert set(measured) - set(so_far) == beside
    assert not any(step["cached"] for step in so_far.values())
    assert so_far["Reinforcer"]["seconds"] > 0


def test_the_manifest_says_what_made_the_model(finished):
    job, _ = finished
    (version,) = list_models(job / "registry")
    manifest = version.manifest
    assert all(manifest["fingerprints"][name] for name in ("large_model", "prompts", "preferences", "evaluation"))
    assert manifest["parameters"]["seed"] == 0
    assert manifest["parameters"]["reinforcement_learning_train_steps"] == 40
    assert manifest["reward_model"]["reward_lora_dim"] == 8


def test_the_tuned_model_answers(finished):
    job, _ = finished
    _, output = rlhf("predict", "--model", "tiny", "--prompt", "Create 1.", "--registry-dir", job / "registry", cwd=job)
    assert output.strip()


def test_running_again_continues_after_the_finished_steps_until_the_content_changes(finished):
    job, _ = finished
    _, output = rlhf("run", "--parameter-values", "values.json", "--pipeline-root", "runs", cwd=job)
    assert "Reward Model Trainer: cached" in output
    assert " on this machine (" not in output
    assert "Reinforcer: cached" in output
    # The champion is now the tuned model itself, and nobody beats oneself.
    assert "Not promoted: tiny@1 stays champion." in output
    so_far = steps_of(sorted((job / "runs").glob("*/evaluate/evaluation"))[-1], "report")
    assert [name for name, step in so_far.items() if not step["cached"]] == [
        "Perform Inference (champion)",
        "Evaluate Tuned Model",
    ]
    assert len(so_far) == 8
    (version,) = list_models(job / "registry")
    assert {"champion", "default"} <= set(version.aliases)
    # Other prompts behind the same path: phase 1 stays, phase 2 is done again.
    prompts = job / "prompts.jsonl"
    prompts.write_text(prompts.read_text() + json.dumps({"input_text": "Create 41, please."}) + "\n")
    _, output = rlhf("run", "--parameter-values", "values.json", "--pipeline-root", "runs", cwd=job)
    assert "Reward Model Trainer: cached" in output
    assert "Reinforcer: cached" not in output
    decision = json.loads(sorted((job / "runs").glob("*/evaluate/decision"))[-1].read_text())
    assert decision["champion"] == "tiny@1"
    first, second = list_models(job / "registry")
    assert ("champion" in second.aliases) == decision["promote"]
    assert ("champion" in first.aliases) != decision["promote"]


def test_reports_are_made_again_and_two_runs_and_two_models_are_compared(finished):
    job, _ = finished
    runs = sorted((job / "runs").glob("rlhf-pipeline-*"))
    _, output = rlhf("report", runs[0], "--output", "again.html", cwd=job)
    page = (job / "again.html").read_text()
    assert all(part in page for part in ("Time and cost by step", "rlhf run --pipeline rlhf_pipeline", "Promoted"))
    _, output = rlhf("compare", runs[0], runs[-1], cwd=job)
    assert "100 prompts" in output
    assert (job / "compare.html").read_text().lstrip().lower().startswith("<!doctype html>")
    if len(list_models(job / "registry")) > 1:
        named = ("tiny@1", "tiny@2", "--registry-dir", job / "registry", "--target-sequence-length", 12)
        judged = ("--prompts", "eval.jsonl", "--max-prompts", 20, "--scorer", "house_style")
        _, output = rlhf("compare", *named, *judged, cwd=job)
        assert "Win rate by house style" in output
        status, output = rlhf("compare", *named, cwd=job, check=False)
        assert status == 2
        assert "--prompts FILE" in output


def test_a_supervised_phase_comes_first_and_its_model_is_what_all_that_follows_starts_from(job, tiny_model):
    values = json.loads((job / "values.json").read_text()) | {
        "supervise_on_preferred": True,
        "supervised_train_steps": 12,
        "supervised_learning_rate_multiplier": 20.0,
        "reinforcement_learning_train_steps": 3,
        "reward_model_train_steps": 15,
        "watch_prompts": 0,
        "model_display_name": "three-phases",
        "scorer": "house_style",
    }
    (job / "three.json").write_text(json.dumps(values))
    _, output = rlhf("run", "--parameter-values", "three.json", "--pipeline-root", "three", cwd=job)
    assert "Upload and Deploy Tuned Model: started (step 15 of 15)" in output
    assert "All that follows starts from the supervised model" in output
    (run,) = (job / "three").glob("rlhf-pipeline-*")
    (start,) = run.glob("train-supervised/model")
    # One base for the policy, its reference and both reward models.
    assert json.loads((run / "train-policy/adapter/tuning.json").read_text())["large_model_reference"] == str(start)
    settings = [json.loads(file.read_text()) for file in run.glob("*/reward_model/**/reward_model.json")]
    assert [one["base_model"] for one in settings] == [str(start)] * 2
    assert records(run / "train-policy/adapter/metrics.jsonl")[0]["kl"] == pytest.approx(0, abs=1e-5)
    # It learnt, and from no prompt that is answered or that the reward model is measured on.
    held_out = json.loads((start / "supervised_tuning" / "held_out_loss.json").read_text())["looks"]
    assert held_out[-1]["loss"]["mean"] < 0.8 * held_out[0]["loss"]["mean"]

    def asked(pattern):
        (found,) = run.glob(pattern)
        return {row["prompt"][-1]["content"] for row in records(found)}

    learnt = asked("import-supervised-dataset/demonstrations")
    assert not learnt & asked("import-prompt-dataset/evaluation_prompts")
    assert not learnt & asked("import-preference-dataset/eval_preferences")
    # Who is told: the table at the end, the report, the manifest.
    assert "What each phase brought:" in output
    assert "supervised model against base model: wins" in output
    assert "KL to the supervised model within its limit" in output
    report = (job / "three" / "report.html").read_text()
    assert all(words in report for words in ("What each phase brought", 'id="supervised"', "Supervised model"))
    versions = {version.name: version for version in list_models(job / "registry")}
    manifest = versions["three-phases"].manifest
    assert manifest["base_model"] == str(tiny_model)
    assert manifest["supervised"]["train_steps"] == 12
    assert manifest["supervised"]["base_model_fingerprint"].startswith("sha256:")
    # Its adapter fits no other base.
    warm = ("--warm-start-adapter", "three-phases@1", "--supervise-on-preferred", "false")
    status, output = rlhf(
        "run", "--parameter-values", "three.json", *warm, "--pipeline-root", "three", cwd=job, check=False
    )
    assert status == 2
    assert "an adapter of another base model" in output


def test_a_reward_model_alone(job, tiny_model):
    _, output = rlhf(
        *("run", "--pipeline", "reward_model_pipeline", "--preference-dataset", "preferences.jsonl"),
        *("--large-model-reference", tiny_model, "--reward-model-train-steps", 2, "--batch-size", 4),
        *("--pipeline-root", "reward_runs"),
        cwd=job,
    )
    assert "held-out preferences" in output


def test_bulk_inference_answers_every_prompt(job, tiny_model):
    rlhf(
        *("run", "--pipeline", "infer_pipeline", "--prompt-dataset", "eval.jsonl"),
        *("--large-model-reference", tiny_model, "--target-sequence-length", 8, "--pipeline-root", "infer_runs"),
        cwd=job,
    )
    (predictions,) = (job / "infer_runs").glob("*/infer/predictions")
    rows = records(predictions)
    assert [row["prompt"][-1]["content"] for row in rows] == [f"Create {number} now." for number in range(100)]
    assert all(row["tokens"] <= 8 for row in rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt_dataset": "empty.jsonl"}, "empty.jsonl"),
        ({"preference_dataset": "bad.jsonl"}, "bad.jsonl:2"),
        ({"large_model_reference": "./no-such-model"}, "no such folder"),
        ({"rl_algorithm": "ppo"}, "rl_algorithm"),
    ],
)
def test_a_mistake_gets_one_clear_message_before_anything_is_trained(job, change, message):
    (job / "empty.jsonl").write_text("")
    rows = (job / "preferences.jsonl").read_text().splitlines()
    bad = json.loads(rows[1]) | {"choice": 2}
    (job / "bad.jsonl").write_text("\n".join([rows[0], json.dumps(bad), *rows[2:]]) + "\n")
    values = json.loads((job / "values.json").read_text()) | change
    (job / "changed.json").write_text(json.dumps(values))
    status, output = rlhf(
        "run", "--parameter-values", "changed.json", "--pipeline-root", "bad_runs", cwd=job, check=False
    )
    assert status == 2, output
    assert message in output
    assert "Reward Model Trainer: started" not in output
