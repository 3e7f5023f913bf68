"""What the answers of two models say: means, win rates, a verdict in words, and a table for a terminal."""

import math
import re
import shutil
import textwrap
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal

from rich.cells import set_cell_size
from rich.console import Console
from rich.text import Text

from rlhf_tuning.evaluation.degeneration import distinct, is_empty, is_refusal, is_repetitive
from rlhf_tuning.evaluation.judges.verdict import TIE_WITHIN, Agreement, OrderEffect, Verdict, order_effect
from rlhf_tuning.models.text_format import conversation_key
from rlhf_tuning.statistics import (
    ALPHA,
    ClusteredWinRate,
    MeanEstimate,
    WinRate,
    clustered_win_rate,
    length_controlled_win_rate,
    mean_interval,
    paired_difference,
    share_difference,
    sign_test,
    wilson_interval,
)
from rlhf_tuning.step import counted

Outcome = Literal["better", "unclear", "worse"]
#: How people read the opponent before there is a champion.
BASE_MODEL = "the base model"
#: Measures that are numbers on each answer, as `ScoredAnswer` has them.
SCORES = ("true_score", "demonstrated", "held_out_reward", "reward")
#: Of these, how probable a model finds the answers that were demonstrated: it is the model's, not its own answers'.
DEMONSTRATED = "demonstrated"
#: The one that the policy was trained to raise.
OPTIMISED = "reward"
#: Judges that score each answer by itself, to the score that they give.
SCORE_OF = {"scorer": "true_score", "held_out_reward_model": "held_out_reward", "reward_model": OPTIMISED}
#: What an outcome counts for in a win rate.
WORTH = {"win": 1.0, "tie": 0.5, "loss": 0.0}
#: Those that were learnt from preferences, and may have learnt nothing.
_REWARDS = ("held_out_reward", OPTIMISED)


@dataclass(frozen=True, kw_only=True)
class ScoredAnswer:
    """One model's answer to one prompt, and what was measured on it.

    Args:
        text: The answer.
        tokens: Its length in tokens.
        ended: Whether the model ended it by itself, not the length limit.
        reward: The reward model's score.
        held_out_reward: The score by a reward model that was never optimised against, where there is one.
        true_score: The quality by a program or a person, where there is one.
        demonstrated: Log-probability that this model gives a token of the answer that was demonstrated, where one was, on
            average, in nats. It is the model's, not this answer's.
        kl: How far this model is from the one that its training started from on this answer: log-ratios summed over its
            tokens, in nats.
    """

    text: str
    tokens: int
    ended: bool
    reward: float | None = None
    held_out_reward: float | None = None
    true_score: float | None = None
    demonstrated: float | None = None
    kl: float | None = None


