"""Starts the steps that need torch as copies of a process that has imported it, under kfp's local runner.

Importing torch, transformers and TRL takes seconds, and six steps of a tuning run would each do it. Instead one process, the
fork server of Python's multiprocessing, does it once, while the data is being checked; such a step is then a copy of it
(fork), with everything else as kfp starts it: its own process, its program, its arguments, its output. Steps that need no
torch start kfp's way, and so do all where copies are not safe: on a machine with a GPU, which a copied process may not be
able to use, and off Linux.
"""

import atexit
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Collection
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rlhf_pipelines.executor_command import program_and_arguments
from rlhf_tuning.images import TRAINER_IMAGE

#: What the steps import between them.
_MODULES = [
    "kfp.dsl.executor_main",
    "rlhf_pipelines.local.local_run",
    "rlhf_tuning.reports.saved_report",
    "rlhf_tuning.reports.run_report",
    "rlhf_tuning.training.reinforcement",
    "rlhf_tuning.training.reward_model",
    "rlhf_tuning.training.pair_trainer",
    "rlhf_tuning.evaluation.evaluate",
    "rlhf_tuning.generation.inference",
    "trl.trainer.rloo_trainer",
    "datasets",
    "peft",
]

#: By which a machine shows an NVIDIA or an AMD GPU.
_GPU_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/kfd"))


def preload_steps(images: Collection[str]) -> bool:
    """Have kfp's SubprocessRunner start the steps of the trainer's image so, where that is safe, and say whether it does.

    Args:
        images: Those of the pipeline's steps.
    """
    if TRAINER_IMAGE not in images:
        return False
    if sys.platform != "linux" or any(device.exists() for device in _GPU_DEVICES):
        return False
    from kfp.local import status
    from kfp.local.subprocess_task_handler import SubprocessTaskHandler

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_MODULES)
    start_here = SubprocessTaskHandler.run

    def run(handler: Any) -> Any:
        # Also for a step that needs none of it: what it leaves of the machine does the importing for the next.
        forkserver.ensure_running()
        program = program_and_arguments(handler.full_command)
        # What has been imported has read its settings from the environment, so a step with one of its own starts anew.
        if handler.image != TRAINER_IMAGE or program is None or handler.env_vars:
            return start_here(handler)
        code = run_copy(context, *program)
        return status.Status.SUCCESS if code == 0 else status.Status.FAILURE

    SubprocessTaskHandler.run = run
    return True


def run_copy(context: Any, source: str, arguments: list[str]) -> int:
    """Run a component in a copy of the fork server, print what it prints, and return its exit status.

    Args:
        context: Of multiprocessing, with the fork server.
        source: The component's program.
        arguments: The executor's.
    """
    reader, writer = context.Pipe(duplex=False)
    step = context.Process(target=_be_step, args=(source, arguments, dict(os.environ), writer))
    step.start()
    writer.close()
    with open(reader.fileno(), encoding="utf-8", errors="replace", closefd=False) as output:
        for line in output:
            print(line, end="")
    reader.close()
    step.join()
    code = int(step.exitcode)
    if code < 0:
        print(signal.strsignal(-code))  # as a shell says it: "Killed"
    return code


def _be_step(source: str, arguments: list[str], variables: dict[str, str], output: Connection) -> None:
    """Be the step: in a fresh copy of the fork server, whose output goes where this step's shall go."""
    from kfp.dsl.executor_main import executor_main

    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    output.close()
    os.environ.clear()
    os.environ.update(variables, _KFP_RUNTIME="true")
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "ephemeral_component.py"
        program.write_text(source, encoding="utf-8")
        sys.argv = ["executor_main", "--component_module_path", str(program), *arguments]
        try:
            executor_main()
        finally:
            atexit._run_exitfuncs()  # which multiprocessing leaves out
