"""`rlhf label`: preferences of a judge, on this machine."""

import argparse

from rlhf_pipelines.cli.command_line import (
    Commands,
    add_command,
    add_parameters,
    add_value_sources,
    checked_values,
    local_path,
)
from rlhf_pipelines.parameters import LABELLED


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "label",
        "label the answers of two models by a judge",
        _label,
        "Let two models answer prompts and a judge prefer, and write its preferences as a dataset that a run learns from.\n"
        "FILE.judgements.jsonl beside it has all that was said, ties too. The same command goes on after a stop.\n\n"
        "examples:\n"
        "  rlhf label --output labels.jsonl --preference-prompt-dataset prompts.jsonl \\\n"
        "    --large-model-reference smollm2-135m-instruct --judge language_model --judge-model gpt-oss-20b \\\n"
        "    --judge-endpoint http://localhost:8000/v1\n"
        "  rlhf label --sample --output labels.jsonl",
    )
    parser.add_argument("--output", metavar="FILE", type=local_path, required=True, help="the new file, of JSON lines")
    add_value_sources(parser)
    add_parameters(parser, LABELLED)


def _label(options: argparse.Namespace) -> int:
    from rlhf_pipelines.cli.label_command import label_here

    return label_here(checked_values("label", options), options.output)
