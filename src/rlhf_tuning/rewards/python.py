"""A Python function, as Google's code scorer has it: `evaluate(example, response) -> float`, see `contract`.

    {"kind": "python", "function": "rewards.py"}                            the function `evaluate` of a file
    {"kind": "python", "function": "gs://bucket/rewards.py:politeness"}     another one
    {"kind": "python", "function": "my_package.rewards:politeness"}         of a module that the steps' image has
    {"kind": "python", "code": "def evaluate(example, response): ..."}      as text, which a file becomes too

It runs in processes of its own, `python_worker.py`, with a limit of time and memory, without network and without the
environment of the step, where its credentials are. Of other processes it sees neither environment nor memory, and it ends
none. One that breaks, hangs, ends its process or returns no number fails the run.

It is no wall against an enemy: the function reads what files this user may read, and writes where this user may write. But
it opens no connection.
"""

import hashlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from rlhf_tuning import environment, rewards
from rlhf_tuning import step as progress
from rlhf_tuning.errors import ParameterError
from rlhf_tuning.rewards import Answer, Example
from rlhf_tuning.rewards.contract import google_example, google_response

_WORKER = Path(__file__).with_name("python_worker.py")
_MOST_REPLY_BYTES = 2**16
#: Until the function's module is imported.
_START_SECONDS = 120.0
#: The first version of Landlock that also keeps signals in; Linux 6.12 has it, and 5.13 the first of all.
_LANDLOCK_OF_SIGNALS = 6


class Options(rewards.Options, frozen=True, kw_only=True):
    """The function and its limits: seconds for one answer, MB of each process, and how many processes there are.

    `source` is a digest of the module that `function` names, filled in where that is: another source is another reward.
    """

    function: str = "evaluate"
    code: str = ""
    source: str = ""
    timeout_s: float = 100.0
    memory_mb: int = 4096
    workers: int = 1
    clip: tuple[float, float] | None = rewards.UNIT

    @property
    def scores_anywhere(self) -> bool:
        """A module may be in the trainer's image alone."""
        return bool(self.code)

    def problem(self) -> str:
        """Return what is wrong with the options, or an empty string."""
        if not self.code and not self._file and ":" not in self.function:
            return (
                f"function is {self.function!r}; give FILE.py, FILE.py:FUNCTION or MODULE:FUNCTION, or the function itself "
                "in code."
            )
        if self.code and (self._file or ":" in self.function):
            return "function names one elsewhere, and code is given too. Give one of them."
        limits = (("timeout_s", self.timeout_s, 0, rewards.MOST_SECONDS), ("memory_mb", self.memory_mb, 63, 2**24))
        for name, value, low, high in limits:
            if not low < value <= high:
                return f"{name} is {value:g}; it must be greater than {low} and at most {high:,.0f}."
        return f"workers is {self.workers}; it must be from 1 to 64." if not 1 <= self.workers <= 64 else ""

    @property
    def _file(self) -> str:
        """Return the file that `function` names; empty for none."""
        name, colon, function = self.function.rpartition(":")
        file = name if colon and function.isidentifier() else self.function
        return file if file.endswith(".py") else ""

    def with_files(self, read: Callable[[str], str | None]) -> "Options":
        """Return the options with the code in the place of its file's name, or with the digest of its module."""
        if not self.code and not self._file and (source := _source_digest(self.function.partition(":")[0])):
            return msgspec.structs.replace(self, source=source)
        code = read(self._file) if self._file else None
        if code is None:
            return self
        function = self.function.removeprefix(self._file).removeprefix(":") or "evaluate"
        return msgspec.structs.replace(self, function=function, code=code)


def _source_digest(module: str) -> str:
    """Return a digest of all Python files of a module's package; empty where it is not at hand. None of it is run."""
    try:
        found = importlib.util.find_spec(module.partition(".")[0])
    except ValueError:
        return ""  # a module that was made by no import, such as __main__
    if found is None:
        return ""
    folders = [Path(folder) for folder in found.submodule_search_locations or ()]
    files = [(path.relative_to(folder), path) for folder in folders for path in folder.rglob("*.py")]
    if found.has_location and not folders:
        files = [(Path(), Path(str(found.origin)))]
    digest = hashlib.sha256()
    for name, path in sorted(files):
        digest.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest() if files else ""


