"""A penalty for answers that do not end: -1 where target_sequence_length cut the answer off, else 0.

{"kind": "unfinished", "weight": 0.5}
"""

from collections.abc import Sequence

from rlhf_tuning.rewards import Answer, Example, NothingToClose
from rlhf_tuning.rewards import Options as Options


class UnfinishedScorer(NothingToClose):
    """Scores by the end alone."""

    def score(self, examples: Sequence[Example], answers: Sequence[Answer], *, step: int) -> list[float]:
        """Return the penalty of each answer."""
        return [0.0 if answer.ended else -1.0 for answer in answers]


def make_scorer(options: Options, *, most_tokens: int) -> UnfinishedScorer:
    """Return the scorer."""
    return UnfinishedScorer()
