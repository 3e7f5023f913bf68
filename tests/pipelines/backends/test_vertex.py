"""`Vertex` against a server of its own over REST and gRPC: what the server received, and what people are told."""

import copy
import json
import sys
from dataclasses import replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
import yaml
from gcs_server import serve_cloud_storage
from google.cloud import aiplatform_v1 as v1
from submitted_run import local_executor
from vertex_server import serve_vertex
from vertex_service import LOCATION, PROJECT, PROJECT_NUMBER, Fault, TaskEnd

from rlhf_pipelines.backends import vertex_checks
from rlhf_pipelines.backends.backend import Connection, Plan, ScheduleState, State, Submission, connect
from rlhf_pipelines.parameters import PIPELINES
from rlhf_tuning import google_errors
from rlhf_tuning.errors import ParameterError, RunError, UserError
from rlhf_tuning.models.model_reference import WeightBytes

PREFIX = f"projects/{PROJECT_NUMBER}/locations/{LOCATION}"
IMAGE = f"us-central1-docker.pkg.dev/{PROJECT}/rlhf/light:1"
SPEC = {
    "pipelineInfo": {"name": "two-steps"},
    "schemaVersion": "2.1.0",
    "sdkVersion": "kfp-2.17.0",
    "root": {
        "inputDefinitions": {
            "parameters": {
                "prompt_dataset": {"parameterType": "STRING"},
                "steps": {"parameterType": "NUMBER_INTEGER", "isOptional": True, "defaultValue": 1.0},
                "kl_coeff": {"parameterType": "NUMBER_DOUBLE", "isOptional": True, "defaultValue": 0.1},
                "deploy_model": {"parameterType": "BOOLEAN", "isOptional": True, "defaultValue": True},
                "large_model_reference": {"parameterType": "STRING", "isOptional": True, "defaultValue": ""},
                "registry_dir": {"parameterType": "STRING", "isOptional": True, "defaultValue": ""},
                "judge_rubric": {"parameterType": "STRING", "isOptional": True, "defaultValue": ""},
                "regression_suite": {"parameterType": "STRING", "isOptional": True, "defaultValue": ""},
            }
        },
        "outputDefinitions": {"parameters": {"model_resource_name": {"parameterType": "STRING"}}},
        "dag": {
            "outputs": {
                "parameters": {
                    "model_resource_name": {
                        "valueFromParameter": {"producerSubtask": "train", "outputParameterKey": "model"}
                    }
                }
            },
            "tasks": {
                "prepare": {
                    "componentRef": {"name": "comp-prepare"},
                    "taskInfo": {"name": "Prepare"},
                    "cachingOptions": {"enableCache": True},
                },
                "train": {"componentRef": {"name": "comp-train"}, "taskInfo": {"name": "Train"}},
            },
        },
    },
    "components": {
        "comp-prepare": {"executorLabel": "exec-prepare"},
        "comp-train": {
            "dag": {
                "outputs": {
                    "parameters": {
                        "model": {"valueFromParameter": {"producerSubtask": "upload", "outputParameterKey": "name"}}
                    }
                },
                "tasks": {
                    "tune": {"componentRef": {"name": "comp-prepare"}, "taskInfo": {"name": "Tune"}},
                    "prepare": {"componentRef": {"name": "comp-prepare"}, "taskInfo": {"name": "Prepare"}},
                    "upload": {"componentRef": {"name": "comp-prepare"}, "taskInfo": {"name": "Upload"}},
                },
            }
        },
    },
    "deploymentSpec": {"executors": {"exec-prepare": {"container": {"image": IMAGE}}}},
}
SUBMISSION = Submission(
    pipeline="two_steps",
    spec=SPEC,
    values={"prompt_dataset": "gs://bucket/prompts.jsonl", "steps": 3, "kl_coeff": 0.2, "deploy_model": False},
    display_name="My Tune!",
    pipeline_root="gs://bucket/runs",
    labels={"team": "blue"},
    service_account=f"runner@{PROJECT}.iam.gserviceaccount.com",
    network=f"projects/{PROJECT_NUMBER}/global/networks/net",
    reserved_ip_ranges=("range",),
    encryption_spec_key_name=f"projects/{PROJECT}/locations/{LOCATION}/keyRings/r/cryptoKeys/k",
)
PLAN = Plan(cron="0 3 * * 1", time_zone="Europe/Zurich", max_runs=5)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(google_errors, "DELAYS", (0.0, 0.0, 0.0))
    monkeypatch.setattr("rlhf_pipelines.backends.vertex._POLL_SECONDS", 0.0)


@pytest.fixture
def server(monkeypatch, tmp_path):
    with serve_vertex() as vertex:
        vertex.use_credentials(monkeypatch, tmp_path)
        vertex.steps = 1
        yield vertex


@pytest.fixture
def vertex(server):
    return connect("vertex", Connection(location=LOCATION, api_endpoint=server.rest))


@pytest.fixture(params=["rest", "grpc"])
def either(request, server):
    """Over both transports."""
    address = server.rest if request.param == "rest" else server.grpc
    return connect("vertex", Connection(project=PROJECT, location=LOCATION, api_endpoint=address))


