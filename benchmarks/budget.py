"""Runs that may take a third of what they need: do they end within it, with a model that the gate has judged?

    python benchmarks/budget.py --tries 20 --steps 1000

A tiny model (two layers) is tuned through `rlhf run`: reward model, held-out reward model, reinforcement learning,
evaluation, gate, registry. One run has no budget; what it takes by the clock, the command's own start included, is what is
needed. Each try is the same run with another seed and `max_hours` of a third of that.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_GOOD, _BAD = "salt and gulls and salt", "0 1 2 3 4 5"


def main() -> int:
    """Print a line for each try; 1 where more than one in twenty did not end as it should."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=20)
    parser.add_argument("--steps", type=int, default=1000, help="of the reward model, and of reinforcement learning")
    parser.add_argument("--share", type=float, default=1 / 3, help="of what is needed")
    arguments = parser.parse_args()
    sys.path.append(str(ROOT))
    with tempfile.TemporaryDirectory(prefix="budget-") as scratch:
        folder = Path(scratch)
        values = _prepare(folder, arguments.steps)
        _run(folder, "warm", values | {"reward_model_train_steps": 1, "reinforcement_learning_train_steps": 1})
        needed, _ = _run(folder, "whole", values)
        limit = arguments.share * needed
        print(f"Needed: {needed:.0f} s; the budget: {limit:.0f} s", flush=True)
        print("| try | seconds | of the budget | steps: reward models, policy | gate | as it should |")
        print("|---|---|---|---|---|---|")
        good = 0
        for number in range(arguments.tries):
            seconds, found = _run(
                folder,
                str(number),
                values | {"seed": number + 1, "max_hours": limit / 3600, "train_until_budget": True},
            )
            well = found is not None and seconds <= limit
            good += well
            told = f"{', '.join(map(str, found['steps']))} | {found['gate']}" if found else "| none"
            print(f"| {number + 1} | {seconds:.0f} | {seconds / limit:.0%} | {told} | {well} |", flush=True)
        print(f"{good} of {arguments.tries} ended within the budget with a model that the gate has judged")
    return int(good < 0.95 * arguments.tries)


def _prepare(folder: Path, steps: int) -> dict[str, Any]:
    """Make the model and the data, and return the parameters."""
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
    for name, content in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    return {name: str(folder / f"{name}.jsonl") for name in rows} | {
        "large_model_reference": str(folder / "tiny"),
        "prompt_sequence_length": 48,
        "target_sequence_length": 12,
        "reward_model_train_steps": steps,
        "reward_model_max_epochs": 0.0,
        "reward_model_learning_rate_multiplier": 20.0,
        "reinforcement_learning_train_steps": steps,
        "reinforcement_learning_rate_multiplier": 2.0,
        "batch_size": 8,
        "reward_lora_dim": 8,
        "lora_dim": 8,
        "max_kl": 0.0,
        "dtype": "float32",
    }


def _run(folder: Path, name: str, values: dict[str, Any]) -> tuple[float, dict[str, Any] | None]:
    """Return how long a run took by the clock, and what it left; None where it left no model that was judged."""
    home = folder / name
    home.mkdir()
    content = values | {"model_display_name": "tiny", "registry_dir": str(home / "registry")}
    (home / "values.json").write_text(json.dumps(content), encoding="utf-8")
    started = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-m", "rlhf_pipelines.cli", "run", "--parameter-values", "values.json"],
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    seconds = time.monotonic() - started
    decisions = list((home / "runs").glob("*/evaluate/decision"))
    if ended.returncode or not decisions or not list((home / "registry").glob("tiny/versions/*")):
        print(ended.stdout[-2000:], ended.stderr[-2000:], file=sys.stderr)
        return seconds, None
    logs = [
        log
        for kind in ("reward-model", "policy")
        for log in sorted((home / "runs").glob(f"*/train-{kind}*/*/m*.jsonl"))
    ]
    steps = [len(log.read_text(encoding="utf-8").splitlines()) for log in logs]
    promoted = json.loads(decisions[0].read_text(encoding="utf-8"))["promote"]
    return seconds, {"steps": steps, "gate": "promoted" if promoted else "not promoted"}


if __name__ == "__main__":
    sys.exit(main())
