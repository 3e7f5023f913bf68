"""Vertex Pipelines: jobs and schedules through Google's generated clients.

The high-level client stalls for minutes where Cloud Storage or the Resource Manager do not answer, and drops settings of
schedules; the generated ones do as they are told. What is sent is what the high-level one sends; a test compares them.
"""

import logging
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import cached_property
from itertools import islice
from typing import Any, TypeVar

from rlhf_pipelines.backends.backend import Connection, Job, Plan, Schedule, Submission, check_resumable
from rlhf_pipelines.backends.cron import check_plan
from rlhf_pipelines.backends.vertex_checks import bucket_problems, disk_cautions, image_problems, submission_problems
from rlhf_pipelines.backends.vertex_messages import job_id, pipeline_job, plan_fields, read_job, read_schedule
from rlhf_tuning import environment, google_errors
from rlhf_tuning.errors import ParameterError, RlhfError, RunError, UserError, how_to_install
from rlhf_tuning.google_errors import Where, explained, is_unclear, may_pass, persistently, wait
from rlhf_tuning.step import say

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
#: For one answer of Vertex AI.
_SECONDS = 60.0
#: For a schedule to be deleted, and a job to begin.
_LONG_SECONDS = 300.0
_POLL_SECONDS = 5.0
#: All that a list of jobs shows; whole jobs are hundreds of kilobytes each.
_LISTED = ("name", "display_name", "state", "create_time", "end_time", "error", "pipeline_spec.pipeline_info")
#: What a job is made from; the rest Vertex adds.
_SUBMITTED = (
    *("display_name", "pipeline_spec", "runtime_config", "service_account"),
    *("network", "reserved_ip_ranges", "encryption_spec"),
)
_ITS_LABELS = "vertex-ai-"
#: On the jobs of a schedule: by it a schedule is found whose creation was not confirmed.
_SCHEDULE_LABEL = "rlhf-schedule"


