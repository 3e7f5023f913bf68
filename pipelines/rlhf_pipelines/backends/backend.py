"""Where pipelines run besides this machine: what Vertex Pipelines and Kubeflow Pipelines have in common.

`rlhf submit`, `rlhf jobs` and `rlhf schedule` speak to a `Backend` and to nothing else. To add one: its module with a
class of these methods, and a line in `BACKENDS`.
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from rlhf_tuning.errors import ParameterError
from rlhf_tuning.parameters import Value


class State(StrEnum):
    """How far a job or one of its tasks is, in the same words for every backend."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    #: Of a task alone: its condition was false, or an earlier run had done the same.
    SKIPPED = "skipped"
    CACHED = "cached"

    @property
    def ended(self) -> bool:
        """Say whether nothing more will happen."""
        return self not in (State.PENDING, State.RUNNING)


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task of a job, as the backend last told."""

    name: str
    state: State
    started: datetime | None = None
    ended: datetime | None = None
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of a pipeline on a backend. `name` is what the backend's own tools call it by; times have a zone."""

    name: str
    display_name: str
    pipeline: str
    state: State
    link: str
    created: datetime | None = None
    ended: datetime | None = None
    error: str = ""
    tasks: Sequence[Task] = ()
    #: The pipeline's own outputs that are values, such as `model_resource_name`, as far as the backend tells them.
    outputs: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Submission:
    """Everything that one job, or every job of a schedule, is made from.

    Args:
        pipeline: Name of the pipeline, for people.
        spec: The compiled pipeline, the only document of its YAML.
        values: Parameter values that the pipeline takes, checked.
        display_name: Name of the job, for people.
        pipeline_root: Folder for what the run leaves behind, on the backend's storage; its default when empty.
        labels: Key to value.
        caching: Whether finished steps of earlier runs may be used; None leaves it to each step, as compiled.
        fail_fast: Whether the first failed step ends the run; otherwise steps that can still run do.
        service_account: Whose permissions the steps have; the backend's default when empty.
        experiment: Group of runs; none, or the backend's default, when empty.
        network: Private network of the steps; Vertex only.
        reserved_ip_ranges: Address ranges of that network; Vertex only.
        encryption_spec_key_name: Customer-managed key; Vertex only.
        tensorboard_resource_id: Vertex TensorBoard; Vertex only.
    """

    pipeline: str
    spec: Mapping[str, Any]
    values: Mapping[str, Value]
    display_name: str
    pipeline_root: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    caching: bool | None = None
    fail_fast: bool = False
    service_account: str = ""
    experiment: str = ""
    network: str = ""
    reserved_ip_ranges: Sequence[str] = ()
    encryption_spec_key_name: str = ""
    tensorboard_resource_id: str = ""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """When a schedule starts runs.

    Args:
        cron: Minute, hour, day of month, month, day of week, such as `0 3 * * 1`.
        time_zone: IANA name, such as `Europe/Zurich`.
        start: No run before; now when None.
        end: No run after; never ends when None.
        max_runs: Runs until it ends; no limit when 0.
        max_concurrent_runs: Runs at the same time.
        queue: Whether a run that would be one too many waits; otherwise it is left out.
    """

    cron: str
    time_zone: str = "UTC"
    start: datetime | None = None
    end: datetime | None = None
    max_runs: int = 0
    max_concurrent_runs: int = 1
    queue: bool = False


def check_resumable(job: Job) -> None:
    """Refuse to go on with a job that has not failed.

    Raises:
        ParameterError: If it goes on, or has succeeded.
    """
    if job.state not in (State.FAILED, State.CANCELLED):
        raise ParameterError(f"Job {job.name} is {job.state}; only one that failed or was cancelled can be resumed.")


class ScheduleState(StrEnum):
    """Whether a schedule starts runs."""

    ACTIVE = "active"
    PAUSED = "paused"
    COMPLETED = "completed"


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A schedule as the backend tells it."""

    name: str
    display_name: str
    pipeline: str
    state: ScheduleState
    plan: Plan
    link: str
    runs_started: int | None = None
    next_run: datetime | None = None
    created: datetime | None = None
    last_error: str = ""


class Backend(Protocol):
    """What the commands need of a backend.

    Every method raises the project's errors, never the client's: `UserError` for what the person can mend (no such
    job, no permission, a wrong value), `RunError` for a service that fails or does not answer.
    """

    def problems(self, submission: Submission) -> list[str]:
        """Return what stands against a submission that neither client nor server would say, or not before it costs."""

    def submit(self, submission: Submission) -> Job:
        """Start one job. A lost response does not start a second one."""

    def job(self, name: str) -> Job:
        """Return one job with its tasks. `name` is a full name or its last part."""

    def jobs(self, limit: int) -> list[Job]:
        """Return the newest jobs, without their tasks."""

    def cancel(self, name: str) -> None:
        """Ask for the end of a job."""

    def resume_job(self, name: str) -> Job:
        """Go on with a job that failed or was cancelled, and return it, or the new one that does."""

    def check_schedule(self, submission: Submission, plan: Plan) -> None:
        """Refuse what `create_schedule` would before it sends anything."""

    def create_schedule(self, submission: Submission, plan: Plan) -> Schedule:
        """Start jobs again and again."""

    def schedules(self, limit: int) -> list[Schedule]:
        """Return the newest schedules."""

    def schedule(self, name: str) -> Schedule:
        """Return one schedule. `name` is a full name or its last part."""

    def pause(self, name: str) -> None:
        """Start no more jobs until resumed."""

    def resume(self, name: str, *, catch_up: bool) -> None:
        """Start jobs again; those that fell into the pause only with `catch_up`."""

    def update_schedule(self, name: str, plan: Plan) -> Schedule:
        """Change when a schedule starts runs; what it runs stays."""

    def delete_schedule(self, name: str) -> None:
        """Remove a schedule. Jobs that it started go on."""


@dataclass(frozen=True, kw_only=True)
class Connection:
    """How to reach a backend; a field that a backend does not use must be empty.

    Args:
        project: Google Cloud project; the default of the credentials when empty. Vertex only.
        location: Google Cloud region, such as `us-central1`. Vertex only.
        api_endpoint: Another address of the Vertex API, such as that of a private endpoint. Vertex only.
        host: Address of the Kubeflow Pipelines API. Kubeflow only.
        namespace: Kubernetes namespace, where the installation has several users. Kubeflow only.
    """

    project: str = ""
    location: str = ""
    api_endpoint: str = ""
    host: str = ""
    namespace: str = ""


#: Target to the module and class that reach it.
BACKENDS: dict[str, str] = {
    "vertex": "rlhf_pipelines.backends.vertex:Vertex",
    "kubeflow": "rlhf_pipelines.backends.kubeflow:Kubeflow",
}


def connect(target: str, connection: Connection) -> Backend:
    """Return the backend of a target. Nothing is sent yet.

    Raises:
        ParameterError: If the target is unknown, or the connection is not enough or not for it.
    """
    if target not in BACKENDS:
        raise ParameterError(f"--target is {target!r}; it must be one of {', '.join(BACKENDS)}.")
    module, _, name = BACKENDS[target].partition(":")
    backend: Backend = getattr(importlib.import_module(module), name)(connection)
    return backend
