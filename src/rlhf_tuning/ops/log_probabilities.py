"""Log-probabilities of answers, with a prompt computed once for all its answers.

Stock layout: a row for each answer, its prompt before it. Here: a row for each prompt, all its answers after it; a 4-D
attention mask lets every answer see the prompt and itself alone, and positions restart after the prompt. The numbers are
the same; the prompt's share of the work is done once instead of k times. The output head is applied where a token of an
answer is predicted and nowhere else: by TRL's function, which never holds the logits of the whole vocabulary and works them
out anew in the backward pass; on a CPU, where that is slow, a few positions at a time by `_HeadOnCpu`, which keeps their
probabilities for the backward pass.

Where a model cannot share a prompt (`packing.is_exact`) each answer has one of its own. Where its logits are not the output
head's, but for a scale and a cap that its config names (`head_scale` compares), they are asked of the model itself, which
takes the memory of the whole vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from rlhf_tuning.ops import lanes, linear, packing

#: Positions that the output head takes at a time on a CPU: with 50,000 tokens in the vocabulary some 100 MB.
HEAD_POSITIONS = 256

#: Bytes of probabilities that a backward pass on a CPU may wait for.
_MOST_KEPT = 200_000_000

#: Positions whose softmax is worked out at a time on a CPU, so that what is between stays in its caches.
_CACHED_POSITIONS = 16

#: Vocabulary entries at a time, as TRL has it.
_HEAD_TOKENS = 32_768

#: How configs call what logits are multiplied by, or divided.
_SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier")

#: By how much of their spread logits may differ from the model's own, which come from the same hidden states.
_SAME_LOGITS = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 2e-2}

#: What the head's products are multiplied by to be a model's logits; None where that is not all.
_scales: WeakKeyDictionary[nn.Module, float | None] = WeakKeyDictionary()


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Answers to some prompts, packed into one row for each prompt.

    Args:
        input_ids: Prompt, then its answers; padded on the right. (prompts, length)
        position_ids: Restarting after the prompt for each answer. (prompts, length)
        owners: As of `packing.Packed`. (prompts, length)
        predictors: Index into the flattened (prompts x length) of the position that predicts each answer's token.
        targets: That token.
        places: Index into the flattened (answers x longest answer) of that token.
        shape: (answers, longest answer)
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    owners: torch.Tensor | None
    predictors: torch.Tensor
    targets: torch.Tensor
    places: torch.Tensor
    shape: tuple[int, int]


def pack(
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    *,
    device: torch.device,
    width: int | None = None,
    share: bool = True,
) -> Answers:
    """Pack answers; those with the same prompt that stand next to each other share it.

    Args:
        prompts: One for each answer, as tokens; none is empty.
        answers: As tokens.
        device: Where the tensors go.
        width: Columns of what `log_probabilities` returns; by default as many as the longest answer has tokens.
        share: False gives every answer a prompt of its own, which every model can do.
    """
    width = max((len(answer) for answer in answers), default=0) if width is None else width
    alike = groupby(range(len(prompts)), key=lambda row: tuple(prompts[row]) if share else row)
    groups = [list(members) for _, members in alike]
    packed = packing.pack([(prompts[rows[0]], [answers[row] for row in rows]) for rows in groups])
    length = packed.input_ids.shape[1]
    predictors: list[int] = []
    targets: list[int] = []
    places: list[int] = []
    for row, (start, end) in enumerate(packed.answers.tolist()):
        if start < end:
            # The prompt's last token predicts the first of every answer.
            predictors += [start // length * length + len(prompts[row]) - 1, *range(start, end - 1)]
            targets += answers[row]
            places += range(row * width, row * width + end - start)
    return Answers(
        input_ids=packed.input_ids.to(device),
        position_ids=packed.position_ids.to(device),
        owners=None if packed.owners is None else packed.owners.to(device),
        predictors=torch.tensor(predictors, dtype=torch.long, device=device),
        targets=torch.tensor(targets, dtype=torch.long, device=device),
        places=torch.tensor(places, dtype=torch.long, device=device),
        shape=(len(answers), width),
    )


def pack_apart(
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    *,
    device: torch.device,
    width: int,
    several: bool = True,
) -> Answers:
    """Pack examples, each a prompt with an answer that sees nothing of the others, into few rows.

    A row is as long as the longest example: a longer one would save no padding, and attention over it would cost more.

    Args:
        prompts: One for each answer, as tokens; none is empty.
        answers: As tokens.
        device: Where the tensors go.
        width: Columns of what `log_probabilities` returns.
        several: False gives every example a row of its own, which every model can do.
    """
    sizes = [len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True)]
    rows = _first_fit(sizes) if several else [[example] for example in range(len(sizes))]
    packed = packing.pack([([], [[*prompts[example], *answers[example]] for example in row]) for row in rows])
    predictors: list[int] = []
    targets: list[int] = []
    places: list[int] = []
    for example, (start, end) in zip(
        (example for row in rows for example in row), packed.answers.tolist(), strict=True
    ):
        predictors += range(start + len(prompts[example]) - 1, end - 1)
        targets += answers[example]
        places += range(example * width, example * width + len(answers[example]))
    return Answers(
        input_ids=packed.input_ids.to(device),
        position_ids=packed.position_ids.to(device),
        owners=None if packed.owners is None else packed.owners.to(device),
        predictors=torch.tensor(predictors, dtype=torch.long, device=device),
        targets=torch.tensor(targets, dtype=torch.long, device=device),
        places=torch.tensor(places, dtype=torch.long, device=device),
        shape=(len(answers), width),
    )


def pack_in_parts(
    model: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], *, several: bool
) -> tuple[list[Answers], torch.Tensor]:
    """Do as `pack_apart`, in as many parts of about equal size as are computed side by side while a model learns.

    Returns:
        The parts, and where among the answers of all of them, one part after the other, each answer is.
    """
    device = next(model.parameters()).device
    together = lanes.count(model) if lanes.learns_side_by_side(model) else 1
    sizes = [len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True)]
    shares = lanes.even_shares(sizes, together)
    parts = [
        pack_apart(
            [prompts[example] for example in share],
            [answers[example] for example in share],
            device=device,
            width=max(map(len, answers)),
            several=several,
        )
        for share in shares
    ]
    return parts, torch.tensor([example for share in shares for example in share], device=device).argsort()


def _first_fit(sizes: Sequence[int]) -> list[list[int]]:
    """Divide examples into rows no longer than the longest of them: the long ones first, each where it fits first."""
    rows: list[list[int]] = []
    room: list[int] = []
    for example in sorted(range(len(sizes)), key=lambda example: -sizes[example]):
        place = next((row for row, left in enumerate(room) if sizes[example] <= left), len(rows))
        if place == len(rows):
            rows.append([])
            room.append(max(sizes))
        rows[place].append(example)
        room[place] -= sizes[example]
    return rows


def log_probabilities(
    model: Any, answers: Answers, *, temperature: float, begun: packing.Begun | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log p of every token of every answer and the entropy there, both (answers, longest), 0 after an answer's end.

    Args:
        model: A causal language model of transformers, not wrapped in anything.
        answers: What `pack` returned.
        temperature: Divides the logits.
        begun: What all prompts go on from; None where they begin by themselves.
    """
    scale = head_scale(model)
    tensors = (answers.input_ids, answers.position_ids, answers.owners)
    if scale is None:
        given = begun.inputs if begun else packing.inputs
        logits = model(**given(model, *tensors)).logits.flatten(0, 1)[answers.predictors]
        found = _of_logits(logits / temperature, answers.targets)
    else:
        hidden = packing.hidden_states(model.base_model, *tensors, begun).flatten(0, 1)[
            answers.predictors
        ]  # (tokens, d)
        found = _head(model, hidden, answers.targets, temperature=temperature, scale=scale)
    size = answers.shape[0] * answers.shape[1]
    spread = [values.new_zeros(size).index_put((answers.places,), values).view(answers.shape) for values in found]
    return spread[0], spread[1].detach()


