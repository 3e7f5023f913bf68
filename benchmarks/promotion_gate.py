"""How often does the gate promote a model that is no better, and how often one that is? By simulation.

    python -m benchmarks.promotion_gate                    # every table, some minutes on one core
    python -m benchmarks.promotion_gate --tables better    # one of them

- `better`: a run draws, for n prompts, whether the challenger's answer wins, ties or loses, and asks the condition that can
  promote. Equal models win as often as they lose; the better ones win the share that the column names, a tie counting half.
- `repeated`: each prompt has several answers, and the prompt decides nearly alone who wins: the challenger wins 95% of the
  answers to a prompt that it is good at, and 5% of those to any other.
- `missing`: of equal models, verdicts are missing: on any pair alike, or on pairs that the challenger would have lost alone.
- `trusted`: a judge without skill chooses between the answers of human choices; its errors on one prompt go together.
- `drift`: the judge is a held-out reward model, and the challenger is as good as the champion at every checkpoint. What the
  reward model wrongly likes wanders as the policy moves: a random walk with so large a step between looks, in standard
  deviations of an answer's score. The watch's own rule chooses among 11 looks at 64 prompts, by the same reward model. The
  gate compares 200 answers: judged by that reward model ("chose"), by it at the last look ("last"), or by a third one that
  wanders by itself ("third").
- `choice`: the loss on held-out answers chooses among so many checkpoints, and held-out answers judge: whichever model finds
  the answer to a prompt more probable. What a checkpoint gains on a prompt is in part the prompt's and so the same for all
  checkpoints, in part its own. Judged are the prompts that chose ("same"), with as strict a test as for one of so many tries
  ("allowed for"), or two thirds of the prompts after the others have chosen ("apart"). All checkpoints are as good as the
  base model, or win the same share. `other judge` looks at something else, which goes with the gain (a correlation of 0.5).
- `tries`: equal challengers are held against the same champion one after the other, on the same prompts and against the same
  answers of the champion, until one is promoted.
- `length`: how often the interval of the win rate at equal length holds the truth, by how often either side is longer.
- `whole`: answers with everything that the gate looks at, and all its conditions at their defaults.

Seeded; intervals are Wilson's, 95%.
"""

import argparse
import math
import random
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np

from rlhf_tuning.evaluation.comparison import AnswerPair, JudgeRecord, ScoredAnswer, summarize
from rlhf_tuning.evaluation.gate import GateConfig, decide, once_each, shown_better
from rlhf_tuning.evaluation.judges.verdict import Agreement, Comparison, Verdict, agreement
from rlhf_tuning.models.text_format import Conversation, Turn
from rlhf_tuning.statistics import clustered_win_rate, length_controlled_win_rate, wilson_interval, win_rate
from rlhf_tuning.training.over_optimisation import Look, OverOptimisationWatch

_PROMPTS = (50, 100, 200, 500, 1000)
_TIES = (0.0, 0.3)
_BETTER = (0.55, 0.60, 0.65, 0.70)
# Prompts, and answers to each.
_REPEATED = ((9, 12), (25, 4), (100, 2))
_GOOD_AT, _BAD_AT = 0.95, 0.05
_LOOKS, _WATCHED, _JUDGED = 10, 64, 200
# Of an answer's score, what belongs to the prompt and is the same for both models.
_OF_THE_PROMPT = 0.3
_DRIFTS = (0.0, 0.025, 0.05, 0.1, 0.2)
_MARGINS = (0.0, GateConfig.gate_reward_model_margin, 0.2)
_TRIES = (1, 2, 5, 10)
# What is the same for all checkpoints of what one gains on a prompt, and what is this gain of another judge's verdict.
_OF_ALL, _GOES_WITH = (0.0, 0.5, 0.9), 0.5

Promotes = Callable[[int, int, int], bool]


