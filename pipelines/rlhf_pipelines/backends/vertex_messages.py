"""Vertex AI's messages and ours: a submission becomes a `PipelineJob`, a plan a `Schedule`, and both are read back."""

import copy
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from rlhf_pipelines.backends.backend import Job, Plan, Schedule, ScheduleState, State, Submission, Task
from rlhf_tuning.parameters import Value

_JOB_STATES = {
    "PIPELINE_STATE_RUNNING": State.RUNNING,
    "PIPELINE_STATE_CANCELLING": State.RUNNING,
    "PIPELINE_STATE_SUCCEEDED": State.SUCCEEDED,
    "PIPELINE_STATE_FAILED": State.FAILED,
    "PIPELINE_STATE_CANCELLED": State.CANCELLED,
}
_TASK_STATES = {
    "RUNNING": State.RUNNING,
    "CANCEL_PENDING": State.RUNNING,
    "CANCELLING": State.RUNNING,
    "SUCCEEDED": State.SUCCEEDED,
    "FAILED": State.FAILED,
    "CANCELLED": State.CANCELLED,
    # Vertex's words: skipped, because the cache had it; not triggered, because its condition was false.
    "SKIPPED": State.CACHED,
    "NOT_TRIGGERED": State.SKIPPED,
}
_SCHEDULE_STATES = {"PAUSED": ScheduleState.PAUSED, "COMPLETED": ScheduleState.COMPLETED}
_CONSOLE = "https://console.cloud.google.com/vertex-ai/locations"


def pipeline_job(submission: Submission) -> dict[str, Any]:
    """Return a job as `aiplatform.PipelineJob` makes it, with all that a submission says."""
    from google.cloud import aiplatform_v1
    from google.protobuf import json_format

    config: dict[str, Any] = {
        "gcsOutputDirectory": submission.pipeline_root,
        "parameterValues": {name: value for name, value in submission.values.items() if value is not None},
    }
    if submission.fail_fast:
        config["failurePolicy"] = "PIPELINE_FAILURE_POLICY_FAIL_FAST"
    job = {
        "display_name": submission.display_name,
        "pipeline_spec": _with_caching(submission.spec, submission.caching),
        "runtime_config": json_format.ParseDict(
            config, aiplatform_v1.PipelineJob.RuntimeConfig.pb(aiplatform_v1.PipelineJob.RuntimeConfig())
        ),
        "labels": dict(submission.labels),
        "service_account": submission.service_account,
        "network": submission.network,
        "reserved_ip_ranges": list(submission.reserved_ip_ranges),
    }
    if submission.encryption_spec_key_name:
        job["encryption_spec"] = {"kms_key_name": submission.encryption_spec_key_name}
    return job


def plan_fields(plan: Plan) -> dict[str, Any]:
    """Return the fields of a schedule that a plan decides."""
    return {
        "cron": f"TZ={plan.time_zone} {plan.cron}",
        "start_time": plan.start,
        "end_time": plan.end,
        "max_run_count": plan.max_runs,
        # The first limits how many runs are started at a time, the second how many go on: both are meant.
        "max_concurrent_run_count": plan.max_concurrent_runs,
        "max_concurrent_active_run_count": plan.max_concurrent_runs,
        "allow_queueing": plan.queue,
    }


def job_id(display_name: str, moment: datetime, token: str) -> str:
    """Return the id of a job: its name and time for people, and a token, so that no one else has it."""
    words = re.sub(r"[^a-z0-9]+", "-", display_name.lower()).strip("-")[:80].strip("-")
    words = words if words[:1].isalpha() else f"job-{words}".strip("-")
    return f"{words}-{moment:%Y%m%d%H%M%S}-{token}"


def read_job(message: Any) -> Job:
    """Return a job from Vertex's message; tasks and outputs are there when the message holds the whole job."""
    from google.protobuf import json_format

    spec = json_format.MessageToDict(type(message).pb(message).pipeline_spec)
    tasks = _Tasks(spec, message.job_detail.task_details)
    return Job(
        name=message.name,
        display_name=message.display_name,
        pipeline=spec.get("pipelineInfo", {}).get("name", ""),
        state=_JOB_STATES.get(message.state.name, State.PENDING),
        link=_link(message.name, "runs"),
        created=_moment(message.create_time),
        ended=_moment(message.end_time),
        error=message.error.message,
        tasks=tuple(tasks.shown()),
        outputs=dict(tasks.outputs()),
    )


