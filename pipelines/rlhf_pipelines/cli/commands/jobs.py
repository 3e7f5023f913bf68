"""`rlhf jobs`: list, show, follow and cancel what was submitted."""

import argparse

from rlhf_pipelines.backends.backend import Backend
from rlhf_pipelines.cli.command_line import Commands, add_command, count
from rlhf_pipelines.cli.submission import add_connection_flags, backend_of


def add(commands: Commands) -> None:
    """Add the command and its actions."""
    parser = commands.add_parser(
        "jobs", help="list, show, follow and cancel submitted jobs", description="Look after submitted jobs."
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    listing = add_command(actions, "list", "list the newest jobs", _list)
    listing.add_argument("--limit", type=count, default=20, metavar="N", help="at most so many; default: 20")
    listing.add_argument("--json", action="store_true", help="print JSON")
    add_connection_flags(listing)
    show = _named(actions, "show", "show one job and its steps", _show)
    show.add_argument("--json", action="store_true", help="print JSON")
    _named(actions, "follow", "follow the steps of a job until it has ended", _follow)
    _named(actions, "cancel", "end a job", _cancel)


def _named(actions: Commands, name: str, summary: str, function: object) -> argparse.ArgumentParser:
    parser = add_command(actions, name, summary, function)  # type: ignore[arg-type]
    parser.add_argument("name", metavar="JOB", help="as `rlhf jobs list` shows it, or its full name")
    add_connection_flags(parser)
    return parser


def _backend(options: argparse.Namespace) -> Backend:
    return backend_of(options, project=options.project, location=options.location)[1]


def _list(options: argparse.Namespace) -> int:
    from rlhf_pipelines.cli.job_display import as_json, job_table

    jobs = _backend(options).jobs(options.limit)
    print(as_json(jobs) if options.json else job_table(jobs))
    return 0


def _show(options: argparse.Namespace) -> int:
    from rlhf_pipelines.cli.job_display import as_json, job_details

    job = _backend(options).job(options.name)
    print(as_json(job) if options.json else job_details(job))
    return 0


def _follow(options: argparse.Namespace) -> int:
    from rlhf_pipelines.cli.commands.submit import follow_command, follow_to_end

    return follow_to_end(_backend(options), options.name, follow_command(options, options.name))


def _cancel(options: argparse.Namespace) -> int:
    _backend(options).cancel(options.name)
    print(f"Asked for the end of {options.name}.")
    return 0
