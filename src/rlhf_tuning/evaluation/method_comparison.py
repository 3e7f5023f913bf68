"""Several ways to tune one model, each against each: win rates, how sure they are, and what to take.

Every method is trained once for each seed and answers the same prompts. Two sources of luck are told apart:

- Prompts. Win rates have an interval in which a prompt is one trial, whatever the number of seeds: its answers depend on
  each other. The exact sign test over prompts, both sides, gives a p-value, and Holm's method adjusts the p-values of all
  pairs for their number. That says whether these trained models differ.
- Trainings. With two seeds or more the win rates of the seeds have a Student interval of their own. That says whether
  training again would end likewise.

A difference counts as shown where the adjusted p-value is at most `LEVEL` and, with several seeds, the interval over seeds
lies on the same side of one half. What is advised rests on the first judge, in the order of trust, that is independent of
the training and agrees with people; the reward that was optimised never decides.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from statistics import fmean
from typing import Any, Literal

from rlhf_tuning.evaluation.comparison import (
    OPTIMISED,
    SCORE_OF,
    WORTH,
    AnswerPair,
    JudgeRecord,
    ScoredAnswer,
    is_trusted,
    pair_outcome,
    percent,
)
from rlhf_tuning.evaluation.judges.verdict import Agreement, Verdict
from rlhf_tuning.models.text_format import Conversation, conversation_key
from rlhf_tuning.statistics import (
    MeanEstimate,
    WinRate,
    clustered_mean,
    holm,
    length_controlled_win_rate,
    mean_interval,
    repeated_win_rate,
    sign_test,
)

#: Of Holm's method: so often at most is any of the differences that are called shown none, where prompts decide alone.
LEVEL = 0.05
#: The model that was not tuned.
BASE = "base"
#: The method that answers by choosing among samples of the base model.
BEST_OF_N = "best_of_n"

Outcome = Literal["better", "unclear", "worse"]
#: The verdicts of a judge that is shown both answers: by the pair of methods, then the seed, in the order of the prompts.
Verdicts = Mapping[tuple[str, str], Mapping[int, Sequence[Verdict | None]]]


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A method with what it answered and what it took.

    Args:
        name: Such as `dpo`.
        label: How people read it.
        answers: By seed, in the order of the prompts.
        seconds: What its training took, by seed, with loading and saving; nothing where nothing was trained.
        forecast: What its training was forecast to take; None where nobody asked.
        steps: The optimizer steps that it was given; 0 for none.
        samples: How many answers are sampled for each that is given.
    """

    name: str
    label: str
    answers: Mapping[int, Sequence[ScoredAnswer]]
    seconds: Mapping[int, float] = field(default_factory=dict)
    forecast: float | None = None
    steps: int = 0
    samples: int = 1

    @property
    def most_kl(self) -> float | None:
        """Return what KL of choosing the best of n samples is at most: log n - (n - 1) / n.

        Stated by Stiennon et al. 2020 (arXiv:2009.01325), shown to be a bound by Beirami et al. 2024 (arXiv:2401.01879).
        None for other methods, whose KL is estimated.
        """
        return math.log(self.samples) - (self.samples - 1) / self.samples if self.samples > 1 else None

    @property
    def mean_seconds(self) -> float:
        """Return what a training took, on average over the seeds."""
        return fmean(self.seconds.values()) if self.seconds else 0.0


@dataclass(frozen=True, kw_only=True)
class Duel:
    """One method against another, by one judge.

    Args:
        first: The method whose wins count.
        second: Its opponent.
        rate: The win rate over all seeds; a prompt is one trial.
        won: In how many prompts it wins more often than it loses.
        lost: In how many it loses more often.
        unjudged: Pairs of answers without a verdict, which count for nothing.
        by_seed: The win rate of each seed.
        over_seeds: Their mean, in which a training is one trial; None with one seed.
        at_equal_length: The win rate had all answers been as long as their opponents; None when that cannot be told.
        adjusted: The p-value of the sign test over prompts, both sides, adjusted for the number of pairs.
    """

    first: str
    second: str
    rate: WinRate
    won: int
    lost: int
    unjudged: int
    by_seed: Mapping[int, float]
    over_seeds: MeanEstimate | None
    at_equal_length: MeanEstimate | None
    adjusted: float = 1.0

    @property
    def p(self) -> float:
        """Return the p-value of the exact sign test over prompts, both sides, before it is adjusted."""
        return min(1.0, 2 * sign_test(max(self.won, self.lost), min(self.won, self.lost)))

    @property
    def outcome(self) -> Outcome:
        """Return what is shown."""
        low, high = (self.over_seeds.low, self.over_seeds.high) if self.over_seeds else (self.rate.rate, self.rate.rate)
        if self.adjusted > LEVEL:
            return "unclear"
        if self.won > self.lost and self.rate.low > 0.5 and low > 0.5:
            return "better"
        return "worse" if self.lost > self.won and self.rate.high < 0.5 and high < 0.5 else "unclear"

    @property
    def turned(self) -> "Duel":
        """Return the same from the other side."""
        rate = self.rate
        over, equal = self.over_seeds, self.at_equal_length
        return replace(
            self,
            first=self.second,
            second=self.first,
            rate=WinRate(1 - rate.rate, 1 - rate.high, 1 - rate.low, rate.losses, rate.ties, rate.wins, rate.n),
            won=self.lost,
            lost=self.won,
            by_seed={seed: 1 - share for seed, share in self.by_seed.items()},
            over_seeds=over and _turned(over),
            at_equal_length=equal and _turned(equal),
        )


