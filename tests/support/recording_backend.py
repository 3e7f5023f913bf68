"""A backend in memory, for the commands' own tests: it does what `Backend` promises and remembers what it was asked."""

from datetime import UTC, datetime, timedelta
from typing import ClassVar

from rlhf_pipelines.backends.backend import Connection, Job, Plan, Schedule, ScheduleState, State, Submission, Task
from rlhf_tuning.errors import RunError, UserError

_START = datetime(2026, 11, 2, 3, 0, tzinfo=UTC)


class Recording:
    #: The one that `connect` made last.
    last: "Recording"
    #: What `problems` finds, and what `job` returns or raises, one at each call.
    found: ClassVar[list[str]] = []
    story: ClassVar[list[Job | BaseException]] = []

    def __init__(self, connection: Connection) -> None:
        type(self).last = self
        self.connection = connection
        self.submissions: list[Submission] = []
        self.calls: list[tuple[object, ...]] = []
        self.plan = Plan(cron="0 3 * * 1", time_zone="Europe/Zurich")

    def problems(self, submission: Submission) -> list[str]:
        return list(type(self).found)

    def submit(self, submission: Submission) -> Job:
        self.submissions.append(submission)
        return job(State.PENDING)

    def job(self, name: str) -> Job:
        self.calls.append(("job", name))
        if not type(self).story:
            raise UserError(f"There is no job {name}.")
        happened = type(self).story.pop(0)
        if isinstance(happened, BaseException):
            raise happened
        return happened

    def jobs(self, limit: int) -> list[Job]:
        return [job(State.RUNNING), job(State.FAILED)][:limit]

    def cancel(self, name: str) -> None:
        self.calls.append(("cancel", name))

    def resume_job(self, name: str) -> Job:
        self.calls.append(("resume_job", name))
        return job(State.PENDING)

    def check_schedule(self, submission: Submission, plan: Plan) -> None:
        self.calls.append(("check_schedule", submission, plan))

    def create_schedule(self, submission: Submission, plan: Plan) -> Schedule:
        self.submissions.append(submission)
        self.plan = plan
        return self.schedule("weekly")

    def schedules(self, limit: int) -> list[Schedule]:
        return [self.schedule("weekly")]

    def schedule(self, name: str) -> Schedule:
        return Schedule(
            name=f"projects/p/locations/l/schedules/{name}",
            display_name="weekly tune",
            pipeline="rlhf-pipeline",
            state=ScheduleState.ACTIVE,
            plan=self.plan,
            link="https://console/schedules",
            runs_started=2,
            next_run=_START,
        )

    def pause(self, name: str) -> None:
        self.calls.append(("pause", name))

    def resume(self, name: str, *, catch_up: bool) -> None:
        self.calls.append(("resume", name, catch_up))

    def update_schedule(self, name: str, plan: Plan) -> Schedule:
        self.calls.append(("update", name, plan))
        self.plan = plan
        return self.schedule(name)

    def delete_schedule(self, name: str) -> None:
        self.calls.append(("delete", name))


def job(state: State, *tasks: Task, error: str = "") -> Job:
    return Job(
        name="projects/p/locations/l/pipelineJobs/rlhf-1",
        display_name="rlhf",
        pipeline="rlhf-pipeline",
        state=state,
        link="https://console/runs/rlhf-1",
        created=_START,
        ended=_START + timedelta(hours=1) if state.ended else None,
        tasks=tasks,
        error=error,
        outputs={"model_resource_name": "models/m@1"} if state is State.SUCCEEDED else {},
    )


def task(name: str, state: State, minutes: float = 1.0, error: str = "") -> Task:
    ended = _START + timedelta(minutes=minutes) if state.ended else None
    return Task(name=name, state=state, started=_START, ended=ended, error=error)


def lost() -> RunError:
    return RunError("Vertex did not answer (503).")
