"""`rlhf models`: what is in the local registry."""

import argparse
import sys

from rlhf_pipelines.cli.command_line import Commands, add_command, add_registry_dir


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "models", "list the models in the local registry", _list_models)
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_registry_dir(parser)


def _list_models(options: argparse.Namespace) -> int:
    from rlhf_pipelines.cli.model_list import as_json, as_table
    from rlhf_tuning.registry import list_models

    models = list_models(options.registry_dir, lambda message: print(f"rlhf: warning: {message}", file=sys.stderr))
    print(as_json(models) if options.json else as_table(models))
    return 0
