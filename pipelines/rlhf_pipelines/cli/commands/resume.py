"""`rlhf resume`: go on with a submitted job that failed."""

import argparse

from rlhf_pipelines.cli.command_line import Commands, add_command
from rlhf_pipelines.cli.commands.submit import follow_command, follow_to_end
from rlhf_pipelines.cli.submission import add_connection_flags, backend_of


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "resume",
        "go on with a submitted job that failed or was cancelled",
        _resume,
        "Go on with a job that failed or was cancelled. Steps that finished are kept, and a training goes on where it was.\n"
        "On Vertex a new job does it, on Kubeflow the same one. A run on this machine is started again instead.\n\n"
        "Exit status: 0 begun (with --wait: succeeded), 1 the service or the job failed, 2 there is nothing to resume.",
    )
    parser.add_argument("name", metavar="JOB", help="as `rlhf jobs list` shows it, or its full name")
    add_connection_flags(parser)
    parser.add_argument("--wait", action="store_true", help="follow the steps until the job has ended")


def _resume(options: argparse.Namespace) -> int:
    from rlhf_pipelines.cli.job_display import begun, short

    backend = backend_of(options, project=options.project, location=options.location)[1]
    job = backend.resume_job(options.name)
    follow = follow_command(options, short(job.name))
    print(begun("Resumed", job), flush=True)
    if not options.wait:
        print(f"Follow it with: {follow}")
        return 0
    return follow_to_end(backend, job.name, follow)