def _turned(share: MeanEstimate) -> MeanEstimate:
    return MeanEstimate(1 - share.mean, 1 - share.high, 1 - share.low, share.n)


@dataclass(frozen=True, kw_only=True)
class Table:
    """What one judge says of all pairs.

    Args:
        measure: One of `comparison.SCORES`, or a language-model judge's name.
        label: How people read it.
        agreement: How often the judge agrees with held-out human choices; None when it was not checked.
        duels: For each pair in the methods' order, the later method against the earlier one.
    """

    measure: str
    label: str
    agreement: Agreement | None
    duels: Mapping[tuple[str, str], Duel]

    @property
    def decides(self) -> bool:
        """Say whether advice may rest on it."""
        return self.measure != OPTIMISED and is_trusted(self.measure, self.agreement)

    def duel(self, first: str, second: str) -> Duel:
        """Return what a method does against another."""
        return self.duels[first, second] if (first, second) in self.duels else self.duels[second, first].turned

    def mean_rate(self, method: str) -> float:
        """Return a method's win rate against the others, on average."""
        others = dict.fromkeys(name for pair in self.duels for name in pair if name != method)
        return fmean(self.duel(method, other).rate.rate for other in others)


@dataclass(frozen=True, kw_only=True)
class MethodComparison:
    """Everything that the table and the page say.

    Args:
        prompts: What was asked.
        methods: In the order of how much there is to do, the base model first.
        seeds: Of the trainings.
        tables: One for each judge that gave verdicts, the most trusted first.
        notes: What a person should know of the judges' work.
    """

    prompts: Sequence[Conversation]
    methods: Sequence[Contestant]
    seeds: Sequence[int]
    tables: Sequence[Table]
    notes: Sequence[str] = ()

    @property
    def decisive(self) -> Table | None:
        """Return the table that advice rests on."""
        return next((table for table in self.tables if table.decides), None)

    def label(self, name: str) -> str:
        """Return how people read a method."""
        return next(method.label for method in self.methods if method.name == name)

    def mean(self, method: Contestant, measure: str) -> MeanEstimate | None:
        """Return the mean of a number on a method's answers, `tokens` and `ended` included; a prompt is one trial."""
        values: list[float] = []
        asked: list[int] = []
        for answers in method.answers.values():
            for index, answer in enumerate(answers):
                value = vars(answer)[measure]
                if value is not None:
                    values.append(float(value))
                    asked.append(index)
        return clustered_mean(values, asked) if values else None

    def as_json(self) -> dict[str, Any]:
        """Return the numbers, without the answers."""
        headline, sentences = advice(self)
        return {
            "advice": headline,
            "because": sentences,
            "seeds": list(self.seeds),
            "prompts": len(self.prompts),
            "level": LEVEL,
            "decided_by": self.decisive.measure if self.decisive else None,
            "methods": {
                method.name: {
                    "label": method.label,
                    "steps": method.steps,
                    "samples_per_answer": method.samples,
                    "training_seconds": {str(seed): seconds for seed, seconds in method.seconds.items()},
                    "forecast_seconds": method.forecast,
                    "most_kl": method.most_kl,
                    **{
                        measure: found._asdict()
                        for measure in MEASURES
                        if (found := self.mean(method, measure)) is not None
                    },
                }
                for method in self.methods
            },
            "judges": [
                {
                    "measure": table.measure,
                    "label": table.label,
                    "decides": table.decides,
                    "agreement": table.agreement._asdict() if table.agreement else None,
                    "duels": [_duel_as_json(duel) for duel in table.duels.values()],
                }
                for table in self.tables
            ],
            "notes": list(self.notes),
        }


