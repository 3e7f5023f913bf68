"""May the challenger take the champion's place? Only if an independent judge says that it beats it, and no harm is possible.

Every condition that is asked must hold.

- **Proof**, by one judge: a scorer, a language model, or a reward model that nothing was optimised against, the first of
  them that agrees with people beyond chance. The lower end of the 95% interval of the paired win rate must lie above one
  half plus a margin, and the exact sign test must allow it too: of two models that this judge finds equally good the
  challenger is promoted in at most 2.5% of runs (the interval alone gives up to 3.2%). Answers to one prompt may depend on
  each other in any way, so that test counts each distinct prompt once, for whoever wins it more often. A pair without a
  verdict counts as lost: what a judge leaves out is no matter of chance. Tries before this one against the same champion
  make the test stricter: the k-th must reach 2.5% / k. So do checkpoints among which these prompts chose this one.
- **No harm**, shown and not assumed: the end of a 95% interval must lie within a margin, so that few prompts prove nothing.
  Each has a parameter, and 0 switches it off. What people prefer in the choices at hand is no harm, see
  `degeneration.Taste`. The other judges, the optimised reward among them, can refuse here and nowhere promote. Length is
  held against the model that the training was to improve, the supervised one where there is one, for what demonstrations
  do to it is meant; and answers are too short only beside such as ended by themselves.

The judge's own errors are another matter. A reward model's follow the policy: it is of the same kind as the one that the
policy learnt to please, and it has chosen the checkpoint, where there was a watch. So more is asked of it than of others,
`gate_reward_model_margin`. `benchmarks/promotion_gate.py` measures all of this, and how often a truly better model passes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from typing import NamedTuple

from rlhf_tuning.evaluation.comparison import DEMONSTRATED, OPTIMISED, Lengths, Row, Summary, Wins, number, percent
from rlhf_tuning.evaluation.degeneration import Taste
from rlhf_tuning.evaluation.regression_suite import Regression
from rlhf_tuning.limits import check_limits
from rlhf_tuning.statistics import ALPHA, LEAST_CLUSTERS, ClusteredWinRate, MeanEstimate, sign_test, win_rate

_UNSURE = "No harm is shown here, but none is ruled out either: that takes more evaluation prompts."
_NOBODY = "no independent judge judged"


class _Advice(NamedTuple):
    """What would make a model pass: one that another judge finds worse, one whose answers are bad, one too far away."""

    worse: str
    bad: str
    far: str


#: By the method that made the model.
_ADVICE = {
    "reinforcement": _Advice(
        "The optimised reward rose at the expense of quality: raise kl_coeff or train fewer steps.",
        "Look at these answers; raise kl_coeff, or show the reward model such answers as rejected ones.",
        "Raise kl_coeff, lower the learning rate or the steps, or raise gate_max_kl.",
    ),
    "supervised": _Advice(
        "The model learnt the demonstrations at the expense of quality: look at them, or train fewer steps.",
        "Look at these answers, and for such among the demonstrations; or train fewer steps.",
        "Lower the learning rate or the steps, or raise gate_max_kl.",
    ),
    "distillation": _Advice(
        "The student learnt its teacher at the expense of quality: look at the teacher's answers, or train fewer steps.",
        "Look at these answers, and for such among the teacher's; or train fewer steps.",
        "Lower the learning rate or the steps, or raise gate_max_kl.",
    ),
    "preference": _Advice(
        "The model learnt the preferences at the expense of quality: raise beta, or lower epoch_count.",
        "Look at these answers, and for such among those that people chose or liked; raise beta, lower epoch_count, or of "
        "preferences set rpo_alpha.",
        "Raise beta, lower learning_rate_multiplier or epoch_count, or raise gate_max_kl.",
    ),
}
#: Most prompts that the advice on how many would be enough goes up to.
_MOST_PROMPTS = 100_000


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """Limits of the gate, named as the pipeline's parameters are; 0 switches a `gate_max_...` off.

    Args:
        gate_win_rate_margin: Win rate beyond one half that the lower end of the interval must exceed, 0 to 0.49.
        gate_reward_model_margin: The same where the judge is a reward model; the larger of the two counts.
        gate_min_prompts: Fewest prompts with a verdict.
        gate_min_judged_share: Least share of the pairs that a judge must have judged.
        gate_max_kl: Most nats of KL over an answer, on average, to the model that the training started from.
        gate_max_length_ratio: Most that the mean length may grow, as a factor, and that it may shrink where the other model
            ended its answers by itself.
        gate_max_equal_length_loss: Win rate below one half that must be ruled out had all answers been equally long; what
            includes one half as well cannot be known, and stops nothing.
        gate_max_judge_loss: Win rate below one half that must be ruled out by each of the other judges.
        gate_max_unfinished_rise: Rise of the share of answers that do not end by themselves that must be ruled out.
        gate_max_empty_rise: Likewise of empty answers.
        gate_max_repetitive_rise: Likewise of answers that repeat themselves.
        gate_max_refusal_rise: Likewise of refusals.
        gate_max_regression: Fall of the share of a regression suite that passes that must be ruled out.
    """

    gate_win_rate_margin: float = 0.0
    gate_reward_model_margin: float = 0.1
    gate_min_prompts: int = 50
    gate_min_judged_share: float = 0.8
    gate_max_kl: float = 50.0
    gate_max_length_ratio: float = 3.0
    gate_max_equal_length_loss: float = 0.1
    gate_max_judge_loss: float = 0.1
    gate_max_unfinished_rise: float = 0.15
    gate_max_empty_rise: float = 0.1
    gate_max_repetitive_rise: float = 0.1
    gate_max_refusal_rise: float = 0.1
    gate_max_regression: float = 0.1

    def __post_init__(self) -> None:
        check_limits(**asdict(self))


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One condition of a promotion.

    Args:
        name: What is asked, in words.
        value: What was measured, with its interval and n.
        limit: What would have been accepted.
        holds: Whether it was; None when it is not asked, or nothing can be known of it, which does not stop a promotion.
        change: What would make it hold, when it does not.
    """

    name: str
    value: str
    limit: str
    holds: bool | None
    change: str = ""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The gate's answer and all that it rests on.

    Args:
        champion: How people call the champion.
        conditions: All must hold.
        judge: Who could promote; empty where nobody could.
        needs_approval: Whether a person approves what the gate promotes.
    """

    champion: str
    conditions: tuple[Condition, ...]
    judge: str = ""
    needs_approval: bool = False

    @property
    def promote(self) -> bool:
        """Say whether the challenger may take the champion's place."""
        return all(condition.holds is not False for condition in self.conditions)

    @property
    def headline(self) -> str:
        """Return the decision in a sentence."""
        if self.promote and self.needs_approval:
            return f"Waits for approval: the gate lets the tuned model take the place of {self.champion}."
        if self.promote:
            return f"Promoted: the tuned model takes the place of {self.champion}."
        nobody = "" if self.judge else " Nobody independent judged."
        return f"Not promoted: {self.champion} stays champion.{nobody}"

    def as_json(self) -> dict[str, object]:
        """Return the decision as JSON values."""
        return {
            "promote": self.promote,
            "champion": self.champion,
            "judge": self.judge,
            "needs_approval": self.needs_approval,
            "conditions": [asdict(condition) for condition in self.conditions],
        }


