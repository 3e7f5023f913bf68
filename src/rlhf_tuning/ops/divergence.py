"""How far a student's distribution is from a teacher's at every token of an answer: KL(student || teacher), the reverse KL.

It is exact at its place, a sum over the vocabulary and not over samples, by TRL's function, which never holds the logits of
the whole vocabulary and works them out anew in the backward pass. The gradient is the student's alone. Where logits are not
the output head's (`log_probabilities.head_scale`) they are asked of the models themselves.

Models of one family have the same tokens and often heads of different sizes, padded for the hardware: what both have counts.
"""

from collections.abc import Sequence
from typing import Any

import torch

from rlhf_tuning.ops import lanes, packing
from rlhf_tuning.ops.log_probabilities import HEAD_POSITIONS, Answers, head_cap, head_scale, pack


def reverse_kl(
    student: Any, teacher: Any, answers: Answers, *, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the KL in nats at every token of every answer and the student's entropy there, 0 after an answer's end.

    Args:
        student: A causal language model of transformers, not wrapped in anything.
        teacher: Likewise, with the same tokens.
        answers: What `log_probabilities.pack` returned.
        temperature: Divides the logits of both.

    Returns:
        Both (answers, longest).
    """
    scales = [head_scale(model) for model in (student, teacher)]
    of = _of_logits if None in scales else _of_heads
    kl, entropy = of(student, teacher, answers, temperature)
    size = answers.shape[0] * answers.shape[1]
    spread = [values.new_zeros(size).index_put((answers.places,), values) for values in (kl, entropy)]
    return spread[0].view(answers.shape), spread[1].view(answers.shape).detach()


def of_parts(
    student: Any, teacher: Any, parts: Sequence[Answers], *, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what `reverse_kl` does, for the answers of several packs of one width, computed side by side."""
    both = lanes.with_gradients(
        student, lambda part: torch.stack(reverse_kl(student, teacher, part, temperature=temperature)), parts
    )
    kl, entropy = torch.cat(both, dim=1)
    return kl, entropy.detach()


@torch.no_grad()
def of_answers(
    student: Any,
    teacher: Any,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    *,
    temperature: float,
    batch_size: int,
) -> list[float]:
    """Return the KL of each answer in nats, summed over its tokens.

    Args:
        student: As for `reverse_kl`.
        teacher: Likewise.
        prompts: One for each answer, as tokens.
        answers: As tokens.
        temperature: Divides the logits of both.
        batch_size: Answers at a time.
    """
    order = sorted(range(len(prompts)), key=lambda row: -len(prompts[row]) - len(answers[row]))
    found: dict[int, float] = {}
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        packed = pack(
            [prompts[row] for row in batch], [answers[row] for row in batch], device=student.device, share=False
        )
        kl, _ = reverse_kl(student, teacher, packed, temperature=temperature)
        found |= zip(batch, kl.sum(dim=1).tolist(), strict=True)
    return [found[row] for row in range(len(prompts))]


def _of_heads(student: Any, teacher: Any, answers: Answers, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return KL and entropy at every place, (tokens,)."""
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    heads = [model.get_output_embeddings() for model in (student, teacher)]
    shared = min(len(head.weight) for head in heads)
    with torch.no_grad():  # first, while nothing is kept for a backward pass
        theirs = _hidden(teacher, answers)
    ours = _hidden(student, answers)
    projections = [(head.weight[:shared], None if head.bias is None else head.bias[:shared]) for head in heads]
    squeezed = [value for model in (student, teacher) for value in (head_scale(model), head_cap(model))]
    # Compiled kernels on a GPU need no more than one tile; a CPU makes several copies of it.
    size = HEAD_POSITIONS if ours.device.type == "cpu" else max(1, len(ours))
    parts = [
        ChunkedDivergenceFunction.apply(
            ours[start : start + size],
            *projections[0],
            theirs[start : start + size],
            *projections[1],
            1.0,  # the reverse KL
            temperature,
            *squeezed,
        )
        for start in range(0, len(ours), size)
    ]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _of_logits(student: Any, teacher: Any, answers: Answers, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Do as `_of_heads` with the logits that the models give themselves."""
    with torch.no_grad():
        theirs = _logits(teacher, answers)
    ours = _logits(student, answers)
    shared = min(ours.shape[1], theirs.shape[1])
    logs, others = ((logits[:, :shared] / temperature).float().log_softmax(dim=1) for logits in (ours, theirs))
    chances = logs.exp()
    return (chances * (logs - others)).sum(dim=1), -torch.linalg.vecdot(chances, logs)


def _hidden(model: Any, answers: Answers) -> torch.Tensor:
    """Return the hidden states that predict the answers' tokens, (tokens, d)."""
    return packing.hidden_states(model.base_model, *_inputs(model, answers)).flatten(0, 1)[answers.predictors]


def _logits(model: Any, answers: Answers) -> torch.Tensor:
    logits: torch.Tensor = model(**packing.inputs(model, *_inputs(model, answers))).logits
    return logits.flatten(0, 1)[answers.predictors]


def _inputs(model: Any, answers: Answers) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    # Of a student with the larger head, a token that is none may come by chance: one in some millions.
    most = model.get_input_embeddings().num_embeddings - 1
    return answers.input_ids.clamp(max=most), answers.position_ids, answers.owners