#: Numbers on answers that a table may show.
MEASURES = ("true_score", "held_out_reward", "reward", "kl", "tokens", "ended")


def _duel_as_json(duel: Duel) -> dict[str, Any]:
    return {
        "first": duel.first,
        "second": duel.second,
        "win_rate": duel.rate._asdict(),
        "prompts_won": duel.won,
        "prompts_lost": duel.lost,
        "unjudged": duel.unjudged,
        "by_seed": {str(seed): share for seed, share in duel.by_seed.items()},
        "over_seeds": duel.over_seeds._asdict() if duel.over_seeds else None,
        "at_equal_length": duel.at_equal_length._asdict() if duel.at_equal_length else None,
        "p": duel.p,
        "p_holm": duel.adjusted,
        "outcome": duel.outcome,
    }


def pairs_of(methods: Sequence[str]) -> list[tuple[str, str]]:
    """Return all pairs: the later method, whose wins count, and the earlier one."""
    return [(second, first) for first, second in combinations(methods, 2)]


def compare_each(
    prompts: Sequence[Conversation],
    methods: Sequence[Contestant],
    *,
    judges: Sequence[JudgeRecord],
    verdicts: Mapping[str, Verdicts],
) -> MethodComparison:
    """Return what the judges say of each method against each.

    Args:
        prompts: What was asked.
        methods: What was answered, with the scores of judges that score each answer by itself.
        judges: What is known of the judges, the most trusted first.
        verdicts: Those of judges that are shown both answers, by the judge's name.
    """
    tables = [
        _table(prompts, methods, SCORE_OF.get(record.name, record.name), record, verdicts.get(record.name, {}))
        for record in judges
    ]
    return MethodComparison(
        prompts=prompts,
        methods=methods,
        seeds=list(methods[0].answers),
        tables=[table for table in tables if table],
        notes=[f"{record.label}: {note}" for record in judges for note in record.notes],
    )


def _table(
    prompts: Sequence[Conversation],
    methods: Sequence[Contestant],
    measure: str,
    record: JudgeRecord,
    verdicts: Verdicts,
) -> Table | None:
    by_name = {method.name: method for method in methods}
    duels = {}
    for first, second in pairs_of(list(by_name)):
        duel = _duel(prompts, by_name[first], by_name[second], measure, verdicts.get((first, second), {}))
        if duel is None:
            return None
        duels[first, second] = duel
    adjusted = holm([duel.p for duel in duels.values()])
    return Table(
        measure=measure,
        label=record.label,
        agreement=record.agreement,
        duels={
            pair: replace(duel, adjusted=value) for (pair, duel), value in zip(duels.items(), adjusted, strict=True)
        },
    )


def _duel(
    prompts: Sequence[Conversation],
    first: Contestant,
    second: Contestant,
    measure: str,
    verdicts: Mapping[int, Sequence[Verdict | None]],
) -> Duel | None:
    keys = [conversation_key(prompt) for prompt in prompts]
    scores: list[float] = []
    lengths: list[float] = []
    asked: list[str] = []
    by_seed: dict[int, float] = {}
    unjudged = 0
    for seed, answers in first.answers.items():
        before = len(scores)
        for index, (tuned, base) in enumerate(zip(answers, second.answers[seed], strict=True)):
            verdict = verdicts[seed][index] if seed in verdicts else None
            said = {measure: verdict} if verdict else {}
            pair = AnswerPair(prompt=prompts[index], base=base, tuned=tuned, verdicts=said)
            outcome = pair_outcome(pair, measure)
            if outcome is None:
                unjudged += 1
                continue
            scores.append(WORTH[outcome])
            lengths.append(float(tuned.tokens - base.tokens))
            asked.append(keys[index])
        if len(scores) > before:
            by_seed[seed] = fmean(scores[before:])
    if not scores:
        return None
    found = repeated_win_rate(scores, asked)
    return Duel(
        first=first.name,
        second=second.name,
        rate=found.rate,
        won=found.won,
        lost=found.lost,
        unjudged=unjudged,
        by_seed=by_seed,
        over_seeds=mean_interval(list(by_seed.values())) if len(by_seed) > 1 else None,
        at_equal_length=length_controlled_win_rate(scores, lengths, asked, found.rate),
    )