def decide(
    summary: Summary,
    config: GateConfig,
    *,
    champion: str,
    also: Sequence[Condition] = (),
    tastes: Mapping[str, Taste] | None = None,
    earlier_tries: int = 0,
    chose_checkpoint: bool = False,
    chosen_among: int = 1,
    method: str = "reinforcement",
    needs_approval: bool = False,
) -> Decision:
    """Return whether the tuned model of `summary` may take the place of the model it is compared with.

    Args:
        summary: Answers of the challenger (`tuned`) and the champion (`base`) to the same prompts, judged.
        config: The limits.
        champion: How people call the champion, such as `my-model@3` or `the base model`.
        also: Conditions that were looked at elsewhere.
        tastes: What people prefer of what else is taken for harm, by the name of its row.
        earlier_tries: How many challengers this champion has already been held against, and stayed.
        chose_checkpoint: Whether the held-out reward model chose which checkpoint is the challenger.
        chosen_among: Among how many checkpoints these very prompts chose the challenger; 1 where they had no say.
        method: What made the challenger, of `registry.METHODS`; it decides what would help.
        needs_approval: Whether a person approves what the gate promotes.
    """
    rows = {row.name: row for row in summary.rows}
    judge = next((wins for wins in summary.measured if wins.independent and wins.trusted), None)
    rises = {
        "empty": ("empty answers", config.gate_max_empty_rise),
        "repetitive": ("repetitive answers", config.gate_max_repetitive_rise),
        "refused": ("refusals", config.gate_max_refusal_rise),
    }
    advice = _ADVICE[method]
    conditions = [
        _beats(
            judge,
            summary,
            champion,
            config,
            tries=1 + earlier_tries,
            chose_checkpoint=chose_checkpoint,
            chosen_among=chosen_among,
        ),
        _enough_judged(judge, summary, config),
        _kl(rows.get("kl_per_answer"), config, summary.reference, advice.far),
        _length(summary.lengths, config),
        _equal_length(judge, config),
        *(_not_worse(wins, config, advice.worse) for wins in summary.measured if wins is not judge),
        _ended(rows.get("ended"), config, advice.bad),
        *(_no_rise(rows.get(name), *rise, (tastes or {}).get(name), advice.bad) for name, rise in rises.items()),
        *also,
    ]
    return Decision(
        champion=champion,
        conditions=tuple(conditions),
        judge=judge.measure if judge else "",
        needs_approval=needs_approval,
    )


