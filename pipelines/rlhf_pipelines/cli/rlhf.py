"""The `rlhf` command. It answers at once: whatever is heavy to import is imported by the commands that need it."""

import argparse
import io
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence

from rlhf_pipelines.cli.command_line import fail
from rlhf_pipelines.cli.commands import (
    approve,
    compare,
    compare_methods,
    compile,
    convert,
    jobs,
    label,
    models,
    plan,
    predict,
    report,
    resume,
    run,
    schedule,
    serve,
    submit,
    try_rewards,
    validate,
)
from rlhf_pipelines.parameters import closest
from rlhf_tuning import __version__, environment
from rlhf_tuning.errors import RlhfError
from rlhf_tuning.parameters import PARAMETERS

#: In the order of the help. To add a command: its module in `commands/` and its name here.
COMMANDS = (
    run,
    validate,
    convert,
    try_rewards,
    plan,
    report,
    compare,
    compare_methods,
    label,
    models,
    approve,
    predict,
    serve,
    compile,
    submit,
    jobs,
    resume,
    schedule,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 failed, 2 wrong inputs, 130 interrupted."""
    _let_all_be_said()
    environment.forget_launchers()
    try:
        status = _run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
        return status
    except RlhfError as error:
        return fail(str(error), error.exit_status)
    except KeyboardInterrupt:
        return fail("interrupted", 130)
    except BrokenPipeError:
        # Whoever read our output has gone; the interpreter must not complain about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        return fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", 1)
    except Exception as error:
        return fail(f"unexpected {type(error).__name__}: {error}\nDetails for a bug report: {_save_traceback()}", 1)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="rlhf",
        description="Tune open language models with human preferences.",
        allow_abbrev=False,
    )
    parser.set_defaults(takes=[])
    parser.add_argument("--version", action="version", version=f"rlhf {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    for command in COMMANDS:
        command.add(commands)
    return parser


def _let_all_be_said() -> None:
    """Let no character that a terminal cannot show, and no stream that was closed, end a command that has done its work."""
    # The streams in their order, so that a file opened later does not take the place of one that is closed.
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: SIM115  for as long as the process lives
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _run(arguments: Sequence[str]) -> int:
    parser = build_parser()
    options, unknown = parser.parse_known_args(arguments)
    if options.command is None:
        parser.print_help()
        return 2
    if unknown:
        hints = "".join(_hint(word.split("=")[0], options.takes) for word in unknown if word.startswith("--"))
        return fail(f"unrecognized arguments: {' '.join(unknown)}.{hints} See rlhf {options.command} --help.", 2)
    function: Callable[[argparse.Namespace], int] = options.function
    return function(options)


def _hint(flag: str, takes: Sequence[str]) -> str:
    """Return what a person may have meant by a flag that the command does not have."""
    if flag.removeprefix("--").replace("-", "_") in PARAMETERS:
        return f" {flag} is a parameter of pipelines, which this command does not ask for."
    return closest(flag, takes)


def _save_traceback() -> str:
    with tempfile.NamedTemporaryFile("w", prefix="rlhf-error-", suffix=".txt", delete=False, encoding="utf-8") as file:
        traceback.print_exc(file=file)
    return file.name