@pytest.fixture
def storage(monkeypatch):
    with serve_cloud_storage() as cloud:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", cloud.address)
        yield cloud


# Jobs.


def test_a_job_is_submitted_followed_listed_and_cancelled(server, either):
    job = either.submit(SUBMISSION)
    name = job.name.rpartition("/")[2]
    assert job.name == f"{PREFIX}/pipelineJobs/{name}"
    assert job.state is State.PENDING
    assert job.pipeline == "two-steps"
    assert name.startswith(f"my-tune-{datetime.now(UTC):%Y%m%d}")
    assert job.link == (
        f"https://console.cloud.google.com/vertex-ai/locations/{LOCATION}/pipelines/runs/{name}?project={PROJECT_NUMBER}"
    )
    assert [state for state, _ in zip(iter(lambda: either.job(name).state, None), range(3), strict=False)] == [
        State.RUNNING
    ] * 3
    either.cancel(job.name)
    assert either.job(job.name).state is State.CANCELLED
    with pytest.raises(UserError, match="has ended already: cancelled"):
        either.cancel(name)
    assert len(server.received("CancelPipelineJob")) == 1
    (listed,) = either.jobs(10)
    assert (listed.name, listed.pipeline, listed.display_name) == (job.name, "two-steps", "My Tune!")
    assert not listed.tasks


@pytest.fixture
def google_s_own(server, storage, tmp_path, monkeypatch):
    """Submit through the high-level client."""
    from google.cloud import aiplatform
    from google.cloud.aiplatform.utils import resource_manager_utils

    monkeypatch.setattr(resource_manager_utils, "get_project_number", lambda *args, **settings: PROJECT_NUMBER)
    aiplatform.init(project=PROJECT, location=LOCATION, api_endpoint=server.rest, api_transport="rest")
    (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump(SPEC))

    def submit(job_id, caching=None, failure_policy=None, experiment=None):
        aiplatform.PipelineJob(
            display_name="My Tune!",
            job_id=job_id,
            template_path=str(tmp_path / "pipeline.yaml"),
            pipeline_root=SUBMISSION.pipeline_root,
            parameter_values=dict(SUBMISSION.values),
            enable_caching=caching,
            encryption_spec_key_name=SUBMISSION.encryption_spec_key_name,
            labels=dict(SUBMISSION.labels),
            failure_policy=failure_policy,
        ).submit(
            service_account=SUBMISSION.service_account,
            network=SUBMISSION.network,
            reserved_ip_ranges=list(SUBMISSION.reserved_ip_ranges),
            experiment=experiment,
        )

    return submit


@pytest.mark.parametrize("key", [SUBMISSION.encryption_spec_key_name, ""])
def test_a_job_that_failed_is_submitted_again_and_no_other(server, either, key):
    server.steps = 50
    job = either.submit(replace(SUBMISSION, encryption_spec_key_name=key))
    with pytest.raises(ParameterError, match="only one that failed or was cancelled can be resumed"):
        either.resume_job(job.name)
    server.of_kind(v1.PipelineJob)[0].state = v1.PipelineState.PIPELINE_STATE_FAILED
    resumed = either.resume_job(job.name)
    assert resumed.name != job.name
    first, second = (request.pipeline_job for request in server.received("CreatePipelineJob"))
    assert second == first


def test_a_lost_answer_to_a_cancellation_is_no_error(server, either):
    server.steps = 50
    name = either.submit(SUBMISSION).name
    server.fail("CancelPipelineJob", Fault(acted=True, lost=True))
    either.cancel(name)
    either.cancel(name)
    assert server.of_kind(v1.PipelineJob)[0].state == v1.PipelineState.PIPELINE_STATE_CANCELLING
    server.fail("CancelPipelineJob", Fault(status="PERMISSION_DENIED", message="No."))
    with pytest.raises(UserError, match=r"No\."):
        either.cancel(either.submit(SUBMISSION).name)


@pytest.mark.parametrize(("caching", "fail_fast"), [(None, False), (False, True), (True, False)])
def test_what_is_sent_is_what_google_s_own_pipeline_job_sends(server, vertex, google_s_own, caching, fail_fast):
    vertex.submit(replace(SUBMISSION, caching=caching, fail_fast=fail_fast))
    google_s_own("theirs", caching, "fast" if fail_fast else None)
    ours, theirs = server.received("CreatePipelineJob")
    assert ours.pipeline_job == theirs.pipeline_job
    assert ours.parent == theirs.parent


def test_an_experiment_is_joined_as_google_s_own_pipeline_job_joins_it(server, vertex, google_s_own):
    vertex.submit(replace(SUBMISSION, experiment="ours"))
    google_s_own("theirs", experiment="theirs")
    *_, ours, theirs = (request.context for request in server.received("CreateContext"))  # the first found no store
    theirs.display_name = "ours"
    assert ours == theirs
    ours, theirs = server.received("AddContextChildren")
    assert theirs.context == ours.context.removesuffix("ours") + "theirs"
    assert [len(request.child_contexts) for request in (ours, theirs)] == [1, 1]


