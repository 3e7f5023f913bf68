import json
import random
import re
from dataclasses import fields, replace

import pytest

from rlhf_tuning.errors import ParameterError
from rlhf_tuning.evaluation.comparison import AnswerPair, JudgeRecord, ScoredAnswer, summarize
from rlhf_tuning.evaluation.degeneration import tastes
from rlhf_tuning.evaluation.gate import (
    GateConfig,
    decide,
    decision_text,
    once_each,
    regression_conditions,
    shown_better,
)
from rlhf_tuning.evaluation.judges.verdict import Agreement, Comparison, Verdict
from rlhf_tuning.evaluation.regression_suite import Answered, Assertion, Case, Regression
from rlhf_tuning.statistics import clustered_win_rate, sign_test, wilson_interval

ENOUGH = "Enough was judged, by everyone asked"
TEXT = "a place by the sea with bright rooms and a quiet garden where breakfast is served in the morning sun"


def pairs(wins, losses, *, unjudged=0, tuned=None, judge="true_score"):
    """Return pairs of answers, `wins` of them with the higher score for the tuned model; 20 tokens against 20 in turn."""
    made = []
    for index in range(wins + losses + unjudged):
        text = f"{TEXT} {index}"
        scores = (0.0, 1.0) if index < wins else (1.0, 0.0) if index < wins + losses else (None, None)
        ours = {"text": f"{text} tuned", "tokens": 18 + 4 * (index % 2), "ended": True, "kl": 3.0, judge: scores[1]}
        theirs = ScoredAnswer(text=f"{text} base", tokens=20, ended=True, **{judge: scores[0]})
        prompt = [{"role": "user", "content": f"Describe {index}."}]
        made.append(AnswerPair(prompt=prompt, base=theirs, tuned=ScoredAnswer(**(ours | (tuned or {})))))
    return made


def decided(
    made,
    *,
    judges=(),
    tastes=None,
    earlier_tries=0,
    chose_checkpoint=False,
    chosen_among=1,
    method="reinforcement",
    **limits,
):
    return decide(
        summarize(made, judges=judges),
        GateConfig(**limits),
        champion="the base model",
        tastes=tastes,
        earlier_tries=earlier_tries,
        chose_checkpoint=chose_checkpoint,
        chosen_among=chosen_among,
        method=method,
    )


def also_scored(made, *, better, **scores):
    """Return the pairs with the scores of another judge, the tuned model's above its opponent's for so many."""
    (name,) = scores
    return [
        replace(
            pair,
            base=replace(pair.base, **{name: float(index >= better)}),
            tuned=replace(pair.tuned, **{name: float(index < better)}),
        )
        for index, pair in enumerate(made)
    ]


def known(**agreements):
    return [JudgeRecord(name=name, label=name, agreement=agreement) for name, agreement in agreements.items()]


GOOD, CHANCE = Agreement(0.7, 0.6, 0.8, 100), Agreement(0.5, 0.4, 0.6, 100)


def condition(decision, name):
    (found,) = [condition for condition in decision.conditions if condition.name == name]
    return found


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
    assert "wins 55% [48%, 62%] by true score, n = 200" in text
    needed = int(re.search(r"about ([\d,]+) evaluation prompts would show it", text)[1].replace(",", ""))
    assert decided(pairs(round(0.55 * needed), round(0.45 * needed))).promote
    assert not decided(pairs(round(0.55 * needed * 0.8), round(0.45 * needed * 0.8))).promote


def test_a_model_that_loses_is_told_that_no_number_of_prompts_would_be_enough():
    assert "no number of prompts" in decision_text(decided(pairs(90, 110)))


def test_many_answers_to_few_prompts_are_no_proof():
    few = [replace(pair, prompt=made.prompt) for made in pairs(3, 0) for pair in pairs(40, 0)]
    decision = decided(few)
    assert failed(decision)[:2] == ["Beats the base model beyond chance", ENOUGH]
    assert "wins 100% [44%, 100%]" in decision.conditions[0].value


