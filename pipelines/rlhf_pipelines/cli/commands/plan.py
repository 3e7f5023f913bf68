"""`rlhf plan`: does a run fit into memory, and how long will it take?"""

import argparse
from collections.abc import Mapping

from rlhf_pipelines.cli.command_line import (
    Commands,
    add_command,
    add_parameters,
    add_value_sources,
    count,
    given_values,
)
from rlhf_pipelines.parameters import FORECAST, OF_PREFERENCE_TUNING, PLANNED, check_parameters
from rlhf_tuning.errors import ParameterError
from rlhf_tuning.parameters import Value


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "plan",
        "forecast memory, hours and cost of a run",
        _plan,
        "Forecast what a run takes, before it is paid for: memory at its peak, time of a step, hours. Of the base model\n"
        "config.json is enough; Llama 3.2 1B, Llama 3.1 8B and 70B and SmolLM2 135M are known without it.\n\n"
        "examples:\n"
        "  rlhf plan --sample\n"
        "  rlhf plan --large-model-reference meta-llama/Llama-3.1-8B-Instruct --machine a100-80gb-x8 --price-per-hour 40\n"
        "  rlhf plan --sample --preferences 1400 --epoch-count 2\n"
        "  rlhf plan --pipeline reward_tuning_pipeline --large-model-reference smollm2-135m-instruct\n"
        "  rlhf plan --parameter-values values.json --machine l4 --mean-prompt-tokens 120 --mean-answer-tokens 40\n\n"
        "Exit status: 0 it fits, 1 it does not fit into memory, 2 wrong inputs, or more than max_hours or max_cost.",
    )
    parser.usage = "rlhf plan [--sample] [--parameter-values FILE] [--PARAMETER VALUE ...] [option ...]"
    parser.add_argument(
        "--pipeline",
        choices=FORECAST,
        help="whose run it is, which then has its parameters and no others; default: what the parameters tell",
    )
    add_value_sources(parser)
    parser.add_argument(
        "--machine",
        metavar="NAME",
        default="here",
        help="what the run has: here (the default; measured for a second or two), or GPUs such as l4 or a100-80gb-x8",
    )
    parser.add_argument("--spot", action="store_true", help="take the list price of a Spot machine")
    parser.add_argument(
        "--mean-prompt-tokens", metavar="N", type=count, default=0, help="mean length; default: the most allowed"
    )
    parser.add_argument(
        "--mean-answer-tokens", metavar="N", type=count, default=0, help="mean length; default: the most allowed"
    )
    parser.add_argument(
        "--preferences",
        metavar="N",
        type=int,
        help="preference tuning on so many preferences, not RLHF; with --loss-type kto on so many answers of feedback",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_parameters(parser, PLANNED)


def _plan(options: argparse.Namespace) -> int:
    from rlhf_pipelines.cli.plan_command import values_of_run

    if options.pipeline:
        prefers = options.pipeline == "preference_tuning_pipeline"
        if prefers != (options.preferences is not None):
            raise ParameterError(
                "Say with --preferences N on how many preferences preference_tuning_pipeline tunes."
                if prefers
                else f"--preferences is of preference_tuning_pipeline; leave it out, or --pipeline {options.pipeline}."
            )
        given = given_values(options.pipeline, options)
        return _forecast(options, values_of_run(options.pipeline, given))
    asked = "plan" if options.preferences is None else "plan --preferences"
    given = given_values(asked, options)
    of_preferences = [name for name in OF_PREFERENCE_TUNING if given.get(name) is not None]
    if options.preferences is None and of_preferences:
        raise ParameterError(
            f"Only preference_tuning_pipeline has {', '.join(of_preferences)}. To forecast it, say on how many preferences "
            "with --preferences N; for another run, leave that out."
        )
    return _forecast(options, check_parameters(asked, given))


def _forecast(options: argparse.Namespace, values: Mapping[str, Value]) -> int:
    from rlhf_pipelines.cli.plan_command import plan_run

    return plan_run(
        values,
        machine=options.machine,
        spot=options.spot,
        mean_prompt_tokens=options.mean_prompt_tokens,
        mean_answer_tokens=options.mean_answer_tokens,
        preferences=options.preferences,
        as_json=options.json,
    )
