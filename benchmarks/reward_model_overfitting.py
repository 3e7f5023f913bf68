"""Does phase 1 learn people's preferences by heart? Accuracy on held-out preferences, step by step, and what is returned.

    python benchmarks/reward_model_overfitting.py hh_train.jsonl hh_heldout.jsonl

Takes preferences in any format of the pipeline, learns from a few of them for many epochs, as phase 1 does but with nothing
to stop it, and twice an epoch measures accuracy and loss on preferences that nothing else sees. Then it says what would have
been returned: by phase 1 as it is (the lowest loss on the preferences set aside, up to where it would have stopped), and at
the end, where a reward model without early stop ends.
"""

import argparse
import json
import math
import random
import tempfile
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

EPOCHS_SHOWN = (0.5, 1, 1.5, 2, 3, 4, 5, 6, 8, 10)


def main() -> None:
    """Train once for each seed, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", help="preferences to learn from")
    parser.add_argument("held_out", help="preferences to measure on")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="alias or folder")
    parser.add_argument("--rows", type=int, default=300, help="preferences learnt from and set aside")
    parser.add_argument("--held-out-rows", type=int, default=150)
    parser.add_argument("--epochs", type=float, default=4.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=3.0, help="reward_model_learning_rate_multiplier")
    parser.add_argument("--dtype", default="auto", choices=["auto", "bfloat16", "float32"])
    arguments = parser.parse_args()
    runs = [run(arguments, seed) for seed in range(arguments.seeds)]
    print("\n".join(table(runs)))


def run(arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Train with one seed, and return the looks at what was set aside and at what was held out."""
    from rlhf_tuning.data.held_out import validation_rows
    from rlhf_tuning.data.importer import import_preferences, read_canonical
    from rlhf_tuning.statistics import MeanEstimate
    from rlhf_tuning.training import reward_model
    from rlhf_tuning.training.cumulative_link import Levels
    from rlhf_tuning.training.held_out_loss import HeldOutLoss, HeldOutWatcher, Look
    from rlhf_tuning.training.loading import load_text_format

    looks: list[dict[str, float]] = []
    decided = HeldOutLoss(10**9, patience=reward_model._LOOKS_AN_EPOCH, unit="nats a preference")

    class Measured(HeldOutWatcher):
        """Measures on the held-out preferences too, at every second look."""

        def _look(self, at: int) -> None:
            super()._look(at)
            if len(self.curve.looks) % 2 == 0 or at == self.curve.total_steps:
                found = reward_model._measured(*self._measure.args[:2], rows, held_out)  # type: ignore[attr-defined]
                means = {name: value.mean for name, value in found.items()}
                looks.append({"step": at, "epoch": at * arguments.batch / learnt, **means})

    reward_model.HeldOutWatcher = Measured  # type: ignore[misc]
    reward_model.HeldOutLoss = partial(HeldOutLoss, stops_early=False)  # type: ignore[misc, assignment]
    lengths = {"prompt_sequence_length": 96, "target_sequence_length": 64}
    with tempfile.TemporaryDirectory(prefix="reward-model-overfitting-") as scratch:
        folder = Path(scratch)
        import_preferences(
            preference_dataset=arguments.train,
            eval_dataset=arguments.held_out,
            instruction="",
            preferences_path=str(folder / "all.jsonl"),
            eval_preferences_path=str(folder / "held_out.jsonl"),
            seed=seed,
        )
        lines = (folder / "all.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / "some.jsonl").write_text("".join(random.Random(seed).sample(lines, arguments.rows)), encoding="utf-8")
        rows = list(islice(read_canonical(folder / "held_out.jsonl"), arguments.held_out_rows))
        (folder / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:20]), encoding="utf-8")
        config = reward_model.RewardModelConfig(
            large_model_reference=arguments.model,
            reward_model_train_steps=10**6,
            reward_model_max_epochs=arguments.epochs,
            reward_model_learning_rate_multiplier=arguments.rate,
            batch_size=arguments.batch,
            centring_prompts=0,
            dtype=arguments.dtype,
            seed=seed,
            **lengths,
        )
        held_out = reward_model._encoded(rows, load_text_format(config), Levels(rows))
        learnt = arguments.rows - validation_rows(arguments.rows)
        reward_model.train_reward_model(
            config,
            preferences_path=str(folder / "some.jsonl"),
            eval_preferences_path=str(folder / "few.jsonl"),
            output_dir=str(folder / "reward"),
            tensorboard_dir=str(folder / "events"),
        )
        set_aside = json.loads((folder / "reward" / "held_out_loss.json").read_text(encoding="utf-8"))["looks"]
        training = [json.loads(line) for line in (folder / "reward" / "metrics.jsonl").read_text().splitlines()]
    # What phase 1 would have returned, and where it would have stopped.
    for look in set_aside:
        decided.add(Look(step=look["step"], values={"loss": MeanEstimate(**look["loss"], n=look["n"])}))
        if decided.stopped:
            break
    return {
        "looks": looks,
        "set_aside": set_aside,
        "training": training,
        "kept": decided.best.step,
        "stopped": decided.looks[-1].step,
    }


def table(runs: list[dict[str, Any]]) -> list[str]:
    """Return a line for some epochs, and one for what is returned, each a mean over the seeds."""
    lines = [
        "| | accuracy in training | loss there | held-out accuracy | held-out loss |",
        "|---|---|---|---|---|",
    ]
    last = min(run["looks"][-1]["epoch"] for run in runs)
    for epoch in [shown for shown in EPOCHS_SHOWN if shown <= last + 0.01]:
        lines.append(_line(f"after {epoch:g} epochs", runs, lambda run, at=epoch: _nearest(run, "epoch", at)))
    lines.append(_line("**early stop returns**", runs, lambda run: _nearest(run, "step", run["kept"])))
    lines.append(_line("**without early stop**", runs, lambda run: run["looks"][-1]))
    steps = [f"kept step {run['kept']} of {run['looks'][-1]['step']}, stopped at {run['stopped']}" for run in runs]
    return [*lines, "", "By seed: " + "; ".join(steps)]


def _nearest(run: dict[str, Any], name: str, value: float) -> dict[str, float]:
    found: dict[str, float] = min(run["looks"], key=lambda look: abs(look[name] - value))
    return found


def _line(label: str, runs: list[dict[str, Any]], choose: Any) -> str:
    cells = []
    looks = [choose(run) for run in runs]
    for name in ("accuracy", "loss"):
        near = [
            [step[name] for step in run["training"] if abs(step["step"] - look["step"]) <= 3]
            for run, look in zip(runs, looks, strict=True)
        ]
        cells.append(_mean([sum(values) / len(values) for values in near]))
    cells += [_mean([look[name] for look in looks]) for name in ("accuracy", "loss")]
    return f"| {label} | " + " | ".join(cells) + " |"


def _mean(values: list[float]) -> str:
    mean = sum(values) / len(values)
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1))
    return f"{mean:.3f} ± {spread:.3f}"


if __name__ == "__main__":
    main()
