"""Trainings that are killed and continued, and what checkpoints take.

    python benchmarks/resume.py kills --kills 20               # every training step, killed at random moments
    python benchmarks/resume.py kills --kills 20 --processes 2
    python benchmarks/resume.py sizes                          # on a quiet machine

Each try kills a training of a tiny model (two layers) twice, at random moments from its first step on: by SIGKILL, and then
by SIGTERM. Then it is let be. What it leaves is compared, file by file, with what one leaves that was never killed: weights,
metrics, looks, settings.
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
#: In the log of a training that begins, or goes on.
_FIRST_STEP = ": step 0/"


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
        log = scratch / "log"
        took = _run(context, _train, kind, model, prepared, scratch / "unbroken", None, log)
        log.unlink()
        expected = learnt(scratch / "unbroken")
        killed = continued = same = left = 0
        for _ in range(arguments.kills):
            folder, kept = scratch / "broken", scratch / "kept"
            for stop in (signal.SIGKILL, signal.SIGTERM):
                moment = draw.random() * took
                killed += not _run(context, _train, kind, model, prepared, folder, kept, log, stop=stop, after=moment)
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


def _run(
    context: Any, work: Callable[..., None], *given: Any, stop: signal.Signals | None = None, after: float = 0.0
) -> float:
    """Run in a process of its own, and return how long it took from its first step on; 0 where it was killed.

    Args:
        context: Of multiprocessing.
        work: What to run.
        given: Its arguments; of a training the last is its log.
        stop: The signal that kills it; None to let it be.
        after: Seconds after the first step.
    """
    begun = given[-1].read_text().count(_FIRST_STEP) if given[-1].is_file() else 0
    process = context.Process(target=_apart, args=(work, given))
    process.start()
    while process.is_alive() and not (given[-1].is_file() and given[-1].read_text().count(_FIRST_STEP) > begun):
        time.sleep(0.01)
    started = time.monotonic()
    process.join(after if stop else None)
    if stop and process.is_alive():
        os.killpg(process.pid, stop)
        process.join()
        return 0.0
    if process.exitcode:
        raise SystemExit(f"{work.__name__} {given[0]} ended with status {process.exitcode}")
    return time.monotonic() - started


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
