"""Deployments, against a server that behaves like Vertex AI's: what answers, who gets the traffic, and what is left."""

import json
import time

import pytest
from google.cloud import aiplatform_v1 as v1
from tuned_run import MANIFEST, PROMPTS, write_model
from vertex_server import serve_vertex
from vertex_service import LOCATION, PROJECT, Fault, Reply

from rlhf_tuning import environment, google_errors
from rlhf_tuning.errors import ModelError, ParameterError, RunError, UserError
from rlhf_tuning.google_cloud import vertex_api
from rlhf_tuning.google_cloud.vertex_api import VertexApi
from rlhf_tuning.google_cloud.vertex_endpoint import ask_endpoint, deploy_to_vertex, read_prompts
from rlhf_tuning.google_cloud.vertex_registry import upload_to_vertex

PARENT = f"projects/{PROJECT}/locations/{LOCATION}"
sleep = time.sleep


def chat(text):
    prediction = {"choices": [{"message": {"role": "assistant", "content": text}}]}
    return Reply(body=json.dumps({"predictions": [prediction]}).encode())


def answers(model, body):
    return chat(f"Version {model.version_id} says: a quiet park under tall palms.")


@pytest.fixture
def vertex(monkeypatch, tmp_path):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(google_errors, "DELAYS", (0.0, 0.0))
    monkeypatch.setattr(environment, "GCS_MOUNT", tmp_path / "gcs")
    with serve_vertex() as server:
        server.use_credentials(monkeypatch, tmp_path)
        server.serve = answers
        yield server


@pytest.fixture
def api(vertex):
    return VertexApi(project=PROJECT, location=LOCATION, api_endpoint=vertex.rest)


@pytest.fixture
def upload(api, tmp_path):
    numbers = iter(range(1000, 2000))

    def upload(**settings):
        folder = write_model(tmp_path / "gcs/bucket/model", weights=next(numbers), **settings)
        return upload_to_vertex(api, model_dir=str(folder), name="palms", manifest=MANIFEST).resource_name

    return upload


def deploy(api, name, **settings):
    return deploy_to_vertex(api, name, **{"prompts": PROMPTS, **settings})


def endpoints(vertex):
    return {endpoint.display_name: endpoint for endpoint in vertex.of_kind(v1.Endpoint)}


def deployed_versions(endpoint):
    """Version to its share of the traffic."""
    return {
        deployed.model_version_id: endpoint.traffic_split.get(deployed.id, 0) for deployed in endpoint.deployed_models
    }


def test_a_new_endpoint_is_made_deployed_to_and_called(vertex, api, upload):
    name = deploy(api, upload(), encryption_spec_key_name="projects/p/locations/l/keyRings/r/cryptoKeys/k")
    (endpoint,) = vertex.of_kind(v1.Endpoint)
    assert endpoint.name == name
    assert (endpoint.display_name, endpoint.labels["managed_by"]) == ("palms", "rlhf-pipelines")
    assert endpoint.encryption_spec.kms_key_name.endswith("/k")
    assert deployed_versions(endpoint) == {"1": 100}
    machine = endpoint.deployed_models[0].dedicated_resources.machine_spec
    assert (machine.machine_type, machine.accelerator_type.name, machine.accelerator_count) == (
        "g2-standard-12",
        "NVIDIA_L4",
        1,
    )
    asked = json.loads(v1.PredictRequest.to_json(vertex.received("Predict")[0]))["instances"]
    assert [turn["content"] for turn in asked[0]["messages"]] == [
        "Be brief.\n\nCreate a description for Plantation Palms."
    ]


def test_a_new_endpoint_is_dedicated_unless_a_shared_one_is_asked_for(vertex, api, upload):
    deploy(api, upload())
    assert vertex.of_kind(v1.Endpoint)[0].dedicated_endpoint_enabled
    assert ask_endpoint(api, "palms", "Palms?").startswith("Version 1 says")
    # What is there stays as it is; the endpoint on which a new version is tried is of the kind asked for.
    tried = []
    vertex.serve = lambda model, body: tried.append(endpoints(vertex)) or answers(model, body)
    deploy(api, upload(), dedicated=False)
    assert [found.dedicated_endpoint_enabled for found in tried[0].values()] == [True, False]
    assert vertex.of_kind(v1.Endpoint)[0].dedicated_endpoint_enabled


