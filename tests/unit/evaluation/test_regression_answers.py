import json

import pytest

from rlhf_tuning.errors import ParameterError
from rlhf_tuning.evaluation.evaluate import EvaluationConfig
from rlhf_tuning.evaluation.judges.verdict import Comparison, Verdict
from rlhf_tuning.evaluation.regression_answers import answer_suite

ASKED = [Comparison([{"role": "user", "content": "Hi."}], "a", "b")]


class Judge:
    """Prefers the second answer."""

    label, most_human_choices = "judge x", 0

    def __init__(self, name):
        self.name, self.notes, self.asked = name, [], []

    def compare(self, comparisons):
        self.asked = comparisons
        return [Verdict(orders=(1.0, 1.0)) for _ in comparisons]


@pytest.fixture
def suite(tmp_path):
    rows = [
        {"prompt": "Enjoy some fun.", "assert": [{"type": "not-equals", "value": "What no model of a test says."}]},
        {"prompt": "Tell of the harbour."},
    ]
    (tmp_path / "suite.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path / "suite.jsonl")


def config(model, **settings):
    return EvaluationConfig(
        large_model_reference=str(model),
        prompt_sequence_length=32,
        target_sequence_length=6,
        gate_max_regression=0.0,
        gate_max_judge_loss=0.0,
        **settings,
    )


def test_both_models_answer_and_the_judge_is_asked_where_nothing_is_asserted(tiny_model, tiny_plain_model, suite):
    named = {"judge": "local_model", "judge_model": str(tiny_model)}
    answers = answer_suite(config(tiny_model, regression_suite=suite, **named), tuned_model_dir=str(tiny_plain_model))
    other, judge = Judge("reward_model"), Judge("local_model")
    kept, listened = answers.asked_of([other, judge], "local_model")
    assert kept is other
    assert len(listened.compare(ASKED)) == 1
    (question,) = judge.asked[1:]
    assert question.prompt[0]["content"] == "Tell of the harbour."
    assert question.first != question.second
    found = answers.found()
    assert (found.passed, found.judge, found.win_rate.wins) == ((1, 1), "judge x", 1)


def test_without_a_suite_nothing_is_answered_and_without_its_judge_nothing_is_begun(tiny_model, suite):
    assert answer_suite(config(tiny_model), tuned_model_dir="") is None
    with pytest.raises(ParameterError, match="but judge is empty"):
        answer_suite(config(tiny_model, regression_suite=suite), tuned_model_dir="")
