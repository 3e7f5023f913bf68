"""Rewards of one's own as the judge of a run that has no other: they say what a good answer is, as a scorer does."""

from collections.abc import Sequence
from contextlib import closing

from rlhf_tuning.evaluation.evaluate import REWARDS_LABEL, EvaluationConfig
from rlhf_tuning.evaluation.judges.verdict import Comparison, Verdict
from rlhf_tuning.generation.inference import read_predictions
from rlhf_tuning.rewards import Answer, Example, load_rewards


class RewardsJudge:
    """Prefers the answer with the higher weighted sum of rewards.

    Args:
        rewards: The parameter, as `read_rewards` returns it.
        answers: What is compared, in its order, with both models' rows of it: rewards look at more than the texts.
        most_tokens: Of an answer.
    """

    name = "scorer"
    label = REWARDS_LABEL
    #: It is not measured by what people chose: it says what is wanted.
    most_human_choices = 0

    def __init__(self, rewards: str, answers: Sequence[tuple[Example, Example]], *, most_tokens: int) -> None:
        self.notes: list[str] = []
        self._rewards, self._answers, self._most_tokens = rewards, answers, most_tokens

    def compare(self, comparisons: Sequence[Comparison]) -> list[Verdict | None]:
        """Return the verdict on each comparison, which are those of the answers.

        Raises:
            RlhfError: If an answer cannot be scored, as where a prompt lacks the references that a reward needs.
        """
        if [comparison[1:] for comparison in comparisons] != [
            (first["prediction"], second["prediction"]) for first, second in self._answers
        ]:
            raise ValueError("rewards judge the answers that they were given, all of them and in their order")
        # Equal texts need not be equal answers: one may have been cut off, or its prompt may come with other references.
        examples = [row for both in self._answers for row in both]
        answers = [Answer(row["prediction"], row["tokens"], row["ended"]) for row in examples]
        with closing(load_rewards(self._rewards, most_tokens=self._most_tokens)) as rewards:
            rewards.check_references(examples, parameter="eval_dataset")
            scores = rewards.score(examples, answers, step=0)
        return [Verdict(scores=both) for both in zip(scores[::2], scores[1::2], strict=True)]


def rewards_as_judges(config: EvaluationConfig, predictions_paths: tuple[str, str]) -> list[RewardsJudge]:
    """Return the judge that the rewards of a run are, where they are all that says what a good answer is.

    Args:
        config: The settings.
        predictions_paths: What both models answered, to the same prompts in the same order.
    """
    if not config.true_rewards or config.scorer:
        return []
    first, second = map(read_predictions, predictions_paths)
    # That they answer the same prompts is checked before they are judged.
    answers = list(zip(first, second, strict=False))
    return [RewardsJudge(config.true_rewards, answers, most_tokens=config.target_sequence_length)]
