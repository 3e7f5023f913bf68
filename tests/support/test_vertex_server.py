"""The Vertex AI server of the tests, asked by the real clients over both transports."""

import json

import pytest
from google.api_core import exceptions
from google.cloud import aiplatform_v1 as v1
from vertex_server import serve_vertex
from vertex_service import LOCATION, PROJECT, PROJECT_NUMBER, Fault, Reply, TaskEnd

PARENT = f"projects/{PROJECT}/locations/{LOCATION}"
SPEC = {
    "pipelineInfo": {"name": "two-steps"},
    "root": {
        "dag": {
            "tasks": {
                "first": {"componentRef": {"name": "comp-first"}},
                "second": {"componentRef": {"name": "comp-second"}},
            }
        }
    },
    "components": {"comp-first": {}, "comp-second": {}},
}
RUNTIME = {"gcs_output_directory": "gs://bucket/root"}
MACHINE = {"machine_spec": {"machine_type": "n1-standard-4"}, "min_replica_count": 1}


@pytest.fixture(params=["rest", "grpc"])
def vertex(request, monkeypatch, tmp_path):
    with serve_vertex() as server:
        server.use_credentials(monkeypatch, tmp_path)
        server.transport = request.param
        yield server


@pytest.fixture
def client(vertex):
    made = []

    def make(service):
        address = vertex.rest if vertex.transport == "rest" else vertex.grpc
        made.append(
            getattr(v1, f"{service}Client")(transport=vertex.transport, client_options={"api_endpoint": address})
        )
        return made[-1]

    yield make
    for client in made:
        client.transport.close()


def create_job(jobs, job_id="job-1", **fields):
    job = v1.PipelineJob(display_name="a job", pipeline_spec=SPEC, runtime_config=RUNTIME, **fields)
    return jobs.create_pipeline_job(parent=PARENT, pipeline_job=job, pipeline_job_id=job_id)


def test_a_job_runs_its_tasks_as_requests_come(vertex, client):
    jobs = client("PipelineService")
    name = create_job(jobs).name
    assert name == f"projects/{PROJECT_NUMBER}/locations/{LOCATION}/pipelineJobs/job-1"
    vertex.task_ends["second"] = TaskEnd(state="FAILED", error="no memory")
    seen = [jobs.get_pipeline_job(name=name) for _ in range(12)]
    states = list(dict.fromkeys(job.state.name.removeprefix("PIPELINE_STATE_") for job in seen))
    assert states == ["PENDING", "RUNNING", "FAILED"]
    assert "failed tasks are: [second]" in seen[-1].error.message
    assert {task.task_name: task.state.name for task in seen[-1].job_detail.task_details} == {
        "job-1": "FAILED",
        "first": "SUCCEEDED",
        "second": "FAILED",
    }


def test_lists_come_in_pages_filtered_ordered_and_masked(vertex, client):
    jobs = client("PipelineService")
    vertex.page_size = 2
    for number in range(5):
        create_job(jobs, f"job-{number}", labels={"kind": "odd" if number % 2 else "even"})
    request = v1.ListPipelineJobsRequest(
        parent=PARENT,
        filter="labels.kind=even",
        order_by="create_time desc",
        read_mask={"paths": ["name", "display_name"]},
    )
    found = list(jobs.list_pipeline_jobs(request))
    assert [job.name[-5:] for job in found] == ["job-4", "job-2", "job-0"]
    assert not found[0].pipeline_spec
    assert len(vertex.received("ListPipelineJobs")) == 2


@pytest.mark.parametrize(
    ("act", "error"),
    [
        (lambda jobs: create_job(jobs, "No_Id"), exceptions.BadRequest),
        (lambda jobs: create_job(jobs, labels={"Key": "v"}), exceptions.BadRequest),
        (lambda jobs: (create_job(jobs), create_job(jobs)), exceptions.Conflict),
        (lambda jobs: jobs.get_pipeline_job(name=f"{PARENT}/pipelineJobs/none"), exceptions.NotFound),
        (
            lambda jobs: jobs.get_pipeline_job(name=f"projects/other/locations/{LOCATION}/pipelineJobs/none"),
            exceptions.Forbidden,
        ),
    ],
)
def test_refuses_as_the_service_does(client, act, error):
    with pytest.raises(error):
        act(client("PipelineService"))


