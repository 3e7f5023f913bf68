"""A soft penalty near the limit: 0 up to `margin` tokens below target_sequence_length, then falling to -1 at the limit.

    {"kind": "near_limit", "margin": 16}

After Yu et al. 2025 (DAPO, https://arxiv.org/abs/2503.14476), whose answers may go on past the point where -1 is reached.
"""

from collections.abc import Sequence

from rlhf_tuning import rewards
from rlhf_tuning.errors import ParameterError
from rlhf_tuning.rewards import Answer, Example, NothingToClose


class Options(rewards.Options, frozen=True, kw_only=True):
    """How many tokens before the limit the penalty begins."""

    margin: int

    def problem(self) -> str:
        """Return what is wrong with the margin, or an empty string."""
        return f"margin is {self.margin}; it must be at least 1." if self.margin < 1 else ""


class NearLimitScorer(NothingToClose):
    """Scores by the length alone."""

    def __init__(self, margin: int, most_tokens: int) -> None:
        self._margin, self._begins = margin, most_tokens - margin

    def score(self, examples: Sequence[Example], answers: Sequence[Answer], *, step: int) -> list[float]:
        """Return the penalty of each answer, from -1 to 0."""
        return [-max(0, answer.tokens - self._begins) / self._margin for answer in answers]


def make_scorer(options: Options, *, most_tokens: int) -> NearLimitScorer:
    """Return the scorer.

    Raises:
        ParameterError: If every answer would be near the limit.
    """
    if options.margin >= most_tokens:
        raise ParameterError(
            f"rewards, near_limit: its margin is {options.margin}, and an answer has at most {most_tokens} tokens "
            "(target_sequence_length). Lower it."
        )
    return NearLimitScorer(options.margin, most_tokens)
