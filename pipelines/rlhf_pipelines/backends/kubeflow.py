"""Kubeflow Pipelines as a backend: runs, and schedules as its recurring runs.

What its API cannot do is refused in words, and not left out in silence: a time zone other than the installation's, a
maximum of runs, an end at the first failed step. It has no labels; they stand in the run's description.
"""

import contextlib
import copy
import json
import logging
import os
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from rlhf_pipelines.backends.backend import (
    Connection,
    Job,
    Plan,
    Schedule,
    ScheduleState,
    State,
    Submission,
    Task,
    check_resumable,
)
from rlhf_pipelines.backends.cron import check_plan, next_runs, weekdays
from rlhf_pipelines.backends.kubeflow_client import KubeflowClient, NotFoundError
from rlhf_pipelines.backends.spec_parameters import problems_with_values
from rlhf_tuning.errors import ParameterError, RlhfError, RunError, UserError
from rlhf_tuning.evaluation.judges.rubric import rubric_file
from rlhf_tuning.evaluation.regression_suite import suite_file

logger = logging.getLogger(__name__)

#: The setting of the installation, under which name a person can tell us its value; the API does not.
_TIME_ZONE = "CRON_SCHEDULE_TIMEZONE"
_DEFAULT_EXPERIMENTS = ("KF_PIPELINES_OVERRIDE_EXPERIMENT_NAME", "KF_PIPELINES_DEFAULT_EXPERIMENT_NAME")  # kfp's own
_ROOTS = ("minio://", "s3://", "gs://")
_DATASETS = (
    "prompt_dataset",
    "preference_dataset",
    "feedback_dataset",
    "eval_dataset",
    "supervised_dataset",
    "preference_prompt_dataset",
    "human_preference_dataset",
    "dataset_uri",
    "evaluation_data_uri",
)
_MODELS = (
    "large_model_reference",
    "reward_model_reference",
    "warm_start_adapter",
    "large_model_a_reference",
    "large_model_b_reference",
    "student_model_reference",
    "teacher_model_reference",
)
_MOST_CONCURRENT = 10
_PAGE = 100

_STATES = {
    "PENDING": State.PENDING,
    "RUNNING": State.RUNNING,
    "PAUSED": State.RUNNING,
    "CANCELING": State.RUNNING,
    "SUCCEEDED": State.SUCCEEDED,
    "SKIPPED": State.SKIPPED,
    "FAILED": State.FAILED,
    "CANCELED": State.CANCELLED,
}


