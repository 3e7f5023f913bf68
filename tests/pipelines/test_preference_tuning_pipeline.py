"""Preference tuning through kfp's local runner, on a tiny real model."""

import json

import pytest
from tests.pipelines.test_rlhf_pipeline import BAD, GOOD, artifact, records, rlhf

from rlhf_tuning.registry import list_models

pytestmark = pytest.mark.slow


def test_the_whole_job_learns_from_preferences_and_registers_what_beats_the_base(tiny_model, tmp_path):
    rows = [
        {
            "input_text": f"Create {number}.",
            "candidate_0": GOOD if number % 2 else BAD,
            "candidate_1": BAD if number % 2 else GOOD,
            "choice": (number + 1) % 2,
        }
        for number in range(200)
    ]
    (tmp_path / "preferences.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = [{"input_text": f"Create {number} now."} for number in range(100)]
    (tmp_path / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    values = {
        "preference_dataset": "preferences.jsonl",
        "eval_dataset": "eval.jsonl",
        "large_model_reference": str(tiny_model),
        "model_display_name": "tiny",
        "prompt_sequence_length": 48,
        "target_sequence_length": 12,
        "epoch_count": 5,
        "learning_rate_multiplier": 200.0,
        "adapter_size": 8,
        "beta": 0.05,
        "rpo_alpha": 1.0,
        "batch_size": 8,
        "watch_prompts": 0,
        "reward_model_train_steps": 60,
        "reward_model_max_epochs": 0.0,
        "reward_model_learning_rate_multiplier": 50.0,
        "reward_lora_dim": 8,
        "gate_reward_model_margin": 0.0,
        "registry_dir": "registry",
        "dtype": "float32",
    }
    (tmp_path / "values.json").write_text(json.dumps(values))
    command = ("run", "--pipeline", "preference_tuning_pipeline", "--parameter-values", "values.json")
    _, output = rlhf(*command, "--pipeline-root", "runs", cwd=tmp_path)
    history = records(artifact(tmp_path, "*/train-preference/adapter/metrics.jsonl"))
    assert history[-1]["loss"] < history[0]["loss"]
    assert history[-1]["accuracy"] > 0.9
    (version,) = list_models(tmp_path / "registry")
    assert version.manifest["method"] == "preference"
    assert {"champion", "default"} <= set(version.aliases), output
    assert version.manifest["evaluation"]["held_out_reward_win_rate_low"] > 0.5
    assert (version.path / "preference_rows.bin").is_file()
    report = artifact(tmp_path, "*/evaluate/report").read_text()
    assert "Preference tuning of" in report
    assert "Held-out answers: nats gained since the start" in report
