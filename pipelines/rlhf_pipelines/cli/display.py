"""How a run looks: sparse lines in a log or a pipe, and one live line in a terminal."""

import shutil
import textwrap
import time
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TextIO

from rlhf_pipelines.local.run_events import (
    RunFailed,
    StepFailed,
    StepFinished,
    StepMessage,
    StepProgress,
    StepStarted,
    Update,
)
from rlhf_tuning.environment import PROGRESS_SECONDS
from rlhf_tuning.step import duration

_CLEAR_LINE = "\r\x1b[2K"
_REDRAW_SECONDS = 0.2
_NAME_COLUMNS = 30
_BAR_COLUMNS = 20
_LIVE_METRICS = 3
_SPARSE_METRICS = 4
#: Below this many seconds a step's time is not worth a word.
_INSTANT = 0.5


class Display(Protocol):
    """What shows a run to somebody."""

    def show(self, update: Update) -> None:
        """Show one update."""

    def tick(self) -> None:
        """Refresh what moves by itself; called several times a second."""

    def say(self, text: str) -> None:
        """Print lines that stay."""

    def close(self) -> None:
        """Leave the output as other programs expect it."""


def choose_display(stream: TextIO, environ: Mapping[str, str]) -> Display:
    """Return the live display for a terminal that can move its cursor, and sparse lines for anything else."""
    if stream.isatty() and environ.get("TERM", "dumb") != "dumb":
        return TerminalDisplay(stream, colour="NO_COLOR" not in environ)
    return SparseDisplay(lambda line: print(line, file=stream, flush=True))


class SparseDisplay:
    """One line when a step begins, ends or speaks, and a line of progress every quarter of a minute at most.

    Args:
        write: Takes a line.
        clock: Returns the time in seconds.
        progress_seconds: Time between two lines of progress of one step.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        progress_seconds: float = PROGRESS_SECONDS,
    ) -> None:
        self._write = write
        self._clock = clock
        self._progress_seconds = progress_seconds
        self._last_progress = 0.0

    def show(self, update: Update) -> None:
        """Write the update, unless it is progress that comes too soon after the last."""
        match update:
            case StepStarted():
                self._last_progress = self._clock()
                place = f" (step {update.number} of {update.total})" if update.number else ""
                self._write(f"{update.step}: started{place}")
            case StepProgress():
                if self._clock() - self._last_progress >= self._progress_seconds:
                    self._last_progress = self._clock()
                    self._write(printable(f"{update.step}: {_progress_text(update)}"))
            case StepMessage():
                for line in _lines(update.text):
                    self._write(f"{update.step}: {line}")
            case StepFinished():
                how = (
                    "cached, finished in an earlier run" if update.cached else f"finished in {duration(update.seconds)}"
                )
                self._write(
                    printable(", ".join([f"{update.step}: {how}", *_metric_words(update.metrics)[:_SPARSE_METRICS]]))
                )
            case StepFailed():
                self._write(f"{update.step}: FAILED after {duration(update.seconds)}")
            case RunFailed():
                pass  # the command says at its end what it was

    def tick(self) -> None:
        """Do nothing: only updates make lines."""

    def say(self, text: str) -> None:
        """Write the text."""
        for line in text.split("\n"):
            self._write(line)

    def close(self) -> None:
        """Do nothing: every line is complete."""


@dataclass
class _Live:
    """What the live line shows."""

    started: StepStarted
    since: float
    progress: StepProgress | None = None


class TerminalDisplay:
    """A line for every finished step, and below them one live line that is drawn again in place.

    Args:
        stream: The terminal.
        colour: Whether to use colours.
        clock: Returns the time in seconds.
        columns: Returns the terminal's width.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        colour: bool = True,
        clock: Callable[[], float] = time.monotonic,
        columns: Callable[[], int] = lambda: shutil.get_terminal_size().columns,
    ) -> None:
        self._stream = stream
        self._clock = clock
        self._columns = columns
        self._colour = colour
        self._glyphs = _glyphs(stream.encoding or "ascii")
        self._live: _Live | None = None
        self._drawn_at = 0.0
        self._on_screen = False
        self._frame = 0

    def show(self, update: Update) -> None:
        """Print what stays, and remember what the live line must show."""
        match update:
            case StepStarted():
                self._live = _Live(update, self._clock())
                self._draw()
            case StepProgress():
                if self._live:
                    self._live.progress = update
                self.tick()
            case StepMessage():
                for line in _lines(f"{update.step}: {update.text}"):
                    self.say("\n".join(self._wrapped(line)))
            case StepFinished():
                self._live = None
                spent = "cached" if update.cached else duration(update.seconds) if update.seconds >= _INSTANT else ""
                self._print_step(self._glyphs.good, "32", update.step, spent, _metric_words(update.metrics))
            case StepFailed():
                self._live = None
                self._print_step(self._glyphs.bad, "31", update.step, f"failed after {duration(update.seconds)}", [])
            case RunFailed():
                self._live = None
                self._erase()

    def tick(self) -> None:
        """Draw the live line again when it is due."""
        if self._clock() - self._drawn_at >= _REDRAW_SECONDS:
            self._draw()

    def say(self, text: str) -> None:
        """Print lines above the live line."""
        self._erase()
        print(text, file=self._stream, flush=True)
        self._draw()

    def close(self) -> None:
        """Remove the live line."""
        self._live = None
        self._erase()

    def _print_step(self, glyph: str, colour: str, step: str, spent: str, metrics: Sequence[str]) -> None:
        head = f" {glyph} {_padded(printable(step), _NAME_COLUMNS)} {spent:<12}"
        text = _fitting(head, metrics, self._columns() - 1, separator="  ").rstrip()
        if self._colour:
            text = text.replace(glyph, f"\x1b[{colour}m{glyph}\x1b[0m", 1)
        self._erase()
        print(text, file=self._stream, flush=True)

    def _wrapped(self, line: str) -> list[str]:
        return textwrap.wrap(
            line,
            max(20, self._columns() - 1),
            initial_indent="     ",
            subsequent_indent="     ",
            break_on_hyphens=False,
        ) or [""]

    def _draw(self) -> None:
        if self._live is None:
            return
        self._drawn_at = self._clock()
        self._frame += 1
        spinner = self._glyphs.spinner[self._frame % len(self._glyphs.spinner)]
        line = self._live_line(self._live, spinner, self._columns() - 1)
        self._stream.write(_CLEAR_LINE + line)
        self._stream.flush()
        self._on_screen = True

    def _erase(self) -> None:
        if self._on_screen:
            self._stream.write(_CLEAR_LINE)
            self._stream.flush()
            self._on_screen = False

    def _live_line(self, live: _Live, spinner: str, columns: int) -> str:
        """Return the live line, cut to `columns`: the step and how far it is first, then time left, bar, metrics."""
        step = printable(live.started.step)
        elapsed = self._clock() - live.since
        progress = live.progress
        if progress is None:
            place = f"step {live.started.number} of {live.started.total}" if live.started.number else ""
            words = [word for word in (place, duration(elapsed)) if word]
            return _fitting(f" {spinner} {_padded(step, _NAME_COLUMNS)}", words, columns, separator="  ")
        count = f"{progress.done}/{progress.total} {_plural(progress.unit)}"
        is_under_way = progress.seconds_left is not None and progress.done < progress.total
        left = f"{duration(progress.seconds_left or 0)} left" if is_under_way else duration(elapsed)
        label = printable(progress.label)
        share = min(1.0, progress.done / progress.total) if progress.total else 0.0
        bar = self._glyphs.bar(share, _BAR_COLUMNS)
        metrics = _metric_words(progress.metrics)[:_LIVE_METRICS]
        name, short = f" {spinner} {_padded(step, _NAME_COLUMNS)}", f" {spinner} {step}"
        # From the fullest to the barest; the first that fits is shown.
        choices = [(name, bar, label, count, *metrics, left), (name, bar, count, *metrics, left)]
        choices += [(short, bar, count, *metrics[:some], left) for some in range(len(metrics), -1, -1)]
        choices += [(short, count, left), (short, count)]
        lines = ["  ".join(part for part in parts if part) for parts in choices]
        return next((line for line in lines if _width(line) <= columns), _cut(lines[-1], columns))


