"""How a running step tells where it is, when it will end, what it found, and why it failed.

A step prints either sparse text lines (a container's log) or, when `rlhf run` started it, one JSON event a line, behind
the marker `@rlhf `, which the command draws live. Events: `start`, `progress`, `message`, `end`, `error`.
Of several processes (see `processes`) the main one speaks.
"""

import errno
import json
import logging
import math
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rlhf_tuning import environment
from rlhf_tuning.errors import RlhfError, RunError
from rlhf_tuning.step_times import Artifact, StepClock

EVENT_MARKER = "@rlhf "

logger = logging.getLogger(__name__)


class Metrics(Protocol):
    """What kfp's metrics are to this library."""

    def log_metric(self, metric: str, value: float) -> None:
        """Keep one value."""


def emit(event: str, **fields: object) -> None:
    """Print one event for the command that started this step; nothing when nobody listens."""
    if environment.PROGRESS == "events" and environment.is_main_process():
        print(EVENT_MARKER + json.dumps({"event": event, **fields}, ensure_ascii=True), flush=True)


def say(message: str) -> None:
    """Tell the person who watches the run one thing worth knowing."""
    if environment.PROGRESS == "events":
        emit("message", text=message)
    elif environment.is_main_process():
        print(message, flush=True)


def write_log(text: str) -> None:
    """Write into the step's log alone, whoever listens: what `rlhf run` shows at its end is not said twice."""
    print(text, flush=True)


def log_metrics(metrics: Metrics, found: Mapping[str, object]) -> None:
    """Log the numbers among what a step found; an end of an interval that is infinite is no JSON and is left out."""
    for name, value in found.items():
        if isinstance(value, int | float) and math.isfinite(value):
            metrics.log_metric(name, value)


def duration(seconds: float) -> str:
    """Return `seconds` as people read them, such as `45 s`, `3 min 05 s` or `2 h 10 min`."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def counted(count: int, noun: str) -> str:
    """Return a number of things as people read it, such as `1 prompt` or `1,200 prompts`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


class Progress:
    """Progress of one long loop: how far, the newest metrics, and an estimate of the time left.

    Args:
        label: What is counted, such as `reward model training`.
        total: How many units the loop has.
        unit: The word for one of them.
    """

    def __init__(self, label: str, total: int, unit: str = "step") -> None:
        self.label, self.total, self.unit = label, total, unit
        self._first: tuple[int, float] | None = None
        self._last_line = 0.0
        self.update(0)

    def update(self, done: int, metrics: Mapping[str, float] | None = None) -> None:
        """Report that `done` of `total` units are finished, with the newest metrics."""
        now = time.monotonic()
        if done > 0 and self._first is None:
            self._first = (done, now)
        left = self._seconds_left(done, now)
        shown = dict(metrics or {})
        if environment.PROGRESS == "events":
            emit(
                "progress",
                label=self.label,
                done=done,
                total=self.total,
                unit=self.unit,
                seconds_left=left,
                metrics=shown,
            )
            return
        if not environment.is_main_process():
            return
        if done in (0, self.total) or now - self._last_line >= environment.PROGRESS_SECONDS:
            self._last_line = now
            values = " ".join(f"{name} {value:.3g}" for name, value in shown.items())
            remaining = f", {duration(left)} left" if left is not None and done < self.total else ""
            print(f"{self.label}: {self.unit} {done}/{self.total} {values}".rstrip() + remaining, flush=True)

    def _seconds_left(self, done: int, now: float) -> float | None:
        """Estimate from the pace since the first unit, which carries the warm-up: of that one alone nothing is concluded."""
        if self._first is None or done <= self._first[0]:
            return None
        first_done, first_time = self._first
        return max(0.0, (now - first_time) / (done - first_done) * (self.total - done))


def start_log() -> None:
    """Send what libraries warn of to the step's output; of several processes all would warn of the same."""
    level = logging.WARNING if environment.is_main_process() else logging.ERROR
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", stream=sys.stdout)
    logging.captureWarnings(True)
    warnings.simplefilter("default")


@contextmanager
def running_step(
    name: str, *, inputs: Iterable[Artifact | None] = (), outputs: Iterable[Artifact] = ()
) -> Iterator[StepClock]:
    """Run a component's body: set up its log, and turn an error that a person can act on into one clear message.

    Args:
        name: The step's display name.
        inputs: Artifacts whose steps' times go on to the outputs.
        outputs: Artifacts that carry the times on to the steps that get them.

    Raises:
        SystemExit: With status 2 for an error in the inputs and 1 for any other error raised on purpose.
    """
    start_log()
    emit("start", step=name)
    clock = StepClock(name, inputs, outputs)
    try:
        with _ended_by_sigterm():
            yield clock
    except RlhfError as error:
        _fail(name, error)
    except MemoryError:
        _fail(name, RunError(_NO_MEMORY))
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            emit("error", step=name, text=f"{type(error).__name__}: {error}", status=1)
            raise
        _fail(name, RunError(_disk_error(error)))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's, of a GPU; not every step has torch
            _fail(name, RunError(_NO_MEMORY))
        emit("error", step=name, text=f"{type(error).__name__}: {error}", status=1)
        raise
    clock.hand_on()
    emit("end", step=name, seconds=round(time.monotonic() - clock.started, 1))


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let a stop or the notice of a preemption end Python in order: `finally` runs, and children are not left behind.

    The first process of a container would ignore the signal otherwise.
    """

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may choose; there it is whoever called us
        return
    previous = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


_NO_MEMORY = "Out of memory. Lower batch_size or the sequence lengths, or use a machine, or GPUs, with more of it."


def _disk_error(error: OSError) -> str:
    place = str(error.filename or error)
    if error.errno == errno.EACCES and Path(place).is_relative_to(environment.GCS_MOUNT):
        return (
            f"No permission to use {place}, which is in Cloud Storage. Grant roles/storage.objectUser on the bucket to the "
            f"account that runs this. If it has that, the mount may admit root alone, and this step is user {os.getuid()}: "
            "build the images with RUN_AS=0 (docs/operations/google-cloud.md)."
        )
    return _DISK_ERRORS[error.errno or 0].format(place)


_DISK_ERRORS = {
    errno.EACCES: "No permission to use {}. Change its owner or its mode, or choose another folder.",
    errno.EEXIST: "A file stands where a folder should be: {}. Move it, or choose another folder.",
    errno.ENOTDIR: "A file stands where a folder should be: {}. Move it, or choose another folder.",
    errno.ENOSPC: "No space left on the disk: {}. Free some space, or choose another folder.",
    errno.EROFS: "The file system is read-only: {}. Choose another folder.",
    errno.EDQUOT: "Disk quota exceeded: {}. Free some space, or choose another folder.",
}


def _fail(name: str, error: RlhfError) -> None:
    logger.debug("%s", traceback.format_exc())
    emit("error", step=name, text=str(error), status=error.exit_status)
    print(f"ERROR in step {name}: {error}", flush=True)
    raise SystemExit(error.exit_status)
