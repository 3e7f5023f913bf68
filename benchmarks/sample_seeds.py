"""Does tuning work? The sample job for several seeds, each against the base model on the same held-out prompts.

    python benchmarks/sample_seeds.py --seeds 0 1 2

Runs `rlhf run --sample` once for every seed, from nothing (no step is taken from a cache), and prints a Markdown table.
The true win rate is by the sample's house style, which a program scores; the policy never sees that score.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rlhf_tuning import __version__
from rlhf_tuning.registry import resolve_model
from rlhf_tuning.statistics import mean_interval


def run_seed(seed: int, folder: Path, extra: list[str]) -> dict[str, object]:
    """Tune with one seed and return what the registry's manifest says of it."""
    started = time.monotonic()
    command = [sys.executable, "-m", "rlhf_pipelines.cli", "run", "--sample", "--seed", str(seed)]
    command += ["--pipeline-root", str(folder), "--registry-dir", str(folder / "registry"), *extra]
    with (folder / "output.txt").open("w") as output:
        status = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False).returncode
    if status != 0:
        sys.exit(f"Seed {seed} ended with status {status}; see {folder / 'output.txt'}")
    manifest = resolve_model("plantation-palms", folder / "registry").manifest
    return {"seconds": time.monotonic() - started, **manifest}


def interval(values: dict[str, float], name: str, form: str) -> str:
    """Return a value with its 95% interval."""
    value, low, high = (format(values[key], form) for key in (name, f"{name}_low", f"{name}_high"))
    return f"{value} [{low}, {high}]"


def table(results: dict[int, dict[str, object]]) -> list[str]:
    """Return the table's lines: one row a seed."""
    lines = [
        "| seed | reward model accuracy (n) | true win rate (n) | true score, base to tuned | reward win rate "
        "| KL, nats per answer | tokens, base to tuned | ended, base to tuned | minutes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for seed, result in results.items():
        found, judge = result["evaluation"], result["reward_model_evaluation"]
        assert isinstance(found, dict)
        assert isinstance(judge, dict)
        assert isinstance(result["seconds"], float)
        cells = [
            str(seed),
            f"{interval(judge, 'accuracy', '.3f')} ({judge['n']})",
            f"{interval(found, 'true_win_rate', '.3f')} ({found['eval_prompts']:.0f})",
            f"{found['base_true_score']:.2f} to {found['tuned_true_score']:.2f}",
            interval(found, "reward_win_rate", ".3f"),
            interval(found, "tuned_kl_per_answer", ".2f"),
            f"{found['base_tokens']:.1f} to {found['tuned_tokens']:.1f}",
            f"{found['base_ended']:.0%} to {found['tuned_ended']:.0%}",
            f"{result['seconds'] / 60:.1f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def over_seeds(results: dict[int, dict[str, object]]) -> str:
    """Return what the seeds say together: the mean over seeds, with Student's 95% interval, in which a seed is one trial."""
    names = {"true_win_rate": "true win rate", "reward_win_rate": "reward win rate", "tuned_kl_per_answer": "KL"}
    words = []
    for name, label in names.items():
        values = []
        for result in results.values():
            assert isinstance(result["evaluation"], dict)
            values.append(float(result["evaluation"][name]))
        mean = mean_interval(values)
        words.append(f"{label} {mean.mean:.3f} [{mean.low:.3f}, {mean.high:.3f}]")
    return f"Over {len(results)} seeds: {', '.join(words)}."


def main() -> None:
    """Run every seed and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, help="where the runs go; a temporary folder when absent")
    arguments, extra = parser.parse_known_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="sample-seeds-"))
    results: dict[int, dict[str, object]] = {}
    for seed in arguments.seeds:
        (folder / f"seed-{seed}").mkdir(parents=True)
        results[seed] = run_seed(seed, folder / f"seed-{seed}", extra)
        print(f"seed {seed}: {results[seed]['seconds']:.0f} s", flush=True)
    cores = f"{os.cpu_count()} cores ({cpu_name()})"
    print(f"\nrlhf-pipelines {__version__}, Python {platform.python_version()}, {cores}\n")
    print("\n".join(table(results)))
    print(f"\n{over_seeds(results)}")
    (folder / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")


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