def test_faults_happen_before_or_after_the_service_acted(vertex, client):
    jobs = client("PipelineService")
    vertex.fail("CreatePipelineJob", Fault(status="RESOURCE_EXHAUSTED", message="Quota exceeded"))
    with pytest.raises(exceptions.TooManyRequests, match="Quota exceeded"):
        create_job(jobs)
    assert not vertex.of_kind(v1.PipelineJob)
    vertex.fail("CreatePipelineJob", Fault(acted=True, lost=True))
    with pytest.raises(Exception, match=r"Socket closed|[Cc]onnection"):
        create_job(jobs)
    assert len(vertex.of_kind(v1.PipelineJob)) == 1


def test_a_schedule_fires_pauses_and_completes(vertex, client):
    schedules = client("ScheduleService")
    request = v1.CreatePipelineJobRequest(
        parent=PARENT, pipeline_job=v1.PipelineJob(pipeline_spec=SPEC, runtime_config=RUNTIME)
    )
    made = v1.Schedule(
        display_name="nightly",
        cron="TZ=Europe/Zurich 0 3 * * *",
        max_concurrent_run_count=1,
        max_concurrent_active_run_count=1,
        max_run_count=2,
        create_pipeline_job_request=request,
    )
    vertex.steps = 1  # the client waits a second between polls
    name = schedules.create_schedule(parent=PARENT, schedule=made).name
    assert vertex.fire(name).schedule_name == name
    assert vertex.fire(name) is None  # the first still runs
    schedules.pause_schedule(name=name)
    assert not schedules.get_schedule(name=name).next_run_time
    schedules.resume_schedule(name=name, catch_up=True)
    changed = schedules.update_schedule(
        schedule=v1.Schedule(name=name, max_concurrent_active_run_count=2, display_name="x"),
        update_mask={"paths": ["max_concurrent_active_run_count"]},
    )
    assert (changed.display_name, changed.max_concurrent_active_run_count, changed.catch_up) == ("nightly", 2, True)
    vertex.fire(name)
    assert schedules.get_schedule(name=name).state == v1.Schedule.State.COMPLETED
    made.cron = "0 25 * * *"
    with pytest.raises(exceptions.BadRequest, match="hour"):
        schedules.create_schedule(parent=PARENT, schedule=made)
    schedules.delete_schedule(name=name).result(timeout=20)
    assert not list(schedules.list_schedules(parent=PARENT))


def test_an_alias_names_one_version(client):
    models = client("ModelService")
    model = v1.Model(display_name="tuned", artifact_uri="gs://bucket/model", version_aliases=["champion"])
    first = models.upload_model(parent=PARENT, model=model).result(timeout=20)
    second = models.upload_model(
        request=v1.UploadModelRequest(parent=PARENT, parent_model=first.model, model=model)
    ).result(timeout=20)
    assert (first.model_version_id, second.model_version_id) == ("1", "2")
    assert list(models.get_model(name=f"{first.model}@1").version_aliases) == ["default"]
    models.merge_version_aliases(name=f"{first.model}@1", version_aliases=["champion", "stable"])
    versions = list(models.list_model_versions(name=first.model))
    assert [list(version.version_aliases) for version in versions] == [["default", "champion", "stable"], []]


def test_models_are_found_by_label_and_versions_and_models_deleted(vertex, client):
    vertex.steps = 1
    models = client("ModelService")
    for labels in ({"kind": "tuned"}, {"kind": "base"}):
        models.upload_model(parent=PARENT, model=v1.Model(display_name="m", labels=labels)).result(timeout=20)
    request = v1.ListModelsRequest(parent=PARENT, filter='labels.kind="tuned" AND display_name=m')
    (model,) = models.list_models(request)
    second = v1.UploadModelRequest(parent=PARENT, parent_model=model.name, model=v1.Model(display_name="m"))
    models.upload_model(second).result(timeout=20)
    models.delete_model_version(name=f"{model.name}@2").result(timeout=20)
    with pytest.raises(exceptions.BadRequest, match="default version cannot be deleted"):
        models.delete_model_version(name=f"{model.name}@1")
    models.delete_model(name=model.name).result(timeout=20)
    with pytest.raises(exceptions.NotFound):
        models.get_model(name=model.name)


