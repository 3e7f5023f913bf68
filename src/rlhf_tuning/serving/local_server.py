"""A tuned model behind vLLM's OpenAI-compatible server on this machine, for as long as a block lasts.

It gets the arguments that a deployment gives it (`ServingPlan.vllm_arguments`), and what this machine needs besides.
"""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rlhf_tuning import machine, vllm_program
from rlhf_tuning.errors import ModelError, RunError, UserError
from rlhf_tuning.serving import openai_api
from rlhf_tuning.serving.vllm import ServingPlan, weight_bytes
from rlhf_tuning.vllm_program import Program, Vllm

#: Where a server listens that is for this machine alone.
HOST = "127.0.0.1"

_START_SECONDS = 1800.0


@dataclass(frozen=True, kw_only=True)
class LocalServer:
    """A server that answers. `model` is the name under which it does."""

    url: str
    model: str
    program: Program

    def wait(self) -> None:
        """Wait until it dies.

        Raises:
            RunError: When it does.
        """
        self.program.process.wait()
        raise _died(self.program)


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
    arguments = ["-m", "vllm.entrypoints.openai.api_server"]
    arguments += [f"--model={model_dir}", f"--served-model-name={model}", f"--host={host}", f"--port={port}"]
    arguments += replace(plan, gpus=gpus).vllm_arguments()
    if on_cpu:
        arguments.append("--enforce-eager")  # it would compile for many minutes
    asked_at = {"0.0.0.0": HOST, "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    with vllm_program.running(vllm, arguments) as program:
        server = LocalServer(url=f"http://{asked_at}:{port}/v1", model=model, program=program)
        _wait_until_it_answers(server)
        yield server


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


def _check_memory(model_dir: Path, model: str) -> None:
    there, needed = machine.memory(), weight_bytes(model_dir)
    if needed > there:
        raise ModelError(
            f"{model} needs {needed / 1e9:.3g} GB for its weights alone; this machine has {there / 1e9:.3g} GB of memory. "
            "Serve it where there is more."
        )


def _wait_until_it_answers(server: LocalServer) -> None:
    program = server.program
    deadline = time.monotonic() + _START_SECONDS
    while not openai_api.is_healthy(server.url):
        if program.process.poll() is not None:
            raise _died(program)
        if time.monotonic() > deadline:
            raise RunError(f"vLLM was not ready within {_START_SECONDS / 60:g} minutes. Its log: {program.log}")
        time.sleep(0.2)
    try:
        # It says that it is well also where its first answer will kill it.
        openai_api.post(server.url, "completions", {"model": server.model, "prompt": "1", "max_tokens": 1})
    except (UserError, RunError) as error:
        raise RunError(f"vLLM started but does not answer: {program.cause() or error} Its log: {program.log}") from None


def _died(program: Program) -> RunError:
    return RunError(f"{program.death()} Its log: {program.log}")
