import json
import random
import re
from dataclasses import replace

import pytest

from rlhf_tuning.errors import ParameterError
from rlhf_tuning.evaluation.comparison import AnswerPair, JudgeRecord, ScoredAnswer, summarize
from rlhf_tuning.evaluation.gate import GateConfig, decide, decision_text, shown_better
from rlhf_tuning.evaluation.judges.verdict import Agreement
from rlhf_tuning.statistics import sign_test, wilson_interval

TEXT = "a place by the sea with bright rooms and a quiet garden where breakfast is served in the morning sun"


def pairs(wins, losses, *, tuned=None):
    """Return pairs of answers, `wins` of them with the higher score for the tuned model."""
    made = []
    for index in range(wins + losses):
        text = f"{TEXT} {index}"
        scores = (0.0, 1.0) if index < wins else (1.0, 0.0)
        ours = {"text": f"{text} tuned", "tokens": 22, "ended": True, "reward": scores[1], "kl": 3.0} | (tuned or {})
        theirs = ScoredAnswer(text=f"{text} base", tokens=20, ended=True, reward=scores[0])
        prompt = [{"role": "user", "content": f"Describe {index}."}]
        made.append(AnswerPair(prompt=prompt, base=theirs, tuned=ScoredAnswer(**ours)))
    return made


def decided(made, **limits):
    return decide(summarize(made), GateConfig(**limits), champion="the base model")


def failed(decision):
    return [condition.name for condition in decision.conditions if condition.holds is False]


def test_a_model_that_wins_beyond_chance_is_promoted():
    decision = decided(pairs(140, 60))
    assert decision.promote
    assert decision_text(decision).startswith("Promoted: the tuned model takes the place of the base model.\n")


def test_a_model_that_wins_within_chance_is_not_and_learns_how_many_prompts_it_would_take():
    decision = decided(pairs(110, 90))
    assert failed(decision) == ["Beats the base model beyond chance"]
    text = decision_text(decision)
    assert text.startswith("Not promoted: the base model stays champion.\n")
    assert "wins 55% [48%, 62%] by reward, n = 200" in text
    needed = int(re.search(r"about ([\d,]+) evaluation prompts would show it", text)[1].replace(",", ""))
    assert decided(pairs(round(0.55 * needed), round(0.45 * needed))).promote
    assert not decided(pairs(round(0.55 * needed * 0.8), round(0.45 * needed * 0.8))).promote


def test_a_model_that_loses_is_told_that_no_number_of_prompts_would_be_enough():
    assert "no number of prompts" in decision_text(decided(pairs(90, 110)))


def test_many_answers_to_few_prompts_are_no_proof():
    few = [replace(pair, prompt=made.prompt) for made in pairs(3, 0) for pair in pairs(40, 0)]
    decision = decided(few)
    assert failed(decision) == ["Beats the base model beyond chance"]
    assert "wins 100% [44%, 100%]" in decision.conditions[0].value


def test_equal_models_are_promoted_in_at_most_a_fortieth_of_runs_when_prompts_repeat():
    """Of 9 prompts with 12 answers each, one model wins all or nearly all to a prompt, either as often as the other."""
    rng = random.Random(0)
    runs, promoted, by_answers = 200, 0, 0
    for _ in range(runs):
        made = []
        for index, prompt in enumerate(pair.prompt for pair in pairs(9, 0)):
            share = rng.choice([0.05, 0.95]) if index else 0.5
            won = sum(rng.random() < share for _ in range(12))
            made += [replace(pair, prompt=prompt) for pair in pairs(won, 12 - won)]
        (wins,) = summarize(made).measured
        promoted += shown_better(wins)
        by_answers += sign_test(wins.rate.wins, wins.rate.losses) <= 0.025
    assert wilson_interval(promoted, runs).low <= 0.025
    assert by_answers / runs > 0.15  # what this test is here to catch


def test_a_prompt_counts_once_however_often_it_was_answered():
    (often,) = pairs(1, 0)
    made = [*pairs(6, 2), *([replace(often, prompt=[{"role": "user", "content": "Again."}])] * 50)]
    assert "exact sign test of 7 prompts won and 2 lost p = 0.090" in decided(made).conditions[0].value


def test_a_margin_asks_for_more():
    assert decided(pairs(140, 60), gate_win_rate_margin=0.1).promote is True
    assert decided(pairs(140, 60), gate_win_rate_margin=0.2).promote is False


def test_without_any_judge_nothing_is_promoted():
    unjudged = pairs(10, 0, tuned={"reward": None})
    assert failed(decided(unjudged)) == ["Beats the base model beyond chance"]


@pytest.mark.parametrize(
    ("tuned", "name"),
    [
        ({"kl": 60.0}, "KL to the base model within its limit"),
        ({"tokens": 70}, "Answers of about the same length"),
        ({"tokens": 6}, "Answers of about the same length"),
        ({"ended": False}, "As many answers end by themselves"),
        ({"text": ""}, "No rise of empty answers"),
        ({"text": "very good " * 20}, "No rise of repetitive answers"),
        ({"text": "I'm sorry, I cannot help with that one today at all."}, "No rise of refusals"),
    ],
)
def test_one_harm_that_is_shown_stops_a_winner(tuned, name):
    decision = decided(pairs(190, 10, tuned=tuned))
    assert failed(decision) == [name]
    assert not decision.promote


def test_a_limit_of_0_is_no_limit():
    assert decided(pairs(190, 10, tuned={"kl": 60.0, "tokens": 60}), gate_max_kl=0, gate_max_length_ratio=0).promote


def test_a_judge_that_agrees_with_people_no_better_than_chance_decides_nothing():
    made = pairs(190, 10, tuned={"held_out_reward": 0.0})
    made = [replace(pair, base=replace(pair.base, held_out_reward=1.0)) for pair in made]
    names = ("held_out_reward_model", "reward_model")

    def decided_with(*agreements):
        known = [JudgeRecord(name=n, label=n, agreement=a) for n, a in zip(names, agreements, strict=True)]
        return decide(summarize(made, judges=known), GateConfig(), champion="the base model")

    good, chance = Agreement(0.7, 0.6, 0.8, 100), Agreement(0.5, 0.4, 0.6, 100)
    assert "by held-out reward" in decided_with(good, good).conditions[0].value
    assert failed(decided_with(good, good))[:2] == [
        "Beats the base model beyond chance",
        "Held-out reward did not fall",
    ]
    doubtful = decided_with(chance, good)
    assert doubtful.promote
    assert "by reward" in doubtful.conditions[0].value
    assert "no better than chance" in doubtful.conditions[3].value
    assert failed(decided_with(chance, chance)) == ["Beats the base model beyond chance"]


def test_what_was_not_measured_is_told_and_stops_nothing():
    decision = decided(pairs(190, 10, tuned={"kl": None}))
    assert decision.promote
    (condition,) = [condition for condition in decision.conditions if condition.name.startswith("Held-out reward")]
    assert (condition.holds, condition.value) == (None, "not measured")


def test_every_measured_condition_names_its_n():
    for condition in decided(pairs(140, 60)).conditions:
        assert condition.holds is None or "n = 200" in condition.value, condition


def test_the_decision_is_json():
    decision = decided(pairs(140, 60))
    assert json.loads(json.dumps(decision.as_json()))["promote"] is True


@pytest.mark.parametrize("limits", [{"gate_win_rate_margin": 0.5}, {"gate_max_kl": -1}, {"gate_max_length_ratio": 0.5}])
def test_limits_that_cannot_be_are_refused(limits):
    with pytest.raises(ParameterError, match=next(iter(limits))):
        GateConfig(**limits)
