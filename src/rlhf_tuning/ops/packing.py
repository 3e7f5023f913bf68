"""Several answers to one prompt in one row, the prompt computed once for all of them.

A row is the prompt and then its answers. A 4-D attention mask lets each answer see the prompt and itself alone, and
positions restart after the prompt, so a model with plain attention gives every token the hidden state that it has in a row
of its own. Models that mix positions in another way do not: state spaces, ALiBi, a sliding window shorter than the text.

`is_exact` finds that out. A layer that is not attention decides by itself. Else both layouts are compared on real text: in
float32, where rounding moves a hidden state by some millionths and a wrong layout by far more, they must be equal; and in
the precision at work the packed one must be about as near to float32 as the plain one is.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, Protocol

import torch
from torch import nn

from rlhf_tuning.distributed import sharding
from rlhf_tuning.ops import attention
from rlhf_tuning.ops.precision import in_float32

#: How far, beside its length, a hidden state may be moved in float32: at least, in multiples of what padding does, at most.
_ROUNDING = (1e-4, 10.0, 1e-3)

#: How much farther from float32 packed rows may be than plain ones, in the precision at work.
_AS_ROUNDED = 2.0

#: Groups of sequences that are compared, and sequences of each: so few that it takes about as long as a step.
_COMPARED, _OF_EACH = 4, 3

#: Layers that a mask tells what they see.
_MASKED = {"attention", "full_attention", "sliding_attention", "chunked_attention"}

Group = tuple[Sequence[int], Sequence[Sequence[int]]]


@dataclass(frozen=True, kw_only=True)
class Packed:
    """Rows of a prompt and its answers, padded on the right.

    Args:
        input_ids: (rows, length)
        position_ids: Restarting after the prompt for each answer. (rows, length)
        real: Which positions hold a token. (rows, length), bool
        owners: Which of its answers each position belongs to, from 1 on; 0 for the prompt, -1 for nothing. (rows, length)
            None where no row has a second answer, so that each position sees what is before it.
        answers: Of each answer, in the order given, its first position and the one after its last, counted in the
            flattened (rows x length). (answers, 2)
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    real: torch.Tensor
    owners: torch.Tensor | None
    answers: torch.Tensor


