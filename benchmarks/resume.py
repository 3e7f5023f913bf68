"""Trainings that are killed and continued, and what checkpoints take.

    python benchmarks/resume.py kills --kills 20               # every training step, killed at random moments
    python benchmarks/resume.py kills --kills 20 --processes 2
    python benchmarks/resume.py pipeline --kills 3             # the whole job, killed in three of its trainings
    python benchmarks/resume.py sizes                          # on a quiet machine

Each try kills a training of a tiny model (two layers) twice, at random moments from its first step on: by SIGKILL, and then
by SIGTERM. Then it is let be. What it leaves is compared, file by file, with what one leaves that was never killed: weights,
metrics, looks, settings.

`pipeline` runs supervised tuning, reward models, reinforcement learning, evaluation and gate by `rlhf run`. In each try
`kill -9` ends the command at a random step of three trainings, and the same command goes on. What evaluation and gate leave
is compared, but for times, with what they leave in a run that was never killed.
"""

import argparse
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
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
#: Where the trainings of a whole job are, in the order in which they run; and how long each is.
_TRAININGS_OF_A_JOB = ("train-supervised", "train-reward-model", "train-policy")
_STEPS_OF_A_TRAINING = 60
#: What an evaluation tells of times.
_TIMES = ("seconds", "seconds_per_step", "tokens_per_second", "step_times")


def main() -> int:
    """Print the table that is asked for; 1 where a training ended otherwise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("kills", "pipeline", "sizes"))
    parser.add_argument("--kills", type=int, default=20, help="tries of each training")
    parser.add_argument("--processes", type=int, default=1, help="that train together")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--only", metavar="TRAINING", help="one training alone")
    arguments = parser.parse_args()
    sys.path += [str(ROOT), str(ROOT / "tests/support")]
    with tempfile.TemporaryDirectory(prefix="resume-") as scratch:
        match arguments.what:
            case "sizes":
                return sizes(Path(scratch))
            case "pipeline":
                return pipeline(Path(scratch), arguments)
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
        said = given[-1].read_text()[-4000:] if given[-1].is_file() else ""
        raise SystemExit(f"{work.__name__} {given[0]} ended with status {process.exitcode}: {said}")
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


def pipeline(scratch: Path, arguments: argparse.Namespace) -> int:
    """Kill the whole job in three of its trainings, and say how often it ended as it should."""
    from benchmarks.budget import prepare

    values = prepare(scratch, "rlhf_pipeline", _STEPS_OF_A_TRAINING)
    demonstrations = [{"input_text": f"Create {number}.", "output_text": "salt and gulls"} for number in range(200)]
    (scratch / "demonstrations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in demonstrations))
    values |= {
        "supervised_dataset": str(scratch / "demonstrations.jsonl"),
        "supervised_train_steps": _STEPS_OF_A_TRAINING,
        "checkpoint_interval": 0.001,
        "scorer": "house_style",
        "registry_dir": "registry",
    }
    (scratch / "values.json").write_text(json.dumps(values))
    expected = _outcome(_run_job(scratch / "unbroken"))
    draw, failed = random.Random(arguments.seed), 0
    print(f"{_STEPS_OF_A_TRAINING} steps of each training, seed {arguments.seed}\n")
    print(
        "| try | killed behind step | went on behind step | as unbroken | left behind |\n|---|---|---|---|---|",
        flush=True,
    )
    for number in range(1, arguments.kills + 1):
        folder = scratch / str(number)
        moments = {training: draw.randrange(1, _STEPS_OF_A_TRAINING - 1) for training in _TRAININGS_OF_A_JOB}
        for training, moment in moments.items():
            _run_job(folder, training, moment)
        outcome = _outcome(_run_job(folder))
        other = [name for name in expected if outcome[name] != expected[name]]
        left = list((folder / "runs" / ".checkpoints").iterdir())
        logs = "".join(log.read_text() for log in sorted((folder / "runs" / "logs").glob("*.log")))
        went_on = re.findall(r" goes on behind step (\d+)", logs)
        told = f"no: {', '.join(other)}" if other else "yes"
        print(
            f"| {number} | {', '.join(map(str, moments.values()))} | {', '.join(went_on)} | {told} | {len(left)} |",
            flush=True,
        )
        failed += bool(other or left)
    return int(bool(failed))


def _run_job(home: Path, training: str = "", moment: int = 0) -> Path:
    """Run the job in a folder, and return that of the run; with a training, kill it behind some step of it."""
    home.mkdir(exist_ok=True)
    before = set((home / "runs").glob("rlhf-pipeline-*"))
    command = [
        sys.executable,
        "-m",
        "rlhf_pipelines.cli",
        "run",
        "--parameter-values",
        str(home.parent / "values.json"),
    ]
    with (home / "output").open("wb") as output:
        job = subprocess.Popen(
            command, cwd=home, stdout=output, stderr=output, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        while training and job.poll() is None:
            new = [run for run in (home / "runs").glob(f"*/{training}/*/metrics.jsonl") if run.parents[2] not in before]
            if new and len(new[0].read_text().splitlines()) >= moment:
                job.kill()
            time.sleep(0.02)
        job.wait()
    if job.returncode != (-signal.SIGKILL if training else 0):
        raise SystemExit(f"status {job.returncode}: {(home / 'output').read_text()[-2000:]}")
    (run,) = set((home / "runs").glob("rlhf-pipeline-*")) - before
    return run


def _outcome(run: Path) -> dict[str, str]:
    """Return what evaluation and gate left, without places and times."""
    where = re.compile(rf"{run.parents[1]}|rlhf-pipeline-[-\d]+")
    found = {
        name: where.sub("", (run / "evaluate" / name).read_text()) for name in ("evaluation", "decision", "summary")
    }
    evaluation = json.loads(
        found["evaluation"], object_hook=lambda fields: {name: fields[name] for name in fields if name not in _TIMES}
    )
    del evaluation["report"]["steps"]
    return found | {"evaluation": json.dumps(evaluation)}


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
