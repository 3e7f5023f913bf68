import io
import re
from collections.abc import Callable

import pytest
from rich.console import Console

from rlhf_pipelines.cli.display import Display, SparseDisplay, TerminalDisplay, choose_display, printable
from rlhf_pipelines.local.run_events import RunMessage, StepFailed, StepFinished, StepMessage, StepProgress, StepStarted

STARTED = StepStarted("Reward Model Trainer", 2, 9)


def progress(done: int = 12, metrics: dict[str, float] | None = None) -> StepProgress:
    shown = {"loss": 0.51234, "accuracy": 0.71} if metrics is None else metrics
    return StepProgress("Reward Model Trainer", "reward model training", done, 30, "step", 185.0, shown)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A text stream with an encoding, as a terminal has."""

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def isatty(self) -> bool:
        return True

    @property
    def screen(self) -> list[str]:
        """What is to be seen, down to the line of the cursor."""
        lines = [""]
        row = 0
        for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+", self.getvalue()):
            if part == "\n":
                row += 1
                lines += [""] * (row == len(lines))
            elif part == "\x1b[1A":
                row -= 1
            elif part == "\x1b[2K":
                lines[row] = ""
            elif part[0] not in "\r\x1b":
                lines[row] += part
        return lines[: row + 1]


def terminal_display(
    columns: int = 100, encoding: str = "utf-8", clock: Callable[[], float] | None = None
) -> tuple[TerminalDisplay, Terminal]:
    terminal = Terminal(encoding)
    console = Console(file=terminal, width=columns, height=25, no_color=True, _environ={})
    return TerminalDisplay(console, clock=clock or Clock()), terminal


def test_sparse_lines_tell_start_message_and_end() -> None:
    lines: list[str] = []
    display = SparseDisplay(lines.append, Clock(), progress_seconds=15)
    for update in (
        STARTED,
        StepMessage("Reward Model Trainer", "200 rows"),
        RunMessage("About 12 minutes"),
        StepFinished("Reward Model Trainer", 185.0, {"loss": 0.5, "b": 1, "c": 2, "d": 3, "e": 4}, cached=False),
        StepFinished("Upload", 0.0, {}, cached=True),
        StepFailed("Reinforcer", 3.0, "text", 2, ()),
    ):
        display.show(update)
    assert lines == [
        "Reward Model Trainer: started (step 2 of 9)",
        "Reward Model Trainer: 200 rows",
        "About 12 minutes",
        "Reward Model Trainer: finished in 3 min 05 s, loss 0.5, b 1, c 2, d 3",
        "Upload: cached, finished in an earlier run",
        "Reinforcer: FAILED after 3 s",
    ]


def test_sparse_progress_comes_once_in_a_quarter_of_a_minute() -> None:
    clock = Clock()
    lines: list[str] = []
    display = SparseDisplay(lines.append, clock, progress_seconds=15)
    display.show(STARTED)
    for done in range(31):
        clock.now = float(done)
        display.show(progress(done))
    assert lines[1:] == [
        "Reward Model Trainer: reward model training step 15/30, loss 0.512, accuracy 0.71, 3 min 05 s left",
        "Reward Model Trainer: reward model training step 30/30, loss 0.512, accuracy 0.71",
    ]


def test_live_line_shows_bar_metrics_and_time_left() -> None:
    display, terminal = terminal_display(columns=120)
    display.show(STARTED)
    clock_moves(display)
    display.show(progress())
    line = terminal.screen[-1]
    assert "Reward Model Trainer" in line
    assert "━━━━━━━━╌" in line
    assert line.endswith("12/30 steps  loss 0.512  accuracy 0.71  3 min 05 s left")


def clock_moves(display: TerminalDisplay) -> None:
    clock = display._clock
    assert isinstance(clock, Clock)
    clock.now += 1


@pytest.mark.parametrize("columns", [1, 10, 25, 40, 50, 60, 80, 100, 200])
def test_live_line_never_wraps(columns: int) -> None:
    display, terminal = terminal_display(columns=columns)
    display.show(STARTED)
    clock_moves(display)
    display.show(progress())
    assert len(terminal.screen[-1]) < columns or columns == 1
    assert terminal.getvalue().count("\n") == 0


def test_narrow_terminal_drops_metrics_before_the_time_left() -> None:
    display, terminal = terminal_display(columns=90)
    display.show(STARTED)
    clock_moves(display)
    display.show(progress())
    assert terminal.screen[-1].endswith("╌  12/30 steps  loss 0.512  3 min 05 s left")


def test_live_line_is_drawn_in_place_and_replaced_by_the_finished_step() -> None:
    display, terminal = terminal_display()
    display.show(STARTED)
    clock_moves(display)
    display.tick()
    display.show(StepFinished("Reward Model Trainer", 185.0, {"loss": 0.5}, cached=False))
    display.close()
    assert terminal.screen == [" ✓ Reward Model Trainer           3 min 05 s    loss 0.5", ""]


def test_floods_of_progress_are_drawn_a_few_times_a_second() -> None:
    display, terminal = terminal_display()
    display.show(STARTED)
    for done in range(30):
        display.show(progress(done))
    assert terminal.getvalue().count(STARTED.step) == 1


def test_live_line_counts_the_time_of_a_step_without_progress() -> None:
    clock = Clock()
    display, terminal = terminal_display(clock=clock)
    display.show(STARTED)
    clock.now = 12.0
    display.tick()
    assert terminal.screen[-1].endswith("step 2 of 9  12 s")


def test_message_stays_above_the_live_line() -> None:
    display, terminal = terminal_display(columns=40)
    display.show(STARTED)
    display.show(StepMessage("Reward Model Trainer", "one two three four five six"))
    assert terminal.screen[:2] == ["     Reward Model Trainer: one two", "     three four five six"]
    assert "Reward Model Trainer" in terminal.screen[2]
    display.show(RunMessage("About 12 minutes"))
    assert terminal.screen[2] == "About 12 minutes"
    assert "Reward Model Trainer" in terminal.screen[3]


def test_narrow_terminal_keeps_the_time_of_a_finished_step_whole() -> None:
    display, terminal = terminal_display(columns=40)
    display.show(StepFinished("Reward Model Trainer", 185.0, {"loss": 0.5}, cached=False))
    assert terminal.screen[0] == " ✓ Reward Model Trainer      3 min 05 s"


def test_cached_step_says_so() -> None:
    display, terminal = terminal_display()
    display.show(StepFinished("Validate Inputs", 0.0, {}, cached=True))
    assert terminal.screen[0] == " ✓ Validate Inputs                cached"


def test_terminal_without_unicode_gets_plain_characters() -> None:
    display, terminal = terminal_display(encoding="ascii")
    display.show(STARTED)
    clock_moves(display)
    display.show(progress())
    display.show(StepFailed("Reward Model Trainer", 3.0, "", 1, ()))
    terminal.getvalue().encode("ascii")


def test_output_cannot_move_the_cursor() -> None:
    assert printable("a\x1b[2Jb\r\nc\u202ed") == "a[2Jb  cd"


def test_wide_characters_count_as_two_columns() -> None:
    display, terminal = terminal_display(columns=30)
    display.show(StepStarted("奖励模型训练步骤奖励模型训练步骤", 1, 2))
    assert len(terminal.screen[-1]) <= 17


@pytest.mark.parametrize(
    ("is_terminal", "environ", "kind"),
    [
        (True, {"TERM": "xterm"}, TerminalDisplay),
        (True, {"TERM": "dumb"}, SparseDisplay),
        (False, {"TERM": "xterm"}, SparseDisplay),
    ],
)
def test_live_display_is_for_terminals(is_terminal: bool, environ: dict[str, str], kind: type[Display]) -> None:
    stream = Terminal() if is_terminal else io.StringIO()
    assert isinstance(choose_display(stream, environ), kind)


def test_colour_is_left_out_when_asked() -> None:
    terminal = Terminal()
    choose_display(terminal, {"TERM": "xterm", "NO_COLOR": ""}).show(StepFinished("A", 1.0, {}, cached=True))
    assert "\x1b[3" not in terminal.getvalue()
