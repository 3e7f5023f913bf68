"""`rlhf validate`: the datasets of a run, row by row."""

import argparse
from pathlib import Path

from rlhf_pipelines.cli.command_line import (
    Commands,
    add_command,
    add_parameters,
    add_value_sources,
    given_values,
    local_path,
)
from rlhf_pipelines.parameters import OF_A_BUDGET, PIPELINES, VALIDATED, check_parameters
from rlhf_tuning.parameters import PARAMETERS


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "validate",
        "check datasets, row by row, and report what is in them",
        _validate,
        "Check every row of the datasets of a run, and its base model, and write a report to look at, before anything is\n"
        "spent. Needs no GPU and no cloud beyond reading them. Exit status: 0 they can be used, 2 they cannot.\n\n"
        "examples:\n"
        "  rlhf validate --preference-dataset prefs.jsonl --prompt-dataset 'gs://bucket/prompts/*.jsonl'\n"
        "  rlhf validate --pipeline preference_tuning_pipeline --parameter-values values.json --output-dir report",
    )
    parser.usage = "rlhf validate [--sample] [--parameter-values FILE] [--PARAMETER VALUE ...] [option ...]"
    parser.add_argument(
        "--pipeline",
        choices=[name for name in PIPELINES if name != "smoke_pipeline"],
        help="whose run it is, which then has all of its parameters and no others; default: what the datasets tell",
    )
    add_value_sources(parser)
    parser.add_argument(
        "--output-dir",
        "--output_dir",
        metavar="DIR",
        type=local_path,
        default=Path("data-report"),
        help="folder for report.html, problems.jsonl and bad_rows.jsonl; default: ./data-report",
    )
    add_parameters(parser, [*VALIDATED, *(PARAMETERS[name] for name in OF_A_BUDGET)])


def _validate(options: argparse.Namespace) -> int:
    from rlhf_pipelines.cli.validate_command import check_budget_here, validate_here

    asked = options.pipeline or "validate"
    given = given_values(asked, options)
    status = validate_here(check_parameters(asked, given), options.output_dir, pipeline=options.pipeline)
    check_budget_here(given, pipeline=options.pipeline)
    return status