def pack(groups: Sequence[Group]) -> Packed:
    """Pack each prompt with all its answers into a row.

    Args:
        groups: A prompt and its answers, as tokens. An answer may be empty, a prompt may be too.
    """
    longest = max(len(prompt) + sum(map(len, answers)) for prompt, answers in groups)
    input_ids = torch.zeros((len(groups), longest), dtype=torch.long)
    position_ids = torch.zeros_like(input_ids)
    owners = torch.full_like(input_ids, -1)
    places: list[tuple[int, int]] = []
    for row, (prompt, answers) in enumerate(groups):
        tokens = [*prompt, *(token for answer in answers for token in answer)]
        input_ids[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
        start = len(prompt)
        owners[row, :start] = 0
        position_ids[row, :start] = torch.arange(start)
        for number, answer in enumerate(answers, 1):
            end = start + len(answer)
            owners[row, start:end] = number
            position_ids[row, start:end] = torch.arange(len(prompt), len(prompt) + len(answer))
            places.append((row * longest + start, row * longest + end))
            start = end
    return Packed(
        input_ids=input_ids,
        position_ids=position_ids,
        real=owners >= 0,
        owners=owners if any(len(answers) > 1 for _, answers in groups) else None,
        answers=torch.tensor(places, dtype=torch.long).reshape(-1, 2),
    )


def visible(owners: torch.Tensor) -> torch.Tensor:
    """Return which positions (last axis) each position of packed rows sees, (rows, 1, length, length), bool.

    Args:
        owners: Of a `Packed`. The mask is made where they are: on a GPU, it never passes through the machine's memory.
    """
    length = owners.shape[1]
    before = torch.ones((length, length), dtype=torch.bool, device=owners.device).tril()
    # What stands where nothing does sees itself, because a softmax over nothing is no number.
    itself = torch.eye(length, dtype=torch.bool, device=owners.device)
    seen, seeing = owners[:, None, :], owners[:, :, None]
    return (((seen == 0) | ((seen == seeing) & (seen > 0))) & before | itself)[:, None]


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


class Begun(Protocol):
    """What rows may go on from, see `beginning`."""

    def inputs(
        self, model: Any, input_ids: torch.Tensor, position_ids: torch.Tensor, owners: torch.Tensor | None
    ) -> dict[str, Any]:
        """Return what `inputs` does, for rows that go on from here."""


def hidden_states(
    trunk: Any,
    input_ids: torch.Tensor,
    position_ids: torch.Tensor,
    owners: torch.Tensor | None,
    begun: Begun | None = None,
) -> torch.Tensor:
    """Return the trunk's hidden state at every position of packed rows, (rows, length, d).

    Args:
        trunk: Of a transformers model, without its head.
        input_ids: Like `position_ids`, of a `Packed`, on the trunk's device.
        owners: Likewise; None where no row has a second answer.
        begun: What all rows go on from; None where they begin by themselves.
    """
    given = begun.inputs if begun else inputs
    hidden: torch.Tensor = trunk(**given(trunk, input_ids, position_ids, owners)).last_hidden_state
    return hidden


def inputs(
    model: Any, input_ids: torch.Tensor, position_ids: torch.Tensor, owners: torch.Tensor | None
) -> dict[str, Any]:
    """Return what a model is called with for packed rows.

    Rows of one answer need no mask, since what is padded comes after all that counts, and no positions but the usual ones:
    every causal model can do those.
    """
    if owners is None:
        return {"input_ids": input_ids, "use_cache": False}
    mask = attention_mask(model, visible(owners))
    return {"input_ids": input_ids, "attention_mask": mask, "position_ids": position_ids, "use_cache": False}


def last_hidden(
    trunk: Any,
    input_ids: torch.Tensor,
    position_ids: torch.Tensor,
    owners: torch.Tensor | None,
    answers: torch.Tensor,
    begun: Begun | None = None,
) -> torch.Tensor:
    """Return the trunk's hidden state at the last token of each packed answer, (answers, d).

    Args:
        trunk: Of a transformers model, without its head.
        input_ids: Like the rest, of a `Packed`, on the trunk's device. None of the answers may be empty.
        begun: As for `hidden_states`.
    """
    return hidden_states(trunk, input_ids, position_ids, owners, begun).flatten(0, 1)[answers[:, 1] - 1]


def attention_mask(model: Any, seen: torch.Tensor) -> torch.Tensor:
    """Return what is seen as a model's attention wants it: to be added to the scores, or bool for torch's own."""
    if model.config._attn_implementation not in ("eager", attention.NAME):
        return seen
    kind = seen.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else model.dtype
    return torch.zeros_like(seen, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)


def window(model: Any) -> float:
    """Return how far back every layer of a model sees. Masks of ours have no window, which a short test would not show."""
    settings = model.config.get_text_config().to_dict()
    kinds = settings.get("layer_types") or ["sliding_attention"]
    slides = settings.get("use_sliding_window", True) and "sliding_attention" in kinds
    sizes = [
        settings.get("sliding_window") if slides else None,
        settings.get("attention_chunk_size") if "chunked_attention" in kinds else None,
    ]
    return min((size for size in sizes if size is not None), default=math.inf)


def attends_alone(trunk: Any) -> bool:
    """Say whether positions of a model meet nowhere but in attention with the mask that it is given."""
    kinds = trunk.config.get_text_config().to_dict().get("layer_types") or []
    convolves = any(isinstance(module, nn.Conv1d) for module in trunk.modules())
    # GPT-Neo's: it ends, and has a window.
    own_mask = any(buffer.dtype == torch.bool and buffer.ndim == 4 for buffer in trunk.buffers())
    return not (trunk._is_stateful or convolves or own_mask or set(kinds) - _MASKED)


def take_packed(model: Any, work: Callable[[Any], Any]) -> None:
    """Let `model(packed=x)` return `work(x)`, through whatever is wrapped around the model."""
    plain = model.forward

    @wraps(plain)  # `generate` reads from it what the model takes
    def forward(*args: Any, packed: Any = None, **settings: Any) -> Any:
        return plain(*args, **settings) if packed is None else work(packed)

    model.forward = forward


def kind_of(trunk: Any) -> tuple[Any, ...]:
    """Return what decides how a model takes packed rows, but for its weights: code, config and precision."""
    device = trunk.device.type
    return (
        type(trunk),
        trunk.config.to_json_string(),
        trunk.config._attn_implementation,
        trunk.dtype,
        torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device),
    )


