"""Attention for bfloat16 on a CPU, with the gradient written out.

torch's fused attention is slow there, and transformers' own code repeats keys and values for every head that shares them,
casts the scores to float32 and back and keeps each of these for the backward pass. Here each group of heads that shares its
keys is one product, and of the scores only the probabilities are kept, in bfloat16. The log-probabilities are the same.
"""

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

NAME = "rlhf_cpu"


@torch.no_grad()
def quicken(model: Any) -> None:
    """Have a model that uses transformers' eager attention use this one, if both give it the same numbers.

    Args:
        model: Of transformers, in bfloat16 on a CPU.
    """
    some = torch.arange(1, 13)[None] % model.config.get_text_config().vocab_size
    expected = model.base_model(input_ids=some, use_cache=False).last_hidden_state
    model.config._attn_implementation = NAME
    try:
        found = model.base_model(input_ids=some, use_cache=False).last_hidden_state
        same = bool((found - expected).norm() < 0.05 * expected.norm())
    except (TypeError, ValueError, RuntimeError, AttributeError):  # such as NotImplementedError, raised below
        same = False
    if not same:
        model.config._attn_implementation = "eager"


def _attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention for transformers' `AttentionInterface`; the mask is added to the scores."""
    if dropout or softcap is not None or s_aux is not None:
        raise NotImplementedError("dropout, capped scores and sinks")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    with torch.autocast("cpu", enabled=False):
        mixed = _Attention.apply(  # type: ignore[no-untyped-call]
            query.to(value.dtype), key.to(value.dtype), value, attention_mask, scale
        )
    return mixed.transpose(1, 2), None


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, eager_mask)


class _Attention(torch.autograd.Function):
    """Of query (b, heads, n, d), key and value (b, groups, m, d), mask (b, 1, n, m). A group serves neighbouring heads."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scale: float,
    ) -> torch.Tensor:
        batch, heads, length, size = query.shape
        groups = batch * key.shape[1]
        # All heads of a group under each other: (groups, heads of each x n, d).
        rows = (query * scale).reshape(groups, -1, size)
        keys, values = key.reshape(groups, -1, size), value.reshape(groups, -1, size)
        scores = torch.bmm(rows, keys.transpose(1, 2)).view(batch, heads, length, -1)
        if mask is not None:
            scores += mask
        chances = scores.softmax(dim=-1).view(groups, -1, keys.shape[1])
        ctx.save_for_backward(rows, keys, values, chances)
        ctx.shapes, ctx.scale = (query.shape, key.shape), scale
        return torch.bmm(chances, values).view(query.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, keys, values, chances = ctx.saved_tensors
        of_query, of_key = ctx.shapes
        gradient = gradients[0].reshape(rows.shape)
        of_values = torch.bmm(chances.transpose(1, 2), gradient)
        of_chances = torch.bmm(gradient, values.transpose(1, 2))
        of_scores = torch._softmax_backward_data(of_chances, chances, -1, chances.dtype)
        of_rows = torch.bmm(of_scores, keys).mul_(ctx.scale)
        of_keys = torch.bmm(of_scores.transpose(1, 2), rows)
        return of_rows.view(of_query), of_keys.view(of_key), of_values.view(of_key), None, None