class Kubeflow:
    """One Kubeflow Pipelines installation.

    Args:
        connection: Its address and namespace.
    """

    def __init__(self, connection: Connection) -> None:
        self._client = KubeflowClient(connection)

    def problems(self, submission: Submission) -> list[str]:
        """Return what stands against a submission that neither client nor server would say."""
        without = {
            "--network": submission.network,
            "--reserved-ip-range": submission.reserved_ip_ranges,
            "--encryption-spec-key-name": submission.encryption_spec_key_name,
            "--tensorboard-resource-id": submission.tensorboard_resource_id,
        }
        problems = problems_with_values(submission.spec, submission.values)
        problems += [
            f"{flag} is of Vertex; Kubeflow Pipelines has no such setting." for flag, given in without.items() if given
        ]
        if submission.pipeline == "recurring_rlhf_pipeline":
            problems.append(
                "recurring_rlhf_pipeline counts what is new against a model registry, and Kubeflow has none that this "
                "project registers in. Schedule rlhf_pipeline, or use Vertex or rlhf run."
            )
        if submission.fail_fast:
            problems.append("--failure-policy fast is of Vertex; Kubeflow Pipelines has no such setting.")
        root = submission.pipeline_root
        if root and not any(root.startswith(scheme) and len(root) > len(scheme) for scheme in _ROOTS):
            problems.append(
                f"--pipeline-root is {root!r}; Kubeflow Pipelines takes minio://, s3:// and gs:// with a bucket."
            )
        problems += _problems_with_accelerators(submission.spec)
        problems += _problems_with_images(submission.spec)
        problems += _problems_with_paths(submission.spec, submission.values)
        return problems

    def submit(self, submission: Submission) -> Job:
        """Start one job. A lost response does not start a second one."""
        self._client.check_version()
        runs, marker = self._client.services.runs, _marker()

        def find() -> Any:
            return _marked(self._list(runs.run_service_list_runs, "runs", name=submission.display_name), marker)

        run = self._client.create(
            f"start {submission.display_name}",
            runs.run_service_create_run,
            find,
            run=self._client.services.api_models.V2beta1Run(
                experiment_id=self._experiment(submission.experiment),
                display_name=submission.display_name,
                description=_description(submission, marker),
                pipeline_spec=_spec(submission),
                runtime_config=self._runtime_config(submission),
                service_account=submission.service_account or None,
            ),
        )
        return self._job(run)

    def job(self, name: str) -> Job:
        """Return one job with its tasks. `name` is its id, or the address of its page."""
        run = self._named("job", name, self._client.services.runs.run_service_get_run, "run_id")
        details = run.run_details.task_details if run.run_details else None
        return self._job(run, details or ())

    def jobs(self, limit: int) -> list[Job]:
        """Return the newest jobs, without their tasks."""
        found = self._list(self._client.services.runs.run_service_list_runs, "runs", limit=limit)
        return [self._job(run) for run in found]

    def cancel(self, name: str) -> None:
        """Ask for the end of a job."""
        job = self.job(name)
        if job.state.ended:
            raise ParameterError(f"Job {job.name} is over ({job.state}): there is nothing to cancel.")
        runs = self._client.services.runs
        try:
            self._client.ask(f"cancel {job.name}", runs.run_service_terminate_run, run_id=job.name)
        except UserError:
            # Kubeflow refuses what is being cancelled already, also by an attempt of ours whose answer was lost.
            run = self._client.ask(f"show {job.name}", runs.run_service_get_run, run_id=job.name)
            if run.state not in ("CANCELING", "CANCELED"):
                raise

    def resume_job(self, name: str) -> Job:
        """Have Kubeflow run again what of a job has not succeeded."""
        job = self.job(name)
        check_resumable(job)
        self._client.ask(f"resume {job.name}", self._client.services.runs.run_service_retry_run, run_id=job.name)
        return self.job(job.name)

    def check_schedule(self, submission: Submission, plan: Plan) -> None:
        """Refuse what `create_schedule` would before it sends anything."""
        _check_kept(plan)

    def create_schedule(self, submission: Submission, plan: Plan) -> Schedule:
        """Start jobs again and again."""
        self._client.check_version()
        trigger = self._trigger(plan)
        recurring = self._client.services.api_models.V2beta1RecurringRun(
            experiment_id=self._experiment(submission.experiment),
            namespace=self._client.namespace or None,
            display_name=submission.display_name,
            description=_description(submission, ""),
            pipeline_spec=_spec(submission),
            runtime_config=self._runtime_config(submission),
            service_account=submission.service_account or None,
            trigger=trigger,
            max_concurrency=str(plan.max_concurrent_runs),
            no_catchup=not plan.queue,
            mode="ENABLE",
        )
        return self._schedule(self._create_recurring(recurring))

    def schedules(self, limit: int) -> list[Schedule]:
        """Return the newest schedules."""
        service = self._client.services.recurring_runs.recurring_run_service_list_recurring_runs
        return [self._schedule(found) for found in self._list(service, "recurring_runs", limit=limit)]

    def schedule(self, name: str) -> Schedule:
        """Return one schedule. `name` is its id, or the address of its page."""
        return self._schedule(self._recurring(name))

    def pause(self, name: str) -> None:
        """Start no more jobs until resumed."""
        self._set_enabled(self._recurring(name).recurring_run_id, enabled=False)

    def resume(self, name: str, *, catch_up: bool) -> None:
        """Start jobs again; those that fell into the pause only with `catch_up`.

        Which of them start is a setting of the recurring run that cannot be changed: every one of them, or the newest
        of them, which Kubeflow never leaves out.
        """
        recurring = self._recurring(name)
        queued = not recurring.no_catchup
        update = f"Change it first, with `rlhf schedule update {recurring.recurring_run_id}"
        if catch_up and not queued:
            raise ParameterError(
                f"Schedule {recurring.display_name} was made without --queue: Kubeflow starts the newest run that fell into "
                "the pause and no other. Resume it without --catch-up, and submit what is missing."
            )
        if queued and not catch_up:
            raise ParameterError(
                f"Schedule {recurring.display_name} was made with --queue: Kubeflow would start every run that fell into "
                f"the pause. {update} --no-queue`, or resume it with --catch-up."
            )
        if not catch_up:
            logger.warning("If a run fell into the pause, Kubeflow starts the newest such run now.")
        self._set_enabled(recurring.recurring_run_id, enabled=True)

    def update_schedule(self, name: str, plan: Plan) -> Schedule:
        """Change when a schedule starts runs; what it runs stays. It gets another name.

        The API changes nothing of a recurring run: a new one, disabled, takes the place of the old. Until both have
        changed places the old one is kept, and comes back when the new one cannot be enabled.
        """
        old = self._recurring(name)
        enabled = old.status == "ENABLED"
        new = copy.copy(old)
        for unset in ("recurring_run_id", "pipeline_version_id", "created_at", "updated_at", "status", "error"):
            setattr(new, unset, None)
        new.trigger = self._trigger(plan)
        new.max_concurrency = str(plan.max_concurrent_runs)
        new.no_catchup = not plan.queue
        new.mode = "DISABLE"
        created = self._create_recurring(new)
        if enabled:
            self._exchange(old.recurring_run_id, created.recurring_run_id)
        try:
            self._delete(old.recurring_run_id)
        except RlhfError as error:
            raise RunError(
                f"{error} The changed schedule {created.recurring_run_id} is in place; the old one is paused and can be "
                f"removed: rlhf schedule delete {old.recurring_run_id}."
            ) from None
        return self.schedule(created.recurring_run_id)

    def delete_schedule(self, name: str) -> None:
        """Remove a schedule. Jobs that it started go on."""
        self._delete(self._recurring(name).recurring_run_id)

    def _exchange(self, old: str, new: str) -> None:
        """Disable one recurring run and enable another; when that fails, leave things as they were."""
        try:
            self._set_enabled(old, enabled=False)
            self._set_enabled(new, enabled=True)
        except RlhfError as error:
            try:
                self._set_enabled(new, enabled=False)
                self._set_enabled(old, enabled=True)
                self._delete(new)
            except RlhfError:
                raise RunError(
                    f"{error} Neither could things be put back: look whether {old} (before) or {new} (changed) is active, "
                    "with `rlhf schedule show`, then resume one and delete the other."
                ) from None
            raise RunError(f"{error} The schedule is as it was before.") from None

    def _experiment(self, name: str) -> str:
        """Return the id of the experiment of that name, made if it is not there."""
        name = name or next((os.environ[key] for key in _DEFAULT_EXPERIMENTS if os.environ.get(key)), "Default")
        service = self._client.services.experiments

        def find() -> Any:
            found = self._list(service.experiment_service_list_experiments, "experiments", name=name)
            return found[0] if found else None

        experiment = find() or self._client.create(
            f"create the experiment {name}",
            service.experiment_service_create_experiment,
            find,
            experiment=self._client.services.api_models.V2beta1Experiment(
                display_name=name, namespace=self._client.namespace or None
            ),
        )
        return str(experiment.experiment_id)

    def _runtime_config(self, submission: Submission) -> Any:
        return self._client.services.api_models.V2beta1RuntimeConfig(
            parameters=dict(submission.values), pipeline_root=submission.pipeline_root or None
        )

    def _trigger(self, plan: Plan) -> Any:
        """Return when a recurring run starts runs.

        Raises:
            ParameterError: If Kubeflow cannot keep to the plan.
        """
        _check_kept(plan)
        # From a start in the past, Kubeflow would first run what it takes to have been missed since.
        start = plan.start if plan.start and plan.start > datetime.now(UTC) else None
        models = self._client.services.api_models
        return models.V2beta1Trigger(
            cron_schedule=models.V2beta1CronSchedule(cron=_with_seconds(plan.cron), start_time=start, end_time=plan.end)
        )

    def _create_recurring(self, recurring: Any) -> Any:
        service, marker = self._client.services.recurring_runs, _marker()
        recurring.description = f"{_without_marker(recurring.description)}\n{marker}".strip()

        def find() -> Any:
            found = self._list(
                service.recurring_run_service_list_recurring_runs, "recurring_runs", name=recurring.display_name
            )
            return _marked(found, marker)

        return self._client.create(
            f"create the schedule {recurring.display_name}",
            service.recurring_run_service_create_recurring_run,
            find,
            recurring_run=recurring,
        )

    def _recurring(self, name: str) -> Any:
        service = self._client.services.recurring_runs
        return self._named("schedule", name, service.recurring_run_service_get_recurring_run, "recurring_run_id")

    def _set_enabled(self, name: str, *, enabled: bool) -> None:
        service = self._client.services.recurring_runs
        method = service.recurring_run_service_enable_recurring_run
        if not enabled:
            method = service.recurring_run_service_disable_recurring_run
        self._client.ask(f"{'resume' if enabled else 'pause'} {name}", method, recurring_run_id=name)

    def _delete(self, name: str) -> None:
        with contextlib.suppress(NotFoundError):  # an earlier attempt did it, and its answer was lost
            self._client.ask(
                f"delete {name}",
                self._client.services.recurring_runs.recurring_run_service_delete_recurring_run,
                recurring_run_id=name,
            )

    def _named(self, kind: str, name: str, method: Callable[..., Any], key: str) -> Any:
        command = "rlhf jobs list" if kind == "job" else "rlhf schedule list"
        identity = name.strip().rstrip("/").rpartition("/")[2]
        if not identity:
            raise ParameterError(f"Give the name of a {kind}; `{command}` shows them.")
        try:
            return self._client.ask(f"show {kind} {identity}", method, **{key: identity})
        except NotFoundError:
            raise ParameterError(f"{self._client.place} has no {kind} {identity!r}. `{command}` shows them.") from None

    def _list(self, method: Callable[..., Any], kind: str, *, limit: int = _PAGE, name: str = "") -> list[Any]:
        """Return the newest of a kind, at most `limit`, only those called `name` if that is given."""
        arguments: dict[str, Any] = {"sort_by": "created_at desc"}
        if self._client.namespace:
            arguments["namespace"] = self._client.namespace
        if name:
            predicate = {"operation": "EQUALS", "key": "display_name", "string_value": name}
            arguments["filter"] = json.dumps({"predicates": [predicate]})
        found: list[Any] = []
        token = ""
        while len(found) < limit:
            page = self._client.ask(
                f"list {kind.replace('_', ' ')}",
                method,
                page_token=token,
                page_size=min(limit - len(found), _PAGE),
                **arguments,
            )
            found += vars(page)[f"_{kind}"] or []
            token = page.next_page_token or ""
            if not token:
                break
        return found[:limit]

    def _job(self, run: Any, details: Iterable[Any] = ()) -> Job:
        if not run.run_id:
            raise self._client.unlike()
        tasks = _tasks(details, run.pipeline_spec)
        failed = [task for task in tasks if task.state is State.FAILED]
        error = run.error.message if run.error and run.error.message else ""
        if not error and failed:
            # The API has a place for the reason, and leaves it empty.
            error = f"{failed[0].name}: {failed[0].error or 'its log, on the page of the run, says why.'}"
        return Job(
            name=run.run_id,
            display_name=run.display_name or "",
            pipeline=_pipeline_name(run.pipeline_spec),
            state=_STATES.get(run.state or "", State.PENDING),
            link=f"{self._client.page}/#/runs/details/{run.run_id}",
            created=_time(run.created_at),
            ended=_time(run.finished_at),
            error=error,
            tasks=tasks,
        )

    def _schedule(self, recurring: Any) -> Schedule:
        if not recurring.recurring_run_id:
            raise self._client.unlike()
        plan = _plan(recurring)
        now = datetime.now(UTC)
        state = ScheduleState.ACTIVE if recurring.status == "ENABLED" else ScheduleState.PAUSED
        if plan.end and plan.end < now:
            state = ScheduleState.COMPLETED
        return Schedule(
            name=recurring.recurring_run_id,
            display_name=recurring.display_name or "",
            pipeline=_pipeline_name(recurring.pipeline_spec),
            state=state,
            plan=plan,
            link=f"{self._client.page}/#/recurringrun/details/{recurring.recurring_run_id}",
            next_run=_next_run(plan, now) if state is ScheduleState.ACTIVE else None,
            created=_time(recurring.created_at),
            last_error=recurring.error.message if recurring.error and recurring.error.message else "",
        )


