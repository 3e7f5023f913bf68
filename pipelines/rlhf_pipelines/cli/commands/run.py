"""`rlhf run`: a pipeline on this machine."""

import argparse
import os
import sys
from pathlib import Path

from rlhf_pipelines.cli.command_line import (
    Commands,
    add_command,
    add_image,
    add_parameters,
    add_pipeline,
    add_value_sources,
    checked_values,
    fail,
    local_path,
)
from rlhf_tuning.parameters import PARAMETERS


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "run",
        "run a pipeline on this machine",
        _run_pipeline,
        "Run a pipeline on this machine. Finished steps are kept: the same command continues a stopped run.\n\n"
        "examples:\n"
        "  rlhf run --sample\n"
        "  rlhf run --parameter-values values.json --kl-coeff 0.05\n"
        "  rlhf run --pipeline reward_model_pipeline --preference-dataset prefs.jsonl \\\n"
        "           --large-model-reference Qwen/Qwen2.5-0.5B-Instruct",
    )
    parser.usage = "rlhf run [--sample] [--parameter-values FILE] [--PARAMETER VALUE ...] [option ...]"
    add_pipeline(parser)
    add_value_sources(parser)
    parser.add_argument(
        "--pipeline-root",
        "--pipeline_root",
        metavar="DIR",
        type=local_path,
        default=Path("runs"),
        help="folder for everything the run leaves behind; default: ./runs",
    )
    parser.add_argument("--no-cache", action="store_true", help="run every step, also those that finished before")
    parser.add_argument(
        "--runner",
        choices=["subprocess", "docker"],
        default="subprocess",
        help="how steps run: as processes here, or in the project's containers; default: subprocess",
    )
    add_image(parser, "of the containers")
    add_parameters(parser, PARAMETERS.values())


def _run_pipeline(options: argparse.Namespace) -> int:
    from rlhf_pipelines.cli.display import choose_display
    from rlhf_pipelines.cli.run_command import LocalRun, new_containers, run_locally
    from rlhf_pipelines.image_choice import read_choices

    images = read_choices(options.image)
    if images and options.runner != "docker":
        return fail("--image needs --runner docker: without containers there is no image to choose.", 2)
    arguments = checked_values(options.pipeline, options)
    run = LocalRun(
        name=options.pipeline,
        target=f"rlhf_pipelines.{options.pipeline}:{options.pipeline}",
        arguments=arguments,
        pipeline_root=options.pipeline_root,
        caching=not options.no_cache,
        containers=new_containers(images) if options.runner == "docker" else None,
        price_per_hour=float(arguments.get("price_per_hour", 0.0)) or None,
    )
    return run_locally(run, choose_display(sys.stdout, os.environ))