def test_the_address_of_a_dedicated_endpoint_may_come_without_its_scheme(api, monkeypatch):
    addresses = []
    monkeypatch.setattr(api, "_send", lambda *asked, address="", **rest: addresses.append(address))
    for dns in ("", "7.us-central1-1.prediction.vertexai.goog", "https://7.us-central1-1.prediction.vertexai.goog"):
        api.predict({"name": "e", "dedicatedEndpointDns": dns}, {})
    own = "https://7.us-central1-1.prediction.vertexai.goog"
    assert addresses == ["", own, own]


def test_a_model_without_a_chat_template_is_sent_plain_text(vertex, api, upload):
    asked = []

    def completes(model, body):
        asked.extend(json.loads(body)["instances"])
        return Reply(body=b'{"predictions": ["A quiet park."]}')

    (write_model_folder,) = [upload(template=False)]
    vertex.serve = completes
    deploy(api, write_model_folder)
    assert asked[0]["prompt"] == "Be brief.\n\nCreate a description for Plantation Palms.\n\n"


def test_a_new_version_is_tried_apart_and_then_replaces_the_one_that_served(vertex, api, upload):
    name = deploy(api, upload())
    splits = []

    def watching(model, body):
        splits.append({endpoint.display_name: deployed_versions(endpoint) for endpoint in vertex.of_kind(v1.Endpoint)})
        return answers(model, body)

    vertex.serve = watching
    assert deploy(api, upload()) == name
    assert splits == [
        {"palms": {"1": 100}, "palms (check)": {"2": 100}},
        {"palms": {"1": 0, "2": 100}},
    ]
    assert {key: deployed_versions(found) for key, found in endpoints(vertex).items()} == {"palms": {"2": 100}}
    deployed_id, earlier_id = (request.deployed_model.id for request in reversed(vertex.received("DeployModel")[::2]))
    assert deployed_id != earlier_id
    assert dict(vertex.received("DeployModel")[-1].traffic_split) == {earlier_id: 100}


def test_traffic_that_moves_slowly_is_waited_for(vertex, api, upload, monkeypatch):
    name = deploy(api, upload())
    (earlier,) = vertex.resources[name].deployed_models
    serving, late = vertex._serving, iter(range(3))

    def moves_slowly(endpoint):
        deployed, model = serving(endpoint)
        if endpoint == name and model.version_id == "2" and next(late, None) is not None:
            return earlier, vertex._version(f"{model.name}@1")
        return deployed, model

    monkeypatch.setattr(vertex, "_serving", moves_slowly)
    vertex.serve = lambda model, body: answers(model, body) if model.version_id == "2" else silent(model, body)
    deploy(api, upload())
    assert deployed_versions(vertex.resources[name]) == {"2": 100}
    assert len(vertex.received("Predict")) == 1 + 1 + 4


def test_traffic_that_never_moves_fails_the_run(vertex, api, upload, monkeypatch):
    name = deploy(api, upload())
    (earlier,) = vertex.resources[name].deployed_models
    serving = vertex._serving
    monkeypatch.setattr(
        vertex,
        "_serving",
        lambda endpoint: (earlier, vertex._version(f"{earlier.model}@1")) if endpoint == name else serving(endpoint),
    )
    with pytest.raises(RunError, match=r"got no traffic within minutes\. The traffic is back where it was"):
        deploy(api, upload())
    assert deployed_versions(vertex.resources[name]) == {"1": 100}


def silent(model, body):
    return chat("")


def nonsense(model, body):
    return chat("!!!!!!!!!!!!!!!!!!!!!!!!!!!!")


def parrot(model, body):
    return chat(PROMPTS[0][0]["content"])


def broken(model, body):
    return Reply(status=500, body=b"Internal Server Error")


