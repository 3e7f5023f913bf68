"""The beginning that all sequences have, such as the system turn of a template, computed once where nothing learns.

Its keys and values stand before those of every row, as a cache of transformers does. So a row is as long as what follows the
beginning. Whether a model can do that is tried once for each kind of model, as `packing.is_exact` tries packed rows.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from rlhf_tuning.distributed import sharding
from rlhf_tuning.ops import packing

#: From so many tokens on, and so many sequences, it is worth while.
_FEWEST_TOKENS, _FEWEST_SEQUENCES = 8, 16

#: Whether kinds of models can go on from a beginning.
_tried: dict[tuple[Any, ...], bool] = {}


class Beginning:
    """What a model makes of the tokens with which sequences begin.

    Args:
        trunk: Of a transformers model, without its head, with the adapters that are on.
        tokens: At least one.
    """

    def __init__(self, trunk: Any, tokens: Sequence[int]) -> None:
        self.length = len(tokens)
        output = trunk(input_ids=torch.tensor([list(tokens)], device=trunk.device), use_cache=True)
        self._layers = [(layer.keys, layer.values) for layer in output.past_key_values.layers]

    def inputs(
        self, model: Any, input_ids: torch.Tensor, position_ids: torch.Tensor, owners: torch.Tensor | None
    ) -> dict[str, Any]:
        """Return what `packing.inputs` does, for rows that go on from here."""
        if owners is None:
            length = input_ids.shape[1]
            seen = torch.ones((1, 1, length, length), dtype=torch.bool, device=input_ids.device).tril()
        else:
            seen = packing.visible(owners)
        seen = torch.nn.functional.pad(seen, (self.length, 0), value=True)
        return {
            "input_ids": input_ids,
            "attention_mask": packing.attention_mask(model, seen),
            "position_ids": position_ids + self.length,
            "past_key_values": Cache(layers=[_Begun(*layer) for layer in self._layers]),
            "use_cache": True,
        }


def beginning_of(trunk: Any, sequences: Sequence[Sequence[int]], *, longest: int = 0) -> Beginning | None:
    """Return the beginning that all sequences have; None where that is too little, or the model cannot go on from one.

    Args:
        trunk: Of a transformers model, without its head, in the precision that it works in.
        sequences: Of tokens.
        longest: Tokens of the longest of them with what is to follow it; 0 where nothing is.
    """
    if len(sequences) < _FEWEST_SEQUENCES or torch.is_grad_enabled() or trunk.training or sharding.has_shards(trunk):
        return None
    tokens, _ = packing.share_beginning(sequences)
    if len(tokens) < _FEWEST_TOKENS:
        return None
    longest = max(longest, *map(len, sequences))
    if longest > packing.window(trunk):
        return None
    key = packing.kind_of(trunk)
    if key not in _tried:
        some = max(sequences, key=len), min(sequences, key=len)
        group = tokens, [sequence[len(tokens) :] for sequence in some]
        _tried[key] = packing.is_exact(trunk, [group], longest=longest, together=_after)
    return Beginning(trunk, tokens) if _tried[key] else None


def _after(trunk: Any, groups: Sequence[packing.Group]) -> list[torch.Tensor]:
    """Return the hidden states of what sequences do not share, computed after the beginning that they do."""
    found = []
    for shared, answers in groups:
        begun = Beginning(trunk, shared)
        states = packing.states(trunk, [(answer, [[]]) for answer in answers], begun=begun)
        found += [some[: len(answer)] for some, answer in zip(states, answers, strict=True)]
    return found


class _Begun(CacheLayerMixin):  # type: ignore[misc]
    """One layer's keys and values of a beginning. What comes after is not kept."""

    is_sliding = False

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.is_initialized = keys, values, True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Do nothing: all is there."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what the rows see: the beginning, and themselves."""
        rows = len(key_states)
        return (
            torch.cat([self.keys.expand(rows, -1, -1, -1), key_states], dim=2),
            torch.cat([self.values.expand(rows, -1, -1, -1), value_states], dim=2),
        )

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the length of the keys and where they begin."""
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        """Return how many positions are before the rows."""
        return int(self.keys.shape[2])

    def get_max_length(self) -> int:
        """Return that there is no most."""
        return -1
