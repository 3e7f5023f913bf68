"""Is over-optimisation caught, and is a healthy run left alone?

    python benchmarks/over_optimisation.py --runs 2000          # rates by simulation, a minute or two
    python benchmarks/over_optimisation.py --real --seeds 0 1 2  # planted loophole against a tiny real policy

Simulated: each run draws, for n prompts and so many looks, both rewards around the curves named in the table, in units of
the standard deviation of one answer's score. Three tenths of that variance belong to the prompt and stay from look to look;
the rest is the answer's, correlated by one half between neighbouring looks. "Skewed" takes squared normals for that part.
The rules are `rlhf_tuning.over_optimisation`'s own. Intervals are Wilson's, 95%.
"""

import argparse
from collections.abc import Sequence

import numpy as np

from rlhf_tuning.over_optimisation import Look, OverOptimisationWatch
from rlhf_tuning.statistics import wilson_interval

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
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    print(f"{options.runs:,} simulated runs a row, seed {options.seed}\n")
    print(
        "| held-out reward | prompts | looks | found over-optimised | looks from the peak until then | quality: last | highest | ours |"
    )
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


if __name__ == "__main__":
    main()
