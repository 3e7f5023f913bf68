"""Does tuning work, and what does each phase bring? The sample job for several seeds.

    python benchmarks/sample_seeds.py --seeds 0 1 2 3 4

Runs `rlhf run --sample` once for every seed, from nothing (no step is taken from a cache), lets the model of its
supervised phase answer the held-out prompts as well, and prints Markdown tables. The true win rate is by the sample's
house style, which a program scores; the policy never sees that score. All three models answer the same prompts.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_tuning import __version__
from rlhf_tuning.evaluation.comparison import AnswerPair, ScoredAnswer, Summary, summarize
from rlhf_tuning.registry import resolve_model
from rlhf_tuning.sample.house_style import score
from rlhf_tuning.statistics import mean_interval

#: Which model is held against which, in the order of the columns.
COMPARED = (("supervised", "base"), ("tuned", "base"), ("tuned", "supervised"))


@dataclass(frozen=True, kw_only=True)
class SeedResult:
    """What one seed gave: the comparisons, by the two models' names, and the manifest of the tuned model."""

    minutes: float
    manifest: Mapping[str, Any]
    summaries: Mapping[tuple[str, str], Summary]


def run_seed(seed: int, folder: Path, extra: Sequence[str]) -> SeedResult:
    """Tune with one seed, and compare its three models."""
    started = time.monotonic()
    rlhf(
        *("run", "--sample", "--seed", str(seed), "--registry-dir", str(folder / "registry")),
        *("--pipeline-root", str(folder / "runs"), *extra),
    )
    minutes = (time.monotonic() - started) / 60
    (model,) = folder.glob("runs/*/train-supervised/model")
    rlhf(
        *("run", "--sample", "--pipeline", "infer_pipeline", "--large-model-reference", str(model)),
        *("--seed", str(seed), "--pipeline-root", str(folder / "supervised")),
    )
    (evaluation,) = folder.glob("runs/*/evaluate/evaluation")
    (predictions,) = folder.glob("supervised/*/infer/predictions")
    pairs = json.loads(evaluation.read_text(encoding="utf-8"))["answers"]
    supervised = {
        row["inputs"]["inputs_pretokenized"]: row for row in map(json.loads, predictions.open(encoding="utf-8"))
    }
    prompts = [pair["prompt"][-1]["content"] for pair in pairs]
    answers = {
        "base": [
            scored(prompt, pair["base"]["text"], pair["base"]) for prompt, pair in zip(prompts, pairs, strict=True)
        ],
        "supervised": [scored(prompt, supervised[prompt]["prediction"], supervised[prompt]) for prompt in prompts],
        "tuned": [
            scored(prompt, pair["tuned"]["text"], pair["tuned"]) for prompt, pair in zip(prompts, pairs, strict=True)
        ],
    }
    summaries = {
        (ours, theirs): summarize(
            [
                AnswerPair(prompt=pair["prompt"], tuned=tuned, base=base)
                for pair, tuned, base in zip(pairs, answers[ours], answers[theirs], strict=True)
            ]
        )
        for ours, theirs in COMPARED
    }
    # Whether it was promoted or not.
    manifest = resolve_model("plantation-palms@1", folder / "registry").manifest
    return SeedResult(minutes=minutes, manifest=manifest, summaries=summaries)


def rlhf(*arguments: str) -> None:
    """Run a command of ours; what it prints goes into its pipeline root."""
    root = Path(arguments[arguments.index("--pipeline-root") + 1])
    root.mkdir(parents=True)
    with (root / "output.txt").open("w") as output:
        command = [sys.executable, "-m", "rlhf_pipelines.cli", *arguments]
        status = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False).returncode
    if status != 0:
        sys.exit(f"It ended with status {status}; see {root / 'output.txt'}")


def scored(prompt: str, text: str, answer: Mapping[str, Any]) -> ScoredAnswer:
    """Return one of our answers with its house-style score."""
    return ScoredAnswer(
        text=text, tokens=answer["tokens"], ended=answer["ended"], true_score=score(prompt, text), kl=answer.get("kl")
    )


def tables(results: Mapping[int, SeedResult]) -> list[str]:
    """Return the lines of both tables: who wins, and what the answers are like; a row a seed, and what they say together."""
    headings = [f"{ours} against {theirs}" for ours, theirs in COMPARED]
    headings += [f"{heading}, at equal length" for heading in headings]
    lines = [
        f"| seed | reward model accuracy (n) | {' | '.join(headings)} |",
        "|---" * (2 + len(headings)) + "|",
    ]
    rates = {pair: [result.summaries[pair].metrics() for result in results.values()] for pair in COMPARED}
    for row, (seed, result) in enumerate(results.items()):
        judge = result.manifest["reward_model_evaluation"]
        cells = [f"{seed}", f"{interval(judge, 'accuracy', '.2f')} ({judge['n']})"]
        for name in ("true_win_rate", "true_win_rate_at_equal_length"):
            cells += [interval(rates[pair][row], name, ".2f") for pair in COMPARED]
        lines.append(f"| {' | '.join(cells)} |")
    together = ["all", ""]
    for name in ("true_win_rate", "true_win_rate_at_equal_length"):
        together += [over_seeds([found[name] for found in rates[pair] if name in found]) for pair in COMPARED]
    lines += [
        f"| {' | '.join(together)} |",
        "",
        "| seed | house style of base, supervised, tuned | tokens | ended | KL to supervised, nats per answer | minutes |",
        "|---|---|---|---|---|---|",
    ]
    for row, (seed, result) in enumerate(results.items()):
        first, last = rates["supervised", "base"][row], rates["tuned", "supervised"][row]
        cells = [
            f"{first[f'base_{name}']:{form}}, {first[f'tuned_{name}']:{form}}, {last[f'tuned_{name}']:{form}}"
            for name, form in (("true_score", ".2f"), ("tokens", ".1f"), ("ended", ".0%"))
        ]
        kl = interval(last, "tuned_kl_per_answer", ".2f")
        lines.append(f"| {seed} | {' | '.join(cells)} | {kl} | {result.minutes:.1f} |")
    return lines


def interval(values: Mapping[str, Any], name: str, form: str) -> str:
    """Return a value with its 95% interval, where it is known."""
    if name not in values:
        return "–"
    value, low, high = (format(values[key], form) for key in (name, f"{name}_low", f"{name}_high"))
    return f"{value} [{low}, {high}]"


def over_seeds(values: Sequence[float]) -> str:
    """Return the mean over seeds with Student's 95% interval, in which a seed is one trial."""
    if not values:
        return "–"
    mean = mean_interval(values)
    return f"{mean.mean:.2f} [{mean.low:.2f}, {mean.high:.2f}]"


def main() -> None:
    """Run every seed and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, help="where the runs go; a temporary folder when absent")
    arguments, extra = parser.parse_known_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="sample-seeds-"))
    results: dict[int, SeedResult] = {}
    for seed in arguments.seeds:
        results[seed] = run_seed(seed, folder / f"seed-{seed}", extra)
        print(f"seed {seed}: {results[seed].minutes:.1f} minutes", flush=True)
    cores = f"{os.cpu_count()} cores ({cpu_name()})"
    print(f"\nrlhf-pipelines {__version__}, Python {platform.python_version()}, {cores}\n")
    print("\n".join(tables(results)))


def cpu_name() -> str:
    """Return the processor's name where the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