class Vertex:
    """A `Backend`: one project in one region.

    Raises:
        ParameterError: If the connection is not enough, or not for Vertex.
        UserError: If Google's client is not installed, or there are no credentials.
    """

    def __init__(self, connection: Connection) -> None:
        for flag, value in (("--host", connection.host), ("--namespace", connection.namespace)):
            if value:
                raise ParameterError(f"{flag} is for Kubeflow Pipelines; with --target vertex leave it away.")
        _need_client()
        self._location = connection.location or environment.GOOGLE_CLOUD_REGION
        if not self._location:
            raise ParameterError("--location is missing: the Google Cloud region of the job, such as us-central1.")
        if not re.fullmatch(r"[a-z]+(?:-[a-z]+)+\d+", self._location):
            raise ParameterError(f"--location is {self._location!r}; give a Google Cloud region such as us-central1.")
        if connection.project and not re.fullmatch(r"[a-z0-9][a-z0-9.:-]*", connection.project):
            raise ParameterError(
                f"--project is {connection.project!r}; give a Google Cloud project's id, such as my-project."
            )
        self._given_project = connection.project
        self._address = connection.api_endpoint or f"{self._location}-aiplatform.googleapis.com"

    # Jobs.

    def problems(self, submission: Submission) -> list[str]:
        """Return what stands against a submission that neither client nor server would say, or not before it costs."""
        problems = submission_problems(submission, self._location)
        if submission.pipeline_root.startswith("gs://"):
            problems += bucket_problems(submission.pipeline_root, self._location, self._storage)
        if "root" in submission.spec:
            serving_image = str(submission.values.get("serving_image") or "")
            problems += image_problems(submission.spec, self._session, serving_image)
        for caution in disk_cautions(submission.values):
            say(f"Warning: {caution}")
        return problems

    def submit(self, submission: Submission) -> Job:
        """Start one job."""
        experiment = self._experiment(submission) if submission.experiment else None
        job = self._start(pipeline_job(submission), submission.display_name)
        if experiment:
            self._join_experiment(job.name, experiment)
        return job

    def _start(self, job: Mapping[str, Any], display_name: str) -> Job:
        """Start a job. A lost response does not start a second one: the id is ours, and taken only once."""
        from google.api_core import exceptions

        chosen = job_id(display_name, datetime.now(UTC), secrets.token_hex(2))
        name = f"{self._parent}/pipelineJobs/{chosen}"
        request = {"parent": self._parent, "pipeline_job": job, "pipeline_job_id": chosen}

        def there() -> Any | None:
            try:
                return self._jobs.get_pipeline_job(name=name, timeout=_SECONDS)
            except exceptions.NotFound:
                return None

        message = self._create(
            lambda: self._jobs.create_pipeline_job(request=request, timeout=_SECONDS),
            there,
            what=f"job {chosen}",
            look=f"rlhf jobs show {chosen}",
        )
        return read_job(message)

    def job(self, name: str) -> Job:
        """Return one job with its tasks. `name` is a full name or its last part."""
        return read_job(self._job(name))

    def jobs(self, limit: int) -> list[Job]:
        """Return the newest jobs, without their tasks."""
        return [read_job(message) for message in self._newest(self._jobs.list_pipeline_jobs, limit, "jobs", _LISTED)]

    def cancel(self, name: str) -> None:
        """Ask for the end of a job."""
        job = self.job(name)
        if job.state.ended:
            raise UserError(f"job {name} has ended already: {job.state}.")
        try:
            self._ask(lambda: self._jobs.cancel_pipeline_job(name=job.name, timeout=_SECONDS), f"job {name}")
        except UserError:
            # What is being cancelled already is refused, also where an attempt of ours did it and its answer was lost.
            if "CANCEL" not in self._job(name).state.name:
                raise

    def resume_job(self, name: str) -> Job:
        """Start a new job of the same: Vertex's cache has the steps that finished, and a training finds its checkpoint."""
        message = self._job(name)
        check_resumable(read_job(message))
        job = {field: getattr(message, field) for field in _SUBMITTED if field in message}
        job["labels"] = {key: value for key, value in message.labels.items() if not key.startswith(_ITS_LABELS)}
        return self._start(job, message.display_name)

    # Schedules.

    def check_schedule(self, submission: Submission, plan: Plan) -> None:
        """Refuse what `create_schedule` would before it sends anything."""
        check_plan(plan)
        if submission.experiment:
            raise ParameterError(
                "--experiment cannot be given to a schedule on Vertex: each run is added after it began, by the one who "
                "submits it. Use --label to find the runs."
            )

    def create_schedule(self, submission: Submission, plan: Plan) -> Schedule:
        """Start jobs again and again."""
        self.check_schedule(submission, plan)
        token = secrets.token_hex(8)
        job = pipeline_job(submission)
        job["labels"] = {**job["labels"], _SCHEDULE_LABEL: token}
        schedule = {
            "display_name": submission.display_name,
            "create_pipeline_job_request": {"parent": self._parent, "pipeline_job": job},
            **plan_fields(plan),
        }

        def there() -> Any | None:
            found = self._schedules.list_schedules(
                request={"parent": self._parent, "order_by": "create_time desc", "page_size": 20}, timeout=_SECONDS
            )
            for message in islice(found, 20):
                if message.create_pipeline_job_request.pipeline_job.labels.get(_SCHEDULE_LABEL) == token:
                    return message
            return None

        message = self._create(
            lambda: self._schedules.create_schedule(
                request={"parent": self._parent, "schedule": schedule}, timeout=_SECONDS
            ),
            there,
            what=f"schedule {submission.display_name}",
            look="rlhf schedule list",
        )
        return read_schedule(message)

    def schedules(self, limit: int) -> list[Schedule]:
        """Return the newest schedules."""
        return [read_schedule(message) for message in self._newest(self._schedules.list_schedules, limit, "schedules")]

    def schedule(self, name: str) -> Schedule:
        """Return one schedule. `name` is a full name or its last part."""
        return read_schedule(self._schedule(name))

    def pause(self, name: str) -> None:
        """Start no more jobs until resumed."""
        full = self._full_name(name, "schedules")
        self._ask(lambda: self._schedules.pause_schedule(name=full, timeout=_SECONDS), f"schedule {name}")

    def resume(self, name: str, *, catch_up: bool) -> None:
        """Start jobs again; those that fell into the pause only with `catch_up`."""
        request = {"name": self._full_name(name, "schedules"), "catch_up": catch_up}
        self._ask(lambda: self._schedules.resume_schedule(request=request, timeout=_SECONDS), f"schedule {name}")

    def update_schedule(self, name: str, plan: Plan) -> Schedule:
        """Change when a schedule starts runs; what it runs stays."""
        check_plan(plan)
        before = read_schedule(self._schedule(name))
        fields, old = plan_fields(plan), plan_fields(before.plan)
        # Only what differs: the service takes no start that has passed, also not the one it has.
        paths = [field for field, value in fields.items() if value != old[field]]
        if not paths:
            return before
        request = {"schedule": {"name": before.name, **fields}, "update_mask": {"paths": paths}}
        return read_schedule(
            self._ask(lambda: self._schedules.update_schedule(request=request, timeout=_SECONDS), f"schedule {name}")
        )

    def delete_schedule(self, name: str) -> None:
        """Remove a schedule. Jobs that it started go on."""
        from google.api_core import exceptions

        full = self._schedule(name).name

        def delete() -> None:
            try:
                self._schedules.delete_schedule(name=full, timeout=_SECONDS).result(timeout=_LONG_SECONDS)
            except exceptions.NotFound:
                return  # it was there a moment ago: an attempt before this one did it

        self._ask(delete, f"schedule {name}")

    # The clients, made when first used.

    @cached_property
    def _identity(self) -> tuple[Any, str]:
        import google.auth
        from google.auth.exceptions import GoogleAuthError

        try:
            credentials, project = google.auth.default(scopes=_SCOPES)
        except GoogleAuthError as error:
            raise explained(error, "Vertex AI", self._where_of(self._given_project or "?")) from None
        project = self._given_project or project
        if not project:
            raise ParameterError("--project is missing: the credentials name no Google Cloud project.")
        return credentials, project

    @property
    def _project(self) -> str:
        return self._identity[1]

    @property
    def _parent(self) -> str:
        return f"projects/{self._project}/locations/{self._location}"

    @property
    def _where(self) -> Where:
        return self._where_of(self._project)

    def _where_of(self, project: str) -> Where:
        return Where(project=project, location=self._location, address=self._address)

    def _client(self, kind: str) -> Any:
        from google.cloud import aiplatform_v1

        # An address with a scheme is one for REST; Google's own are asked over gRPC, as their client does.
        transport = "rest" if self._address.startswith(("http://", "https://")) else "grpc"
        return vars(aiplatform_v1)[f"{kind}Client"](
            credentials=self._identity[0], transport=transport, client_options={"api_endpoint": self._address}
        )

    @cached_property
    def _jobs(self) -> Any:
        return self._client("PipelineService")

    @cached_property
    def _schedules(self) -> Any:
        return self._client("ScheduleService")

    @cached_property
    def _metadata(self) -> Any:
        return self._client("MetadataService")

    @cached_property
    def _storage(self) -> Any:
        from google.cloud import storage

        return storage.Client(project=self._project, credentials=self._identity[0])

    @cached_property
    def _session(self) -> Any:
        from google.auth.transport.requests import AuthorizedSession

        return AuthorizedSession(self._identity[0])

    # How requests are made.

    def _ask(self, ask: Callable[[], Answer], what: str) -> Answer:
        """Make a request that may be made twice."""
        try:
            return persistently(ask)
        except RlhfError:
            raise
        except Exception as error:
            raise self._refusal(error, what) from error

    def _create(self, create: Callable[[], Any], there: Callable[[], Any | None], *, what: str, look: str) -> Any:
        """Make a request that must not be made twice; `there` returns what it would have made, if that exists."""
        from google.api_core import exceptions

        unclear: Exception | None = None
        for delay in (*google_errors.DELAYS, None):
            try:
                if unclear and (found := there()) is not None:
                    return found
                return create()
            except exceptions.Conflict as error:
                # No one else has this id: an attempt of ours, or of the client's, came through.
                if (found := self._ask(there, what)) is not None:
                    return found
                raise self._refusal(error, what, sought=False) from error
            except Exception as error:
                if not may_pass(error):
                    raise self._refusal(error, what, sought=False) from error
                failure = error
                unclear = error if is_unclear(error) else unclear
                if delay is not None:
                    wait(delay, error)
        told = self._refusal(failure, what, sought=False)
        if unclear is None:
            raise told from failure
        raise RunError(f"{told} It is not known whether it was created; look before you try again: {look}") from failure

    def _refusal(self, error: Exception, what: str, *, sought: bool = True) -> RlhfError:
        from google.api_core import exceptions
        from google.auth.exceptions import GoogleAuthError
        from requests.exceptions import RequestException

        # The last is an operation's that does not end.
        if not isinstance(error, exceptions.GoogleAPIError | GoogleAuthError | RequestException | TimeoutError):
            raise error
        return explained(error, what, self._where, sought=sought)

    def _job(self, name: str) -> Any:
        full = self._full_name(name, "pipelineJobs")
        return self._ask(lambda: self._jobs.get_pipeline_job(name=full, timeout=_SECONDS), f"job {name}")

    def _schedule(self, name: str) -> Any:
        full = self._full_name(name, "schedules")
        return self._ask(lambda: self._schedules.get_schedule(name=full, timeout=_SECONDS), f"schedule {name}")

    def _newest(self, method: Callable[..., Any], limit: int, what: str, paths: tuple[str, ...] = ()) -> Iterator[Any]:
        request: dict[str, Any] = {"parent": self._parent, "order_by": "create_time desc", "page_size": min(limit, 100)}
        if paths:
            request["read_mask"] = {"paths": list(paths)}
        return iter(self._ask(lambda: list(islice(method(request=request, timeout=_SECONDS), limit)), what))

    def _full_name(self, name: str, kind: str) -> str:
        match = re.fullmatch(rf"projects/[^/]+/locations/([^/]+)/{kind}/[^/]+", name)
        if match:
            if match[1] != self._location:
                raise UserError(f"{name} is in {match[1]}, not in {self._location}: give --location {match[1]}.")
            return name
        if not re.fullmatch(r"[a-zA-Z0-9-]+", name):
            example = "tune-20270131060000-1a2b" if kind == "pipelineJobs" else "1234567890123456789"
            raise UserError(f"{name!r} is no name such as {example}, or its full form with projects/.../{kind}/.")
        return f"{self._parent}/{kind}/{name}"

    # Experiments: contexts of the metadata store, of which a run becomes a child.

    def _experiment(self, submission: Submission) -> Any:
        """Return an experiment, created unless it exists, and before it the store, which a first run would create."""
        from google.api_core import exceptions

        experiment, key_name = submission.experiment, submission.encryption_spec_key_name
        what, store = f"experiment {experiment}", f"{self._parent}/metadataStores/default"
        context = {
            "display_name": experiment,
            "schema_title": "system.Experiment",
            "schema_version": "0.0.1",
            "metadata": {"experiment_deleted": False},
        }

        def found_or_created() -> Any:
            try:
                return self._metadata.get_context(name=f"{store}/contexts/{experiment}", timeout=_SECONDS)
            except exceptions.NotFound:
                request = {"parent": store, "context": context, "context_id": experiment}
                return self._metadata.create_context(request=request, timeout=_SECONDS)

        try:
            found = persistently(found_or_created)
        except exceptions.NotFound:
            settings = {"encryption_spec": {"kms_key_name": key_name}} if key_name else {}
            request = {"parent": self._parent, "metadata_store": settings, "metadata_store_id": "default"}
            self._ask(lambda: self._metadata.create_metadata_store(request=request).result(timeout=_LONG_SECONDS), what)
            found = self._ask(found_or_created, what)
        except Exception as error:
            raise self._refusal(error, what) from error
        if found.schema_title != "system.Experiment":
            raise UserError(
                f"--experiment {experiment} is the name of a {found.schema_title} already. Give another name."
            )
        return found

    def _join_experiment(self, name: str, experiment: Any) -> None:
        """Add a job to an experiment. The job is there by now, so that nothing here may look like its failure."""
        title = experiment.display_name
        say(f"Created {name}. It joins the experiment {title} as soon as it runs.")
        end = time.monotonic() + _LONG_SECONDS
        try:
            while True:
                message = self._job(name)
                run = message.job_detail.pipeline_run_context.name
                if run or read_job(message).state.ended or time.monotonic() > end:
                    break
                time.sleep(_POLL_SECONDS)
            if not run:
                raise RunError("the job has not begun.")
            request = {"context": experiment.name, "child_contexts": [run]}
            self._ask(lambda: self._metadata.add_context_children(request=request, timeout=_SECONDS), title)
        except RlhfError as error:
            logger.warning("The job %s is not part of the experiment %s: %s", name, title, error)


def _need_client() -> None:
    try:
        import google.cloud.aiplatform_v1  # noqa: F401
    except ImportError:
        raise UserError(
            f"Vertex AI needs the package google-cloud-aiplatform, which is not installed. {how_to_install('vertex')}"
        ) from None
