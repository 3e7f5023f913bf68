"""What a judge says of two answers, and what many verdicts say of the judge."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from rlhf_tuning.models.text_format import Conversation, conversation_key
from rlhf_tuning.statistics import WinRate, clustered_share, wilson_interval, win_rate

#: Scores this close are a tie; no two different answers get nearer by more than rounding.
TIE_WITHIN = 1e-9


class Comparison(NamedTuple):
    """Two answers to one prompt."""

    prompt: Conversation
    first: str
    second: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A judge's word on one comparison.

    Args:
        scores: Those of the first and the second answer, from a judge that scores each by itself.
        orders: From a judge that is shown both: how much it prefers the second answer (below 0: the first), when the
            first is shown first, and when the second is.
    """

    scores: tuple[float, float] | None = None
    orders: tuple[float, float] | None = None

    @property
    def preference(self) -> float:
        """Return how much the second answer is preferred. What speaks for it in one order only is cancelled."""
        if self.scores:
            return self.scores[1] - self.scores[0]
        return sum(self.orders) / 2 if self.orders else 0.0

    @property
    def outcome(self) -> Literal["win", "tie", "loss"]:
        """Return what the second answer did."""
        if abs(self.preference) <= TIE_WITHIN:
            return "tie"
        return "win" if self.preference > 0 else "loss"


class Agreement(NamedTuple):
    """How often a judge prefers the answer that people chose, with its 95% interval; a tie counts half."""

    share: float
    low: float
    high: float
    n: int

    @property
    def beyond_chance(self) -> bool:
        """Say whether the interval leaves out one half, on the side of people."""
        return self.low > 0.5


class OrderEffect(NamedTuple):
    """What the order of the two answers does to a judge.

    `first` is how often the answer that is shown first is favoured, one half being no effect; `changed` how often the
    verdict turned round when the order did.
    """

    first: WinRate
    changed: Agreement


def agreement(choices: Sequence[Comparison], verdicts: Sequence[Verdict | None]) -> Agreement | None:
    """Return how often a judge agrees with people; None without any verdict.

    A judge's errors on one prompt go together, so the interval is clustered by prompt.

    Args:
        choices: Human choices, as comparisons in which people preferred the second answer.
        verdicts: The judge's, in the same order.
    """
    judged = [(choice, verdict) for choice, verdict in zip(choices, verdicts, strict=True) if verdict]
    if not judged:
        return None
    points = [{"win": 1.0, "tie": 0.5, "loss": 0.0}[verdict.outcome] for _, verdict in judged]
    return Agreement(*clustered_share(points, [conversation_key(choice.prompt) for choice, _ in judged]))


def order_effect(verdicts: Sequence[Verdict | None]) -> OrderEffect | None:
    """Return the effect of the order over the comparisons that were judged in both; None without any."""
    signs = [tuple(map(_sign, verdict.orders)) for verdict in verdicts if verdict and verdict.orders]
    if not signs:
        return None
    # The answer shown first is the first one in order one, and the second in order two.
    favours = [two - one for one, two in signs]
    counts = [sum(_sign(favour) == sign for favour in favours) for sign in (1, 0, -1)]
    return OrderEffect(win_rate(*counts), _share(sum(one * two < 0 for one, two in signs), len(signs)))


def _share(count: float, n: int) -> Agreement:
    return Agreement(count / n, *wilson_interval(count, n), n)


def _sign(value: float) -> int:
    return 0 if abs(value) <= TIE_WITHIN else 1 if value > 0 else -1