def regression_conditions(found: Regression, config: GateConfig) -> list[Condition]:
    """Return what a regression suite says: that the tuned model has not forgotten what the base model can do."""
    conditions = []
    look = "Look at what it lost (the report lists it): train fewer steps, or hold the model closer to the base model."
    if found.difference:
        base, tuned = found.passed
        difference, most = found.difference, config.gate_max_regression
        conditions.append(
            Condition(
                name="Passes as much of the regression suite as the base model",
                value=f"{tuned} of {difference.n:,}, where the base model passes {base}: {points(difference)}",
                limit=f"lower end above {-100 * most:+.0f} points" if most else "no limit",
                holds=difference.low > -most if most else None,
                change=_UNSURE if difference.high >= 0 else look,
            )
        )
    if found.win_rate:
        rate = found.win_rate
        estimate = MeanEstimate(rate.rate, rate.low, rate.high, rate.n)
        name = "Not worse than the base model on the regression suite"
        conditions.append(_within(name, found.judge, estimate, config.gate_max_judge_loss, look))
    return conditions


def decision_text(decision: Decision) -> str:
    """Return the decision as people read it: the verdict, each condition, and what would change it."""
    marks = {True: "ok", False: "NO", None: "--"}
    width = max(len(condition.name) for condition in decision.conditions)
    lines = [decision.headline]
    for condition in decision.conditions:
        lines.append(
            f"  {marks[condition.holds]}  {condition.name.ljust(width)}  {condition.value} ({condition.limit})"
        )
        if condition.holds is False and condition.change:
            lines.append(f"      {condition.change}")
    return "\n".join(lines) + "\n"


def shown_better(found: ClusteredWinRate, *, margin: float = 0.0, tries: int = 1) -> bool:
    """Say whether wins show the challenger's win rate to lie above one half plus `margin`, beyond chance.

    Args:
        found: The win rate with its 95% interval, and the prompts won and lost.
        margin: What must be shown beyond one half.
        tries: The how manieth try this is against the same champion.
    """
    return _low(found, tries) > 0.5 + margin and sign_test(found.won, found.lost) <= ALPHA / tries


