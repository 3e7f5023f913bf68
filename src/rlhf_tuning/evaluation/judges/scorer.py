"""A program that knows the true quality of an answer."""

from collections.abc import Callable, Sequence

from rlhf_tuning.evaluation.judges import JudgeSettings
from rlhf_tuning.evaluation.judges.verdict import Comparison, Verdict
from rlhf_tuning.evaluation.reward_model_accuracy import MOST_EVAL_ROWS
from rlhf_tuning.sample import house_style

#: `scorer` to the program that scores (prompt, answer). To add one: a function, a line here, its name in
#: the choices of the parameter `scorer`.
SCORERS: dict[str, Callable[[str, str], float]] = {"house_style": house_style.score}


class ScorerJudge:
    """Prefers the answer with the higher score."""

    name = "scorer"
    most_human_choices = MOST_EVAL_ROWS

    def __init__(self, scorer: str) -> None:
        self.label = scorer.replace("_", " ")
        self.notes: list[str] = []
        self._score = SCORERS[scorer]

    def compare(self, comparisons: Sequence[Comparison]) -> list[Verdict | None]:
        """Return the verdict on each comparison."""
        return [
            Verdict(scores=(self._score(prompt[-1]["content"], first), self._score(prompt[-1]["content"], second)))
            for prompt, first, second in comparisons
        ]


def make_judge(settings: JudgeSettings) -> ScorerJudge:
    """Return the judge of `scorer`."""
    return ScorerJudge(settings.scorer)