@dataclass(frozen=True, kw_only=True)
class AnswerPair:
    """The answers of the tuned model and its opponent to one prompt; without an opponent, of one model alone.

    The opponent is the model that it is compared with: the base model, or a champion. KL is always that to the model that
    the training started from.

    Args:
        prompt: Turns with `role` and `content`.
        tuned: The tuned model's answer.
        base: The opponent's answer.
        verdicts: What language-model judges say, by the judge's name; the opponent's answer is the first, the tuned
            model's the second.
    """

    prompt: Sequence[Mapping[str, object]]
    tuned: ScoredAnswer
    base: ScoredAnswer | None = None
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class JudgeRecord:
    """What is known of one judge of an evaluation.

    Args:
        name: Its name among the judges, such as `language_model`.
        label: How people read it.
        agreement: How often it agrees with held-out human choices; None when there are none.
        notes: What a person should know of its work, such as that a cap was reached.
    """

    name: str
    label: str
    agreement: Agreement | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Wins:
    """How often the tuned model's answer beats its opponent's by one measure.

    Args:
        name: One of `SCORES`, or a language-model judge's name.
        measure: How people read it.
        prompts: Distinct prompts with a verdict.
        rate: The win rate. Where prompts repeat, its interval lets answers to one prompt depend on each other.
        unjudged: Pairs of answers without a verdict.
        unjudged_lost: The win rate were each of those lost, and in how many distinct prompts the tuned model wins or loses
            more often then.
        agreement: How often the judge agrees with held-out human choices; None when it was not checked.
        order: What the order of the answers does to the judge, where it is shown both.
        at_equal_length: The win rate had all answers been as long as their opponents; None when that cannot be told.
    """

    name: str
    measure: str
    prompts: int
    rate: WinRate
    unjudged_lost: ClusteredWinRate
    unjudged: int = 0
    agreement: Agreement | None = None
    order: OrderEffect | None = None
    at_equal_length: MeanEstimate | None = None

    @property
    def independent(self) -> bool:
        """Say whether the tuned model was not trained to please this judge."""
        return self.name != OPTIMISED

    @property
    def trusted(self) -> bool:
        """Say whether the judge agrees with people beyond chance.

        A scorer or a language model that nothing was there to check is taken at its word, and so are demonstrated answers;
        a reward model is not.
        """
        return is_trusted(self.name, self.agreement)

    @property
    def judged(self) -> float:
        """Return the share of pairs that have a verdict."""
        return self.rate.n / (self.rate.n + self.unjudged)

    @property
    def outcome(self) -> Outcome:
        """Return what can be said beyond chance, as the gate does: by the interval and by the exact sign test."""
        won, lost = self.unjudged_lost.won, self.unjudged_lost.lost
        if self.rate.low > 0.5 and sign_test(won, lost) <= ALPHA:
            return "better"
        return "worse" if self.rate.high < 0.5 and sign_test(lost, won) <= ALPHA else "unclear"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement of both models. For a share the means are shares and the intervals a proportion's."""

    name: str
    label: str
    share: bool = False
    base: MeanEstimate | None = None
    tuned: MeanEstimate | None = None
    difference: MeanEstimate | None = None


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """How long the tuned model's answers are, and another model's to the same prompts, in tokens on average.

    An answer that was cut at the limit does not show how long the model meant it to be. So these means are also there for
    the prompts to which the other model ended its answer by itself.

    Args:
        model: How people call the other model.
        n: Prompts.
        other: That model's mean.
        tuned: The tuned model's mean.
        n_ended: Prompts to which that model ended its answer.
        other_ended: That model's mean there.
        tuned_ended: The tuned model's mean there.
    """

    model: str
    n: int
    other: float
    tuned: float
    n_ended: int
    other_ended: float
    tuned_ended: float


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Everything that the report and the table say about the answers.

    `silent` has the labels of judges that were asked and gave no verdict on any pair. `reference` says to which model KL is
    measured: base, or supervised. `lengths` are held against the opponent's.
    """

    n: int
    compared: int
    rows: tuple[Row, ...]
    lengths: Lengths | None
    reward: Wins | None
    true_score: Wins | None
    judges: tuple[Wins, ...] = ()
    notes: tuple[str, ...] = ()
    held_out_reward: Wins | None = None
    silent: tuple[str, ...] = ()
    demonstrated: Wins | None = None
    opponent: str = BASE_MODEL
    reference: str = "base"

    @property
    def measured(self) -> tuple[Wins, ...]:
        """Return the win rates that there are, the most trusted first.

        The true score, language-model judges, demonstrated answers, the held-out reward, and last the reward that was
        optimised.
        """
        ranked = (self.true_score, *self.judges, self.demonstrated, self.held_out_reward, self.reward)
        return tuple(wins for wins in ranked if wins)

    @property
    def outcome(self) -> Outcome | None:
        """Return the verdict of the most trusted measure."""
        return self.measured[0].outcome if self.measured else None

    def metrics(self) -> dict[str, float]:
        """Return the finite numbers by name, for metric artifacts and manifests."""
        found: dict[str, float] = {"eval_prompts": self.n}
        for wins in self.measured:
            name = "true" if wins.name == "true_score" else wins.name
            rate = wins.rate
            found |= _named(f"{name}_win_rate", rate.rate, rate.low, rate.high, rate.n)
            if wins.agreement:
                found |= _named(f"{name}_agreement", *wins.agreement)
            if wins.at_equal_length:
                found |= _named(f"{name}_win_rate_at_equal_length", *wins.at_equal_length)
            if wins.order:
                first = wins.order.first
                found |= _named(f"{name}_first_favoured", first.rate, first.low, first.high, first.n)
                found |= _named(f"{name}_order_changed", *wins.order.changed)
        for row in self.rows:
            for side, estimate in (("base", row.base), ("tuned", row.tuned), ("difference", row.difference)):
                if estimate:
                    found |= {
                        f"{side}_{row.name}": estimate.mean,
                        f"{side}_{row.name}_low": estimate.low,
                        f"{side}_{row.name}_high": estimate.high,
                    }
        return {name: value for name, value in found.items() if math.isfinite(value)}


def _named(name: str, value: float, low: float, high: float, n: int) -> dict[str, float]:
    return {name: value, f"{name}_low": low, f"{name}_high": high, f"{name}_n": n}


def is_trusted(measure: str, agreement: Agreement | None) -> bool:
    """Say whether a measure may decide, by how often it agrees with people; None where that was not checked.

    What nothing was there to check is taken at its word; a reward model is not.
    """
    return measure not in _REWARDS if agreement is None else agreement.beyond_chance


def pair_outcome(pair: AnswerPair, measure: str) -> Literal["win", "tie", "loss"] | None:
    """Return whether the tuned answer won; None when one of the two was not scored, or there is no verdict.

    `measure` is one of `SCORES`, or a language-model judge's name.

    The same text twice is a tie, even if its score was computed in two batches and differs in the last digits.
    """
    if pair.base is None:
        return None
    if measure not in SCORES:
        verdict = pair.verdicts.get(measure)
        return verdict.outcome if verdict else None
    base, tuned = _measured(pair.base, measure), _measured(pair.tuned, measure)
    if base is None or tuned is None:
        return None
    alike = measure != DEMONSTRATED and pair.base.text == pair.tuned.text
    if alike or abs(tuned - base) <= TIE_WITHIN:
        return "tie"
    return "win" if tuned > base else "loss"


def score_change(pair: AnswerPair, measure: str) -> float | None:
    """Return how much better the tuned answer is than its opponent by a measure; None where that is not known."""
    if pair.base is None:
        return None
    if measure not in SCORES:
        verdict = pair.verdicts.get(measure)
        return verdict.preference if verdict else None
    base, tuned = _measured(pair.base, measure), _measured(pair.tuned, measure)
    return None if base is None or tuned is None else tuned - base


def summarize(
    pairs: Sequence[AnswerPair],
    *,
    scorer_name: str = "true score",
    judges: Sequence[JudgeRecord] = (),
    opponent: str = BASE_MODEL,
    reference: str = "base",
) -> Summary:
    """Return the measurements of `pairs`.

    KL per token is the mean over answers of an answer's KL divided by its tokens.

    Args:
        pairs: The answers.
        scorer_name: What gave the true score, such as `house style`.
        judges: What is known of the judges.
        opponent: How people read the model that the tuned one is compared with.
        reference: To which model KL was measured: base, or supervised.
    """
    records = {record.name: record for record in judges}
    asked = dict.fromkeys(name for pair in pairs for name in pair.verdicts)
    compared = [(pair.base, pair.tuned) for pair in pairs if pair.base is not None]
    rows = [
        _mean_row("reward", "Mean reward", pairs, lambda answer: answer.reward),
        _mean_row("held_out_reward", "Mean held-out reward", pairs, lambda answer: answer.held_out_reward),
        _mean_row("true_score", f"Mean {scorer_name}", pairs, lambda answer: answer.true_score),
        _mean_row(
            "demonstrated", "Held-out answers, log-probability per token", pairs, lambda answer: answer.demonstrated
        ),
        Row(
            name="kl_per_token",
            label=f"KL from {reference}, nats per token",
            tuned=_mean(
                [pair.tuned.kl / pair.tuned.tokens for pair in pairs if pair.tuned.kl is not None and pair.tuned.tokens]
            ),
        ),
        Row(
            name="kl_per_answer",
            label=f"KL from {reference}, nats per answer",
            tuned=_mean([pair.tuned.kl for pair in pairs if pair.tuned.kl is not None]),
        ),
        _mean_row("tokens", "Answer length, tokens", pairs, lambda answer: float(answer.tokens)),
        _mean_row("distinct_2", "Distinct-2", pairs, lambda answer: distinct(answer.text)),
        _share_row("ended", "Answers that ended", pairs, lambda answer: answer.ended),
        _share_row("empty", "Empty answers", pairs, lambda answer: is_empty(answer.text)),
        _share_row("repetitive", "Repetitive answers", pairs, lambda answer: is_repetitive(answer.text)),
        _share_row("refused", "Refusals", pairs, lambda answer: is_refusal(answer.text)),
    ]
    silent = [
        record.label
        for record in judges
        if all(pair_outcome(pair, SCORE_OF.get(record.name, record.name)) is None for pair in pairs)
    ]
    return Summary(
        n=len(pairs),
        compared=len(compared),
        silent=tuple(silent),
        rows=tuple(row for row in rows if row.tuned or row.base),
        lengths=lengths_beside(
            opponent, [(base.tokens, base.ended) for base, _ in compared], [tuned.tokens for _, tuned in compared]
        ),
        reward=_wins(pairs, "reward", "reward", records.get("reward_model")),
        held_out_reward=_wins(pairs, "held_out_reward", "held-out reward", records.get("held_out_reward_model")),
        true_score=_wins(pairs, "true_score", scorer_name, records.get("scorer")),
        demonstrated=_wins(pairs, DEMONSTRATED, "held-out answers", None),
        judges=tuple(
            wins
            for name in asked
            if (wins := _wins(pairs, name, records[name].label if name in records else name, records.get(name)))
        ),
        notes=tuple(f"{record.label}: {note}" for record in judges for note in record.notes),
        opponent=opponent,
        reference=reference,
    )


def lengths_beside(model: str, other: Sequence[tuple[int, bool]], tuned: Sequence[int]) -> Lengths | None:
    """Return how long the tuned model's answers are beside another model's; None where there are no answers.

    Args:
        model: How people call the other model.
        other: Tokens of its answers, and whether it ended them by itself.
        tuned: Tokens of the tuned model's answers to the same prompts.
    """
    if not tuned:
        return None
    both = list(zip(other, tuned, strict=True))
    ended = [(tokens, ours) for (tokens, by_itself), ours in both if by_itself]
    return Lengths(
        model=model,
        n=len(both),
        other=fmean(tokens for tokens, _ in other),
        tuned=fmean(tuned),
        n_ended=len(ended),
        other_ended=fmean([tokens for tokens, _ in ended] or [0]),
        tuned_ended=fmean([ours for _, ours in ended] or [0]),
    )


def verdict(summary: Summary) -> tuple[str, list[str]]:
    """Return the verdict as a headline and the sentences that say what it rests on."""
    if not summary.n:
        return "No answers were compared.", ["This run has no evaluation answers."]
    if not summary.compared:
        return "Nothing to compare with.", [f"One model answered {counted(summary.n, 'prompt')}."]
    measured = summary.measured
    if not measured:
        return "No verdict.", [
            f"Both models answered {counted(summary.compared, 'prompt')}, but no answers were scored."
        ]
    headline = {
        "better": f"The tuned model is better than {summary.opponent}.",
        "unclear": "No difference shown beyond chance.",
        "worse": f"The tuned model is worse than {summary.opponent}.",
    }[measured[0].outcome]
    if not measured[0].independent:
        headline = f"{headline[:-1]}, by the reward that it was trained to raise."
    sentences = []
    for wins in measured:
        source = (
            f"{wins.measure} (true score)"
            if wins is summary.true_score and wins.measure != "true score"
            else wins.measure
        )
        text = (
            f"By {source} it wins {percent(wins.rate.rate)} [{percent(wins.rate.low)}, {percent(wins.rate.high)}] of "
            f"{counted(wins.rate.n, 'held-out prompt')}"
        )
        if wins.unjudged:
            text += f" ({wins.unjudged:,} more have no verdict)"
        sentences.append(
            text
            + {
                "better": ". ",
                "unclear": ": no difference is shown beyond chance. ",
                "worse": ": it loses more often than it wins. ",
            }[wins.outcome]
            + _agreement_sentence(wins)
            + _length_sentence(wins)
        )
    first = measured[0]
    if first is summary.reward:
        sentences.append(
            "Reward is what the model was trained to raise, so it is no independent judge: read some answers as well."
        )
    elif summary.reward and summary.reward.outcome == "better" and first.outcome != "better":
        lacking = f"{first.measure} is not shown to have" if first is summary.true_score else f"not by {first.measure}"
        sentences.append(f"Reward rose but {lacking}: the model may have learnt to please the reward model only.")
    sentences += [f"{note[:1].upper()}{note[1:]}." for note in summary.notes]
    ended = next(row.tuned for row in summary.rows if row.name == "ended")
    if ended and ended.mean < 0.5:
        sentences.append(
            f"Only {percent(ended.mean)} of its answers ended by themselves; the others were cut at the length limit."
        )
    empty = next(row.tuned for row in summary.rows if row.name == "empty")
    if empty and empty.mean > 0:
        sentences.append(f"{percent(empty.mean)} of its answers are empty.")
    return headline, sentences


def _length_sentence(wins: Wins) -> str:
    """Say so where length alone may be what wins."""
    equal = wins.at_equal_length
    if wins.outcome != "better" or equal is None or equal.low > 0.5:
        return ""
    return (
        f" Had all answers been as long as their opponents it would have won {percent(equal.mean)} [{percent(equal.low)}, "
        f"{percent(equal.high)}], so length may be what wins."
    )


def _agreement_sentence(wins: Wins) -> str:
    if wins.name == DEMONSTRATED:
        return "That is how often it finds the demonstrated answer likelier; read some of its own as well."
    if wins.agreement is None:
        return "No human choices were there to check it against."
    share, low, high, n = wins.agreement
    text = f"It agrees with {percent(share)} [{percent(low)}, {percent(high)}] of {counted(n, 'human choice')}"
    if high < 0.5:
        return f"{text}: it judges against people, so do not trust it."
    return f"{text}." if wins.agreement.beyond_chance else f"{text}: no better than chance, so do not rely on it."


def summary_text(
    pairs: Sequence[AnswerPair],
    *,
    scorer_name: str = "true score",
    samples: int = 3,
    width: int | None = None,
    judges: Sequence[JudgeRecord] = (),
    opponent: str = BASE_MODEL,
    reference: str = "base",
) -> str:
    """Return the comparison for a terminal: the verdict, a table, and the first `samples` pairs side by side.

    Args:
        pairs: The answers.
        scorer_name: What gave the true score.
        samples: How many pairs to show.
        width: Columns to use; the terminal's, at most 120, when absent.
        judges: What is known of the judges.
        opponent: How people read the model that the tuned one is compared with.
        reference: To which model KL was measured: base, or supervised.
    """
    width = max(60, width or min(120, shutil.get_terminal_size((100, 24)).columns))
    summary = summarize(pairs, scorer_name=scorer_name, judges=judges, opponent=opponent, reference=reference)
    headline, sentences = verdict(summary)
    lines = [headline]
    for sentence in sentences:
        lines += textwrap.wrap(sentence, width, initial_indent="  ", subsequent_indent="  ")
    if summary.rows:
        lines += ["", *_table(summary)]
    for index, pair in enumerate(pairs[:samples], 1):
        lines += ["", *_side_by_side(index, pair, width, scorer_name, summary)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def percent(share: float) -> str:
    """Return a share as people read it; one decimal where rounding would claim 0% or 100%."""
    if 0 < share < 0.01 or 0.99 < share < 1:
        return f"{share:.1%}"
    return f"{share:.0%}"


def number(value: float, *, sign: bool = False, like: float = 0.0) -> str:
    """Return a number with about three significant digits.

    Args:
        value: The number.
        sign: Whether to write a plus.
        like: A larger number shown beside it, whose number of decimals it takes.
    """
    if not math.isfinite(value):
        return "?"
    size = max(abs(value), abs(like))
    if size >= 1e6 or 0 < size < 5e-3:
        return f"{value:+.2g}" if sign else f"{value:.2g}"
    digits = 0 if size >= 1000 else 1 if size >= 20 else 2 if size >= 0.1 or size == 0 else 3
    return f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"


def _measured(answer: ScoredAnswer, measure: str) -> float | None:
    scores = {
        "reward": answer.reward,
        "held_out_reward": answer.held_out_reward,
        "true_score": answer.true_score,
        "demonstrated": answer.demonstrated,
    }
    return scores[measure]


def _wins(pairs: Sequence[AnswerPair], measure: str, label: str, record: JudgeRecord | None) -> Wins | None:
    compared = [(pair, pair.base) for pair in pairs if pair.base]
    outcomes = [pair_outcome(pair, measure) for pair, _ in compared]
    judged = [(pair, base, WORTH[outcome]) for (pair, base), outcome in zip(compared, outcomes, strict=True) if outcome]
    if not judged:
        return None
    scores = [score for _, _, score in judged]
    asked = [conversation_key(pair.prompt) for pair, _, _ in judged]
    lengths = [float(pair.tuned.tokens - base.tokens) for pair, base, _ in judged]
    found = clustered_win_rate(scores, asked)
    lost = [WORTH[outcome] if outcome else 0.0 for outcome in outcomes]
    return Wins(
        name=measure,
        measure=label,
        prompts=found.clusters,
        rate=found.rate,
        unjudged_lost=clustered_win_rate(lost, [conversation_key(pair.prompt) for pair, _ in compared]),
        at_equal_length=(
            None if measure == DEMONSTRATED else length_controlled_win_rate(scores, lengths, asked, found.rate)
        ),
        unjudged=outcomes.count(None),
        agreement=record.agreement if record else None,
        order=order_effect([pair.verdicts.get(measure) for pair in pairs]),
    )


def _mean(values: Sequence[float]) -> MeanEstimate | None:
    return mean_interval(values) if values else None


def _mean_row(name: str, label: str, pairs: Sequence[AnswerPair], value: Callable[[ScoredAnswer], float | None]) -> Row:
    """Measure both sides; where both are known for some prompts, also the difference over these."""
    base = [value(pair.base) if pair.base else None for pair in pairs]
    tuned = [value(pair.tuned) for pair in pairs]
    both = [(a, b) for a, b in zip(base, tuned, strict=True) if a is not None and b is not None]
    return Row(
        name=name,
        label=label,
        base=_mean([item for item in base if item is not None]),
        tuned=_mean([item for item in tuned if item is not None]),
        difference=paired_difference([a for a, _ in both], [b for _, b in both]) if both else None,
    )


def _share_row(name: str, label: str, pairs: Sequence[AnswerPair], holds: Callable[[ScoredAnswer], bool]) -> Row:
    """Measure a property that an answer has or has not; the difference has the interval of paired proportions."""
    both = [pair for pair in pairs if pair.base]
    base, tuned = [holds(pair.base) for pair in both if pair.base], [holds(pair.tuned) for pair in both]
    return Row(
        name=name,
        label=label,
        share=True,
        base=_share(base),
        tuned=_share([holds(pair.tuned) for pair in pairs]),
        difference=share_difference(base, tuned, [conversation_key(pair.prompt) for pair in both]) if both else None,
    )


def _share(held: Sequence[bool]) -> MeanEstimate | None:
    if not held:
        return None
    interval = wilson_interval(sum(held), len(held))
    return MeanEstimate(sum(held) / len(held), interval.low, interval.high, len(held))


def show(row: Row, estimate: MeanEstimate | None, *, sign: bool = False) -> str:
    """Return an estimate's mean as `row` is read."""
    if estimate is None:
        return "–"
    if row.share:
        return f"{100 * estimate.mean:+.0f} points" if sign else percent(estimate.mean)
    return number(estimate.mean, sign=sign, like=_largest(estimate))


