"""The reward model of phase 1. The policy was trained to please it, so it is no independent judge."""

from collections.abc import Sequence

from rlhf_tuning import reward_model, step
from rlhf_tuning.judges import JudgeSettings
from rlhf_tuning.judges.verdict import Comparison, Verdict


class RewardModelJudge:
    """Prefers the answer with the higher reward."""

    name = "reward_model"
    label = "reward"
    #: As many as phase 1 measures it on, so that both say the same.
    most_human_choices = reward_model.MOST_EVAL_ROWS

    def __init__(self, directory: str, *, dtype: str) -> None:
        self.notes: list[str] = []
        self._directory, self._dtype = directory, dtype

    def compare(self, comparisons: Sequence[Comparison]) -> list[Verdict | None]:
        """Return the verdict on each comparison.

        Raises:
            ModelError: If the reward model cannot be loaded.
        """
        model = reward_model.load_reward_model(self._directory, dtype=self._dtype)
        progress = step.Progress("scoring answers", 2 * len(comparisons), "answer")
        scores = model.score(
            [comparison.prompt for comparison in comparisons] * 2,
            [comparison.first for comparison in comparisons] + [comparison.second for comparison in comparisons],
            on_progress=progress.update,
        )
        count = len(comparisons)
        return [Verdict(scores=pair) for pair in zip(scores[:count], scores[count:], strict=True)]


def make_judge(settings: JudgeSettings) -> RewardModelJudge:
    """Return the judge that holds the reward model of `reward_model_dir`."""
    return RewardModelJudge(settings.reward_model_dir, dtype=settings.dtype)
