import random

import pytest

from rlhf_tuning.evaluation.judges.verdict import Comparison, Verdict, agreement, order_effect
from rlhf_tuning.statistics import wilson_interval, win_rate


@pytest.mark.parametrize(
    ("orders", "outcome"),
    [((1, 1), "win"), ((-1, -1), "loss"), ((1, -1), "tie"), ((-1, 1), "tie"), ((1, 0), "win"), ((0, 0), "tie")],
)
def test_what_the_order_alone_decides_is_a_tie(orders, outcome):
    assert Verdict(orders=orders).outcome == outcome


def test_the_higher_score_wins():
    assert Verdict(scores=(0.0, 1.0)).outcome == "win"
    assert Verdict(scores=(1.0, 0.5)).outcome == "loss"
    assert Verdict(scores=(1.0, 1.0 + 1e-12)).outcome == "tie"


def choices(*prompts):
    return [Comparison([{"role": "user", "content": str(prompt)}], "a", "b") for prompt in prompts]


def test_agreement_counts_ties_half_and_leaves_out_what_has_no_verdict():
    verdicts = [Verdict(orders=(1, 1)), Verdict(orders=(1, -1)), Verdict(orders=(-1, -1)), None]
    assert agreement(choices(*range(4)), verdicts) == (0.5, *wilson_interval(1.5, 3), 3)
    assert agreement(choices(0), [None]) is None


def test_a_judge_without_skill_is_rarely_trusted_when_prompts_have_many_choices():
    """Its errors on a prompt go together; by choices alone it would be trusted in a fifth of all cases."""
    rng = random.Random(0)
    trusted = by_choices = 0
    for _ in range(100):
        levels = [rng.choice([0.1, 0.9]) for _ in range(50)]
        right = [rng.random() < level for level in levels for _ in range(10)]
        verdicts = [Verdict(scores=(0.0, 1.0 if hit else -1.0)) for hit in right]
        found = agreement(choices(*(prompt for prompt in range(50) for _ in range(10))), verdicts)
        assert found
        trusted += found.beyond_chance
        by_choices += wilson_interval(sum(right), len(right)).low > 0.5
    assert by_choices >= 15
    assert trusted <= 5


def test_the_effect_of_the_order_is_counted_by_pair():
    always_first = Verdict(orders=(-1, 1))
    always_second = Verdict(orders=(1, -1))
    steady = Verdict(orders=(1, 1))
    effect = order_effect([always_first, always_first, always_second, steady, None, Verdict(scores=(0, 1))])
    assert effect
    assert effect.first == win_rate(2, 1, 1)
    assert (effect.changed.share, effect.changed.n) == (0.75, 4)
    assert order_effect([Verdict(scores=(0, 1))]) is None
