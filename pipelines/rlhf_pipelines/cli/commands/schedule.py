"""`rlhf schedule`: pipelines that run again and again on a backend."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from zoneinfo import ZoneInfo

from rlhf_pipelines.backends.backend import Backend, Plan
from rlhf_pipelines.cli.command_line import Commands, add_command, count
from rlhf_pipelines.cli.submission import (
    add_connection_flags,
    add_submission_flags,
    backend_of,
    refuse_problems,
    submission_of,
)
from rlhf_tuning.errors import ParameterError


def add(commands: Commands) -> None:
    """Add the command and its actions."""
    parser = commands.add_parser(
        "schedule", help="run a pipeline again and again", description="Run a pipeline again and again on a backend."
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    create = add_command(
        actions,
        "create",
        "start a pipeline by the clock",
        _create,
        "Start a pipeline by the clock. recurring_rlhf_pipeline tunes only when there is enough new feedback.\n\n"
        "example:\n"
        "  rlhf schedule create --pipeline recurring_rlhf_pipeline --cron '0 3 * * 1' --time-zone Europe/Zurich \\\n"
        "      --parameter-values values.json --project my-project --location us-central1 --pipeline-root gs://b/runs",
    )
    create.usage = "rlhf schedule create --cron CRON [--PARAMETER VALUE ...] [option ...]"
    _add_plan_flags(create, required=True)
    create.add_argument("--dry-run", action="store_true", help="check everything and stop")
    add_submission_flags(create)
    listing = add_command(actions, "list", "list the newest schedules", _list)
    listing.add_argument("--limit", type=count, default=20, metavar="N", help="at most so many; default: 20")
    listing.add_argument("--json", action="store_true", help="print JSON")
    add_connection_flags(listing)
    show = _named(actions, "show", "show one schedule", _show)
    show.add_argument("--json", action="store_true", help="print JSON")
    _named(actions, "pause", "start no more runs until it is resumed", _pause)
    resume = _named(actions, "resume", "start runs again", _resume)
    resume.add_argument("--catch-up", action="store_true", help="also start the runs that fell into the pause")
    _add_plan_flags(_named(actions, "update", "change when a schedule starts runs", _update), required=False)
    _named(actions, "delete", "remove a schedule; runs that it started go on", _delete)


def _add_plan_flags(parser: argparse.ArgumentParser, *, required: bool) -> None:
    group = parser.add_argument_group("when")
    group.add_argument(
        "--cron",
        required=required,
        default=None,
        metavar="CRON",
        help="minute, hour, day of month, month, day of week, such as '0 3 * * 1'",
    )
    group.add_argument("--time-zone", default=None, metavar="NAME", help="such as Europe/Zurich; default: UTC")
    group.add_argument(
        "--start", default=None, metavar="TIME", help="no run before, such as 2027-01-31T06:00; in that zone"
    )
    group.add_argument("--end", default=None, metavar="TIME", help="no run after")
    group.add_argument(
        "--max-runs", type=count, default=None, metavar="N", help="ends after so many; no limit when absent"
    )
    group.add_argument(
        "--max-concurrent-runs", type=count, default=None, metavar="N", help="runs at the same time; default: 1"
    )
    group.add_argument(
        "--queue",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="a run that would be one too many waits; otherwise it is left out",
    )


def _named(
    actions: Commands, name: str, summary: str, function: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    parser = add_command(actions, name, summary, function)
    parser.add_argument("name", metavar="SCHEDULE", help="as `rlhf schedule list` shows it, or its full name")
    add_connection_flags(parser)
    return parser


def _backend(options: argparse.Namespace) -> Backend:
    return backend_of(options, project=options.project, location=options.location)[1]


def _create(options: argparse.Namespace) -> int:
    from rlhf_pipelines.cli.job_display import schedule_details

    plan = _changed(Plan(cron=options.cron), options)
    _, backend, submission = submission_of(options)
    refuse_problems(backend, submission)
    if options.dry_run:
        backend.check_schedule(submission, plan)
        print("Nothing was created. Leave --dry-run away to create this schedule.")
        return 0
    print(schedule_details(backend.create_schedule(submission, plan)))
    return 0


def _list(options: argparse.Namespace) -> int:
    from rlhf_pipelines.cli.job_display import as_json, schedule_table

    schedules = _backend(options).schedules(options.limit)
    print(as_json(schedules) if options.json else schedule_table(schedules))
    return 0


def _show(options: argparse.Namespace) -> int:
    from rlhf_pipelines.cli.job_display import as_json, schedule_details

    schedule = _backend(options).schedule(options.name)
    print(as_json(schedule) if options.json else schedule_details(schedule))
    return 0


def _pause(options: argparse.Namespace) -> int:
    _backend(options).pause(options.name)
    print(f"Paused {options.name}. Runs that it started go on.")
    return 0


def _resume(options: argparse.Namespace) -> int:
    _backend(options).resume(options.name, catch_up=options.catch_up)
    print(f"Resumed {options.name}.")
    return 0


def _update(options: argparse.Namespace) -> int:
    from rlhf_pipelines.cli.job_display import schedule_details

    backend = _backend(options)
    before = backend.schedule(options.name).plan
    after = _changed(before, options)
    if after == before:
        raise ParameterError(
            f"Nothing to change in {options.name}: give one of --cron, --time-zone, --start, --end, ..."
        )
    print(schedule_details(backend.update_schedule(options.name, after)))
    return 0


def _delete(options: argparse.Namespace) -> int:
    _backend(options).delete_schedule(options.name)
    print(f"Deleted {options.name}. Runs that it started go on.")
    return 0


def _changed(plan: Plan, options: argparse.Namespace) -> Plan:
    """Return the plan with what the flags change."""
    from rlhf_pipelines.backends.cron import check_plan

    zone = options.time_zone or plan.time_zone
    given = {
        "cron": options.cron,
        "time_zone": options.time_zone,
        "start": _time("--start", options.start, zone),
        "end": _time("--end", options.end, zone),
        "max_runs": options.max_runs,
        "max_concurrent_runs": options.max_concurrent_runs,
        "queue": options.queue,
    }
    plan = replace(plan, **{name: value for name, value in given.items() if value is not None})
    if plan.start and plan.end and plan.end <= plan.start:
        raise ParameterError("--end must come after --start.")
    check_plan(plan)
    return plan


def _time(flag: str, text: str | None, zone: str) -> datetime | None:
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = datetime.max
    if not 1970 <= time.year < 3000:  # near the ends of what Python counts, no zone can be applied
        raise ParameterError(f"{flag} is {text!r}; give a time such as 2027-01-31T06:00.")
    return time if time.tzinfo else time.replace(tzinfo=_zone(zone))


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):  # an unknown name, or one that is no key of the zone files
        raise ParameterError(f"--time-zone {name!r} is not known; give an IANA name such as Europe/Zurich.") from None
