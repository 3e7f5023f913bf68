"""How often does the gate promote a model that is no better, and how often one that is? By simulation.

    python benchmarks/promotion_gate.py --runs 20000
    python benchmarks/promotion_gate.py --repeated --runs 2000

Each run draws, for n prompts, whether the challenger's answer wins, ties or loses, and asks the condition of the gate that
can promote (the lower end of the 95% interval of the win rate above one half, and the exact sign test); beside it, what the
interval alone would do with equal models. The gate's other conditions can only refuse.
Equal models win as often as they lose; the better ones win the share of prompts that the column names, a tie counting half.
With `--repeated` each prompt has several answers, and the prompt decides nearly alone which model wins them: the challenger
wins 95% of the answers to a prompt that it is good at, and 5% of those to any other. Beside the gate, what the same two
conditions would do if they took every answer for a prompt of its own.
Seeded; the interval of each rate is Wilson's, 95%.
"""

import argparse
from collections.abc import Callable, Sequence

import numpy as np

from rlhf_tuning.evaluation.comparison import AnswerPair, ScoredAnswer, summarize
from rlhf_tuning.evaluation.gate import enough, shown_better
from rlhf_tuning.statistics import wilson_interval, win_rate

_PROMPTS = (50, 100, 200, 500, 1000)
_TIES = (0.0, 0.3)
_BETTER = (0.55, 0.60, 0.65, 0.70)
# Prompts, and answers to each.
_REPEATED = ((9, 12), (25, 4))
_GOOD_AT, _BAD_AT = 0.95, 0.05


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20_000, help="simulated runs for each cell; default: 20,000")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeated", action="store_true", help="print the table of repeated prompts, and it alone")
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    if options.repeated:
        _print_repeated(rng, options.runs, options.seed)
        return
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
    return _share(promoted, runs)


def _print_repeated(rng: np.random.Generator, runs: int, seed: int) -> None:
    print(f"Promotions of {runs:,} simulated runs, seed {seed}\n")
    rates = (0.5, 0.6, 0.7)
    print("| prompts | answers to each | equal models, answers counted | equal models | wins 60% | wins 70% |")
    print("|---" * 6 + "|", flush=True)
    for prompts, answers in _REPEATED:
        cells = []
        for rate in rates:
            counted, promoted = 0, 0
            for _ in range(runs):
                good = rng.random(prompts) < (rate - _BAD_AT) / (_GOOD_AT - _BAD_AT)
                won = rng.binomial(answers, np.where(good, _GOOD_AT, _BAD_AT)).tolist()
                (wins,) = summarize(_answers(won, answers)).measured
                promoted += shown_better(wins)
                counted += enough(sum(won), 0, prompts * answers - sum(won))
            cells += [_share(counted, runs)] * (rate == rates[0]) + [_share(promoted, runs)]
        print(f"| {prompts} | {answers} | " + " | ".join(cells) + " |", flush=True)


def _answers(won: Sequence[int], answers: int) -> list[AnswerPair]:
    """Return so many answers to each prompt, `won` of which the challenger's are the better ones."""
    scored = [ScoredAnswer(text=str(score), tokens=1, ended=True, reward=score) for score in (0.0, 1.0)]
    return [
        AnswerPair(
            prompt=[{"role": "user", "content": str(prompt)}], base=scored[answer >= wins], tuned=scored[answer < wins]
        )
        for prompt, wins in enumerate(won)
        for answer in range(answers)
    ]


def _share(count: int, runs: int) -> str:
    low, high = wilson_interval(count, runs)
    return f"{count / runs:.1%} [{low:.1%}, {high:.1%}]"


if __name__ == "__main__":
    main()