def _marker() -> str:
    """Return words that no other run's description has, by which it is found when the answer to its start was lost."""
    return f"Submission {uuid.uuid4()}"


def _without_marker(description: str | None) -> str:
    return "\n".join(line for line in (description or "").splitlines() if not line.startswith("Submission "))


def _marked(found: Iterable[Any], marker: str) -> Any:
    return next((one for one in found if marker in (one.description or "")), None)


def _description(submission: Submission, marker: str) -> str:
    labels = ", ".join(f"{key}={value}" for key, value in submission.labels.items())
    lines = [f"{submission.pipeline} by rlhf", f"Labels: {labels}" if labels else "", marker]
    return "\n".join(line for line in lines if line)


def _spec(submission: Submission) -> dict[str, Any]:
    """Return the compiled pipeline as the API takes it, with caching as the submission wants it in every step."""
    spec = copy.deepcopy(dict(submission.spec))
    if submission.caching is not None:
        pipeline = spec.get("pipeline_spec", spec)
        for component in (pipeline["root"], *pipeline.get("components", {}).values()):
            for task in component.get("dag", {}).get("tasks", {}).values():
                task["cachingOptions"] = {"enableCache": submission.caching}
    return spec


def _pipeline_name(spec: Any) -> str:
    pipeline = spec.get("pipeline_spec", spec) if isinstance(spec, dict) else {}
    return str(pipeline.get("pipelineInfo", {}).get("name", ""))


