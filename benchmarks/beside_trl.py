"""The frame of the benchmarks that hold a training of this project beside TRL's own trainer.

Both sides run in turn, each in a process of its own, and take the same steps. A step's time is the median without the first.
Memory is the process's peak, or the GPU's. A benchmark hands `main` its two sides; each returns what `result` makes.
"""

import argparse
import json
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

MODEL = "smollm2-135m-instruct"
LORA_DIM = 16
#: Of texts whose lengths are spread evenly on a logarithmic scale.
PROMPT_WORDS, ANSWER_WORDS = (15, 200), (8, 60)

#: Of the two sides, in turn.
_TRL, _OURS = "trl", "ours"


def arguments_of(description: str, *, model_help: str = "alias or folder") -> argparse.ArgumentParser:
    """Return a parser with what every such benchmark is asked."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL, help=model_help)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--steps", type=int, default=4, help="steps of each process, the first not counted")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--side", choices=[_TRL, _OURS], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser


def main(
    parser: argparse.ArgumentParser,
    *,
    prepare: Callable[[argparse.Namespace, Path], None],
    ours: Callable[[argparse.Namespace], dict[str, float]],
    stock: Callable[[argparse.Namespace], dict[str, float]],
    rival: str,
    work: Callable[[argparse.Namespace], str],
    columns: Mapping[str, str],
) -> None:
    """Run both sides in turn and print the table.

    Args:
        parser: From `arguments_of`, with further arguments.
        prepare: Writes what both sides read into a folder, which they find as `folder`.
        ours: Takes the steps as this project does.
        stock: Takes them as a script around TRL's trainer does.
        rival: What TRL's side is called.
        work: Says what a step is of, such as `8 pairs a step`.
        columns: Names of the results, and their headings.
    """
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps((ours if arguments.side == _OURS else stock)(arguments)))
        return
    with tempfile.TemporaryDirectory(prefix=f"{Path(sys.argv[0]).stem}-") as scratch:
        prepare(arguments, Path(scratch))
        found: dict[str, list[dict[str, float]]] = {_TRL: [], _OURS: []}
        for repetition in range(arguments.repetitions):
            for side, results in found.items():
                results.append(_measure(side, Path(scratch)))
                print(f"{repetition + 1}: {side} {results[-1]}", file=sys.stderr, flush=True)
        print("\n".join(_table(arguments, found, rival=rival, work=work(arguments), columns=columns)))


def _measure(side: str, scratch: Path) -> dict[str, float]:
    """Run one side in a process of its own."""
    command = [sys.executable, *sys.argv, "--side", side, "--folder", str(scratch)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{side} ended with status {done.returncode}:\n{done.stderr[-3000:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def result(per_step: str, count: int, seconds: list[float], **others: float) -> dict[str, float]:
    """Return what a side found.

    Args:
        per_step: Name of how many a second there are.
        count: Of them in a step.
        seconds: Of each step.
        others: What else was found.
    """
    import torch
    from process_memory import peak_memory

    peak = (torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_memory()) / 2**30
    step = statistics.median(seconds[1:])
    return {per_step: count / step, "seconds_per_step": step, "gib": peak, **others}


def clock() -> Any:
    """Return a callback for a trainer; `seconds` of it is how long each step took."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.times: list[float] = []

        @property
        def seconds(self) -> list[float]:
            return [after - before for before, after in zip(self.times, self.times[1:], strict=False)]

        def on_train_begin(self, *rest: Any, **settings: Any) -> None:
            self.times = [time.monotonic()]

        def on_step_end(self, *rest: Any, **settings: Any) -> None:
            self.times.append(time.monotonic())

    return Clock()


def metrics(folder: Path) -> list[dict[str, float]]:
    """Return what a training of this project wrote at each step."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def write_rows(path: Path, count: int, *answers: str) -> None:
    """Write canonical rows of made-up texts: a prompt, and an answer for each name."""
    from rlhf_tuning import sample

    rows = (Path(sample.__file__).parent / "preferences.jsonl").read_text(encoding="utf-8").splitlines()
    words = " ".join(json.loads(row)["candidate_0"] for row in rows[:200]).split()
    rng = random.Random(0)

    def text(shortest: int, longest: int) -> str:
        return " ".join(rng.choices(words, k=round(math.exp(rng.uniform(math.log(shortest), math.log(longest))))))

    with path.open("w", encoding="utf-8") as stream:
        for _ in range(count):
            row = {"prompt": [{"role": "user", "content": text(*PROMPT_WORDS)}]}
            stream.write(json.dumps(row | {name: text(*ANSWER_WORDS) for name in answers}) + "\n")


def _table(
    arguments: argparse.Namespace,
    found: Mapping[str, list[dict[str, float]]],
    *,
    rival: str,
    work: str,
    columns: Mapping[str, str],
) -> list[str]:
    """Return the result as Markdown."""
    import torch

    hardware = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} cores, no GPU"
    lines = [
        f"{arguments.model}, {work}, {arguments.dtype}, {hardware}, torch {torch.__version__}, "
        f"Python {platform.python_version()}; {arguments.repetitions} repetitions in turn, median [lowest, highest]",
        "",
        f"| | {' | '.join(columns.values())} |",
        "|---|" + "---|" * len(columns),
    ]
    for side, name in ((_TRL, rival), (_OURS, "rlhf-pipelines")):
        cells = [spread([result[key] for result in found[side]]) for key in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    ratios = [
        spread([mine[key] / theirs[key] for mine, theirs in zip(found[_OURS], found[_TRL], strict=True)])
        for key in columns
    ]
    lines.append(f"| ratio, pair by pair | {' | '.join(ratios)} |")
    return lines


def spread(values: list[float]) -> str:
    """Return the median with the lowest and the highest value."""
    return f"{statistics.median(values):.3f} [{min(values):.3f}, {max(values):.3f}]"