def read_schedule(message: Any) -> Schedule:
    """Return a schedule from Vertex's message."""
    from google.protobuf import json_format

    job = message.create_pipeline_job_request.pipeline_job
    spec = json_format.MessageToDict(type(job).pb(job).pipeline_spec)
    match = re.fullmatch(r"(?:(?:CRON_)?TZ=(\S+)\s+)?(.*)", message.cron)
    zone, cron = (match[1] or "UTC", match[2]) if match else ("UTC", message.cron)
    response = message.last_scheduled_run_response.run_response
    return Schedule(
        name=message.name,
        display_name=message.display_name,
        pipeline=spec.get("pipelineInfo", {}).get("name", ""),
        state=_SCHEDULE_STATES.get(message.state.name, ScheduleState.ACTIVE),
        plan=Plan(
            cron=cron,
            time_zone=zone,
            start=_moment(message.start_time),
            end=_moment(message.end_time),
            max_runs=message.max_run_count,
            max_concurrent_runs=message.max_concurrent_active_run_count or message.max_concurrent_run_count,
            queue=message.allow_queueing,
        ),
        link=_link(message.name, "schedules"),
        runs_started=message.started_run_count,
        next_run=_moment(message.next_run_time),
        created=_moment(message.create_time),
        # The service keeps the answer to its last request: a job's name, or an error.
        last_error="" if "/pipelineJobs/" in response else response,
    )


class _Tasks:
    """The tasks of a job, as a tree: what Vertex tells of each, beside what the compiled pipeline says of it."""

    def __init__(self, spec: Mapping[str, Any], details: Sequence[Any]) -> None:
        self._components: Mapping[str, Any] = spec.get("components", {})
        self._details = {detail.task_id: detail for detail in details}
        self._root: Mapping[str, Any] = spec.get("root", {})

    def shown(self) -> Iterator[Task]:
        """Yield what people follow: the steps, and graphs of steps where nothing within was started."""
        parents = {detail.parent_task_id for detail in self._details.values()}
        leaves = [
            detail
            for detail in self._details.values()
            if detail.task_id not in parents and detail.parent_task_id in self._details
        ]
        names = [self._display_name(detail) for detail in leaves]
        repeated = {name for name, count in Counter(names).items() if count > 1}
        for detail, name in zip(leaves, names, strict=True):
            outer = self._details[detail.parent_task_id]
            full = f"{self._display_name(outer)}: {name}" if name in repeated and outer.parent_task_id else name
            yield Task(
                name=full,
                state=_TASK_STATES.get(detail.state.name, State.PENDING),
                started=_moment(detail.start_time),
                ended=_moment(detail.end_time),
                error=detail.error.message,
            )

    def outputs(self) -> Iterator[tuple[str, Value]]:
        """Yield the pipeline's own outputs that are values and known."""
        roots = [detail for detail in self._details.values() if detail.parent_task_id not in self._details]
        if len(roots) != 1:
            return
        for name in self._root.get("outputDefinitions", {}).get("parameters", {}):
            value = self._output(roots[0], self._root, name)
            if value is not None:
                yield name, value

    def _output(self, detail: Any, component: Mapping[str, Any], name: str) -> Value | None:
        """Return one output of a task; that of a graph is the output of a task within."""
        found = detail.execution.metadata.get(f"output:{name}") if detail.execution.metadata else None
        if isinstance(found, str | int | float | bool):
            return found
        source = component.get("dag", {}).get("outputs", {}).get("parameters", {}).get(name, {})
        selector = source.get("valueFromParameter", {})
        for other in self._details.values():
            if other.parent_task_id == detail.task_id and other.task_name == selector.get("producerSubtask"):
                return self._output(other, self._component(other), selector.get("outputParameterKey", ""))
        return None

    def _task(self, detail: Any) -> Mapping[str, Any]:
        """Return what the compiled pipeline says of a task."""
        outer = self._details.get(detail.parent_task_id)
        graph = (self._component(outer) if outer else self._root).get("dag", {})
        task: Mapping[str, Any] = graph.get("tasks", {}).get(detail.task_name, {})
        return task

    def _component(self, detail: Any) -> Mapping[str, Any]:
        if detail.parent_task_id not in self._details:
            return self._root
        name = self._task(detail).get("componentRef", {}).get("name", "")
        component: Mapping[str, Any] = self._components.get(name, {})
        return component

    def _display_name(self, detail: Any) -> str:
        return str(self._task(detail).get("taskInfo", {}).get("name", detail.task_name))


def _with_caching(spec: Mapping[str, Any], caching: bool | None) -> dict[str, Any]:
    """Return a compiled pipeline with every task's caching set, as the client does it; as compiled for None."""
    changed: dict[str, Any] = copy.deepcopy(dict(spec))
    if caching is not None:
        for component in (changed["root"], *changed.get("components", {}).values()):
            for task in component.get("dag", {}).get("tasks", {}).values():
                task["cachingOptions"] = {"enableCache": caching}
    return changed


def _link(name: str, kind: str) -> str:
    match = re.fullmatch(r"projects/([^/]+)/locations/([^/]+)/\w+/([^/]+)", name)
    return f"{_CONSOLE}/{match[2]}/pipelines/{kind}/{match[3]}?project={match[1]}" if match else ""


def _moment(moment: datetime | None) -> datetime | None:
    """Return a plain time; the client's own class prints as something else."""
    return datetime.fromisoformat(moment.isoformat()) if moment else None
