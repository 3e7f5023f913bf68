"""Does a model learn from thumbs alone? KTO on the sample for several seeds.

    python benchmarks/thumbs.py --seeds 0 1 2

Makes thumbs of the sample's preferences: of each, one answer by lot, liked if it was the chosen one. So no prompt has two
answers to compare. The sample's supervised model, trained once, learns from them by `preference_tuning_pipeline` with
`loss_type` kto. Prints a Markdown table. The win rate against that supervised model is by the house style, which a program
scores; the policy never sees it.
"""

import argparse
import json
import random
import tempfile
from importlib.resources import files
from pathlib import Path

from sample_seeds import interval, over_seeds, rlhf

_SAMPLE = Path(str(files("rlhf_tuning.sample")))
_COLUMNS = (
    ("true_win_rate", ".2f"),
    ("true_win_rate_at_equal_length", ".2f"),
    ("tuned_kl_per_answer", ".2f"),
)


def main() -> None:
    """Train the supervised model and then with every seed, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, help="where the runs go; a temporary folder when absent")
    arguments, extra = parser.parse_known_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="thumbs-"))
    start = supervised_model(folder / "supervised")
    print("| seed | thumbs, liked | house style before, after | wins | wins at equal length | KL, nats per answer |")
    print("|---|---|---|---|---|---|", flush=True)
    wins: dict[str, list[float]] = {"true_win_rate": [], "true_win_rate_at_equal_length": []}
    for seed in arguments.seeds:
        thumbs = write_thumbs(folder / f"thumbs-{seed}.jsonl", seed)
        metrics = run_seed(seed, start, folder, extra)
        for name, found in wins.items():
            found.append(metrics[name])
        scores = f"{metrics['base_true_score']:.2f}, {metrics['tuned_true_score']:.2f}"
        cells = [f"{len(thumbs)}, {sum(thumbs)}", scores, *(interval(metrics, *column) for column in _COLUMNS)]
        print(f"| {seed} | {' | '.join(cells)} |", flush=True)
    print(f"| all | | | {' | '.join(map(over_seeds, wins.values()))} | |")


def supervised_model(folder: Path) -> Path:
    """Train the model that all seeds start from, and return its folder."""
    settings = json.loads((_SAMPLE / "parameters.json").read_text(encoding="utf-8"))
    steps, multiplier = (settings[f"supervised_{name}"] for name in ("train_steps", "learning_rate_multiplier"))
    rlhf(
        *("run", "--sample", "--pipeline", "supervised_tuning_pipeline", "--registry-dir", str(folder / "registry")),
        *("--train-steps", str(steps), "--learning-rate-multiplier", str(multiplier)),
        *("--pipeline-root", str(folder / "runs")),
    )
    (model,) = folder.glob("runs/*/train-supervised/model")
    return model


def write_thumbs(path: Path, seed: int) -> list[bool]:
    """Write a row of feedback for each of the sample's preferences, and return the labels."""
    draw = random.Random(seed)
    labels = []
    with path.open("w", encoding="utf-8") as out:
        for line in (_SAMPLE / "preferences.jsonl").open(encoding="utf-8"):
            row = json.loads(line)
            answer = draw.randrange(2)
            labels.append(row["choice"] == answer)
            thumb = {"prompt": row["input_text"], "completion": row[f"candidate_{answer}"], "label": labels[-1]}
            out.write(json.dumps(thumb) + "\n")
    return labels


def run_seed(seed: int, start: Path, folder: Path, extra: list[str]) -> dict[str, float]:
    """Learn from the thumbs of one seed, and return what the evaluation measured."""
    root = folder / f"seed-{seed}"
    rlhf(
        *("run", "--pipeline", "preference_tuning_pipeline", "--loss-type", "kto", "--seed", str(seed)),
        *("--feedback-dataset", str(folder / f"thumbs-{seed}.jsonl"), "--large-model-reference", str(start)),
        *("--eval-dataset", str(_SAMPLE / "eval_prompts.jsonl"), "--scorer", "house_style"),
        *("--prompt-sequence-length", "96", "--target-sequence-length", "64", "--batch-size", "16"),
        *("--epoch-count", "0.6", "--learning-rate-multiplier", "8", "--held-out-reward-model-share", "0"),
        *("--model-display-name", "thumbs", "--registry-dir", str(root / "registry")),
        *("--pipeline-root", str(root / "runs"), *extra),
    )
    (evaluation,) = root.glob("runs/*/evaluate/evaluation")
    measured: dict[str, float] = json.loads(evaluation.read_text(encoding="utf-8"))["metrics"]
    return measured


if __name__ == "__main__":
    main()