def _low(found: ClusteredWinRate, tries: int) -> float:
    """Return the lower end of the interval, as much further out as the level of this try asks."""
    wider = NormalDist().inv_cdf(1 - ALPHA / tries) / NormalDist().inv_cdf(1 - ALPHA)
    return found.rate.rate - wider * (found.rate.rate - found.rate.low)


def _beats(
    judge: Wins | None,
    summary: Summary,
    champion: str,
    config: GateConfig,
    *,
    tries: int,
    chose_checkpoint: bool,
    chosen_among: int,
) -> Condition:
    name = f"Beats {champion} beyond chance"
    if judge is None:
        limit = "an independent judge that agrees with people beyond chance"
        passed_over = [wins.measure for wins in summary.measured if wins.independent]
        value = _NOBODY
        if passed_over:
            value += f" that agrees with people beyond chance: {', '.join(passed_over)} {_does(passed_over)} not"
        elif summary.measured:
            value += ", only the reward that the model was trained to raise"
        change = (
            "Name a judge (judge, judge_model) or a scorer; or let a held-out reward model judge "
            "(held_out_reward_model_share above 0), with preferences enough for it to agree with people beyond chance."
        )
        return Condition(name=name, value=value, limit=limit, holds=False, change=change)
    of_reward_model = judge is summary.held_out_reward
    margin = config.gate_win_rate_margin
    if of_reward_model:
        margin = max(margin, config.gate_reward_model_margin)
    looked = tries * chosen_among
    found = judge.unjudged_lost
    rate, low = found.rate, _low(found, looked)
    value = (
        f"wins {_share(rate.rate)} [{_share(low)}, {_share(rate.high)}] by {judge.measure}, "
        f"n = {rate.n:,}: {rate.wins} won, {rate.ties} tied, {rate.losses} lost"
    )
    if judge.unjudged:
        value += f", {judge.unjudged} of them for want of a verdict"
    value += (
        f"; exact sign test of {found.won} prompts won and {found.lost} lost "
        f"p = {number(sign_test(found.won, found.lost))}"
    )
    if of_reward_model and chose_checkpoint:
        value += "; it also chose the checkpoint, which gate_reward_model_margin allows for"
    limit = f"lower end above {_share(0.5 + margin)}, p at most {number(ALPHA / looked)}"
    if tries > 1:
        limit += f", at try {tries} against this champion"
    if chosen_among > 1:
        limit += f", of a checkpoint that the same prompts chose among {chosen_among}"
    holds = shown_better(found, margin=margin, tries=looked)
    change = _more_prompts(found, margin, looked)
    if of_reward_model:
        change += " A judge or a scorer is asked for less than a reward model, see gate_reward_model_margin."
    return Condition(name=name, value=value, limit=limit, holds=holds, change=change)


def _does(names: Sequence[str]) -> str:
    return "does" if len(names) == 1 else "do"


def _more_prompts(found: ClusteredWinRate, margin: float, tries: int) -> str:
    """Say how many prompts would be enough if the true shares were the observed ones."""
    rate, least = found.rate, 0.5 + margin
    if rate.rate <= least:
        return f"At this win rate no number of prompts would be enough: it must be above {_share(least)}."
    factor = 1.0
    while rate.n * factor < _MOST_PROMPTS:
        factor *= 1.05
        # Rounded to the challenger's disadvantage, so that the advice is enough and not just lucky.
        wins, ties, losses = math.floor(rate.wins * factor), round(rate.ties * factor), math.ceil(rate.losses * factor)
        if shown_better(once_each(wins, ties, losses), margin=margin, tries=tries):
            n = math.ceil((wins + ties + losses) / 10) * 10
            return f"If the true win rate is the observed one, about {n:,} evaluation prompts would show it."
    return f"Even {_MOST_PROMPTS:,} evaluation prompts would not show so small a difference."


