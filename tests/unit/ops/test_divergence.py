import pytest
import torch

from rlhf_tuning.models import base_model
from rlhf_tuning.ops import divergence
from rlhf_tuning.ops.log_probabilities import pack_apart

PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12]]
ANSWERS = [[30, 31, 32, 33], [40, 41]]


@pytest.fixture
def pair(tiny_model, tiny_plain_model):
    """A student and a teacher with other weights, and a head that is padded to more tokens."""
    student, teacher = (
        base_model.load_causal_lm(str(folder), dtype=torch.float32) for folder in (tiny_model, tiny_plain_model)
    )
    teacher.resize_token_embeddings(teacher.vocab_size + 16)
    return student, teacher


@torch.no_grad()
def by_hand(pair, prompt, answer, temperature):
    ids = torch.tensor([[*prompt, *answer]])
    places = slice(len(prompt) - 1, -1)
    shared = min(model.get_output_embeddings().out_features for model in pair)
    ours, theirs = (
        (model(input_ids=ids).logits[0, places, :shared] / temperature).log_softmax(dim=-1) for model in pair
    )
    return (ours.exp() * (ours - theirs)).sum(dim=-1), -(ours.exp() * ours).sum(dim=-1)


@pytest.mark.parametrize("odd_head", [False, True])
def test_it_is_the_sum_over_the_tokens_that_both_have(pair, monkeypatch, odd_head):
    if odd_head:  # logits that are not the head's alone
        monkeypatch.setattr(divergence, "head_scale", lambda model: None)
    packed = pack_apart(PROMPTS, ANSWERS, device=torch.device("cpu"), width=4)
    kl, entropy = divergence.reverse_kl(*pair, packed, temperature=0.7)
    for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        expected, spread = by_hand(pair, prompt, answer, 0.7)
        assert expected.min() > 0.01
        assert torch.allclose(kl[row, : len(answer)], expected, rtol=1e-4)
        assert torch.allclose(entropy[row, : len(answer)], spread, rtol=1e-4)
    assert not kl[1, 2:].any()


def test_of_answers_it_is_summed_over_their_tokens(pair):
    found = divergence.of_answers(*pair, PROMPTS, ANSWERS, temperature=1.0, batch_size=1)
    expected = [by_hand(pair, *both, 1.0)[0].sum() for both in zip(PROMPTS, ANSWERS, strict=True)]
    assert found == pytest.approx([float(value) for value in expected], rel=1e-4)
