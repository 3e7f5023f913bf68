"""Uploads to the Model Registry, against a server that behaves like Vertex AI's."""

import json
import re

import pytest
from google.cloud import aiplatform_v1 as v1
from tuned_run import MANIFEST, write_model
from vertex_server import serve_vertex
from vertex_service import LOCATION, PROJECT, PROJECT_NUMBER, Fault

from rlhf_tuning import environment, google_errors
from rlhf_tuning.errors import ModelError, RunError, UserError
from rlhf_tuning.google_cloud.vertex_api import VertexApi
from rlhf_tuning.google_cloud.vertex_registry import SERVING_IMAGE, resource_id, serving_plan, upload_to_vertex


@pytest.fixture
def vertex(monkeypatch, tmp_path):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(google_errors, "DELAYS", (0.0, 0.0))
    monkeypatch.setattr(environment, "GCS_MOUNT", tmp_path / "gcs")
    with serve_vertex() as server:
        server.use_credentials(monkeypatch, tmp_path)
        yield server


@pytest.fixture
def folder(tmp_path):
    return write_model(tmp_path / "gcs/bucket/run/model")


@pytest.fixture
def upload(vertex, folder):
    def upload(**settings):
        api = VertexApi(project=PROJECT, location=LOCATION, api_endpoint=vertex.rest)
        return upload_to_vertex(api, **{"model_dir": str(folder), "name": "palms", "manifest": MANIFEST, **settings})

    return upload


def versions(vertex):
    return [version for found in vertex.versions.values() for version in found]


def variables(version):
    return {"containerSpec": {"env": [{"name": e.name, "value": e.value} for e in version.container_spec.env]}}


def test_a_version_has_all_that_vllm_needs_to_serve_it(vertex, folder, upload):
    uploaded = upload(encryption_spec_key_name="projects/p/locations/l/keyRings/r/cryptoKeys/k")
    (version,) = versions(vertex)
    assert uploaded.created
    assert uploaded.resource_name == f"projects/{PROJECT_NUMBER}/locations/{LOCATION}/models/{resource_id('palms')}@1"
    assert (version.display_name, version.artifact_uri) == ("palms", "gs://bucket/run/model")
    container = version.container_spec
    assert container.image_uri.startswith("us-docker.pkg.dev/vertex-ai/")
    assert list(container.args)[:3] == ["python", "-m", "vllm.entrypoints.api_server"]
    assert {"--model=$(AIP_STORAGE_URI)", "--port=8080", "--tensor-parallel-size=1", "--max-model-len=2048"} <= set(
        container.args
    )
    assert [port.container_port for port in container.ports] == [8080]
    assert (container.predict_route, container.health_route) == ("/generate", "/ping")
    assert container.shared_memory_size_mb == 16384
    assert version.encryption_spec.kms_key_name.endswith("/k")


def test_another_image_serves_where_one_is_named_and_makes_another_version(vertex, upload):
    upload()
    assert upload(serving_image="europe-docker.pkg.dev/p/r/vllm:1").created
    first, second = versions(vertex)
    assert first.container_spec.image_uri == SERVING_IMAGE
    assert second.container_spec.image_uri == "europe-docker.pkg.dev/p/r/vllm:1"


def test_vertex_finds_nothing_in_an_instruction_to_expand(vertex, upload):
    instruction = "Never write $(HOME), $$(HOME) or $5."
    upload(manifest={**MANIFEST, "parameters": {**MANIFEST["parameters"], "instruction": instruction}})
    (version,) = versions(vertex)
    assert all("$" not in variable.value for variable in version.container_spec.env)
    assert serving_plan(variables(version)).instruction == instruction


def test_a_version_says_what_made_it(vertex, folder, upload):
    upload()
    (version,) = versions(vertex)
    assert json.loads((folder / "manifest.json").read_text()) == MANIFEST
    assert "gs://bucket/run/model/manifest.json" in version.version_description
    assert "smollm2-135m-instruct" in version.version_description
    assert "reward_win_rate 0.812" in version.version_description
    assert version.labels["managed_by"] == "rlhf-pipelines"
    plan = serving_plan(variables(version))
    assert (plan.machine, plan.instruction, plan.chat_template) == ("l4", "Be brief.", True)


def test_other_content_is_a_new_version_under_the_same_parent(vertex, folder, upload):
    first = upload()
    write_model(folder, weights=2000)
    second = upload()
    assert second.resource_name == first.resource_name.replace("@1", "@2")
    assert [list(version.version_aliases) for version in versions(vertex)] == [[], ["default"]]


def test_another_name_is_another_model(vertex, upload):
    upload()
    upload(name="palms 2")
    assert len(vertex.versions) == 2


