"""An answer is to have a length: 1 from `low` to `high` tokens, falling to 0 over `falloff` tokens on either side.

{"kind": "length", "low": 20, "high": 60, "falloff": 20}
"""

from collections.abc import Sequence

from rlhf_tuning import rewards
from rlhf_tuning.rewards import Answer, Example, NothingToClose


class Options(rewards.Options, frozen=True, kw_only=True):
    """The band, in tokens."""

    low: int
    high: int
    falloff: int = 0

    def problem(self) -> str:
        """Return what is wrong with the band, or an empty string."""
        if not 0 <= self.low <= self.high:
            return f"low is {self.low} and high {self.high}; low must be at least 0 and at most high."
        return f"falloff is {self.falloff}; it must be at least 0." if self.falloff < 0 else ""


class LengthScorer(NothingToClose):
    """Scores by the length alone."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def score(self, examples: Sequence[Example], answers: Sequence[Answer], *, step: int) -> list[float]:
        """Return how near to the band each answer is, from 0 to 1."""
        return [self._of(answer.tokens) for answer in answers]

    def _of(self, tokens: int) -> float:
        away = max(self._options.low - tokens, tokens - self._options.high, 0)
        return max(0.0, 1.0 - away / (self._options.falloff + 1))


def make_scorer(options: Options, *, most_tokens: int) -> LengthScorer:
    """Return the scorer."""
    return LengthScorer(options)
