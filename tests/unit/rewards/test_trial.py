import json

import pytest
from judge_server import judge_server
from tests.unit.rewards.scoring import answer

from rlhf_tuning import environment
from rlhf_tuning.rewards.trial import known_answers, needs_tokens, try_rewards

LISTED = [
    {"kind": "reward_model", "weight": 0.5},
    {"kind": "string_match", "name": "kind_word", "expression": "please", "operation": "partial_match", "weight": 2},
    {"kind": "unfinished"},
]
TEXT = json.dumps(LISTED)
PREFERENCES = [
    {"prompt": [{"role": "user", "content": f"Ask {number}."}], "chosen": "Sit, please.", "rejected": "Sit."}
    for number in range(8)
]
PROMPTS = [{"prompt": [{"role": "user", "content": "6 x 7?"}], "references": {"answer": "42", "none": " "}}]


def test_each_part_and_the_sum_are_measured_and_held_against_what_people_chose():
    asked, choices = known_answers(TEXT, PREFERENCES, PROMPTS, answer)
    assert choices == 8
    trial = try_rewards(TEXT, asked, choices=choices, most_tokens=8)
    word, unfinished = trial.parts
    assert (word.name, word.mean, word.spread) == ("kind_word", 0.5, 0.5)
    assert (trial.total.mean, max(trial.total.scores)) == (1.0, 2.0)
    assert (word.agreement.share, word.agreement.n, unfinished.agreement.share) == (1.0, 8, 0.5)
    assert trial.cautions == ["The reward unfinished gives all 16 answers 0: it tells none from another."]


def test_a_reward_that_prefers_what_people_did_not_is_told():
    against = json.dumps([{"kind": "string_match", "expression": "Sit."}])
    asked, choices = known_answers(against, PREFERENCES, [], answer)
    cautions = try_rewards(against, asked, choices=choices, most_tokens=8).cautions
    assert "People preferred the other answer more often than string_match did beyond chance." in cautions


def test_where_rewards_need_references_these_are_what_is_tried():
    listed = json.dumps([{"kind": "string_match", "expression": "{{references.answer}}"}])
    asked, choices = known_answers(listed, PREFERENCES, PROMPTS, answer)
    assert [(found.text, choices) for _, found in asked] == [("42", 0)]
    assert try_rewards(listed, asked, most_tokens=8).total.scores == [1.0]


def test_what_a_request_to_a_judge_costs_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "CACHE_DIR", tmp_path / "cache")
    with judge_server(lambda question: "Score: 7") as server:
        server.tokens = 500
        listed = json.dumps([{"kind": "judge", "model": "m", "endpoint": f"{server.url}/v1", "price": 4}])
        asked, choices = known_answers(listed, PREFERENCES, [], answer)
        first, again = (try_rewards(listed, asked, choices=choices, most_tokens=8) for _ in range(2))
    assert first.total.cost_each == again.total.cost_each == pytest.approx(0.002)
    assert (first.total.kept, again.total.kept) == (0, 16)
    assert "Of the scores of judge 16 were kept from before" in again.cautions[-1]


def test_the_reward_model_alone_cannot_be_tried():
    assert try_rewards('[{"kind": "reward_model"}]', [], most_tokens=8) is None


@pytest.mark.parametrize(("kind", "counts"), [({"kind": "length", "low": 1, "high": 2}, True), (LISTED[1], False)])
def test_only_some_rewards_count_tokens(kind, counts):
    assert needs_tokens(json.dumps([kind])) is counts
