import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from rlhf_pipelines.local import process_group
from rlhf_pipelines.local.process_group import Ended, run_in_group


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What happens is noticed sooner than people need."""
    monkeypatch.setattr(process_group, "_POLL_SECONDS", 0.02)


def run(
    code: str, *, after: Sequence[float] = (), number: signal.Signals = signal.SIGTERM, grace: float = 5.0
) -> tuple[Ended, list[str]]:
    """Run Python code in a group; send this process a signal, once or more, so many seconds `after` its first line."""
    lines: list[str] = []

    def take(line: str) -> None:
        lines.append(line)
        if len(lines) == 1:
            for seconds in after:
                threading.Timer(seconds, os.kill, (os.getpid(), number)).start()

    ended = run_in_group(
        [sys.executable, "-u", "-c", code],
        env=dict(os.environ),
        on_line=take,
        on_tick=lambda: None,
        on_stopping=lambda number: lines.append(f"stopping {number.name}"),
        grace_seconds=grace,
    )
    return ended, lines


def is_alive(pid: int) -> bool:
    """Say whether a process is there a moment after it was killed; one that waits to be reaped is not."""
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return False
        if state == "Z":
            return False
        time.sleep(0.02)
    return True


def test_lines_and_status_come_back() -> None:
    ended, lines = run("import sys; print('a'); print('b', file=sys.stderr); print('c', end=''); sys.exit(3)")
    assert lines == ["a", "b", "c"]
    assert ended == Ended(3, None)


def test_carriage_returns_end_lines_and_broken_bytes_do_not_stop_the_run() -> None:
    _, lines = run(r"import sys; sys.stdout.buffer.write(b'1%\r2%\r\nna\xc3\xafve \xff\n')")
    assert lines == ["1%", "2%", "naïve \ufffd"]


def test_command_that_was_killed_is_told_by_its_status() -> None:
    ended, _ = run("import os; os.kill(os.getpid(), 9)")
    assert ended == Ended(-9, None)


SPAWN = "import subprocess, time; print(subprocess.Popen(['sleep', '600']).pid, flush=True); "


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_stops_the_whole_group(number: signal.Signals) -> None:
    started = time.monotonic()
    ended, lines = run(SPAWN + "time.sleep(600)", after=[0.1], number=number, grace=60.0)
    assert ended.stopped_by == number
    assert lines[1] == f"stopping {number.name}"
    assert time.monotonic() - started < 60  # without the grace
    assert not is_alive(int(lines[0]))


def test_group_that_ignores_the_request_is_killed_after_the_grace() -> None:
    code = "import signal; signal.signal(15, signal.SIG_IGN); " + SPAWN + "time.sleep(600)"
    ended, lines = run(code, after=[0.1], grace=0.5)
    assert ended == Ended(-signal.SIGKILL, signal.SIGTERM)
    assert not is_alive(int(lines[0]))


def test_grandchild_has_the_grace_to_end_cleanly_after_the_command_is_gone(tmp_path: Path) -> None:
    tidy = (
        "import signal, sys, time, pathlib\n"
        "def tidy(*_): time.sleep(0.3); pathlib.Path(sys.argv[1]).touch(); sys.exit()\n"
        "signal.signal(15, tidy); pathlib.Path(sys.argv[2]).touch(); time.sleep(600)"
    )
    tidied, ready = tmp_path / "tidied", tmp_path / "ready"
    code = (
        "import os, subprocess, sys, time\n"
        f"command = [sys.executable, '-c', {tidy!r}, {str(tidied)!r}, {str(ready)!r}]\n"
        "subprocess.Popen(command, stdout=subprocess.DEVNULL)\n"
        f"while not os.path.exists({str(ready)!r}): time.sleep(0.02)\n"
        "print('ready', flush=True); time.sleep(600)"
    )
    ended, _ = run(code, after=[0.1])
    assert ended == Ended(-signal.SIGTERM, signal.SIGTERM)
    assert tidied.exists()


def test_second_signal_kills_at_once() -> None:
    started = time.monotonic()
    code = "import signal; signal.signal(15, signal.SIG_IGN); print(1, flush=True); import time; time.sleep(600)"
    ended, _ = run(code, after=[0.1, 0.4], grace=60)
    assert ended.returncode == -signal.SIGKILL
    assert time.monotonic() - started < 60  # without the grace


def test_process_that_the_command_leaves_behind_is_ended() -> None:
    ended, lines = run(SPAWN)
    assert ended == Ended(0, None)
    assert not is_alive(int(lines[0]))


def test_command_that_closes_its_output_is_waited_for() -> None:
    ended, _ = run("import os, time; os.close(1); os.close(2); time.sleep(0.3); os._exit(4)")
    assert ended == Ended(4, None)


def test_error_in_the_watcher_ends_the_group() -> None:
    pids: list[int] = []

    def fail(line: str) -> None:
        pids.append(int(line))
        raise BrokenPipeError

    with suppress(BrokenPipeError):
        run_in_group(
            [sys.executable, "-u", "-c", SPAWN + "time.sleep(600)"],
            env=dict(os.environ),
            on_line=fail,
            on_tick=lambda: None,
            on_stopping=lambda number: None,
        )
    assert len(pids) == 1
    assert not is_alive(pids[0])


def test_signal_handlers_are_as_before() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    run("pass")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_hang_up_that_the_caller_ignores_does_not_stop_the_run() -> None:
    code = (
        "import os, signal; from rlhf_pipelines.local.process_group import run_in_group; import sys\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "ended = run_in_group([sys.executable, '-c', 'print(1, flush=True); import time; time.sleep(0.3)'],\n"
        "    env=dict(os.environ), on_line=lambda line: os.kill(os.getpid(), signal.SIGHUP),\n"
        "    on_tick=lambda: None, on_stopping=lambda number: None)\n"
        "print(ended.stopped_by)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "None\n"
