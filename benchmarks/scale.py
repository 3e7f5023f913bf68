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
import math
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rlhf_tuning.accelerators import GPUS
from rlhf_tuning.models.architecture import LLAMA_1B, LLAMA_8B, LLAMA_70B, SMOLLM2_135M, Architecture
from rlhf_tuning.planning.calibration import this_machine
from rlhf_tuning.planning.forecast import GB, Hardware, Phase, Plan, forecast, gpu_hardware, micro_batch

SAMPLE_MODEL = "smollm2-135m-instruct"
#: One batch of those that generation takes on a CPU, which is what memory depends on.
CENTRING_PROMPTS = 64
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
        found = []
        for case in cases:
            prepare(case, folder)
            found.append((case, measure(case, folder, steps=arguments.steps, processor_time=arguments.processor_time)))
            print(json.dumps([asdict(case), found[-1][1]]), file=sys.stderr, flush=True)
        print("\n".join([*heading(arguments), *measured_table(found), "", *large_table()]))


def heading(arguments: argparse.Namespace) -> list[str]:
    import os

    import torch

    hardware = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} cores, no GPU"
    clock = "processor time, on a machine that others use" if arguments.processor_time else "by the clock"
    threads = f"{torch.get_num_threads()} threads, torch {torch.__version__}, Python {platform.python_version()}"
    return [f"{hardware}, {threads}; seconds {clock}", ""]


def forecast_of(case: Case, hardware: Hardware) -> Phase:
    """Return the forecast for a case, on hardware measured for it."""
    shape = architecture_of(case.model)
    return next(phase for phase in forecast(plan_of(case), shape, hardware).phases if phase.name == case.phase)


def plan_of(case: Case) -> Plan:
    return Plan(
        prompt_sequence_length=case.prompt,
        target_sequence_length=case.answer,
        lora_dim=case.lora_dim,
        reward_lora_dim=case.lora_dim if case.phase == "reward model" else 16,
        batch_size=case.batch,
        num_generations=case.k,
        held_out_reward_model_share=0.0,
        watch_prompts=0,
    )


def architecture_of(model: str) -> Architecture:
    if model == "135m":
        return SMOLLM2_135M
    hidden, intermediate, layers, heads, key_value_heads = SHAPES[model]
    return Architecture(
        name=model,
        hidden=hidden,
        intermediate=intermediate,
        layers=layers,
        heads=heads,
        query=hidden,
        key_value=key_value_heads * hidden // heads,
        vocabulary=SMOLLM2_135M.vocabulary,
        tied=True,
        stored_bytes=4,
    )


def measured_table(found: list[tuple[Case, dict[str, float]]]) -> list[str]:
    """Return what was measured beside what is forecast, and the errors, as Markdown."""
    lines = [
        "| phase | model | prompt | answer | k | batch | numbers | LoRA | memory, GB | forecast | error | seconds a step "
        "| forecast | error |",
        "|" + "---|" * 14,
    ]
    errors: dict[str, list[float]] = {"memory": [], "time": []}
    for case, result in found:
        hardware = Hardware(
            name="",
            memory=0,
            flops=result["flops"],
            bandwidth=result["bandwidth"],
            elementwise=result["elementwise"],
            number_bytes=2 if case.dtype == "bfloat16" else 4,
            cpu=bool(result["cpu"]),
        )
        phase = forecast_of(case, hardware)
        memory, seconds = phase.peak[1] / result["bytes"] - 1, phase.step_seconds / result["seconds"] - 1
        errors["memory"].append(abs(memory))
        errors["time"].append(abs(seconds))
        k = case.k if case.phase != "reward model" else ""
        lines.append(
            f"| {case.phase} | {case.model} | {case.prompt} | {case.answer} | {k} | {case.batch} | {case.dtype} "
            f"| {case.lora_dim or 'none'} | {result['bytes'] / GB:.2f} | {phase.peak[1] / GB:.2f} ({phase.peak[0]}) "
            f"| {memory:+.0%} | {result['seconds']:.2f} | {phase.step_seconds:.2f} | {seconds:+.0%} |"
        )
    lines += ["", "| error of the forecast | median | nine of ten cases within | worst |", "|---|---|---|---|"]
    for name, values in errors.items():
        ordered = sorted(values)
        most = ordered[math.ceil(0.9 * len(ordered)) - 1]
        lines.append(
            f"| {name} (n = {len(values)}) | {statistics.median(values):.0%} | {most:.0%} | {ordered[-1]:.0%} |"
        )
    return lines