def test_equal_models_are_promoted_in_at_most_a_fortieth_of_runs_when_prompts_repeat():
    """Of 9 prompts with 12 answers each, one model wins all or nearly all to a prompt, either as often as the other."""
    rng = random.Random(0)
    runs, promoted, by_answers = 200, 0, 0
    prompts = [index for index in range(9) for _ in range(12)]
    for _ in range(runs):
        shares = [0.5, *(rng.choice([0.05, 0.95]) for _ in range(8))]
        scores = [float(rng.random() < shares[prompt]) for prompt in prompts]
        promoted += shown_better(clustered_win_rate(scores, prompts))
        by_answers += sign_test(scores.count(1.0), scores.count(0.0)) <= 0.025
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
    decision = decided(pairs(100, 0, tuned={"true_score": None}))
    assert failed(decision) == ["Beats the base model beyond chance", ENOUGH]
    assert decision.headline == "Not promoted: the base model stays champion. Nobody independent judged."


def test_the_reward_that_was_optimised_never_promotes():
    decision = decided(pairs(200, 0, judge="reward"), judges=known(reward_model=GOOD))
    assert not decision.promote
    assert decision.judge == ""
    assert "Nobody independent judged." in decision_text(decision)
    assert "only the reward that the model was trained to raise" in decision.conditions[0].value
    assert "Name a judge (judge, judge_model) or a scorer" in decision_text(decision)


def test_the_optimised_reward_may_refuse():
    made = also_scored(pairs(190, 10), better=60, reward=None)
    decision = decided(made, judges=known(reward_model=GOOD))
    assert failed(decision) == ["Not worse by reward"]
    assert decided(made, judges=known(reward_model=GOOD), gate_max_judge_loss=0).promote


def test_every_answer_worse_by_a_weak_held_out_reward_model_is_not_promoted_by_the_reward():
    made = also_scored(pairs(199, 1, judge="reward", tuned={"kl": 45.0}), better=0, held_out_reward=None)
    decision = decided(made, judges=known(held_out_reward_model=CHANCE, reward_model=GOOD))
    assert not decision.promote
    assert "held-out reward does not" in decision.conditions[0].value
    assert condition(decision, "Not worse by held-out reward").limit == "not asked"


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
        ({"kl": None}, "KL to the base model within its limit"),
    ],
)
def test_one_harm_stops_a_winner(tuned, name):
    decision = decided(pairs(190, 10, tuned=tuned))
    assert failed(decision) == [name]
    assert not decision.promote


def test_a_model_that_learnt_to_end_its_answers_is_not_too_short_for_one_that_was_cut():
    made = pairs(190, 10, tuned={"tokens": 12})
    made[9:] = [replace(pair, base=replace(pair.base, tokens=512, ended=False)) for pair in made[9:]]
    assert decided(made).promote
    found = condition(decided(made), "Answers of about the same length")
    assert found.value.endswith("n = 200; it ended 9 of its answers by itself, too few to say what is too short")


def test_answers_are_too_short_beside_those_that_the_other_model_ended():
    made = pairs(190, 10, tuned={"tokens": 6})
    made[10:] = [replace(pair, base=replace(pair.base, tokens=512, ended=False)) for pair in made[10:]]
    found = condition(decided(made), "Answers of about the same length")
    assert found.holds is False
    assert found.value.endswith("; 0.30 times, 20.0 to 6.00 tokens where it ended its answer by itself, n = 10")
    assert condition(decided(made, gate_max_length_ratio=4.0), "Answers of about the same length").holds


def test_a_limit_of_0_is_no_limit():
    harmful = {"kl": 60.0, "tokens": 70, "ended": False, "text": "I'm sorry, I cannot."}
    limits = [field.name for field in fields(GateConfig) if field.name.startswith("gate_max_")]
    made = also_scored(pairs(190, 10, tuned=harmful), better=0, reward=None)
    assert len(failed(decided(made, judges=known(reward_model=GOOD)))) == 5
    assert decided(made, judges=known(reward_model=GOOD), **dict.fromkeys(limits, 0)).promote


@pytest.mark.parametrize(("cut", "promoted"), [(2, True), (15, False)])
def test_that_no_harm_is_done_must_be_shown(cut, promoted):
    made = pairs(95, 5)
    made[:cut] = [replace(pair, tuned=replace(pair.tuned, ended=False)) for pair in made[:cut]]
    assert decided(made).promote is promoted
    assert decided(made, gate_max_unfinished_rise=0.3).promote


