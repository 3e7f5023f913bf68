"""The reward model of phase 1. The policy was trained to please it, so it is no independent judge."""

from collections.abc import Sequence

from rlhf_tuning import step
from rlhf_tuning.distributed import processes
from rlhf_tuning.evaluation.judges import JudgeSettings
from rlhf_tuning.evaluation.judges.verdict import Comparison, Verdict
from rlhf_tuning.evaluation.reward_model_accuracy import MOST_EVAL_ROWS
from rlhf_tuning.models import reward_model
from rlhf_tuning.models.text_format import Conversation


class RewardModelJudge:
    """Prefers the answer with the higher reward."""

    name = "reward_model"
    label = "reward"
    #: As many as phase 1 measures it on, so that both say the same.
    most_human_choices = MOST_EVAL_ROWS

    def __init__(self, directory: str, *, dtype: str) -> None:
        self.notes: list[str] = []
        self._directory, self._dtype = directory, dtype

    def compare(self, comparisons: Sequence[Comparison]) -> list[Verdict | None]:
        """Return the verdict on each comparison.

        Raises:
            ModelError: If the reward model cannot be loaded.
        """
        asked = [(comparison.prompt, answer) for comparison in comparisons for answer in comparison[1:]]
        keys = [reward_model.answer_key(*pair) for pair in asked]
        scores = reward_model.saved_scores(self._directory)  # of the human choices, as a rule
        unknown = {key: pair for key, pair in zip(keys, asked, strict=True) if key not in scores}
        if unknown:
            found = processes.run(
                score_answers,
                list(unknown.values()),
                trains=False,
                directory=self._directory,
                dtype=self._dtype,
                label=f"scoring answers: {self.label}",
            )
            scores |= dict(zip(unknown, found, strict=True))
        return [
            Verdict(scores=(scores[first], scores[second])) for first, second in zip(keys[::2], keys[1::2], strict=True)
        ]


def score_answers(asked: Sequence[tuple[Conversation, str]], *, directory: str, dtype: str, label: str) -> list[float]:
    """Return the score that a saved reward model gives to each answer to its conversation; the progress has the label."""
    processes.join()
    model = reward_model.load_reward_model(directory, dtype=dtype)

    def score(asked: Sequence[tuple[Conversation, str]]) -> list[float]:
        progress = step.Progress(label, len(asked), "answer")
        conversations, answers = [pair[0] for pair in asked], [pair[1] for pair in asked]
        return model.score(conversations, answers, on_progress=progress.update)

    return processes.spread(score, asked)


def make_judge(settings: JudgeSettings) -> RewardModelJudge:
    """Return the judge that holds the reward model of `reward_model_dir`."""
    return RewardModelJudge(settings.reward_model_dir, dtype=settings.dtype)
