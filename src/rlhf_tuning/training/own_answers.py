"""What a model that learns would say now: its answers to some prompts, and how far from the base model they show it."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from rlhf_tuning import environment
from rlhf_tuning.evaluation.evaluate import answer_log_probabilities
from rlhf_tuning.generation import generate
from rlhf_tuning.models import base_model
from rlhf_tuning.models.text_format import Conversation, TextFormat
from rlhf_tuning.ops import linear


def own_answers(
    policy: Any, text_format: TextFormat, conversations: Sequence[Conversation], *, temperature: float, seed: int
) -> list[generate.Answer]:
    """Return an answer to each prompt, with random numbers of this process's own that leave torch's as they were.

    Args:
        policy: The model that learns, with its adapter or without one.
        text_format: Of prompts and answers.
        conversations: The prompts.
        temperature: Of the samples.
        seed: Of the samples: the same ones each time, of a model that has not changed.
    """
    return generate.generate_answers(
        base_model.causal_lm(policy),
        text_format,
        conversations,
        temperature=temperature,
        batch_size=generate.TOGETHER[base_model.device().type],
        seed=seed + environment.process_index(),
    )


def kl_to_reference(
    policy: Any,
    reference: Any,
    text_format: TextFormat,
    conversations: Sequence[Conversation],
    answers: Sequence[Sequence[int]],
    *,
    temperature: float,
) -> list[float] | None:
    """Return an estimate of the KL to the reference by each of the policy's own answers, in nats over the answer.

    Args:
        policy: The model that learns.
        reference: A copy of the base model; None where it is the policy without its adapter, or there is none at all.
        text_format: Of prompts and answers.
        conversations: The prompts.
        answers: As tokens.
        temperature: At which they were sampled.
    """
    model = base_model.causal_lm(policy)
    without_adapter = model is not policy
    if reference is None and not without_adapter:
        return None
    prompts = [text_format.prompt_ids(conversation) for conversation in conversations]
    training = policy.training
    policy.eval()
    ours = answer_log_probabilities(model, prompts, answers, temperature=temperature)
    with linear.without_adapters(policy) if without_adapter else nullcontext():
        base = model if without_adapter else reference
        theirs = answer_log_probabilities(base, prompts, answers, temperature=temperature)
    policy.train(training)
    return [mine - other for mine, other in zip(ours, theirs, strict=True)]