def advice(found: MethodComparison) -> tuple[str, list[str]]:
    """Return what to take, in a sentence, and the sentences that say what it rests on.

    Advised is the first method, in their order, that is shown to beat the base model while none is shown to beat it.
    """
    table = found.decisive
    if table is None:
        asked = ", ".join(table.label for table in found.tables) or "nobody"
        return "No advice: nobody who judged is both independent and shown to agree with people.", [
            f"Judged by {asked}. Name a judge (judge, judge_model) or a scorer, or give more preferences: a held-out reward "
            "model decides where it agrees with people beyond chance."
        ]
    names = [method.name for method in found.methods]
    better = {name: [other for other in names if _beats(table, other, name)] for name in names}
    beats_base = [name for name in names if name != BASE and _beats(table, name, BASE)]
    unbeaten = [name for name in beats_base if not better[name]]
    most = max(names, key=table.mean_rate)
    if unbeaten:
        chosen = unbeaten[0]
        beaten = [name for name in names if _beats(table, chosen, name)]
        headline = (
            f"Take {found.label(chosen)}: by {table.label} it beats {_listed(found, beaten)}, and no method is shown to "
            f"beat it{_simpler(found, chosen, unbeaten)}."
        )
    elif beats_base:
        chosen = max(beats_base, key=table.mean_rate)
        headline = (
            f"Take {found.label(chosen)}: of the methods that beat the base model it wins most, by {table.label}."
        )
    else:
        chosen = BASE
        headline = (
            f"Do not tune yet: by {table.label} no method is shown to beat the base model. Give more data, more time, more "
            "evaluation prompts or more seeds."
        )
    sentences = [_does_reinforcement_pay(found, table)] if "rlhf" in names else []
    samples = next(method.samples for method in found.methods if method.name == chosen)
    if samples > 1:
        sentences.append(f"It samples {samples} answers for each that it gives, at every use.")
    if most != chosen:
        luck = "" if most in better[chosen] else ", which is not shown to be more than luck"
        sentences.append(f"{_capital(found.label(most))} wins most on average, {percent(table.mean_rate(most))}{luck}.")
    if chosen != BASE:
        sentences += _length_sentence(found, table.duel(chosen, BASE))
    if len(found.seeds) == 1:
        sentences.append(
            "Each method was trained once, so nothing tells a better method from a lucky training: give --seeds 0 1 2."
        )
    elif len(found.seeds) == 2:
        sentences.append("Two trainings of each say little of how much they vary: give --seeds 0 1 2, or more.")
    return headline, sentences


def _beats(table: Table, first: str, second: str) -> bool:
    return first != second and table.duel(first, second).outcome == "better"


def _simpler(found: MethodComparison, chosen: str, unbeaten: Sequence[str]) -> str:
    """Say what is no better, though it is more to do."""
    others = [name for name in unbeaten if name != chosen]
    return f"; {_listed(found, others)} would be more to do" if others else ""


def _does_reinforcement_pay(found: MethodComparison, table: Table) -> str:
    """Answer what people ask."""
    words = {"better": "beats", "unclear": "is not shown to differ from", "worse": "loses to"}
    label = found.label("rlhf")
    parts = []
    for method in found.methods:
        if method.name != "rlhf":
            duel = table.duel("rlhf", method.name)
            parts.append(f"{words[duel.outcome]} {method.label} ({shown_rate(duel)})")
    return f"Does reinforcement learning pay here? {label} {'; '.join(parts)}."


def shown_rate(duel: Duel) -> str:
    """Return a win rate as a sentence has it."""
    rate, over = duel.rate, duel.over_seeds
    words = f"wins {percent(rate.rate)} [{percent(rate.low)}, {percent(rate.high)}], p {shown_p(duel.adjusted)}"
    if over and duel.outcome == "unclear" and duel.adjusted <= LEVEL:
        low, high = max(0.0, over.low), min(1.0, over.high)
        words += f", but its trainings differ too much to be sure: [{percent(low)}, {percent(high)}] over the seeds"
    return words


def shown_p(value: float) -> str:
    """Return a p-value as people read it."""
    return "below 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def _length_sentence(found: MethodComparison, duel: Duel) -> list[str]:
    equal = duel.at_equal_length
    if equal is None or equal.low > 0.5:
        return []
    return [
        f"Had all answers been as long as the base model's, {found.label(duel.first)} would have won {percent(equal.mean)} "
        f"[{percent(equal.low)}, {percent(equal.high)}], so length may be what wins."
    ]


def _listed(found: MethodComparison, names: Sequence[str]) -> str:
    labels = [found.label(name) for name in names]
    return labels[0] if len(labels) == 1 else f"{', '.join(labels[:-1])} and {labels[-1]}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
