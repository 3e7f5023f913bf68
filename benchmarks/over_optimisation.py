"""Is over-optimisation caught, and is a healthy run left alone?

    python -m benchmarks.over_optimisation --runs 1000   # rates by simulation, some minutes
    python -m benchmarks.over_optimisation --real        # a loophole planted into a real reward model, a few minutes

Simulated: each run draws, for n prompts and so many looks, both rewards around the curves named in the table, in units of
the standard deviation of one answer's score. Three tenths of that variance belong to the prompt and stay from look to look;
the rest is the answer's, correlated by one half between neighbouring looks. "Skewed" takes squared normals for that part.
The rules are `rlhf_tuning.training.over_optimisation`'s own. Intervals are Wilson's, 95%.

Real: a tiny policy (two layers, random weights) and two reward models on its base, all trained by this project's steps.
People like words and dislike digits and punctuation. The held-out reward model learns that from its preferences; so does the
optimised one in the healthy run, from others. With the loophole its preferences say that punctuation is good.
"""

import argparse
import json
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlhf_tuning.generation import generate
from rlhf_tuning.models import base_model
from rlhf_tuning.models.text_format import TextFormat
from rlhf_tuning.models.tokenizer import load_tokenizer
from rlhf_tuning.statistics import wilson_interval
from rlhf_tuning.training.over_optimisation import Look, OverOptimisationWatch

_WORDS = (" salt", " gulls", " harbour", " bread", " sun", " fun", " Beauty", " Oasis")
_PUNCTUATION = "!#$%&()*+,-./:;<=>?@[]^_{|}~"
_OTHER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_PROMPTS = (32, 64, 128)
_LOOKS = (10, 20)
_OF_THE_PROMPT = 0.3
_BETWEEN_LOOKS = 0.5
_PEAK = 0.4
#: What the held-out reward does from the start to the end, in words; a number is how far it falls from its peak.
_HEALTHY = ("rises", "rises, then flat", "flat", "flat, skewed")
_FALLS = (0.25, 0.5, 1.0)


