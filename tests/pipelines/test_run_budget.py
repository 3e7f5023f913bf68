"""A run that its budget ends, through kfp's local runner, on a tiny real model."""

import json

import pytest
from tests.pipelines.test_rlhf_pipeline import GOOD, records, rlhf

from rlhf_tuning.registry import list_models

pytestmark = pytest.mark.slow


def test_a_run_that_needs_too_long_is_refused_and_one_that_may_all_the_same_ends_in_time_with_a_model(
    tiny_model, tmp_path
):
    rows = [{"input_text": f"Create {number}.", "output_text": GOOD} for number in range(600)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        "dataset_uri": "rows.jsonl",
        "large_model_reference": str(tiny_model),
        "model_display_name": "tiny",
        "prompt_sequence_length": 48,
        "target_sequence_length": 12,
        "train_steps": 1_000_000,
        "learning_rate_multiplier": 20.0,
        "enable_early_stopping": False,
        "evaluation_interval": 10,
        "lora_dim": 8,
        "batch_size": 8,
        "scorer": "house_style",
        "max_hours": 0.025,
        "registry_dir": "registry",
        "dtype": "float32",
    }
    (tmp_path / "values.json").write_text(json.dumps(values))
    command = ("run", "--pipeline", "supervised_tuning_pipeline", "--parameter-values", "values.json")
    status, output = rlhf(*command, cwd=tmp_path, check=False)
    assert status == 2
    assert "Validate Inputs failed:" in output
    assert "The budget is 90 s, and this run is forecast to take " in output
    assert "It would fit with any of: --train-steps " in output
    _, output = rlhf(*command, "--train-until-budget", "--pipeline-root", "more", cwd=tmp_path)
    (folder,) = (tmp_path / "more").glob("*/train-supervised")
    taken = len(records(folder / "adapter" / "metrics.jsonl"))
    said = f"The budget, 90 s, ended supervised tuning at step {taken:,} of 1,000,000: the rest is for what comes after it."
    assert output.count(said) == 2  # when it was, and in the summary
    assert said in (tmp_path / "more" / "report.html").read_text()
    held_out = json.loads((folder / "adapter" / "held_out_loss.json").read_text())
    assert held_out["last_step"] == taken
    (version,) = list_models(tmp_path / "registry")
    assert version.manifest["method"] == "supervised"
    assert (folder.parent / "evaluate" / "decision").is_file()
    steps = json.loads(next((tmp_path / "more").glob("*/run.json")).read_text())["steps"]
    counted = sum(step["seconds"] for step in steps if step["name"] not in ("Validate Inputs", "Preprocess Inputs"))
    assert taken == 1 or counted < 90  # a machine that is very busy has no time left once the model is loaded
