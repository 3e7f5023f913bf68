"""Runs that may take a third of what they need: do they end within it, with a model that the gate has judged?

    python benchmarks/budget.py --tries 20                                              # on a quiet machine
    python benchmarks/budget.py --tries 20 --pipeline supervised_tuning_pipeline

A tiny model (two layers) is tuned through `rlhf run`, from the data to evaluation, gate and registry. One run has no budget.
What its steps take that a budget counts is what is needed. Each try is the same run with another seed and `max_hours` of a
third of that.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_GOOD, _BAD = "salt and gulls and salt", "0 1 2 3 4 5"
#: What may be run, and how many steps each of its trainings takes.
_STEPS = {"rlhf_pipeline": 700, "supervised_tuning_pipeline": 8000}
#: Steps that a budget does not count.
_NOT_COUNTED = ("Validate Inputs", "Preprocess Inputs")


def main() -> int:
    """Print a line for each try; 1 where more than one in twenty did not end as it should."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=20)
    parser.add_argument("--pipeline", choices=_STEPS, default="rlhf_pipeline")
    parser.add_argument(
        "--steps", type=int, help="of each training; so many that a third is more than the starts of all steps"
    )
    parser.add_argument("--share", type=float, default=1 / 3, help="of what is needed")
    arguments = parser.parse_args()
    sys.path.append(str(ROOT))
    with tempfile.TemporaryDirectory(prefix="budget-") as scratch:
        folder = Path(scratch)
        values = prepare(folder, arguments.pipeline, arguments.steps or _STEPS[arguments.pipeline])
        whole = _run(folder / "whole", arguments.pipeline, values)
        if whole is None:
            return 1
        limit = arguments.share * whole["seconds"]
        print(f"Needed: {whole['seconds']:.0f} s; the budget: {limit:.0f} s", flush=True)
        print("| try | seconds | of the budget | steps of each training | gate |\n|---|---|---|---|---|", flush=True)
        good = 0
        for number in range(1, arguments.tries + 1):
            given = {"seed": number, "max_hours": limit / 3600, "train_until_budget": True}
            found = _run(folder / str(number), arguments.pipeline, values | given)
            good += found is not None and found["seconds"] <= limit
            told = "| | | failed"
            if found:
                told = f"{found['seconds']:.0f} | {found['seconds'] / limit:.0%} | {found['steps']} | {found['gate']}"
            print(f"| {number} | {told} |", flush=True)
        print(f"{good} of {arguments.tries} ended within the budget with a model that the gate has judged")
    return int(good < 0.95 * arguments.tries)


def prepare(folder: Path, pipeline: str, steps: int) -> dict[str, Any]:
    """Make a tiny model and data for a pipeline, and return its parameters."""
    from tests.conftest import CHAT_TEMPLATE, make_model

    make_model(folder / "tiny", chat_template=CHAT_TEMPLATE)
    preferences = [
        {
            "input_text": f"Create {number}.",
            "candidate_0": _GOOD if number % 2 else _BAD,
            "candidate_1": _BAD if number % 2 else _GOOD,
            "choice": (number + 1) % 2,
        }
        for number in range(200)
    ]
    rows = {
        "preference_dataset": preferences,
        "prompt_dataset": [{"input_text": f"Create {number}, please."} for number in range(100)],
        "eval_dataset": [{"input_text": f"Create {number} now."} for number in range(100)],
    }
    own: dict[str, Any] = {
        "reward_model_train_steps": steps,
        "reward_model_max_epochs": 0.0,
        "reward_model_learning_rate_multiplier": 20.0,
        "reinforcement_learning_train_steps": steps,
        "reward_lora_dim": 8,
        "max_kl": 0.0,
    }
    if pipeline == "supervised_tuning_pipeline":
        rows = {"dataset_uri": [{"input_text": f"Create {number}.", "output_text": _GOOD} for number in range(600)]}
        own = {"train_steps": steps, "enable_early_stopping": False, "scorer": "house_style"}
    for name, content in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    return {name: str(folder / f"{name}.jsonl") for name in rows} | {
        **own,
        "large_model_reference": str(folder / "tiny"),
        "model_display_name": "tiny",
        "prompt_sequence_length": 48,
        "target_sequence_length": 12,
        "batch_size": 8,
        "lora_dim": 8,
        "dtype": "float32",
    }


def _run(home: Path, pipeline: str, values: dict[str, Any]) -> dict[str, Any] | None:
    """Return what a run took and left; None where it left no model that was judged."""
    home.mkdir()
    values = values | {"registry_dir": str(home / "registry")}
    (home / "values.json").write_text(json.dumps(values), encoding="utf-8")
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "rlhf_pipelines.cli",
            "run",
            "--pipeline",
            pipeline,
            "--parameter-values",
            "values.json",
        ],
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    runs = list((home / "runs").glob("*/run.json"))
    if ended.returncode or not runs or not list((home / "registry").glob("tiny/versions/*")):
        print(ended.stdout[-2000:], ended.stderr[-2000:], file=sys.stderr)
        return None
    run = runs[0].parent
    took = json.loads(runs[0].read_text(encoding="utf-8"))["steps"]
    decision = json.loads((run / "evaluate" / "decision").read_text(encoding="utf-8"))
    logs = [
        log for pattern in ("reward-model*", "policy", "supervised") for log in run.glob(f"train-{pattern}/*/m*.jsonl")
    ]
    return {
        "seconds": sum(step["seconds"] for step in took if step["name"] not in _NOT_COUNTED),
        "steps": ", ".join(str(len(log.read_text(encoding="utf-8").splitlines())) for log in logs),
        "gate": "promoted" if decision["promote"] else "not promoted",
    }


if __name__ == "__main__":
    sys.exit(main())
