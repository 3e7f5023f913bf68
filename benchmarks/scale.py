"""How do memory and time grow with sequence length, k, batch and model size, and how well are they forecast?

    python benchmarks/scale.py                  # every case; some ten minutes on two cores
    python benchmarks/scale.py --only size      # one part: prompt, answer, k, batch, size, format or weights

Both phases of this project on Llamas of random weights and, where it is in the cache, on the packaged SmolLM2-135M, each
case in a process of its own. Every prompt and every answer is as long as the limits allow. A step's time is the median
without the first; memory is the process's peak, from its start to the last file saved, or the GPU's. Beside each stands what
`rlhf plan` forecasts for this machine, calibrated by the matrix products that it measures here. The last table has no
measurement: it is the forecast for models that do not fit here.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

SAMPLE_MODEL = "smollm2-135m-instruct"
WORDS = ("harbour", "salt", "bread", "gulls", "call", "over", "quiet", "boats", "noon", "spring")

#: Name to hidden size, intermediate size, layers, heads, key and value heads; all with the sample's vocabulary of 49,152.
SHAPES = {
    "10m": (128, 384, 8, 4, 2),
    "30m": (320, 960, 10, 5, 5),
    "80m": (512, 1536, 16, 8, 4),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is measured in one process."""

    part: str = ""
    phase: str = "reinforcement learning"
    model: str = "30m"
    prompt: int = 128
    answer: int = 32
    k: int = 4
    batch: int = 4
    dtype: str = "bfloat16"
    lora_dim: int = 16


#: The case in the middle, around which one thing at a time is changed.
MIDDLE = Case()
CASES = [
    replace(MIDDLE, part=part, phase=phase, **change)
    for part, changes in {
        "middle": [{}],
        "size": [{"model": "10m"}, {"model": "80m"}, {"model": "135m"}],
        "prompt": [{"prompt": 512}],
        "answer": [{"answer": 128}],
        "k": [{"k": 2}, {"k": 8}],
        "batch": [{"batch": 1}, {"batch": 16}],
        "format": [{"dtype": "float32"}],
        "weights": [{"lora_dim": 0}],
    }.items()
    for change in changes
    for phase in ("reward model", "reinforcement learning")
    if part != "k" or phase != "reward model"
]


def main() -> None:
    """Measure every case and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="PART", help="one part alone")
    parser.add_argument("--steps", type=int, default=3, help="steps of each process, the first not counted")
    parser.add_argument(
        "--processor-time", action="store_true", help="for a machine that others use, with OMP_NUM_THREADS=1"
    )
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        if arguments.processor_time:
            time.monotonic = time.process_time  # type: ignore[assignment]
        found = measure_here(Case(**arguments.case), arguments.folder, arguments.steps)
        print(json.dumps(found))
        return
    cases = [case for case in CASES if arguments.only in (None, case.part)]
    with tempfile.TemporaryDirectory(prefix="scale-") as scratch:
        folder = Path(scratch)
        for case in cases:
            prepare(case, folder)
            found = measure(case, folder, arguments.steps)
            print(json.dumps(asdict(case) | found), file=sys.stderr, flush=True)


def prepare(case: Case, folder: Path) -> None:
    """Make what a case starts from, where it is not there yet: the base model, and for phase 2 a reward model."""
    if case.model != "135m" and not (folder / case.model).exists():
        write_model(folder / case.model, SHAPES[case.model])
    if case.phase != "reward model" and not (folder / f"reward-{case.model}").exists():
        measure(replace(case, phase="reward model", prompt=32, answer=8, batch=1, lora_dim=16), folder, 2)
        (folder / "run").rename(folder / f"reward-{case.model}")


def measure(case: Case, folder: Path, steps: int) -> dict[str, float]:
    """Run one case in a process of its own."""
    shutil.rmtree(folder / "run", ignore_errors=True)
    command = [sys.executable, __file__, "--case", json.dumps(asdict(case)), "--folder", str(folder)]
    done = subprocess.run([*command, "--steps", str(steps), *sys.argv[1:]], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{case} ended with status {done.returncode}:\n{done.stderr[-3000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def write_model(folder: Path, shape: tuple[int, int, int, int, int]) -> None:
    """Save a Llama of random weights with the sample's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from rlhf_tuning.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(SAMPLE_MODEL)
    hidden, intermediate, layers, heads, key_value_heads = shape
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            intermediate_size=intermediate,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=key_value_heads,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=tokenizer.bos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def measure_here(case: Case, folder: Path, steps: int) -> dict[str, float]:
    """Run one case in this process."""
    import torch

    from rlhf_tuning import reinforcement, reward_model, rollout

    sample = rollout.sample
    rollout.sample = lambda model, prompts, **settings: sample(model, prompts, **settings | {"ends": []})
    scratch = folder / "run"
    phase_1 = case.phase == "reward model"
    preferences = write_rows(folder, case, phase_1)
    lengths = {"prompt_sequence_length": case.prompt, "target_sequence_length": case.answer}
    if phase_1:
        reward_model.train_reward_model(
            reward_model.RewardModelConfig(
                large_model_reference=reference(case, folder),
                reward_model_train_steps=steps,
                reward_lora_dim=case.lora_dim,
                batch_size=case.batch,
                dtype=case.dtype,
                centring_prompts=32,  # one batch of those that generation takes, which is what memory depends on
                **lengths,
            ),
            preferences_path=str(preferences),
            eval_preferences_path=str(folder / "evaluation.jsonl"),
            output_dir=str(scratch),
            tensorboard_dir=str(scratch),
        )
    else:
        reinforcement.train_policy(
            reinforcement.ReinforcementConfig(
                large_model_reference=reference(case, folder),
                reinforcement_learning_train_steps=steps,
                lora_dim=case.lora_dim,
                batch_size=case.batch,
                num_generations=case.k,
                dtype=case.dtype,
                watch_prompts=0,
                **lengths,
            ),
            prompts_path=str(folder / "prompts.jsonl"),
            reward_model_dir=str(folder / f"reward-{case.model}"),
            adapter_dir=str(scratch),
            model_dir=str(scratch / "model"),
            tensorboard_dir=str(scratch),
        )
    lines = [json.loads(line) for line in (scratch / "metrics.jsonl").read_text().splitlines()]
    peak = float(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else peak_memory()
    return {"seconds": statistics.median(line["seconds_per_step"] for line in lines[1:]), "bytes": peak}


def peak_memory() -> float:
    """Return the most bytes that this process has had in memory. getrusage would count its parent's, before it was one."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return float(status.split("VmHWM:")[1].split()[0]) * 2**10


def write_rows(folder: Path, case: Case, phase_1: bool) -> Path:
    """Write rows that are longer than the limits, so that they are cut to them."""
    import random

    words = random.Random(0)

    def text(tokens: int) -> str:
        return " ".join(words.choices(WORDS, k=2 * tokens))

    prompts = [[{"role": "user", "content": text(case.prompt)}] for _ in range(3 * max(case.batch, 12))]
    path = folder / ("preferences.jsonl" if phase_1 else "prompts.jsonl")
    rows = [
        {"prompt": prompt} | ({"chosen": text(case.answer), "rejected": text(case.answer)} if phase_1 else {})
        for prompt in prompts
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "evaluation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:8]), encoding="utf-8")
    return path


def reference(case: Case, folder: Path) -> str:
    return SAMPLE_MODEL if case.model == "135m" else str(folder / case.model)


if __name__ == "__main__":
    main()
