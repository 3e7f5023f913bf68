"""What happens in a local run, read from what its process prints.

Two kinds of line tell: events of our own steps (`@rlhf {...}`, see `rlhf_tuning.step`) and kfp's log of its tasks. The
second also covers steps that were cached, died without a word, or are not ours. Everything else is a step's own output.
"""

import json
import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from rlhf_tuning.step import EVENT_MARKER

_KFP_LINE = re.compile(r"^\d\d:\d\d:\d\d\.\d{3} - [A-Z]+ - (?P<message>.*)$")
_EXECUTING = re.compile(r"^Executing task '(?P<component>.+)'$")
_CACHED = re.compile(r"^Task (?P<task>\S+) cache hit \(key=")
_FINISHED = re.compile(r"^Task '(?P<component>.+)' finished with status (?P<status>SUCCESS|FAILURE)$")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
#: Lines of a step's output kept to explain its death.
_LAST_LINES = 60

_T = TypeVar("_T")


@dataclass(frozen=True)
class StepStarted:
    """A step runs now; it is the `number`th of `total` (0: unknown)."""

    step: str
    number: int
    total: int


@dataclass(frozen=True)
class StepProgress:
    """How far a loop within a step is."""

    step: str
    label: str
    done: int
    total: int
    unit: str
    seconds_left: float | None
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class StepMessage:
    """A step says something worth knowing."""

    step: str
    text: str


@dataclass(frozen=True)
class RunMessage:
    """Something worth knowing of the whole run."""

    text: str


@dataclass(frozen=True)
class StepFinished:
    """A step ended well, or its results of an earlier run were used.

    `loops` are the seconds that it spent in its loops, by the unit that they count.
    """

    step: str
    seconds: float
    metrics: Mapping[str, float]
    cached: bool
    loops: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class StepFailed:
    """A step failed. `text` is its own message, empty when it died without one: then `last_lines` may tell."""

    step: str
    seconds: float
    text: str
    status: int
    last_lines: tuple[str, ...]


@dataclass(frozen=True)
class RunFailed:
    """The run failed outside its steps."""

    text: str
    status: int


Update = StepStarted | StepProgress | StepMessage | RunMessage | StepFinished | StepFailed | RunFailed


@dataclass
class PlannedStep:
    """A step of the pipeline, by kfp's names for it and ours."""

    task: str
    component: str
    name: str
    begun: bool = False


@dataclass
class _Loop:
    """A loop of a step, from its first report to its newest."""

    label: str
    unit: str
    since: float
    until: float


@dataclass
class _Running:
    """The step that runs now."""

    step: str
    since: float
    loops: list[_Loop] = field(default_factory=list)
    metrics: Mapping[str, float] = field(default_factory=dict)
    error: tuple[str, int] | None = None
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=_LAST_LINES))