def test_a_model_of_someone_else_with_the_same_name_is_left_alone(vertex, upload):
    theirs = v1.Model(display_name="palms", artifact_uri="gs://bucket/theirs")
    vertex.call(
        "UploadModel", v1.UploadModelRequest(parent=f"projects/{PROJECT}/locations/{LOCATION}", model=theirs), {}
    )
    upload()
    assert [len(found) for found in vertex.versions.values()] == [1, 1]


def test_the_same_content_twice_is_one_version_that_gets_the_aliases(vertex, folder, upload):
    first = upload()
    again = upload(aliases=("default", "champion"))
    assert (again.resource_name, again.created) == (first.resource_name, False)
    (version,) = versions(vertex)
    assert set(version.version_aliases) == {"default", "champion"}


def test_what_a_person_decided_of_a_version_stays_when_its_folder_is_uploaded_again(folder, upload):
    upload()
    decided = {**MANIFEST, "approval": {"status": "rejected"}}
    (folder / "manifest.json").write_text(json.dumps(decided))
    upload()
    assert json.loads((folder / "manifest.json").read_text()) == decided


def test_the_same_content_to_be_served_otherwise_is_another_version(vertex, upload):
    upload()
    upload(serving_machine="a100-80gb")
    assert len(versions(vertex)) == 2


@pytest.mark.parametrize("earlier", [0, 1])
@pytest.mark.parametrize("fault", [Fault(acted=True, lost=True), Fault(acted=True)])
def test_a_lost_answer_makes_one_version(vertex, folder, upload, earlier, fault):
    if earlier:
        upload()
        write_model(folder, weights=2000)
    vertex.steps = 4
    vertex.fail("UploadModel", fault)
    uploaded = upload()
    assert uploaded.resource_name.endswith(f"@{earlier + 1}")
    assert len(versions(vertex)) == earlier + 1
    assert len(vertex.received("UploadModel")) == earlier + 1


def test_a_request_that_was_lost_before_it_arrived_is_made_again(vertex, upload):
    vertex.fail("UploadModel", Fault(lost=True))
    assert upload().resource_name.endswith("@1")
    assert len(vertex.received("UploadModel")) == 2


def test_an_upload_that_is_slower_than_our_patience_is_still_one_version(vertex, upload):
    """The second request finds the id taken, and waits for what the first one makes."""
    vertex.steps = 14
    vertex.fail("UploadModel", Fault(acted=True, lost=True))
    vertex.fail("UploadModel", Fault(status="ALREADY_EXISTS", message="exists"))
    assert upload().resource_name.endswith("@1")
    assert len(versions(vertex)) == 1


def test_reading_is_asked_again_while_the_service_fails(vertex, upload):
    vertex.fail("ListModels", Fault())
    vertex.fail("GetOperation", Fault(status="INTERNAL"))
    assert upload().created


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        (Fault(status="PERMISSION_DENIED", message="No permission."), UserError, "roles/aiplatform.user"),
        (Fault(status="NOT_FOUND", message="Bucket not found."), UserError, "Bucket not found"),
        (Fault(status="RESOURCE_EXHAUSTED", message="Quota exceeded for: model_uploads."), UserError, "model_uploads"),
        (Fault(status="UNAVAILABLE"), RunError, "Try again in a few minutes"),
        (Fault(lost=True), RunError, "cannot be reached"),
    ],
)
def test_what_vertex_refuses_is_told_with_what_to_do(vertex, upload, fault, error, message):
    vertex.fail("UploadModel", fault, times=10)
    with pytest.raises(error, match=message) as raised:
        upload()
    assert "model palms" in str(raised.value)
    assert not versions(vertex)


def test_an_operation_that_ends_in_an_error_is_not_started_again(vertex, upload):
    vertex.fail_operation("UploadModel", "INTERNAL", "The image could not be pulled.")
    with pytest.raises(RunError, match="The image could not be pulled"):
        upload()
    assert len(vertex.received("UploadModel")) == 1


def test_an_operation_that_takes_too_long_is_told(vertex, upload, monkeypatch):
    vertex.steps = 10**6
    monkeypatch.setattr("rlhf_tuning.google_cloud.vertex_registry._UPLOAD_SECONDS", 0.0)
    with pytest.raises(RunError, match="may still go on"):
        upload()


def test_a_model_outside_cloud_storage_is_refused_before_anything_is_sent(vertex, tmp_path, upload):
    with pytest.raises(ModelError, match=r"Cloud Storage alone.*pipeline root gs://"):
        upload(model_dir=str(write_model(tmp_path / "elsewhere")))
    assert not vertex.calls


def test_lists_are_read_to_the_last_page(vertex, folder, upload):
    vertex.page_size = 1
    for number in range(3):
        write_model(folder, weights=1000 + number)
        upload()
    write_model(folder, weights=1000)
    assert upload().resource_name.endswith("@1")


@pytest.mark.parametrize("name", ["palms", "My Model (v2)", "名", "x" * 200, "-"])
def test_ids_are_such_as_vertex_takes(name):
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,55}[a-z0-9])?", resource_id(name))
