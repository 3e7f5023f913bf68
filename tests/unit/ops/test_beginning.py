"""Rows that go on from a beginning that is computed once, against rows that hold it."""

import pytest
import torch
from tests.unit.ops.test_packing import DTYPES, network

from rlhf_tuning.evaluation.evaluate import answer_log_probabilities
from rlhf_tuning.ops import beginning, packing
from rlhf_tuning.ops.beginning import Beginning, beginning_of


def texts(count=20, shared=12):
    """Sequences of unequal length that begin alike."""
    draw = torch.Generator().manual_seed(0)

    def some(tokens):
        return torch.randint(3, 96, (tokens,), generator=draw).tolist()

    first = some(shared)
    return [[*first, 1 + number, *some(3 + number % 7)] for number in range(count)]


@pytest.fixture(autouse=True)
def nothing_tried(monkeypatch):
    monkeypatch.setattr(beginning, "_tried", {})


def found_for(name, dtype=torch.float32, sequences=None):
    with torch.no_grad():
        return beginning_of(network(name, dtype).base_model.eval(), sequences or texts())


@DTYPES
@pytest.mark.parametrize("name", ["Llama", "Qwen 2", "Gemma 2", "GPT-2", "GPT-NeoX"])
def test_answers_are_as_probable_as_without(name, dtype, monkeypatch):
    model = network(name, dtype).eval()
    prompts = texts()
    answers = [[7, 8 + number % 5, 9][: 1 + number % 3] for number in range(len(prompts))]
    found = answer_log_probabilities(model, prompts, answers)
    assert next(iter(beginning._tried.values())) is True
    monkeypatch.setattr("rlhf_tuning.evaluation.evaluate.beginning_of", lambda *_, **more: None)
    expected = answer_log_probabilities(model, prompts, answers)
    assert found == pytest.approx(expected, abs=1e-4 if dtype == torch.float32 else 0.1)


@pytest.mark.parametrize(("tokens", "goes_on"), [(10, True), (250, False)])
def test_prompts_are_held_against_the_window_with_the_answers_that_follow(tokens, goes_on, monkeypatch):
    model = network("Mistral", torch.float32).eval()
    prompts = texts()
    answers = [[5 + place % 80 for place in range(number, number + tokens)] for number in range(len(prompts))]
    asked = []
    monkeypatch.setattr(
        "rlhf_tuning.evaluation.evaluate.beginning_of",
        lambda *given, **more: asked.append(beginning_of(*given, **more)) or asked[-1],
    )
    found = answer_log_probabilities(model, prompts, answers)
    assert (asked[0] is not None) == goes_on
    monkeypatch.setattr("rlhf_tuning.evaluation.evaluate.beginning_of", lambda *_, **more: None)
    assert found == pytest.approx(answer_log_probabilities(model, prompts, answers), abs=1e-3)


def test_answers_that_share_a_prompt_as_well_have_the_states_of_rows_of_their_own():
    trunk = network("Llama", torch.float32).base_model.eval()
    shared, rest = packing.share_beginning(texts())
    groups = [(rest[0], [[5, 6], [7]]), (rest[1], [[8]])]
    begun = packing.states(trunk, groups, begun=Beginning(trunk, shared))
    whole = packing.states(trunk, [([*shared, *prompt], answers) for prompt, answers in groups])
    sizes = [len(prompt) + sum(map(len, answers)) for prompt, answers in groups]
    for row, size in enumerate(sizes):
        torch.testing.assert_close(begun[row, :size], whole[row, 12 : 12 + size], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["Mistral, narrow", "Llama 4", "BLOOM", "Mamba", "Bamba", "LFM 2", "GPT-Neo"])
def test_a_model_that_cannot_go_on_from_a_beginning_is_found_out(name):
    assert found_for(name) is None


@DTYPES
def test_a_wrong_way_to_go_on_is_refused(dtype, monkeypatch):
    right = Beginning.inputs

    def planted(wrong):
        def inputs(self, model, *tensors):
            given = right(self, model, *tensors)
            wrong(given)
            return given

        return inputs

    def begins_anew(given):
        given["position_ids"] -= 12

    def forgets(given):
        unseen = False if given["attention_mask"].dtype == torch.bool else torch.finfo(dtype).min
        given["attention_mask"][..., 3] = unseen

    assert found_for("Llama", dtype)
    for wrong in (begins_anew, forgets):
        beginning._tried.clear()
        monkeypatch.setattr(Beginning, "inputs", planted(wrong))
        assert found_for("Llama", dtype) is None, wrong.__name__


def test_a_beginning_is_computed_only_where_it_pays_and_nothing_learns():
    assert found_for("Llama").length == 12
    assert found_for("Llama", sequences=texts(count=15)) is None
    assert found_for("Llama", sequences=texts(shared=7)) is None
    assert beginning_of(network("Llama", torch.float32).base_model.eval(), texts()) is None
    with torch.no_grad():
        assert beginning_of(network("Llama", torch.float32).base_model.train(), texts()) is None
    network("Llama", torch.float32).eval()
