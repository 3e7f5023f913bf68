"""The recurring tune through kfp's local runner, on a tiny real model: first run, nothing new, new rows, two at once."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_tuning.registry import list_models, tuned_by_one

pytestmark = pytest.mark.slow

NEEDED = 6
#: Enough that the held-out ones tell the reward model from chance.
ROWS = 60


def recurring(folder: Path, *arguments: object) -> tuple[int, str]:
    """Run the command as a person would."""
    result = subprocess.run(
        [
            *(sys.executable, "-m", "rlhf_pipelines.cli", "run", "--pipeline", "recurring_rlhf_pipeline"),
            *("--parameter-values", "values.json", "--pipeline-root", "runs", *map(str, arguments)),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    output = result.stdout + result.stderr
    assert "Traceback" not in output, output
    return result.returncode, output


def write_preferences(folder: Path, count: int) -> None:
    rows = [
        {"input_text": f"Create {number}.", "candidate_0": "salt and gulls", "candidate_1": "0 1 2", "choice": 0}
        for number in range(count)
    ]
    (folder / "preferences.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def first(tiny_model, tmp_path_factory):
    """The folder and the output of a first run."""
    folder = tmp_path_factory.mktemp("recurring")
    write_preferences(folder, ROWS)
    for name, words in (("prompts.jsonl", "please"), ("eval.jsonl", "now")):
        prompts = [{"input_text": f"Create {number} {words}."} for number in range(60)]
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in prompts))
    values = {
        "preference_dataset": "preferences.jsonl",
        "prompt_dataset": "prompts.jsonl",
        "eval_dataset": "eval.jsonl",
        "large_model_reference": str(tiny_model),
        "model_display_name": "tiny",
        "prompt_sequence_length": 32,
        "target_sequence_length": 8,
        # Enough to be shown better than the base model, without which nothing becomes champion.
        "reward_model_train_steps": 25,
        "reward_model_max_epochs": 0.0,
        "reward_model_learning_rate_multiplier": 50.0,
        "reinforcement_learning_train_steps": 60,
        "reinforcement_learning_rate_multiplier": 50.0,
        "kl_coeff": 0.005,
        "batch_size": 8,
        "reward_lora_dim": 4,
        "lora_dim": 4,
        "registry_dir": str(folder / "registry"),
        "dtype": "float32",
        "min_new_preferences": NEEDED,
        "warm_start": True,
    }
    (folder / "values.json").write_text(json.dumps(values))
    status, output = recurring(folder)
    assert status == 0, output
    return folder, output


def adapters(folder: Path) -> list[Path]:
    return sorted((folder / "runs").glob("*/train-policy/adapter"), key=lambda path: path.stat().st_mtime)


def first_kl(adapter: Path) -> float:
    return float(json.loads((adapter / "metrics.jsonl").read_text().splitlines()[0])["kl"])


def test_the_first_run_tunes_from_the_base_and_ends_as_every_tune_does(first):
    folder, output = first
    assert "No champion yet" in output
    assert "Upload and Deploy Tuned Model: started (step 14 of 14)" in output
    assert "Win rate by reward" in output
    assert re.search(r"^Report: \./runs/r\S+/report\.html$", output, re.MULTILINE)
    assert "rlhf predict --model tiny@1" in output
    assert "Promoted: the tuned model takes the place of the base model." in output
    [version] = list_models(folder / "registry")
    assert (version.path / "preference_rows.bin").stat().st_size == 8 * ROWS
    assert version.manifest["parameters"]["warm_start_adapter"] == ""
    assert first_kl(adapters(folder)[0]) == pytest.approx(0, abs=1e-6)


def test_later_runs_tune_only_when_enough_is_new_and_then_start_from_the_champion(first):
    folder, _ = first
    # 1. Fewer new rows than needed: green, and no step of the tune ran.
    write_preferences(folder, ROWS + NEEDED - 1)
    status, output = recurring(folder)
    assert status == 0, output
    assert "outcome: Nothing new: 5 new preferences, 6 needed. models/tiny@1 stays as it is." in output
    assert "Nothing new: finished" in output
    assert "Finished" in output
    assert "FAILED" not in output
    assert "Validate Inputs" not in output
    assert "Trainer" not in output
    assert len(list_models(folder / "registry")) == len(adapters(folder)) == 1
    # 2. One more: it tunes, and begins where the champion ended.
    write_preferences(folder, ROWS + NEEDED)
    status, output = recurring(folder)
    assert status == 0, output
    assert "6 new preferences since models/tiny@1, 6 needed: tuning." in output
    versions = list_models(folder / "registry")
    promoted = "Promoted: the tuned model takes the place of tiny@1." in output
    assert ["champion" in version.aliases for version in versions] == [not promoted, promoted]
    started_from = versions[1].manifest["parameters"]["warm_start_adapter"]
    assert started_from == str(versions[0].path / "adapter")
    assert first_kl(adapters(folder)[1]) > 0.001
    # 3. The same again: the champion's rows count, whichever it is now.
    status, output = recurring(folder, "--min-new-preferences", NEEDED + 1)
    assert status == 0, output
    new, champion = (0, "tiny@2") if promoted else (NEEDED, "tiny@1")
    assert f"Nothing new: {new} new preferences, 7 needed. models/{champion} stays as it is." in output


def test_a_second_run_of_the_same_model_ends_at_once(first):
    folder, _ = first
    with tuned_by_one("tiny", folder / "registry"):
        status, output = recurring(folder)
        assert status == 1
        assert f"tuned already, by process {os.getpid()}" in output
        assert "started" not in output
    assert not list((folder / "registry").glob(".*tuning"))


def test_another_rank_than_the_champions_is_refused_before_anything_is_trained(first):
    folder, _ = first
    status, output = recurring(folder, "--lora-dim", 2, "--min-new-preferences", 0)
    assert status == 2
    assert "an adapter of rank 4, but lora_dim is 2" in output
    assert "Reward Model Trainer: started" not in output