def once_each(wins: int, ties: int, losses: int) -> ClusteredWinRate:
    """Return what so many prompts, each answered once, say."""
    return ClusteredWinRate(win_rate(wins, ties, losses), wins + ties + losses, wins, losses)


def _enough_judged(judge: Wins | None, summary: Summary, config: GateConfig) -> Condition:
    asked = [wins for wins in summary.measured if wins.name != OPTIMISED]
    values = [f"{wins.prompts:,} prompts, {percent(wins.judged)} of the pairs, by {wins.measure}" for wins in asked]
    values += [f"none by {label}" for label in summary.silent]
    enough = judge is not None and judge.prompts >= config.gate_min_prompts
    all_judged = not summary.silent and all(wins.judged >= config.gate_min_judged_share for wins in asked)
    change = (
        "Give more data, or evaluation data with more prompts, or lower gate_min_prompts."
        if all_judged
        else "See what the judge's notes say of the missing verdicts (judge_max_calls, a question that is refused), or "
        "leave out the judge."
    )
    return Condition(
        name="Enough was judged, by everyone asked",
        value="; ".join(values) or "nothing",
        limit=f"{config.gate_min_prompts:,} prompts, and {percent(config.gate_min_judged_share)} of the pairs by each",
        holds=enough and all_judged,
        change=change,
    )


def _kl(row: Row | None, config: GateConfig, reference: str, change: str) -> Condition:
    name = f"KL to the {reference} model within its limit"
    if config.gate_max_kl == 0:
        return Condition(name=name, value=_estimate(row, "nats per answer"), limit="no limit", holds=None)
    limit = f"at most {config.gate_max_kl:g}"
    if row is None or row.tuned is None:
        without = "A limit was set that nothing could be held against. Set gate_max_kl to 0 to do without it."
        return Condition(name=name, value="not measured", limit=limit, holds=False, change=without)
    return Condition(
        name=name,
        value=_estimate(row, "nats per answer"),
        limit=limit,
        holds=row.tuned.mean <= config.gate_max_kl,
        change=change,
    )


def _length(lengths: Lengths | None, config: GateConfig) -> Condition:
    name, most = "Answers of about the same length", config.gate_max_length_ratio
    limit = f"between 1/{most:g} and {most:g} times" if most else "no limit"
    if lengths is None or lengths.other == 0:
        return Condition(name=name, value="not measured", limit=limit, holds=None)
    value = f"{_times(lengths.other, lengths.tuned)} as {lengths.model} gives, n = {lengths.n:,}"
    short = False
    if lengths.n_ended < LEAST_CLUSTERS:
        value += f"; it ended {lengths.n_ended:,} of its answers by itself, too few to say what is too short"
    else:
        short = lengths.tuned_ended * most < lengths.other_ended
        if lengths.n_ended < lengths.n:
            ended = _times(lengths.other_ended, lengths.tuned_ended)
            value += f"; {ended} where it ended its answer by itself, n = {lengths.n_ended:,}"
    return Condition(
        name=name,
        value=value,
        limit=limit,
        holds=None if not most else lengths.tuned <= most * lengths.other and not short,
        change="Look at the answers: length alone may have been rewarded. If they are wanted, raise gate_max_length_ratio.",
    )


def _times(before: float, after: float) -> str:
    ratio = f"{number(after / before)} times" if before else "not comparable"
    return f"{ratio}, {number(before)} to {number(after)} tokens"


