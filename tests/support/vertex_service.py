"""What a Vertex AI region knows and does, for tests: jobs, schedules, models, endpoints, operations. No network here.

It answers as the service documents it, or was seen to: names hold the project's number, labels and ids are checked,
what takes long is an operation that ends after several requests, and a deployed model's answer comes from a function
of the test. Time passes with requests: each moves every job and operation one step.
"""

import copy
import fnmatch
import itertools
import json
import re
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from google.api import httpbody_pb2
from google.cloud import aiplatform_v1 as v1
from google.longrunning import operations_pb2
from google.protobuf import empty_pb2, field_mask_pb2, json_format, struct_pb2
from google.rpc import code_pb2

from rlhf_pipelines.backends.cron import next_runs
from rlhf_tuning.errors import ParameterError

PROJECT, PROJECT_NUMBER, LOCATION = "my-project", "123456789", "us-central1"

#: States of a job that nothing follows.
_ENDED = (
    v1.PipelineState.PIPELINE_STATE_SUCCEEDED,
    v1.PipelineState.PIPELINE_STATE_FAILED,
    v1.PipelineState.PIPELINE_STATE_CANCELLED,
)


class Refused(Exception):
    """An error of the service, as it tells it.

    Args:
        status: Name of the canonical code, such as `NOT_FOUND`.
        message: What the service says.
    """

    def __init__(self, status: str, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status, self.message = status, message

    @property
    def code(self) -> int:
        return int(code_pb2.Code.Value(self.status))


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What goes wrong with one call.

    Args:
        status: Name of the canonical code that is answered.
        message: What the service says.
        acted: Whether the service did what it was asked before.
        lost: Whether no answer comes at all: the connection breaks.
    """

    status: str = "UNAVAILABLE"
    message: str = "The service is currently unavailable."
    acted: bool = False
    lost: bool = False


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a deployed model's server answers."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"


@dataclass(frozen=True, kw_only=True)
class TaskEnd:
    """How one task of a job ends: a state's name, the error's text, its output parameters and its artifacts."""

    state: str = "SUCCEEDED"
    error: str = ""
    outputs: Mapping[str, Any] = field(default_factory=dict)
    artifacts: Mapping[str, v1.Artifact] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """One request that the service received."""

    method: str
    request: Any
    headers: Mapping[str, str]


@dataclass
class Operation:
    """A long-running operation: what it will have done once `left` more requests came."""

    name: str
    left: int
    finish: Callable[[], Any]
    metadata: Any
    result: operations_pb2.Operation | None = None


def _no_server(model: v1.Model, body: bytes) -> Reply:
    return Reply(status=404, body=b'{"detail":"Not Found"}')


@dataclass
class VertexService:
    """One project in one region.

    Args:
        steps: Requests until an operation is done, and between two states of a job.
        page_size: The most resources in one page of a list.
        serve: Stands for the container of a deployed model: model and body of the request to its answer.
        run_job: Does the work of a job and says how each task ended, and the whole under the name "". It is called in
            a thread; without it, tasks succeed one after the other as requests come.
        task_ends: How tasks end when there is no `run_job`; they succeed unless named here.
        images: Manifests of the project's Artifact Registry, such as `/v2/my-project/repository/light/manifests/1`.
        dedicated_dns: Address of dedicated endpoints.
        tensorboards: Names of the TensorBoards that there are.
        scalars: What was written to them: TensorBoard run and tag to step to value.
        calls: Every request, in order.
    """

    steps: int = 2
    page_size: int = 100
    serve: Callable[[v1.Model, bytes], Reply] = _no_server
    run_job: Callable[[v1.PipelineJob], Mapping[str, TaskEnd]] | None = None
    task_ends: dict[str, TaskEnd] = field(default_factory=dict)
    images: set[str] = field(default_factory=set)
    dedicated_dns: str = ""
    tensorboards: set[str] = field(default_factory=set)
    scalars: dict[tuple[str, str], dict[int, float]] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    resources: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, list[v1.Model]] = field(default_factory=dict)
    operations: dict[str, Operation] = field(default_factory=dict)
    threads: list[threading.Thread] = field(default_factory=list)
    lock: Any = field(default_factory=threading.RLock)
    _faults: dict[str, deque[Fault]] = field(default_factory=lambda: defaultdict(deque))
    _failing_operations: dict[str, deque[Refused]] = field(default_factory=lambda: defaultdict(deque))
    _numbers: Any = field(default_factory=lambda: itertools.count(4_000_000_000_000_000_001))
    _waits: dict[str, int] = field(default_factory=dict)

    # What a test sets and asks.

    def fail(self, method: str, fault: Fault, times: int = 1) -> None:
        """Let the next `times` calls of `method` go wrong."""
        self._faults[method].extend([fault] * times)

    def fail_operation(self, method: str, status: str, message: str) -> None:
        """Let the next operation that `method` starts end in an error, with nothing done."""
        self._failing_operations[method].append(Refused(status, message))

    def received(self, method: str) -> list[Any]:
        """Return the requests of one method, in order."""
        return [call.request for call in self.calls if call.method == method]

    def of_kind(self, kind: type) -> list[Any]:
        """Return every resource of a kind, such as `aiplatform_v1.PipelineJob`, oldest first."""
        return [resource for resource in self.resources.values() if isinstance(resource, kind)]

    def fire(self, schedule: str) -> v1.PipelineJob | None:
        """Let a schedule's time come; return the job that it starts, or None where it starts none."""
        with self.lock:
            found = self._get(schedule, v1.Schedule)
            running = [
                job
                for job in self.of_kind(v1.PipelineJob)
                if job.schedule_name == found.name and job.state not in _ENDED
            ]
            # The other limit, max_concurrent_run_count, is one of starts, not of runs that go on.
            full = found.max_concurrent_active_run_count and len(running) >= found.max_concurrent_active_run_count
            if found.state != v1.Schedule.State.ACTIVE or full:
                return None
            request = v1.CreatePipelineJobRequest(found.create_pipeline_job_request)
            job = self.CreatePipelineJob(request)
            job.schedule_name = found.name
            found.started_run_count += 1
            found.last_scheduled_run_response = v1.Schedule.RunResponse(
                scheduled_run_time=_now(), run_response=json.dumps({"createdPipelineJob": job.name})
            )
            if found.max_run_count and found.started_run_count >= found.max_run_count:
                found.state, found.next_run_time = v1.Schedule.State.COMPLETED, None
            return job

    # How a request comes in.

    def call(self, method: str, request: Any, headers: Mapping[str, str]) -> Any:
        """Do what a request asks. Raises `Refused`, or `ConnectionResetError` where the answer shall be lost."""
        with self.lock:
            self.calls.append(Call(method, copy.deepcopy(request), headers))
            for job in self.of_kind(v1.PipelineJob):
                self._step_job(job)
            for operation in list(self.operations.values()):
                self._step_operation(operation)
            if not self._faults[method]:
                return getattr(self, method)(request)
            fault = self._faults[method].popleft()
            if fault.acted:
                getattr(self, method)(request)
        if fault.lost:
            raise ConnectionResetError
        raise Refused(fault.status, fault.message)

    # Pipeline jobs.

    def CreatePipelineJob(self, request: v1.CreatePipelineJobRequest) -> v1.PipelineJob:
        job = v1.PipelineJob(request.pipeline_job)
        job_id = request.pipeline_job_id or f"{_pipeline_name(job)}-{next(self._numbers)}"
        _check_id("pipeline_job_id", job_id, r"[a-z0-9](?:[-a-z0-9]{0,126}[a-z0-9])?")
        _check_display_name(job.display_name, required=False)
        _check_labels(job.labels)
        if not job.runtime_config.gcs_output_directory.startswith("gs://"):
            raise Refused("INVALID_ARGUMENT", "runtime_config.gcs_output_directory must be a Cloud Storage path.")
        job.name = f"{self._parent(request.parent)}/pipelineJobs/{job_id}"
        self._add(job)
        job.create_time = job.update_time = _now()
        job.state = v1.PipelineState.PIPELINE_STATE_PENDING
        job.labels = {**job.labels, "vertex-ai-pipelines-run-billing-id": str(next(self._numbers))}
        job.service_account = job.service_account or f"{PROJECT_NUMBER}-compute@developer.gserviceaccount.com"
        self._waits[job.name] = self.steps
        if self.run_job:
            thread = threading.Thread(target=self._run, args=(job,), daemon=True)
            self.threads.append(thread)
            thread.start()
        return job

    def GetPipelineJob(self, request: v1.GetPipelineJobRequest) -> v1.PipelineJob:
        return self._get(request.name, v1.PipelineJob)

    def ListPipelineJobs(self, request: v1.ListPipelineJobsRequest) -> v1.ListPipelineJobsResponse:
        found, token = self._page(request, v1.PipelineJob)
        if request.read_mask.paths:
            found = [_masked(job, request.read_mask.paths) for job in found]
        return v1.ListPipelineJobsResponse(pipeline_jobs=found, next_page_token=token)

    def CancelPipelineJob(self, request: v1.CancelPipelineJobRequest) -> empty_pb2.Empty:
        job = self._get(request.name, v1.PipelineJob)
        if job.state in (*_ENDED, v1.PipelineState.PIPELINE_STATE_CANCELLING):
            raise Refused(
                "FAILED_PRECONDITION", f"The PipelineJob {job.name} is in a terminal state: {job.state.name}."
            )
        job.state = v1.PipelineState.PIPELINE_STATE_CANCELLING
        self._waits[job.name] = self.steps
        return empty_pb2.Empty()

    def DeletePipelineJob(self, request: v1.DeletePipelineJobRequest) -> operations_pb2.Operation:
        job = self._get(request.name, v1.PipelineJob)
        if job.state not in _ENDED:
            raise Refused("FAILED_PRECONDITION", f"The PipelineJob {job.name} is not in a terminal state.")
        return self._operation("DeletePipelineJob", job.name, lambda: self._delete(job.name))

    # Schedules.

    def CreateSchedule(self, request: v1.CreateScheduleRequest) -> v1.Schedule:
        schedule = v1.Schedule(request.schedule)
        _check_display_name(schedule.display_name)
        if schedule.max_concurrent_run_count < 1:
            raise Refused("INVALID_ARGUMENT", "max_concurrent_run_count must be positive.")
        if not schedule.create_pipeline_job_request.parent:
            raise Refused("INVALID_ARGUMENT", "create_pipeline_job_request.parent is required.")
        _check_labels(schedule.create_pipeline_job_request.pipeline_job.labels)
        schedule.name = f"{self._parent(request.parent)}/schedules/{next(self._numbers)}"
        schedule.create_time = schedule.update_time = _now()
        schedule.start_time = schedule.start_time or schedule.create_time
        schedule.state = v1.Schedule.State.ACTIVE
        schedule.next_run_time = _next_run(schedule)
        self._add(schedule)
        return schedule

    def GetSchedule(self, request: v1.GetScheduleRequest) -> v1.Schedule:
        return self._get(request.name, v1.Schedule)

    def ListSchedules(self, request: v1.ListSchedulesRequest) -> v1.ListSchedulesResponse:
        found, token = self._page(request, v1.Schedule)
        return v1.ListSchedulesResponse(schedules=found, next_page_token=token)

    def PauseSchedule(self, request: v1.PauseScheduleRequest) -> empty_pb2.Empty:
        schedule = self._unfinished_schedule(request.name)
        schedule.state, schedule.next_run_time, schedule.last_pause_time = v1.Schedule.State.PAUSED, None, _now()
        return empty_pb2.Empty()

    def ResumeSchedule(self, request: v1.ResumeScheduleRequest) -> empty_pb2.Empty:
        schedule = self._unfinished_schedule(request.name)
        schedule.state, schedule.catch_up = v1.Schedule.State.ACTIVE, request.catch_up
        schedule.last_resume_time, schedule.next_run_time = _now(), _next_run(schedule)
        return empty_pb2.Empty()

    def UpdateSchedule(self, request: v1.UpdateScheduleRequest) -> v1.Schedule:
        schedule = self._unfinished_schedule(request.schedule.name)
        changed = v1.Schedule(schedule)
        _update(changed, request.schedule, request.update_mask.paths, refused=("name", "state", "create_time"))
        if changed.max_concurrent_run_count < 1:
            raise Refused("INVALID_ARGUMENT", "max_concurrent_run_count must be positive.")
        changed.next_run_time = _next_run(changed) if changed.state == v1.Schedule.State.ACTIVE else None
        changed.update_time = _now()
        self.resources[schedule.name] = changed
        return changed

    def DeleteSchedule(self, request: v1.DeleteScheduleRequest) -> operations_pb2.Operation:
        schedule = self._get(request.name, v1.Schedule)
        return self._operation("DeleteSchedule", schedule.name, lambda: self._delete(schedule.name))

    # Models. `versions` holds those of each name; an id is never given twice.

    def UploadModel(self, request: v1.UploadModelRequest) -> operations_pb2.Operation:
        model = v1.Model(request.model)
        _check_labels(model.labels)
        for alias in model.version_aliases:
            _check_alias(alias)
        if model.artifact_uri and not model.artifact_uri.startswith("gs://"):
            raise Refused("INVALID_ARGUMENT", f"Invalid artifact_uri: {model.artifact_uri}. It must start with gs://.")
        if request.parent_model:
            name = self._canonical(request.parent_model).partition("@")[0]
            self._versions(name)
        else:
            _check_display_name(model.display_name)
            model_id = request.model_id or str(next(self._numbers))
            _check_id("model_id", model_id, r"[a-z0-9_](?:[-a-z0-9_]{0,62})")
            name = f"{self._parent(request.parent)}/models/{model_id}"
            if name in self.versions:
                raise Refused("ALREADY_EXISTS", f"Model {name} already exists.")
        return self._operation(
            "UploadModel", name, lambda: self._upload(name, model), v1.UploadModelOperationMetadata()
        )

    def GetModel(self, request: v1.GetModelRequest) -> v1.Model:
        return self._version(request.name)

    def ListModels(self, request: v1.ListModelsRequest) -> v1.ListModelsResponse:
        newest = {name: self._version(name) for name in self.versions}
        found, token = self._page(request, v1.Model, newest)
        return v1.ListModelsResponse(models=found, next_page_token=token)

    def ListModelVersions(self, request: v1.ListModelVersionsRequest) -> v1.ListModelVersionsResponse:
        versions = self._versions(self._canonical(request.name).partition("@")[0])
        named = {model.version_id: model for model in versions}
        found, token = self._page(request, v1.Model, named)
        return v1.ListModelVersionsResponse(models=found, next_page_token=token)

    def UpdateModel(self, request: v1.UpdateModelRequest) -> v1.Model:
        model = self._version(request.model.name)
        _update(model, request.model, request.update_mask.paths, allowed=("display_name", "description", "labels"))
        _check_labels(model.labels)
        return model

    def MergeVersionAliases(self, request: v1.MergeVersionAliasesRequest) -> v1.Model:
        model = self._version(request.name)
        for alias in request.version_aliases:
            _check_alias(alias.removeprefix("-"))
            if alias == "-default":
                raise Refused("INVALID_ARGUMENT", "The default alias cannot be removed; move it to another version.")
        removed = {alias.removeprefix("-") for alias in request.version_aliases if alias.startswith("-")}
        added = [alias for alias in request.version_aliases if not alias.startswith("-")]
        model.version_aliases = [alias for alias in model.version_aliases if alias not in removed]
        self._name_version(model, added)
        return model

    def DeleteModelVersion(self, request: v1.DeleteModelVersionRequest) -> operations_pb2.Operation:
        model = self._version(request.name)
        if "default" in model.version_aliases:
            raise Refused("FAILED_PRECONDITION", "The default version cannot be deleted; delete the model.")
        self._refuse_deployed(model.name, model.version_id)
        return self._operation("DeleteModelVersion", model.name, lambda: self._forget(model.name, model))

    def DeleteModel(self, request: v1.DeleteModelRequest) -> operations_pb2.Operation:
        model = self._version(request.name)
        self._refuse_deployed(model.name)
        return self._operation("DeleteModel", model.name, lambda: self._forget(model.name))

    # Endpoints.

    def CreateEndpoint(self, request: v1.CreateEndpointRequest) -> operations_pb2.Operation:
        endpoint = v1.Endpoint(request.endpoint)
        _check_display_name(endpoint.display_name)
        _check_labels(endpoint.labels)
        endpoint_id = request.endpoint_id or str(next(self._numbers))
        _check_id("endpoint_id", endpoint_id, r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?|[1-9][0-9]*")
        endpoint.name = f"{self._parent(request.parent)}/endpoints/{endpoint_id}"
        if endpoint.name in self.resources:
            raise Refused("ALREADY_EXISTS", f"Endpoint {endpoint.name} already exists.")
        endpoint.create_time = endpoint.update_time = _now()
        metadata = v1.CreateEndpointOperationMetadata()
        return self._operation("CreateEndpoint", endpoint.name, lambda: self._add(endpoint), metadata)

    def GetEndpoint(self, request: v1.GetEndpointRequest) -> v1.Endpoint:
        return self._get(request.name, v1.Endpoint)

    def ListEndpoints(self, request: v1.ListEndpointsRequest) -> v1.ListEndpointsResponse:
        found, token = self._page(request, v1.Endpoint)
        return v1.ListEndpointsResponse(endpoints=found, next_page_token=token)

    def UpdateEndpoint(self, request: v1.UpdateEndpointRequest) -> v1.Endpoint:
        endpoint = self._get(request.endpoint.name, v1.Endpoint)
        changed = v1.Endpoint(endpoint)
        allowed = ("display_name", "description", "labels", "traffic_split")
        _update(changed, request.endpoint, request.update_mask.paths, allowed=allowed)
        _check_labels(changed.labels)
        _check_traffic(changed.traffic_split, [deployed.id for deployed in changed.deployed_models])
        changed.update_time = _now()
        self.resources[endpoint.name] = changed
        return changed

    def DeleteEndpoint(self, request: v1.DeleteEndpointRequest) -> operations_pb2.Operation:
        endpoint = self._get(request.name, v1.Endpoint)
        if endpoint.deployed_models:
            raise Refused(
                "FAILED_PRECONDITION",
                f"Endpoint {endpoint.name} has deployed models; undeploy them before deleting it.",
            )
        return self._operation("DeleteEndpoint", endpoint.name, lambda: self._delete(endpoint.name))

    def DeployModel(self, request: v1.DeployModelRequest) -> operations_pb2.Operation:
        endpoint = self._get(request.endpoint, v1.Endpoint)
        deployed = v1.DeployedModel(request.deployed_model)
        model = self._version(deployed.model)
        deployed.model, deployed.model_version_id = model.name, model.version_id
        deployed.id = deployed.id or str(next(self._numbers))
        deployed.display_name = deployed.display_name or model.display_name
        deployed.create_time = _now()
        if not deployed.dedicated_resources.machine_spec.machine_type:
            raise Refused("INVALID_ARGUMENT", "dedicated_resources.machine_spec.machine_type is required.")
        if deployed.dedicated_resources.min_replica_count < 1:
            raise Refused("INVALID_ARGUMENT", "dedicated_resources.min_replica_count must be at least 1.")
        ids = [other.id for other in endpoint.deployed_models]
        _check_traffic(request.traffic_split, [*ids, "0"])
        split = {deployed.id if key == "0" else key: share for key, share in request.traffic_split.items()}

        def finish() -> v1.DeployModelResponse:
            current = self._get(endpoint.name, v1.Endpoint)
            current.deployed_models.append(deployed)
            if current.dedicated_endpoint_enabled:
                current.dedicated_endpoint_dns = self.dedicated_dns
            if split or len(current.deployed_models) == 1:
                current.traffic_split = split or {deployed.id: 100}
            return v1.DeployModelResponse(deployed_model=deployed)

        return self._operation("DeployModel", endpoint.name, finish, v1.DeployModelOperationMetadata())

    def UndeployModel(self, request: v1.UndeployModelRequest) -> operations_pb2.Operation:
        endpoint = self._get(request.endpoint, v1.Endpoint)
        left = [deployed for deployed in endpoint.deployed_models if deployed.id != request.deployed_model_id]
        if len(left) == len(endpoint.deployed_models):
            raise Refused("NOT_FOUND", f"DeployedModel {request.deployed_model_id} is not found in {endpoint.name}.")
        split = dict(request.traffic_split) or {
            key: share for key, share in endpoint.traffic_split.items() if key != request.deployed_model_id
        }
        if left and sum(split.values()) not in (0, 100):
            raise Refused(
                "INVALID_ARGUMENT", "traffic_split must move the traffic of the undeployed model: sum is not 100."
            )
        _check_traffic(split, [deployed.id for deployed in left])

        def finish() -> v1.UndeployModelResponse:
            current = self._get(endpoint.name, v1.Endpoint)
            current.deployed_models, current.traffic_split = left, split
            return v1.UndeployModelResponse()

        return self._operation("UndeployModel", endpoint.name, finish, v1.UndeployModelOperationMetadata())

    # Predictions.

    def check_address(self, name: str, dedicated: bool) -> None:
        """Refuse a prediction at the shared address of a dedicated endpoint, or the other way round."""
        with self.lock:
            endpoint = self._get(name, v1.Endpoint)
        if endpoint.dedicated_endpoint_enabled != dedicated:
            raise Refused(
                "FAILED_PRECONDITION",
                f"Endpoint {name} is {'not ' if dedicated else ''}a dedicated endpoint; use its own address.",
            )

    def Predict(self, request: v1.PredictRequest) -> v1.PredictResponse:
        deployed, model = self._serving(request.endpoint)
        asked = type(request).pb(request)
        body: dict[str, Any] = {"instances": [json_format.MessageToDict(instance) for instance in asked.instances]}
        if asked.HasField("parameters"):
            body["parameters"] = json_format.MessageToDict(asked.parameters)
        reply = self.serve(model, json.dumps(body).encode())
        if reply.status != 200:
            status = "INTERNAL" if reply.status >= 500 else "INVALID_ARGUMENT"
            raise Refused(status, reply.body.decode() or "Internal Server Error")
        answer = json.loads(reply.body)
        if "predictions" not in answer:
            raise Refused("INTERNAL", "Prediction response does not have a 'predictions' field.")
        response = v1.PredictResponse(
            deployed_model_id=deployed.id,
            model=model.name,
            model_version_id=model.version_id,
            model_display_name=model.display_name,
        )
        for prediction in answer["predictions"]:
            type(response).pb(response).predictions.append(json_format.ParseDict(prediction, struct_pb2.Value()))
        return response

    def RawPredict(self, request: v1.RawPredictRequest) -> httpbody_pb2.HttpBody:
        _, model = self._serving(request.endpoint)
        reply = self.serve(model, request.http_body.data)
        if reply.status != 200:
            raise ContainerRefused(reply)
        return httpbody_pb2.HttpBody(content_type=reply.content_type, data=reply.body)

    # Images.

    def HeadManifest(self, path: str) -> None:
        if path not in self.images:
            raise Refused("NOT_FOUND", "manifest unknown")

    # Metadata, as far as experiments need it. A project's first job creates the store.

    def CreateMetadataStore(self, request: v1.CreateMetadataStoreRequest) -> operations_pb2.Operation:
        store = v1.MetadataStore(request.metadata_store)
        store.name = f"{self._parent(request.parent)}/metadataStores/{request.metadata_store_id}"
        return self._operation("CreateMetadataStore", store.name, lambda: self._add(store))

    def GetMetadataStore(self, request: v1.GetMetadataStoreRequest) -> v1.MetadataStore:
        return self._get(request.name, v1.MetadataStore)

    def GetContext(self, request: v1.GetContextRequest) -> v1.Context:
        return self._get(request.name, v1.Context)

    def CreateContext(self, request: v1.CreateContextRequest) -> v1.Context:
        context = v1.Context(request.context)
        self._get(request.parent, v1.MetadataStore)
        context.name = f"{self._canonical(request.parent)}/contexts/{request.context_id or next(self._numbers)}"
        context.create_time = context.update_time = _now()
        return self._add(context)

    def AddContextChildren(self, request: v1.AddContextChildrenRequest) -> v1.AddContextChildrenResponse:
        context = self._get(request.context, v1.Context)
        for child in request.child_contexts:
            found = self._get(child, v1.Context)
            if context.name not in found.parent_contexts:
                found.parent_contexts.append(context.name)
        return v1.AddContextChildrenResponse()

    # TensorBoards: `tensorboards` are there from the start, values end up in `scalars`.

    def CreateTensorboardExperiment(self, request: v1.CreateTensorboardExperimentRequest) -> v1.TensorboardExperiment:
        if self._canonical(request.parent) not in {self._canonical(name) for name in self.tensorboards}:
            raise Refused("NOT_FOUND", f"The Tensorboard does not exist: {request.parent}.")
        _check_id("tensorboard_experiment_id", request.tensorboard_experiment_id, r"[a-z0-9][a-z0-9-]{0,126}")
        made = v1.TensorboardExperiment(request.tensorboard_experiment)
        made.name = f"{self._canonical(request.parent)}/experiments/{request.tensorboard_experiment_id}"
        return self._add(made)

    def CreateTensorboardRun(self, request: v1.CreateTensorboardRunRequest) -> v1.TensorboardRun:
        self._get(request.parent, v1.TensorboardExperiment)
        made = v1.TensorboardRun(request.tensorboard_run)
        made.name = f"{self._canonical(request.parent)}/runs/{request.tensorboard_run_id}"
        return self._add(made)

    def CreateTensorboardTimeSeries(self, request: v1.CreateTensorboardTimeSeriesRequest) -> v1.TensorboardTimeSeries:
        self._get(request.parent, v1.TensorboardRun)
        made = v1.TensorboardTimeSeries(request.tensorboard_time_series)
        made.name = f"{self._canonical(request.parent)}/timeSeries/{next(self._numbers)}"
        return self._add(made)

    def ListTensorboardTimeSeries(
        self, request: v1.ListTensorboardTimeSeriesRequest
    ) -> v1.ListTensorboardTimeSeriesResponse:
        run = self._canonical(request.parent)
        found = [series for series in self.of_kind(v1.TensorboardTimeSeries) if series.name.startswith(f"{run}/")]
        return v1.ListTensorboardTimeSeriesResponse(tensorboard_time_series=found)

    def WriteTensorboardExperimentData(
        self, request: v1.WriteTensorboardExperimentDataRequest
    ) -> v1.WriteTensorboardExperimentDataResponse:
        self._get(request.tensorboard_experiment, v1.TensorboardExperiment)
        for written in request.write_run_data_requests:
            run = self._canonical(written.tensorboard_run)
            for data in written.time_series_data:
                series = self._get(f"{run}/timeSeries/{data.tensorboard_time_series_id}", v1.TensorboardTimeSeries)
                values = self.scalars.setdefault((run.rsplit("/", 1)[-1], series.display_name), {})
                values.update({point.step: point.scalar.value for point in data.values})
        return v1.WriteTensorboardExperimentDataResponse()

    # Operations.

    def GetOperation(self, request: operations_pb2.GetOperationRequest) -> operations_pb2.Operation:
        name = self._canonical(request.name)
        if name not in self.operations:
            raise Refused("NOT_FOUND", f"Operation {name} is not found.")
        return self._told(self.operations[name])

    # How the above is done.

    def _canonical(self, name: str) -> str:
        """Return a name with the project's number; refuse what is not of this project and region."""
        match = re.fullmatch(r"projects/([^/]+)/locations/([^/]+)(/.*)?", name)
        if match is None:
            raise Refused("INVALID_ARGUMENT", f"Invalid resource name: {name}.")
        if match[1] not in (PROJECT, PROJECT_NUMBER):
            raise Refused(
                "PERMISSION_DENIED",
                f"Permission denied on resource project {match[1]} (or it may not exist).",
            )
        if match[2] != LOCATION:
            raise Refused(
                "INVALID_ARGUMENT", f"Resource {name} is not in this region; use the endpoint of location {match[2]}."
            )
        return f"projects/{PROJECT_NUMBER}/locations/{match[2]}{match[3] or ''}"

    def _parent(self, name: str) -> str:
        parent = self._canonical(name)
        if parent.count("/") != 3:
            raise Refused("INVALID_ARGUMENT", f"Invalid parent: {name}.")
        return parent

    def _add(self, resource: Any) -> Any:
        if resource.name in self.resources:
            raise Refused("ALREADY_EXISTS", f"{type(resource).__name__} {resource.name} already exists.")
        self.resources[resource.name] = resource
        return resource

    def _get(self, name: str, kind: type) -> Any:
        found = self.resources.get(self._canonical(name))
        if not isinstance(found, kind):
            raise Refused("NOT_FOUND", f"The {kind.__name__} does not exist: {self._canonical(name)}.")
        return found

    def _delete(self, name: str) -> empty_pb2.Empty:
        del self.resources[name]
        return empty_pb2.Empty()

    def _page(self, request: Any, kind: type, named: Mapping[str, Any] | None = None) -> tuple[list[Any], str]:
        """Return one page of a list, filtered and ordered as the request says, and the token of the next."""
        if named is None:
            parent = self._parent(request.parent)
            named = {name: found for name, found in self.resources.items() if name.startswith(f"{parent}/")}
        found = [
            resource for resource in named.values() if isinstance(resource, kind) and _fits(resource, request.filter)
        ]
        order = request.order_by if "order_by" in type(request).meta.fields else ""
        for part in reversed([part.split() for part in order.split(",") if part.strip()]):
            found.sort(key=lambda resource, name=part[0]: getattr(resource, name), reverse=part[1:] == ["desc"])
        start = int(request.page_token or 0)
        end = start + min(request.page_size or self.page_size, self.page_size)
        return found[start:end], str(end) if end < len(found) else ""

    def _operation(
        self, method: str, parent: str, finish: Callable[[], Any], metadata: Any = None
    ) -> operations_pb2.Operation:
        name = f"{parent}/operations/{next(self._numbers)}"
        if self._failing_operations[method]:
            error = self._failing_operations[method].popleft()

            def finish() -> Any:
                raise error

        operation = Operation(name, self.steps, finish, metadata or v1.DeleteOperationMetadata())
        self.operations[name] = operation
        if not self.steps:
            self._step_operation(operation)
        return self._told(operation)

    def _step_operation(self, operation: Operation) -> None:
        operation.left -= 1
        if operation.left > 0 or operation.result:
            return
        operation.result = operations_pb2.Operation(name=operation.name, done=True)
        try:
            done = operation.finish()
        except Refused as error:
            operation.result.error.code, operation.result.error.message = error.code, error.message
        else:
            operation.result.response.Pack(_pb(done) if done is not None else empty_pb2.Empty())

    def _told(self, operation: Operation) -> operations_pb2.Operation:
        told = operations_pb2.Operation(name=operation.name)
        if operation.result:
            told.CopyFrom(operation.result)
        told.metadata.Pack(_pb(operation.metadata))
        return told

    def _step_job(self, job: v1.PipelineJob) -> None:
        """Let time pass for a job: pending, running, then one task after the other, or cancelled."""
        if job.state in _ENDED or (self.run_job and job.state != v1.PipelineState.PIPELINE_STATE_CANCELLING):
            return
        self._waits[job.name] -= 1
        if self._waits[job.name] > 0:
            return
        self._waits[job.name] = self.steps
        if job.state == v1.PipelineState.PIPELINE_STATE_CANCELLING:
            for task in job.job_detail.task_details:
                if task.state in (v1.PipelineTaskDetail.State.PENDING, v1.PipelineTaskDetail.State.RUNNING):
                    task.state, task.end_time = v1.PipelineTaskDetail.State.CANCELLED, _now()
            self._end_job(job, "PIPELINE_STATE_CANCELLED", f"The PipelineJob {job.name} was cancelled.", 1)
        elif job.state == v1.PipelineState.PIPELINE_STATE_PENDING:
            self._start_job(job)
        else:
            unfinished = [task for task in job.job_detail.task_details if not task.end_time]
            tasks = [task for task in unfinished if task.parent_task_id]
            if tasks:
                self._end_task(tasks[0], self.task_ends.get(tasks[0].task_name, TaskEnd()))
            else:
                self._settle(job)

    def _start_job(self, job: v1.PipelineJob) -> None:
        job.state, job.start_time = v1.PipelineState.PIPELINE_STATE_RUNNING, _now()
        run = self._context(f"{job.name.rpartition('/')[2]}", "system.PipelineRun")
        job.job_detail.pipeline_run_context = run
        job.job_detail.pipeline_context = self._context(_pipeline_name(job), "system.Pipeline")
        spec = json_format.MessageToDict(type(job).pb(job).pipeline_spec)
        root = v1.PipelineTaskDetail(
            task_id=next(self._numbers),
            # The service lists the pipeline itself as a task, under the name of its run.
            task_name=job.name.rpartition("/")[2],
            create_time=_now(),
            start_time=_now(),
            state=v1.PipelineTaskDetail.State.RUNNING,
        )
        job.job_detail.task_details.append(root)
        self._list_tasks(job, spec, spec["root"], root.task_id)

    def _list_tasks(
        self, job: v1.PipelineJob, spec: Mapping[str, Any], component: Mapping[str, Any], parent: int
    ) -> None:
        """Add what a component's graph holds, with the graphs within it."""
        for name, task in component.get("dag", {}).get("tasks", {}).items():
            detail = v1.PipelineTaskDetail(
                task_id=next(self._numbers),
                parent_task_id=parent,
                task_name=name,
                create_time=_now(),
                start_time=_now(),
                state=v1.PipelineTaskDetail.State.RUNNING,
            )
            job.job_detail.task_details.append(detail)
            self._list_tasks(job, spec, spec["components"][task["componentRef"]["name"]], detail.task_id)

    def _end_task(self, task: v1.PipelineTaskDetail, end: TaskEnd) -> None:
        task.state, task.end_time = v1.PipelineTaskDetail.State[end.state], _now()
        if end.error:
            task.error.code, task.error.message = code_pb2.FAILED_PRECONDITION, end.error
        if end.outputs:
            metadata = {f"output:{key}": value for key, value in end.outputs.items()}
            task.execution = v1.Execution(metadata=metadata)
        for name, artifact in end.artifacts.items():
            task.outputs[name] = v1.PipelineTaskDetail.ArtifactList(artifacts=[artifact])

    def _settle(self, job: v1.PipelineJob) -> None:
        """End a job whose tasks have all ended."""
        tasks = job.job_detail.task_details
        failed = [task for task in tasks[1:] if task.state == v1.PipelineTaskDetail.State.FAILED]
        tasks[0].end_time = _now()
        if not failed and tasks[0].state != v1.PipelineTaskDetail.State.FAILED:
            tasks[0].state = v1.PipelineTaskDetail.State.SUCCEEDED
            return self._end_job(job, "PIPELINE_STATE_SUCCEEDED", "", 0)
        names = ", ".join(task.task_name for task in failed) or tasks[0].error.message
        message = (
            f"The DAG failed because some tasks failed. The failed tasks are: [{names}].; Job (project_id = {PROJECT}, "
            f"job_id = {tasks[0].task_id}) is failed due to the above error."
        )
        tasks[0].state = v1.PipelineTaskDetail.State.FAILED
        return self._end_job(job, "PIPELINE_STATE_FAILED", message, code_pb2.FAILED_PRECONDITION)

    def _end_job(self, job: v1.PipelineJob, state: str, message: str, code: int) -> None:
        job.state, job.end_time = v1.PipelineState[state], _now()
        job.update_time = job.end_time
        if code:
            job.error.code, job.error.message = code, message

    def _run(self, job: v1.PipelineJob) -> None:
        """Do a job's work in a thread."""
        assert self.run_job
        with self.lock:
            self._start_job(job)
        try:
            ends = self.run_job(job)
        except Exception as error:
            ends = {"": TaskEnd(state="FAILED", error=repr(error))}
        with self.lock:
            if job.state != v1.PipelineState.PIPELINE_STATE_RUNNING:
                return
            root, *tasks = job.job_detail.task_details
            for task in tasks:
                self._end_task(task, ends.get(task.task_name, TaskEnd()))
            self._end_task(root, ends.get("", TaskEnd()))
            self._settle(job)

    def _context(self, context_id: str, schema: str) -> v1.Context:
        store = f"projects/{PROJECT_NUMBER}/locations/{LOCATION}/metadataStores/default"
        self.resources.setdefault(store, v1.MetadataStore(name=store))
        name = f"{store}/contexts/{context_id}"
        context = self.resources.setdefault(name, v1.Context(name=name, schema_title=schema, create_time=_now()))
        assert isinstance(context, v1.Context)
        return context

    def _unfinished_schedule(self, name: str) -> v1.Schedule:
        schedule = self._get(name, v1.Schedule)
        if schedule.state == v1.Schedule.State.COMPLETED:
            raise Refused("FAILED_PRECONDITION", f"Schedule {schedule.name} is completed.")
        assert isinstance(schedule, v1.Schedule)
        return schedule

    def _upload(self, name: str, model: v1.Model) -> v1.UploadModelResponse:
        versions = self.versions.setdefault(name, [])
        model.name = name
        model.version_id = str(1 + max((int(version.version_id) for version in versions), default=0))
        model.display_name = model.display_name or versions[0].display_name
        model.create_time = versions[0].create_time if versions else _now()
        model.version_create_time = model.version_update_time = model.update_time = _now()
        # Without it the client leaves the machine type out of a deployment.
        model.supported_deployment_resources_types = [v1.Model.DeploymentResourcesType.DEDICATED_RESOURCES]
        aliases = list(model.version_aliases)
        if not versions and "default" not in aliases:
            aliases.append("default")
        versions.append(model)
        self._name_version(model, aliases)
        return v1.UploadModelResponse(model=name, model_version_id=model.version_id)

    def _name_version(self, model: v1.Model, aliases: Sequence[str]) -> None:
        """Give a version aliases, which other versions lose."""
        for other in self.versions[model.name]:
            if other is not model:
                other.version_aliases = [alias for alias in other.version_aliases if alias not in aliases]
        model.version_aliases = list(dict.fromkeys([*model.version_aliases, *aliases]))

    def _forget(self, name: str, version: v1.Model | None = None) -> None:
        """Delete a version of a model, or all of it."""
        if version:
            self.versions[name].remove(version)
        else:
            del self.versions[name]

    def _versions(self, name: str) -> list[v1.Model]:
        if name not in self.versions:
            raise Refused("NOT_FOUND", f"The Model does not exist: {name}.")
        return self.versions[name]

    def _version(self, full_name: str) -> v1.Model:
        """Return the version that `NAME`, `NAME@ID` or `NAME@ALIAS` means."""
        name, _, wanted = self._canonical(full_name).partition("@")
        for model in self._versions(name):
            if (wanted or "default") in (model.version_id, *model.version_aliases):
                return model
        raise Refused("NOT_FOUND", f"The Model does not exist: {name}@{wanted}.")

    def _refuse_deployed(self, name: str, version_id: str = "") -> None:
        for endpoint in self.of_kind(v1.Endpoint):
            for deployed in endpoint.deployed_models:
                if deployed.model == name and version_id in ("", deployed.model_version_id):
                    raise Refused(
                        "FAILED_PRECONDITION", f"Model {name} is deployed to {endpoint.name}; undeploy it first."
                    )

    def _serving(self, name: str) -> tuple[v1.DeployedModel, v1.Model]:
        """Return what answers at an endpoint: the deployed model with the most traffic."""
        endpoint = self._get(name, v1.Endpoint)
        if not endpoint.traffic_split:
            raise Refused("FAILED_PRECONDITION", f"Endpoint {endpoint.name} doesn't have traffic_split.")
        most = max(endpoint.traffic_split, key=lambda key: endpoint.traffic_split[key])
        (deployed,) = (deployed for deployed in endpoint.deployed_models if deployed.id == most)
        return deployed, self._version(f"{deployed.model}@{deployed.model_version_id}")


class ContainerRefused(Exception):
    """A raw prediction that the container answered with an error: its status and body are passed on."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


def _now() -> datetime:
    return datetime.now(UTC)


def _is_proto_plus(message: Any) -> bool:
    return not hasattr(message, "DESCRIPTOR")


def _pb(message: Any) -> Any:
    return type(message).pb(message) if _is_proto_plus(message) else message


def _pipeline_name(job: v1.PipelineJob) -> str:
    return str(job.pipeline_spec["pipelineInfo"]["name"])


def _next_run(schedule: v1.Schedule) -> datetime | None:
    """Return when a schedule starts a run next; refuse times that cannot be read."""
    match = re.fullmatch(r"(?:(?:CRON_)?TZ=(\S+) )?(.*)", schedule.cron)
    assert match
    after = max(_now(), schedule.start_time or _now())
    try:
        (found,) = next_runs(match[2], match[1] or "UTC", after=after, count=1)
    except ParameterError as error:
        raise Refused("INVALID_ARGUMENT", f"Invalid cron expression {schedule.cron!r}: {error}") from None
    return None if schedule.end_time and found > schedule.end_time else found


def _check_id(field_name: str, value: str, pattern: str) -> None:
    if not re.fullmatch(pattern, value):
        raise Refused("INVALID_ARGUMENT", f"Invalid {field_name}: {value!r}. It must match {pattern}.")


def _check_display_name(name: str, *, required: bool = True) -> None:
    if (required and not name) or len(name) > 128:
        raise Refused("INVALID_ARGUMENT", "display_name is required, and may be up to 128 characters long.")


def _check_alias(alias: str) -> None:
    if not re.fullmatch(r"[a-z][a-zA-Z0-9-]{0,126}[a-z0-9]", alias):
        raise Refused("INVALID_ARGUMENT", f"Invalid version alias: {alias!r}.")


def _check_labels(labels: Mapping[str, str]) -> None:
    if len(labels) > 64:
        raise Refused("INVALID_ARGUMENT", f"Too many labels: {len(labels)}.")
    for key, value in labels.items():
        fits = re.fullmatch(r"[-\w]{1,63}", key) and key[0].isalpha() and re.fullmatch(r"[-\w]{0,63}", value)
        if not fits or (key + value) != (key + value).lower():
            raise Refused("INVALID_ARGUMENT", f"Invalid label: {key!r}: {value!r}.")


def _check_traffic(split: Mapping[str, int], ids: Sequence[str]) -> None:
    unknown = [key for key in split if key not in ids]
    if unknown:
        raise Refused("INVALID_ARGUMENT", f"traffic_split names models that are not deployed: {unknown}.")
    if split and sum(split.values()) != 100:
        raise Refused("INVALID_ARGUMENT", "traffic_split must sum to 100.")


def _update(
    resource: Any, change: Any, paths: Iterable[str], *, allowed: Sequence[str] = (), refused: Sequence[str] = ()
) -> None:
    paths = list(paths)
    if not paths:
        raise Refused("INVALID_ARGUMENT", "update_mask is required.")
    for path in paths:
        if path in refused or (allowed and path not in allowed) or path not in type(resource).meta.fields:
            raise Refused("INVALID_ARGUMENT", f"The field {path} cannot be updated.")
        setattr(resource, path, getattr(change, path))


def _masked(job: v1.PipelineJob, paths: Sequence[str]) -> v1.PipelineJob:
    source, found = v1.PipelineJob.pb(job), v1.PipelineJob.pb(v1.PipelineJob())
    plain = [path for path in paths if not path.startswith("pipeline_spec.")]
    field_mask_pb2.FieldMask(paths=plain).MergeMessage(source, found)
    if "pipeline_spec.pipeline_info" in paths:
        found.pipeline_spec.update({"pipelineInfo": json_format.MessageToDict(source.pipeline_spec)["pipelineInfo"]})
    return v1.PipelineJob.wrap(found)


def _fits(resource: Any, text: str) -> bool:
    """Say whether a filter lets a resource through: conditions joined with AND, the form that list methods share."""
    for condition in filter(None, re.split(r"\s+AND\s+", text.strip())):
        match = re.fullmatch(r'([\w.]+)\s*(!=|>=|<=|[=:<>])\s*(?:"(.*)"|(\S+))', condition)
        if match is None:
            raise Refused("INVALID_ARGUMENT", f"Invalid filter: {condition}.")
        value = _field(resource, match[1])
        wanted = match[3] if match[3] is not None else match[4]
        if not _holds(value, match[2], wanted):
            return False
    return True


def _field(resource: Any, path: str) -> str | None:
    name, _, key = path.partition(".")
    name = re.sub(r"(?<=[a-z])([A-Z])", lambda upper: "_" + upper[1].lower(), name)  # camel case is accepted too
    if name not in type(resource).meta.fields and name not in ("model", "endpoint", "pipeline_name", "schedule"):
        raise Refused("INVALID_ARGUMENT", f"Invalid filter: unknown field {path}.")
    if name == "labels":
        return resource.labels.get(key)
    if name in ("model", "endpoint", "schedule"):
        return str(resource.name).rpartition("/")[2]
    if name == "pipeline_name":
        return _pipeline_name(resource)
    value = getattr(resource, name)
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value.name if hasattr(value, "name") else value)


def _holds(value: str | None, operator: str, wanted: str) -> bool:
    if operator in "=:!=" and operator not in ("<=", ">="):
        equal = value is not None and (
            fnmatch.fnmatchcase(value, wanted) if operator != "=" or "*" in wanted else value == wanted
        )
        return not equal if operator == "!=" else equal
    if value is None:
        return False
    order = (value > wanted) - (value < wanted)
    return {">": order > 0, "<": order < 0, ">=": order >= 0, "<=": order <= 0}[operator]
