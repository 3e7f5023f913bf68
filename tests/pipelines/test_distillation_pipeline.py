"""Distillation through kfp's local runner, on tiny real models: the student learns what the teacher says."""

import json
import re

import pytest
from judge_server import judge_server
from tests.pipelines.test_rlhf_pipeline import GOOD, artifact, records, rlhf

from rlhf_tuning.registry import list_models

pytestmark = pytest.mark.slow


def test_the_student_learns_the_answers_of_a_teacher_behind_a_server(tiny_model, tmp_path):
    rows = [{"input_text": f"Create {number}."} for number in range(200)]
    rows[0]["output_text"] = "my own words"
    asked = [{"input_text": f"Create {number} now."} for number in range(100)]
    (tmp_path / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        "dataset_uri": "prompts.jsonl",
        "evaluation_data_uri": "eval.jsonl",
        "teacher": "language_model",
        "teacher_model_reference": "big-1",
        "student_model_reference": str(tiny_model),
        "model_display_name": "tiny",
        "prompt_sequence_length": 48,
        "target_sequence_length": 12,
        "train_steps": 30,
        "evaluation_interval": 10,
        "learning_rate_multiplier": 50.0,
        "lora_dim": 8,
        "batch_size": 8,
        "registry_dir": "registry",
        "dtype": "float32",
    }
    with judge_server(lambda question: GOOD) as server:
        (tmp_path / "values.json").write_text(json.dumps(values | {"teacher_endpoint": f"{server.url}/v1"}))
        command = ("run", "--pipeline", "distillation_pipeline", "--parameter-values", "values.json")
        _, output = rlhf(*command, "--pipeline-root", "runs", cwd=tmp_path)
        assert len(server.questions) == 299
    labels = records(artifact(tmp_path, "*/label-demonstrations/labels"))
    assert len(labels) == 300
    assert [row["completion"][0]["content"] for row in labels].count("my own words") == 1
    history = records(artifact(tmp_path, "*/train-student/adapter/metrics.jsonl"))
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    (version,) = list_models(tmp_path / "registry")
    assert version.manifest["method"] == "supervised"
    assert version.manifest["teacher"] == {"reference": "big-1", "fingerprint": "big-1", "is_loaded": False}
    assert "tuned model against teacher: wins unknown: nobody judged" in output
    assert "  the teacher: – weights, –, – tokens a second" in output
    assert {"champion", "default"} <= set(version.aliases), output
    # What was labelled is a dataset: the student learns from it again, and asks nobody.
    _, output = rlhf("validate", "--dataset-uri", artifact(tmp_path, "*/label-demonstrations/labels"), cwd=tmp_path)
    assert "dataset_uri 300" in output


def test_a_student_learns_on_its_own_answers_what_a_teacher_would_have_said(tiny_model, tiny_plain_model, tmp_path):
    rows = [{"input_text": f"Create {number}."} for number in range(120)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        "dataset_uri": "prompts.jsonl",
        "teacher_model_reference": str(tiny_plain_model),
        "student_model_reference": str(tiny_model),
        "on_policy": True,
        "on_policy_train_steps": 10,
        "model_display_name": "tiny",
        "prompt_sequence_length": 48,
        "target_sequence_length": 12,
        "train_steps": 5,
        "evaluation_interval": 5,
        "learning_rate_multiplier": 50.0,
        "lora_dim": 8,
        "batch_size": 8,
        "registry_dir": "registry",
        "scorer": "house_style",
        "dtype": "float32",
    }
    (tmp_path / "values.json").write_text(json.dumps(values))
    command = ("run", "--pipeline", "distillation_pipeline", "--parameter-values", "values.json")
    _, output = rlhf(*command, "--pipeline-root", "runs", cwd=tmp_path)
    curve = json.loads((artifact(tmp_path, "*/train-student/adapter") / "held_out_loss.json").read_text())
    assert curve["looks"][-1]["loss"]["mean"] < curve["looks"][0]["loss"]["mean"]
    # It started from what the supervised phase made of it.
    settings = json.loads((artifact(tmp_path, "*/train-student/adapter") / "tuning.json").read_text())
    assert settings["large_model_reference"] == str(artifact(tmp_path, "*/train-supervised/model"))
    (version,) = list_models(tmp_path / "registry")
    assert version.manifest["method"] == "distillation"
    assert version.manifest["base_model"] == str(tiny_model)
    assert version.manifest["teacher"]["reference"] == str(tiny_plain_model)
    assert "supervised model against base model" in output
    told = re.search(r"tuned model against teacher: wins (\d+)% .* by house style; KL ([\d.]+)", output)
    assert told, output
    assert re.search(r"  the teacher: 0.0\d+ million weights, 0.\d+ MB, [\d,]+ tokens a second", output)
    assert "On-policy distillation" in artifact(tmp_path, "*/evaluate/report").read_text()