class PythonScorer:
    """Scores by the function.

    Args:
        options: The function and its limits.
    """

    def __init__(self, options: Options) -> None:
        self._workers: list[_Worker] = []
        self._pool = ThreadPoolExecutor(options.workers)
        try:
            for _ in range(options.workers):
                self._workers.append(_Worker(options))
            landlock = min([worker.begin() for worker in self._workers])
        except BaseException:
            self.close()
            raise
        if landlock < _LANDLOCK_OF_SIGNALS:
            may = (
                "end other processes"
                if landlock
                else "read the environment and memory of other processes, and end them"
            )
            progress.say(
                f"The Python function of the reward {options.name or options.kind} could {may}: this machine's Linux has no "
                f"Landlock that would forbid it (version {landlock}; it takes {_LANDLOCK_OF_SIGNALS})"
            )

    def score(self, examples: Sequence[Example], answers: Sequence[Answer], *, step: int) -> list[float]:
        """Return what the function returns for each answer.

        Raises:
            ParameterError: If it does not return a number, or breaks a limit.
        """
        asked = list(zip(examples, answers, strict=True))
        count = len(self._workers)

        def work(index: int) -> list[float]:
            return [self._workers[index].score(*pair) for pair in asked[index::count]]

        scores = [0.0] * len(asked)
        try:
            for index, found in enumerate(self._pool.map(work, range(count))):
                scores[index::count] = found
        except BaseException:
            self.close()
            raise
        return scores

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.end()


class _Worker:
    """A process that runs the function on one answer at a time."""

    def __init__(self, options: Options) -> None:
        self._options, self._name = options, options.name or options.kind
        self._folder = TemporaryDirectory(prefix="reward-")
        self._socket, theirs = socket.socketpair()
        with theirs, (Path(self._folder.name) / "stderr").open("wb") as stderr:
            self._process = subprocess.Popen(
                # -P: what stands beside the program is not to be imported in the place of a user's module.
                [sys.executable, "-P", str(_WORKER), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                pass_fds=[theirs.fileno()],
                cwd=self._folder.name,
                env=environment.bare(self._folder.name),
                start_new_session=True,
            )

    def begin(self) -> int:
        """Have the function loaded, and return the version of Landlock that keeps the process from others; 0 for none.

        Raises:
            ParameterError: If it cannot be.
        """
        options = self._options
        reply = self._ask(
            {"function": options.function, "code": options.code, "memory": options.memory_mb * 2**20},
            seconds=_START_SECONDS,
            when="while it was loaded",
        )
        return int(reply["landlock"])

    def score(self, example: Example, answer: Answer) -> float:
        """Return what the function returns.

        Raises:
            ParameterError: If that is no number, or a limit was broken.
        """
        asked = {"example": google_example(example), "response": google_response(answer)}
        when = f"on the answer {answer.text[:80]!r} to {example['prompt'][-1]['content'][:80]!r}"
        return float(self._ask(asked, seconds=self._options.timeout_s, when=when)["score"])

    def _ask(self, message: dict[str, Any], *, seconds: float, when: str) -> dict[str, Any]:
        try:
            reply = self._reply(json.dumps(message).encode() + b"\n", time.monotonic() + seconds)
        except TimeoutError:
            raise self._error(f"took more than {seconds:g} s", when) from None
        except ValueError:
            raise self._error("wrote into the connection by which it is asked", when) from None
        except OSError:
            reply = {}
        if "error" in reply:
            raise self._error(f"failed with {reply['error']}", when)
        if not reply.keys() & {"score", "landlock"}:
            raise self._error(self._how_it_ended(), when)
        return reply

    def _reply(self, line: bytes, until: float) -> dict[str, Any]:
        self._socket.settimeout(max(until - time.monotonic(), 0.001))
        self._socket.sendall(line)
        received = b""
        while not received.endswith(b"\n") and len(received) < _MOST_REPLY_BYTES:
            self._socket.settimeout(max(until - time.monotonic(), 0.001))
            part = self._socket.recv(_MOST_REPLY_BYTES)
            if not part:
                return {}
            received += part
        reply: dict[str, Any] = json.loads(received)
        return reply

    def _how_it_ended(self) -> str:
        self._socket.close()
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "closed the connection by which it is asked"
        if status < 0:
            return f"ended its process by {signal.Signals(-status).name}: it crashed, or memory ran out"
        return f"ended its process with status {status}"

    def _error(self, what: str, when: str) -> ParameterError:
        self.end()
        return ParameterError(
            f"The reward {self._name}, a Python function, {what} {when}. It has {self._options.timeout_s:g} s for an "
            f"answer, {self._options.memory_mb:,} MB, no network, nothing of the step's environment, and no way to other "
            "processes."
        )

    def end(self) -> None:
        """End the process and all that it started."""
        self._socket.close()
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._folder.cleanup()


def make_scorer(options: Options, *, most_tokens: int) -> PythonScorer:
    """Return the scorer, with its processes started.

    Raises:
        ParameterError: If the function cannot be loaded.
    """
    return PythonScorer(options)
