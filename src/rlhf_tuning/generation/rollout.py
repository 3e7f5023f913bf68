"""Answers sampled quickly: transformers' own model code, called one token at a time without what is not needed here.

What `generate` of transformers spends its time on, and what is done instead while `prepared` is entered:

- Linear layers: an adapter costs two more products for each, so it is merged into a copy of the weights, in the precision
  that the products have (unless the weights are sharded, see `sharding`). On a CPU that copy is kept in oneDNN's layout for
  small batches (torch would lay it out anew for every product), several times as fast.
- Attention: keys and values stand in a buffer as long as the answers may get, and each group of heads that shares them is
  one product; nothing is concatenated or repeated at each token. A prompt is computed once for all its answers, what all
  prompts begin with once for all of them, and so many prompts at a time as their activations have room for; as many answers
  are decoded together as the buffer has.
- Sampling: one random number an answer and the cumulative distribution, not one random number for every entry of the
  vocabulary.
- Answers that have ended leave the batch.

`works` compares the numbers with the model's own; callers fall back to `generate` where they differ.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.cache_utils import Cache, CacheLayerMixin

from rlhf_tuning import step
from rlhf_tuning.distributed import memory, sharding
from rlhf_tuning.errors import ParameterError
from rlhf_tuning.models import architecture
from rlhf_tuning.ops import lanes, linear, packing, processor
from rlhf_tuning.ops.precision import in_float32

#: Answers decoded together. A CPU gains nothing from more; a GPU does, and has less memory.
ROWS_TOGETHER = {"cpu": 64, "cuda": 1024}

#: Tokens of prompts that are computed together: what is between the layers takes some 100 KB for each, in a large model.
_PREFILL_TOKENS = 16_384

#: From so many prompts on, and so many tokens, what all begin with is computed once.
_FEWEST_PROMPTS, _FEWEST_SHARED = 4, 8

#: The share of a GPU's free memory that answers decoded together may take.
_COUNTED_ON = 0.8

#: Bytes at work for each logit that is sampled from.
_OF_A_LOGIT = 24

#: From so many on they are decoded in two lanes; a step of fewer is mostly the reading of the weights.
_ENOUGH_ROWS = 32

#: Entries of the vocabulary whose probabilities are summed up at a time.
_BLOCK = 128

_ATTENTION = "rlhf_rollout"

#: What `works` is tried on: prompts, and tokens of each and of its answer.
_TRIED_PROMPTS, _TRIED_TOKENS, _TRIED_STEPS = 4, 32, 8

#: How many times farther from float32 than the model's own its logits may be here, in nats: twice as far, squared.
_AS_ROUNDED = 4.0

#: Nats a token that rounding may do where there is no more precise number to compare with.
_SAME_KL = {torch.float32: 1e-6, torch.bfloat16: 5e-3, torch.float16: 5e-3}

#: Whether it `works` with a model in a precision, so that nothing is tried twice.
_tried: WeakKeyDictionary[nn.Module, dict[torch.dtype, bool]] = WeakKeyDictionary()


@contextmanager
def prepared(model: Any, compute: torch.dtype) -> Iterator[None]:
    """Have a model decode quickly for a while, with the weights that it has now; then leave it as it was.

    Args:
        model: A causal language model of transformers, which may have LoRA layers; not wrapped in anything.
        compute: Of matrix products.
    """
    layers = [layer for layer in linear.linear_layers(model) if not sharding.is_sharded(layer.weight)]
    before = [layer.__dict__.get("forward") for layer in layers]
    attention, training = model.config._attn_implementation, model.training
    with torch.no_grad():
        parts = lanes.shares(layers, lanes.count(model))
        products = lanes.each(model, lambda part: [_product(layer, compute) for layer in layers[part]], parts)
        for layer, product in zip(layers, [product for found in products for product in found], strict=True):
            layer.forward = product
    model.config._attn_implementation = _ATTENTION
    model.eval()
    try:
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            del layer.forward
            if own is not None:
                layer.forward = own
        model.config._attn_implementation = attention
        model.train(training)
        if next(model.parameters()).device.type == "cpu":
            lanes.let_go()


@torch.no_grad()
def sample(
    model: Any, prompts: Sequence[Sequence[int]], *, most_tokens: int, temperature: float, ends: Sequence[int]
) -> list[list[int]]:
    """Return the tokens of one answer to each prompt, with the one that ends it if there is one.

    The model must be `prepared`. Nothing but the temperature shapes the distribution.

    Args:
        model: A causal language model of transformers, not wrapped in anything.
        prompts: As tokens; a prompt that is repeated next to itself is computed once.
        most_tokens: Of an answer.
        temperature: Divides the logits; 0 takes the likeliest token each time.
        ends: The tokens that end an answer.
    """
    answers: list[list[int]] = []
    device = next(model.parameters()).device
    together = ROWS_TOGETHER[device.type]
    for start in range(0, len(prompts), together):
        some = prompts[start : start + together]
        # Drawn for every token of every answer, so that one answer does not depend on when others end.
        chances = torch.rand((most_tokens, len(some)), device=device) if temperature > 0 else None

        def decode(part: slice, some: Any = some, chances: Any = chances) -> list[list[int]]:
            drawn = None if chances is None else chances[:, part]
            return _sample(model, some[part], most_tokens, temperature, drawn, ends)

        parts = lanes.count(model) if len(some) >= _ENOUGH_ROWS else 1
        fitting = _fitting(model, max(map(len, some)) + most_tokens)
        for found in lanes.each(model, decode, lanes.shares(some, max(parts, math.ceil(len(some) / fitting)))):
            answers += found
    return answers


def _fitting(model: Any, length: int) -> int:
    """Return how many answers can be decoded together, each as long with its prompt, by the memory that is free."""
    settings = architecture.settings_of(model.config)
    heads = settings.get("num_key_value_heads") or settings["num_attention_heads"]
    size = settings.get("head_dim") or settings["hidden_size"] // settings["num_attention_heads"]
    kept = 2 * settings["num_hidden_layers"] * heads * size * length * model.dtype.itemsize
    rows = _COUNTED_ON * memory.free() / (kept + _OF_A_LOGIT * settings["vocab_size"])
    return memory.at_a_time(max(1, int(min(rows, ROWS_TOGETHER["cuda"]))))


def _sample(
    model: Any,
    prompts: Sequence[Sequence[int]],
    most_tokens: int,
    temperature: float,
    chances: torch.Tensor | None,
    ends: Sequence[int],
) -> list[list[int]]:
    decoder = _Decoder(model, prompts, most_tokens)
    device = decoder.device
    count = len(prompts)
    tokens = torch.full((count, most_tokens), -1, dtype=torch.long, device=device)
    rows = torch.arange(count, device=device)  # of the answers that go on
    ending = torch.tensor(list(ends), device=device)
    # Asking a GPU costs more than some answers that need not go on.
    pause = 1 if device.type == "cpu" else 8
    logits = decoder.logits
    going = torch.ones(count, dtype=torch.bool, device=device)
    for place in range(most_tokens):
        chosen = choose(logits, temperature, None if chances is None else chances[place][rows])
        tokens[rows, place] = torch.where(going, chosen, -1)
        going &= ~torch.isin(chosen, ending)
        if place + 1 == most_tokens:
            break
        if (place + 1) % pause == 0:
            left = int(going.sum())
            if left == 0:
                break
            # Moving the cache costs about as much as a token, so not for every single answer.
            if left <= 0.8 * len(rows):
                kept = going.nonzero()[:, 0]
                decoder.keep(kept)
                rows, chosen, going = rows[kept], chosen[kept], going[kept]
        logits = decoder.step(chosen)
    return [[token for token in row if token >= 0] for row in tokens.tolist()]


def choose(logits: torch.Tensor, temperature: float, chance: torch.Tensor | None) -> torch.Tensor:
    """Return a token for each row of logits: the likeliest, or where the cumulative distribution passes `chance`."""
    if chance is None:
        return logits.argmax(dim=-1)
    weights = torch.softmax(logits.float() / temperature, dim=-1)
    # In blocks, then in the one that is hit: a sum over all entries, one after the other, is slow.
    vocabulary = weights.shape[-1]
    weights = nn.functional.pad(weights, (0, -vocabulary % _BLOCK)).view(len(weights), -1, _BLOCK)
    blocks = weights.sum(dim=-1).cumsum(dim=-1)  # (answers, blocks)
    point = chance[:, None] * blocks[:, -1:]
    block = torch.searchsorted(blocks, point, right=True).clamp(max=blocks.shape[-1] - 1)
    before = torch.where(block > 0, blocks.gather(1, (block - 1).clamp(min=0)), 0.0)
    within = weights.take_along_dim(block[:, :, None], dim=1)[:, 0].cumsum(dim=-1)
    # Rounding may pass the last entry that has any weight.
    last = (within < within[:, -1:]).sum(dim=-1, keepdim=True)
    place = torch.searchsorted(within, point - before, right=True).minimum(last)
    return (block * _BLOCK + place)[:, 0]


@torch.no_grad()
def works(model: Any, compute: torch.dtype, prompts: Sequence[Sequence[int]]) -> bool:
    """Say whether a `prepared` model gives the logits that it gives by itself, on its likeliest answers.

    They must be about as near to those of the model in float32 as its own are in the precision at work; where a model is
    divided over processes, near to its own.

    Args:
        model: A causal language model of transformers, not wrapped in anything.
        compute: Of matrix products.
        prompts: As tokens.
    """
    if not packing.attends_alone(model.base_model):
        return False
    device = next(model.parameters()).device
    training = model.training
    # Of unequal length, one of them twice, with a beginning that all have.
    begins = [*prompts[0]][:_FEWEST_SHARED]
    some = [list(prompt[-_TRIED_TOKENS:]) for prompt in prompts[:_TRIED_PROMPTS]]
    some = [begins + prompt for prompt in (some[0], *some, some[0][-5:], some[0][-7:])]
    answers: list[torch.Tensor] = []
    try:
        with prepared(model, compute):
            decoder = _Decoder(model, some, _TRIED_STEPS)
            found = [decoder.logits]
            for _ in range(_TRIED_STEPS - 1):
                answers.append(found[-1].argmax(dim=-1))
                found.append(decoder.step(answers[-1]))
            decoder.keep(torch.tensor([0, 2], device=device))
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError, KeyError, NotImplementedError):
        return False
    rows = [[*start, *(int(tokens[row]) for tokens in answers)] for row, start in enumerate(some)]

    def own() -> torch.Tensor:
        """Return the model's own logits, (answers, steps, vocabulary)."""
        with_prompt = (model(input_ids=torch.tensor([row], device=device), use_cache=False).logits[0] for row in rows)
        return torch.stack([logits[-_TRIED_STEPS:] for logits in with_prompt])

    model.eval()
    with torch.autocast(device.type, dtype=compute, enabled=compute != torch.float32):
        plain = own()
    lean = torch.stack(found, dim=1)
    if compute == torch.float32 or sharding.has_shards(model):
        good = _kl(plain, lean) <= _SAME_KL[compute]
    else:
        with in_float32(model, device):
            truth = own()
        good = _kl(truth, lean) <= _AS_ROUNDED * _kl(truth, plain)
    model.train(training)
    return bool(good)