def of_parts(model: Any, parts: Sequence[Answers], *, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what `log_probabilities` does, for the answers of several packs of one width, computed side by side."""
    both = lanes.with_gradients(
        model, lambda part: torch.stack(log_probabilities(model, part, temperature=temperature)), parts
    )
    log_policy, entropy = torch.cat(both, dim=1)
    return log_policy, entropy.detach()


@torch.no_grad()
def head_scale(model: Any) -> float | None:
    """Return what a model multiplies its head's products by; None where its logits are something else."""
    if model not in _scales:
        settings = model.config.get_text_config().to_dict()
        some = torch.arange(1, 13, device=model.device)[None] % settings["vocab_size"]
        head, cap = model.get_output_embeddings(), head_cap(model)
        found = None
        if type(head) is nn.Linear:  # and no adapter
            own = model(input_ids=some, use_cache=False).logits.float()
            products = head(model.base_model(input_ids=some, use_cache=False).last_hidden_state)
            named = [settings[name] for name in _SCALES if isinstance(settings.get(name), int | float)]
            scales = (1.0, *(scale for value in named if value for scale in (float(value), 1 / value)))
            most = _SAME_LOGITS[products.dtype] * own.std()
            found = next((scale for scale in scales if _capped(products.float() * scale, cap, own, most)), None)
        _scales[model] = found
    return _scales[model]


def head_cap(model: Any) -> float | None:
    """Return what a model's logits come close to and do not exceed; None where they are not held in."""
    # Few configs have this; as a dict, which would tell, the whole config is copied.
    return getattr(model.config.get_text_config(), "final_logit_softcapping", None)


def _capped(logits: torch.Tensor, cap: float | None, own: torch.Tensor, most: torch.Tensor) -> bool:
    return bool(((logits if cap is None else cap * torch.tanh(logits / cap)) - own).square().mean().sqrt() <= most)


def _of_logits(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-probability of each target and the entropy, float32."""
    logs = logits.float().log_softmax(dim=-1)
    return logs.gather(1, targets[:, None])[:, 0], -torch.linalg.vecdot(logs.exp(), logs)


def _head(
    model: Any, hidden: torch.Tensor, targets: torch.Tensor, *, temperature: float, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-probability of each target and the entropy, float32, from the hidden states that predict them."""
    from trl.kernels import ChunkedLogProbFunction

    head = model.get_output_embeddings()
    softcap = head_cap(model)
    on_cpu = hidden.device.type == "cpu"
    plain = head.bias is None and softcap is None and not head.weight.requires_grad
    kept = len(targets) * len(head.weight) * head.weight.element_size() if torch.is_grad_enabled() else 0
    # Compiled kernels on a GPU need no more than one tile; a CPU makes several copies of it.
    size = HEAD_POSITIONS if on_cpu else max(1, len(targets))
    parts = []
    for start in range(0, len(targets), size):
        some, wanted = hidden[start : start + size], targets[start : start + size]
        if on_cpu and plain and kept <= _MOST_KEPT:
            part = _HeadOnCpu.apply(some, head.weight, wanted, temperature / scale)  # type: ignore[no-untyped-call]
        else:
            part = ChunkedLogProbFunction.apply(
                some,
                head.weight,
                head.bias,
                wanted,
                temperature,
                _HEAD_TOKENS,
                softcap,
                scale,
                ("log_probs", "entropy"),
            )
        parts.append(part)
    if not parts:
        nothing = hidden.new_zeros(0, dtype=torch.float32)
        return nothing, nothing
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


class _HeadOnCpu(torch.autograd.Function):
    """Log-probability and entropy behind an output head that does not learn. The entropy has no gradient."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast("cpu", enabled=False):
            logits = linear.multiply(hidden.to(weight.dtype), weight)  # (positions, vocabulary)
            found, entropies = [], []
            for start in range(0, len(targets), _CACHED_POSITIONS):
                rows = slice(start, start + _CACHED_POSITIONS)
                scaled = logits[rows].float()
                logs = (scaled if temperature == 1.0 else scaled.div_(temperature)).log_softmax(dim=-1)
                chances = logs.exp()
                found.append(logs.gather(1, targets[rows, None])[:, 0])
                entropies.append(-torch.linalg.vecdot(chances, logs))
                logits[rows] = chances
        ctx.save_for_backward(logits, weight, targets)
        ctx.temperature, ctx.dtype = temperature, hidden.dtype
        entropy = torch.cat(entropies)
        ctx.mark_non_differentiable(entropy)
        return torch.cat(found), entropy

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        chances, weight, targets = ctx.saved_tensors
        wanted = gradients[0].to(chances.dtype)[:, None] / ctx.temperature
        # The logits' gradient is (one-hot - chances) x wanted. One product over the whole vocabulary, summed in float32.
        of_logits = (chances * -wanted).scatter_add_(1, targets[:, None], wanted)
        return linear.multiply(of_logits, weight.t()).to(ctx.dtype), None, None, None
