"""How fast is supervised tuning? It beside TRL's own SFTTrainer, in turn, each in a process of its own.

    python benchmarks/supervised_speed.py                        # the packaged model, bfloat16
    python benchmarks/supervised_speed.py --dtype float32

Both sides learn from the same demonstrations of mixed lengths (words of the sample; prompts of 15 to 200 words, answers of
8 to 60), the same ones in each step, the answers' tokens alone, with LoRA of the same rank on every linear layer, the same
learning rate and the same attention code. Theirs is SFTTrainer with the whole batch in one pass, padded, and no activation
checkpointing (`--checkpointing` turns it on: slower, lighter). A step's time is the median without the first. Memory is the
process's peak, or the GPU's. The loss is that of the last step: it is to be the same on both sides.
"""

import argparse
import json
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MODEL = "smollm2-135m-instruct"
LORA_DIM = 16
PROMPT_WORDS, ANSWER_WORDS = (15, 200), (8, 60)
PROMPT_TOKENS, ANSWER_TOKENS = 512, 128


def main() -> None:
    """Run both sides in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL, help="alias or folder")
    parser.add_argument("--examples", type=int, default=16, help="demonstrations an optimizer step")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--steps", type=int, default=4, help="steps of each process, the first not counted")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--checkpointing", action="store_true", help="activation checkpointing on TRL's side")
    parser.add_argument("--side", choices=["ours", "trl"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps((ours if arguments.side == "ours" else stock)(arguments)))
        return
    with tempfile.TemporaryDirectory(prefix="supervised-speed-") as scratch:
        write_demonstrations(arguments.examples * arguments.steps, Path(scratch) / "demonstrations.jsonl")
        found: dict[str, list[dict[str, float]]] = {"trl": [], "ours": []}
        for repetition in range(arguments.repetitions):
            for side, results in found.items():
                results.append(measure(side, Path(scratch)))
                print(f"{repetition + 1}: {side} {results[-1]}", file=sys.stderr, flush=True)
        print("\n".join(table(arguments, found)))


def measure(side: str, scratch: Path) -> dict[str, float]:
    """Run one side in a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--side", side, "--folder", str(scratch)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{side} ended with status {done.returncode}:\n{done.stderr[-3000:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def write_demonstrations(count: int, path: Path) -> None:
    """Write demonstrations whose lengths are spread evenly on a logarithmic scale."""
    from rlhf_tuning import sample

    rows = (Path(sample.__file__).parent / "preferences.jsonl").read_text(encoding="utf-8").splitlines()
    words = " ".join(json.loads(row)["candidate_0"] for row in rows[:200]).split()
    rng = random.Random(0)

    def text(shortest: int, longest: int) -> str:
        return " ".join(rng.choices(words, k=round(math.exp(rng.uniform(math.log(shortest), math.log(longest))))))

    with path.open("w", encoding="utf-8") as stream:
        for _ in range(count):
            row = {"prompt": [{"role": "user", "content": text(*PROMPT_WORDS)}], "answer": text(*ANSWER_WORDS)}
            stream.write(json.dumps(row) + "\n")


def config(arguments: argparse.Namespace) -> Any:
    """Return the settings that both sides have."""
    from rlhf_tuning.training.supervised import SupervisedConfig

    return SupervisedConfig(
        large_model_reference=arguments.model,
        train_steps=arguments.steps,
        lora_dim=LORA_DIM,
        batch_size=arguments.examples,
        evaluation_interval=arguments.steps,
        prompt_sequence_length=PROMPT_TOKENS,
        target_sequence_length=ANSWER_TOKENS,
        dtype=arguments.dtype,
    )


def ours(arguments: argparse.Namespace) -> dict[str, float]:
    """Take the steps as supervised tuning does."""
    from rlhf_tuning.training import held_out_loss, supervised

    # Training is what is compared.
    supervised._measured = lambda *_: held_out_loss.of_answers([1.0, 1.0], [1, 1])
    supervised.save_tuned_model = lambda *_, **__: None  # type: ignore[assignment]
    demonstrations = str(arguments.folder / "demonstrations.jsonl")
    with tempfile.TemporaryDirectory() as scratch:
        supervised.train_supervised(
            config(arguments),
            demonstrations_path=demonstrations,
            eval_demonstrations_path=demonstrations,
            adapter_dir=scratch,
            model_dir=scratch,
            tensorboard_dir=scratch,
        )
        lines = [json.loads(line) for line in (Path(scratch) / "metrics.jsonl").read_text().splitlines()]
    return result([line["seconds_per_step"] for line in lines], lines[-1]["loss"], arguments)