def other(model, body):
    return Reply(body=b'{"predictions": [{"object": "error", "message": "CUDA out of memory"}]}')


def never(model, body):
    sleep(0.8)
    return answers(model, body)


def hurry(monkeypatch, serve):
    """Give the model that never answers less time than it takes. Every other request keeps its own."""
    predict = VertexApi.predict

    def predict_in_haste(*arguments):
        with monkeypatch.context() as context:
            context.setattr(vertex_api, "SECONDS", 0.3)
            return predict(*arguments)

    if serve is never:
        monkeypatch.setattr(VertexApi, "predict", predict_in_haste)


BAD = [
    (silent, "is empty"),
    (nonsense, "makes no sense"),
    (parrot, "repeats the prompt"),
    (broken, "does not answer: .*Internal Server Error"),
    (other, "no form that vLLM's answers have"),
    (never, "does not answer: .*timed out"),
]


@pytest.mark.parametrize(("serve", "message"), BAD)
def test_a_model_that_does_not_answer_fails_the_run_and_serves_nobody(vertex, api, upload, monkeypatch, serve, message):
    hurry(monkeypatch, serve)
    vertex.serve = serve
    with pytest.raises(RunError, match=message):
        deploy(api, upload())
    assert deployed_versions(endpoints(vertex)["palms"]) == {}
    assert not endpoints(vertex)["palms"].traffic_split


@pytest.mark.parametrize(("serve", "message"), BAD)
def test_a_new_version_that_does_not_answer_leaves_the_earlier_one_as_it_is(
    vertex, api, upload, monkeypatch, serve, message
):
    deploy(api, upload())
    hurry(monkeypatch, serve)
    before = v1.Endpoint.to_json(endpoints(vertex)["palms"])
    vertex.serve = lambda model, body: serve(model, body) if model.version_id == "2" else answers(model, body)
    with pytest.raises(RunError, match=message) as raised:
        deploy(api, upload())
    assert "serves as before" in str(raised.value)
    assert list(endpoints(vertex)) == ["palms"]
    assert v1.Endpoint.to_json(endpoints(vertex)["palms"]) == before
    assert not vertex.received("UpdateEndpoint")[1:]


def test_traffic_goes_back_when_the_version_fails_only_where_it_serves(vertex, api, upload):
    deploy(api, upload())
    calls = []

    def fails_later(model, body):
        calls.append(model.version_id)
        return answers(model, body) if len(calls) == 1 else broken(model, body)

    vertex.serve = fails_later
    with pytest.raises(RunError, match="The traffic is back where it was"):
        deploy(api, upload())
    assert deployed_versions(endpoints(vertex)["palms"]) == {"1": 100}


def test_a_split_that_people_made_is_restored(vertex, api, upload):
    name = deploy(api, upload())
    endpoint = endpoints(vertex)["palms"]
    other_model = v1.DeployedModel(id="7", model="projects/1/locations/x/models/theirs", model_version_id="9")
    endpoint.deployed_models.append(other_model)
    (ours_id,) = (deployed.id for deployed in endpoint.deployed_models if deployed.id != "7")
    endpoint.traffic_split = {ours_id: 70, "7": 30}
    calls = []

    def fails_later(model, body):
        calls.append(model.version_id)
        return answers(model, body) if len(calls) == 1 else broken(model, body)

    vertex.serve = fails_later
    with pytest.raises(RunError):
        deploy(api, upload())
    assert dict(vertex.resources[name].traffic_split) == {ours_id: 70, "7": 30}
    vertex.serve = answers
    deploy(api, upload())
    assert deployed_versions(vertex.resources[name]) == {"9": 0, "3": 100}


def test_a_stop_in_the_middle_leaves_nothing_behind(vertex, api, upload):
    deploy(api, upload())
    stopped = []

    def stop(prompt):
        stopped.append(prompt)
        raise SystemExit(143)

    class Prompts:
        def __iter__(self):
            return map(stop, PROMPTS)

    with pytest.raises(SystemExit):
        deploy(api, upload(), prompts=Prompts())
    assert stopped
    assert list(endpoints(vertex)) == ["palms"]
    assert deployed_versions(endpoints(vertex)["palms"]) == {"1": 100}