def test_tasks_have_the_names_that_people_gave_them_and_say_what_became_of_them(server, vertex):
    server.task_ends = {
        "tune": TaskEnd(state="SKIPPED"),
        "prepare": TaskEnd(state="NOT_TRIGGERED"),
        "upload": TaskEnd(state="FAILED", error="The replica workerpool0-0 exited with a non-zero status of 1."),
    }
    name = vertex.submit(SUBMISSION).name
    for _ in range(10):
        job = vertex.job(name)
    assert {task.name: task.state for task in job.tasks} == {
        "Prepare": State.SKIPPED,
        "Tune": State.CACHED,
        "Train: Prepare": State.SKIPPED,
        "Upload": State.FAILED,
    }
    assert [task.error for task in job.tasks if task.error] == [
        "The replica workerpool0-0 exited with a non-zero status of 1."
    ]
    assert job.state is State.FAILED
    assert "failed tasks are: [upload]" in job.error
    assert all(task.started and task.ended for task in job.tasks)
    assert job.ended


def test_outputs_are_found_through_graphs_of_steps(server, vertex):
    server.task_ends = {"upload": TaskEnd(outputs={"name": "projects/p/models/1"})}
    name = vertex.submit(SUBMISSION).name
    for _ in range(10):
        job = vertex.job(name)
    assert job.outputs == {"model_resource_name": "projects/p/models/1"}


def test_two_jobs_of_one_name_in_one_second_are_two(server, vertex):
    assert vertex.submit(SUBMISSION).name != vertex.submit(SUBMISSION).name


@pytest.mark.parametrize("name", ["", "日本", "1 2 3", "x" * 128])
def test_any_display_name_makes_an_id_that_the_service_takes(server, vertex, name):
    assert vertex.submit(replace(SUBMISSION, display_name=name)).state is State.PENDING


def test_lists_are_the_newest_of_several_pages_and_no_more_than_asked_for(server, vertex):
    server.page_size = 2
    names = [vertex.submit(SUBMISSION).name for _ in range(5)]
    assert [job.name for job in vertex.jobs(3)] == names[:1:-1]
    (request, *_) = server.received("ListPipelineJobs")
    assert "pipeline_spec" not in request.read_mask.paths


# What goes wrong.


@pytest.mark.parametrize(
    "faults",
    [
        [Fault(status="UNAVAILABLE")] * 2,
        [Fault(status="RESOURCE_EXHAUSTED", message="Too many requests.")] * 3,
        [Fault(acted=True, lost=True)],
        [Fault(lost=True)],
        [Fault(status="INTERNAL", acted=True)],
        [Fault(status="DEADLINE_EXCEEDED"), Fault(status="UNAVAILABLE", acted=True)],
    ],
)
def test_a_failing_service_gets_one_job_whatever_it_did_before_it_failed(server, either, faults):
    for fault in faults:
        server.fail("CreatePipelineJob", fault)
    job = either.submit(SUBMISSION)
    assert [made.name for made in server.of_kind(v1.PipelineJob)] == [job.name]
    assert len({request.pipeline_job_id for request in server.received("CreatePipelineJob")}) == 1


def test_an_id_that_an_attempt_of_ours_took_is_our_job(server, vertex):
    # The first answer is lost, and the question whether it came through fails at first too.
    server.fail("CreatePipelineJob", Fault(acted=True, lost=True))
    server.fail("GetPipelineJob", Fault(status="NOT_FOUND", message="not yet"))
    job = vertex.submit(SUBMISSION)
    assert [made.name for made in server.of_kind(v1.PipelineJob)] == [job.name]
    assert len(server.received("CreatePipelineJob")) == 2


def test_a_service_that_stays_away_leaves_it_open_and_says_how_to_look(server, vertex):
    server.fail("CreatePipelineJob", Fault(acted=True, lost=True), times=9)
    server.fail("GetPipelineJob", Fault(status="UNAVAILABLE"), times=9)
    with pytest.raises(RunError, match=r"not known whether it was created.*rlhf jobs show my-tune-"):
        vertex.submit(SUBMISSION)


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        (
            Fault(status="PERMISSION_DENIED", message="Permission 'aiplatform.pipelineJobs.create' denied"),
            UserError,
            ["job my-tune-", PROJECT, LOCATION, "roles/aiplatform.user", "pipelineJobs.create"],
        ),
        (
            Fault(
                status="PERMISSION_DENIED",
                message="You do not have permission to act as service account: runner@x.iam.gserviceaccount.com",
            ),
            UserError,
            ["roles/iam.serviceAccountUser"],
        ),
        (
            Fault(
                status="PERMISSION_DENIED",
                message="Vertex AI API has not been used in project 1 before or it is disabled.",
            ),
            UserError,
            [f"gcloud services enable aiplatform.googleapis.com --project {PROJECT}"],
        ),
        (Fault(status="UNAUTHENTICATED", message="No."), UserError, ["gcloud auth application-default login"]),
        (Fault(status="INVALID_ARGUMENT", message="Bad network."), UserError, ["Bad network."]),
        (Fault(status="FAILED_PRECONDITION", message="Not now."), UserError, ["Not now."]),
        (Fault(status="NOT_FOUND", message="No such key."), UserError, ["was refused", "No such key."]),
        (
            Fault(
                status="RESOURCE_EXHAUSTED",
                message="Quota exceeded for quota metric 'Pipeline jobs' and limit 'Pipeline jobs per minute' of "
                "service 'aiplatform.googleapis.com'.",
            ),
            UserError,
            ["The quota is Pipeline jobs:", f"iam-admin/quotas?project={PROJECT}"],
        ),
        (
            Fault(
                status="RESOURCE_EXHAUSTED",
                message="The following quotas are exceeded: CustomModelTrainingA100GPUsPerProjectPerRegion",
            ),
            UserError,
            ["The quota is CustomModelTrainingA100GPUsPerProjectPerRegion:"],
        ),
        (Fault(status="INTERNAL", message="Oops."), RunError, ["Oops.", "not known whether", "Try again"]),
        (Fault(lost=True), RunError, ["cannot be reached", "not known whether"]),
    ],
)
def test_a_refusal_says_what_where_and_what_to_do(server, vertex, fault, error, words):
    server.fail("CreatePipelineJob", fault, times=9)
    with pytest.raises(error) as refused:
        vertex.submit(SUBMISSION)
    assert all(word in str(refused.value) for word in words), refused.value
    assert "POST http" not in str(refused.value)


