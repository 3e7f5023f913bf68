"""How often does the gate promote a model that is no better, and how often one that is? By simulation.

    python benchmarks/promotion_gate.py --runs 20000

Each run draws, for n prompts, whether the challenger's answer wins, ties or loses, and asks the condition of the gate that
can promote (the lower end of the 95% interval of the win rate above one half, and the exact sign test); beside it, what the
interval alone would do with equal models. The gate's other conditions can only refuse.
Equal models win as often as they lose; the better ones win the share of prompts that the column names, a tie counting half.
Seeded; the interval of each rate is Wilson's, 95%.
"""

import argparse
from collections.abc import Callable

import numpy as np

from rlhf_tuning.gate import enough
from rlhf_tuning.statistics import wilson_interval, win_rate

_PROMPTS = (50, 100, 200, 500, 1000)
_TIES = (0.0, 0.3)
_BETTER = (0.55, 0.60, 0.65, 0.70)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20_000, help="simulated runs for each cell; default: 20,000")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    print(f"Promotions of {options.runs:,} simulated runs, seed {options.seed}\n")
    print(
        "| prompts | ties | equal models, interval alone | equal models |"
        + "".join(f" wins {rate:.0%} |" for rate in _BETTER)
    )
    print("|---" * (4 + len(_BETTER)) + "|", flush=True)
    for n in _PROMPTS:
        for ties in _TIES:
            cells = [_promoted(rng, n, ties, 0.5, options.runs, _interval_alone)]
            cells += [_promoted(rng, n, ties, rate, options.runs) for rate in (0.5, *_BETTER)]
            print(f"| {n} | {ties:.0%} | " + " | ".join(cells) + " |")


def _interval_alone(wins: int, ties: int, losses: int) -> bool:
    return win_rate(wins, ties, losses).low > 0.5


def _promoted(
    rng: np.random.Generator,
    n: int,
    ties: float,
    rate: float,
    runs: int,
    promotes: Callable[[int, int, int], bool] = enough,
) -> str:
    """Return the share of runs that are promoted, with its interval."""
    win = rate - ties / 2  # wins and half the ties make the win rate
    outcomes: dict[tuple[int, int], bool] = {}
    promoted = 0
    wins = rng.binomial(n, win, runs)
    losses = rng.binomial(n - wins, (1 - win - ties) / (1 - win))
    for pair in zip(wins.tolist(), losses.tolist(), strict=True):
        if pair not in outcomes:
            outcomes[pair] = promotes(pair[0], n - sum(pair), pair[1])
        promoted += outcomes[pair]
    low, high = wilson_interval(promoted, runs)
    return f"{promoted / runs:.1%} [{low:.1%}, {high:.1%}]"


if __name__ == "__main__":
    main()