def _kl(expected: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """Return the KL between distributions in nats a token, of the answer in which it is largest."""
    expected, found = expected.double().log_softmax(dim=-1), found.double().log_softmax(dim=-1)
    return (expected.exp() * (expected - found)).sum(dim=-1).mean(dim=1).max()


def chosen_engine(
    engine: str, model: Any, compute: torch.dtype, prompts: Sequence[Sequence[int]], *, longest: int
) -> str:
    """Return `lean` or `transformers`: the parameter `rollout_engine`, whose `auto` is `lean` where that `works`.

    Args:
        engine: `auto`, `lean` or `transformers`.
        model: A causal language model of transformers, not wrapped in anything.
        compute: Of matrix products.
        prompts: As tokens; some of them are tried.
        longest: Tokens of the longest prompt and answer together that will come.

    Raises:
        ParameterError: If `lean` is asked for and does not work with this model.
    """
    if engine == "transformers":
        return engine
    if longest <= packing.window(model):
        tried = _tried.setdefault(model, {})
        if compute not in tried:
            tried[compute] = works(model, compute, prompts)
        if tried[compute]:
            return "lean"
    if engine == "lean":
        raise ParameterError(
            "rollout_engine is 'lean', which gives other numbers than the base model's own code. Use 'auto' or "
            "'transformers'."
        )
    step.say(
        "This model's answers are sampled by transformers' own generate, since the faster way cannot run it or gives other "
        "numbers"
    )
    return "transformers"


class _Decoder:
    """Decodes answers to some prompts in step. `logits` predict the first token of each."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], most_tokens: int) -> None:
        self.device = next(model.parameters()).device
        groups = [(list(prompt), len(list(members))) for prompt, members in groupby(map(tuple, prompts))]
        shared, rest = _apart([prompt for prompt, _ in groups])
        begins, longest = len(shared), max(map(len, rest))
        lengths = torch.tensor(list(map(len, rest)), device=self.device)
        input_ids = torch.zeros((len(groups), longest), dtype=torch.long)
        for row, prompt in enumerate(rest):
            input_ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        input_ids = input_ids.to(self.device)
        real = torch.arange(longest, device=self.device) >= (longest - lengths)[:, None]
        counts = [count for _, count in groups]
        which = torch.arange(len(groups), device=self.device).repeat_interleave(
            torch.tensor(counts, device=self.device)
        )
        self._model = model
        room = begins + longest + most_tokens
        self._layers = [_Buffer(len(which), room) for _ in range(model.config.get_text_config().num_hidden_layers)]
        self._cache = Cache(layers=list(self._layers))
        if shared:
            for layer in self._layers:
                layer.fill(slice(None), torch.zeros_like(which))
            first = torch.tensor([list(shared)], device=self.device)
            self._forward(first, torch.arange(begins, device=self.device)[None], None)
            for layer in self._layers:
                layer.filled(begins)
        positions = (begins + real.cumsum(dim=1) - 1).clamp(min=begins)
        padded = bool((lengths < longest).any())
        logits = []
        size = max(1, _PREFILL_TOKENS // longest)
        for start in range(0, len(groups), size):
            part = slice(start, start + size)
            answers = slice(sum(counts[:start]), sum(counts[: start + size]))
            for layer in self._layers:
                layer.fill(answers, which[answers] - start)
            mask = nn.functional.pad(_visible(real[part]), (begins, 0), value=True) if padded or shared else None
            logits.append(self._forward(input_ids[part], positions[part], mask))
        for layer in self._layers:
            layer.filled(begins + longest)
        self.logits = torch.cat(logits)[which]  # (answers, vocabulary)
        self._next = begins + lengths[which]
        self._seen = None
        if padded:
            # Nothing sees the padding before a prompt.
            self._seen = torch.ones((len(which), 1, 1, room), dtype=torch.bool, device=self.device)
            self._seen[:, 0, 0, begins : begins + longest] = real[which]
        self._length = begins + longest

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Add one token to each answer and return the logits of the next, (answers, vocabulary)."""
        self._length += 1
        mask = None if self._seen is None else self._seen[..., : self._length]
        logits = self._forward(tokens[:, None], self._next[:, None], mask)
        self._next = self._next + 1
        return logits

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with these answers alone."""
        for layer in self._layers:
            layer.reorder_cache(rows)
        self._next = self._next[rows]
        if self._seen is not None:
            self._seen = self._seen[rows]

    def _forward(self, input_ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        output = self._model(
            input_ids=input_ids,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits


class _Buffer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's keys and values, with room for whole answers.

    The first to arrive are those of the beginning that all prompts have, then those of the prompts, in pieces.

    Args:
        answers: How many.
        room: Positions of the longest prompt and answer.
    """

    is_sliding = False

    def __init__(self, answers: int, room: int) -> None:
        super().__init__()
        self._answers, self._room, self._length = answers, room, 0
        self._filling: tuple[slice, torch.Tensor] | None = None

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Make room."""
        heads = key_states.shape[1]
        self.keys = key_states.new_empty((self._answers, heads, self._room, key_states.shape[-1]))
        self.values = value_states.new_empty((self._answers, heads, self._room, value_states.shape[-1]))
        self.is_initialized = True

    def fill(self, answers: slice, which: torch.Tensor) -> None:
        """Expect the prompts of some answers next; `which` tells the prompt of each among those to come."""
        self._filling = (answers, which)

    def filled(self, length: int) -> None:
        """Expect what comes after so many positions from now on."""
        self._filling, self._length = None, length

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store what is new and return what there is."""
        end = self._length + key_states.shape[2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self._filling is not None:
            answers, which = self._filling
            self.keys[answers, :, self._length : end] = key_states[which]
            self.values[answers, :, self._length : end] = value_states[which]
            return self._after_beginning(self.keys, key_states), self._after_beginning(self.values, value_states)
        self.keys[:, :, self._length : end] = key_states
        self.values[:, :, self._length : end] = value_states
        self._length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def _after_beginning(self, kept: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        before = kept[:1, :, : self._length].expand(len(new), -1, -1, -1)
        return torch.cat([before, new], dim=2) if self._length else new

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the length of the keys and where they begin."""
        return self._length + query_length, 0

    def get_seq_length(self) -> int:
        """Return how many positions are stored."""
        return self._length

    def get_max_length(self) -> int:
        """Return how many there is room for."""
        return self._room


def _apart(prompts: Sequence[Sequence[int]]) -> packing.Group:
    """Divide prompts into the beginning that all have and the rest of each, where they are enough for it to pay."""
    shared, rest = packing.share_beginning(prompts)
    return (shared, rest) if len(prompts) >= _FEWEST_PROMPTS and len(shared) >= _FEWEST_SHARED else ([], prompts)


def _visible(real: torch.Tensor) -> torch.Tensor:
    """Return which positions each position of left-padded prompts sees, (prompts, 1, length, length)."""
    length = real.shape[1]
    causal = torch.ones((length, length), dtype=torch.bool, device=real.device).tril()
    own = torch.eye(length, dtype=torch.bool, device=real.device)
    return ((causal & real[:, None, :]) | own)[:, None]


def _attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention for transformers' `AttentionInterface`: many positions of prompts, or one of each answer."""
    batch, heads, length, size = query.shape
    scale = size**-0.5 if scaling is None else scaling
    query, key = query.to(value.dtype), key.to(value.dtype)
    if length > 1 and softcap is None:
        # Repeated, since torch's fused kernels take no mask together with its option for grouped heads.
        repeats = heads // key.shape[1]
        mixed = nn.functional.scaled_dot_product_attention(
            query,
            key.repeat_interleave(repeats, dim=1) if repeats > 1 else key,
            value.repeat_interleave(repeats, dim=1) if repeats > 1 else value,
            attn_mask=attention_mask,
            is_causal=attention_mask is None,
            scale=scale,
        )
        return mixed.transpose(1, 2), None
    # (batch, key heads, heads of each x length, size): each group of heads reads its keys and values once.
    grouped = query.reshape(batch, key.shape[1], -1, size)
    if softcap is None:
        mixed = nn.functional.scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scale)
        return mixed.reshape(batch, heads, length, size).transpose(1, 2), None
    scores = torch.tanh((grouped @ key.transpose(2, 3)).float() * scale / softcap) * softcap
    scores = scores.view(batch, heads, length, -1)
    if length > 1:
        causal = torch.ones((length, length), dtype=torch.bool, device=query.device).tril()
        scores = scores.masked_fill(~(causal if attention_mask is None else attention_mask), -torch.inf)
    elif attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, -torch.inf)
    mixed = scores.softmax(dim=-1).to(value.dtype).view(*grouped.shape[:3], -1) @ value
    return mixed.reshape(batch, heads, length, size).transpose(1, 2), None


AttentionInterface.register(_ATTENTION, _attend)


def _product(layer: Any, compute: torch.dtype) -> Callable[..., torch.Tensor]:
    """Return what a linear layer does, with its adapter merged into a copy of its weight."""
    adapters = linear.active_adapters(layer)
    base = layer if isinstance(layer, nn.Linear) else layer.get_base_layer()
    weight, bias = base.weight, base.bias
    if adapters:
        # Added before rounding: small changes would be lost one by one.
        weight = weight.to(torch.float32, copy=True)
        for name in adapters:
            b, a = layer.lora_B[name].weight, layer.lora_A[name].weight
            weight.addmm_(b.float(), a.float(), alpha=float(layer.scaling[name]))
    weight = weight.to(compute)
    bias = None if bias is None else bias.to(compute)
    if weight.device.type != "cpu" or not processor.has_onednn(compute):
        return lambda input, *rest: nn.functional.linear(input.to(compute), weight, bias)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, 16)
    multiply = torch.ops.mkldnn._linear_pointwise
    return lambda input, *rest: multiply(input.to(compute), packed, bias, "none", [], "")