def main() -> None:
    """Print the tables asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=[*TABLES], default=[*TABLES], help="default: all")
    parser.add_argument("--share", type=float, default=1.0, help="of the runs that each table takes; default: 1")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for name in options.tables:
        table, runs = TABLES[name]
        runs = max(1, round(runs * options.share))
        print(f"\n{name}: {runs:,} simulated runs a cell, seed {options.seed}\n")
        table(np.random.default_rng(options.seed), runs)


def better(rng: np.random.Generator, runs: int) -> None:
    """Print how often one judge's word promotes, by its win rate and the number of prompts."""
    margin = GateConfig.gate_reward_model_margin
    columns = ["prompts", "ties", "equal, by the interval alone", "equal"]
    columns += [f"wins {rate:.0%}" for rate in _BETTER] + [f"wins {rate:.0%}, reward model" for rate in _BETTER[2:]]
    _head(columns)
    for n in _PROMPTS:
        for ties in _TIES:
            cells = [_promoted(rng, n, ties, 0.5, runs, lambda *counts: win_rate(*counts).low > 0.5)]
            cells += [_promoted(rng, n, ties, rate, runs, lambda *counts: _shown(*counts)) for rate in (0.5, *_BETTER)]
            cells += [
                _promoted(rng, n, ties, rate, runs, lambda *counts: _shown(*counts, margin=margin))
                for rate in _BETTER[2:]
            ]
            _row([n, f"{ties:.0%}", *cells])


def _shown(wins: int, ties: int, losses: int, *, margin: float = 0.0) -> bool:
    return shown_better(once_each(wins, ties, losses), margin=margin)


def _promoted(rng: np.random.Generator, n: int, ties: float, rate: float, runs: int, promotes: Promotes) -> str:
    win = rate - ties / 2  # wins and half the ties make the win rate
    wins = rng.binomial(n, win, runs)
    losses = rng.binomial(n - wins, (1 - win - ties) / (1 - win))
    return _share(_count(wins, losses, n, promotes), runs)


def _count(wins: np.ndarray, losses: np.ndarray, n: int, promotes: Promotes) -> int:
    """Return how many runs are promoted, each distinct outcome asked once."""
    pairs, counts = np.unique(np.stack([wins, losses]), axis=1, return_counts=True)
    return sum(
        int(count)
        for (won, lost), count in zip(pairs.T.tolist(), counts, strict=True)
        if promotes(won, n - won - lost, lost)
    )


def repeated(rng: np.random.Generator, runs: int) -> None:
    """Print what answers to the same prompts do."""
    rates = (0.5, 0.6, 0.7)
    _head(["prompts", "answers to each", "equal, answers counted", "equal", "wins 60%", "wins 70%"])
    for prompts, answers in _REPEATED:
        cells = []
        for rate in rates:
            counted, promoted = 0, 0
            for _ in range(runs):
                good = rng.random(prompts) < (rate - _BAD_AT) / (_GOOD_AT - _BAD_AT)
                won = rng.binomial(answers, np.where(good, _GOOD_AT, _BAD_AT)).tolist()
                scores = [float(answer < wins) for wins in won for answer in range(answers)]
                prompt = [prompt for prompt in range(prompts) for _ in range(answers)]
                promoted += shown_better(clustered_win_rate(scores, prompt))
                counted += _shown(sum(won), 0, prompts * answers - sum(won))
            cells += [_share(counted, runs)] * (rate == rates[0]) + [_share(promoted, runs)]
        _row([prompts, answers, *cells])


def missing(rng: np.random.Generator, runs: int) -> None:
    """Print what missing verdicts do to equal models, and to the power."""
    least = GateConfig.gate_min_judged_share
    _head(["prompts", "missing", "of which pairs", "equal, the rest alone", "equal", "wins 60%", "wins 65%"])
    for n in (50, 200, 1000):
        for share in (0.05, 0.2):
            for kind in ("any", "lost alone"):
                cells = []
                for rate in (0.5, 0.6, 0.65):
                    alone = promoted = 0
                    for wins, losses in zip(*_outcomes(rng, n, rate, runs), strict=True):
                        gone = round(share * n)
                        of_losses = rng.hypergeometric(losses, wins, gone) if kind == "any" else min(losses, gone)
                        left = (wins - (gone - of_losses), 0, losses - of_losses)
                        alone += _SHOWN(*left)
                        promoted += sum(left) >= least * n and _SHOWN(left[0], 0, n - left[0])
                    cells += [_share(alone, runs)] * (rate == 0.5) + [_share(promoted, runs)]
                _row([n, f"{share:.0%}", kind, *cells])


