"""What the commands of `rlhf` share: flags for pipeline parameters, and how values and messages are told."""

import argparse
import math
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeAlias

from rlhf_pipelines.parameters import PIPELINES, check_parameters
from rlhf_tuning.limits import PRICE_PER_HOUR
from rlhf_tuning.parameters import Parameter, Value

_PARAMETER_PREFIX = "parameter:"
#: More of anything is a slip, and no service takes it.
_MOST = 10**9

#: What `--pipeline` is when absent.
DEFAULT_PIPELINE = "rlhf_pipeline"

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_command(
    commands: Commands, name: str, summary: str, function: Callable[[argparse.Namespace], int], description: str = ""
) -> argparse.ArgumentParser:
    """Add a command and return its parser. `function` gets the options and returns the exit status."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=description or f"{summary[0].upper()}{summary[1:]}.",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(function=function)
    return parser


def local_path(given: str) -> Path:
    """Return the path that a flag names, as argparse has it read; one on this machine."""
    if not given or "://" in given:
        raise argparse.ArgumentTypeError(f"{given!r} is no path on this machine")
    return Path(given)


def count(given: str) -> int:
    """Return the number of a flag that counts something, as argparse has it read."""
    if not (given.isascii() and given.isdecimal() and len(given) <= 10 and 1 <= int(given) <= _MOST):
        raise argparse.ArgumentTypeError(f"{given[:20]!r} cannot be used; give a whole number of 1 to {_MOST:,}")
    return int(given)


def add_pipeline(parser: argparse.ArgumentParser) -> None:
    """Add the flag that names a pipeline."""
    parser.add_argument(
        "--pipeline", choices=list(PIPELINES), default=DEFAULT_PIPELINE, help=f"default: {DEFAULT_PIPELINE}"
    )


def add_values_file(parser: argparse.ArgumentParser) -> None:
    """Add the flag for parameter values that come from a file."""
    parser.set_defaults(sample=False)
    parser.add_argument(
        "--parameter-values",
        "--parameter_values",
        metavar="FILE",
        type=local_path,
        help="JSON or YAML file of parameters",
    )


def add_value_sources(parser: argparse.ArgumentParser) -> None:
    """Add the flags for parameter values that come from a file or from the embedded sample."""
    add_values_file(parser)
    parser.add_argument("--sample", action="store_true", help="use the embedded sample data and a small base model")


def add_parameters(parser: argparse.ArgumentParser, parameters: Iterable[Parameter]) -> None:
    """Add a flag for each pipeline parameter."""
    parameters = tuple(parameters)
    parser.set_defaults(takes=[f"--{parameter.name.replace('_', '-')}" for parameter in parameters])
    group = parser.add_argument_group("pipeline parameters", "They override the file and the sample.")
    for parameter in parameters:
        _add_parameter(group, parameter)


def _add_parameter(group: argparse._ArgumentGroup, parameter: Parameter) -> None:
    dashed, plain = f"--{parameter.name.replace('_', '-')}", f"--{parameter.name}"
    is_switch = parameter.type is bool
    shown = str(parameter.default).lower() if is_switch else parameter.default
    default = "" if parameter.default in (None, "") else f"; default: {shown}"
    takers = [
        pipeline for pipeline, parameters in PIPELINES.items() if any(p.name == parameter.name for p in parameters)
    ]
    only = "" if DEFAULT_PIPELINE in takers or not takers else f"; only of {' and '.join(takers)}"
    # Help shows one spelling; the other, as in parameter_values, works just as well.
    group.add_argument(
        dashed,
        dest=_PARAMETER_PREFIX + parameter.name,
        metavar={str: "TEXT", int: "N", float: "X", bool: "true|false"}[parameter.type],
        nargs="?" if is_switch else None,
        const="true" if is_switch else None,
        default=argparse.SUPPRESS,
        help=f"{parameter.description.removesuffix('.')}{default}{only}".replace("%", "%%"),
    )
    if plain != dashed:
        group.add_argument(
            plain,
            dest=_PARAMETER_PREFIX + parameter.name,
            nargs="?" if is_switch else None,
            const="true" if is_switch else None,
            default=argparse.SUPPRESS,
            help=argparse.SUPPRESS,
        )


def add_image(parser: argparse._ActionsContainer, what: str) -> None:
    """Add the flag that names other images; `what` ends its help."""
    parser.add_argument(
        "--image",
        action="append",
        default=[],
        metavar="light|trainer=REFERENCE",
        help=f"another image {what}, best by its digest: trainer=REGISTRY/trainer@sha256:...; once for each of the two",
    )


def add_price(parser: argparse.ArgumentParser) -> None:
    """Add the flag that says what this machine costs."""
    parser.add_argument(
        "--price-per-hour",
        type=_price,
        default=None,
        metavar="X",
        help="what this machine costs an hour, in any currency: the report says what each step cost",
    )


def _price(given: str) -> float:
    try:
        price = float(given)
    except ValueError:
        price = math.nan
    if not PRICE_PER_HOUR.allows(price):
        raise argparse.ArgumentTypeError(f"{given!r} is no price; give a number of 0 or more, such as 3.67")
    return price


def add_registry_dir(parser: argparse.ArgumentParser) -> None:
    """Add the flag that names the local registry."""
    parser.add_argument(
        "--registry-dir",
        type=local_path,
        default=None,
        metavar="DIR",
        help="folder of the registry; its usual place when absent",
    )


def given_values(pipeline: str, options: argparse.Namespace) -> dict[str, object]:
    """Return the parameters of a run as given, from the sample, a file and flags; `check_parameters` takes them."""
    from rlhf_pipelines.cli.parameter_values import gather_values

    sample_dir: Path | None = None
    if options.sample:
        from rlhf_tuning.sample.house_style import SAMPLE_DIR

        sample_dir = SAMPLE_DIR
    flags = {
        name.removeprefix(_PARAMETER_PREFIX): value
        for name, value in vars(options).items()
        if name.startswith(_PARAMETER_PREFIX)
    }
    return gather_values(pipeline, sample_dir=sample_dir, file=options.parameter_values, flags=flags)


def checked_values(pipeline: str, options: argparse.Namespace) -> dict[str, Value]:
    """Return the value of every parameter of a run.

    Raises:
        ParameterError: Listing every problem that was found.
    """
    return check_parameters(pipeline, given_values(pipeline, options))


def fail(message: str, status: int) -> int:
    """Print a message as the command's last words and return the exit status."""
    sys.stdout.flush()
    tell(message)
    return status


def tell(message: str) -> None:
    """Print a message that may quote text from outside, which must not steer the terminal."""
    from rlhf_pipelines.cli.display import printable

    # Bytes of a file's name that are no text are shown as such, for the name to be known again.
    shown = f"rlhf: {message}".encode("utf-8", "backslashreplace").decode("utf-8")
    print("\n".join(map(printable, shown.split("\n"))), file=sys.stderr)
