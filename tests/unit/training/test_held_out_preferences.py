import pytest
import torch

from rlhf_tuning.errors import ParameterError
from rlhf_tuning.training import held_out_preferences
from rlhf_tuning.training.held_out_preferences import of_pairs

#: log p of the chosen and of the rejected answer to each prompt.
NOW = [(-3.0, -5.0), (-4.0, -3.5), (-2.0, -6.0), (-7.0, -7.5)]


@pytest.fixture
def measure(monkeypatch):
    """Return what becomes of pairs, each so many times under its prompt."""

    def measured(times, now=NOW):
        known = [pair for pair in now for _ in range(times)]
        row = {"chosen_ids": [1, 2], "rejected_ids": [3, 2], "ref_chosen_logps": -4.0, "ref_rejected_logps": -4.0}
        rows = [row | {"prompt_ids": [place // times]} for place in range(len(known))]
        monkeypatch.setattr(held_out_preferences, "log_probabilities_of", lambda *_, **__: known)
        return of_pairs(None, rows, share=True, compute=torch.float32, loss={"loss_type": "sigmoid", "beta": 0.1})

    return measured


def test_rows_of_one_prompt_make_nothing_surer(measure):
    once, thrice = measure(1), measure(3)
    assert once.keys() == thrice.keys()
    for name, value in thrice.items():
        assert value.n == 3 * len(NOW)
        assert value.mean == pytest.approx(once[name].mean)
        assert value.low <= once[name].low + 1e-9
        assert value.high >= once[name].high - 1e-9


def test_margins_within_rounding_are_ties(measure):
    found = measure(1, [(-4.00003, -4.0), (-4.0, -3.99998), (-4.0, -4.0)])
    assert found["accuracy"].mean == 0.5
    assert found["margin"].mean == 0.0
    assert measure(1, [(-4.0, -3.999)])["accuracy"].mean == 0.0


def test_a_loss_that_is_not_finite_stops(measure):
    with pytest.raises(ParameterError, match="held-out examples is not finite"):
        measure(1, [(-1.0, float("nan"))])
