"""`rlhf try-rewards`: what rewards of one's own say of answers that are there already."""

import argparse

from rlhf_pipelines.cli.command_line import (
    Commands,
    add_command,
    add_parameters,
    add_price,
    add_value_sources,
    checked_values,
    count,
    local_path,
)
from rlhf_pipelines.parameters import TRIED


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "try-rewards",
        "score answers by rewards of your own, before a run",
        _try,
        "Score answers by the rewards of a run, before any GPU is paid for: each part with its mean and spread, how often\n"
        "it prefers the answer that people chose, and what a whole run of them takes. The reward model is not among them.\n"
        "The answers are those of --predictions, as infer_pipeline writes them; else those of held-out preferences; else\n"
        "what the prompts' references hold. Exit status: 0 they score, 1 a service is down, 2 one of them does not.\n\n"
        "examples:\n"
        "  rlhf try-rewards --rewards rewards.json --preference-dataset prefs.jsonl\n"
        "  rlhf try-rewards --parameter-values values.json --predictions answers.jsonl --price-per-hour 3.67",
    )
    parser.usage = "rlhf try-rewards [--parameter-values FILE] [--PARAMETER VALUE ...] [option ...]"
    add_value_sources(parser)
    parser.add_argument("--predictions", metavar="FILE", type=local_path, help="answers, as infer_pipeline writes them")
    parser.add_argument(
        "--most", metavar="N", type=count, default=200, help="rows that are tried at most; default: 200"
    )
    add_price(parser)
    add_parameters(parser, TRIED)


def _try(options: argparse.Namespace) -> int:
    from rlhf_pipelines.cli.try_rewards_command import try_here

    return try_here(
        checked_values("try-rewards", options),
        predictions=options.predictions,
        most=options.most,
        price_per_hour=options.price_per_hour,
    )
