"""`rlhf predict`: ask a model."""

import argparse
import re
import sys
from typing import Any

from rlhf_pipelines.cli.command_line import Commands, add_command, add_registry_dir, fail
from rlhf_tuning import environment
from rlhf_tuning.errors import ModelError, UserError, how_to_install
from rlhf_tuning.limits import problem_with


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "predict",
        "ask a model of the local registry, a server, or an endpoint of Vertex AI",
        _predict,
        "Ask a model of the local registry, a server with OpenAI's API, or an endpoint of Vertex AI. The prompt is put as\n"
        "the tuning put prompts; of a server that is known where its model is NAME@VERSION of the local registry.\n"
        "A file or a program gets the answer as it is, a terminal without what would move its cursor.\n\n"
        "examples:\n"
        "  rlhf predict --model palms --prompt 'Create a description for Plantation Palms.'\n"
        "  rlhf predict --endpoint http://127.0.0.1:8000 --prompt 'Create a description for Plantation Palms.'\n"
        "  rlhf predict --endpoint palms --project my-project --location us-central1 --prompt - < prompt.txt",
    )
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--model", metavar="NAME[@ALIAS|@VERSION]", help="as `rlhf models` lists it, or a folder: ./DIR")
    asked.add_argument(
        "--endpoint",
        metavar="NAME|URL",
        help="display name, id or full name of an endpoint of Vertex AI; or http(s)://HOST[:PORT] of a server, as that of "
        "`rlhf serve`",
    )
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="what to ask; - reads it from standard input")
    parser.add_argument(
        "--max-tokens", type=int, default=128, metavar="N", help="most tokens of the answer; default: 128"
    )
    parser.add_argument(
        "--temperature", type=float, default=0.0, metavar="X", help="0 takes the likeliest token each time; default: 0"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the sampling; default: 0")
    add_registry_dir(parser)
    vertex = parser.add_argument_group("of an endpoint of Vertex AI")
    vertex.add_argument("--project", default="", metavar="ID", help="that of the credentials when absent")
    vertex.add_argument("--location", default="", metavar="REGION", help="such as us-central1")
    vertex.add_argument("--api-endpoint", default="", metavar="ADDRESS", help="another address of the Vertex AI API")


def _predict(options: argparse.Namespace) -> int:
    prompt = _standard_input().strip() if options.prompt == "-" else options.prompt
    if not prompt.strip():
        return fail("--prompt is empty.", 2)
    if options.endpoint == "":
        return fail("--endpoint is empty. Give the URL of a server, or the name of an endpoint of Vertex AI.", 2)
    for name, flag in (("target_sequence_length", "max_tokens"), ("temperature", "temperature"), ("seed", "seed")):
        if problem := problem_with(name, vars(options)[flag]):
            return fail(problem.replace(name, f"--{flag.replace('_', '-')}"), 2)
    if options.endpoint is None:
        answer = _ask_model(options, prompt)
    elif options.endpoint.startswith(("http://", "https://")):
        answer = _ask_server(options, prompt)
    else:
        answer = _ask_endpoint(options, prompt)
    print(_for_a_terminal(answer) if sys.stdout.isatty() else answer)
    return 0


def _for_a_terminal(answer: str) -> str:
    """Return an answer without what would move a terminal's cursor; a file or a program gets it as it is."""
    from rlhf_pipelines.cli.display import printable

    return "\n".join(map(printable, answer.split("\n")))


def _standard_input() -> str:
    """Return what comes there: UTF-8, as files are, or else as the terminal writes."""
    content = sys.stdin.buffer.read()
    for encoding in ("utf-8", sys.stdin.encoding):
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            pass
    raise UserError("Standard input holds no UTF-8 text. Write the prompt in UTF-8.")


def _ask_server(options: argparse.Namespace, prompt: str) -> str:
    from rlhf_tuning.models.text_format import instructed
    from rlhf_tuning.registry import named_model
    from rlhf_tuning.serving import openai_api
    from rlhf_tuning.web_address import check_web_address

    check_web_address(options.endpoint, "--endpoint")
    url = openai_api.base_url(options.endpoint)
    model = openai_api.served_model(url)
    parameters: dict[str, Any] = {}
    # A name alone could mean another model here than there.
    if "@" in model:
        try:
            parameters = named_model(model, options.registry_dir).parameters
        except ModelError as error:
            note = f"the prompt is sent without an instruction. {error}"
            print(f"rlhf: note: {_for_a_terminal(note)}", file=sys.stderr)
    return openai_api.ask(
        url,
        model,
        instructed(prompt, parameters),
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        seed=options.seed,
    )


def _ask_endpoint(options: argparse.Namespace, prompt: str) -> str:
    from rlhf_tuning.google_cloud.vertex_api import VertexApi
    from rlhf_tuning.google_cloud.vertex_endpoint import ask_endpoint

    named = re.fullmatch(r"projects/([^/]+)/locations/([^/]+)/endpoints/[^/]+", options.endpoint)
    project, location = (
        (named[1], named[2]) if named else (options.project, options.location or environment.GOOGLE_CLOUD_REGION)
    )
    return ask_endpoint(
        VertexApi(
            project=project, location=location or environment.GOOGLE_CLOUD_REGION, api_endpoint=options.api_endpoint
        ),
        options.endpoint,
        prompt,
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        seed=options.seed,
    )


def _ask_model(options: argparse.Namespace, prompt: str) -> str:
    from rlhf_tuning.registry import named_model

    named_model(options.model, options.registry_dir)  # before torch is loaded, which takes longer
    try:
        from rlhf_tuning.generation.generate import predict
    except ModuleNotFoundError as error:
        raise UserError(
            f"rlhf predict needs the package {error.name}, which is not installed. {how_to_install('train')}"
        ) from None
    return predict(
        options.model,
        prompt,
        registry_dir=options.registry_dir,
        target_sequence_length=options.max_tokens,
        temperature=options.temperature,
        seed=options.seed,
    )
