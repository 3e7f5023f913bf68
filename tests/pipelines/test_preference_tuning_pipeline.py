"""Preference tuning through kfp's local runner, on a tiny real model."""

import json

import pytest
from tests.pipelines.test_rlhf_pipeline import BAD, GOOD, artifact, records, rlhf

from rlhf_tuning.registry import list_models

pytestmark = pytest.mark.slow


def preferences(count):
    return [
        {
            "input_text": f"Create {number}.",
            "candidate_0": GOOD if number % 2 else BAD,
            "candidate_1": BAD if number % 2 else GOOD,
            "choice": (number + 1) % 2,
        }
        for number in range(count)
    ]


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def tune(folder, values, **settings):
    (folder / "values.json").write_text(json.dumps(VALUES | values))
    command = ("run", "--pipeline", "preference_tuning_pipeline", "--parameter-values", "values.json")
    return rlhf(*command, "--pipeline-root", "runs", cwd=folder, **settings)[1]


VALUES = {
    "preference_dataset": "preferences.jsonl",
    "model_display_name": "tiny",
    "prompt_sequence_length": 48,
    "target_sequence_length": 12,
    "learning_rate_multiplier": 200.0,
    "adapter_size": 8,
    "beta": 0.05,
    "batch_size": 8,
    "watch_prompts": 0,
    "registry_dir": "registry",
    "dtype": "float32",
}


def test_the_whole_job_learns_from_preferences_and_registers_what_beats_the_base(tiny_model, tmp_path):
    write_rows(tmp_path / "preferences.jsonl", preferences(200))
    write_rows(tmp_path / "eval.jsonl", [{"input_text": f"Create {number} now."} for number in range(100)])
    values = {
        "eval_dataset": "eval.jsonl",
        "large_model_reference": str(tiny_model),
        "epoch_count": 5,
        "rpo_alpha": 1.0,
        "reward_model_train_steps": 60,
        "reward_model_max_epochs": 0.0,
        "reward_model_learning_rate_multiplier": 50.0,
        "reward_lora_dim": 8,
        "gate_reward_model_margin": 0.0,
    }
    output = tune(tmp_path, values)
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
    again = values | {"warm_start_adapter": "tiny@champion", "adapter_size": 4}
    assert "an adapter of rank 8, but adapter_size is 4" in tune(tmp_path, again, check=False)


def test_a_supervised_phase_comes_first_and_its_model_is_the_reference(tiny_model, tmp_path):
    write_rows(tmp_path / "preferences.jsonl", preferences(100))
    shown = [{"input_text": f"Sing {number}.", "output_text": GOOD} for number in range(80)]
    write_rows(tmp_path / "demonstrations.jsonl", shown)
    values = {
        "large_model_reference": str(tiny_model),
        "supervised_dataset": "demonstrations.jsonl",
        "supervised_train_steps": 12,
        "supervised_learning_rate_multiplier": 20.0,
        "reward_model_train_steps": 9,
        "scorer": "house_style",
    }
    output = tune(tmp_path, values)
    assert "All that follows starts from the supervised model" in output
    start = artifact(tmp_path, "*/train-supervised/model")
    held_out = json.loads((start / "supervised_tuning" / "held_out_loss.json").read_text())["looks"]
    assert held_out[-1]["loss"]["mean"] < 0.8 * held_out[0]["loss"]["mean"]
    adapter = artifact(tmp_path, "*/train-preference/adapter")
    assert json.loads((adapter / "tuning.json").read_text())["large_model_reference"] == str(start)
    # What the chosen answers gain is counted from what the supervised model made of them.
    first = json.loads((adapter / "held_out_loss.json").read_text())["looks"][0]
    assert first["chosen_change"]["mean"] == pytest.approx(0, abs=1e-4)
    judge = json.loads(artifact(tmp_path, "*/*/reward_model/**/reward_model.json").read_text())
    assert judge["base_model"] == str(start)
    assert "supervised model against base model: wins" in output
    assert "KL to the supervised model within its limit" in output
    report = (tmp_path / "runs" / "report.html").read_text()
    assert all(words in report for words in ("What each phase brought", 'id="supervised"', "Supervised model"))
    (version,) = list_models(tmp_path / "registry")
    assert version.manifest["base_model"] == str(tiny_model)
    assert version.manifest["supervised"]["train_steps"] == 12
    assert version.manifest["fingerprints"]["demonstrations"]


def test_the_whole_job_learns_from_thumbs(tiny_model, tmp_path):
    rows = [
        {"prompt": f"Create {number}.", "completion": GOOD if number % 2 else BAD, "label": number % 2 > 0}
        for number in range(200)
    ]
    write_rows(tmp_path / "thumbs.jsonl", rows)
    values = {
        "preference_dataset": "",
        "feedback_dataset": "thumbs.jsonl",
        "loss_type": "kto",
        "large_model_reference": str(tiny_model),
        "epoch_count": 3,
        "batch_size": 12,
        "watch_prompts": 4,
        "reward_model_train_steps": 30,
        "reward_model_max_epochs": 0.0,
        "reward_model_learning_rate_multiplier": 50.0,
        "reward_lora_dim": 8,
    }
    output = tune(tmp_path, values)
    history = records(artifact(tmp_path, "*/train-preference/adapter/metrics.jsonl"))
    assert history[-1]["margin"] > history[0]["margin"]
    assert "puts a liked answer before another in" in output  # the held-out reward model
    (version,) = list_models(tmp_path / "registry")
    assert version.manifest["method"] == "preference"
    assert version.manifest["evaluation"]["held_out_reward_win_rate_n"] == 20  # it judged what was tuned on feedback
    report = artifact(tmp_path, "*/evaluate/report").read_text()
    assert "Liked answers, nats gained" in report
    assert "undesirable" in report
