"""May the challenger take the champion's place? Only if it beats it beyond chance, and nothing else went wrong.

Every condition must hold. The first asks for proof: the lower end of the 95% interval of the paired win rate must lie above
one half plus a margin, and the exact sign test must allow it too, so that of two equally good models the challenger is
promoted in at most 2.5% of all runs (the interval alone gives up to 3.2%). Answers to one prompt may depend on each other in
any way, so that test counts each distinct prompt once, for whoever wins it more often. The others ask that no harm is shown:
a limit kept, or no fall or rise beyond chance. They can only refuse, so they do not raise that share.
`benchmarks/promotion_gate.py` measures it, and how often a truly better model passes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

from rlhf_tuning.evaluation.comparison import Row, Summary, Wins, number, percent
from rlhf_tuning.limits import check_limits
from rlhf_tuning.statistics import MeanEstimate, WinRate, sign_test, win_rate

#: Shares of answers that may not rise, by the name of their row, and how they are told.
_DEGENERATE = {
    "empty": "empty answers",
    "repetitive": "repetitive answers",
    "refused": "refusals",
}
#: One side of 95%.
_ALPHA = 0.025
_TOO_FAR = "The optimised reward rose at the expense of quality: raise kl_coeff or train fewer steps."
_LOOK = "Look at these answers; raise kl_coeff, or show the reward model such answers as rejected ones."
#: Most prompts that the advice on how many would be enough goes up to.
_MOST_PROMPTS = 100_000


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """Limits of the gate, named as the pipeline's parameters are.

    Args:
        gate_win_rate_margin: Win rate beyond one half that the lower end of the interval must exceed, 0 to 0.49.
        gate_max_kl: Most nats of KL to the base model over an answer, on average; 0 for no limit.
        gate_max_length_ratio: Most that the mean length may grow or shrink, as a factor; 0 for no limit.
    """

    gate_win_rate_margin: float = 0.0
    gate_max_kl: float = 50.0
    gate_max_length_ratio: float = 3.0

    def __post_init__(self) -> None:
        check_limits(**asdict(self))


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One condition of a promotion.

    Args:
        name: What is asked, in words.
        value: What was measured, with its interval and n.
        limit: What would have been accepted.
        holds: Whether it was; None when it could not be measured, which does not stop a promotion.
        change: What would make it hold, when it does not.
    """

    name: str
    value: str
    limit: str
    holds: bool | None
    change: str = ""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The gate's answer and all that it rests on."""

    champion: str
    conditions: tuple[Condition, ...]

    @property
    def promote(self) -> bool:
        """Say whether the challenger takes the champion's place."""
        return all(condition.holds is not False for condition in self.conditions)

    def as_json(self) -> dict[str, object]:
        """Return the decision as JSON values."""
        return {
            "promote": self.promote,
            "champion": self.champion,
            "conditions": [asdict(condition) for condition in self.conditions],
        }


def decide(summary: Summary, config: GateConfig, *, champion: str, also: Sequence[Condition] = ()) -> Decision:
    """Return whether the tuned model of `summary` may take the place of the model it is compared with.

    Args:
        summary: Answers of the challenger (`tuned`) and the champion (`base`) to the same prompts, judged.
        config: The limits.
        champion: How people call the champion, such as `my-model@3` or `the base model`.
        also: Conditions that were looked at elsewhere.
    """
    rows = {row.name: row for row in summary.rows}
    conditions = [
        _beats(summary.measured, champion, config),
        _kl(rows.get("kl_per_answer"), config),
        _length(rows.get("tokens"), config),
        _held_out_reward(rows.get("held_out_reward"), summary.held_out_reward),
        _did_not_fall(rows.get("ended"), "As many answers end by themselves", _LOOK),
        *(_did_not_rise(rows.get(name), f"No rise of {words}") for name, words in _DEGENERATE.items()),
        *also,
    ]
    return Decision(champion=champion, conditions=tuple(conditions))


def decision_text(decision: Decision) -> str:
    """Return the decision as people read it: the verdict, each condition, and what would change it."""
    verdict = (
        f"Promoted: the tuned model takes the place of {decision.champion}."
        if decision.promote
        else f"Not promoted: {decision.champion} stays champion."
    )
    marks = {True: "ok", False: "NO", None: "--"}
    width = max(len(condition.name) for condition in decision.conditions)
    lines = [verdict]
    for condition in decision.conditions:
        lines.append(
            f"  {marks[condition.holds]}  {condition.name.ljust(width)}  {condition.value} ({condition.limit})"
        )
        if condition.holds is False and condition.change:
            lines.append(f"      {condition.change}")
    return "\n".join(lines) + "\n"


def shown_better(wins: Wins, margin: float = 0.0) -> bool:
    """Say whether the wins show the challenger's win rate to lie above one half plus `margin`, beyond chance."""
    return _beyond_chance(wins.rate, wins.prompts_won, wins.prompts_lost, margin)


def enough(wins: int, ties: int, losses: int, margin: float = 0.0) -> bool:
    """Say whether so many prompts, each answered once, would show it."""
    return _beyond_chance(win_rate(wins, ties, losses), wins, losses, margin)


def _beyond_chance(rate: WinRate, prompts_won: int, prompts_lost: int, margin: float) -> bool:
    return rate.low > 0.5 + margin and sign_test(prompts_won, prompts_lost) <= _ALPHA


