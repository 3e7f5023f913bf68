"""The `rlhf` command. It answers at once: whatever is heavy to import is imported by the commands that need it."""

import argparse
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

from rlhf_pipelines.parameters import PARAMETERS, PIPELINES, VALIDATED, Parameter, Value, check_parameters, closest
from rlhf_tuning import __version__
from rlhf_tuning.errors import RlhfError

_PARAMETER_PREFIX = "parameter:"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 failed, 2 wrong inputs, 130 interrupted."""
    try:
        status = _run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
        return status
    except RlhfError as error:
        return _fail(str(error), error.exit_status)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        # Whoever read our output has gone; the interpreter must not complain about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        return _fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", 1)
    except Exception as error:
        return _fail(f"unexpected {type(error).__name__}: {error}\nDetails for a bug report: {_save_traceback()}", 1)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="rlhf",
        description="Tune open language models with human preferences.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"rlhf {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    for add in (_add_run, _add_validate, _add_models, _add_predict, _add_compile):
        add(commands)
    return parser


_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _command(
    commands: _Commands, name: str, summary: str, function: Callable[[argparse.Namespace], int], description: str = ""
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=summary,
        description=description or f"{summary[0].upper()}{summary[1:]}.",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(function=function)
    return parser


def _add_run(commands: _Commands) -> None:
    parser = _command(
        commands,
        "run",
        "run a pipeline on this machine",
        _run_pipeline,
        "Run a pipeline on this machine. Finished steps are kept: the same command continues a stopped run.\n\n"
        "examples:\n"
        "  rlhf run --sample\n"
        "  rlhf run --parameter-values values.json --kl-coeff 0.05\n"
        "  rlhf run --pipeline reward_model_pipeline --preference-dataset prefs.jsonl \\\n"
        "           --large-model-reference Qwen/Qwen2.5-0.5B-Instruct",
    )
    parser.usage = "rlhf run [--sample] [--parameter-values FILE] [--PARAMETER VALUE ...] [option ...]"
    parser.add_argument("--pipeline", choices=list(PIPELINES), default="rlhf_pipeline", help="default: rlhf_pipeline")
    _add_value_sources(parser)
    parser.add_argument(
        "--pipeline-root",
        "--pipeline_root",
        metavar="DIR",
        type=Path,
        default=Path("runs"),
        help="folder for everything the run leaves behind; default: ./runs",
    )
    parser.add_argument("--no-cache", action="store_true", help="run every step, also those that finished before")
    parser.add_argument(
        "--runner",
        choices=["subprocess", "docker"],
        default="subprocess",
        help="how steps run: as processes here, or in the project's containers; default: subprocess",
    )
    _add_image(parser, "of the containers")
    _add_parameters(parser, PARAMETERS.values())


def _add_validate(commands: _Commands) -> None:
    parser = _command(
        commands,
        "validate",
        "check datasets, row by row, and report what is in them",
        _validate,
        "Check every row of the datasets of a run, and write a report to look at, before anything is spent. Needs no GPU\n"
        "and no cloud beyond reading the data. Exit status: 0 the data can be used, 2 it cannot.\n\n"
        "examples:\n"
        "  rlhf validate --preference-dataset prefs.jsonl --prompt-dataset 'gs://bucket/prompts/*.jsonl'\n"
        "  rlhf validate --parameter-values values.json --output-dir report",
    )
    parser.usage = "rlhf validate [--sample] [--parameter-values FILE] [--PARAMETER VALUE ...] [option ...]"
    _add_value_sources(parser)
    parser.add_argument(
        "--output-dir",
        "--output_dir",
        metavar="DIR",
        type=Path,
        default=Path("data-report"),
        help="folder for report.html, problems.jsonl and bad_rows.jsonl; default: ./data-report",
    )
    _add_parameters(parser, VALIDATED)


def _add_value_sources(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--parameter-values", "--parameter_values", metavar="FILE", type=Path, help="JSON or YAML file of parameters"
    )
    parser.add_argument("--sample", action="store_true", help="use the embedded sample data and a small base model")


def _add_parameters(parser: argparse.ArgumentParser, parameters: Iterable[Parameter]) -> None:
    group = parser.add_argument_group("pipeline parameters", "They override the file and the sample.")
    for parameter in parameters:
        _add_parameter(group, parameter)


def _add_parameter(group: argparse._ArgumentGroup, parameter: Parameter) -> None:
    dashed, plain = f"--{parameter.name.replace('_', '-')}", f"--{parameter.name}"
    default = "" if parameter.default in (None, "") else f"; default: {str(parameter.default).replace('True', 'true')}"
    is_switch = parameter.type is bool
    # Help shows one spelling; the other, as in parameter_values, works just as well.
    group.add_argument(
        dashed,
        dest=_PARAMETER_PREFIX + parameter.name,
        metavar={str: "TEXT", int: "N", float: "X", bool: "true|false"}[parameter.type],
        nargs="?" if is_switch else None,
        const="true" if is_switch else None,
        default=argparse.SUPPRESS,
        help=f"{parameter.description}{default}".replace("%", "%%"),
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


def _add_models(commands: _Commands) -> None:
    parser = _command(commands, "models", "list the models in the local registry", _list_models)
    parser.add_argument("--json", action="store_true", help="print JSON")
    _add_registry_dir(parser)


def _add_predict(commands: _Commands) -> None:
    parser = _command(commands, "predict", "ask a model of the local registry", _predict)
    parser.add_argument("--model", required=True, metavar="NAME[@ALIAS|@VERSION]", help="as `rlhf models` lists it")
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="what to ask; - reads it from standard input")
    parser.add_argument(
        "--max-tokens", type=int, default=128, metavar="N", help="most tokens of the answer; default: 128"
    )
    parser.add_argument(
        "--temperature", type=float, default=0.0, metavar="X", help="0 takes the likeliest token each time; default: 0"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the sampling; default: 0")
    _add_registry_dir(parser)


def _add_compile(commands: _Commands) -> None:
    parser = _command(commands, "compile", "write the pipelines as YAML for Kubeflow and Vertex", _compile)
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=Path("compiled"),
        metavar="DIR",
        help="folder for the YAML; default: ./compiled",
    )
    _add_image(parser, "in the YAML")


def _add_image(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--image",
        action="append",
        default=[],
        metavar="light|trainer=REFERENCE",
        help=f"another image {what}, best by its digest: trainer=REGISTRY/trainer@sha256:...; once for each of the two",
    )


def _add_registry_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--registry-dir",
        type=Path,
        default=None,
        metavar="DIR",
        help="folder of the registry; its usual place when absent",
    )


def _run(arguments: Sequence[str]) -> int:
    parser = build_parser()
    options, unknown = parser.parse_known_args(arguments)
    if options.command is None:
        parser.print_help()
        return 2
    if unknown:
        takes = {"run": PARAMETERS.values(), "validate": VALIDATED}.get(options.command, ())
        names = [f"--{parameter.name.replace('_', '-')}" for parameter in takes]
        hints = "".join(closest(word.split("=")[0], names) for word in unknown if word.startswith("--"))
        return _fail(f"unrecognized arguments: {' '.join(unknown)}.{hints} See rlhf {options.command} --help.", 2)
    function: Callable[[argparse.Namespace], int] = options.function
    return function(options)


def _run_pipeline(options: argparse.Namespace) -> int:
    from rlhf_pipelines.display import choose_display
    from rlhf_pipelines.image_choice import read_choices
    from rlhf_pipelines.run_command import LocalRun, new_containers, run_locally

    images = read_choices(options.image)
    if images and options.runner != "docker":
        return _fail("--image needs --runner docker: without containers there is no image to choose.", 2)
    run = LocalRun(
        name=options.pipeline,
        target=f"rlhf_pipelines.{options.pipeline}:{options.pipeline}",
        arguments=_checked_values(options.pipeline, options),
        pipeline_root=options.pipeline_root,
        caching=not options.no_cache,
        containers=new_containers(images) if options.runner == "docker" else None,
    )
    return run_locally(run, choose_display(sys.stdout, os.environ))


def _validate(options: argparse.Namespace) -> int:
    from rlhf_pipelines.validate_command import validate_here

    return validate_here(_checked_values("validate", options), options.output_dir)


def _checked_values(pipeline: str, options: argparse.Namespace) -> dict[str, Value]:
    """Return the parameters of a run, from the sample, a file and flags."""
    from rlhf_pipelines.parameter_values import gather_values

    sample_dir: Path | None = None
    if options.sample:
        from rlhf_tuning.sample.house_style import SAMPLE_DIR

        sample_dir = SAMPLE_DIR
    flags = {
        name.removeprefix(_PARAMETER_PREFIX): value
        for name, value in vars(options).items()
        if name.startswith(_PARAMETER_PREFIX)
    }
    values = gather_values(pipeline, sample_dir=sample_dir, file=options.parameter_values, flags=flags)
    return check_parameters(pipeline, values)


def _list_models(options: argparse.Namespace) -> int:
    from rlhf_pipelines.model_list import as_json, as_table
    from rlhf_tuning.registry import list_models

    models = list_models(options.registry_dir)
    print(as_json(models) if options.json else as_table(models))
    return 0


def _predict(options: argparse.Namespace) -> int:
    try:
        from rlhf_tuning.generation import predict
    except ModuleNotFoundError as error:
        return _fail(
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


def _compile(options: argparse.Namespace) -> int:
    from rlhf_pipelines.compile import compile_all
    from rlhf_pipelines.image_choice import read_choices

    for path in compile_all(options.output_dir, read_choices(options.image)):
        print(path)
    return 0


def _fail(message: str, status: int) -> int:
    sys.stdout.flush()
    print(f"rlhf: {message}", file=sys.stderr)
    return status


def _save_traceback() -> str:
    with tempfile.NamedTemporaryFile("w", prefix="rlhf-error-", suffix=".txt", delete=False, encoding="utf-8") as file:
        traceback.print_exc(file=file)
    return file.name


if __name__ == "__main__":
    sys.exit(main())
