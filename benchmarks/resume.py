"""Trainings that are killed and continued, and what checkpoints take.

    python benchmarks/resume.py kills --kills 20               # every training step, killed at random moments
    python benchmarks/resume.py kills --kills 20 --processes 2
    python benchmarks/resume.py sizes                          # on a quiet machine

Each try kills a training of a tiny model (two layers) twice, at random moments, by SIGKILL or, in every third try, SIGTERM.
Then it is let be. What it leaves is compared, file by file, with what one leaves that was never killed: weights, metrics,
looks, settings.
"""

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
#: What a child needs, imported once.
_PRELOADED = ["stopped_trainings", "rlhf_tuning.training.reinforcement", "rlhf_tuning.training.reward_model"]
_PRELOADED += ["rlhf_tuning.training.supervised", "rlhf_tuning.training.pair_trainer", "trl.trainer.rloo_trainer"]
_PRELOADED += ["rlhf_tuning.training.answer_trainer", "trl.trainer.grpo_trainer", "peft", "datasets"]
#: Kills before a training is let be.
_KILLS_A_TRY = 2


def main() -> int:
    """Print the table that is asked for; 1 where a training ended otherwise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("kills", "sizes"))
    parser.add_argument("--kills", type=int, default=20, help="tries of each training")
    parser.add_argument("--processes", type=int, default=1, help="that train together")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--only", metavar="TRAINING", help="one training alone")
    arguments = parser.parse_args()
    sys.path += [str(ROOT), str(ROOT / "tests/support")]
    with tempfile.TemporaryDirectory(prefix="resume-") as scratch:
        if arguments.what == "sizes":
            return sizes(Path(scratch))
        return kills(Path(scratch), arguments)


def kills(scratch: Path, arguments: argparse.Namespace) -> int:
    """Kill each training at random moments, and say how often it ended as it should."""
    os.environ |= {"OMP_NUM_THREADS": "1", "RLHF_PROCESSES": str(arguments.processes)}
    os.environ["PYTHONPATH"] = os.pathsep.join([*sys.path[-2:], os.environ.get("PYTHONPATH", "")])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    from stopped_trainings import TRAININGS, learnt

    model, prepared = scratch / "model", scratch / "prepared"
    _run(context, _prepare, model, prepared)
    print(f"{arguments.processes} processes, seed {arguments.seed}\n")
    print("| training | seconds | tries | killed | continued within | as unbroken | left behind |")
    print("|---|---|---|---|---|---|---|", flush=True)
    failed = 0
    for kind in [arguments.only] if arguments.only else TRAININGS:
        draw = random.Random(f"{arguments.seed} {kind}")
        started = time.monotonic()
        _run(context, _train, kind, model, prepared, scratch / "unbroken", None)
        took = time.monotonic() - started
        expected = learnt(scratch / "unbroken")
        killed = continued = same = left = 0
        for number in range(arguments.kills):
            folder, kept, log = scratch / "broken", scratch / "kept", scratch / "log"
            for _ in range(_KILLS_A_TRY):
                stop = signal.SIGTERM if number % 3 == 2 else signal.SIGKILL
                killed += _run(
                    context, _train, kind, model, prepared, folder, kept, log, stop=stop, after=draw.uniform(0.3, took)
                )
            _run(context, _train, kind, model, prepared, folder, kept, log)
            continued += log.read_text().count(" goes on behind ")
            same += learnt(folder) == expected
            left += bool(list(kept.iterdir()))
            for path in (folder, kept):
                shutil.rmtree(path)
            log.unlink()
        shutil.rmtree(scratch / "unbroken")
        failed += same < arguments.kills or left
        print(f"| {kind} | {took:.1f} | {arguments.kills} | {killed} | {continued} | {same} | {left} |", flush=True)
    return int(bool(failed))


def _run(context: Any, work: Callable[..., None], *given: Any, stop: int = 0, after: float = 0.0) -> bool:
    """Run in a process of its own; kill it after some seconds where it still runs, and say whether that was so."""
    process = context.Process(target=_apart, args=(work, given))
    process.start()
    process.join(after if stop else None)
    killed = process.is_alive()
    if killed:
        os.killpg(process.pid, stop)
    process.join()
    if not killed and process.exitcode:
        raise SystemExit(f"{work.__name__} {given[0]} ended with status {process.exitcode}")
    return killed


def _apart(work: Callable[..., None], given: tuple[Any, ...]) -> None:
    os.setpgid(0, 0)
    work(*given)


def _prepare(model: Path, folder: Path) -> None:
    from stopped_trainings import prepare
    from tests.conftest import CHAT_TEMPLATE, make_model

    make_model(model, chat_template=CHAT_TEMPLATE)
    prepare(model, folder)


def _train(
    kind: str, model: Path, prepared: Path, folder: Path, kept: Path | None, log: Path = Path(os.devnull)
) -> None:
    from stopped_trainings import train

    from rlhf_tuning.step import running_step
    from rlhf_tuning.training import checkpoints

    checkpoints._SAVING_SHARE = 0
    with log.open("a") as stream:
        for descriptor in (1, 2):
            os.dup2(stream.fileno(), descriptor)
    with running_step(kind):  # which ends several processes in order
        train(kind, model, prepared, folder, kept)


def sizes(scratch: Path) -> int:
    """Train models of several sizes for a few steps, and say how large their checkpoints are and how long they take."""
    import torch
    from benchmarks import scale
    from process_phases import train_supervised, write_data

    from rlhf_tuning.training import checkpoints

    checkpoints._SAVING_SHARE = 0
    save = checkpoints.Checkpoints._save
    found: list[tuple[float, int]] = []

    def measured(self: Any, settled: Any) -> None:
        started = time.monotonic()
        save(self, settled)
        seconds = time.monotonic() - started
        found.append((seconds, sum(file.stat().st_size for file in (scratch / "kept").rglob("*"))))

    checkpoints.Checkpoints._save = measured  # type: ignore[method-assign]
    print(f"{os.cpu_count()} cores, torch {torch.__version__}\n")
    print("| model | learns | size, MB | seconds | megabytes a second | in 30 s, GB |")
    print("|---|---|---|---|---|---|", flush=True)
    for name in (*scale.SHAPES, "135m"):
        model = scale.reference(scale.Case(model=name), scratch)
        if name != "135m":
            scale.write_model(Path(model), scale.SHAPES[name])
        for rank in (16, 0):
            folder = scratch / "run"
            write_data(folder)
            found.clear()
            settings = {"checkpoint_dir": scratch / "kept", "checkpoint_interval": 1e-9, "lora_dim": rank}
            with redirect_stdout(sys.stderr):
                train_supervised(model, folder, train_steps=5, **settings)
            seconds, size = sorted(found)[len(found) // 2]
            pace = size / seconds / 1e6
            learns = f"LoRA {rank}" if rank else "all weights"
            print(f"| {name} | {learns} | {size / 1e6:,.0f} | {seconds:.2f} | {pace:,.0f} | {pace * 30 / 1e3:.1f} |")
            shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