def _outcomes(rng: np.random.Generator, n: int, rate: float, runs: int) -> tuple[list[int], list[int]]:
    wins = rng.binomial(n, rate, runs)
    return wins.tolist(), (n - wins).tolist()


class _Remembered(dict[tuple[int, int, int], bool]):
    def __missing__(self, counts: tuple[int, int, int]) -> bool:
        self[counts] = _shown(*counts)
        return self[counts]

    def __call__(self, *counts: int) -> bool:
        return self[counts]  # type: ignore[index]


_SHOWN = _Remembered()


def trusted(rng: np.random.Generator, runs: int) -> None:
    """Print how often a judge without skill is taken to agree with people."""
    _head(["prompts", "choices to each", "trusted, choices counted", "trusted"])
    for prompts, each in ((500, 1), (100, 5), (50, 10), (20, 25)):
        choices = [Comparison(_prompt(prompt), "a", "b") for prompt in range(prompts) for _ in range(each)]
        counted = found = 0
        for _ in range(runs):
            level = np.repeat(rng.choice([0.1, 0.9], prompts), each)
            right = (rng.random(len(level)) < level).tolist()
            said = agreement(choices, [Verdict(scores=(0.0, 1.0 if hit else -1.0)) for hit in right])
            assert said
            found += said.beyond_chance
            counted += wilson_interval(sum(right), len(right)).low > 0.5
        _row([prompts, each, _share(counted, runs), _share(found, runs)])


def drift(rng: np.random.Generator, runs: int) -> None:
    """Print what a judge does whose liking wanders with the policy, which chose the checkpoint, or did not."""
    ways = ("chose", "last", "third")
    _head(["drift a look", "its win rate is off by (sd)", *(f"{way}, margin {m:g}" for m in _MARGINS for way in ways)])
    for size in _DRIFTS:
        promoted = dict.fromkeys([(way, margin) for margin in _MARGINS for way in ways], 0)
        off = []
        for _ in range(runs):
            wanders = (
                np.concatenate([np.zeros((1, 2)), rng.normal(0, size, (_LOOKS, 2)).cumsum(axis=0)])
                if size
                else (np.zeros((_LOOKS + 1, 2)))
            )
            chosen = _chosen(rng, wanders[:, 0])
            likings = {"chose": wanders[chosen, 0], "last": wanders[-1, 0], "third": wanders[chosen, 1]}
            for way, liking in likings.items():
                wins = rng.binomial(_JUDGED, _win_rate(liking))
                found = once_each(wins, 0, _JUDGED - wins)
                for margin in _MARGINS:
                    # Step 0 is the base model itself: all ties.
                    promoted[way, margin] += (way == "last" or chosen > 0) and shown_better(found, margin=margin)
            off.append(_win_rate(wanders[-1, 0]) - 0.5)
        cells = [_share(count, runs) for count in promoted.values()]
        _row([f"{size:g}", f"{100 * float(np.std(off)):.1f} points", *cells])


def _win_rate(liking: float) -> float:
    """Return how often an answer is liked more than another as good, if it is liked by so much more on average."""
    return 0.5 * (1 + math.erf(liking / math.sqrt(2 * (1 - _OF_THE_PROMPT)) / math.sqrt(2)))


def _chosen(rng: np.random.Generator, liking: np.ndarray) -> int:
    """Return the look that the watch chooses."""
    own = math.sqrt(_OF_THE_PROMPT) * rng.normal(size=_WATCHED)
    scores = own + liking[:, None] + math.sqrt(1 - _OF_THE_PROMPT) * rng.normal(size=(_LOOKS + 1, _WATCHED))
    watch = OverOptimisationWatch(_LOOKS)
    for look, held_out in enumerate(scores.tolist()):
        watch.add(Look(step=look, reward=[value + 0.2 * look for value in held_out], held_out_reward=held_out))
        if watch.over_optimised:
            break
    return watch.outcome().best_step