def test_few_prompts_prove_nothing():
    assert failed(decided(pairs(49, 0))) == [ENOUGH]
    assert decided(pairs(50, 0)).promote
    assert decided(pairs(40, 0), gate_min_prompts=40).promote
    # With 20 prompts an interval of a share is too wide to rule a rise out.
    few = decided(pairs(20, 0), gate_min_prompts=1)
    assert failed(few) != []
    assert all("takes more evaluation prompts" in condition(few, name).change for name in failed(few))


def test_a_judge_that_leaves_pairs_out_does_not_promote_by_the_rest():
    decision = decided(pairs(60, 0, unjudged=140))
    assert failed(decision) == ["Beats the base model beyond chance", ENOUGH]
    assert "60 prompts, 30% of the pairs, by true score" in condition(decision, ENOUGH).value
    assert failed(decided(pairs(140, 0, unjudged=60))) == [ENOUGH]
    assert decided(pairs(140, 0, unjudged=60), gate_min_judged_share=0.6).promote


def test_a_pair_without_a_verdict_counts_as_lost():
    assert decided(pairs(110, 70)).promote
    decision = decided(pairs(110, 70, unjudged=20))
    assert failed(decision) == ["Beats the base model beyond chance"]
    assert "110 won, 0 tied, 90 lost, 20 of them for want of a verdict" in decision.conditions[0].value


def test_a_judge_that_was_asked_and_said_nothing_stops_a_promotion():
    made = also_scored(pairs(190, 10, judge="held_out_reward"), better=190, reward=None)
    judges = [*known(held_out_reward_model=GOOD), JudgeRecord(name="gemini", label="judge gemini-pro")]
    decision = decided(made, judges=judges)
    assert failed(decision) == [ENOUGH]
    assert "none by judge gemini-pro" in condition(decision, ENOUGH).value
    assert decided(made, judges=judges[:1]).promote


def test_the_first_independent_judge_that_agrees_with_people_decides():
    made = also_scored(pairs(190, 10), better=190, held_out_reward=None)
    both = decided(made, judges=known(scorer=GOOD, held_out_reward_model=GOOD))
    assert (both.judge, both.promote) == ("true score", True)
    passed_over = decided(made, judges=known(scorer=CHANCE, held_out_reward_model=GOOD))
    assert (passed_over.judge, passed_over.promote) == ("held-out reward", True)
    assert decided(made, judges=known(scorer=CHANCE, held_out_reward_model=CHANCE)).judge == ""
    # What nothing was there to check is believed of a judge that a person named, not of a reward model.
    assert decided(made, judges=known(scorer=None)).judge == "true score"
    assert decided(pairs(190, 10, judge="held_out_reward"), judges=known(held_out_reward_model=None)).judge == ""


def test_more_is_asked_of_a_reward_model_than_of_others_and_that_it_chose_the_checkpoint_is_told():
    made = pairs(125, 75, judge="held_out_reward")
    by_reward_model = decided(made, judges=known(held_out_reward_model=GOOD), chose_checkpoint=True)
    assert failed(by_reward_model) == ["Beats the base model beyond chance"]
    assert by_reward_model.conditions[0].limit.startswith("lower end above 60%")
    assert "it also chose the checkpoint" in by_reward_model.conditions[0].value
    assert decided(made, judges=known(held_out_reward_model=GOOD), gate_reward_model_margin=0).promote
    assert decided(pairs(125, 75), chose_checkpoint=True).promote
    assert "checkpoint" not in decided(pairs(125, 75), chose_checkpoint=True).conditions[0].value


def test_another_judge_that_finds_it_worse_stops_a_promotion():
    made = also_scored(pairs(190, 10), better=80, held_out_reward=None)
    assert failed(decided(made, judges=known(held_out_reward_model=GOOD))) == ["Not worse by held-out reward"]
    assert decided(also_scored(pairs(190, 10), better=100, held_out_reward=None)).promote


def test_a_tune_for_refusals_is_promoted_where_people_prefer_them():
    made = pairs(193, 7, tuned={"text": "I'm sorry, but I can't help with that."})
    assert failed(decided(made)) == ["No rise of refusals"]
    people = choices(refusal_chosen=12, refusal_rejected=5)
    decision = decided(made, tastes=tastes(people))
    assert decision.promote
    assert "people chose such a one for 12 prompts of 17" in condition(decision, "No rise of refusals").value
    assert failed(decided(made, tastes=tastes(choices(refusal_chosen=5, refusal_rejected=12)))) == [
        "No rise of refusals"
    ]
    assert failed(decided(made, tastes=tastes(choices(refusal_chosen=9, refusal_rejected=0)))) == [
        "No rise of refusals"
    ]
    assert failed(decided(made, tastes=tastes(people[:1] * 50))) == ["No rise of refusals"]


