"""How fast are answers in bulk? Our own loop, transformers' `generate` and vLLM, in turn, each in a process of its own.

    python benchmarks/inference_speed.py                                   # the sample's model and prompts, bfloat16
    python benchmarks/inference_speed.py --dtype float32
    python benchmarks/inference_speed.py --model random-1b --prompts 4096 --tokens 256    # on a GPU

All three answer the same prompts (the sample's, again and again where there are too few), sampled at the same temperature,
and end where the model ends them. vLLM is the one that `rlhf serve` finds (RLHF_VLLM_PYTHON), and is left out where there is
none. The time is that of answering all prompts; the start is what comes before: loading and a first answer, and for vLLM all
that it does until it is ready. Tokens are those of the answers.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from beside_trl import MODEL, spread
from rl_speed import model_of, write_random_model

NAMES = {"own": "rlhf-pipelines", "transformers": "transformers `generate`", "vllm": "vLLM"}


def main() -> None:
    """Run all sides in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL, help="alias, folder, or random-1b: a Llama of random weights")
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=64, help="most tokens of an answer")
    parser.add_argument("--batch", type=int, default=64, help="prompts that ours and transformers have at a time")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--side", choices=list(NAMES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps((by_vllm if arguments.side == "vllm" else by_torch)(arguments)))
        return
    from rlhf_tuning.vllm_program import find_vllm

    vllm = find_vllm()
    if vllm is None:
        print("There is no vLLM here, so it is left out.", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="inference-speed-") as scratch:
        if arguments.model == "random-1b":
            write_random_model(Path(scratch) / "model")
        found: dict[str, list[dict[str, float]]] = {side: [] for side in NAMES if vllm or side != "vllm"}
        for repetition in range(arguments.repetitions):
            for side, results in found.items():
                results.append(measure(side, Path(scratch)))
                print(f"{repetition + 1}: {side} {results[-1]}", file=sys.stderr, flush=True)
    print("\n".join(table(arguments, found, f", vLLM {vllm.version} ({vllm.device})" if vllm else "")))


def measure(side: str, scratch: Path) -> dict[str, float]:
    """Run one side in a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--side", side, "--folder", str(scratch)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{side} ended with status {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def conversations(count: int) -> list[Any]:
    """Return so many of the sample's prompts."""
    from rlhf_tuning import sample

    folder = Path(sample.__file__).parent
    lines = (folder / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    instruction = json.loads((folder / "parameters.json").read_text(encoding="utf-8")).get("instruction", "")
    texts = [json.loads(lines[place % len(lines)])["input_text"] for place in range(count)]
    return [[{"role": "user", "content": f"{instruction}\n\n{text}".strip()}] for text in texts]


def text_format(arguments: argparse.Namespace) -> Any:
    """Return what renders the prompts."""
    from rlhf_tuning.models.text_format import TextFormat
    from rlhf_tuning.models.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(model_of(arguments, arguments.folder))
    return TextFormat(tokenizer, prompt_sequence_length=512, target_sequence_length=arguments.tokens)


def by_torch(arguments: argparse.Namespace) -> dict[str, float]:
    """Answer with a model in this process, by our own loop or transformers' `generate`."""
    import torch

    from rlhf_tuning.generation.generate import generate_answers
    from rlhf_tuning.models import base_model

    begun = time.monotonic()
    model = base_model.load_causal_lm(model_of(arguments, arguments.folder), dtype=getattr(torch, arguments.dtype))
    engine = "lean" if arguments.side == "own" else "transformers"
    settings = {
        "temperature": arguments.temperature,
        "batch_size": arguments.batch,
        "seed": 0,
        "rollout_engine": engine,
    }
    prompts, rendered = conversations(arguments.prompts), text_format(arguments)
    generate_answers(model, rendered, prompts[:1], **settings)  # our loop tries itself once
    ready = time.monotonic()
    answers = generate_answers(model, rendered, prompts, **settings)
    return result(sum(answer.tokens for answer in answers), time.monotonic() - ready, ready - begun)


def by_vllm(arguments: argparse.Namespace) -> dict[str, float]:
    """Answer with vLLM, as the step Perform Inference does."""
    import torch

    from rlhf_tuning.generation.generate import end_token_ids
    from rlhf_tuning.generation.vllm_engine import Request, VllmModel
    from rlhf_tuning.vllm_program import needed_vllm

    vllm = needed_vllm(needed_by="this side")
    rendered = text_format(arguments)
    prompts = [rendered.prompt_ids(prompt) for prompt in conversations(arguments.prompts)]
    begun = time.monotonic()
    model = VllmModel(vllm, model_of(arguments, arguments.folder), dtype=getattr(torch, arguments.dtype))
    ready: list[float] = []
    tokens = 0
    for _, answer in model.answers(
        (Request(row=row, tokens=prompt, seed=row) for row, prompt in enumerate(prompts)),
        ends=end_token_ids(model.generation_config, rendered.tokenizer),
        most_prompt_tokens=rendered.prompt_sequence_length,
        most_tokens=arguments.tokens,
        temperature=arguments.temperature,
        on_start=lambda: ready.append(time.monotonic()),
    ):
        tokens += len(answer)
    return result(tokens, time.monotonic() - ready[0], ready[0] - begun)


def result(tokens: int, seconds: float, started: float) -> dict[str, float]:
    """Return what one side has done."""
    return {"tokens_per_second": tokens / seconds, "seconds": seconds, "start": started, "tokens": tokens}


def table(arguments: argparse.Namespace, found: dict[str, list[dict[str, float]]], vllm: str) -> list[str]:
    """Return the result as Markdown."""
    import torch

    hardware = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} cores, no GPU"
    lines = [
        f"{arguments.model}, {arguments.prompts} prompts, answers of up to {arguments.tokens} tokens at temperature "
        f"{arguments.temperature:g}, {arguments.dtype}, {hardware}, torch {torch.__version__}{vllm}, Python "
        f"{platform.python_version()}; {arguments.repetitions} repetitions in turn, median [lowest, highest]",
        "",
        "| | tokens a second | seconds for all | seconds to start | times ours |",
        "|---|---|---|---|---|",
    ]
    keys = ("tokens_per_second", "seconds", "start")
    for side, results in found.items():
        cells = [spread([one[key] for one in results]) for key in keys]
        ratio = spread(
            [
                one["tokens_per_second"] / ours["tokens_per_second"]
                for one, ours in zip(results, found["own"], strict=True)
            ]
        )
        lines.append(f"| {NAMES[side]} | {' | '.join(cells)} | {ratio} |")
    return lines


if __name__ == "__main__":
    main()