def _time(moment: datetime | None) -> datetime | None:
    """Return a time with a zone; the API writes the beginning of 1970 for what has not been yet."""
    if moment is None or moment.timestamp() <= 0:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _tasks(details: Iterable[Any], spec: Any) -> tuple[Task, ...]:
    """Return the steps in the order of their start.

    The API tells every node of the workflow: beside a step its driver, its `executor`, and the pipelines around it.
    """
    names = _step_names(spec)

    def is_step(name: str) -> bool:
        # Of a run that was started from an uploaded pipeline, the spec is not told.
        return name in names if names else name not in ("root", "executor") and not name.endswith("-driver")

    tasks = [
        Task(
            name=node.display_name,
            state=_STATES.get(node.state or "", State.PENDING),
            started=_time(node.start_time),
            ended=_time(node.end_time),
            error=node.error.message if node.error and node.error.message else "",
        )
        for node in details
        if is_step(node.display_name or "")
    ]
    return tuple(sorted(tasks, key=lambda task: task.started or datetime.max.replace(tzinfo=UTC)))


def _step_names(spec: Any) -> set[str]:
    """Return what the steps of a compiled pipeline may be called, those of nested pipelines too."""
    pipeline = spec.get("pipeline_spec", spec) if isinstance(spec, dict) else {}
    components = pipeline.get("components", {})
    names: set[str] = set()
    for component in (pipeline.get("root", {}), *components.values()):
        for name, task in component.get("dag", {}).get("tasks", {}).items():
            if "dag" not in components.get(task.get("componentRef", {}).get("name"), {}):
                names |= {name, task.get("taskInfo", {}).get("name", name)}
    return names


