"""Does the faster phase 2 learn what TRL's own trainer learns? The same runs with both, over several seeds.

    python benchmarks/rl_learning.py --reward-model runs/rlhf-pipeline-.../train-reward-model/reward_model

Each run tunes the sample's base model on the sample's prompts against the same reward model with the same settings: once
with phase 2 as it is, once with TRL's RLOOTrainer in its place (which samples, shuffles, computes log-probabilities and its
loss as TRL has it, on the same adapter and the same reward function). Both policies then answer prompts that were not learnt
from; reported are the mean reward of the answers and their KL to the base model, and the difference of the two trainers
with a 95% interval over the seeds (Student's t). Random numbers are drawn in another order, so single answers differ.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MODEL = "smollm2-135m-instruct"
LENGTHS = {"prompt_sequence_length": 96, "target_sequence_length": 64}


def main() -> None:
    """Run both trainers for every seed and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--reward-model", type=Path, required=True, help="folder of a reward model of the sample's base"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--prompts", type=int, default=8, help="prompts a step")
    parser.add_argument("--k", type=int, default=4, help="answers to each")
    parser.add_argument("--rate", type=float, default=6.0, help="reinforcement_learning_rate_multiplier")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--side", choices=["ours", "trl"], help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(one_run(arguments)))
        return
    found: dict[str, list[dict[str, float]]] = {"trl": [], "ours": []}
    for seed in arguments.seeds:
        for side, results in found.items():
            command = [sys.executable, __file__, *sys.argv[1:], "--side", side, "--seed", str(seed)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                sys.exit(f"{side} ended with status {done.returncode}:\n{done.stderr[-3000:]}")
            results.append(json.loads(done.stdout.splitlines()[-1]))
            print(f"seed {seed}: {side} {results[-1]}", file=sys.stderr, flush=True)
    print("\n".join(table(arguments, found)))


def one_run(arguments: argparse.Namespace) -> dict[str, float]:
    """Tune with one trainer and one seed, and measure the policy on prompts that it has not seen."""
    from rlhf_tuning import sample
    from rlhf_tuning.evaluation import evaluate
    from rlhf_tuning.generation import generate
    from rlhf_tuning.models import base_model, reward_model
    from rlhf_tuning.models.text_format import TextFormat
    from rlhf_tuning.models.tokenizer import load_tokenizer
    from rlhf_tuning.training import reinforcement

    if arguments.side == "trl":
        reinforcement.on_policy = stock
    lines = {
        name: (Path(sample.__file__).parent / name).read_text(encoding="utf-8").splitlines()
        for name in ("prompts.jsonl", "eval_prompts.jsonl")
    }
    turns = {
        name: [[{"role": "user", "content": json.loads(line)["input_text"]}] for line in texts]
        for name, texts in lines.items()
    }
    with tempfile.TemporaryDirectory(prefix="rl-learning-") as scratch:
        folder = Path(scratch)
        rows = "".join(json.dumps({"prompt": turn}) + "\n" for turn in turns["prompts.jsonl"])
        (folder / "prompts.jsonl").write_text(rows, encoding="utf-8")
        started = time.monotonic()
        reinforcement.train_policy(
            reinforcement.ReinforcementConfig(
                large_model_reference=MODEL,
                reinforcement_learning_train_steps=arguments.steps,
                reinforcement_learning_rate_multiplier=arguments.rate,
                batch_size=arguments.prompts,
                num_generations=arguments.k,
                dtype=arguments.dtype,
                seed=arguments.seed,
                watch_prompts=0,
                **LENGTHS,
            ),
            prompts_path=str(folder / "prompts.jsonl"),
            reward_model_dir=str(arguments.reward_model),
            adapter_dir=str(folder / "adapter"),
            model_dir=str(folder / "tuned"),
            tensorboard_dir=str(folder / "tensorboard"),
        )
        seconds = time.monotonic() - started
        text_format = TextFormat(load_tokenizer(MODEL), **LENGTHS)
        asked = turns["eval_prompts.jsonl"]
        dtype = base_model.choose_dtype(arguments.dtype)
        tuned = base_model.load_causal_lm(str(folder / "tuned"), dtype=dtype).eval()
        answers = generate.generate_answers(tuned, text_format, asked, temperature=1.0, batch_size=64, seed=0)
        sequences = ([text_format.prompt_ids(turn) for turn in asked], [answer.ids for answer in answers])
        policy = evaluate.answer_log_probabilities(tuned, *sequences)
        reference = evaluate.answer_log_probabilities(base_model.load_causal_lm(MODEL, dtype=dtype).eval(), *sequences)
        scorer = reward_model.load_reward_model(str(arguments.reward_model), dtype=arguments.dtype)
        rewards = scorer.score(asked, [answer.text for answer in answers])
    return {
        "reward": statistics.fmean(rewards),
        "kl": statistics.fmean(a - b for a, b in zip(policy, reference, strict=True)),
        "tokens": statistics.fmean(answer.tokens for answer in answers),
        "n": len(rewards),
        "seconds": seconds,
    }


def stock(trainer_class: Any, **settings: Any) -> Any:
    """Return TRL's trainer as it is, but for prompts that are given as tokens."""

    class Stock(trainer_class):  # type: ignore[misc]
        def __init__(self, *, reference: None, **settings: Any) -> None:
            super().__init__(**settings)

        def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple[list[list[int]], None, dict[str, Any]]:
            return prompts, None, {}

    return Stock


def table(arguments: argparse.Namespace, found: dict[str, list[dict[str, float]]]) -> list[str]:
    """Return the result as Markdown."""
    import torch

    lines = [
        f"{MODEL}, {arguments.steps} steps of {arguments.prompts} prompts x {arguments.k} answers, learning rate multiplier "
        f"{arguments.rate}, dtype {arguments.dtype}; rewards and KL of {found['ours'][0]['n']} answers to other prompts; "
        f"{os.cpu_count()} cores, torch {torch.__version__}, Python {platform.python_version()}",
        "",
        "| seed | reward: TRL | ours | KL: TRL | ours | tokens: TRL | ours | minutes: TRL | ours |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for seed, theirs, mine in zip(arguments.seeds, found["trl"], found["ours"], strict=True):
        cells = [f"{side[key]:.2f}" for key in ("reward", "kl", "tokens") for side in (theirs, mine)]
        cells += [f"{side['seconds'] / 60:.1f}" for side in (theirs, mine)]
        lines.append(f"| {seed} | {' | '.join(cells)} |")
    for key, name in (("reward", "reward"), ("kl", "KL, nats per answer")):
        sides = [interval([result[key] for result in found[side]]) for side in ("trl", "ours")]
        both = zip(found["trl"], found["ours"], strict=True)
        difference = interval([mine[key] - theirs[key] for theirs, mine in both])
        lines += ["", f"{name}: TRL {sides[0]}, ours {sides[1]}, difference {difference}"]
    return lines


def interval(values: list[float]) -> str:
    """Return the mean with its 95% interval over the seeds."""
    from rlhf_tuning.statistics import mean_interval

    found = mean_interval(values)
    if found.n < 2:
        return f"{found.mean:.2f}"
    return f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}] (n = {found.n} seeds)"


if __name__ == "__main__":
    main()