def test_refusals_over_grpc_read_the_same(server, either):
    server.fail("GetPipelineJob", Fault(status="PERMISSION_DENIED", message="Permission denied"))
    with pytest.raises(UserError, match=r"job x was refused in project .*: Permission denied. You need the role"):
        either.job("x")
    with pytest.raises(UserError, match=f"There is no job x in project {PROJECT}, location {LOCATION}"):
        either.job("x")


def test_reading_is_tried_again(server, vertex):
    name = vertex.submit(SUBMISSION).name
    server.fail("GetPipelineJob", Fault(status="UNAVAILABLE"))
    server.fail("GetPipelineJob", Fault(lost=True))
    assert vertex.job(name).name == name


def test_a_server_that_is_not_there_is_named(server):
    vertex = connect("vertex", Connection(project=PROJECT, location=LOCATION, api_endpoint="http://127.0.0.1:1"))
    with pytest.raises(RunError, match=r"http://127.0.0.1:1 cannot be reached"):
        vertex.jobs(1)


def test_a_server_that_is_not_there_is_named_over_grpc_too(server):
    vertex = connect("vertex", Connection(project=PROJECT, location=LOCATION, api_endpoint="127.0.0.1:1"))
    with pytest.raises(RunError, match=r"127.0.0.1:1 cannot be reached"):
        vertex.jobs(1)


def test_credentials_that_have_expired_are_no_failing_service():
    from google.api_core import exceptions

    error = exceptions.ServiceUnavailable("Getting metadata from plugin failed with error: ('invalid_grant: expired',)")
    where = google_errors.Where(project=PROJECT, location=LOCATION, address="a")
    assert not google_errors.may_pass(error)
    assert "gcloud auth application-default login" in str(google_errors.explained(error, "job x", where))


def test_an_operation_that_ends_in_an_error_or_never_is_told(server, vertex, monkeypatch):
    name = vertex.create_schedule(SUBMISSION, PLAN).name
    server.fail_operation("DeleteSchedule", "FAILED_PRECONDITION", "It is in use.")
    with pytest.raises(UserError, match=r"It is in use."):
        vertex.delete_schedule(name)
    monkeypatch.setattr("rlhf_pipelines.backends.vertex._LONG_SECONDS", 0.1)
    server.steps = 100
    with pytest.raises(RunError, match="failed at schedule"):
        vertex.delete_schedule(name)


@pytest.mark.parametrize("name", ["", "a/b", "../x", "projects/p/locations/l/schedules/1", "a b"])
def test_a_name_that_can_be_none_is_not_asked_for(server, vertex, name):
    with pytest.raises(UserError, match="is no name such as"):
        vertex.job(name)
    assert not server.calls


def test_a_job_of_another_region_says_where_it_is(vertex):
    with pytest.raises(UserError, match="give --location europe-west4"):
        vertex.job("projects/p/locations/europe-west4/pipelineJobs/x")


# The connection.


@pytest.mark.parametrize(
    ("connection", "message"),
    [
        (Connection(), "--location is missing"),
        (Connection(location="Zurich"), "--location is 'Zurich'"),
        (Connection(location=LOCATION, project="My Project"), "--project is 'My Project'"),
        (Connection(location=LOCATION, host="http://h"), "--host is for Kubeflow"),
        (Connection(location=LOCATION, namespace="n"), "--namespace is for Kubeflow"),
    ],
)
def test_a_connection_that_is_not_enough_is_refused(connection, message):
    with pytest.raises(ParameterError, match=message):
        connect("vertex", connection)


def test_the_region_of_google_s_tools_is_the_default(server, monkeypatch):
    monkeypatch.setattr("rlhf_tuning.environment.GOOGLE_CLOUD_REGION", LOCATION)
    assert connect("vertex", Connection(api_endpoint=server.rest)).jobs(5) == []
    assert server.received("ListPipelineJobs")[0].parent == f"projects/{PROJECT}/locations/{LOCATION}"


