import math
from dataclasses import replace

import pytest
from method_contest import HELD_OUT, REWARD, SCORER, contest, prompts

from rlhf_tuning.evaluation.comparison import JudgeRecord, ScoredAnswer
from rlhf_tuning.evaluation.judges.verdict import Agreement, Verdict
from rlhf_tuning.evaluation.method_comparison import Contestant, advice, compare_each
from rlhf_tuning.statistics import sign_test


@pytest.fixture(scope="module")
def found():
    return contest()


def outcomes(found):
    return {pair: duel.outcome for pair, duel in found.decisive.duels.items()}


def test_each_stands_against_each_and_a_duel_reads_the_same_from_the_other_side(found):
    table = found.decisive
    assert len(table.duels) == 6
    one, other = table.duel("rlhf", "base"), table.duel("base", "rlhf")
    assert one.rate.rate + other.rate.rate == pytest.approx(1)
    assert (one.rate.low, one.rate.wins, one.won) == (pytest.approx(1 - other.rate.high), other.rate.losses, other.lost)
    assert (one.outcome, other.outcome) == ("better", "worse")
    assert one.p == other.p
    assert other.over_seeds.low == pytest.approx(1 - one.over_seeds.high)
    assert other.at_equal_length.high == pytest.approx(1 - one.at_equal_length.low)
    assert other.turned == one


def test_a_prompt_is_one_trial_whatever_the_number_of_seeds():
    once = contest(seeds=(0,)).decisive.duel("supervised", "base")
    copied = contest(seeds=(0,))
    methods = [replace(method, answers=dict.fromkeys(range(5), method.answers[0])) for method in copied.methods]
    again = compare_each(copied.prompts, methods, judges=[SCORER], verdicts={}).decisive.duel("supervised", "base")
    assert again.rate.n == 5 * once.rate.n
    assert again.rate[:3] == pytest.approx(once.rate[:3], abs=0.015)
    assert (again.won, again.lost, again.p) == (once.won, once.lost, once.p)


def test_p_values_are_adjusted_for_all_pairs(found):
    table = found.decisive
    smallest = min(table.duels.values(), key=lambda duel: duel.p)
    assert smallest.adjusted == pytest.approx(min(1, 6 * smallest.p))
    assert all(duel.p <= duel.adjusted for duel in table.duels.values())
    duel = table.duel("best_of_n", "rlhf")
    assert duel.p == 2 * sign_test(duel.won, duel.lost)


def test_what_only_luck_of_the_training_made_is_not_shown():
    lucky = contest({"base": 0.0, "supervised": 1.0}, luck=4.0, count=300, seeds=(0, 1, 2)).decisive
    duel = lucky.duel("supervised", "base")
    assert max(duel.by_seed.values()) - min(duel.by_seed.values()) > 0.2
    assert duel.over_seeds.low < 0.5 < duel.over_seeds.high
    assert duel.adjusted < 0.01
    assert duel.outcome == "unclear"
    alone = replace(duel, over_seeds=None)  # with one seed nobody knows
    assert alone.outcome == ("better" if duel.won > duel.lost else "worse")


def test_where_nothing_differs_nothing_is_shown_in_nineteen_of_twenty_comparisons():
    alike = dict.fromkeys(("base", "supervised", "rlhf", "best_of_n"), 0.0)
    shown = set(outcomes(contest(alike)).values())
    assert shown == {"unclear"}


def test_advice_takes_the_simplest_that_beats_the_base_and_that_none_is_shown_to_beat(found):
    headline, sentences = advice(found)
    assert headline.startswith(
        "Take best of 8: by house style it beats the base model, supervised tuning and RLHF, and no "
    )
    assert "RLHF beats the base model (wins " in sentences[0]
    assert (
        "is not shown to differ from supervised tuning (wins 55% [50%, 60%], p 0.004, but its trainings "
        in sentences[0]
    )
    assert sentences[1] == "It samples 8 answers for each that it gives, at every use."
    without = contest({"base": 0.0, "supervised": 0.8, "rlhf": 0.9})
    headline, sentences = advice(without)
    assert headline == (
        "Take supervised tuning: by house style it beats the base model, and no method is shown to beat it; RLHF would be "
        "more to do."
    )
    assert "RLHF wins most on average" in sentences[1]
    assert sentences[1].endswith(", which is not shown to be more than luck.")