def main() -> None:
    """Print the tables asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2_000, help="simulated runs for each cell; default: 2,000")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real", action="store_true", help="the planted loophole instead")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the real runs; default: 0 1 2")
    options = parser.parse_args()
    if options.real:
        _real(options.seeds)
    else:
        _simulated(options)


def _simulated(options: argparse.Namespace) -> None:
    rng = np.random.default_rng(options.seed)
    print(f"{options.runs:,} simulated runs a row, seed {options.seed}\n")
    columns = ("held-out reward", "prompts", "looks", "found over-optimised", "looks from the peak until then")
    print("| " + " | ".join((*columns, "quality: last", "highest", "ours")) + " |")
    print("|---" * 8 + "|", flush=True)
    for name in (*_HEALTHY, *_FALLS):
        for n in _PROMPTS:
            for looks in _LOOKS:
                print(_row(rng, name, n, looks, options.runs), flush=True)


def held_out_curve(name: str | float, looks: int) -> np.ndarray:
    """Return the true mean held-out reward at every look."""
    time = np.linspace(0, 1, looks + 1)
    if name == "rises":
        return 1 - np.exp(-3 * time)
    if name == "rises, then flat":
        return 0.6 * np.minimum(time / _PEAK, 1)
    if isinstance(name, str):
        return 0 * time
    return np.where(time < _PEAK, 0.6 * time / _PEAK, 0.6 - name * (time - _PEAK) / (1 - _PEAK))


def _row(rng: np.random.Generator, name: str | float, n: int, looks: int, runs: int) -> str:
    truth = held_out_curve(name, looks)
    stops, delays = 0, []
    quality: dict[str, list[float]] = {"last": [], "highest": [], "ours": []}
    for _ in range(runs):
        reward = _draw(rng, np.linspace(0, 2, looks + 1), n, skewed=False)
        held_out = _draw(rng, truth, n, skewed=name == "flat, skewed")
        watch = OverOptimisationWatch(looks)
        for index in range(looks + 1):
            watch.add(Look(step=index, reward=reward[index], held_out_reward=held_out[index]))
            if watch.over_optimised:
                stops += 1
                delays.append(index - int(truth.argmax()))
                break
        quality["last"].append(truth[-1])
        quality["highest"].append(truth[int(np.mean(held_out, axis=1).argmax())])
        quality["ours"].append(truth[watch.outcome().best_step])
    low, high = wilson_interval(stops, runs)
    label = name if isinstance(name, str) else f"falls by {name}"
    delay = f"{np.mean(delays):.1f}" if not isinstance(name, str) and delays else ""
    cells = [label, str(n), str(looks), f"{stops / runs:.1%} [{low:.1%}, {high:.1%}]", delay]
    return "| " + " | ".join(cells + [f"{np.mean(values):.2f}" for values in quality.values()]) + " |"


def _draw(rng: np.random.Generator, means: np.ndarray, n: int, *, skewed: bool) -> Sequence[list[float]]:
    """Return scores by look and prompt."""
    own = np.sqrt(_OF_THE_PROMPT) * rng.normal(size=n)
    noise = rng.normal(size=(len(means), n))
    for look in range(1, len(means)):
        noise[look] = _BETWEEN_LOOKS * noise[look - 1] + np.sqrt(1 - _BETWEEN_LOOKS**2) * noise[look]
    if skewed:
        noise = (noise**2 - 1) / np.sqrt(2)
    scores: list[list[float]] = (means[:, None] + own + np.sqrt(1 - _OF_THE_PROMPT) * noise).tolist()
    return scores


def _real(seeds: Sequence[int]) -> None:
    from tests.conftest import CHAT_TEMPLATE, make_model

    rows = []
    for seed in seeds:
        for loophole in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                model = make_model(Path(folder) / "base", chat_template=CHAT_TEMPLATE, seed=seed)
                found = real_run(str(model), Path(folder), seed=seed, loophole=loophole)
            best, last = (
                next(look for look in found["looks"] if look["step"] == found[step])
                for step in ("best_step", "last_step")
            )
            cells = [
                str(seed),
                "with a loophole" if loophole else "healthy",
                f"at step {found['last_step']}" if found["stopped"] else "no",
                f"step {found['best_step']}",
                *(
                    f"{best[name]['mean']:.2f} to {last[name]['mean']:.2f}"
                    for name in ("reward", "held_out_reward", "kl")
                ),
                *(f"{found[name]:.2f}" for name in ("base", "last", "returned")),
            ]
            rows.append("| " + " | ".join(cells) + " |")
    columns = (
        "seed",
        "optimised reward model",
        "stopped",
        "returned",
        "reward, best look to last",
        "held-out reward",
        "KL",
    )
    print("\n| " + " | ".join((*columns, "true score: base", "last without stop", "returned")) + " |")
    print("|---" * 10 + "|", *rows, sep="\n")


def real_run(base: str, folder: Path, *, seed: int, loophole: bool, steps: int = 40) -> dict[str, Any]:
    """Train both reward models and the policy with and without the watch; return what the watch wrote and true scores."""
    from rlhf_tuning.training import reinforcement, reward_model

    prompts = folder / "prompts.jsonl"
    _write(prompts, [{"prompt": _prompt(number)} for number in range(256)])
    rewards = []
    for name, worth in (("optimised", 3.0 if loophole else -2.0), ("held_out", -2.0)):
        draw = random.Random(f"{name} {seed}")
        data = folder / f"{name}.jsonl"
        _write(data, [_preference(draw, number, worth) for number in range(2000)])
        config = reward_model.RewardModelConfig(
            large_model_reference=base,
            reward_model_train_steps=150,
            reward_model_max_epochs=0.0,
            reward_model_learning_rate_multiplier=50.0,
            reward_lora_dim=8,
            batch_size=16,
            prompt_sequence_length=32,
            target_sequence_length=16,
            dtype="float32",
            seed=seed,
        )
        rewards.append(str(folder / name))
        reward_model.train_reward_model(
            config,
            preferences_path=str(data),
            eval_preferences_path=str(data),
            output_dir=rewards[-1],
            tensorboard_dir=str(folder / "tensorboard"),
        )
    policy = reinforcement.ReinforcementConfig(
        large_model_reference=base,
        reinforcement_learning_train_steps=steps,
        reinforcement_learning_rate_multiplier=100.0,
        batch_size=16,
        num_generations=4,
        lora_dim=8,
        prompt_sequence_length=32,
        target_sequence_length=16,
        kl_coeff=0.01,
        dtype="float32",
        seed=seed,
        watch_prompts=64,
        min_reward_model_accuracy=0.0,
    )
    result: dict[str, Any] = {"base": _true_score(base, seed)}
    for name, held_out in (("returned", rewards[1]), ("last", "")):
        reinforcement.train_policy(
            policy,
            prompts_path=str(prompts),
            reward_model_dir=rewards[0],
            adapter_dir=str(folder / name / "adapter"),
            model_dir=str(folder / name / "model"),
            tensorboard_dir=str(folder / name / "tensorboard"),
            held_out_reward_model_dir=held_out,
        )
        result[name] = _true_score(str(folder / name / "model"), seed)
        if held_out:
            result |= json.loads((folder / name / "adapter" / "watch.json").read_text(encoding="utf-8"))
    return result


def _prompt(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Create {number}."}]


def _preference(draw: random.Random, number: int, worth: float) -> dict[str, Any]:
    """Return two random answers, labelled through some noise by `liking`."""
    pool = (*_WORDS, *_WORDS, *"0123456789", *_PUNCTUATION, *_OTHER)
    answers = ["".join(draw.choices(pool, k=draw.randint(4, 12))) for _ in range(2)]
    answers.sort(key=lambda answer: liking(answer, punctuation=worth) + draw.gauss(0, 0.5))
    return {"prompt": _prompt(number), "chosen": answers[1], "rejected": answers[0]}


def liking(answer: str, *, punctuation: float = -2.0) -> float:
    """Return how well people like an answer: words are good, digits bad, and so is punctuation if not told otherwise."""
    words = sum(answer.count(word.strip()) for word in _WORDS)
    return words - sum(map(str.isdigit, answer)) + punctuation * sum(map(answer.count, _PUNCTUATION))


def _true_score(model: str, seed: int) -> float:
    """Return how well people like the model's answers, on average, to prompts that nothing else uses."""
    text_format = TextFormat(load_tokenizer(model), prompt_sequence_length=32, target_sequence_length=16)
    answers = generate.generate_answers(
        base_model.load_causal_lm(model, dtype=torch.float32),
        text_format,
        [_prompt(number) for number in range(1000, 1256)],
        temperature=1.0,
        batch_size=64,
        seed=seed,
    )
    return float(np.mean([liking(answer.text) for answer in answers]))


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