def test_without_credentials_it_says_how_to_sign_in(monkeypatch, tmp_path):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(UserError, match="gcloud auth application-default login"):
        connect("vertex", Connection(location=LOCATION)).jobs(5)


def test_without_google_s_client_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "google.cloud.aiplatform_v1", None)
    with pytest.raises(UserError, match=r"pip install 'rlhf-pipelines\[vertex\]'"):
        connect("vertex", Connection(location=LOCATION))


# What stands against a submission.


@pytest.fixture
def checked(server, vertex, storage, monkeypatch):
    """A backend whose bucket and images exist."""
    server.images.add(f"/v2/{PROJECT}/rlhf/light/manifests/1")
    hosts = []
    monkeypatch.setattr(
        vertex_checks,
        "manifest_address",
        lambda host, name, reference: hosts.append(host) or f"{server.rest}/v2/{name}/manifests/{reference}",
    )
    vertex.hosts = hosts
    return vertex


def test_nothing_stands_against_a_good_submission(server, checked):
    assert checked.problems(SUBMISSION) == []
    assert checked.hosts == ["us-central1-docker.pkg.dev"]
    assert server.received("HeadManifest") == [f"/v2/{PROJECT}/rlhf/light/manifests/1"]


def test_a_manifest_is_asked_for_where_registries_keep_them():
    assert vertex_checks.manifest_address("gcr.io", "p/light", "1") == "https://gcr.io/v2/p/light/manifests/1"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": "3"}, "steps must be a whole number, not the text '3'."),
        ({"steps": 2.5}, "steps must be a whole number, not 2.5."),
        ({"steps": True}, "steps must be a whole number, not true."),
        ({"steps": 2**53 + 1}, "not exact in a pipeline"),
        ({"kl_coeff": float("nan")}, "kl_coeff is nan; it must be a finite number."),
        ({"kl_coeff": float("inf")}, "kl_coeff is inf; it must be a finite number."),
        ({"deploy_model": 1}, "deploy_model must be true or false, not 1."),
        ({"step": 3}, "step is no parameter of the pipeline. Did you mean steps?"),
        ({"prompt_dataset": ""}, "prompt_dataset is missing"),
        ({"prompt_dataset": "data/prompts.jsonl"}, "prompt_dataset is 'data/prompts.jsonl', a path of this machine"),
        ({"large_model_reference": "./model"}, "large_model_reference is './model', a folder of this machine"),
        ({"registry_dir": "/models"}, "registry_dir is '/models'"),
        ({"regression_suite": "suite.jsonl"}, "regression_suite is 'suite.jsonl', a path of this machine"),
        ({"judge_rubric": "rubric.md"}, "judge_rubric is 'rubric.md', a file of this machine"),
    ],
)
def test_parameters_are_checked_against_the_compiled_pipeline(checked, values, message):
    (problem,) = checked.problems(replace(SUBMISSION, values={**SUBMISSION.values, **values}))
    assert message in problem


def test_a_missing_parameter_is_named(checked):
    (problem,) = checked.problems(replace(SUBMISSION, values={}))
    assert "prompt_dataset is missing" in problem


@pytest.mark.parametrize(
    "values",
    [
        {"steps": 3.0},
        {"kl_coeff": 1},
        {"prompt_dataset": "/gcs/bucket/*.jsonl"},
        {"registry_dir": ""},
        {"regression_suite": "general"},
        {"judge_rubric": "gs://bucket/rubric.md"},
        {"judge_rubric": "Be kind.\nRead style.md"},
    ],
)
def test_values_that_work_are_let_through(checked, values):
    assert checked.problems(replace(SUBMISSION, values={**SUBMISSION.values, **values})) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pipeline_root": ""}, "--pipeline-root is missing"),
        ({"pipeline_root": "runs"}, "--pipeline-root is 'runs'"),
        ({"pipeline_root": "gs://none/x"}, "there is no bucket none. Create it with: gcloud storage buckets create"),
        ({"display_name": "x" * 129}, "--display-name has 129 characters"),
        ({"service_account": "me@example.com"}, "--service-account is 'me@example.com'"),
        ({"network": f"projects/{PROJECT}/global/networks/net"}, "with the number of the project"),
        ({"network": ""}, "--reserved-ip-range is part of a network"),
        ({"experiment": "My_Runs"}, "--experiment is 'My_Runs'"),
        ({"encryption_spec_key_name": "key"}, "keyRings/RING/cryptoKeys/KEY"),
        (
            {"encryption_spec_key_name": "projects/p/locations/europe-west4/keyRings/r/cryptoKeys/k"},
            "encryption_spec_key_name is in europe-west4; the job runs in us-central1",
        ),
        ({"tensorboard_resource_id": "123"}, "tensorboards/NUMBER"),
        ({"labels": {"Team": "blue"}}, "--label Team=blue: a key is"),
        ({"labels": {"team": "Blue!"}}, "--label team=Blue!: a value is"),
        ({"labels": {"1team": ""}}, "begins with a letter"),
        ({"labels": {f"k{n}": "" for n in range(65)}}, "--label is given 65 times"),
        ({"spec": {"pipeline_spec": SPEC}}, "not compiled for Vertex"),
    ],
)
def test_settings_are_checked(checked, changes, message):
    (problem,) = checked.problems(replace(SUBMISSION, **changes))
    assert message in problem


