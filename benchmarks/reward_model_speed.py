"""How fast is reward-model training? Phase 1 beside TRL's own RewardTrainer, in turn, each in a process of its own.

    python benchmarks/reward_model_speed.py                        # the packaged model, bfloat16
    python benchmarks/reward_model_speed.py --dtype float32

Both sides learn from the same pairs of mixed lengths (words of the sample; prompts of 15 to 200 words, answers of 8 to 60),
with the same optimizer batch, LoRA of the same rank on every linear layer, and the same attention code. Theirs is
RewardTrainer with the whole batch in one pass and no activation checkpointing (`--checkpointing` turns on what it has by
default: slower, lighter). A step's time is the median without the first; every step counts the same number of pairs. Memory
is the process's peak, or the GPU's.
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


def main() -> None:
    """Run both sides in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL, help="alias or folder")
    parser.add_argument("--pairs", type=int, default=8, help="pairs an optimizer step")
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
    with tempfile.TemporaryDirectory(prefix="reward-model-speed-") as scratch:
        write_preferences(arguments.pairs * arguments.steps, Path(scratch) / "preferences.jsonl")
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


def write_preferences(count: int, path: Path) -> None:
    """Write pairs whose lengths are spread evenly on a logarithmic scale."""
    from rlhf_tuning import sample

    rows = (Path(sample.__file__).parent / "preferences.jsonl").read_text(encoding="utf-8").splitlines()
    words = " ".join(json.loads(row)["candidate_0"] for row in rows[:200]).split()
    rng = random.Random(0)

    def text(shortest: int, longest: int) -> str:
        return " ".join(rng.choices(words, k=round(math.exp(rng.uniform(math.log(shortest), math.log(longest))))))

    with path.open("w", encoding="utf-8") as stream:
        for _ in range(count):
            row = {
                "prompt": [{"role": "user", "content": text(*PROMPT_WORDS)}],
                "chosen": text(*ANSWER_WORDS),
                "rejected": text(*ANSWER_WORDS),
            }
            stream.write(json.dumps(row) + "\n")


def ours(arguments: argparse.Namespace) -> dict[str, float]:
    """Take the steps as phase 1 does."""
    from rlhf_tuning.training import reward_model

    measured = ("n", "accuracy", "accuracy_low", "accuracy_high", "longer_wins_accuracy")
    # Training is what is compared.
    reward_model.evaluate_reward_model = lambda *_, **__: dict.fromkeys(measured, 0)  # type: ignore[assignment]
    preferences = str(arguments.folder / "preferences.jsonl")
    with tempfile.TemporaryDirectory() as scratch:
        reward_model.train_reward_model(
            reward_model.RewardModelConfig(
                large_model_reference=arguments.model,
                reward_model_train_steps=arguments.steps,
                reward_model_max_epochs=0.0,
                reward_lora_dim=LORA_DIM,
                batch_size=arguments.pairs,
                target_sequence_length=128,
                dtype=arguments.dtype,
                centring_prompts=0,
            ),
            preferences_path=preferences,
            eval_preferences_path=preferences,
            output_dir=scratch,
            tensorboard_dir=scratch,
        )
        lines = [json.loads(line) for line in (Path(scratch) / "metrics.jsonl").read_text().splitlines()]
    return result([line["seconds_per_step"] for line in lines], arguments)


def stock(arguments: argparse.Namespace) -> dict[str, float]:
    """Take the steps as a script around TRL's RewardTrainer does."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForSequenceClassification, TrainerCallback
    from trl import RewardConfig, RewardTrainer

    from rlhf_tuning.data.importer import read_canonical
    from rlhf_tuning.models import base_model
    from rlhf_tuning.models.model_reference import model_source
    from rlhf_tuning.models.text_format import TextFormat
    from rlhf_tuning.models.tokenizer import load_tokenizer

    class Clock(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.times: list[float] = []

        def on_train_begin(self, *rest: Any, **settings: Any) -> None:
            self.times.append(time.monotonic())

        def on_step_end(self, *rest: Any, **settings: Any) -> None:
            self.times.append(time.monotonic())

    tokenizer = load_tokenizer(arguments.model)
    text_format = TextFormat(tokenizer, prompt_sequence_length=512, target_sequence_length=128)
    rows = [
        {f"{side}_ids": text_format.scored_ids(row["prompt"], row[side]) for side in ("chosen", "rejected")}
        for row in read_canonical(arguments.folder / "preferences.jsonl")
    ]
    dtype = getattr(torch, arguments.dtype)
    # The faster attention here, as this project has it.
    settings = {"dtype": dtype, "attn_implementation": base_model._attention(dtype)}
    path = model_source(arguments.model)["pretrained_model_name_or_path"]
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=1, **settings)
    clock = Clock()
    with tempfile.TemporaryDirectory() as scratch:
        trainer = RewardTrainer(
            model=model,
            processing_class=tokenizer,
            train_dataset=Dataset.from_list(rows),
            callbacks=[clock],
            peft_config=LoraConfig(
                task_type="SEQ_CLS",
                r=LORA_DIM,
                lora_alpha=2 * LORA_DIM,
                target_modules="all-linear",
                modules_to_save=["score"],
            ),
            args=RewardConfig(
                output_dir=scratch,
                max_steps=arguments.steps,
                per_device_train_batch_size=arguments.pairs,
                max_length=None,
                bf16=dtype == torch.bfloat16,
                activation_checkpointing=arguments.checkpointing,
                use_cpu=not torch.cuda.is_available(),
                logging_steps=1,
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
            ),
        )
        trainer.train()
    return result([after - before for before, after in zip(clock.times, clock.times[1:], strict=False)], arguments)


def result(seconds: list[float], arguments: argparse.Namespace) -> dict[str, float]:
    """Return pairs a second, seconds a step and the peak of memory in GiB."""
    import torch
    from process_memory import peak_memory

    peak = (torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_memory()) / 2**30
    step = statistics.median(seconds[1:])
    return {"pairs_per_second": arguments.pairs / step, "seconds_per_step": step, "gib": peak}


def table(arguments: argparse.Namespace, found: dict[str, list[dict[str, float]]]) -> list[str]:
    """Return the result as Markdown."""
    import torch

    hardware = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} cores, no GPU"
    lines = [
        f"{arguments.model}, {arguments.pairs} pairs a step, {arguments.dtype}, {hardware}, torch {torch.__version__}, "
        f"Python {platform.python_version()}; {arguments.repetitions} repetitions in turn, median [lowest, highest]",
        "",
        "| | pairs a second | seconds a step | peak memory, GiB |",
        "|---|---|---|---|",
    ]
    names = {"trl": "TRL RewardTrainer", "ours": "rlhf-pipelines"}
    keys = ("pairs_per_second", "seconds_per_step", "gib")
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
    return f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


if __name__ == "__main__":
    main()
