"""Packed rows against one row for each answer."""

import pytest
import torch
from transformers import AutoModel, MistralConfig, MistralModel

from rlhf_tuning.ops import packing


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_every_answer_has_the_last_hidden_state_of_a_row_of_its_own(tiny_model, attention):
    trunk = AutoModel.from_pretrained(tiny_model, attn_implementation=attention)
    groups = [([5, 6, 7, 8], [[9, 10], [11], [12, 13, 14]]), ([20], [[21, 22]])]
    packed = packing.pack(groups)
    found = packing.last_hidden(trunk, packed.input_ids, packed.position_ids, packed.visible, packed.answers)
    alone = [
        trunk(torch.tensor([[*prompt, *answer]])).last_hidden_state[0, -1]
        for prompt, answers in groups
        for answer in answers
    ]
    torch.testing.assert_close(found, torch.stack(alone), atol=1e-5, rtol=1e-4)


def test_tells_where_each_answer_stands():
    packed = packing.pack([([5, 6], [[9], [10, 11]]), ([7], [[8]])])
    flat = packed.input_ids.flatten()
    assert [flat[start:end].tolist() for start, end in packed.answers] == [[9], [10, 11], [8]]
    assert packed.real.sum() == 7


def test_shares_the_beginning_and_leaves_each_sequence_its_last_token():
    assert packing.share_beginning([[1, 2, 3, 4], [1, 2, 5]]) == ([1, 2], [[3, 4], [5]])
    assert packing.share_beginning([[1, 2], [1, 2]]) == ([1], [[2], [2]])


def test_a_sliding_window_shorter_than_the_text_is_found_out(tiny_model):
    pair = [[*range(3, 60), 70, 71], [*range(3, 60), 80]]
    assert packing.packing_is_exact(AutoModel.from_pretrained(tiny_model), pair)
    settings = {"vocab_size": 100, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = MistralConfig(
        **settings, num_attention_heads=4, num_key_value_heads=2, sliding_window=8, initializer_range=0.2
    )
    assert not packing.packing_is_exact(MistralModel(config).eval(), pair)