def test_what_is_left_of_a_killed_run_is_used_and_removed(vertex, api, upload):
    deploy(api, upload())
    name = upload()
    real = VertexApi.delete
    VertexApi.delete = lambda self, name: (_ for _ in ()).throw(KeyboardInterrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            deploy(api, name)
    finally:
        VertexApi.delete = real
    assert "palms (check)" in endpoints(vertex)
    deploy(api, name)
    assert {key: deployed_versions(found) for key, found in endpoints(vertex).items()} == {"palms": {"2": 100}}


def test_the_same_version_again_is_only_called(vertex, api, upload):
    name = upload()
    assert deploy(api, name) == deploy(api, name)
    assert len(vertex.received("DeployModel")) == 1
    assert len(vertex.received("Predict")) == 2


def test_one_sensible_answer_of_several_is_enough(vertex, api, upload):
    prompts = [*PROMPTS, [{"role": "user", "content": "And now?"}]]
    vertex.serve = lambda model, body: answers(model, body) if b"now" in body else silent(model, body)
    deploy(api, upload(), prompts=prompts)
    assert deployed_versions(endpoints(vertex)["palms"]) == {"1": 100}


def test_without_prompts_nothing_is_taken_for_working(vertex, api, upload):
    with pytest.raises(RunError, match="never asked"):
        deploy(api, upload(), prompts=[])


def test_prompts_come_from_the_evaluation():
    assert read_prompts({"answers": [{"prompt": PROMPTS[0]}] * 9}) == [PROMPTS[0]] * 3


@pytest.mark.parametrize("method", ["CreateEndpoint", "DeployModel"])
@pytest.mark.parametrize("fault", [Fault(acted=True, lost=True), Fault(lost=True), Fault(acted=True), Fault()])
def test_a_lost_answer_makes_one_endpoint_and_one_deployment(vertex, api, upload, method, fault):
    vertex.steps = 3
    name = upload()
    vertex.fail(method, fault)
    deploy(api, name)
    (endpoint,) = vertex.of_kind(v1.Endpoint)
    assert deployed_versions(endpoint) == {"1": 100}
    assert len(vertex.received(method)) == (1 if fault.acted else 2)


@pytest.mark.parametrize("method", ["CreateEndpoint", "DeployModel"])
def test_what_is_slower_than_our_patience_is_still_made_once(vertex, api, upload, method, monkeypatch):
    """The second request is refused, at once or in the end, because its name is taken."""
    name = upload()
    monkeypatch.setattr(vertex_api, "_LOOKS", (1.0,))
    vertex.steps = 6
    vertex.fail(method, Fault(acted=True, lost=True))
    if method == "DeployModel":
        vertex.fail(method, Fault(status="ALREADY_EXISTS", message="DeployedModel exists"))
    deploy(api, name)
    (endpoint,) = vertex.of_kind(v1.Endpoint)
    assert deployed_versions(endpoint) == {"1": 100}


def test_another_operation_on_the_endpoint_is_waited_for(vertex, api, upload):
    name = upload()
    vertex.fail("DeployModel", Fault(status="ABORTED", message="Another operation is in progress."))
    deploy(api, name)
    vertex.fail("DeployModel", Fault(status="ABORTED", message="Another operation is in progress."), times=9)
    with pytest.raises(UserError, match="Another operation is in progress"):
        deploy(api, upload())
    assert len(vertex.received("DeployModel")) == 2 + 3
    assert len(vertex.received("GetEndpoint")) < 20  # and not hours of looking for what nobody makes


def test_a_dedicated_endpoint_is_asked_at_its_own_address(vertex, api, upload):
    name = deploy(api, upload())
    vertex.resources[name].dedicated_endpoint_dns = "127.0.0.1:9"
    with pytest.raises(RunError, match="port=9"):
        ask_endpoint(api, "palms", "Palms?")


def test_a_deployment_that_goes_on_is_waited_for(vertex, api, upload):
    name = upload()
    vertex.steps = 12
    vertex.fail("DeployModel", Fault(acted=True, lost=True))
    vertex.fail("DeployModel", Fault(status="ALREADY_EXISTS", message="DeployedModel exists"))
    deploy(api, name)
    assert deployed_versions(endpoints(vertex)["palms"]) == {"1": 100}


def test_want_of_quota_is_told_with_what_to_do(vertex, api, upload):
    message = "The following quotas are exceeded: CustomModelServingL4GPUsPerProjectPerRegion"
    vertex.fail_operation("DeployModel", "RESOURCE_EXHAUSTED", message)
    with pytest.raises(UserError, match=r"CustomModelServingL4GPUs.*iam-admin/quotas\?project=my-project"):
        deploy(api, upload())
    assert len(vertex.received("DeployModel")) == 1


def test_a_server_that_does_not_start_is_not_started_again(vertex, api, upload):
    vertex.fail_operation("DeployModel", "INTERNAL", "Model server terminated: model server container out of memory.")
    with pytest.raises(RunError, match="out of memory"):
        deploy(api, upload())
    assert len(vertex.received("DeployModel")) == 1


def test_missing_permission_is_told_with_the_role(vertex, api, upload):
    vertex.fail("CreateEndpoint", Fault(status="PERMISSION_DENIED", message="No permission."))
    with pytest.raises(UserError, match=r"roles/aiplatform\.user"):
        deploy(api, upload())


def test_a_model_that_is_gone_is_told(api, upload):
    with pytest.raises(UserError, match=r"There is no model .*models/1@1"):
        deploy(api, f"{PARENT}/models/1@1")


def test_a_model_of_others_is_refused(vertex, api):
    model = v1.Model(display_name="theirs", artifact_uri="gs://bucket/theirs")
    vertex.steps = 0
    vertex.call("UploadModel", v1.UploadModelRequest(parent=PARENT, model=model, model_id="theirs"), {})
    with pytest.raises(ModelError, match="not uploaded by rlhf-pipelines"):
        deploy(api, f"{PARENT}/models/theirs@1")


def test_a_failure_to_give_the_traffic_back_says_where_to_look(vertex, api, upload):
    deploy(api, upload())
    calls = []

    def fails_later(model, body):
        calls.append(model.version_id)
        if len(calls) == 1:
            return answers(model, body)
        vertex.fail("UpdateEndpoint", Fault(status="PERMISSION_DENIED", message="No permission."))
        return broken(model, body)

    vertex.serve = fails_later
    with pytest.raises(RunError, match=r"Giving the traffic back failed too.*its traffic was \{'\d+': 100\}"):
        deploy(api, upload())


def test_an_endpoint_is_asked_by_name_id_or_full_name(vertex, api, upload):
    name = deploy(api, upload())
    for endpoint in ("palms", name, name.rpartition("/")[2]):
        assert ask_endpoint(api, endpoint, "Palms?", max_tokens=7).startswith("Version 1 says")
    asked = json.loads(v1.PredictRequest.to_json(vertex.received("Predict")[-1]))["instances"][0]
    assert asked["messages"] == [{"role": "user", "content": "Be brief.\n\nPalms?"}]
    assert asked["max_tokens"] == 7


@pytest.mark.parametrize("endpoint", ["none", "No such", f"{PARENT}/endpoints/1"])
def test_an_endpoint_that_is_not_there_is_told(api, endpoint):
    with pytest.raises(UserError, match=f"There is no endpoint {endpoint}"):
        ask_endpoint(api, endpoint, "Palms?")


def test_an_endpoint_without_a_model_is_told(vertex, api, upload):
    vertex.serve = broken
    with pytest.raises(RunError):
        deploy(api, upload())
    with pytest.raises(UserError, match="Nothing is deployed to endpoint palms"):
        ask_endpoint(api, "palms", "Palms?")


def test_numbers_beyond_their_limits_are_refused(api):
    with pytest.raises(ParameterError, match="target_sequence_length is 0"):
        ask_endpoint(api, "palms", "Palms?", max_tokens=0)
