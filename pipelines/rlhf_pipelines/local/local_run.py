"""The process that runs a pipeline under kfp's local runner: `python -m rlhf_pipelines.local.local_run REQUEST.json`.

`rlhf run` starts it, so that importing kfp, running the steps and being stopped happen apart from the command that
watches. It prints kfp's log, the steps' output and our events; the pipeline's outputs go to a file.
"""

import importlib
import json
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rlhf_pipelines.local.containers.engine import check_images, connect, remove_containers
from rlhf_pipelines.local.containers.mounts import expand_home
from rlhf_pipelines.local.containers.task import choose_settings, run_kfp_tasks_with
from rlhf_pipelines.local.expected_time import announce_expected_time
from rlhf_pipelines.local.preloaded_steps import preload_steps
from rlhf_tuning.data.output import written_together
from rlhf_tuning.errors import RlhfError
from rlhf_tuning.parameters import Value
from rlhf_tuning.step import emit

#: Artifacts that a run ends with, also where a nested pipeline made them.
_KEPT = ("summary", "report", "data_report", "model", "adapter", "reward_model")


@dataclass(frozen=True, kw_only=True)
class Containers:
    """That the steps run in containers.

    Args:
        run_id: Marks the containers of this run.
        images: The components' image to the one that takes its place.
    """

    run_id: str
    images: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What to run.

    Args:
        target: The pipeline function, as `module:name`.
        arguments: Its arguments.
        pipeline_root: Folder that receives what the steps write, and the cache.
        caching: Whether finished steps of earlier runs may be used.
        outputs: File that receives the pipeline's outputs.
        containers: That the steps run in containers; None for processes.
    """

    target: str
    arguments: dict[str, Value]
    pipeline_root: str
    caching: bool
    outputs: str
    containers: Containers | None = None

    def write(self, file: Path) -> None:
        """Write the request for the process that runs it."""
        file.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, file: Path) -> "RunRequest":
        """Read what `write` wrote."""
        fields = json.loads(file.read_text(encoding="utf-8"))
        containers = fields.pop("containers")
        return cls(**fields, containers=Containers(**containers) if containers else None)


def main(request_file: str) -> int:
    """Run the request; return 0 when every step ended well. What failed has then been printed as an event."""
    request = RunRequest.read(Path(request_file))
    _die_with_parent(request.containers)
    # kfp reports cached tasks through the root logger, outside of the handler that it sets up for a task.
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s.%(msecs)03d - %(levelname)s - %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stdout,
    )
    try:
        outputs = _run(request)
    except _StepFailedError as error:
        print(error, flush=True)
        return 1
    except RlhfError as error:
        emit("error", step="", text=str(error), status=error.exit_status)
        return 1
    except Exception as error:
        traceback.print_exc()
        emit("error", step="", text=f"{type(error).__name__}: {error}", status=1)
        return 1
    with written_together(request.outputs) as (stream,):
        stream.write(json.dumps(outputs, indent=2).encode())
    return 0


class _StepFailedError(Exception):
    """kfp's word that a step failed; the step has said why."""


def _run(request: RunRequest) -> dict[str, object]:
    from kfp import local

    _keep_steps_with_metrics()
    nested = _artifacts_of_nested_pipelines()
    # True of every local run, and said for every task.
    warnings.filterwarnings("ignore", message="Task .* have no effect in the current local runner")
    warnings.filterwarnings("ignore", message="You may be attem.*custom or non-Python base image")
    module, _, name = request.target.partition(":")
    pipeline: Any = vars(importlib.import_module(module))[name]
    root = Path(request.pipeline_root)
    arguments = request.arguments
    executors = pipeline.pipeline_spec.deployment_spec["executors"].values()
    images = [executor["container"]["image"] for executor in executors if "container" in executor]
    if request.containers:
        arguments = expand_home(arguments)
        _run_steps_in(request.containers, arguments, root, images)
    else:
        announce_expected_time(arguments, preloaded=preload_steps(images))
    local.init(
        runner=local.DockerRunner() if request.containers else local.SubprocessRunner(use_venv=False),
        pipeline_root=str(root),
        workspace_root=str(root / ".workspace"),  # kfp would make, and leave, an empty folder elsewhere
        enable_caching=request.caching,
        cache_root=str(root / ".cache"),
    )
    supervises = bool(arguments.get("supervised_dataset") or arguments.get("supervise_on_preferred"))
    emit("plan", steps=planned_steps(pipeline.pipeline_spec, {"supervises": supervises}))
    try:
        task = pipeline(**arguments)
    except RuntimeError as error:
        if "Inner task failed" in str(error):
            raise _StepFailedError(error) from None
        raise
    kept = {name: artifact for name, artifact in nested.items() if name in _KEPT}
    return _described({**kept, **task.outputs})