@pytest.mark.parametrize(
    ("metadata", "fits"),
    [
        ({"location": "US-CENTRAL1", "locationType": "region"}, True),
        ({"location": "EUROPE-WEST4", "locationType": "region"}, False),
        ({"location": "US", "locationType": "multi-region"}, True),
        ({"location": "EU", "locationType": "multi-region"}, False),
        ({"location": "NAM4", "locationType": "dual-region"}, True),
        ({"location": "EUR4", "locationType": "dual-region"}, False),
        (
            {
                "location": "US",
                "locationType": "dual-region",
                "customPlacementConfig": {"dataLocations": ["US-EAST1", "US-WEST1"]},
            },
            False,
        ),
    ],
)
def test_the_bucket_must_be_where_the_job_is(checked, storage, metadata, fits):
    storage.metadata["bucket"] = metadata
    problems = checked.problems(SUBMISSION)
    assert [problem for problem in problems if "must be the same region" not in problem] == []
    assert bool(problems) is not fits


def test_a_storage_that_does_not_answer_is_no_mistake_of_the_person(checked, storage, monkeypatch):
    from gcs_server import Fault as StorageFault

    monkeypatch.setattr(vertex_checks, "_SECONDS", 0.1)
    storage.bucket_faults.extend([StorageFault(status=503)] * 9)
    with pytest.raises(RunError, match="Cloud Storage does not say whether the bucket bucket"):
        checked.problems(SUBMISSION)


def test_a_bucket_that_may_not_be_looked_at_names_the_roles(checked, storage):
    from gcs_server import Fault as StorageFault

    storage.bucket_faults.append(StorageFault(status=403))
    (problem,) = checked.problems(SUBMISSION)
    assert "roles/storage.legacyBucketReader" in problem


@pytest.mark.parametrize(
    ("image", "status", "message"),
    [
        (IMAGE, "", ""),
        (IMAGE.removesuffix(":1"), "", "light does not exist"),
        (IMAGE, "NOT_FOUND", f"The image {IMAGE} does not exist"),
        (IMAGE, "PERMISSION_DENIED", ""),
        (IMAGE, "UNAVAILABLE", ""),
        ("gcr.io/p/light@sha256:" + "0" * 64, "", "does not exist"),
        ("docker.io/library/python:3.11", "", ""),
    ],
)
def test_images_must_exist_where_that_can_be_known(server, checked, image, status, message, capsys):
    spec = {**SPEC, "deploymentSpec": {"executors": {"exec-prepare": {"container": {"image": image}}}}}
    if status:
        server.fail("HeadManifest", Fault(status=status))
    problems = checked.problems(replace(SUBMISSION, spec=spec))
    assert [message in problem for problem in problems] == ([True] if message else [])
    told = capsys.readouterr().out
    assert ("cannot be checked from here" in told) is image.startswith("docker.io")
    assert ("needs the role roles/artifactregistry.reader" in told) is (status == "PERMISSION_DENIED")


def test_an_image_to_serve_with_must_exist_too(checked):
    image = IMAGE.replace("light", "vllm")
    values = {**SUBMISSION.values, "serving_image": image}
    spec = copy.deepcopy(SPEC)
    spec["root"]["inputDefinitions"]["parameters"]["serving_image"] = {"parameterType": "STRING", "isOptional": True}
    problems = checked.problems(replace(SUBMISSION, spec=spec, values=values))
    assert problems == [f"The image {image} does not exist. Correct serving_image."]


def test_a_hub_model_that_is_larger_than_a_step_s_disk_comes_with_a_warning(checked, monkeypatch, capsys):
    sizes = {"org/large": 140 * 10**9, "org/small": 16 * 10**9, "gs://bucket/large": 140 * 10**9}
    monkeypatch.setattr(vertex_checks, "weight_bytes", lambda reference, timeout: WeightBytes(sizes[reference], 0))
    for reference, warned in (("org/large", True), ("org/small", False), ("gs://bucket/large", False)):
        values = {**SUBMISSION.values, "large_model_reference": reference}
        assert checked.problems(replace(SUBMISSION, values=values)) == []
        told = capsys.readouterr().out
        assert ("large_model_reference is 'org/large', of 140 GB." in told) is warned
        assert bool(told) is warned


def test_images_that_are_only_names_cannot_be_pulled(checked):
    from rlhf_tuning.images import TRAINER_IMAGE

    spec = {**SPEC, "deploymentSpec": {"executors": {"exec-prepare": {"container": {"image": TRAINER_IMAGE}}}}}
    (problem,) = checked.problems(replace(SUBMISSION, spec=spec))
    assert "--image trainer=" in problem


def test_the_manifest_of_a_digest_is_asked_for_by_it(server, checked):
    digest = f"sha256:{'0' * 64}"
    spec = {"deploymentSpec": {"executors": {"a": {"container": {"image": f"eu-docker.pkg.dev/p/r/light@{digest}"}}}}}
    vertex_checks.image_problems(spec, checked._session)
    assert server.received("HeadManifest") == [f"/v2/p/r/light/manifests/{digest}"]