@dataclass(frozen=True)
class _Glyphs:
    good: str
    bad: str
    spinner: str
    full: str
    empty: str

    def bar(self, share: float, columns: int) -> str:
        """Return a bar of which `share` is filled."""
        filled = int(share * columns)
        return self.full * filled + self.empty * (columns - filled)


def _glyphs(encoding: str) -> _Glyphs:
    fine = _Glyphs(good="✓", bad="✗", spinner="⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", full="━", empty="╌")
    try:
        (fine.good + fine.bad + fine.spinner + fine.full + fine.empty).encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return _Glyphs(good="+", bad="x", spinner="|/-\\", full="#", empty=".")
    return fine


def _progress_text(progress: StepProgress) -> str:
    words = [
        f"{progress.label} {progress.unit} {progress.done}/{progress.total}",
        *_metric_words(progress.metrics)[:_SPARSE_METRICS],
    ]
    if progress.seconds_left is not None and progress.done < progress.total:
        words.append(f"{duration(progress.seconds_left)} left")
    return ", ".join(words)


def _metric_words(metrics: Mapping[str, float]) -> list[str]:
    return [f"{printable(name)} {value:.3g}" for name, value in metrics.items()]


def _plural(unit: str) -> str:
    return unit if unit.endswith("s") else f"{unit}s"


def _lines(text: str) -> list[str]:
    return [printable(line) for line in text.split("\n")]


def printable(text: str) -> str:
    """Return `text` on one line and without characters that move a terminal's cursor."""
    return "".join(
        " " if character.isspace() else character
        for character in text
        if character.isspace() or unicodedata.category(character)[0] != "C"
    )


def _width(text: str) -> int:
    """Return how many columns `text` takes; characters of East Asian scripts take two, combining ones none."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def _padded(text: str, columns: int) -> str:
    return text + " " * (columns - _width(text))


def _cut(text: str, columns: int) -> str:
    while text and _width(text) > columns:
        text = text[:-1]
    return text


def _fitting(head: str, words: Sequence[str], columns: int, *, separator: str) -> str:
    """Return `head` and as many whole `words` after it as `columns` hold."""
    line = head
    for word in words:
        longer = f"{line}{separator}{word}"
        if _width(longer) > columns:
            break
        line = longer
    return _cut(line, columns)
