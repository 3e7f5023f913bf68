"""The loss of labels and ratings against plain formulas."""

import math

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from rlhf_tuning.training.cumulative_link import NO_LEVEL, Levels, losses

RATED = [{"rating": rating} for rating in (1, 1, 2, 4, 5, 5, 5)]


def test_a_label_has_the_logistic_loss():
    rows = [{"label": True}] * 3 + [{"label": False}, {"chosen": "a", "rejected": "b"}]
    levels = Levels(rows)
    cuts = levels.cuts()
    assert cuts()[2].item() == pytest.approx(-math.log(3.5 / 1.5))  # a score of 0 is liked three times in four
    assert levels.cuts_of(rows[-1]) == NO_LEVEL
    scores = torch.tensor([0.3, -2.0, 40.0, 1.5], requires_grad=True)
    below, above = cuts()[torch.tensor([levels.cuts_of(row) for row in rows[:4]])].unbind(1)
    found = losses(scores, below, above)
    expected = binary_cross_entropy_with_logits(
        scores - cuts()[2], torch.tensor([1.0, 1.0, 1.0, 0.0]), reduction="none"
    )
    torch.testing.assert_close(found, expected)
    for of in (scores, cuts.values):
        (gradient,) = torch.autograd.grad(found.sum(), of, retain_graph=True)
        torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), of, retain_graph=True)[0])


def test_a_rating_has_the_loss_of_its_level_among_ordered_ones():
    levels = Levels(RATED)
    cuts = levels.cuts()
    first, second, third = cuts()[3:].tolist()
    assert first < second < third
    assert 1 / (1 + math.exp(-second)) == pytest.approx(3.5 / 8)  # a score of 0 is below 4 three times in seven
    scores = torch.linspace(-3, 3, 7, requires_grad=True)
    below, above = cuts()[torch.tensor([levels.cuts_of(row) for row in RATED])].unbind(1)
    found = losses(scores, below, above)
    # The same by subtracting probabilities of each level.
    at_most = torch.sigmoid(cuts()[3:] - scores[:, None])
    chances = torch.cat([at_most, torch.ones(7, 1)], 1) - torch.cat([torch.zeros(7, 1), at_most], 1)
    torch.testing.assert_close(chances.sum(1), torch.ones(7))
    expected = -chances[range(7), [0, 0, 1, 2, 3, 3, 3]].log()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for of in (scores, cuts.values):
        (gradient,) = torch.autograd.grad(found.sum(), of, retain_graph=True)
        other = torch.autograd.grad(expected.sum(), of, retain_graph=True)[0]
        torch.testing.assert_close(gradient, other, atol=1e-5, rtol=1e-4)


def test_neighbours_on_a_fine_scale_share_a_level():
    rows = [{"rating": number / 7} for number in range(200)]
    levels = Levels(rows)
    assert len(levels.cuts()()) == 3 + 9
    places = [levels.cuts_of(row) for row in rows]
    assert places[0] == (0, 3)
    assert places[-1] == (11, 1)
    assert max(places.count(place) for place in places) == min(places.count(place) for place in places) == 20