def test_every_path_among_the_parameters_is_known_to_the_checks():
    described = {parameter.name: parameter.description for table in PIPELINES.values() for parameter in table}
    local = {name for name, words in described.items() if "JSONL" in words or "folder" in words}
    local |= {name for name in described if name.endswith("_reference")}
    assert "large_model_b_reference" in local
    for name in local:
        (problem,) = vertex_checks._folder_problems({name: "./here"})
        assert problem.startswith(f"{name} is './here'")


# Experiments.


def contexts(server):
    return {context.name.rpartition("/")[2]: context for context in server.of_kind(v1.Context)}


def test_a_job_of_an_experiment_becomes_its_child(server, either):
    job = either.submit(replace(SUBMISSION, experiment="runs"))
    found = contexts(server)
    assert found["runs"].schema_title == "system.Experiment"
    assert list(found[job.name.rpartition("/")[2]].parent_contexts) == [found["runs"].name]
    either.submit(replace(SUBMISSION, experiment="runs"))
    assert len(server.received("CreateMetadataStore")) == 1


def test_a_name_that_is_no_experiment_is_refused_before_anything_starts(server, vertex):
    vertex.submit(SUBMISSION)
    server._context("two-steps", "system.Pipeline")
    with pytest.raises(UserError, match=r"two-steps is the name of a system.Pipeline"):
        vertex.submit(replace(SUBMISSION, experiment="two-steps"))
    assert len(server.of_kind(v1.PipelineJob)) == 1


def test_a_job_is_not_lost_where_its_experiment_cannot_be_changed(server, vertex, caplog):
    server.fail("AddContextChildren", Fault(status="PERMISSION_DENIED", message="No."))
    job = vertex.submit(replace(SUBMISSION, experiment="runs"))
    assert job.name
    assert "is not part of the experiment runs" in caplog.text


# Schedules.


def test_a_schedule_carries_all_that_a_job_would_have(server, either):
    schedule = either.create_schedule(replace(SUBMISSION, caching=False, fail_fast=True), PLAN)
    either.submit(replace(SUBMISSION, caching=False, fail_fast=True))
    (request,) = server.received("CreateSchedule")
    scheduled = v1.PipelineJob(request.schedule.create_pipeline_job_request.pipeline_job)
    scheduled.labels.pop("rlhf-schedule")
    assert scheduled == server.received("CreatePipelineJob")[0].pipeline_job
    assert request.schedule.create_pipeline_job_request.parent == request.parent
    sent = request.schedule
    assert (sent.cron, sent.max_run_count, sent.allow_queueing) == ("TZ=Europe/Zurich 0 3 * * 1", 5, False)
    # Both: the first alone lets a run start while another goes on.
    assert (sent.max_concurrent_run_count, sent.max_concurrent_active_run_count) == (1, 1)
    assert schedule.plan == replace(PLAN, start=schedule.plan.start)
    assert (schedule.state, schedule.runs_started, schedule.pipeline) == (ScheduleState.ACTIVE, 0, "two-steps")
    assert schedule.next_run.astimezone(ZoneInfo("Europe/Zurich")).strftime("%a %H:%M") == "Mon 03:00"
    assert "/pipelines/schedules/" in schedule.link


def test_a_schedule_never_runs_twice_at_once(server, vertex):
    name = vertex.create_schedule(SUBMISSION, PLAN).name
    assert server.fire(name)
    assert server.fire(name) is None
    schedule = vertex.schedule(name)
    assert (schedule.runs_started, schedule.last_error) == (1, "")
    assert vertex.jobs(1)[0].display_name == "My Tune!"


def test_a_schedule_is_paused_resumed_changed_listed_and_deleted(server, either):
    name = either.create_schedule(SUBMISSION, PLAN).name
    short = name.rpartition("/")[2]
    either.pause(short)
    assert either.schedule(short).state is ScheduleState.PAUSED
    assert either.schedule(short).next_run is None
    either.resume(short, catch_up=True)
    assert server.received("ResumeSchedule")[0].catch_up
    assert either.schedule(short).state is ScheduleState.ACTIVE
    before = either.schedule(short).plan
    end = datetime(2099, 1, 1, tzinfo=UTC)
    changed = either.update_schedule(
        short,
        replace(before, cron="30 4 * * *", time_zone="UTC", end=end, max_runs=0, max_concurrent_runs=2, queue=True),
    )
    assert changed.plan == replace(
        before, cron="30 4 * * *", time_zone="UTC", end=end, max_runs=0, max_concurrent_runs=2, queue=True
    )
    assert "start_time" not in server.received("UpdateSchedule")[0].update_mask.paths
    assert changed.display_name == "My Tune!"
    either.update_schedule(short, changed.plan)
    assert len(server.received("UpdateSchedule")) == 1  # nothing to change
    assert [schedule.name for schedule in either.schedules(5)] == [name]
    either.delete_schedule(short)
    assert either.schedules(5) == []
    with pytest.raises(UserError, match="There is no schedule"):
        either.delete_schedule(short)