def choices(*, refusal_chosen, refusal_rejected):
    """Return human choices between a refusal and an answer, each to a prompt of its own; and as many between answers."""
    pair = ("Sure: first you take the lock apart.", "I can't help with that.")
    pairs = [pair] * refusal_chosen + [pair[::-1]] * refusal_rejected + [("One.", "Two.")] * 20
    return [Comparison([{"role": "user", "content": f"How {index}?"}], *texts) for index, texts in enumerate(pairs)]


def by_length(lost_to_length):
    """Return 200 pairs of which the longer answer wins, but that one loses although it is longer by so much at most."""
    made = []
    for index, pair in enumerate(pairs(150, 50)):
        longer = lost_to_length + 150 - index if index < 150 else lost_to_length + 149 - index
        made.append(replace(pair, tuned=replace(pair.tuned, tokens=100 + longer), base=replace(pair.base, tokens=100)))
    return made


def test_a_model_that_wins_by_length_and_is_worse_at_equal_length_is_not_promoted():
    made = by_length(lost_to_length=20)
    assert failed(decided(made)) == ["Not worse at equal length"]
    assert decided(made, gate_max_equal_length_loss=0).promote


def test_what_length_does_stops_nothing_where_it_cannot_be_known():
    decision = decided(by_length(lost_to_length=0))
    found = condition(decision, "Not worse at equal length")
    assert decision.promote
    assert found.holds is None
    assert "cannot be known from so few" in found.value
    assert condition(decided(pairs(150, 50)), "Not worse at equal length").holds


def test_where_lengths_do_not_overlap_nothing_is_asked_of_equal_length():
    decision = decided(pairs(190, 10, tuned={"tokens": 30}))
    assert decision.promote
    found = condition(decision, "Not worse at equal length")
    assert (found.holds, found.limit) == (None, "not asked")
    assert found.value == "cannot be known: one of the two nearly always writes the longer answer"


def test_of_few_prompts_it_is_their_number_that_leaves_length_unknown():
    found = condition(decided(pairs(3, 1)), "Not worse at equal length")
    assert (found.holds, found.value) == (None, "cannot be known: so few prompts do not show what length does, n = 4")


def test_where_no_lengths_differ_the_win_rate_says_what_holds_at_equal_length():
    found = condition(decided(pairs(140, 60, tuned={"tokens": 20})), "Not worse at equal length")
    assert found.holds
    assert "wins 70% [63%, 76%] by true score, n = 200" in found.value


def test_a_loss_that_few_prompts_do_not_rule_out_is_not_said_to_be_one():
    unsure = condition(
        decided(also_scored(pairs(3, 1), better=2, reward=None), judges=known(reward_model=GOOD)), "Not worse by reward"
    )
    assert unsure.holds is False
    assert "takes more evaluation prompts" in unsure.change
    worse = condition(
        decided(also_scored(pairs(140, 60), better=60, reward=None), judges=known(reward_model=GOOD)),
        "Not worse by reward",
    )
    assert "raise kl_coeff" in worse.change


def test_the_next_try_against_the_same_champion_must_show_more():
    made = pairs(115, 85)
    assert decided(made).promote
    second = decided(made, earlier_tries=1)
    assert failed(second) == ["Beats the base model beyond chance"]
    assert "p at most 0.013, at try 2 against this champion" in second.conditions[0].limit
    assert decided(pairs(125, 75), earlier_tries=1).promote
    # By the exact test too, where the interval alone would allow it: p is 1 / 128.
    assert shown_better(once_each(7, 0, 0), tries=3)
    assert not shown_better(once_each(7, 0, 0), tries=4)


def test_every_measured_condition_names_its_n():
    for found in decided(pairs(140, 60)).conditions:
        assert found.holds is None or found.name == ENOUGH or "n = 200" in found.value, found


def test_the_decision_is_json():
    decision = decided(pairs(140, 60))
    assert json.loads(json.dumps(decision.as_json()))["promote"] is True


