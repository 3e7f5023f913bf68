"""Reward tuning through kfp's local runner, on a tiny real model."""

import json

import pytest
from tests.pipelines.test_rlhf_pipeline import artifact, records, rlhf

from rlhf_tuning.registry import list_models

pytestmark = pytest.mark.slow


def test_the_whole_job_learns_from_rewards_alone_and_registers_what_beats_the_base(tiny_model, tmp_path):
    for name, word, count in (("prompts", "", 60), ("eval", " now", 100)):
        rows = [
            {"prompt": f"Create {number}{word}.", "references": {"letter": "ea"[number % 2]}} for number in range(count)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "rewards").mkdir()
    (tmp_path / "rewards" / "often.py").write_text(
        "def evaluate(example, response):\n"
        "    return response['parts'][0]['text'].count(example['references']['letter']) / 6\n"
    )
    listed = [
        {"kind": "python", "name": "often", "function": "often.py"},
        {"kind": "string_match", "expression": "{{references.letter}}", "operation": "partial_match", "weight": 0.5},
    ]
    (tmp_path / "rewards" / "rewards.json").write_text(json.dumps(listed))
    values = {
        "prompt_dataset": "prompts.jsonl",
        "eval_dataset": "eval.jsonl",
        "large_model_reference": str(tiny_model),
        "model_display_name": "tiny",
        "rewards": "rewards/rewards.json",
        "prompt_sequence_length": 48,
        "target_sequence_length": 12,
        "reinforcement_learning_train_steps": 40,
        "reinforcement_learning_rate_multiplier": 150.0,
        "kl_coeff": 0.0,
        "lora_dim": 8,
        "batch_size": 4,
        "num_generations": 8,
        "watch_prompts": 8,
        "gate_max_length_ratio": 0.0,
        "gate_max_unfinished_rise": 0.0,
        "gate_max_repetitive_rise": 0.0,
        "registry_dir": "registry",
        "dtype": "float32",
    }
    (tmp_path / "values.json").write_text(json.dumps(values))
    command = ("run", "--pipeline", "reward_tuning_pipeline", "--parameter-values", "values.json")
    _, output = rlhf(*command, "--pipeline-root", "runs", cwd=tmp_path)
    history = records(artifact(tmp_path, "*/train-policy/adapter/metrics.jsonl"))
    assert history[-1]["reward_of_often"] > history[0]["reward_of_often"]
    (version,) = list_models(tmp_path / "registry")
    assert version.manifest["method"] == "reinforcement"
    assert {"champion", "default"} <= set(version.aliases), output
    report = artifact(tmp_path, "*/evaluate/report").read_text()
    assert "Reward tuning of" in report
    assert "Reward often, mean before its weight" in report
    assert "by the rewards" in output