def _beats(measured: Sequence[Wins], champion: str, config: GateConfig) -> Condition:
    name, least = f"Beats {champion} beyond chance", 0.5 + config.gate_win_rate_margin
    limit = f"lower end above {_share(least)}, p at most {_ALPHA}"
    if not measured:
        change = "Give a scorer, or a reward model, so that answers can be compared."
        return Condition(name=name, value="no answers were compared", limit=limit, holds=False, change=change)
    # A judge that agrees with people no better than chance decides nothing, however independent it is.
    trusted = [wins for wins in measured if _trusted(wins)]
    if not trusted:
        change = "Give more, or more consistent, preferences, a larger base model, or another judge."
        value = "no judge agrees with people beyond chance"
        return Condition(name=name, value=value, limit=limit, holds=False, change=change)
    wins = trusted[0]
    judge, rate = wins.measure, wins.rate
    value = (
        f"wins {_share(rate.rate)} [{_share(rate.low)}, {_share(rate.high)}] by {judge}, "
        f"n = {rate.n:,}: {rate.wins} won, {rate.ties} tied, {rate.losses} lost; "
        f"exact sign test of {wins.prompts_won} prompts won and {wins.prompts_lost} lost "
        f"p = {number(sign_test(wins.prompts_won, wins.prompts_lost))}"
    )
    holds = shown_better(wins, config.gate_win_rate_margin)
    return Condition(name=name, value=value, limit=limit, holds=holds, change=_more_prompts(rate, config))


def _more_prompts(rate: WinRate, config: GateConfig) -> str:
    """Say how many prompts would be enough if the true shares were the observed ones."""
    least = 0.5 + config.gate_win_rate_margin
    if rate.rate <= least:
        return f"At this win rate no number of prompts would be enough: it must be above {_share(least)}."
    factor = 1.0
    while rate.n * factor < _MOST_PROMPTS:
        factor *= 1.05
        # Rounded to the challenger's disadvantage, so that the advice is enough and not just lucky.
        wins, ties, losses = math.floor(rate.wins * factor), round(rate.ties * factor), math.ceil(rate.losses * factor)
        if enough(wins, ties, losses, config.gate_win_rate_margin):
            n = math.ceil((wins + ties + losses) / 10) * 10
            return f"If the true win rate is the observed one, about {n:,} evaluation prompts would show it."
    return f"Even {_MOST_PROMPTS:,} evaluation prompts would not show so small a difference."


def _kl(row: Row | None, config: GateConfig) -> Condition:
    name = "KL to the base model within its limit"
    if config.gate_max_kl == 0:
        return Condition(name=name, value=_estimate(row, "nats per answer"), limit="no limit", holds=None)
    limit = f"at most {config.gate_max_kl:g}"
    if row is None or row.tuned is None:
        return Condition(name=name, value="not measured", limit=limit, holds=None)
    return Condition(
        name=name,
        value=_estimate(row, "nats per answer"),
        limit=limit,
        holds=row.tuned.mean <= config.gate_max_kl,
        change="Raise kl_coeff, lower the learning rate or the steps, or raise gate_max_kl.",
    )


def _length(row: Row | None, config: GateConfig) -> Condition:
    name, most = "Answers of about the same length", config.gate_max_length_ratio
    limit = f"between 1/{most:g} and {most:g} times" if most else "no limit"
    if row is None or row.tuned is None or row.base is None or row.base.mean == 0:
        return Condition(name=name, value="not measured", limit=limit, holds=None)
    ratio = row.tuned.mean / row.base.mean
    value = f"{number(ratio)} times: {number(row.base.mean)} to {number(row.tuned.mean)} tokens, n = {row.tuned.n:,}"
    return Condition(
        name=name,
        value=value,
        limit=limit,
        holds=None if not most else 1 / most <= ratio <= most,
        change="Look at the answers: length alone may have been rewarded. If they are wanted, raise gate_max_length_ratio.",
    )


def _held_out_reward(row: Row | None, wins: Wins | None) -> Condition:
    condition = _did_not_fall(row, "Held-out reward did not fall", _TOO_FAR)
    if wins and not _trusted(wins):
        value = f"{condition.value}, but it agrees with people no better than chance"
        return replace(condition, value=value, holds=None)
    return condition


def _trusted(wins: Wins) -> bool:
    """Say whether a judge agrees with people beyond chance, as far as that was checked."""
    return wins.agreement is None or wins.agreement.low > 0.5


def _did_not_fall(row: Row | None, name: str, change: str) -> Condition:
    return _no_harm(row, name, "not lower beyond chance", change, lambda difference: difference.high >= 0)


def _did_not_rise(row: Row | None, name: str) -> Condition:
    return _no_harm(row, name, "not higher beyond chance", _LOOK, lambda difference: difference.low <= 0)


def _no_harm(row: Row | None, name: str, limit: str, change: str, holds: Callable[[MeanEstimate], bool]) -> Condition:
    if row is None or row.difference is None:
        return Condition(name=name, value="not measured", limit=limit, holds=None)
    return Condition(name=name, value=_difference(row), limit=limit, holds=holds(row.difference), change=change)


def _estimate(row: Row | None, unit: str) -> str:
    if row is None or row.tuned is None:
        return "not measured"
    mean = row.tuned
    return f"{number(mean.mean)} [{number(mean.low)}, {number(mean.high)}] {unit}, n = {mean.n:,}"


def _difference(row: Row) -> str:
    change = row.difference
    if change is None:
        return "not measured"
    if row.share:
        return f"{100 * change.mean:+.0f} points [{100 * change.low:+.0f}, {100 * change.high:+.0f}], n = {change.n:,}"
    mean, low, high = (number(value, sign=True) for value in change[:3])
    return f"{mean} [{low}, {high}], n = {change.n:,}"


def _share(share: float) -> str:
    """Return a share with one decimal where a whole percent would hide on which side of one half it lies."""
    return f"{share:.1%}" if 0.49 < share < 0.51 and share != 0.5 else percent(share)