class RunFollower:
    """Turn the lines of a run into updates.

    Args:
        clock: Returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.plan: list[PlannedStep] = []
        self.finished: list[StepFinished] = []
        self.failed: list[StepFailed | RunFailed] = []
        self._clock = clock
        self._running: _Running | None = None

    @property
    def running_step(self) -> str | None:
        """Return the step that runs now."""
        return self._running.step if self._running else None

    def feed(self, line: str) -> tuple[Update | None, bool]:
        """Return what `line` reports, if anything, and whether it was an event rather than text for the log."""
        stripped = line.strip()
        if stripped.startswith(EVENT_MARKER):
            try:
                event = json.loads(stripped.removeprefix(EVENT_MARKER))
                return self._event(event), True
            except (ValueError, KeyError, TypeError):
                return None, False  # two processes wrote into one line: keep it as text
        if match := _KFP_LINE.match(plain(line)):
            return self._kfp(match["message"]), False
        if self._running and stripped:
            self._running.last_lines.append(plain(line.rstrip()))
        return None, False

    def _event(self, event: Mapping[str, object]) -> Update | None:
        kind = event["event"]
        running = self._running
        if kind == "plan":
            self.plan = [PlannedStep(**step) for step in _typed(list, event["steps"])]
        elif kind == "run_message":
            return RunMessage(str(event["text"]))
        elif kind == "error" and (running is None or not event["step"]):
            failed = RunFailed(str(event["text"]), _typed(int, event["status"]))
            self.failed.append(failed)
            return failed
        elif running is None:
            return None
        elif kind == "start":
            running.last_lines.clear()  # what kfp itself printed before the step's own words
        elif kind == "error":
            running.error = (str(event["text"]), _typed(int, event["status"]))
        elif kind == "message":
            return StepMessage(running.step, str(event["text"]))
        elif kind == "progress":
            metrics = {str(name): float(value) for name, value in _typed(dict, event["metrics"]).items()}
            # Another loop of the step may have none; the step ends with the newest that there were.
            running.metrics = metrics or running.metrics
            self._clock_loop(running, str(event["label"]), str(event["unit"]), first=event["done"] == 0)
            left = event["seconds_left"]
            return StepProgress(
                step=running.step,
                label=str(event["label"]),
                done=_typed(int, event["done"]),
                total=_typed(int, event["total"]),
                unit=str(event["unit"]),
                seconds_left=float(left) if isinstance(left, int | float) else None,
                metrics=metrics,
            )
        return None

    def _kfp(self, message: str) -> Update | None:
        if match := _EXECUTING.match(message):
            number, name = self._begin(component=match["component"])
            self._running = _Running(name, self._clock())
            return StepStarted(name, number, len(self.plan))
        if match := _CACHED.match(message):
            _, name = self._begin(task=match["task"])
            return self._finish(StepFinished(name, 0.0, {}, cached=True))
        if (match := _FINISHED.match(message)) and self._running:
            running, self._running = self._running, None
            seconds = self._clock() - running.since
            if match["status"] == "SUCCESS":
                loops = _seconds_by_unit(running.loops)
                return self._finish(StepFinished(running.step, seconds, running.metrics, cached=False, loops=loops))
            text, status = running.error or ("", 1)
            failed = StepFailed(running.step, seconds, text, status, tuple(running.last_lines))
            self.failed.append(failed)
            return failed
        return None

    def _clock_loop(self, running: _Running, label: str, unit: str, *, first: bool) -> None:
        now = self._clock()
        under_way = [loop for loop in running.loops if loop.label == label]
        if first or not under_way:
            running.loops.append(_Loop(label, unit, now, now))
        else:
            under_way[-1].until = now

    def _finish(self, finished: StepFinished) -> StepFinished:
        self.finished.append(finished)
        return finished

    def _begin(self, *, component: str | None = None, task: str | None = None) -> tuple[int, str]:
        """Mark the next planned step of that name as begun; return its place in the order of beginning and its name."""
        for planned in self.plan:
            if not planned.begun and (planned.component == component or planned.task == task):
                planned.begun = True
                return sum(step.begun for step in self.plan), planned.name
        return 0, (component or task or "").replace("-", " ").capitalize()


def _seconds_by_unit(loops: list[_Loop]) -> dict[str, float]:
    """Return the seconds spent in loops by their unit; a loop within another is part of that one."""
    found: dict[str, float] = {}
    end = 0.0
    for loop in sorted(loops, key=lambda loop: (loop.since, -loop.until)):
        seconds = loop.until - max(loop.since, end)
        if seconds > 0:
            found[loop.unit] = found.get(loop.unit, 0.0) + seconds
        end = max(end, loop.until)
    return found


def plain(text: str) -> str:
    """Return `text` without colours."""
    return _COLOUR.sub("", text)


def _typed(wanted: type[_T], value: object) -> _T:
    if not isinstance(value, wanted):
        raise TypeError(f"an event holds {value!r} where {wanted.__name__} belongs")
    return value