def large_table() -> list[str]:
    """Return the forecast for models that fit on no machine of ours, as Markdown."""
    middle = Plan()
    lines = [
        "| model | prompt | answer | k | batch | GB on each GPU, A100 | seconds a step, reward model, A100 "
        "| reinforcement learning, A100 | H100 | hours in all, A100 | H100 |",
        "|" + "---|" * 11,
    ]
    changes: list[dict[str, int]] = [
        {},
        {"prompt_sequence_length": 2048},
        {"target_sequence_length": 512},
        {"num_generations": 16},
        {"batch_size": 256},
        {"lora_dim": 0, "reward_lora_dim": 0},
    ]
    for model in (LLAMA_1B, LLAMA_8B, LLAMA_70B):
        for change in changes:
            plan = replace(middle, **change)  # type: ignore[arg-type]
            a100, h100 = (forecast(plan, model, gpu_hardware(kind, GPUS[kind], 8)) for kind in ("a100-80gb", "h100"))
            fits = "" if a100.peak <= a100.hardware.memory else ", does not fit"
            weights = "divided" if a100.sharded else "whole"
            lora = "" if plan.lora_dim else ", all weights"
            lines.append(
                f"| {model.name}{lora} | {plan.prompt_sequence_length} | {plan.target_sequence_length} "
                f"| {plan.num_generations} | {plan.batch_size} | {a100.peak / GB:.0f}, {weights}{fits} "
                f"| {a100.phases[0].step_seconds:.2f} | {a100.phases[-1].step_seconds:.1f} "
                f"| {h100.phases[-1].step_seconds:.1f} | {a100.all_hours:.1f} | {h100.all_hours:.1f} |"
            )
    return lines


def prepare(case: Case, folder: Path) -> None:
    """Make what a case starts from, where it is not there yet: the base model, and for phase 2 a reward model."""
    if case.model != "135m" and not (folder / case.model).exists():
        write_model(folder / case.model, SHAPES[case.model])
    if case.phase != "reward model" and not (folder / f"reward-{case.model}").exists():
        measure(replace(case, phase="reward model", prompt=32, answer=8, batch=1, lora_dim=16), folder, steps=2)
        (folder / "run").rename(folder / f"reward-{case.model}")


def measure(case: Case, folder: Path, *, steps: int, processor_time: bool = False) -> dict[str, float]:
    """Run one case in a process of its own."""
    shutil.rmtree(folder / "run", ignore_errors=True)
    command = [sys.executable, __file__, "--case", json.dumps(asdict(case)), "--folder", str(folder)]
    command += ["--steps", str(steps), *(["--processor-time"] if processor_time else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{case} ended with status {done.returncode}:\n{done.stderr[-3000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def write_model(folder: Path, shape: tuple[int, int, int, int, int]) -> None:
    """Save a Llama of random weights with the sample's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from rlhf_tuning.models.tokenizer import load_tokenizer

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
    from process_memory import peak_memory

    from rlhf_tuning.generation import rollout
    from rlhf_tuning.training import reinforcement, reward_model

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
                reward_model_max_epochs=0.0,
                reward_lora_dim=case.lora_dim,
                batch_size=case.batch,
                dtype=case.dtype,
                centring_prompts=CENTRING_PROMPTS,
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
                min_reward_model_accuracy=0.0,
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
    seconds = statistics.median(line["seconds_per_step"] for line in lines[1:])
    # After the run, so that it does not count among its memory; before others change the machine's load.
    rows = micro_batch(case.batch, 8) * case.prompt
    here = this_machine(architecture_of(case.model), tokens=rows, dtype=case.dtype, clock=time.monotonic)
    return {
        "seconds": seconds,
        "bytes": peak,
        "flops": here.flops,
        "bandwidth": here.bandwidth,
        "elementwise": here.elementwise,
        "cpu": here.cpu,
    }


def write_rows(folder: Path, case: Case, phase_1: bool) -> Path:
    """Write rows that are longer than the limits, so that they are cut to them."""
    import random

    words = random.Random(0)

    def text(tokens: int) -> str:
        return " ".join(words.choices(WORDS, k=2 * tokens))

    prompts = [[{"role": "user", "content": text(case.prompt)}] for _ in range(max(3 * case.batch, CENTRING_PROMPTS))]
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