def telling(groups: Sequence[Sequence[Sequence[int]]]) -> list[Group]:
    """Return some groups of some sequences for `is_exact`: the ones with the longest text, and others of every length."""
    several = [group for group in groups if len(group) > 1 and share_beginning(group)[0]]
    return [share_beginning(group) for group in _of_every_length(several)]


def telling_apart(sequences: Sequence[Sequence[int]]) -> list[Group]:
    """Do as `telling` with sequences that are to share a row and nothing of it."""
    by_length = sorted(sequences, key=len, reverse=True)
    groups = [by_length[start : start + _OF_EACH] for start in range(0, len(by_length), _OF_EACH)]
    return [([], group) for group in _of_every_length([group for group in groups if len(group) > 1])]


def _of_every_length(groups: Sequence[Sequence[Sequence[int]]]) -> list[list[Sequence[int]]]:
    by_length = sorted(groups, key=lambda group: -max(map(len, group)))
    count = min(_COMPARED, len(by_length))
    chosen = (by_length[place * len(by_length) // count] for place in range(count))
    return [sorted(group, key=len, reverse=True)[:_OF_EACH] for group in chosen]


def _together(trunk: Any, groups: Sequence[Group]) -> list[torch.Tensor]:
    """Return the hidden states of what sequences do not share with others of their group, these packed."""
    found = []
    for shared, answers in groups:
        (some,) = states(trunk, [(shared, answers)])
        found += some[len(shared) :].split([len(answer) for answer in answers])
    return found


@torch.no_grad()
def is_exact(
    trunk: Any,
    groups: Sequence[Group],
    *,
    longest: int,
    together: Callable[[Any, Sequence[Group]], list[torch.Tensor]] = _together,
) -> bool:
    """Say whether packed sequences have the hidden states that they have one to a row, on the model at hand.

    Args:
        trunk: Of a transformers model, without its head, in the precision that it works in.
        groups: Of real text, as `telling` or `telling_apart` chooses them.
        longest: Tokens of the longest sequence that will come.
        together: What computes the sequences of a group in another way than one to a row; by default packed.
    """
    if longest > window(trunk) or not attends_alone(trunk):
        return False
    whole = not sharding.has_shards(trunk)
    try:
        truth: list[torch.Tensor] = []
        if whole:
            with in_float32(trunk, trunk.device):
                truth = _alone(trunk, groups)
                least, times, most = _ROUNDING
                rounding = times * _apart(_padded(trunk, groups), truth).max()
                moved = _apart(together(trunk, groups), truth).max()
            if not moved <= rounding.clamp(min=least, max=most):
                return False
            if _works_in_float32(trunk):
                return True
        plain = _alone(trunk, groups)
        truth = truth or plain
        rounding = torch.stack([_apart(states, truth).mean() for states in (plain, _padded(trunk, groups))]).max()
        return bool(_apart(together(trunk, groups), truth).mean() <= _AS_ROUNDED * rounding)
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError, NotImplementedError):
        # What a model's code raises when it does not know a 4-D mask.
        return False


def _works_in_float32(trunk: Any) -> bool:
    return sharding.products(trunk) == torch.float32 and not torch.is_autocast_enabled(trunk.device.type)


def _alone(trunk: Any, groups: Sequence[Group]) -> list[torch.Tensor]:
    """Return the hidden states of what sequences do not share with others of their group, each computed by itself."""
    return [
        states(trunk, [([*shared, *answer], [[]])])[0, len(shared) :]
        for shared, answers in groups
        for answer in answers
    ]


def _padded(trunk: Any, groups: Sequence[Group]) -> list[torch.Tensor]:
    """Do as `_alone` with the sequences of a group in one batch."""
    return [
        some[len(shared) : len(shared) + len(answer)]
        for shared, answers in groups
        for some, answer in zip(states(trunk, [([*shared, *answer], [[]]) for answer in answers]), answers, strict=True)
    ]


def states(trunk: Any, groups: Sequence[Group], *, begun: Begun | None = None) -> torch.Tensor:
    """Return the hidden states of packed groups, float32, (rows, length, d)."""
    packed, device = pack(groups), trunk.device
    owners = None if packed.owners is None else packed.owners.to(device)
    return hidden_states(trunk, packed.input_ids.to(device), packed.position_ids.to(device), owners, begun).float()


def _apart(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return how far each sequence's hidden states are from others, beside their length, on average."""
    return torch.stack(
        [((some - other).norm(dim=1) / other.norm(dim=1)).mean() for some, other in zip(found, expected, strict=True)]
    )
