"""What a person decides of a promoted model, in the local registry and against a server that behaves like Vertex AI's."""

import json

import pytest
from google.cloud import aiplatform_v1 as v1
from tuned_run import MANIFEST, PROMPTS, write_model
from vertex_server import serve_vertex
from vertex_service import LOCATION, PROJECT, Reply

from rlhf_tuning import environment, google_errors, registry
from rlhf_tuning.errors import ModelError, RunError, UserError
from rlhf_tuning.google_cloud.vertex_api import VertexApi
from rlhf_tuning.google_cloud.vertex_registry import upload_to_vertex
from rlhf_tuning.promotion.approval import Ruling, ask_locally, ask_on_vertex, described, rule_locally, rule_on_vertex
from rlhf_tuning.promotion.upload import name_on_vertex

YES = Ruling(approve=True, by="anna", reason="Read 30 answers")
NO = Ruling(approve=False, by="anna", reason="It invents prices")


@pytest.fixture
def register(tmp_path):
    """Register a version of the local registry with other content for each seed."""

    def register(seed, *aliases):
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model/config.json").write_text(json.dumps({"seed": seed}))
        return registry.register_model(
            model_dir=str(tmp_path / "model"),
            adapter_dir="",
            name="palms",
            manifest={"seed": seed},
            aliases=aliases,
            registry_dir=tmp_path / "registry",
        )

    return register


def test_an_approved_model_is_champion_and_its_manifest_tells_who_said_so_and_why(register):
    register(1, "champion", "default")
    waiting = ask_locally(register(2, "challenger"), champion="models/palms@1")
    assert waiting.aliases == ("challenger",)
    approved = rule_locally(waiting, YES)
    assert approved.aliases == ("champion", "default")
    approval = approved.manifest["approval"]
    assert (approval["status"], approval["by"], approval["reason"]) == ("approved", "anna", "Read 30 answers")
    assert approved.manifest["seed"] == 2
    assert registry.resolve_model("palms@champion", waiting.path.parents[2]).version == 2


def test_a_rejected_model_stays_challenger_until_it_is_approved(register, capsys):
    waiting = ask_locally(register(1, "challenger"), champion="")
    assert "palms@1 waits for approval: rlhf approve palms@1" in capsys.readouterr().out
    rejected = rule_locally(waiting, NO)
    assert rejected.aliases == ("challenger",)
    with pytest.raises(ModelError, match=r"palms@1 was rejected by anna on .*It invents prices\. That stays so"):
        rule_locally(rejected, NO)
    assert rule_locally(rejected, YES).aliases == ("champion", "default")


@pytest.mark.parametrize("ruling", [YES, NO])
@pytest.mark.parametrize(
    ("alias", "why"),
    [("challenger", "the gate did not promote it"), ("champion", "its run promoted it without asking")],
)
def test_what_does_not_wait_cannot_be_decided(register, ruling, alias, why):
    with pytest.raises(ModelError, match=f"palms@1 does not wait for approval: {why}"):
        rule_locally(register(1, alias), ruling)


def test_who_beat_a_champion_that_is_none_any_more_can_be_rejected_and_not_approved(register):
    waiting = ask_locally(register(1, "challenger"), champion="")
    register(2, "champion", "default")
    with pytest.raises(ModelError, match="palms@1 beat the base model, but palms@2 is champion now"):
        rule_locally(waiting, YES)
    assert registry.resolve_model("palms@champion", waiting.path.parents[2]).version == 2
    assert rule_locally(waiting, NO).manifest["approval"]["status"] == "rejected"


def test_an_approval_that_was_stopped_before_its_manifest_was_written_can_be_given_again(register, monkeypatch):
    register(1, "champion", "default")
    waiting = ask_locally(register(2, "challenger"), champion="models/palms@1")
    replace = registry._replace

    def stopped(path, text):
        if path.name == "manifest.json":
            raise KeyboardInterrupt
        replace(path, text)

    with monkeypatch.context() as patched:
        patched.setattr(registry, "_replace", stopped)
        with pytest.raises(KeyboardInterrupt):
            rule_locally(waiting, YES)
    assert registry.resolve_model("palms@champion", waiting.path.parents[2]).version == 2
    approved = rule_locally(waiting, YES)
    assert approved.aliases == ("champion", "default")
    assert approved.manifest["approval"]["status"] == "approved"


@pytest.fixture
def vertex(monkeypatch, tmp_path):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(google_errors, "DELAYS", (0.0, 0.0))
    monkeypatch.setattr(environment, "GCS_MOUNT", tmp_path / "gcs")
    with serve_vertex() as server:
        server.use_credentials(monkeypatch, tmp_path)
        answer = {"predictions": [{"choices": [{"message": {"content": "A quiet park."}}]}]}
        server.serve = lambda model, body: Reply(body=json.dumps(answer).encode())
        yield server


