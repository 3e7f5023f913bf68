"""How a run looks: sparse lines in a log or a pipe, and one live line in a terminal."""

import time
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TextIO

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from rlhf_pipelines.local.run_events import (
    RunFailed,
    RunMessage,
    StepFailed,
    StepFinished,
    StepMessage,
    StepProgress,
    StepStarted,
    Update,
)
from rlhf_tuning.environment import PROGRESS_SECONDS
from rlhf_tuning.step import duration

_REDRAW_SECONDS = 0.2
_NAME_COLUMNS = 30
_BAR_COLUMNS = 20
_SEPARATOR = "  "
_INDENT = "     "
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
        return TerminalDisplay(Console(file=stream, force_terminal=True, no_color="NO_COLOR" in environ))
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
            case RunMessage():
                self._write(printable(update.text))
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
class _Running:
    """The step that the live line shows."""

    started: StepStarted
    since: float
    progress: StepProgress | None = None


class TerminalDisplay:
    """A line for every finished step, and below them one live line that is drawn again in place.

    Args:
        console: The terminal.
        clock: Returns the time in seconds.
    """

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._glyphs = _ASCII if console.options.ascii_only else _FINE
        self._spinner = Spinner(self._glyphs.spinner)
        self._running: _Running | None = None
        self._drawn_at = 0.0
        self._live = Live(
            self,
            console=console,
            auto_refresh=False,  # `tick` draws
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def show(self, update: Update) -> None:
        """Print what stays, and remember what the live line must show."""
        match update:
            case StepStarted():
                self._running = _Running(update, self._clock())
                self._live.start()
                self._console.show_cursor()  # rich hides it, and who is killed or suspended cannot bring it back
                self._draw()
            case StepProgress():
                if self._running:
                    self._running.progress = update
                self.tick()
            case StepMessage():
                for line in _lines(f"{update.step}: {update.text}"):
                    self.say(self._indented(line))
            case RunMessage():
                self.say(printable(update.text))
            case StepFinished():
                self._running = None
                spent = "cached" if update.cached else duration(update.seconds) if update.seconds >= _INSTANT else ""
                self._print_step(self._glyphs.good, "green", update.step, spent, _metric_words(update.metrics))
            case StepFailed():
                self._running = None
                self._print_step(self._glyphs.bad, "red", update.step, f"failed after {duration(update.seconds)}", [])
            case RunFailed():
                self.close()

    def tick(self) -> None:
        """Draw the live line again when it is due."""
        if self._running and self._clock() - self._drawn_at >= _REDRAW_SECONDS:
            self._draw()

    def say(self, text: str) -> None:
        """Print lines above the live line."""
        self._print(Text(text))

    def close(self) -> None:
        """Remove the live line."""
        self._running = None
        self._live.stop()

    def _draw(self) -> None:
        self._drawn_at = self._clock()
        self._live.refresh()

    def _print(self, text: Text) -> None:
        self._console.print(text, soft_wrap=True)  # paths and commands stay whole for whoever copies them

    def _print_step(self, glyph: str, colour: str, step: str, spent: str, metrics: Sequence[str]) -> None:
        columns = self._console.width - 1
        name = _padded(printable(step), min(_NAME_COLUMNS, columns - len(f" {glyph}  {spent}")))
        text = Text(_fitting(f" {glyph} {name} {spent:<12}", metrics, columns).rstrip())
        text.stylize(colour, 1, 1 + len(glyph))
        self._print(text)

    def _indented(self, line: str) -> str:
        parts = Text(line).wrap(self._console, max(15, self._console.width - 1 - len(_INDENT)))
        return "\n".join(f"{_INDENT}{part}".rstrip() for part in parts)

    def __rich__(self) -> Text:
        """Return the live line, as much as fits: the step and how far it is first, then time left, bar, metrics."""
        if self._running is None:
            return Text()  # between two steps
        columns = self._console.width - 1
        spinner = self._spinner.render(self._clock())
        progress = self._running.progress
        step = printable(self._running.started.step)
        name, short = f" {spinner} {_padded(step, _NAME_COLUMNS)}", f" {spinner} {step}"
        elapsed = duration(self._clock() - self._running.since)
        if progress is None:
            started = self._running.started
            place = [f"step {started.number} of {started.total}"] if started.number else []
            return Text(_fitting(name, [*place, elapsed], columns))
        count = f"{progress.done}/{progress.total} {_plural(progress.unit)}"
        is_under_way = progress.seconds_left is not None and progress.done < progress.total
        left = f"{duration(progress.seconds_left or 0)} left" if is_under_way else elapsed
        bar = self._glyphs.bar(progress.done / progress.total if progress.total else 0.0)
        metrics = _metric_words(progress.metrics)[:_LIVE_METRICS]
        # From the fullest to the barest; the first that fits is shown.
        choices = [(name, bar, printable(progress.label), count, *metrics, left), (name, bar, count, *metrics, left)]
        choices += [(short, bar, count, *metrics[:some], left) for some in range(len(metrics), -1, -1)]
        choices += [(short, count, left), (short, count)]
        lines = [_SEPARATOR.join(part for part in parts if part) for parts in choices]
        return Text(next((line for line in lines if cell_len(line) <= columns), _cut(lines[-1], columns)))


@dataclass(frozen=True)
class _Glyphs:
    good: str
    bad: str
    spinner: str
    full: str
    empty: str

    def bar(self, share: float) -> str:
        """Return a bar of which `share` is filled; rich's own shows what is left by colour alone."""
        filled = int(min(1.0, share) * _BAR_COLUMNS)
        return self.full * filled + self.empty * (_BAR_COLUMNS - filled)


_FINE = _Glyphs(good="✓", bad="✗", spinner="dots", full="━", empty="╌")
_ASCII = _Glyphs(good="+", bad="x", spinner="line", full="#", empty=".")


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


def _padded(name: str, columns: int) -> str:
    return name + " " * (columns - cell_len(name))


def _cut(line: str, columns: int) -> str:
    return set_cell_size(line, min(columns, cell_len(line)))


def _fitting(head: str, words: Sequence[str], columns: int) -> str:
    """Return `head` and as many whole `words` after it as `columns` hold."""
    line = head
    for word in words:
        longer = f"{line}{_SEPARATOR}{word}"
        if cell_len(longer) > columns:
            break
        line = longer
    return _cut(line, columns)
