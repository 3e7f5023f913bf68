import json
from collections.abc import Sequence

import pytest

from rlhf_tuning.evaluation.comparison import AnswerPair, ScoredAnswer
from rlhf_tuning.evaluation.judges.verdict import Comparison, Verdict
from rlhf_tuning.evaluation.phase_answers import PhaseAnswers, _taught
from rlhf_tuning.evaluation.phase_gains import BASE, SUPERVISED, TEACHER, TUNED, Size, gains_text, sizes_text

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
    return PhaseAnswers(rows=rows, kl={(SUPERVISED, BASE): [1.0, 2.0, 1.0, 2.0]})


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


def test_a_student_is_held_against_what_its_teacher_said_of_those_prompts_that_it_answered(tmp_path) -> None:
    labels = [{"prompt": PROMPTS[2], "answer": "cc"}, {"prompt": PROMPTS[0], "answer": "aaaa"}]
    (tmp_path / "labels").write_text("".join(json.dumps(row) + "\n" for row in labels))
    said = {BASE: ["a", "b", "c", "d"], TUNED: ["aaa", "bb", "ccc", "dddd"]}
    rows = {
        model: [{"prompt": prompt, "prediction": text} for prompt, text in zip(PROMPTS, texts, strict=True)]
        for model, texts in said.items()
    }
    student = PhaseAnswers(
        rows={**rows, TEACHER: _taught(str(tmp_path / "labels"), rows[TUNED])}, kl={(TUNED, TEACHER): [1.0, 3.0]}
    )
    judge = LongerWins()
    [listened] = student.asked_of([judge])
    listened.compare([])
    assert judge.asked == [4 + 2]
    against_base, against_teacher = student.gains([])
    assert (against_base.against, against_base.wins["length"].wins) == (BASE, 4)
    rate = against_teacher.wins["length"]
    assert (against_teacher.against, rate.wins, rate.losses, rate.n) == (TEACHER, 1, 1, 2)
    assert against_teacher.kl is not None
    assert against_teacher.kl.mean == 2.0
    assert "tuned model against teacher: wins 50%" in gains_text([against_base, against_teacher])


def test_what_is_not_known_of_a_model_s_size_is_left_open() -> None:
    sizes = [Size(name="the student", parameters=494_000_000, bytes=988_000_000, tokens_per_second=812.4)]
    text = sizes_text([*sizes, Size(name="the teacher")])
    assert "the student: 494 million weights, 988 MB, 812 tokens a second" in text
    assert "the teacher: – weights, –, – tokens a second" in text