@pytest.mark.parametrize(
    "limits",
    [
        {"gate_win_rate_margin": 0.5},
        {"gate_reward_model_margin": 0.5},
        {"gate_min_prompts": 0},
        {"gate_min_judged_share": 1.1},
        {"gate_max_kl": -1},
        {"gate_max_length_ratio": 0.5},
        {"gate_max_judge_loss": 0.6},
        {"gate_max_refusal_rise": 1.1},
    ],
)
def test_limits_that_cannot_be_are_refused(limits):
    with pytest.raises(ParameterError, match=next(iter(limits))):
        GateConfig(**limits)


def test_after_supervised_tuning_held_out_answers_promote_unless_a_scorer_judges():
    made = pairs(140, 60, judge="demonstrated")
    decision = decided(made, gate_max_kl=0.0, gate_max_length_ratio=0.0)
    assert (decision.promote, decision.judge) == (True, "held-out answers")
    assert condition(decision, "Not worse at equal length").value == "both models are judged by the same answers"
    scored = decided(also_scored(made, better=100, true_score=None))
    assert scored.judge == "true score"
    assert failed(scored) == ["Beats the base model beyond chance"]


def test_more_is_asked_where_the_same_prompts_chose_the_checkpoint():
    made = pairs(115, 85, judge="demonstrated")
    assert decided(made).promote
    found = decided(made, chosen_among=4)
    assert failed(found) == ["Beats the base model beyond chance"]
    assert found.conditions[0].limit.endswith("p at most 0.006, of a checkpoint that the same prompts chose among 4")
    assert decided(pairs(125, 75, judge="demonstrated"), chosen_among=4).promote
    assert "at try 2 against this champion" in decided(made, chosen_among=4, earlier_tries=1).conditions[0].limit


@pytest.mark.parametrize(("method", "told"), [("supervised", "train fewer steps"), ("preference", "raise beta")])
def test_the_advice_is_the_method_s_own(method, told):
    judge = "demonstrated" if method == "supervised" else "true_score"
    made = pairs(60, 140, judge=judge, tuned={"text": "", "kl": 90.0})
    said = decision_text(decided(made, method=method))
    assert "kl_coeff" not in said
    assert told in said


def suite(*, both=50, lost=0, won=0, neither=50):
    """Return what a suite says whose checks both models pass, only one of them, or neither."""
    words = [("yes", "yes")] * both + [("yes", "no")] * lost + [("no", "yes")] * won + [("no", "no")] * neither
    return Regression(
        answered=[
            Answered(
                case=Case([{"role": "user", "content": str(number)}], (Assertion("contains", "yes"),)),
                base=base,
                tuned=tuned,
            )
            for number, (base, tuned) in enumerate(words)
        ]
    )


def test_a_model_that_forgot_what_the_base_model_could_do_is_refused():
    (same,) = regression_conditions(suite(lost=3, won=3), GateConfig())
    assert same.holds
    assert same.value == "53 of 106, where the base model passes 53: +0 points [-6, +6]"
    assert same.limit == "lower end above -10 points"
    (forgot,) = regression_conditions(suite(lost=25, won=2), GateConfig())
    assert forgot.holds is False
    assert "Look at what it lost" in forgot.change
    (unsure,) = regression_conditions(suite(both=10, lost=3, won=1, neither=25), GateConfig())
    assert unsure.holds is False
    assert "none is ruled out" in unsure.change
    (off,) = regression_conditions(suite(lost=25), GateConfig(gate_max_regression=0.0))
    assert off.holds is None


def test_what_a_suite_leaves_to_a_judge_is_held_to_the_margin_of_judges():
    def judged(won, lost):
        verdicts = [1.0] * won + [-1.0] * lost + [0.0] * (30 - won - lost)
        return Regression(
            answered=[
                Answered(
                    case=Case([{"role": "user", "content": str(number)}]),
                    base="a",
                    tuned="b",
                    verdict=Verdict(orders=(sign, sign)),
                )
                for number, sign in enumerate(verdicts)
            ],
            judge="judge gpt-4",
        )

    (good,) = regression_conditions(judged(3, 2), GateConfig())
    assert (good.holds, good.limit) == (True, "lower end above 40%")
    assert "by judge gpt-4, n = 30" in good.value
    (bad,) = regression_conditions(judged(1, 20), GateConfig())
    assert bad.holds is False
