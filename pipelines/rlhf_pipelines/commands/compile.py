"""`rlhf compile`: the pipelines as YAML."""

import argparse
from pathlib import Path

from rlhf_pipelines.command_line import Commands, add_command, add_image


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "compile", "write the pipelines as YAML for Kubeflow and Vertex", _compile)
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=Path("compiled"),
        metavar="DIR",
        help="folder for the YAML; default: ./compiled",
    )
    add_image(parser, "in the YAML")


def _compile(options: argparse.Namespace) -> int:
    from rlhf_pipelines.compile import compile_all
    from rlhf_pipelines.image_choice import read_choices

    for path in compile_all(options.output_dir, read_choices(options.image)):
        print(path)
    return 0
