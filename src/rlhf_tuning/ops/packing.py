"""Several answers to one prompt in one row, the prompt computed once for all of them.

A row is the prompt and then its answers. A 4-D attention mask lets each answer see the prompt and itself alone, and
positions restart after the prompt, so a model with plain attention gives every token the hidden state that it has in a row
of its own. Models that mix positions in another way (state spaces, a sliding window shorter than the row) do not:
`packing_is_exact` tries it out.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rlhf_tuning.distributed import sharding
from rlhf_tuning.ops import attention

#: How far, beside its length, a hidden state may be moved by the rounding of another order of sums.
_ROUNDING = {torch.float32: 1e-3, torch.bfloat16: 5e-2}

Group = tuple[Sequence[int], Sequence[Sequence[int]]]


@dataclass(frozen=True, kw_only=True)
class Packed:
    """Rows of a prompt and its answers, padded on the right.

    Args:
        input_ids: (rows, length)
        position_ids: Restarting after the prompt for each answer. (rows, length)
        real: Which positions hold a token. (rows, length), bool
        visible: Which positions (last axis) each position sees. (rows, 1, length, length), bool
        answers: Of each answer, in the order given, its first position and the one after its last, counted in the
            flattened (rows x length). (answers, 2)
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    real: torch.Tensor
    visible: torch.Tensor
    answers: torch.Tensor


def pack(groups: Sequence[Group]) -> Packed:
    """Pack each prompt with all its answers into a row.

    Args:
        groups: A prompt and its answers, as tokens. An answer may be empty, a prompt may be too.
    """
    longest = max(len(prompt) + sum(map(len, answers)) for prompt, answers in groups)
    input_ids = torch.zeros((len(groups), longest), dtype=torch.long)
    position_ids = torch.zeros_like(input_ids)
    real = torch.zeros_like(input_ids, dtype=torch.bool)
    # What stands where nothing does sees itself, because a softmax over nothing is no number.
    visible = torch.eye(longest, dtype=torch.bool).repeat(len(groups), 1, 1)
    causal = torch.ones((longest, longest), dtype=torch.bool).tril()
    places: list[tuple[int, int]] = []
    for row, (prompt, answers) in enumerate(groups):
        shared = len(prompt)
        tokens = [*prompt, *(token for answer in answers for token in answer)]
        input_ids[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
        real[row, : len(tokens)] = True
        position_ids[row, :shared] = torch.arange(shared)
        visible[row, :shared, :shared] = causal[:shared, :shared]
        start = shared
        for answer in answers:
            end = start + len(answer)
            position_ids[row, start:end] = torch.arange(shared, shared + len(answer))
            visible[row, start:end, :shared] = True
            visible[row, start:end, start:end] = causal[: len(answer), : len(answer)]
            places.append((row * longest + start, row * longest + end))
            start = end
    return Packed(
        input_ids=input_ids,
        position_ids=position_ids,
        real=real,
        visible=visible[:, None],
        answers=torch.tensor(places, dtype=torch.long).reshape(-1, 2),
    )


def share_beginning(sequences: Sequence[Sequence[int]]) -> Group:
    """Split token sequences into the beginning that all share and what is left of each, at least its last token."""
    shared = 0
    most = min(map(len, sequences)) - 1
    while shared < most and len({sequence[shared] for sequence in sequences}) == 1:
        shared += 1
    return sequences[0][:shared], [sequence[shared:] for sequence in sequences]


def packed_length(sequences: Sequence[Sequence[int]]) -> int:
    """Return how long the row is that holds these sequences, their common beginning once."""
    shared, rest = share_beginning(sequences)
    return len(shared) + sum(map(len, rest))


def last_hidden(
    trunk: Any, input_ids: torch.Tensor, position_ids: torch.Tensor, visible: torch.Tensor, answers: torch.Tensor
) -> torch.Tensor:
    """Return the trunk's hidden state at the last token of each packed answer, (answers, d).

    Args:
        trunk: Of a transformers model, without its head.
        input_ids: Like the rest, of a `Packed`, on the trunk's device. None of the answers may be empty.
    """
    mask = attention_mask(trunk, visible)
    output = trunk(input_ids=input_ids, attention_mask=mask, position_ids=position_ids, use_cache=False)
    hidden: torch.Tensor = output.last_hidden_state  # (rows, length, d)
    return hidden.flatten(0, 1)[answers[:, 1] - 1]


def attention_mask(model: Any, visible: torch.Tensor) -> torch.Tensor:
    """Return what is visible as a model's attention wants it: to be added to the scores, or bool for torch's own."""
    if model.config._attn_implementation not in ("eager", attention.NAME):
        return visible
    kind = visible.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else model.dtype
    return torch.zeros_like(visible, dtype=dtype).masked_fill_(~visible, torch.finfo(dtype).min)


def window(model: Any) -> float:
    """Return how far back every layer of a model sees. Masks of ours have no window, which a short test would not show."""
    settings = model.config.get_text_config().to_dict()
    size = settings.get("sliding_window")
    kinds = settings.get("layer_types") or ["sliding_attention"]
    slides = settings.get("use_sliding_window", True) and "sliding_attention" in kinds
    return size if size is not None and slides else math.inf


def take_packed(model: Any, work: Callable[[Any], Any]) -> None:
    """Let `model(packed=x)` return `work(x)`, through whatever is wrapped around the model."""
    plain = model.forward

    def forward(*args: Any, packed: Any = None, **settings: Any) -> Any:
        return plain(*args, **settings) if packed is None else work(packed)

    model.forward = forward


@torch.no_grad()
def packing_is_exact(trunk: Any, sequences: Sequence[Sequence[int]]) -> bool:
    """Say whether packed sequences have the last hidden states that they have one to a row, on the model at hand.

    Args:
        trunk: Of a transformers model, without its head.
        sequences: With a common beginning. Take the longest there are, because a window shows only in a long text.
    """
    device = trunk.device
    packed = pack([share_beginning(sequences)])
    tensors = (packed.input_ids, packed.position_ids, packed.visible, packed.answers)
    try:
        together = last_hidden(trunk, *(tensor.to(device) for tensor in tensors)).float()
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError, NotImplementedError):
        # What a model's code raises when it does not know a 4-D mask.
        return False
    alone = torch.stack(
        [
            trunk(input_ids=torch.tensor([list(ids)], device=device), use_cache=False).last_hidden_state[0, -1].float()
            for ids in sequences
        ]
    )
    moved = (together - alone).norm(dim=1) / alone.norm(dim=1)
    return bool(moved.max() < _ROUNDING[sharding.products(trunk)])
