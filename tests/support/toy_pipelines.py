"""Small pipelines for the tests of the local runner; the processes under test import them by name."""

import os
from typing import NamedTuple

from kfp import dsl

from rlhf_pipelines.local import preloaded_steps
from rlhf_tuning.images import TRAINER_IMAGE

IMAGE = "toy/light:1"

#: Whether the second step is a copy of a process; it needs no torch.
PRELOADED = bool(os.environ.get("TOY_PRELOADED"))
if PRELOADED:
    preloaded_steps._MODULES[:] = ["kfp.dsl.executor_main"]


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def prepare(text: str, ran: str, data: dsl.Output[dsl.Dataset]):
    """Write the data.

    Args:
        text: What to write.
        ran: File that gets a line each time this runs.
    """
    from rlhf_tuning.step import running_step, say

    with running_step("Prepare"):
        with open(data.path, "w") as file:
            file.write(text)
        with open(ran, "a") as file:
            file.write("prepare\n")
        say(f"{len(text)} characters")
        print("a line of the step's own output")


@dsl.component(base_image=TRAINER_IMAGE if PRELOADED else IMAGE, install_kfp_package=False)
def train(
    data: dsl.Input[dsl.Dataset], trouble: str, ran: str, model: dsl.Output[dsl.Model], metrics: dsl.Output[dsl.Metrics]
):
    """Make progress, and do as the file `trouble` says, if there is one.

    Args:
        data: The data.
        trouble: File with the word for what goes wrong.
        ran: File that gets a line each time this runs.
    """
    import multiprocessing
    import os
    import signal
    import subprocess
    import time

    from rlhf_tuning.errors import DataError
    from rlhf_tuning.step import Progress, running_step

    word = ""
    if os.path.exists(trouble):
        with open(trouble) as file:
            word = file.read()
    if word == "import":
        import no_such_module_anywhere  # noqa: F401
    with running_step("Train"):
        with open(ran, "a") as file:
            file.write("train\n")
        if multiprocessing.parent_process():
            print("a copy of a process", flush=True)
        progress = Progress("training", 20)
        for done in range(1, 21):
            progress.update(done, {"loss": 1 / done, "reward": done / 20})
        if word == "user":
            raise DataError("row 3 of prompts.jsonl has no input_text.\nAdd it.")
        if word == "crash":
            raise ZeroDivisionError("a fault of ours")
        if word == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if word.startswith("hang"):
            child = subprocess.Popen(["sleep", "600"])
            if "stubborn" in word:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            with open(ran, "a") as file:
                file.write(f"pids {os.getpid()} {child.pid}\n")
            time.sleep(600)
        with open(data.path) as source, open(model.path, "w") as file:
            file.write(source.read().upper())
        metrics.log_metric("loss", 0.05)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def report(model: dsl.Input[dsl.Model], summary: dsl.Output[dsl.Markdown]) -> str:
    """Write the summary.

    Args:
        model: The model.
    """
    from rlhf_tuning.step import running_step

    with running_step("Report"):
        with open(model.path) as file:
            text = file.read()
        with open(summary.path, "w") as file:
            file.write(f"Base   0.1\nTuned  {text}\n")
    return f"models/{text.lower()}@1"


@dsl.pipeline(name="phase")
def phase(data: dsl.Input[dsl.Dataset], trouble: str, ran: str) -> dsl.Model:
    """Train within a nested pipeline."""
    task = train(data=data, trouble=trouble, ran=ran).set_display_name("Toy Trainer")
    return task.outputs["model"]


class ToyOutputs(NamedTuple):
    """As the real pipeline: a name, and the summary that the command prints."""

    model_resource_name: str
    summary: dsl.Markdown


@dsl.pipeline(name="toy-pipeline")
def toy_pipeline(text: str, ran: str, trouble: str = "") -> NamedTuple(
    "Outputs", [("model_resource_name", str), ("summary", dsl.Markdown)]
):  # type: ignore[misc]
    """Prepare, train in a nested pipeline, report."""
    prepared = prepare(text=text, ran=ran).set_display_name("Prepare Data")
    trained = phase(data=prepared.outputs["data"], trouble=trouble, ran=ran).set_display_name("Phase")
    reported = report(model=trained.output).set_display_name("Report Results")
    return ToyOutputs(reported.outputs["Output"], reported.outputs["summary"])


@dsl.pipeline(name="plain-pipeline")
def plain_pipeline(text: str, ran: str) -> dsl.Dataset:
    """One step, no summary."""
    return prepare(text=text, ran=ran).outputs["data"]
