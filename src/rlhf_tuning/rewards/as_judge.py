"""Rewards of one's own as the judge of a run that has no other: they say what a good answer is, as a scorer does."""

from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import Any

from rlhf_tuning.evaluation.evaluate import REWARDS_LABEL, EvaluationConfig
from rlhf_tuning.evaluation.judges.verdict import Comparison, Verdict
from rlhf_tuning.generation.inference import read_predictions
from rlhf_tuning.models.text_format import conversation_key
from rlhf_tuning.rewards import Answer, Example, load_rewards


class RewardsJudge:
    """Prefers the answer with the higher weighted sum of rewards.

    Args:
        rewards: The parameter, as `read_rewards` returns it.
        predictions: What is compared, as `read_predictions` yields it: rewards look at more of an answer than its text.
        most_tokens: Of an answer.
    """

    name = "scorer"
    label = REWARDS_LABEL
    #: It is not measured by what people chose: it says what is wanted.
    most_human_choices = 0

    def __init__(self, rewards: str, predictions: Iterable[dict[str, Any]], *, most_tokens: int) -> None:
        self.notes: list[str] = []
        self._rewards, self._most_tokens = rewards, most_tokens
        self._known = {
            (conversation_key(row["prompt"]), row["prediction"]): (
                row,
                Answer(row["prediction"], row["tokens"], row["ended"]),
            )
            for row in predictions
        }

    def compare(self, comparisons: Sequence[Comparison]) -> list[Verdict | None]:
        """Return the verdict on each comparison.

        Raises:
            RlhfError: If an answer cannot be scored, as where a prompt lacks the references that a reward needs.
        """
        asked = [
            self._known[conversation_key(comparison.prompt), answer]
            for comparison in comparisons
            for answer in comparison[1:]
        ]
        examples: list[Example] = [row for row, _ in asked]
        with closing(load_rewards(self._rewards, most_tokens=self._most_tokens)) as rewards:
            rewards.check_references(examples, parameter="eval_dataset")
            scores = rewards.score(examples, [answer for _, answer in asked], step=0)
        return [Verdict(scores=both) for both in zip(scores[::2], scores[1::2], strict=True)]


def rewards_as_judges(config: EvaluationConfig, predictions_paths: Iterable[str]) -> list[RewardsJudge]:
    """Return the judge that the rewards of a run are, where they are all that says what a good answer is.

    Args:
        config: The settings.
        predictions_paths: What both models answered.
    """
    if not config.true_rewards or config.scorer:
        return []
    answered = (row for path in predictions_paths for row in read_predictions(path))
    return [RewardsJudge(config.true_rewards, answered, most_tokens=config.target_sequence_length)]
