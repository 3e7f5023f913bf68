"""Packed rows against one row for each answer."""

from functools import cache

import pytest
import torch
from tiny_architectures import make_network
from transformers import AutoModel

from rlhf_tuning.ops import attention, packing


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_every_answer_has_the_last_hidden_state_of_a_row_of_its_own(tiny_model, attention):
    trunk = AutoModel.from_pretrained(tiny_model, attn_implementation=attention)
    groups = [([5, 6, 7, 8], [[9, 10], [11], [12, 13, 14]]), ([20], [[21, 22]])]
    packed = packing.pack(groups)
    found = packing.last_hidden(trunk, packed.input_ids, packed.position_ids, packed.owners, packed.answers)
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


def test_rows_of_one_answer_need_neither_mask_nor_positions():
    assert packing.pack([([5, 6], [[9]]), ([7], [[8]])]).owners is None


def test_a_position_sees_the_prompt_and_what_is_before_it_in_its_own_answer():
    packed = packing.pack([([5, 6], [[9], [10, 11]]), ([], [[7], [8]])])
    seen = packing.visible(packed.owners)[:, 0].int().tolist()
    assert seen[0] == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 0, 1, 0], [1, 1, 0, 1, 1]]
    assert seen[1] == torch.eye(5).int().tolist()


def groups_of(draw):
    """Some prompts of unequal length, each with three answers that begin alike."""
    generator = torch.Generator().manual_seed(draw)

    def text(tokens):
        return torch.randint(3, 96, (tokens,), generator=generator).tolist()

    prompts = [text(int(tokens)) for tokens in torch.randint(8, 30, (3,), generator=generator)]
    return [([*prompt, 5], [text(3 + 4 * answer) for answer in range(3)]) for prompt in prompts]


def sees_others(packed, groups):
    """Answers see those before them."""
    packed.owners.clamp_(max=1)


def does_not_restart(packed, groups):
    """Positions go on over all answers."""
    packed.position_ids[:] = torch.arange(packed.position_ids.shape[1])


def begins_late(packed, groups):
    """Positions of answers are one too large."""
    for row, (prompt, _) in enumerate(groups):
        packed.position_ids[row, len(prompt) :] += 1


def forgets(packed, groups):
    """Answers do not see the prompt's last token."""
    for row, (prompt, answers) in enumerate(groups):
        packed.owners[row, len(prompt) - 1] = len(answers) + 1


WRONG = [sees_others, does_not_restart, begins_late, forgets]


def planted(wrong):
    right = packing.pack

    def pack(groups):
        packed = right(groups)
        if packed.owners is not None:
            wrong(packed, groups)
        return packed

    return pack


def remembered(states):
    """Compute states that no layout changes once for each draw and precision."""
    known = {}

    def remember(trunk, groups):
        key = (trunk.dtype, str(groups))
        if key not in known:
            known[key] = states(trunk, groups)
        return known[key]

    return remember


@cache
def network(name, dtype):
    """A model as it is loaded here."""
    model = make_network(name).to(dtype)
    if dtype == torch.bfloat16:
        model.set_attn_implementation("eager")
        attention.quicken(model)
    return model


def accepts(name, dtype, draw):
    return packing.is_exact(network(name, dtype).base_model, groups_of(draw), longest=64)


DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


@DTYPES
def test_a_right_layout_is_accepted_and_a_wrong_one_refused(dtype, monkeypatch):
    assert accepts("Llama", dtype, 0)
    for wrong in WRONG:
        with monkeypatch.context() as patch:
            patch.setattr(packing, "pack", planted(wrong))
            assert not accepts("Llama", dtype, 0), wrong.__name__


@pytest.mark.slow
@DTYPES
@pytest.mark.parametrize("name", ["Llama", "Qwen 2", "Gemma 2", "GPT-2", "GPT-NeoX", "Mixtral"])
def test_in_a_hundred_draws_every_right_layout_is_accepted_and_every_wrong_one_refused(name, dtype, monkeypatch):
    for states in ("_alone", "_padded"):
        monkeypatch.setattr(packing, states, remembered(getattr(packing, states)))
    assert sum(accepts(name, dtype, draw) for draw in range(100)) == 100
    for wrong in WRONG:
        with monkeypatch.context() as patch:
            patch.setattr(packing, "pack", planted(wrong))
            assert sum(accepts(name, dtype, draw) for draw in range(100)) == 0, wrong.__name__


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Mistral, narrow", "its window is shorter than the text"),
        ("Llama 4", "so are its chunks"),
        ("BLOOM", "ALiBi reads places off a 2-D mask"),
        ("Mamba", "a state has no mask"),
        ("Bamba", "nor has that of some layers"),
        ("LFM 2", "nor a convolution"),
        ("GPT-Neo", "it has masks of its own"),
    ],
)
def test_a_model_that_cannot_share_a_prompt_is_found_out(name, why):
    assert not accepts(name, torch.bfloat16, 0), why


def test_the_longest_text_to_come_is_held_against_the_window():
    trunk = network("Gemma 2", torch.float32).base_model
    assert packing.is_exact(trunk, groups_of(0), longest=256)
    assert not packing.is_exact(trunk, groups_of(0), longest=257)


def test_what_tells_is_the_longest_text_and_others_of_every_length():
    groups = [[[1, 2, 3], [1] * tokens, [1, 2], [1, 3]] for tokens in range(3, 43)] + [[[1] * 99]]
    assert [(shared, [len(text) for text in texts]) for shared, texts in packing.telling(groups)] == [
        ([1], [41, 2, 1]),
        ([1], [31, 2, 1]),
        ([1], [21, 2, 1]),
        ([1], [11, 2, 1]),
    ]
    assert packing.telling([*groups[-1:], [[1, 2], [3, 2]]]) == []


def test_what_tells_of_texts_that_share_nothing_is_the_same():
    texts = [[1] * tokens for tokens in range(3, 43)]
    assert [(shared, [len(text) for text in group]) for shared, group in packing.telling_apart(texts)] == [
        ([], [42, 41, 40]),
        ([], [33, 32, 31]),
        ([], [24, 23, 22]),
        ([], [15, 14, 13]),
    ]
    assert packing.telling_apart(texts[:1]) == []


def test_texts_that_share_nothing_may_share_a_row_where_masks_are_kept(monkeypatch):
    texts = [[*prompt, *answer] for prompt, answers in groups_of(0) for answer in answers]
    trunk = network("Llama", torch.float32).base_model
    assert packing.is_exact(trunk, packing.telling_apart(texts), longest=64)
    monkeypatch.setattr(packing, "pack", planted(sees_others))
    assert not packing.is_exact(trunk, packing.telling_apart(texts), longest=64)
