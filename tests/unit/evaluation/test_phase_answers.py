from collections.abc import Sequence

import pytest

from rlhf_tuning.evaluation.comparison import AnswerPair, ScoredAnswer
from rlhf_tuning.evaluation.judges.verdict import Comparison, Verdict
from rlhf_tuning.evaluation.phase_answers import BASE, SUPERVISED, TUNED, PhaseAnswers
from rlhf_tuning.evaluation.phase_gains import gains_text

PROMPTS = [[{"role": "user", "content": f"Describe place {number}."}] for number in range(4)]


class LongerWins:
    """Prefers the longer answer, and says nothing where one is empty."""

    name, label, most_human_choices = "longer", "length", 10

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.asked: list[int] = []

    def compare(self, comparisons: Sequence[Comparison]) -> list[Verdict | None]:
        self.asked.append(len(comparisons))
        self.notes = ["counted"]
        return [
            Verdict(scores=(float(len(one.first)), float(len(one.second)))) if one.first and one.second else None
            for one in comparisons
        ]


@pytest.fixture
def answers() -> PhaseAnswers:
    said = {BASE: ["a", "b", "c", ""], SUPERVISED: ["aa", "bb", "c", "dd"], TUNED: ["aaa", "bb", "ccc", "dddd"]}
    rows = {
        model: [{"prompt": prompt, "prediction": text} for prompt, text in zip(PROMPTS, texts, strict=True)]
        for model, texts in said.items()
    }
    return PhaseAnswers(rows=rows, kl=[1.0, 2.0, 1.0, 2.0])


def test_each_model_is_held_against_those_before_it_in_the_question_that_is_asked_anyway(answers: PhaseAnswers) -> None:
    judge = LongerWins()
    [listened] = answers.asked_of([judge])
    question = [Comparison(PROMPTS[0], "short", "longer")]
    assert [verdict.outcome for verdict in listened.compare(question) if verdict] == ["win"]
    assert judge.asked == [1 + 3 * 4]
    assert listened.notes == ["counted"]
    tuned = [ScoredAnswer(text="", tokens=1, ended=True, kl=kl) for kl in (3.0, 5.0, 3.0, 5.0)]
    gains = answers.gains([AnswerPair(prompt=prompt, tuned=one) for prompt, one in zip(PROMPTS, tuned, strict=True)])
    assert [(gain.model, gain.against) for gain in gains] == [(SUPERVISED, BASE), (TUNED, SUPERVISED), (TUNED, BASE)]
    rates = [gain.wins["length"] for gain in gains]
    # Where an answer is empty nobody says which is better; the same text twice is a tie.
    assert [(rate.wins, rate.ties, rate.losses) for rate in rates] == [(2, 1, 0), (3, 1, 0), (3, 0, 0)]
    assert [gain.kl.mean if gain.kl else None for gain in gains] == [1.5, 4.0, None]
    text = gains_text(gains)
    assert "supervised model against base model: wins 83%" in text
    assert "tuned model against supervised model: wins 88%" in text
    assert "KL 4.00" in text


def test_nothing_is_said_where_no_supervised_phase_came_before() -> None:
    assert gains_text([]) == ""
