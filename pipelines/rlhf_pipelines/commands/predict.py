"""`rlhf predict`: ask a model."""

import argparse
import sys

from rlhf_pipelines.command_line import Commands, add_command, add_registry_dir, fail


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "predict", "ask a model of the local registry", _predict)
    parser.add_argument("--model", required=True, metavar="NAME[@ALIAS|@VERSION]", help="as `rlhf models` lists it")
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="what to ask; - reads it from standard input")
    parser.add_argument(
        "--max-tokens", type=int, default=128, metavar="N", help="most tokens of the answer; default: 128"
    )
    parser.add_argument(
        "--temperature", type=float, default=0.0, metavar="X", help="0 takes the likeliest token each time; default: 0"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the sampling; default: 0")
    add_registry_dir(parser)


def _predict(options: argparse.Namespace) -> int:
    try:
        from rlhf_tuning.generation import predict
    except ModuleNotFoundError as error:
        return fail(
            f"rlhf predict needs the package {error.name}, which is not installed. Install it with: "
            "pip install 'rlhf-pipelines[train]'",
            2,
        )
    prompt = sys.stdin.read().strip() if options.prompt == "-" else options.prompt
    answer = predict(
        options.model,
        prompt,
        registry_dir=options.registry_dir,
        target_sequence_length=options.max_tokens,
        temperature=options.temperature,
        seed=options.seed,
    )
    print(answer)
    return 0
