"""Attention for bfloat16 on a CPU, beside transformers' own."""

from typing import Any

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from rlhf_tuning.ops import attention, packing

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "attn_implementation": "eager",
}


def llama(dtype: torch.dtype) -> LlamaForCausalLM:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES)).to(dtype)
    for layer in model.model.layers:  # sharp enough for the scores to matter
        torch.nn.init.normal_(layer.self_attn.q_proj.weight, std=0.5)
        torch.nn.init.normal_(layer.self_attn.k_proj.weight, std=0.5)
    return model


def with_gradients(model: Any, **inputs: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    logits = model(**inputs, use_cache=False).logits
    weights = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view(logits.shape)
    (logits * weights).sum().backward()
    return [logits.detach(), *(weight.grad for weight in model.parameters() if weight.grad is not None)]


def distance(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """Return how far the farthest tensor is from the one expected, beside its length."""
    pairs = zip(found, expected, strict=True)
    return max(float((one.float() - other.float()).norm() / other.float().norm()) for one, other in pairs)


@pytest.mark.parametrize("mask", ["causal", "padded", "packed"])
def test_numbers_and_gradients_are_those_of_eager_attention(mask: str) -> None:
    model = llama(torch.float32)
    inputs: dict[str, torch.Tensor] = {"input_ids": torch.arange(1, 15).view(2, 7)}
    if mask == "padded":
        inputs["attention_mask"] = torch.tensor([[1] * 7, [0, 0, 1, 1, 1, 1, 1]])
    elif mask == "packed":
        packed = packing.pack([([1, 2, 3], [[4, 5], [6, 7, 8]]), ([1, 2], [[3], [4, 5]])])
        inputs = {"input_ids": packed.input_ids, "position_ids": packed.position_ids}
        inputs["attention_mask"] = packing.attention_mask(model, packing.visible(packed.owners))
    expected = with_gradients(model, **inputs)
    attention.quicken(model)
    assert model.config._attn_implementation == attention.NAME
    assert distance(with_gradients(model, **inputs), expected) < 1e-5


def test_bfloat16_is_as_near_to_float32_as_eager_attention_is() -> None:
    inputs = {"input_ids": torch.arange(1, 15).view(2, 7)}
    exact = with_gradients(llama(torch.float32), **inputs)
    model = llama(torch.bfloat16)
    eager = with_gradients(model, **inputs)
    attention.quicken(model)
    ours = with_gradients(model, **inputs)
    assert distance(ours, exact) < 1.2 * distance(eager, exact)


def test_capped_scores_are_left_to_the_models_own_code() -> None:
    model = Gemma2ForCausalLM(Gemma2Config(**SIZES, attn_logit_softcapping=50.0))
    attention.quicken(model)
    assert model.config._attn_implementation == "eager"


def test_a_model_to_which_it_gives_other_numbers_keeps_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    model = llama(torch.float32)
    monkeypatch.setattr(attention._Attention, "apply", lambda query, *rest: torch.zeros_like(query))
    attention.quicken(model)
    assert model.config._attn_implementation == "eager"


def test_a_saved_model_does_not_ask_for_it(tmp_path: Any) -> None:
    model = llama(torch.float32)
    attention.quicken(model)
    model.save_pretrained(tmp_path)
    assert attention.NAME not in (tmp_path / "config.json").read_text(encoding="utf-8")