def choice(rng: np.random.Generator, runs: int) -> None:
    """Print how often a model is promoted whose checkpoint was chosen, by what is judged on."""
    ways = ("same", "allowed for", "apart", "other judge, same", "other judge, allowed for")
    columns = ["prompts", "checkpoints", "same for all", *(f"equal, {way}" for way in ways)]
    _head([*columns, *(f"wins 65%, {way}" for way in ways[1:3]), "win rate too high by, same"])
    for n in (60, 200):
        for checkpoints in (4, 15):
            for of_all in _OF_ALL:
                promoted = {rate: dict.fromkeys(ways, 0) for rate in (0.5, 0.65)}
                high = 0.0
                for rate, found in promoted.items():
                    for _ in range(runs):
                        gains = math.sqrt(of_all) * rng.normal(size=n) + math.sqrt(1 - of_all) * rng.normal(
                            size=(checkpoints, n)
                        )
                        gains += NormalDist().inv_cdf(rate)
                        chosen = gains[gains.mean(axis=1).argmax()]
                        apart = gains[gains[:, : n // 3].mean(axis=1).argmax(), n // 3 :]
                        other = _GOES_WITH * chosen + math.sqrt(1 - _GOES_WITH**2) * rng.normal(size=n)
                        found["same"] += _wins_most(chosen)
                        found["allowed for"] += _wins_most(chosen, checkpoints)
                        found["apart"] += _wins_most(apart)
                        found["other judge, same"] += _wins_most(other)
                        found["other judge, allowed for"] += _wins_most(other, checkpoints)
                        if rate == 0.5:
                            high += float((chosen > 0).mean()) - rate
                cells = [_share(promoted[0.5][way], runs) for way in ways]
                cells += [_share(promoted[0.65][way], runs) for way in ways[1:3]]
                _row([n, checkpoints, f"{of_all:.0%}", *cells, f"{100 * high / runs:.1f} points"])


def _wins_most(gains: np.ndarray, tries: int = 1) -> bool:
    return _at_try(int((gains > 0).sum()), len(gains), tries)


def tries(rng: np.random.Generator, runs: int) -> None:
    """Print how often at least one of several equal challengers is promoted."""
    _head(["prompts", "correction", *(f"within {k} {'try' if k == 1 else 'tries'}" for k in _TRIES)])
    for n in (50, 200, 1000):
        found = {False: dict.fromkeys(_TRIES, 0), True: dict.fromkeys(_TRIES, 0)}
        for _ in range(runs):
            champion = rng.normal(size=n)
            wins = (rng.normal(size=(_TRIES[-1], n)) > champion).sum(axis=1).tolist()
            for corrected, within in found.items():
                first = next(
                    (k for k, won in enumerate(wins, 1) if _at_try(won, n, k if corrected else 1)), _TRIES[-1] + 1
                )
                for k in _TRIES:
                    within[k] += first <= k
        for corrected, within in found.items():
            label = "2.5% / k at try k" if corrected else "none"
            _row([n, label, *(_share(count, runs) for count in within.values())])


_AT_TRY: dict[tuple[int, int, int], bool] = {}


def _at_try(wins: int, n: int, k: int) -> bool:
    key = (wins, n, k)
    if key not in _AT_TRY:
        _AT_TRY[key] = shown_better(once_each(wins, 0, n - wins), tries=k)
    return _AT_TRY[key]


def length(rng: np.random.Generator, runs: int) -> None:
    """Print the coverage of the win rate at equal length."""
    _head(["longer by (sd)", "share where the other is longer", "length decides", "said nothing", "covers"])
    truth = 1 / (1 + math.exp(-0.4))
    for shift in (0.0, 1.0, 1.5, 2.0, 2.5):
        for taste in (1.0, 3.0):
            silent = covered = 0
            for _ in range(runs):
                lengths = rng.normal(shift, 1, _JUDGED)
                chance = 1 / (1 + np.exp(-(0.4 + taste * np.tanh(lengths))))
                scores = (rng.random(_JUDGED) < chance).astype(float)
                prompts, won = range(len(scores)), scores.tolist()
                rate = clustered_win_rate(won, prompts).rate
                found = length_controlled_win_rate(won, lengths.tolist(), prompts, rate)
                silent += found is None
                covered += found is not None and found.low <= truth <= found.high
            other = 0.5 * math.erfc(shift / math.sqrt(2))
            covers = _share(covered, runs - silent) if silent < runs else ""
            _row(
                [
                    f"{shift:g}",
                    f"{other:.1%}",
                    "little" if taste == 1 else "nearly alone",
                    f"{silent / runs:.0%}",
                    covers,
                ]
            )


def whole(rng: np.random.Generator, runs: int) -> None:
    """Print how often all conditions hold, for models that do no harm, and for such that do."""
    kinds = {
        "harmless": {},
        "refuses 15% more": {"refuses": 0.15},
        "15% more answers cut": {"cuts": 0.15},
        "30% at equal length": {"length": 1.0},
    }
    _head(["prompts", "harm", "wins 50%", "wins 60%", "wins 70%"])
    draw = random.Random(int(rng.integers(2**32)))
    for n in (50, 100, 200):
        for kind, harm in kinds.items():
            cells = []
            for rate in (0.5, 0.6, 0.7):
                promoted = sum(_whole(draw, n, rate, **harm) for _ in range(runs))
                cells.append(_share(promoted, runs))
            _row([n, kind, *cells])


def _whole(
    draw: random.Random, n: int, rate: float, *, refuses: float = 0.0, cuts: float = 0.0, length: float = 0.0
) -> bool:
    """Draw answers of both models and ask the gate."""
    pairs = []
    for index in range(n):
        longer = round(20 * draw.gauss(length, 1))
        # Where length wins, the challenger's answer is longer on average, and worse than one as long.
        won = draw.random() < (rate if not length else 1 / (1 + math.exp(0.85 - 4 * rate * math.tanh(longer / 20))))
        base = _answer(draw, index, refuses=0.02, cuts=0.2, tokens=100, score=0.0)
        tuned = _answer(
            draw, index + n, refuses=0.02 + refuses, cuts=0.2 + cuts, tokens=100 + longer, score=1.0 if won else -1.0
        )
        pairs.append(AnswerPair(prompt=_prompt(index), base=base, tuned=tuned))
    people = Agreement(0.7, 0.6, 0.8, 200)
    judges = [JudgeRecord(name=name, label=name, agreement=people) for name in ("scorer", "reward_model")]
    return decide(summarize(pairs, judges=judges), GateConfig(), champion="the base model").promote


def _answer(
    draw: random.Random, number: int, *, refuses: float, cuts: float, tokens: int, score: float
) -> ScoredAnswer:
    text = "I'm sorry, I can't help with that." if draw.random() < refuses else f"Number {number} is by the sea."
    reward = score + draw.gauss(0, 1)
    return ScoredAnswer(text=text, tokens=tokens, ended=draw.random() >= cuts, true_score=score, reward=reward, kl=10.0)


def _prompt(number: int) -> Conversation:
    return [Turn(role="user", content=f"Describe {number}.")]


def _head(columns: Sequence[str]) -> None:
    print("| " + " | ".join(columns) + " |")
    print("|---" * len(columns) + "|", flush=True)


def _row(cells: Sequence[object]) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def _share(count: int, runs: int) -> str:
    low, high = wilson_interval(count, runs)
    return f"{count / runs:.1%} [{low:.1%}, {high:.1%}]"


#: Name to the function that prints it, and its runs a cell.
TABLES: dict[str, tuple[Callable[[np.random.Generator, int], None], int]] = {
    "better": (better, 100_000),
    "repeated": (repeated, 2_000),
    "missing": (missing, 20_000),
    "trusted": (trusted, 2_000),
    "drift": (drift, 4_000),
    "choice": (choice, 4_000),
    "tries": (tries, 20_000),
    "length": (length, 1_000),
    "whole": (whole, 200),
}


if __name__ == "__main__":
    main()
