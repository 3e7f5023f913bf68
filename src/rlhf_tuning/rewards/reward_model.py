"""The reward model of phase 1, which scores as evaluation and serving do.

    {"kind": "reward_model", "weight": 0.5}

There is no need to name it: without a line of its own its weight is 1.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from rlhf_tuning.errors import ModelError
from rlhf_tuning.models.text_format import Conversation
from rlhf_tuning.rewards import Answer, Example, NothingToClose
from rlhf_tuning.rewards import Options as Options


class _Model(Protocol):
    def score(self, conversations: Sequence[Conversation], answers: Sequence[str]) -> list[float]:
        """Return the score of each answer to its prompt."""


class ModelScorer(NothingToClose):
    """Scores by a model that it is given once there is one.

    Args:
        precision: Makes what the model scores in.
    """

    def __init__(self, precision: Callable[[], AbstractContextManager[object]]) -> None:
        self._precision = precision
        self.model: _Model

    def score(self, examples: Sequence[Example], answers: Sequence[Answer], *, step: int) -> list[float]:
        """Return the score of each answer.

        Raises:
            ModelError: If one is not finite.
        """
        with self._precision():
            scores = self.model.score([example["prompt"] for example in examples], [answer.text for answer in answers])
        if bad := sum(not math.isfinite(score) for score in scores):
            raise ModelError(
                f"The reward model gives {bad:,} of {len(scores):,} answers a score that is not finite, so nothing can be "
                "learnt from it. Train it anew with a lower reward_model_learning_rate_multiplier."
            )
        return scores
