import json

import pytest
from tests.unit.rewards.scoring import EXAMPLE, PROMPT

from rlhf_tuning.errors import DataError
from rlhf_tuning.evaluation.evaluate import EvaluationConfig
from rlhf_tuning.evaluation.judges.verdict import Comparison
from rlhf_tuning.rewards.as_judge import rewards_as_judges

LISTED = json.dumps(
    [{"kind": "string_match", "expression": "{{references.answer}}"}, {"kind": "unfinished", "weight": 0.25}]
)


def config(**settings):
    return EvaluationConfig(large_model_reference="x", target_sequence_length=8, **settings)


def test_rewards_judge_answers_with_all_that_is_known_of_them(tmp_path):
    for name, text, ended in (("base", "42", False), ("tuned", "42 ", True)):
        row = {**EXAMPLE, "prediction": text, "tokens": 2, "ended": ended}
        (tmp_path / name).write_text(json.dumps(row) + "\n")
    paths = [str(tmp_path / "base"), str(tmp_path / "tuned")]
    [judge] = rewards_as_judges(config(true_rewards=LISTED), paths)
    [verdict] = judge.compare([Comparison(PROMPT, "42", "42 ")])
    assert verdict.scores == (0.75, 1.0)
    assert config(true_rewards=LISTED).scorer_name == judge.label == "the rewards"


def test_equal_texts_are_judged_by_what_else_is_known_of_each(tmp_path):
    other = {**EXAMPLE, "references": {"answer": "41"}}
    for name, ended in (("base", False), ("tuned", True)):
        rows = [{**example, "prediction": "42", "tokens": 2, "ended": ended} for example in (EXAMPLE, other)]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    [judge] = rewards_as_judges(config(true_rewards=LISTED), (str(tmp_path / "base"), str(tmp_path / "tuned")))
    comparisons = [Comparison(PROMPT, "42", "42")] * 2
    assert [verdict.scores for verdict in judge.compare(comparisons)] == [(0.75, 1.0), (-0.25, 0.0)]
    with pytest.raises(ValueError, match="all of them and in their order"):
        judge.compare(comparisons[:1])


def test_a_prompt_without_what_answers_are_held_against_is_told(tmp_path):
    row = {"prompt": PROMPT, "prediction": "42", "tokens": 2, "ended": True}
    (tmp_path / "both").write_text(json.dumps(row) + "\n")
    [judge] = rewards_as_judges(config(true_rewards=LISTED), [str(tmp_path / "both")] * 2)
    with pytest.raises(DataError, match=r"references\.answer, which prompt 1 of .* every row of eval_dataset"):
        judge.compare([Comparison(PROMPT, "42", "42")])


def test_they_do_not_judge_where_a_scorer_does_or_where_they_are_not_said_to_be_the_truth():
    assert rewards_as_judges(config(), []) == []
    assert rewards_as_judges(config(true_rewards=LISTED, scorer="house_style"), []) == []
    assert config(true_rewards=LISTED, scorer="house_style").scorer_name == "house style"
