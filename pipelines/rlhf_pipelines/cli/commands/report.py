"""`rlhf report`: a run's report, made again."""

import argparse
from pathlib import Path

from rlhf_pipelines.cli.command_line import Commands, add_command, add_price, local_path


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "report",
        "make the report of a run again",
        _report,
        "Make the report of a run on this machine again, from what the run left behind, and say where it is.\n\n"
        "example:\n"
        "  rlhf report runs/rlhf-pipeline-2027-01-31-06-00-00-123456",
    )
    parser.add_argument("run", metavar="RUN", help="the run's folder, or its name under the pipeline root")
    parser.add_argument(
        "--pipeline-root",
        metavar="DIR",
        type=local_path,
        default=Path("runs"),
        help="where named runs are; default: ./runs",
    )
    add_price(parser)
    parser.add_argument("--output", metavar="FILE", type=local_path, help="default: report.html in the run's folder")


def _report(options: argparse.Namespace) -> int:
    from rlhf_pipelines.cli.run_command import shown
    from rlhf_pipelines.local.complete_report import write_report_again

    named = options.pipeline_root / options.run
    folder = named if named.is_dir() else Path(options.run)
    page = options.output or folder / "report.html"
    write_report_again(folder, page, options.price_per_hour)
    print(f"Report: {shown(page.absolute())}")
    return 0