def test_without_a_difference_one_is_told_not_to_tune():
    headline, _ = advice(contest({"base": 0.0, "supervised": 0.0}))
    assert headline.startswith("Do not tune yet: by house style no method is shown to beat the base model.")


def test_advice_never_rests_on_the_reward_that_was_optimised_nor_on_a_judge_that_people_do_not_agree_with():
    poor = replace(HELD_OUT, agreement=Agreement(0.55, 0.48, 0.62, 200))
    found = contest(judges=[poor, REWARD])
    assert [table.decides for table in found.tables] == [False, False]
    headline, sentences = advice(found)
    assert headline.startswith("No advice")
    assert "held-out reward, reward" in sentences[0]
    assert contest(judges=[poor, SCORER]).decisive.label == "house style"


@pytest.mark.parametrize(("seeds", "words"), [((0,), "trained once"), ((0, 1), "Two trainings"), ((0, 1, 2), "")])
def test_too_few_seeds_are_told(seeds, words):
    _, sentences = advice(contest(seeds=seeds))
    assert any(words in sentence for sentence in sentences) == bool(words) or not words
    assert ("--seeds" in " ".join(sentences)) == bool(words)


def test_length_that_may_be_what_wins_is_told():
    def answers(least):
        lengths = [least + 3 * (number % 7) for number in range(60)]
        return [ScoredAnswer(text=f"{n} words", tokens=n, ended=True, true_score=float(n)) for n in lengths]

    methods = [
        Contestant(name="base", label="the base model", answers={0: answers(20)}),
        Contestant(name="supervised", label="supervised tuning", answers={0: answers(26)[::-1]}),
    ]
    _, sentences = advice(compare_each(prompts(60), methods, judges=[SCORER], verdicts={}))
    assert any("so length may be what wins" in sentence for sentence in sentences)


def test_verdicts_of_a_judge_that_sees_both_answers_count_and_missing_ones_do_not():
    methods = [
        Contestant(
            name=name,
            label=name,
            answers={0: [ScoredAnswer(text=f"{name} {n}", tokens=9, ended=True) for n in range(20)]},
        )
        for name in ("base", "supervised")
    ]
    said = [Verdict(orders=(1, 1)) if n < 12 else Verdict(orders=(-1, -1)) if n < 15 else None for n in range(20)]
    judge = JudgeRecord(name="language_model", label="judge m", notes=("5 pairs have no verdict",))
    found = compare_each(
        prompts(20), methods, judges=[judge], verdicts={"language_model": {("supervised", "base"): {0: said}}}
    )
    duel = found.decisive.duel("supervised", "base")
    assert (duel.rate.wins, duel.rate.losses, duel.rate.n, duel.unjudged) == (12, 3, 15, 5)
    assert found.notes == ["judge m: 5 pairs have no verdict"]


def test_kl_of_best_of_n_is_stated_as_its_bound(found):
    best = found.methods[-1]
    assert best.most_kl == pytest.approx(math.log(8) - 7 / 8)
    assert found.mean(best, "kl") is None
    assert all(method.most_kl is None for method in found.methods[:-1])


def test_the_numbers_go_into_json(found):
    content = found.as_json()
    assert content["decided_by"] == "true_score"
    assert [judge["measure"] for judge in content["judges"]] == ["true_score", "held_out_reward", "reward"]
    assert len(content["judges"][0]["duels"]) == 6
    assert content["methods"]["rlhf"]["kl"]["n"] == 150
