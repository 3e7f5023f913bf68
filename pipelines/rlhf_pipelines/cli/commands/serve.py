"""`rlhf serve`: a tuned model behind vLLM on this machine."""

import argparse
import sys

from rlhf_pipelines.cli.command_line import Commands, add_command, add_registry_dir, count


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "serve",
        "serve a model of the local registry with vLLM on this machine",
        _serve,
        "Serve a model with vLLM on this machine, as a deployment would: an OpenAI-compatible server, until Ctrl-C.\n\n"
        "examples:\n"
        "  rlhf serve palms\n"
        "  rlhf predict --endpoint http://127.0.0.1:8000 --prompt 'Create a description for Plantation Palms.'",
    )
    parser.add_argument(
        "model", metavar="MODEL", help="NAME, NAME@ALIAS or NAME@VERSION, as `rlhf models` lists it, or a folder: ./DIR"
    )
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="to listen on; default: 127.0.0.1")
    parser.add_argument("--port", type=_port, default=8000, metavar="N", help="default: 8000; 0 takes a free one")
    parser.add_argument(
        "--gpus",
        type=count,
        default=1,
        metavar="N",
        help="over how many GPUs of this machine the model is split; default: 1",
    )
    parser.add_argument(
        "--python",
        default="",
        metavar="PATH",
        help="a Python that has vLLM; RLHF_VLLM_PYTHON, or this one, when absent",
    )
    add_registry_dir(parser)


def _serve(options: argparse.Namespace) -> int:
    from rlhf_tuning.registry import named_model
    from rlhf_tuning.serving import local_server
    from rlhf_tuning.serving.vllm import plan_serving
    from rlhf_tuning.vllm_program import needed_vllm

    named = named_model(options.model, options.registry_dir)
    plan = plan_serving(named.folder, named.parameters)
    port = local_server.free_port(options.host, options.port)
    vllm = needed_vllm(options.python, needed_by="rlhf serve", named_with="--python")
    print(f"Starting vLLM {vllm.version} ({vllm.device}) with {named.name}; this takes a minute or more", flush=True)
    try:
        with local_server.serving(
            vllm, named.folder, plan, model=named.name, gpus=options.gpus, host=options.host, port=port
        ) as server:
            print(f"{named.name} answers at {server.url}. Its log: {server.program.log}")
            print(f"Ask it: rlhf predict --endpoint {server.url} --prompt TEXT")
            print("Stop it: Ctrl-C", flush=True)
            server.wait()
    except KeyboardInterrupt:
        print("\nStopped", file=sys.stderr)
    return 0


def _port(given: str) -> int:
    if not given.isdecimal() or int(given) > 65535:
        raise argparse.ArgumentTypeError(f"{given!r} is no port; give a number of 0 to 65535")
    return int(given)