def stock(arguments: argparse.Namespace) -> dict[str, float]:
    """Take the steps as a script around TRL's SFTTrainer does."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from rlhf_tuning.data.importer import read_canonical
    from rlhf_tuning.models import base_model
    from rlhf_tuning.models.text_format import TextFormat
    from rlhf_tuning.models.tokenizer import load_tokenizer
    from rlhf_tuning.training.trainer_settings import shared_settings, step_order

    class Clock(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.times: list[float] = []

        def on_train_begin(self, *rest: Any, **settings: Any) -> None:
            self.times.append(time.monotonic())

        def on_step_end(self, *rest: Any, **settings: Any) -> None:
            self.times.append(time.monotonic())

    class SameSteps(SFTTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, *rest: Any) -> Any:
            lengths = [len(row["input_ids"]) for row in rows]
            return step_order(lengths, steps=arguments.steps, batch_size=arguments.examples, seed=settings.seed)

    settings = config(arguments)
    tokenizer = load_tokenizer(arguments.model)
    text_format = TextFormat(tokenizer, prompt_sequence_length=PROMPT_TOKENS, target_sequence_length=ANSWER_TOKENS)
    rows = []
    for row in read_canonical(arguments.folder / "demonstrations.jsonl"):
        prompt, answer = text_format.prompt_ids(row["prompt"]), text_format.learnt_ids(row["answer"])
        rows.append({"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer})
    dtype = getattr(torch, arguments.dtype)
    torch.manual_seed(settings.seed)
    # The faster attention here, as this project has it.
    model = base_model.load_causal_lm(arguments.model, dtype=dtype)
    clock = Clock()
    with tempfile.TemporaryDirectory() as scratch:
        shared = shared_settings(
            output_dir=scratch,
            steps=arguments.steps,
            learning_rate=settings.learning_rate,
            seed=settings.seed,
            compute=dtype,
        )
        del shared["disable_dropout"]
        trainer = SameSteps(
            model=model,
            processing_class=tokenizer,
            train_dataset=Dataset.from_list(rows),
            callbacks=[clock],
            peft_config=LoraConfig(
                task_type="CAUSAL_LM", r=LORA_DIM, lora_alpha=2 * LORA_DIM, target_modules="all-linear"
            ),
            args=SFTConfig(
                **shared | {"activation_checkpointing": arguments.checkpointing},
                per_device_train_batch_size=arguments.examples,
                max_length=None,
                dataset_kwargs={"skip_prepare_dataset": True},
            ),
        )
        trainer.train()
    loss = next(record["loss"] for record in reversed(trainer.state.log_history) if "loss" in record)
    return result(
        [after - before for before, after in zip(clock.times, clock.times[1:], strict=False)], loss, arguments
    )


def result(seconds: list[float], loss: float, arguments: argparse.Namespace) -> dict[str, float]:
    """Return demonstrations a second, seconds a step, the peak of memory in GiB, and the last loss."""
    import torch
    from process_memory import peak_memory

    peak = (torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_memory()) / 2**30
    step = statistics.median(seconds[1:])
    return {"examples_per_second": arguments.examples / step, "seconds_per_step": step, "gib": peak, "loss": loss}


def table(arguments: argparse.Namespace, found: dict[str, list[dict[str, float]]]) -> list[str]:
    """Return the result as Markdown."""
    import torch

    hardware = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} cores, no GPU"
    lines = [
        f"{arguments.model}, {arguments.examples} demonstrations a step, {arguments.dtype}, {hardware}, torch "
        f"{torch.__version__}, Python {platform.python_version()}; {arguments.repetitions} repetitions in turn, median "
        "[lowest, highest]",
        "",
        "| | demonstrations a second | seconds a step | peak memory, GiB | last loss |",
        "|---|---|---|---|---|",
    ]
    names = {"trl": "TRL SFTTrainer", "ours": "rlhf-pipelines"}
    keys = ("examples_per_second", "seconds_per_step", "gib", "loss")
    for side, results in found.items():
        cells = [spread([result[key] for result in results]) for key in keys]
        lines.append(f"| {names[side]} | {' | '.join(cells)} |")
    ratios = [
        spread([mine[key] / theirs[key] for mine, theirs in zip(found["ours"], found["trl"], strict=True)])
        for key in keys
    ]
    lines.append(f"| ratio, pair by pair | {' | '.join(ratios)} |")
    return lines


def spread(values: list[float]) -> str:
    """Return the median with the lowest and the highest value."""
    return f"{statistics.median(values):.3f} [{min(values):.3f}, {max(values):.3f}]"


if __name__ == "__main__":
    main()