def _run_steps_in(containers: Containers, arguments: dict[str, Value], root: Path, images: Sequence[str]) -> None:
    """Check that the engine has the pipeline's images, and tell kfp how to start them."""
    client = connect()
    try:
        check_images(client, [containers.images.get(image, image) for image in images])
        settings = choose_settings(
            run_id=containers.run_id,
            images=containers.images,
            arguments=arguments,
            pipeline_root=root,
            engine=client.info(),
            environ=os.environ,
        )
    finally:
        client.close()
    run_kfp_tasks_with(settings)


def _artifacts_of_nested_pipelines() -> dict[str, Any]:
    """Return a dictionary that fills with the artifacts that nested pipelines hand on, by their names there.

    kfp's local runner lets no pipeline return an artifact of what runs under a condition.
    """
    from kfp import dsl
    from kfp.local.orchestrator.orchestrator_utils import OrchestratorUtils

    found: dict[str, Any] = {}
    original = OrchestratorUtils.get_dag_outputs

    def get_dag_outputs(**arguments: Any) -> dict[str, Any]:
        outputs: dict[str, Any] = original(**arguments)
        found.update({name: value for name, value in outputs.items() if isinstance(value, dsl.Artifact)})
        return outputs

    OrchestratorUtils.get_dag_outputs = staticmethod(get_dag_outputs)
    return found


def _keep_steps_with_metrics() -> None:
    """Let kfp's cache keep steps that have metrics.

    Metrics are all metadata and have no file, but an entry of the cache that lacks a file counts as stale: without this
    every step that reports metrics, which is every long one, would run again.
    """
    from kfp import dsl
    from kfp.local import cache

    class MetricsCache(cache.LocalCache):  # type: ignore[misc]  # kfp ships no types
        def put(self, key: str, outputs: dict[str, Any]) -> None:
            for value in outputs.values():
                if isinstance(value, dsl.Metrics | dsl.ClassificationMetrics):
                    Path(value.path).touch()
            super().put(key, outputs)

    cache.LocalCache = MetricsCache


def planned_steps(spec: Any, known: Mapping[str, bool]) -> list[dict[str, str]]:
    """Return the steps of a compiled pipeline and of those nested in it: kfp's task and component names, and ours.

    Of the branches of a condition the first counts: of the others none runs when that does.

    Args:
        spec: The pipeline.
        known: What steps will say that conditions ask about, by the names of their outputs; there the branch is known.
    """

    def runs(condition: str) -> bool:
        negated = condition.startswith("!(")
        asked = [value for name, value in known.items() if f"-{name}']" in condition]
        return asked[0] is not negated if asked else not negated

    def walk(component: Any) -> Iterator[dict[str, str]]:
        for task_name, task in component.dag.tasks.items():
            if task.trigger_policy.condition and not runs(task.trigger_policy.condition):
                continue
            inner = spec.components[task.component_ref.name]
            if inner.WhichOneof("implementation") == "dag":
                yield from walk(inner)
            else:
                yield {
                    "task": task_name,
                    "component": task.component_ref.name.removeprefix("comp-"),
                    "name": task.task_info.name,
                }

    return list(walk(spec.root))


def _described(outputs: dict[str, Any]) -> dict[str, object]:
    """Return a pipeline's outputs as JSON can hold them."""
    from kfp import dsl

    parameters: dict[str, object] = {}
    artifacts: dict[str, object] = {}
    for name, value in outputs.items():
        if isinstance(value, dsl.Artifact):
            artifacts[name] = {"type": type(value).__name__, "path": value.path, "metadata": dict(value.metadata)}
        else:
            parameters[name] = value
    return {"parameters": parameters, "artifacts": artifacts}


def _die_with_parent(containers: Containers | None) -> None:
    """End this whole process group when the command that started it dies without a chance to end it.

    Its end of our standard input closes then. The steps get an empty standard input. Containers are no processes of the
    group, and are ended first.
    """
    if os.getpgrp() != os.getpid():
        return  # started by hand: the group is not ours to end
    pipe = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)

    def watch() -> None:
        while os.read(pipe, 1024):
            pass
        if containers:
            with suppress(RlhfError):
                remove_containers(containers.run_id)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
