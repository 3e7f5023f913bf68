"""`rlhf compare-methods`: supervised tuning, DPO, RLHF and others on one's own data, each against each."""

import argparse
import os
import sys
from pathlib import Path

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
from rlhf_pipelines.methods import METHODS
from rlhf_pipelines.parameters import COMPARED, closest, parse_text
from rlhf_tuning.errors import ParameterError
from rlhf_tuning.parameters import PARAMETERS, Value


def add(commands: Commands) -> None:
    """Add the command."""
    names = [*METHODS, "best_of_n"]
    parser = add_command(
        commands,
        "compare-methods",
        "tune in several ways on the same data, and compare them",
        _compare_methods,
        "Does reinforcement learning pay, over DPO, over supervised tuning, on your data? Tune the base model in each way,\n"
        "with each seed and one budget, have all answer the same held-out prompts, and have the same judges compare them.\n"
        "What is finished is kept: the same command continues a comparison that was stopped.\n\n"
        "examples:\n"
        "  rlhf compare-methods --sample --seeds 0 1 2\n"
        "  rlhf compare-methods --parameter-values values.json --minutes 30 --price-per-hour 3.67",
    )
    parser.usage = (
        "rlhf compare-methods [--sample] [--parameter-values FILE] [--PARAMETER VALUE ...] [--methods NAME ...] "
        "[--seeds N ...] [option ...]"
    )
    add_value_sources(parser)
    parser.add_argument(
        "--methods", nargs="+", metavar="NAME", default=names, help=f"some of {', '.join(names)}; default: all"
    )
    parser.add_argument(
        "--seeds", nargs="+", type=int, metavar="N", default=[0], help="a training for each; default: 0"
    )
    parser.add_argument(
        "--best-of", type=count, metavar="N", default=8, help="answers that best_of_n chooses from; default: 8"
    )
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument(
        "--minutes", type=float, metavar="X", help="what each training may take; default: the steps of the parameters"
    )
    budget.add_argument("--cost", type=float, metavar="X", help="what each training may cost, at --price-per-hour")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="METHOD.PARAMETER=VALUE",
        help="a parameter of one method alone, such as supervised.lora_dim=32; once for each",
    )
    parser.add_argument(
        "--pipeline-root",
        "--pipeline_root",
        metavar="DIR",
        type=local_path,
        default=Path("runs"),
        help="folder for everything that is left behind; default: ./runs",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=local_path,
        default=Path("methods.html"),
        help="the page, with the results as .json and as .md beside it; default: methods.html in this folder",
    )
    add_price(parser)
    add_parameters(parser, COMPARED)


def _compare_methods(options: argparse.Namespace) -> int:
    from rlhf_pipelines.cli.compare_methods_command import Asked, compare_methods
    from rlhf_pipelines.cli.display import choose_display

    asked = Asked(
        methods=options.methods,
        seeds=options.seeds,
        samples=options.best_of,
        minutes=_minutes(options.minutes, options.cost, options.price_per_hour),
        price_per_hour=options.price_per_hour,
        own=_own(options.set),
        pipeline_root=options.pipeline_root,
        output=options.output,
        command=sys.argv[1:],
    )
    return compare_methods(checked_values("compare-methods", options), asked, choose_display(sys.stdout, os.environ))


def _minutes(minutes: float | None, cost: float | None, price_per_hour: float | None) -> float | None:
    if cost is None:
        return minutes
    if not price_per_hour:
        raise ParameterError("--cost needs --price-per-hour, which says what this machine costs.")
    return 60 * cost / price_per_hour


def _own(given: list[str]) -> dict[str, dict[str, Value]]:
    found: dict[str, dict[str, Value]] = {}
    for words in given:
        place, equals, text = words.partition("=")
        method, dot, name = place.partition(".")
        if not (equals and dot):
            raise ParameterError(f"--set is {words!r}; give METHOD.PARAMETER=VALUE, such as supervised.lora_dim=32.")
        if name not in {parameter.name for parameter in COMPARED}:
            hint = closest(name, [parameter.name for parameter in COMPARED])
            raise ParameterError(f"--set is {words!r}, and there is no parameter {name!r} here.{hint}")
        value = parse_text(PARAMETERS[name], text)
        assert isinstance(value, str | int | float)
        found.setdefault(method, {})[name] = value
    return found
