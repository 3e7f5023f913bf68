"""Where the tuned model goes: the graph of each target, and the Vertex and Kubeflow phases run by kfp itself."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import yaml
from google.cloud import aiplatform_v1 as v1
from kfp import compiler
from tuned_run import write_run
from vertex_server import serve_vertex
from vertex_service import LOCATION, PROJECT, Reply

from rlhf_components.upload_model_to_kubeflow import upload_model_to_kubeflow
from rlhf_pipelines.cli.rlhf import main
from rlhf_pipelines.rlhf_pipeline import for_target, rlhf_pipeline
from rlhf_pipelines.upload_phases import UPLOAD_PHASES
from rlhf_pipelines.wiring import Values

PLACEHOLDER = "{{$.pipeline_google_cloud_"
STEP = "Upload and Deploy Tuned Model"


def graph(target):
    """Return the tasks that follow training, and the steps within the upload phase, those under a condition too."""
    spec = for_target(target).pipeline_spec
    (tail,) = (task for task in spec.root.dag.tasks.values() if task.task_info.name == "Evaluate and Promote")
    tasks = spec.components[tail.component_ref.name].dag.tasks.values()
    (phase,) = (task for task in tasks if task.task_info.name == STEP)
    return tasks, steps_of(spec, phase)


def steps_of(spec, task):
    inner = spec.components[task.component_ref.name].dag.tasks
    if not inner:
        return {}
    found = {}
    for name, step in inner.items():
        found |= steps_of(spec, step) or {name: step}
    return found


@pytest.mark.parametrize("target", UPLOAD_PHASES)
def test_every_target_compiles_to_one_document_with_the_same_inputs_and_outputs(target, tmp_path):
    path = str(tmp_path / "pipeline.yaml")
    compiler.Compiler().compile(for_target(target), path)
    with open(path) as stream:
        (root,) = (spec["root"] for spec in yaml.load_all(stream, yaml.CSafeLoader))
    local = rlhf_pipeline.pipeline_spec.root
    assert set(root["inputDefinitions"]["parameters"]) == set(local.input_definitions.parameters)
    assert set(root["outputDefinitions"]["parameters"]) == {"model_resource_name", "endpoint_resource_name"}
    assert (PLACEHOLDER in (tmp_path / "pipeline.yaml").read_text()) == (target == "vertex")


@pytest.mark.parametrize("target", UPLOAD_PHASES)
def test_what_a_model_learnt_from_reaches_its_manifest_whatever_it_is(target):
    tasks, steps = graph(target)
    (phase,) = (task for task in tasks if task.task_info.name == STEP)
    upload = steps.get("upload-model-to-vertex", phase)
    for kind in ("prompt", "preference", "demonstration", "feedback", "eval"):
        assert f"{kind}_fingerprint" in upload.inputs.parameters


def test_only_on_vertex_is_the_upload_more_than_one_step():
    assert not graph("local")[1]
    assert not graph("kubeflow")[1]
    assert {task.task_info.name for task in graph("vertex")[1].values()} == {
        "Upload Tuned Model",
        "Deploy Tuned Model",
        "Keep Champion",
        "Upload TensorBoard Metrics",
    }


def test_no_upload_or_deployment_is_taken_from_a_cache():
    for target in UPLOAD_PHASES:
        tasks, inner = graph(target)
        outer = [task for task in tasks if task.task_info.name == STEP]
        assert not any(task.caching_options.enable_cache for task in [*outer, *inner.values()])


def test_the_run_s_own_project_and_location_stand_where_a_registry_is_asked_alone():
    tasks, inner = graph("vertex")
    outside = [task for task in tasks if task.task_info.name not in (STEP, "Find Champion")]
    assert PLACEHOLDER not in str(outside)
    for task in inner.values():
        if task.task_info.name == "Upload TensorBoard Metrics":
            continue  # it gets them from the phase, through its condition
        if task.task_info.name == "Keep Champion":
            continue  # it touches nothing
        given = {name: str(task.inputs.parameters[name]) for name in ("run_project", "run_location")}
        assert "pipeline_google_cloud_project_id" in given["run_project"]
        assert "pipeline_google_cloud_location" in given["run_location"]


PROGRAM = """
import json, sys
from kfp import dsl, local
from rlhf_pipelines.upload_phases import UPLOAD_PHASES, UploadOutputs
from rlhf_pipelines.wiring import Values
target, run, root, values = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
phase = UPLOAD_PHASES[target]({"reward_model": dsl.Input[dsl.Model]})

@dsl.component(install_kfp_package=False)
def leave(run: str, model: dsl.Output[dsl.Model], adapter: dsl.Output[dsl.Model], reward_model: dsl.Output[dsl.Model],
          evaluation: dsl.Output[dsl.Artifact]):
    import shutil
    for name, place in (("model", model), ("adapter", adapter), ("reward", reward_model)):
        shutil.copytree(run + "/" + name, place.path)
    shutil.copy(run + "/evaluation", evaluation.path)

