"""When a training that is watched by held-out examples stops, and which checkpoint it returns."""

import math

import pytest

from rlhf_tuning.errors import ParameterError
from rlhf_tuning.training.held_out_loss import HeldOutLoss, Look, of_answers, of_margins, pair_loss


def curve(*losses, first=0, total_steps=100, **settings):
    """Return the decisions on looks every 10 steps, of two examples with these losses on average."""
    made = HeldOutLoss(total_steps, patience=3, unit="nats a token", **settings)
    for place, loss in enumerate(losses):
        made.add(Look(step=first + 10 * place, values=of_answers([2 * loss, 6 * loss], [3, 5])))
        if made.stopped:
            break
    return made


def test_three_looks_without_a_lower_loss_end_it_and_the_best_is_returned():
    made = curve(3.0, 2.0, 2.5, 1.9, 1.9, 2.0, 2.1, 1.0)
    assert made.stopped
    assert made.looks[-1].step == 60
    assert made.returned.step == 30
    assert made.reason.startswith("Held-out loss went from 3.000 [")
    assert "] at step 0 to 1.900 [" in made.reason
    assert "at step 30, nats a token, n = 2. Stopped at step 60 of 100: in 3 measurements in a row it " in made.reason
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


def test_among_how_many_it_was_chosen_counts_where_the_model_is_judged_on_the_same_prompts():
    made = curve(3.0, 2.0, 1.0, 1.5, judged=True)
    assert (made.chosen_among, made.as_json()["chosen_among"]) == (3, 3)  # the base model is no checkpoint
    assert "the gate asks for more" in made.reason
    assert curve(3.0, 2.0, 1.0, 1.5).chosen_among == curve(3.0, 2.0, 1.0, judged=True, selects=False).chosen_among == 1
    assert "judged" not in curve(3.0, 2.0, 1.0, 1.5).reason


def test_where_nothing_was_learnt_the_model_is_returned_as_it_began():
    made = curve(1.0, 2.0, 2.5)
    assert made.returned.step == 0
    assert "Nothing was learnt that held-out examples show" in made.reason
    assert "Nothing was learnt" not in curve(1.0, 2.0, first=10).reason


def test_loss_and_perplexity_count_tokens_and_their_intervals_examples():
    found = curve(1.0).as_json()["looks"][0]
    assert found["n"] == 2
    assert found["loss"]["mean"] == 1.0
    assert found["perplexity"]["mean"] == pytest.approx(math.e)
    assert found["loss"]["low"] < 1.0 < found["loss"]["high"]


def test_the_loss_of_preferences_is_that_of_the_training():
    for margin in (-30.0, -1.0, 0.0, 2.5):
        assert pair_loss(margin) == pytest.approx(math.log(1 + math.exp(-margin)))
    assert pair_loss(-1000.0) == 1000.0


def test_choices_about_one_prompt_count_as_one():
    apart = of_margins([1.0, 1.0, -2.0, 0.0], prompts="abcd")
    together = of_margins([1.0, 1.0, -2.0, 0.0], prompts="aabb")
    assert apart["accuracy"].mean == together["accuracy"].mean == 2.5 / 4
    assert together["loss"].high > apart["loss"].high
    assert together["accuracy"].high > apart["accuracy"].high
    look = Look(step=10, values=together)
    assert look.as_json()["n"] == 4
    assert str(look).endswith("] with 62.5% right")


def test_a_loss_that_is_no_number_ends_the_training():
    for measure in (lambda: of_answers([1.0, math.nan], [1, 1]), lambda: of_margins([1.0, math.inf], "ab")):
        with pytest.raises(ParameterError, match="held-out examples is not finite"):
            measure()