def show_interval(row: Row, estimate: MeanEstimate | None, *, sign: bool = False) -> str:
    """Return an estimate's 95% interval as `row` is read."""
    if estimate is None or not math.isfinite(estimate.low):
        return ""
    if row.share:
        ends = [f"{100 * end:+.0f}" if sign else percent(end) for end in (estimate.low, estimate.high)]
    else:
        ends = [number(end, sign=sign, like=_largest(estimate)) for end in (estimate.low, estimate.high)]
    return f"[{ends[0]}, {ends[1]}]"


def _largest(estimate: MeanEstimate) -> float:
    return max(abs(value) for value in estimate[:3] if math.isfinite(value))


def _table(summary: Summary) -> list[str]:
    compared = summary.compared > 0
    header = [counted(summary.n, "prompt"), short_name(summary.opponent), "tuned", "difference [95% interval]"]
    cells = [header if compared else [header[0], "", "answers", "[95% interval]"]]
    for wins in summary.measured:
        rate = wins.rate
        counts = f"{rate.wins} won, {rate.ties} tied, {rate.losses} lost"
        cells.append([f"Win rate by {wins.measure}", "", *_cells_of(rate.rate, rate.low, rate.high, counts)])
        if equal := wins.at_equal_length:
            said = "if all answers were as long"
            cells.append(["  at equal length", "", *_cells_of(equal.mean, equal.low, equal.high, said)])
        if wins.agreement:
            share, low, high, n = wins.agreement
            cells.append(["  agrees with people", "", *_cells_of(share, low, high, f"of {counted(n, 'choice')}")])
        elif wins is not summary.demonstrated:
            cells.append(["  agrees with people", "", "–", "no human choices to check it against"])
        if wins.order:
            first, changed = wins.order
            said = f"of {counted(first.n, 'pair')}; its verdict turned with the order on {percent(changed.share)}"
            cells.append(["  favours what is shown first", "", *_cells_of(first.rate, first.low, first.high, said)])
    for row in summary.rows:
        estimate, sign = (row.difference, True) if row.difference else (row.tuned, False)
        interval = show_interval(row, estimate, sign=sign)
        last = f"{show(row, estimate, sign=sign)} {interval}" if sign else interval
        cells.append([row.label, show(row, row.base) if compared else "", show(row, row.tuned), last])
    widths = [max(len(line[column]) for line in cells) for column in range(3)]
    lines = [
        f"{label:<{widths[0]}}  {base:>{widths[1]}}  {tuned:>{widths[2]}}  {last}" for label, base, tuned, last in cells
    ]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def short_name(opponent: str, most: int = 24) -> str:
    """Return what columns and legends call an opponent."""
    if opponent == BASE_MODEL:
        return "base"
    name = _plain(opponent.rsplit("/", 1)[-1])
    return name if len(name) <= most else name[: most - 1] + "…"


