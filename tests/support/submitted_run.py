"""Runs a submitted Vertex job with kfp's local runner: what Vertex would do with the same spec and runtime config.

Data on `gs://` is read through `STORAGE_EMULATOR_HOST`; what the run writes stays in a folder. With that folder below
`RLHF_GCS_MOUNT`, where steps find buckets, it has a `gs://` address too, as on Vertex.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from google.cloud import aiplatform_v1 as v1
from google.protobuf import json_format
from vertex_service import LOCATION, PROJECT, TaskEnd

_RUN = """
import json, sys
from kfp import components, local
from rlhf_pipelines.local.preloaded_steps import preload_steps
spec, values, folder = json.load(sys.stdin)
preload_steps([part["container"]["image"] for part in spec["deploymentSpec"]["executors"].values() if "container" in part])
local.init(
    runner=local.SubprocessRunner(use_venv=False),
    pipeline_root=folder + "/root",
    workspace_root=folder + "/workspace",  # is removed at the end
    raise_on_error=True,
)
task = components.load_component_from_text(json.dumps(spec))(**values)
with open(folder + "/outputs.json", "w") as file:
    json.dump({k: v for k, v in task.outputs.items() if isinstance(v, (str, int, float, bool))}, file)
"""


def local_executor(folder: Path, environment: Mapping[str, str]) -> Callable[[v1.PipelineJob], Mapping[str, TaskEnd]]:
    """Return what `VertexService.run_job` takes: a job is run in `folder`, with `environment` for its steps."""

    def run(job: v1.PipelineJob) -> Mapping[str, TaskEnd]:
        message = v1.PipelineJob.pb(job)
        spec = json.dumps(json_format.MessageToDict(message.pipeline_spec))
        for placeholder, value in {
            "pipeline_google_cloud_project_id": PROJECT,
            "pipeline_google_cloud_location": LOCATION,
            "pipeline_job_resource_name": job.name,
            "pipeline_service_account": job.service_account,
        }.items():
            spec = spec.replace("{{$." + placeholder + "}}", value)
        loaded = json.loads(spec)
        _forget_retries(loaded)
        values = json_format.MessageToDict(message.runtime_config)["parameterValues"]
        types = loaded["root"]["inputDefinitions"]["parameters"]
        for name, value in values.items():  # whole numbers came as doubles
            values[name] = int(value) if types[name]["parameterType"] == "NUMBER_INTEGER" else value
        root = folder / job.name.rpartition("/")[2]
        root.mkdir(parents=True)
        ran = subprocess.run(
            [sys.executable, "-c", _RUN],
            input=json.dumps([loaded, values, str(root)]),
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **environment},
        )
        (root / "log.txt").write_text(ran.stdout + ran.stderr)
        if ran.returncode:
            return {"": TaskEnd(state="FAILED", error=(ran.stdout + ran.stderr)[-2000:])}
        return {"": TaskEnd(outputs=json.loads((root / "outputs.json").read_text()))}

    return run


def _forget_retries(spec: dict[str, Any]) -> None:
    """kfp's local runner sits out the waits between retries, half a minute to five, which no test needs."""
    for graph in (spec["root"], *spec["components"].values()):
        for task in graph.get("dag", {}).get("tasks", {}).values():
            task.pop("retryPolicy", None)
