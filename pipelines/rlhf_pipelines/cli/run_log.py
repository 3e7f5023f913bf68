"""The log of one local run: what its process prints, with its events turned into sparse readable lines."""

import itertools
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TextIO

from rlhf_pipelines.cli.display import SparseDisplay
from rlhf_pipelines.local.run_events import Update, plain


class RunLog:
    """A log file under `<pipeline root>/logs`, named after the time at which the run started.

    Args:
        pipeline_root: The run's folder.
        now: Returns the time of day as text.
    """

    def __init__(self, pipeline_root: Path, now: Callable[[], str] = lambda: time.strftime("%H:%M:%S")) -> None:
        folder = pipeline_root / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        self._now = now
        self._file = _unused(folder, time.strftime("%Y%m%d-%H%M%S"))
        self.path = Path(self._file.name)
        self._events = SparseDisplay(self.note)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._file.close()

    def begin(self, pipeline: str, version: str, arguments: Mapping[str, object]) -> None:
        """Write what is run."""
        self.note(f"{pipeline}, rlhf-pipelines {version}")
        self.note("parameters " + json.dumps(dict(arguments), ensure_ascii=False))

    def line(self, line: str) -> None:
        """Write a line that the run's process printed."""
        text = plain(line).rstrip()
        if text:
            self._write(text)

    def show(self, update: Update) -> None:
        """Write an update, unless it is progress that comes too soon after the last."""
        self._events.show(update)

    def note(self, line: str) -> None:
        """Write a line of our own, with the time."""
        self._write(f"{self._now()} {line}")

    def _write(self, text: str) -> None:
        # A full disk must not hide what the run has to say of it on the terminal.
        with suppress(OSError):
            print(text, file=self._file, flush=True)


def _unused(folder: Path, stem: str) -> TextIO:
    """Open a file in `folder` that no other run has taken, not even one that begins now."""
    for number in itertools.count(1):
        path = folder / (f"{stem}.log" if number == 1 else f"{stem}-{number}.log")
        with suppress(FileExistsError):
            return path.open("x", encoding="utf-8", errors="backslashreplace")
    raise AssertionError