@pytest.mark.parametrize(
    "fault", [Fault(acted=True, lost=True), Fault(status="INTERNAL", acted=True), Fault(status="UNAVAILABLE")]
)
def test_a_lost_answer_does_not_make_two_schedules(server, either, fault):
    other = either.create_schedule(SUBMISSION, PLAN).name  # of the same name
    server.fail("CreateSchedule", fault)
    schedule = either.create_schedule(SUBMISSION, PLAN)
    assert schedule.name != other
    assert len(server.of_kind(v1.Schedule)) == 2


def test_a_schedule_with_an_end_and_a_start_keeps_them(vertex):
    start, end = datetime(2098, 1, 1, tzinfo=UTC), datetime(2099, 1, 1, tzinfo=UTC)
    schedule = vertex.create_schedule(SUBMISSION, replace(PLAN, start=start, end=end))
    assert (schedule.plan.start, schedule.plan.end) == (start, end)
    assert schedule.next_run > start


def test_a_schedule_that_cannot_be_is_refused_before_anything_is_sent(server, vertex):
    with pytest.raises(ParameterError, match="hour cannot be '25'"):
        vertex.create_schedule(SUBMISSION, replace(PLAN, cron="0 25 * * *"))
    with pytest.raises(ParameterError, match="--experiment cannot be given to a schedule"):
        vertex.check_schedule(replace(SUBMISSION, experiment="runs"), PLAN)
    with pytest.raises(ParameterError, match="before the first run"):
        vertex.create_schedule(SUBMISSION, replace(PLAN, end=datetime(2020, 1, 1, tzinfo=UTC)))
    assert not server.calls


def test_the_service_s_last_error_is_told(server, vertex):
    name = vertex.create_schedule(SUBMISSION, PLAN).name
    server.resources[name].last_scheduled_run_response = v1.Schedule.RunResponse(run_response="PERMISSION_DENIED: no")
    assert vertex.schedule(name).last_error == "PERMISSION_DENIED: no"


# The commands.


def test_the_commands_submit_show_and_schedule(server, storage, capsys):
    from rlhf_pipelines.cli.rlhf import main

    there = ["--location", LOCATION, "--api-endpoint", server.rest]
    job = [
        *(
            "--pipeline",
            "infer_pipeline",
            "--prompt-dataset",
            "gs://bucket/p.jsonl",
            "--pipeline-root",
            "gs://bucket/r",
        ),
        *("--large-model-reference", "smollm2-135m-instruct", "--machine", "l4", "--label", "team=blue"),
        *("--image", "light=docker.io/me/light:1", "--image", "trainer=docker.io/me/trainer:1"),
    ]
    assert main(["submit", *job, *there]) == 0
    name = server.of_kind(v1.PipelineJob)[0].name.rpartition("/")[2]
    assert f"rlhf jobs follow {name}" in capsys.readouterr().out
    (request,) = server.received("CreatePipelineJob")
    executors = request.pipeline_job.pipeline_spec["deploymentSpec"]["executors"]
    assert executors["exec-infer"]["container"]["image"] == "docker.io/me/trainer:1"
    assert executors["exec-infer"]["container"]["resources"]["accelerator"]["resourceType"] == "NVIDIA_L4"
    assert dict(request.pipeline_job.labels) == {"team": "blue"}
    assert main(["jobs", "show", name, *there]) == 0
    assert "Perform Inference" in capsys.readouterr().out
    assert main(["schedule", "create", *job, *there, "--cron", "0 3 * * 1", "--time-zone", "Europe/Zurich"]) == 0
    assert "0 3 * * 1 (Europe/Zurich)" in capsys.readouterr().out
    assert main(["submit", *job, *there, "--pipeline-root", "gs://none/r"]) == 2
    assert "gcloud storage buckets create gs://none" in capsys.readouterr().err
    assert len(server.received("CreatePipelineJob")) == 1


# What was submitted runs.


def test_a_submitted_job_runs_as_compiled_and_tells_its_outputs(server, vertex, tmp_path):
    from kfp import compiler, dsl

    @dsl.component(base_image=IMAGE, install_kfp_package=False)
    def greet(name: str, times: int, project: str) -> str:
        """Greet."""
        return f"{name} {times + 1} {project}"

    @dsl.pipeline(name="greeting")
    def greeting(name: str, times: int = 1) -> str:
        return greet(name=name, times=times, project="{{$.pipeline_google_cloud_project_id}}").output

    compiler.Compiler().compile(greeting, str(tmp_path / "greeting.yaml"))
    spec = yaml.safe_load((tmp_path / "greeting.yaml").read_text())
    server.run_job = local_executor(tmp_path / "runs", {})
    job = vertex.submit(replace(SUBMISSION, spec=spec, values={"name": "Anna", "times": 4}))
    server.threads[0].join()
    job = vertex.job(job.name)
    assert job.state is State.SUCCEEDED, job
    assert job.outputs == {"Output": f"Anna 5 {PROJECT}"}
    assert json.loads(next((tmp_path / "runs").glob("*/outputs.json")).read_text()) == job.outputs
