"""`rlhf compile`: the pipelines and components as YAML."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlhf_pipelines.cli.command_line import Commands, add_command, add_image, local_path
from rlhf_pipelines.targets import DEFAULT_MACHINES, TARGETS, cautions, choose_machine
from rlhf_tuning.errors import ParameterError


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "compile",
        "write the pipelines as YAML for Vertex and Kubeflow",
        _compile,
        "Write the pipelines as YAML, one file for each pipeline and target: DIR/TARGET/PIPELINE.yaml.\n\n"
        "examples:\n"
        "  rlhf compile --target vertex --machine a100-80gb --image light=... --image trainer=...\n"
        "  rlhf compile --target kubeflow --machine l4-x2\n"
        "  rlhf compile --components-dir components --image light=... --image trainer=...",
    )
    parser.add_argument("--target", choices=TARGETS, help="where the pipelines will run; all targets when absent")
    parser.add_argument(
        "--machine",
        default="",
        metavar="NAME",
        help="what GPU steps run on: l4, a100-40gb, a100-80gb, h100 or h200, with -x2, -x4 or -x8 for more of them; on "
        "Kubeflow also gpu, of any kind; default: "
        + ", ".join(f"{machine} on {target}" for target, machine in DEFAULT_MACHINES.items()),
    )
    parser.add_argument(
        "--output-dir",
        type=local_path,
        default=Path("compiled"),
        metavar="DIR",
        help="folder for the YAML; default: ./compiled",
    )
    parser.add_argument(
        "--components-dir",
        type=local_path,
        metavar="DIR",
        help="folder for each component as DIR/COMPONENT.yaml, for pipelines of your own; none are written when absent",
    )
    add_image(parser, "in the YAML")


def _compile(options: argparse.Namespace) -> int:
    from rlhf_pipelines.compile import compile_all, compile_components
    from rlhf_pipelines.image_choice import read_choices, unpullable

    if options.machine and not options.target:
        raise ParameterError(f"--machine needs --target: {' or '.join(DEFAULT_MACHINES)}.")
    images = read_choices(options.image)
    targets = [options.target] if options.target else TARGETS
    for target in targets:
        if options.machine or target in DEFAULT_MACHINES:
            for caution in cautions(target, choose_machine(target, options.machine)):
                print(f"rlhf: warning: {caution}", file=sys.stderr)
    missing = unpullable(images)
    if missing and set(targets) & set(DEFAULT_MACHINES):
        print(
            f"rlhf: warning: {' and '.join(missing)} cannot be pulled: no registry is named. Push the images "
            "(containers/cloudbuild.yaml does) and name them with --image light=REGISTRY/light@sha256:... and "
            "--image trainer=...",
            file=sys.stderr,
        )
    paths: list[Path] = []
    if options.components_dir:
        with _naming("--components-dir", options.components_dir):
            paths += compile_components(options.components_dir, images)
    with _naming("--output-dir", options.output_dir):
        paths += compile_all(options.output_dir, targets, options.machine, images)
    for path in paths:
        print(path)
    return 0


@contextmanager
def _naming(flag: str, folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ParameterError(
            f"{flag} is {str(folder)!r}, where nothing can be written: {error.strerror}: {error.filename}."
        ) from None