@pytest.fixture
def api(vertex):
    return VertexApi(project=PROJECT, location=LOCATION, api_endpoint=vertex.rest)


@pytest.fixture
def waiting(api, tmp_path):
    """A version of the Model Registry that waits; it is to be deployed."""
    folder = write_model(tmp_path / "gcs/bucket/run/model")
    uploaded = upload_to_vertex(
        api, model_dir=str(folder), name="palms", manifest=MANIFEST, aliases=["challenger"]
    ).resource_name
    deployment = {"prompts": PROMPTS, "dedicated": False, "encryption_spec_key_name": ""}
    ask_on_vertex(api, uploaded, champion="", deployment=deployment)
    return uploaded


def manifest_of(version, tmp_path):
    return json.loads((tmp_path / "gcs" / version.artifact_uri.removeprefix("gs://") / "manifest.json").read_text())


def test_on_vertex_an_approved_model_is_deployed_and_named(vertex, api, waiting, tmp_path):
    ((version,),) = vertex.versions.values()
    assert version.labels["rlhf-approval"] == "pending"
    assert "champion" not in version.version_aliases
    assert not vertex.of_kind(v1.Endpoint)
    said, endpoint = rule_on_vertex(api, "palms@1", YES)
    assert f"{waiting} was approved by anna" in said
    (served,) = vertex.of_kind(v1.Endpoint)
    assert endpoint == served.name
    assert not served.dedicated_endpoint_enabled
    assert set(version.version_aliases) == {"champion", "default"}
    assert version.labels["rlhf-approval"] == "approved"
    assert version.labels["managed_by"] == "rlhf-pipelines"
    assert described(waiting, manifest_of(version, tmp_path)) == said
    with pytest.raises(ModelError, match="was approved by anna"):
        rule_on_vertex(api, waiting, NO)


def test_on_vertex_what_does_not_answer_keeps_waiting(vertex, api, waiting, tmp_path):
    vertex.serve = lambda model, body: Reply(status=400, body=b"no such model")
    with pytest.raises(RunError, match="no such model"):
        rule_on_vertex(api, waiting, YES)
    ((version,),) = vertex.versions.values()
    assert "champion" not in version.version_aliases
    assert manifest_of(version, tmp_path)["approval"]["status"] == "pending"


def test_on_vertex_a_rejected_model_touches_no_endpoint(vertex, api, waiting):
    said, endpoint = rule_on_vertex(api, waiting, NO)
    assert "was rejected by anna" in said
    assert endpoint == ""
    assert not vertex.received("CreateEndpoint")
    ((version,),) = vertex.versions.values()
    assert version.labels["rlhf-approval"] == "rejected"
    assert "champion" not in version.version_aliases


@pytest.mark.parametrize(
    ("name", "message"),
    [("palms", "names no version"), ("plams@1", "There is no model plams of ours"), ("palms@7", "There is no model")],
)
def test_on_vertex_what_is_not_there_is_told(api, waiting, name, message):
    with pytest.raises(UserError, match=message):
        rule_on_vertex(api, name, YES)


def test_without_a_mount_the_manifest_is_read_and_written_in_the_bucket(
    vertex, api, cloud, waiting, monkeypatch, tmp_path
):
    ((version,),) = vertex.versions.values()
    text = json.dumps(manifest_of(version, tmp_path)).encode()
    monkeypatch.setattr(environment, "GCS_MOUNT", tmp_path / "none")
    with pytest.raises(UserError, match="There is no gs://bucket/run/model/manifest"):
        rule_on_vertex(api, waiting, NO)
    cloud.put("run/model/manifest.json", text)
    rule_on_vertex(api, waiting, NO)
    kept = json.loads(cloud.buckets["bucket"]["run/model/manifest.json"].data)
    assert kept["approval"]["reason"] == "It invents prices"


def test_on_vertex_a_rejected_content_stays_so_and_a_promoted_one_too_when_its_upload_is_tried_again(
    vertex, api, waiting, tmp_path, capsys
):
    def upload_again():
        uploaded = upload_to_vertex(
            api, model_dir=str(tmp_path / "gcs/bucket/run/model"), name="palms", manifest=MANIFEST, aliases=()
        )
        return name_on_vertex(api, uploaded, name="palms", promote=True, champion="", require_approval=False).aliases

    rule_on_vertex(api, waiting, NO)
    assert upload_again() == ("challenger",)
    assert "It invents prices. rlhf approve takes that back" in capsys.readouterr().out
    rule_on_vertex(api, waiting, YES)
    assert upload_again() == ("champion", "default")
    ((version,),) = vertex.versions.values()
    assert set(version.version_aliases) == {"champion", "default"}
