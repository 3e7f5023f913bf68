"""`rlhf models`: what is in the local registry."""

import argparse

from rlhf_pipelines.cli.command_line import Commands, add_command, add_registry_dir, tell
from rlhf_tuning.errors import ModelError


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "models", "list the models in the local registry, or tell of one", _list_models)
    parser.add_argument(
        "model",
        nargs="?",
        metavar="NAME[@ALIAS|@VERSION]",
        help="one model's versions, or all that is known of a version",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_registry_dir(parser)


def _list_models(options: argparse.Namespace) -> int:
    from rlhf_pipelines.cli.model_list import as_details, as_json, as_table
    from rlhf_tuning.registry import list_models, registry_name, resolve_model

    if options.model and "@" in options.model:
        models = [resolve_model(options.model, options.registry_dir)]
        print(as_json(models) if options.json else as_details(models[0]))
        return 0
    models = list_models(options.registry_dir, lambda message: tell(f"warning: {message}"))
    if options.model:
        name = registry_name(options.model.removeprefix("models/"))
        there = sorted({model.name for model in models})
        models = [model for model in models if model.name == name]
        if not models:
            raise ModelError(
                f"No model '{options.model}' in the registry. Models there: {', '.join(there) or 'none yet'}."
            )
    print(as_json(models) if options.json else as_table(models))
    return 0
