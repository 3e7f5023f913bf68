"""When supervised tuning stops, and which checkpoint it returns."""

import math

import pytest

from rlhf_tuning.errors import ParameterError
from rlhf_tuning.training.held_out_loss import HeldOutLoss, Look


def curve(*losses, total_steps=100, stops_early=True, selects=True):
    """Return the decisions on looks at step 0, 10, and so on, of two examples with these losses on average."""
    made = HeldOutLoss(total_steps, stops_early=stops_early, selects=selects)
    for place, loss in enumerate(losses):
        made.add(Look(step=10 * place, nats=[2 * loss, 6 * loss], tokens=[3, 5]))
        if made.stopped:
            break
    return made


def test_three_looks_without_a_lower_loss_end_it_and_the_best_is_returned():
    made = curve(3.0, 2.0, 2.5, 1.9, 1.9, 2.0, 2.1, 1.0)
    assert made.stopped
    assert made.looks[-1].step == 60
    assert made.returned.step == 30
    assert "Stopped at step 60 of 100: in 3 measurements in a row it was no lower than at step 30." in made.reason
    assert "The checkpoint, step 30, is returned: it has the lowest loss." in made.reason


def test_it_goes_on_while_there_is_something_to_learn_or_nobody_wants_it_stopped():
    assert not curve(3.0, 2.0, 2.5, 2.4, 1.9, 2.0, 2.1).stopped
    assert not curve(1.0, 2.0, 2.0, 2.0, 2.0, stops_early=False).stopped
    # The third look is the last anyway.
    assert not curve(1.0, 2.0, 2.0, 2.0, total_steps=30).stopped


def test_the_last_is_returned_where_that_is_asked_for():
    made = curve(3.0, 2.0, 2.5, selects=False)
    assert made.returned.step == 20
    assert "as enable_checkpoint_selection says" in made.reason


def test_where_nothing_was_learnt_the_base_model_is_returned():
    made = curve(1.0, 2.0, 2.5)
    assert made.returned.step == 0
    assert "Nothing was learnt that held-out demonstrations show" in made.reason


def test_loss_and_perplexity_count_tokens_and_their_intervals_examples():
    found = curve(1.0).as_json()["looks"][0]
    assert (found["n"], found["tokens"]) == (2, 8)
    assert found["loss"]["mean"] == 1.0
    assert found["perplexity"]["mean"] == pytest.approx(math.e)
    assert found["loss"]["low"] < 1.0 < found["loss"]["high"]


def test_a_loss_that_is_no_number_ends_the_training():
    with pytest.raises(ParameterError, match="not finite at step 10"):
        curve(1.0, math.nan)