def _equal_length(judge: Wins | None, config: GateConfig) -> Condition:
    name = "Not worse at equal length"
    if judge is None:
        return Condition(name=name, value="nobody judged", limit="not asked", holds=None)
    if judge.name == DEMONSTRATED:
        return Condition(name=name, value="both models are judged by the same answers", limit="not asked", holds=None)
    if judge.at_equal_length is None:
        few = f"so few prompts do not show what length does, n = {judge.prompts:,}"
        longer = "one of the two nearly always writes the longer answer"
        value = f"cannot be known: {few if judge.prompts < LEAST_CLUSTERS else longer}"
        return Condition(name=name, value=value, limit="not asked", holds=None)
    change = (
        "Length is what wins: look at the answers. Add preferences in which the shorter answer is chosen; if length is what "
        "people want, set gate_max_equal_length_loss to 0."
    )
    equal = judge.at_equal_length
    condition = _within(name, judge.measure, equal, config.gate_max_equal_length_loss, change)
    if condition.holds is False and equal.high >= 0.5:
        # What is read off between the lengths that were seen is unsure: it stops nothing unless it is worse beyond chance.
        return replace(condition, value=f"{condition.value}: cannot be known from so few", holds=None)
    return condition


def _not_worse(wins: Wins, config: GateConfig, change: str) -> Condition:
    name = f"Not worse by {wins.measure}"
    low, high, n = wins.rate.low, wins.rate.high, wins.rate.n
    condition = _within(
        name, wins.measure, MeanEstimate(wins.rate.rate, low, high, n), config.gate_max_judge_loss, change
    )
    if wins.trusted:
        return condition
    value = f"{condition.value}, which is not shown to agree with people"
    return Condition(name=name, value=value, limit="not asked", holds=None)


def _within(name: str, measure: str, rate: MeanEstimate, most: float, change: str) -> Condition:
    """Return the condition that a win rate is not below one half by `most` or more."""
    value = f"wins {_share(rate.mean)} [{_share(rate.low)}, {_share(rate.high)}] by {measure}, n = {rate.n:,}"
    if most == 0:
        return Condition(name=name, value=value, limit="no limit", holds=None)
    limit = f"lower end above {_share(0.5 - most)}"
    change = change if rate.high < 0.5 else _UNSURE
    return Condition(name=name, value=value, limit=limit, holds=rate.low > 0.5 - most, change=change)


def _ended(row: Row | None, config: GateConfig, look: str) -> Condition:
    most = config.gate_max_unfinished_rise
    limit = f"lower end above {-100 * most:+.0f} points"
    change = row.difference if row else None
    holds = change is not None and change.low > -most
    return _share_condition("As many answers end by themselves", row, most, limit, holds, look)


def _no_rise(row: Row | None, words: str, most: float, taste: Taste | None, look: str) -> Condition:
    name = f"No rise of {words}"
    if taste and taste.is_liked:
        value = f"{_difference(row)}; of two answers people chose such a one for {taste.liked} prompts of {taste.n}"
        return Condition(name=name, value=value, limit="not asked: people prefer it", holds=None)
    change = row.difference if row else None
    holds = change is not None and change.high < most
    return _share_condition(name, row, most, f"upper end below {100 * most:+.0f} points", holds, look)


def _share_condition(name: str, row: Row | None, most: float, limit: str, holds: bool, look: str) -> Condition:
    if most == 0:
        return Condition(name=name, value=_difference(row), limit="no limit", holds=None)
    change = row.difference if row else None
    unsure = change is not None and change.low <= 0 <= change.high
    return Condition(name=name, value=_difference(row), limit=limit, holds=holds, change=_UNSURE if unsure else look)


def _estimate(row: Row | None, unit: str) -> str:
    if row is None or row.tuned is None:
        return "not measured"
    mean = row.tuned
    return f"{number(mean.mean)} [{number(mean.low)}, {number(mean.high)}] {unit}, n = {mean.n:,}"


def _difference(row: Row | None) -> str:
    change = row.difference if row else None
    if change is None:
        return "not measured"
    return f"{points(change)}, n = {change.n:,}"


def points(change: MeanEstimate) -> str:
    """Return a difference of shares with its interval, in points."""
    return f"{100 * change.mean:+.0f} points [{100 * change.low:+.0f}, {100 * change.high:+.0f}]"


def _share(share: float) -> str:
    """Return a share with one decimal where a whole percent would hide on which side of one half it lies."""
    return f"{share:.1%}" if 0.49 < share < 0.51 and share != 0.5 else percent(share)