def _cells_of(share: float, low: float, high: float, counts: str) -> list[str]:
    return [percent(share), f"[{percent(low)}, {percent(high)}] {counts}"]


def _side_by_side(
    index: int, pair: AnswerPair, width: int, scorer_name: str, summary: Summary, *, most_lines: int = 12
) -> list[str]:
    content = "\n".join(str(turn.get("content", "")) for turn in pair.prompt if turn.get("role") != "system")
    prompt = textwrap.shorten(_plain(content), 3 * width, placeholder=" …")
    lines = textwrap.wrap(f"{index}. {prompt}", width, subsequent_indent="   ")
    answers = (
        [(short_name(summary.opponent), pair.base), ("tuned", pair.tuned)] if pair.base else [("answer", pair.tuned)]
    )
    column = (width - 3 - 3 * (len(answers) - 1)) // len(answers)
    blocks = []
    for side, answer in answers:
        scores = [("reward", answer.reward), (scorer_name, answer.true_score)]
        words = [f"{label} {number(value)}" for label, value in scores if value is not None]
        better = "win" if answer is pair.tuned else "loss"
        words += [
            f"preferred by {wins.measure}"
            for wins in summary.judges
            if wins.name in pair.verdicts and pair_outcome(pair, wins.name) == better
        ]
        scored = ", ".join(words)
        text = _wrapped(_plain(answer.text) or "(empty)", column)
        if len(text) > most_lines:
            text = [*text[: most_lines - 1], "…"]
        blocks.append([*_wrapped(f"{side}: {scored}" if scored else side, column), *text])
    for parts in zip(*(block + [""] * (max(map(len, blocks)) - len(block)) for block in blocks), strict=True):
        lines.append("   " + " │ ".join(set_cell_size(part, column) for part in parts))
    return lines


def _plain(text: str) -> str:
    """Return text that cannot steer a terminal: no escape sequences, no control or direction characters."""
    spaced = re.sub(r"\s+", " ", text).strip()
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co") else char
        for char in spaced
    )


def _wrapped(text: str, columns: int) -> list[str]:
    """Return lines that take at most `columns` of a terminal each; characters of Chinese, say, take two."""
    return [line.plain.rstrip() for line in Text(text).wrap(Console(), columns)]
