"""How jobs and schedules of a backend are shown: tables, details, and a job followed to its end."""

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from rlhf_pipelines.backends.backend import Backend, Job, Schedule, State, Task
from rlhf_pipelines.cli.display import printable
from rlhf_pipelines.cli.text_table import text_table
from rlhf_tuning.errors import RunError
from rlhf_tuning.step import duration

#: Seconds between two questions to the backend about a job that is followed.
_POLL_SECONDS = 10.0
#: For so many seconds a service that does not answer is asked again: a job may run for days.
_PATIENCE_SECONDS = 600.0


def job_table(jobs: Sequence[Job]) -> str:
    """Return jobs as aligned columns, newest first as the backend gave them."""
    if not jobs:
        return "No jobs yet. `rlhf submit` starts one."
    rows = [(short(job.name), job.display_name, job.state, moment(job.created), took(job)) for job in jobs]
    return text_table([("JOB", "NAME", "STATE", "CREATED", "TOOK"), *rows])


def schedule_table(schedules: Sequence[Schedule]) -> str:
    """Return schedules as aligned columns."""
    if not schedules:
        return "No schedules yet. `rlhf schedule create` makes one."
    rows = [
        (
            short(schedule.name),
            schedule.display_name,
            schedule.state,
            f"{schedule.plan.cron} ({schedule.plan.time_zone})",
            moment(schedule.next_run),
            "-" if schedule.runs_started is None else str(schedule.runs_started),
        )
        for schedule in schedules
    ]
    return text_table([("SCHEDULE", "NAME", "STATE", "CRON", "NEXT RUN", "RUNS"), *rows])


def job_details(job: Job) -> str:
    """Return one job with its tasks, outputs and errors."""
    lines = [
        *_pairs(
            ("job", job.name),
            ("name", job.display_name),
            ("pipeline", job.pipeline),
            ("state", job.state),
            ("created", moment(job.created)),
            ("took", took(job)),
            ("console", job.link),
        )
    ]
    if job.tasks:
        rows = [(task.name, task.state, moment(task.started), took(task)) for task in job.tasks]
        lines += ["", text_table([("STEP", "STATE", "STARTED", "TOOK"), *rows])]
    lines += _errors(job)
    if job.outputs:
        lines += ["", *_pairs(*((name, str(value)) for name, value in job.outputs.items()))]
    return "\n".join(printable(line) for line in "\n".join(lines).split("\n"))


def begun(how: str, job: Job) -> str:
    """Return what is told of a job that has just begun, such as `Submitted`."""
    lines = (f"{how} {job.display_name}", f"  job      {job.name}", f"  console  {job.link}")
    return "\n".join(map(printable, lines))


def schedule_details(schedule: Schedule) -> str:
    """Return one schedule."""
    plan = schedule.plan
    return "\n".join(
        printable(line)
        for line in _pairs(
            ("schedule", schedule.name),
            ("name", schedule.display_name),
            ("pipeline", schedule.pipeline),
            ("state", schedule.state),
            ("cron", f"{plan.cron} ({plan.time_zone})"),
            ("next run", moment(schedule.next_run)),
            ("from", moment(plan.start)),
            ("until", moment(plan.end)),
            ("runs", "-" if schedule.runs_started is None else str(schedule.runs_started)),
            ("most runs", str(plan.max_runs or "no limit")),
            ("at the same time", f"{plan.max_concurrent_runs}; others {'wait' if plan.queue else 'are left out'}"),
            ("last error", schedule.last_error or "-"),
            ("console", schedule.link),
        )
    )


def as_json(found: Job | Schedule | Sequence[Job] | Sequence[Schedule]) -> str:
    """Return jobs or schedules as JSON, times in ISO 8601."""
    value = dataclasses.asdict(found) if isinstance(found, Job | Schedule) else [dataclasses.asdict(x) for x in found]
    return json.dumps(value, indent=2, ensure_ascii=False, default=lambda x: x.isoformat())


def follow(
    backend: Backend,
    name: str,
    write: Callable[[str], None],
    *,
    clock: Callable[[], float] = time.monotonic,
) -> Job:
    """Write a line whenever a step of a job changes, until the job has ended, and return it.

    Raises:
        RunError: If the service gives no answer for ten minutes; the job goes on.
    """
    seen: dict[str, State] = {}
    state: State | None = None
    answered = clock()
    while True:
        try:
            job = backend.job(name)
        except RunError as error:
            if clock() - answered > _PATIENCE_SECONDS:
                raise
            write(f"{_now()} no answer, asking again: {printable(str(error))}")
            time.sleep(_POLL_SECONDS)
            continue
        answered = clock()
        if job.state != state and not job.state.ended:
            write(f"{_now()} {job.state}")
        state = job.state
        for task in job.tasks:
            if seen.get(task.name) != task.state and task.state is not State.PENDING:
                write(f"{_now()} {printable(task.name)}: {_how(task)}")
            seen[task.name] = task.state
        if job.state.ended:
            write(f"{_now()} {job.state}{f' after {took(job)}' if job.created and job.ended else ''}")
            return job
        time.sleep(_POLL_SECONDS)


def ending(job: Job) -> str:
    """Return what to know of a job that has ended: its errors, its outputs, where to look."""
    lines = [*_errors(job)[1:], *_pairs(*((name, str(value)) for name, value in job.outputs.items() if value != ""))]
    return "\n".join(printable(line) for line in "\n".join([*lines, *_pairs(("console", job.link))]).split("\n"))


def short(name: str) -> str:
    """Return the last part of a full name, by which every command finds it too."""
    return name.rsplit("/", 1)[-1]


def moment(time: datetime | None) -> str:
    """Return a time as this machine's clock shows it."""
    return "-" if time is None else time.astimezone().strftime("%Y-%m-%d %H:%M %Z")


def took(ran: Job | Task) -> str:
    """Return how long something took, or takes already."""
    started = ran.created if isinstance(ran, Job) else ran.started
    if started is None or (ran.ended is None and ran.state.ended):
        return "-"
    return duration(((ran.ended or datetime.now(UTC)) - started).total_seconds())


def _how(task: Task) -> str:
    if task.state is State.CACHED:
        return "cached, finished in an earlier run"
    return f"{task.state} after {took(task)}" if task.state.ended and task.started and task.ended else str(task.state)


def _errors(job: Job) -> list[str]:
    failed = [task for task in job.tasks if task.error]
    told = [f"{task.name}: {task.error}" for task in failed]
    if job.error and not any(job.error in line for line in told):
        told.append(job.error)
    return ["", *told] if told else []


def _now() -> str:
    return datetime.now().astimezone().strftime("%H:%M:%S")


def _pairs(*pairs: tuple[str, str]) -> list[str]:
    width = max((len(key) for key, _ in pairs), default=0)
    return [f"{key.ljust(width)}  {value}" for key, value in pairs]
