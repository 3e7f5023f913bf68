"""RLHF on a judge's preferences through kfp's local runner, and the labelling alone, on tiny real models."""

import json

import pytest
from judge_server import judge_server, material
from tests.pipelines.test_rlhf_pipeline import artifact, records, rlhf

from rlhf_tuning.registry import list_models

pytestmark = pytest.mark.slow


def fewer_digits(question):
    """Prefer the answer with fewer digits: untrained models write many."""
    parts = material(question)
    a, b = (sum(char.isdigit() for char in parts[f"answer {letter}"]) for letter in "AB")
    return f"Verdict: {'tie' if a == b else 'A' if a < b else 'B'}"


def test_the_whole_job_learns_what_the_judge_prefers_and_labelling_alone_says_the_same(tiny_model, tmp_path):
    for name, count in (("prompts", 40), ("asked", 120), ("eval", 60)):
        rows = [{"input_text": f"Create {name} {number}."} for number in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    labelling = {
        "preference_prompt_dataset": "asked.jsonl",
        "task_type": "question_answering@001",
        "large_model_reference": str(tiny_model),
        "judge": "language_model",
        "judge_model": "judge-1",
        "judge_max_calls": 5000,
        "prompt_sequence_length": 48,
        "target_sequence_length": 12,
        "dtype": "float32",
    }
    values = labelling | {
        "prompt_dataset": "prompts.jsonl",
        "eval_dataset": "eval.jsonl",
        "model_display_name": "tiny",
        "reward_model_train_steps": 20,
        "reward_model_max_epochs": 0.0,
        "reward_model_learning_rate_multiplier": 50.0,
        "min_reward_model_accuracy": 0.0,
        "reinforcement_learning_train_steps": 4,
        "held_out_reward_model_share": 0.0,
        "watch_prompts": 0,
        "batch_size": 8,
        "reward_lora_dim": 8,
        "lora_dim": 8,
        "registry_dir": "registry",
    }
    with judge_server(fewer_digits) as server:
        endpoint = {"judge_endpoint": f"{server.url}/v1"}
        (tmp_path / "values.json").write_text(json.dumps(values | endpoint))
        command = ("run", "--pipeline", "rlaif_pipeline", "--parameter-values", "values.json")
        _, output = rlhf(*command, "--pipeline-root", "runs", cwd=tmp_path)
        asked = len(server.questions)
        (tmp_path / "labelling.json").write_text(json.dumps(labelling | endpoint | {"batch_size": 8}))
        _, told = rlhf("label", "--parameter-values", "labelling.json", "--output", "labels.jsonl", cwd=tmp_path)
        assert len(server.questions) == asked, "every verdict is known"
    labels = records(artifact(tmp_path, "*/label-preferences/labelled_preferences"))
    assert labels == records(tmp_path / "labels.jsonl")
    assert 20 < len(labels) < 120
    assert f"{len(labels)} preferences by judge judge-1 of 120 prompts" in told
    assert "left out: the judge preferred neither" in told
    reward_model = records(artifact(tmp_path, "*/train-reward-model/reward_model/metrics.jsonl"))
    first, last = (sum(record["loss"] for record in part) for part in (reward_model[:5], reward_model[-5:]))
    assert last < 0.85 * first
    (version,) = list_models(tmp_path / "registry")
    assert version.manifest["method"] == "reinforcement", output
    report = artifact(tmp_path, "*/evaluate/report").read_text()
    assert "The preferences are labels by judge judge-1" in report
    assert "No human choices were there to check it against." in report