def test_a_raw_prediction_carries_what_the_container_takes_and_gives(vertex, client):
    from google.auth import default
    from google.auth.transport.requests import AuthorizedSession

    models, endpoints = client("ModelService"), client("EndpointService")
    vertex.steps = 0
    uploaded = models.upload_model(parent=PARENT, model=v1.Model(display_name="m")).result(timeout=20)
    endpoint = endpoints.create_endpoint(parent=PARENT, endpoint=v1.Endpoint(display_name="e")).result(timeout=20)
    deployment = v1.DeployedModel(model=uploaded.model, dedicated_resources=MACHINE)
    endpoints.deploy_model(endpoint=endpoint.name, deployed_model=deployment).result(timeout=20)
    vertex.serve = lambda model, body: Reply(status=418, body=body.upper(), content_type="text/plain")
    session = AuthorizedSession(default(scopes=["https://www.googleapis.com/auth/cloud-platform"])[0])
    answer = session.post(f"{vertex.rest}/v1/{endpoint.name}:rawPredict", data=b"hello")
    assert (answer.status_code, answer.text, answer.headers["Content-Type"]) == (418, "HELLO", "text/plain")
    session.close()


def test_an_endpoint_answers_through_the_deployed_model_and_a_failed_deployment_changes_nothing(vertex, client):
    models, endpoints, predictions = client("ModelService"), client("EndpointService"), client("PredictionService")
    uploaded = models.upload_model(parent=PARENT, model=v1.Model(display_name="tuned")).result(timeout=20)
    vertex.steps = 1  # the client waits a second between polls
    endpoint = endpoints.create_endpoint(parent=PARENT, endpoint=v1.Endpoint(display_name="e")).result(timeout=20)
    with pytest.raises(exceptions.GoogleAPICallError, match="traffic_split"):
        predictions.predict(endpoint=endpoint.name, instances=[])
    deployment = v1.DeployedModel(model=uploaded.model, dedicated_resources=MACHINE)
    deployed = endpoints.deploy_model(
        endpoint=endpoint.name, deployed_model=deployment, traffic_split={"0": 100}
    ).result(timeout=20)
    vertex.serve = lambda model, body: Reply(body=json.dumps({"predictions": json.loads(body)["instances"]}).encode())
    answer = predictions.predict(endpoint=endpoint.name, instances=[{"prompt": "Hello"}])
    assert dict(answer.predictions[0]) == {"prompt": "Hello"}
    vertex.fail_operation("DeployModel", "RESOURCE_EXHAUSTED", "no GPU left")
    with pytest.raises(exceptions.GoogleAPICallError, match="no GPU left"):
        endpoints.deploy_model(endpoint=endpoint.name, deployed_model=deployment, traffic_split={"0": 100}).result(
            timeout=20
        )
    assert dict(endpoints.get_endpoint(name=endpoint.name).traffic_split) == {deployed.deployed_model.id: 100}
    vertex.serve = lambda model, body: Reply(status=500, body=b"out of memory")
    with pytest.raises(exceptions.InternalServerError, match="out of memory"):
        predictions.predict(endpoint=endpoint.name, instances=[{"prompt": "Hello"}])
    with pytest.raises(exceptions.GoogleAPICallError, match="undeploy"):
        endpoints.delete_endpoint(name=endpoint.name)
    endpoints.undeploy_model(endpoint=endpoint.name, deployed_model_id=deployed.deployed_model.id).result(timeout=20)
    endpoints.delete_endpoint(name=endpoint.name).result(timeout=20)
    assert not list(endpoints.list_endpoints(parent=PARENT))
