import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from rlhf_tuning.models import base_model
from rlhf_tuning.ops.log_probabilities import log_probabilities, pack, packing_works

PROMPTS = [[5, 6, 7], [5, 6, 7], [5, 6, 7], [9, 8], [9, 8]]
ANSWERS = [[20, 21, 22, 23], [24], [], [25, 26], [27, 28, 29]]


def plain(model, prompt, answer, temperature):
    ids = torch.tensor([[*prompt, *answer]])
    logits = model(ids).logits[0, len(prompt) - 1 : -1].float() / temperature
    spread = logits.log_softmax(-1)
    return spread[torch.arange(len(answer)), torch.tensor(answer)], -(spread.exp() * spread).sum(-1)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_packed_answers_have_the_log_probabilities_and_entropies_of_separate_rows(tiny_model, attention, temperature):
    model = base_model.load_causal_lm(str(tiny_model), dtype=torch.float32)
    model.set_attn_implementation(attention)
    found, entropy = log_probabilities(
        model, pack(PROMPTS, ANSWERS, device=torch.device("cpu"), width=5), temperature=temperature
    )
    assert found.shape == entropy.shape == (5, 5)
    for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        expected = (torch.zeros(0), torch.zeros(0)) if not answer else plain(model, prompt, answer, temperature)
        assert torch.allclose(found[row, : len(answer)], expected[0], atol=1e-5)
        assert torch.allclose(entropy[row, : len(answer)], expected[1], atol=1e-5)
        assert torch.equal(found[row, len(answer) :], torch.zeros(5 - len(answer)))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_prompts_of_one_answer_each_need_no_mask_of_ours(tiny_model, attention):
    model = base_model.load_causal_lm(str(tiny_model), dtype=torch.float32)
    model.set_attn_implementation(attention)
    packed = pack(PROMPTS[2:4], [ANSWERS[1], ANSWERS[3]], device=torch.device("cpu"))
    assert packed.visible is None
    found, _ = log_probabilities(model, packed, temperature=1.0)
    assert torch.allclose(found[1, :2], plain(model, PROMPTS[3], ANSWERS[3], 1.0)[0], atol=1e-5)
    assert torch.allclose(found[0, :1], plain(model, PROMPTS[2], ANSWERS[1], 1.0)[0], atol=1e-5)


def test_a_prompt_is_held_once_for_its_answers():
    packed = pack(PROMPTS, ANSWERS, device=torch.device("cpu"))
    assert packed.input_ids.tolist() == [[5, 6, 7, 20, 21, 22, 23, 24], [9, 8, 25, 26, 27, 28, 29, 0]]
    assert packed.position_ids[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 3]


SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
WIDE = {"initializer_range": 0.3}
MLP = {"intermediate_size": 64, "num_key_value_heads": 2}


@pytest.mark.parametrize(
    ("model", "works"),
    [
        (lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL, **WIDE, **MLP)), True),
        (lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SMALL, **WIDE, intermediate_size=64)), True),
        (lambda: GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, **WIDE)), True),
        (lambda: Gemma2ForCausalLM(Gemma2Config(**SMALL, **WIDE, **MLP, head_dim=8, sliding_window=100)), True),
        # The window is shorter than the text; ALiBi reads places off a 2-D mask; a state has no mask.
        (lambda: Gemma2ForCausalLM(Gemma2Config(**SMALL, **WIDE, **MLP, head_dim=8, sliding_window=50)), False),
        (lambda: BloomForCausalLM(BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4, **WIDE)), False),
        (lambda: MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, **WIDE)), False),
    ],
    ids=["qwen2", "gpt-neox", "gpt-2", "gemma-2", "gemma-2 with a short window", "bloom", "mamba"],
)
def test_a_model_is_asked_whether_its_answers_can_share_a_prompt(model, works):
    torch.manual_seed(0)
    found = model().eval()
    assert packing_works(found, list(range(3, 40)), longest=60) is works