@dsl.pipeline
def whole() -> UploadOutputs:
    done = phase(**Values(values).adding(leave(run=run).outputs).of(phase))
    return UploadOutputs(**{name: done.outputs[name] for name in UploadOutputs._fields})

spec = json.dumps(__import__("google.protobuf.json_format", fromlist=["x"]).MessageToDict(whole.pipeline_spec))
spec = spec.replace("{{$.pipeline_google_cloud_project_id}}", "my-project")
spec = spec.replace("{{$.pipeline_google_cloud_location}}", "us-central1")
from kfp import components
local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=root, workspace_root=root + "/w")
task = components.load_component_from_text(spec)()
print("OUTPUTS " + json.dumps({name: task.outputs[name] for name in ("model_resource_name", "endpoint_resource_name")}))
"""

VALUES = {
    "large_model_reference": "smollm2-135m-instruct",
    "large_model_fingerprint": "a",
    "prompt_fingerprint": "b",
    "preference_fingerprint": "c",
    "demonstration_fingerprint": "",
    "feedback_fingerprint": "e",
    "eval_fingerprint": "d",
    "promote": True,
    "champion": "",
    "model_display_name": "palms",
    "instruction": "Be brief.",
    "registry_dir": "",
    "deploy_model": True,
    "require_approval": False,
    "serving_machine": "",
    "serving_image": "europe-docker.pkg.dev/p/r/vllm:1",
    "serving_endpoint": "shared",
    "project": "",
    "location": "",
    "encryption_spec_key_name": "",
    "tensorboard_resource_id": "",
}


@pytest.fixture
def vertex(monkeypatch, tmp_path):
    with serve_vertex() as server:
        server.use_credentials(monkeypatch, tmp_path)
        server.steps = 1
        yield server


def run_phase(target, tmp_path, environment=None, **changes):
    write_run(tmp_path / "run")
    root = tmp_path / "mount/bucket/root"
    root.mkdir(parents=True)
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, str(program), target, str(tmp_path / "run"), str(root), json.dumps(VALUES | changes)]
    ran = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **(environment or {})}, cwd=tmp_path
    )
    output = ran.stdout + ran.stderr
    found = [line.removeprefix("OUTPUTS ") for line in output.splitlines() if line.startswith("OUTPUTS ")]
    return (json.loads(found[0]) if found else None), output


def on_vertex(vertex, tmp_path):
    return {"RLHF_VERTEX_API_ENDPOINT": vertex.rest, "RLHF_GCS_MOUNT": str(tmp_path / "mount")}


def test_the_vertex_phase_uploads_deploys_and_calls(vertex, tmp_path, capsys):
    answer = {"predictions": [{"choices": [{"message": {"content": "A quiet park."}}]}]}
    vertex.serve = lambda model, body: Reply(body=json.dumps(answer).encode())
    outputs, output = run_phase("vertex", tmp_path, on_vertex(vertex, tmp_path))
    assert outputs, output
    (endpoint,) = vertex.of_kind(v1.Endpoint)
    ((version,),) = vertex.versions.values()
    assert outputs == {"model_resource_name": f"{version.name}@1", "endpoint_resource_name": endpoint.name}
    assert not endpoint.dedicated_endpoint_enabled
    assert version.container_spec.image_uri == "europe-docker.pkg.dev/p/r/vllm:1"
    manifest = tmp_path / "mount" / version.artifact_uri.removeprefix("gs://") / "manifest.json"
    assert json.loads(manifest.read_text())["fingerprints"]["preferences"] == "c"
    flags = ["--project", PROJECT, "--location", LOCATION, "--api-endpoint", vertex.rest]
    assert main(["predict", "--endpoint", "palms", "--prompt", "Palms?", *flags]) == 0
    assert capsys.readouterr().out == "A quiet park.\n"
    assert main(["predict", "--endpoint", "none", "--prompt", "Palms?", *flags]) == 2
    assert "There is no endpoint none in project my-project" in capsys.readouterr().err


def test_the_run_fails_when_the_endpoint_does_not_answer(vertex, tmp_path):
    vertex.serve = lambda model, body: Reply(status=400, body=b"no such model")
    outputs, output = run_phase("vertex", tmp_path, on_vertex(vertex, tmp_path) | {"RLHF_PROGRESS": "lines"})
    assert outputs is None
    assert "no such model" in output
    assert "ERROR in step Deploy Tuned Model: The tuned model was deployed to endpoint" in output
    assert not vertex.of_kind(v1.Endpoint)[0].deployed_models


def test_a_tensorboard_that_is_named_gets_the_curves_and_nothing_is_deployed_when_nobody_asks_for_it(vertex, tmp_path):
    board = f"projects/{PROJECT}/locations/{LOCATION}/tensorboards/7"
    vertex.tensorboards.add(board)
    place = on_vertex(vertex, tmp_path)
    outputs, output = run_phase("vertex", tmp_path, place, deploy_model=False, tensorboard_resource_id=board)
    assert outputs, output
    assert vertex.scalars[("reward-model", "rank_loss")] == {1: 0.7}
    assert vertex.scalars[("reinforcement-learning", "reward")] == {1: 0.1}
    assert not vertex.of_kind(v1.TensorboardExperiment)[0].name.endswith("experiments/rlhf")
    assert outputs["endpoint_resource_name"] == ""
    assert "no endpoint was touched" in output
    assert not vertex.received("CreateEndpoint")


def test_a_model_that_is_not_promoted_is_a_version_and_touches_no_endpoint(vertex, tmp_path):
    outputs, output = run_phase("vertex", tmp_path, on_vertex(vertex, tmp_path), promote=False)
    assert outputs, output
    assert outputs["endpoint_resource_name"] == ""
    assert "the base model stays champion, and no endpoint was touched" in output
    assert not vertex.received("CreateEndpoint")
    ((version,),) = vertex.versions.values()
    assert "challenger" in version.version_aliases
    assert "champion" not in version.version_aliases


def test_what_beat_a_champion_that_is_none_any_more_is_not_deployed(vertex, tmp_path):
    place = on_vertex(vertex, tmp_path)
    answer = {"predictions": [{"choices": [{"message": {"content": "A quiet park."}}]}]}
    vertex.serve = lambda model, body: Reply(body=json.dumps(answer).encode())
    # It was held against the first version, and meanwhile the second became champion.
    parent = f"projects/{PROJECT}/locations/{LOCATION}"
    model = v1.Model(display_name="palms", labels={"managed_by": "rlhf-pipelines"}, version_aliases=["champion"])
    vertex.call("UploadModel", v1.UploadModelRequest(parent=parent, model=model), {})
    outputs, output = run_phase("vertex", tmp_path, place, champion=f"{parent}/models/7@1")
    assert outputs, output
    assert f"Not promoted: it beat {parent}/models/7@1, but " in output
    assert outputs["endpoint_resource_name"] == ""
    assert "is not champion, since another model became that during the run" in output
    assert not vertex.received("CreateEndpoint")


def test_what_waits_for_approval_is_deployed_once_it_is_approved(vertex, tmp_path, capsys, monkeypatch):
    answer = {"predictions": [{"choices": [{"message": {"content": "A quiet park."}}]}]}
    vertex.serve = lambda model, body: Reply(body=json.dumps(answer).encode())
    outputs, output = run_phase("vertex", tmp_path, on_vertex(vertex, tmp_path), require_approval=True)
    assert outputs, output
    assert outputs["endpoint_resource_name"] == ""
    assert "no endpoint was touched" in output
    model = outputs["model_resource_name"]
    assert f"rlhf approve {model} --reason" in output
    ((version,),) = vertex.versions.values()
    assert "champion" not in version.version_aliases
    assert not vertex.received("CreateEndpoint")
    monkeypatch.setattr("rlhf_tuning.environment.GCS_MOUNT", tmp_path / "mount")
    asked = [model, "--reason", "Read 30 answers", "--by", "anna", "--api-endpoint", vertex.rest]
    assert main(["approve", *asked]) == 0
    (endpoint,) = vertex.of_kind(v1.Endpoint)
    assert f"It is deployed to {endpoint.name}" in capsys.readouterr().out
    assert not endpoint.dedicated_endpoint_enabled
    assert "champion" in version.version_aliases
    assert main(["reject", *asked]) == 2
    assert "was approved by anna" in capsys.readouterr().err


def test_the_kubeflow_phase_refuses_a_model_that_kserve_cannot_read(tmp_path):
    outputs, output = run_phase("kubeflow", tmp_path)
    assert outputs is None
    assert "which KServe cannot read" in output


def test_the_kubeflow_phase_tells_where_the_model_is_and_how_it_is_served(tmp_path, capsys):
    run = write_run(tmp_path / "run")
    places = {
        name: SimpleNamespace(path=str(run / folder), uri=f"minio://mlpipeline/{folder}")
        for name, folder in {
            "model": "model",
            "adapter": "adapter",
            "reward_model": "reward",
            "evaluation": "evaluation",
            "inference_service": "service.yaml",
            "manifest": "manifest.json",
        }.items()
    }
    outputs = upload_model_to_kubeflow.python_func(**Values(VALUES).of(upload_model_to_kubeflow) | places)
    assert outputs == ("s3://mlpipeline/model", "")
    service = yaml.safe_load((run / "service.yaml").read_text())
    assert service["spec"]["predictor"]["model"]["storageUri"] == "s3://mlpipeline/model"
    fingerprints = json.loads((run / "manifest.json").read_text())["fingerprints"]
    assert (fingerprints["prompts"], fingerprints["feedback"]) == ("b", "e")
    assert "kubectl apply" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--endpoint", "palms", "--prompt", "x"], "location is missing"),
        (["--endpoint", "palms", "--prompt", " "], "--prompt is empty"),
    ],
)
def test_what_is_missing_to_ask_an_endpoint_is_told(capsys, monkeypatch, arguments, message):
    monkeypatch.setattr("rlhf_tuning.environment.GOOGLE_CLOUD_REGION", "")
    assert main(["predict", *arguments]) == 2
    assert message in capsys.readouterr().err
