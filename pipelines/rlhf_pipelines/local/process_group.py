"""Run a command in a process group of its own, read what it prints, and leave no process of it behind."""

import codecs
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_READ_BYTES = 65536
#: Time to end cleanly when told to stop, that of a Spot machine: a training saves what it has learnt.
GRACE_SECONDS = 30.0
#: How soon a signal to stop is noticed, and how long to wait for last words of a command that has ended.
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit status (negative: killed by that signal) and the signal that stopped us, if any."""

    returncode: int
    stopped_by: signal.Signals | None


def run_in_group(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    on_line: Callable[[str], None],
    on_tick: Callable[[], None],
    on_stopping: Callable[[signal.Signals], None],
    grace_seconds: float = GRACE_SECONDS,
) -> Ended:
    """Run `command` to its end, or until this process is told to stop by Ctrl-C, TERM or a hang-up.

    The whole group is then asked to end (TERM) and killed after `grace_seconds`, or at once at a second signal. The
    command's standard input is a pipe that closes when this process dies, however it dies, so that the command can end
    itself. Must be called from the main thread.

    Args:
        command: Program and arguments.
        env: Its whole environment.
        on_line: Called with each line of its output and errors, without the line end.
        on_tick: Called several times a second.
        on_stopping: Called once with the signal that stops the run.
        grace_seconds: Time to end cleanly after TERM.
    """
    with _signals_noted() as noted:
        process = subprocess.Popen(
            command,
            env=dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        group = _Group(process, grace_seconds, noted)
        lines = _Lines(on_line)
        try:
            _follow(group, lines, on_tick, on_stopping)
        finally:
            group.end()
        lines.close()
        return Ended(process.returncode, noted[0] if noted else None)


class _Group:
    """The processes of a command: its own and all that it started.

    Args:
        process: The command's process, which leads the group.
        grace_seconds: Time between asking the group to end and killing it.
        noted: The signals that this process has received.
    """

    def __init__(self, process: subprocess.Popen[bytes], grace_seconds: float, noted: list[signal.Signals]) -> None:
        self.process = process
        self.noted = noted
        self._grace_seconds = grace_seconds
        self._kill_at: float | None = None

    @property
    def asked(self) -> bool:
        """Say whether the group has been asked to end."""
        return self._kill_at is not None

    def ask(self) -> None:
        """Ask the group to end."""
        self._kill_at = time.monotonic() + self._grace_seconds
        self._signal(signal.SIGTERM)

    def kill_if_due(self) -> None:
        """Kill the group when it was asked long ago, or when we were told to stop twice."""
        if self._kill_at is not None and (time.monotonic() >= self._kill_at or len(self.noted) > 1):
            self._signal(signal.SIGKILL)

    def end(self) -> None:
        """Leave no process of the group alive: after the grace when it must stop, at once when it has ended."""
        if self.process.poll() is None and not self.asked:
            self.ask()
        while self.asked and self._exists() and time.monotonic() < (self._kill_at or 0) and len(self.noted) < 2:
            time.sleep(_POLL_SECONDS / 4)
        self._signal(signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()

    def _exists(self) -> bool:
        self.process.poll()
        try:
            os.killpg(self.process.pid, 0)
        except (ProcessLookupError, PermissionError):  # macOS answers a group of zombies with the second
            return False
        return True

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)


def _follow(
    group: _Group, lines: "_Lines", on_tick: Callable[[], None], on_stopping: Callable[[signal.Signals], None]
) -> None:
    """Read the command's output until it has ended, and stop it when we are told to."""
    process = group.process
    assert process.stdout is not None
    output: list[int] = [process.stdout.fileno()]
    while output or process.poll() is None:
        readable, _, _ = select.select(output, [], [], _POLL_SECONDS)
        if readable:
            chunk = os.read(output[0], _READ_BYTES)
            if chunk:
                lines.feed(chunk)
            else:
                output = []  # closed; it ends now or is busy without a word
        elif process.poll() is not None:
            return  # something it left behind still holds its output; that is ended with the group
        on_tick()
        if group.noted and not group.asked:
            group.ask()
            on_stopping(group.noted[0])
        group.kill_if_due()


@contextmanager
def _signals_noted() -> Iterator[list[signal.Signals]]:
    """Collect signals to stop instead of dying of them; one that the caller ignores (nohup) stays ignored."""
    noted: list[signal.Signals] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(signal.Signals(number))

    previous = {
        number: signal.signal(number, note) for number in _STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield noted
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _Lines:
    """Cut a stream of bytes into lines; a carriage return ends a line too, as progress bars use it."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._rest = ""

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes and hand on the lines that they complete."""
        text = self._rest + self._decoder.decode(chunk)
        *whole, self._rest = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        for line in whole:
            self._on_line(line)

    def close(self) -> None:
        """Hand on the last line when it has no end."""
        if self._rest:
            self._on_line(self._rest)
            self._rest = ""