def _check_kept(plan: Plan) -> None:
    """Check that Kubeflow can keep to a plan.

    Raises:
        ParameterError: If it cannot.
    """
    check_plan(plan)
    zone = _installation_zone()
    if not _agree(ZoneInfo(plan.time_zone), _zone(zone)):
        (moment,) = next_runs(plan.cron, plan.time_zone, after=plan.start or datetime.now(UTC), count=1)
        there = moment.astimezone(_zone(zone))
        raise ParameterError(
            f"--time-zone is {plan.time_zone}, but Kubeflow Pipelines reads every cron in the one time zone of its "
            f"installation, which is {zone} unless you say otherwise. The next run, {moment:%Y-%m-%d %H:%M} in "
            f"{plan.time_zone}, is {there:%Y-%m-%d %H:%M} in {zone}: give --cron in that zone, or, if the "
            f"installation's {_TIME_ZONE} is {plan.time_zone}, set the environment variable of that name here too."
        )
    if plan.max_runs:
        until = ""
        if plan.max_runs <= 1000:
            moments = next_runs(plan.cron, plan.time_zone, after=plan.start or datetime.now(UTC), count=plan.max_runs)
            until = f" --end {moments[-1]:%Y-%m-%dT%H:%M} is the time of the last of {plan.max_runs}."
        raise ParameterError(f"--max-runs: Kubeflow Pipelines cannot count runs; give --end instead.{until}")
    if not 1 <= plan.max_concurrent_runs <= _MOST_CONCURRENT:
        raise ParameterError(
            f"--max-concurrent-runs is {plan.max_concurrent_runs}; Kubeflow Pipelines takes 1 to {_MOST_CONCURRENT}."
        )


def _installation_zone() -> str:
    return os.environ.get(_TIME_ZONE) or "UTC"


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ParameterError(f"The environment variable {_TIME_ZONE} is {name!r}, which is no time zone.") from None


def _agree(one: ZoneInfo, other: ZoneInfo) -> bool:
    """Say whether two time zones, such as UTC and Etc/UTC, have the same time on every day of the next years."""
    days = (datetime.now(UTC) + timedelta(days=day) for day in range(5 * 366))
    return all(day.astimezone(one).utcoffset() == day.astimezone(other).utcoffset() for day in days)


def _with_seconds(cron: str) -> str:
    """Return five checked cron fields as the six that Kubeflow takes; its Sunday is 0 only, never 7."""
    *fields, days = cron.split()
    if "7" in days.replace("/7", ""):
        days = ",".join(str(day) for day in weekdays(cron))
    return " ".join(["0", *fields, days])


def _plan(recurring: Any) -> Plan:
    trigger = recurring.trigger
    cron = trigger.cron_schedule if trigger else None
    periodic = trigger.periodic_schedule if trigger else None
    text = cron.cron if cron else f"every {periodic.interval_second} s" if periodic else ""
    fields = text.split()
    if len(fields) == 6 and fields[0] == "0":  # as ours are; schedules that were made elsewhere are shown as they are
        text = " ".join("*" if field == "?" else field for field in fields[1:])
    times = cron or periodic
    return Plan(
        cron=text,
        time_zone=_installation_zone(),
        start=_time(times.start_time) if times else None,
        end=_time(times.end_time) if times else None,
        max_concurrent_runs=int(recurring.max_concurrency or 1),
        queue=not recurring.no_catchup,
    )


def _next_run(plan: Plan, now: datetime) -> datetime | None:
    after = max(now, plan.start) if plan.start else now
    try:
        (moment,) = next_runs(plan.cron, plan.time_zone, after=after, count=1)
    except ParameterError:
        return None  # made elsewhere, in words of cron that we do not have
    return None if plan.end and moment > plan.end else moment


def _containers(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    executors = spec.get("pipeline_spec", spec).get("deploymentSpec", {}).get("executors", {})
    return [executor["container"] for executor in executors.values() if "container" in executor]


def _problems_with_accelerators(spec: Mapping[str, Any]) -> list[str]:
    """Find Vertex's names of accelerators: Kubernetes would look for such a machine for ever."""
    accelerators = [container.get("resources", {}).get("accelerator", {}) for container in _containers(spec)]
    names = {str(accelerator.get("resourceType") or accelerator.get("type") or "/") for accelerator in accelerators}
    return [
        f"The pipeline asks for {name}, as Vertex calls it. Compile it with: rlhf compile --target kubeflow"
        for name in sorted(names)
        if "/" not in name
    ]


def _problems_with_images(spec: Mapping[str, Any]) -> list[str]:
    from rlhf_tuning.images import IMAGES

    used = {container["image"] for container in _containers(spec)}
    return [
        f"The image {image} exists only where it was built: push it to a registry that the cluster reads, and give "
        f"--image {kind}=REGISTRY/{kind}@sha256:..."
        for kind, image in IMAGES.items()
        if image in used
    ]


def _problems_with_paths(spec: Mapping[str, Any], values: Mapping[str, object]) -> list[str]:
    mounted = _mount_paths(spec)
    problems = []
    files = {name: values.get(name) for name in (*_DATASETS, *_MODELS)}
    files["regression_suite"] = suite_file(str(values.get("regression_suite") or ""))
    for name, value in files.items():
        if not isinstance(value, str) or not value or value.startswith(("gs://", *mounted)):
            continue
        if name not in _MODELS or value.startswith(("/", "./", "../", "~")) or Path(value).exists():
            problems.append(
                f"{name} is {value!r}, which the steps in the cluster cannot read: copy it to Cloud Storage and give gs://..."
            )
    rubric = rubric_file(str(values.get("judge_rubric") or ""))
    if rubric and not rubric.startswith(("gs://", *mounted)):
        problems.append(
            f"judge_rubric is {rubric!r}, a file that the steps in the cluster cannot read: copy it to Cloud Storage and "
            "give gs://..., or give its words."
        )
    registry = values.get("registry_dir")
    if isinstance(registry, str) and registry and not registry.startswith(("gs://", *mounted)):
        problems.append(
            f"registry_dir is {registry!r}, a folder that would be gone with the container of its step: give one that the "
            "compiled pipeline mounts, or leave it away."
        )
    return problems


def _mount_paths(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the folders that the compiled pipeline mounts into steps."""
    platform = spec.get("platform_spec", {}).get("platforms", {}).get("kubernetes", {})
    executors = platform.get("deploymentSpec", {}).get("executors", {})
    mounts = [mount for executor in executors.values() for mount in executor.get("pvcMount", [])]
    return tuple(f"{str(mount['mountPath']).rstrip('/')}/" for mount in mounts)
