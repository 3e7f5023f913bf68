"""Answers from a causal language model: in batches for evaluation and bulk inference, and one at a time for a person."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import GenerationConfig

from rlhf_tuning import registry
from rlhf_tuning.distributed import sharding
from rlhf_tuning.generation import rollout
from rlhf_tuning.limits import check_limits
from rlhf_tuning.models import base_model
from rlhf_tuning.models.text_format import Conversation, TextFormat, instructed
from rlhf_tuning.models.tokenizer import load_tokenizer
from rlhf_tuning.ops import packing
from rlhf_tuning.ops.padding import left_padded

#: Prompts answered together beside training, such as by the watch. A GPU has less memory beside what is trained.
TOGETHER = {"cpu": 64, "cuda": 32}

#: Whether a model `_keeps_apart` what it is asked at once, so that nothing is tried twice.
_apart: WeakKeyDictionary[torch.nn.Module, bool] = WeakKeyDictionary()


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One generated answer. `tokens` counts the end-of-sequence token; `ended` says whether there was one."""

    text: str
    tokens: int
    ended: bool
    ids: tuple[int, ...]


def batches_of(rows: Sequence[int], most: int) -> list[Sequence[int]]:
    """Divide rows into as few batches of at most `most` as there must be, of about equal size.

    A small one at the end would take nearly as long as a full one.
    """
    count = -(-len(rows) // most)
    return [rows[len(rows) * place // count : len(rows) * (place + 1) // count] for place in range(count)]


def end_token_ids(generation_config: GenerationConfig, tokenizer: Any) -> list[int]:
    """Return every token that ends an answer: the tokenizer's, and those that the model itself names."""
    named = generation_config.eos_token_id
    ids = [named] if isinstance(named, int) else list(named or [])
    return sorted({tokenizer.eos_token_id, *ids})


def generate_answers(
    model: Any,
    text_format: TextFormat,
    conversations: Sequence[Conversation],
    *,
    temperature: float,
    batch_size: int,
    seed: int,
    on_progress: Callable[[int], None] = lambda done: None,
    adapter: AbstractContextManager[None] | None = None,
    rollout_engine: str = "auto",
) -> list[Answer]:
    """Sample one answer to each conversation; temperature 0 takes the likeliest token each time.

    Batches hold prompts of similar length, longest first, so that little is padded and running out of memory shows
    at once. The same model, prompts, batch size and seed give the same answers. Nothing but the temperature shapes the
    distribution (no top-k, top-p or repetition penalty), so that KL can be read off these samples.

    Args:
        model: A causal language model on its device.
        text_format: Renders the prompts; its `target_sequence_length` bounds the answers.
        conversations: The prompts.
        temperature: Divides the logits.
        batch_size: Most prompts of a batch.
        seed: Of the samples.
        on_progress: Called with the number of answers finished.
        adapter: Entered around generation, to switch adapters.
        rollout_engine: What samples the answers, see `rollout.chosen_engine`.
    """
    prompts = [text_format.prompt_ids(conversation) for conversation in conversations]
    order = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]), index))
    ends = end_token_ids(model.generation_config, text_format.tokenizer)
    answers: dict[int, Answer] = {}
    inner = base_model.causal_lm(model)
    with base_model.fork_random_numbers(), torch.no_grad(), adapter or nullcontext(), sharding.in_step(inner):
        torch.manual_seed(seed)
        longest = max(map(len, prompts), default=0) + text_format.target_sequence_length
        compute = sharding.products(inner)
        if prompts and rollout.chosen_engine(rollout_engine, inner, compute, prompts, longest=longest) == "lean":
            fast: AbstractContextManager[None] = rollout.prepared(inner, compute)
            sample = partial(rollout.sample, inner)
        else:
            fast, sample = nullcontext(), partial(by_transformers, model, pad_id=text_format.tokenizer.pad_token_id)
        with fast:
            for rows in batches_of(order, batch_size):
                found = sample(
                    [prompts[row] for row in rows],
                    most_tokens=text_format.target_sequence_length,
                    temperature=temperature,
                    ends=ends,
                )
                for row, ids in zip(rows, found, strict=True):
                    answers[row] = answer_of(ids, ends, text_format)
                on_progress(len(answers))
    return [answers[row] for row in range(len(prompts))]


def by_engine(
    engine: str,
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    compute: torch.dtype,
    pad_id: int,
    most_tokens: int,
    temperature: float,
    ends: Sequence[int],
) -> list[list[int]]:
    """Return the tokens of one answer to each prompt, by a model that learns.

    Args:
        engine: From `rollout.chosen_engine`.
        model: A causal language model of transformers, not wrapped in anything.
        prompts: Like the rest, as for `by_transformers`.
        compute: Of matrix products.
    """
    with sharding.in_step(model):
        if engine == "lean":
            with rollout.prepared(model, compute):
                return rollout.sample(model, prompts, most_tokens=most_tokens, temperature=temperature, ends=ends)
        with torch.autocast(model.device.type, dtype=compute, enabled=compute != torch.float32):
            return by_transformers(
                model, prompts, pad_id=pad_id, most_tokens=most_tokens, temperature=temperature, ends=ends
            )


def by_transformers(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    pad_id: int,
    most_tokens: int,
    temperature: float,
    ends: Sequence[int],
) -> list[list[int]]:
    """Do what `rollout.sample` does by transformers' `generate`.

    Prompts are padded where attention alone mixes positions. Other layers may let the padding in, so there those of one
    length go together, if their states keep apart.

    Args:
        model: A causal language model of transformers, which may be a PeftModel.
        prompts: As tokens.
        pad_id: What pads them.
        most_tokens: Of an answer.
        temperature: Divides the logits; 0 takes the likeliest token each time.
        ends: Tokens that end an answer.
    """
    config = GenerationConfig(
        max_new_tokens=most_tokens,
        do_sample=temperature > 0,
        temperature=temperature if temperature > 0 else None,
        top_k=0 if temperature > 0 else None,
        top_p=1.0 if temperature > 0 else None,
        eos_token_id=list(ends),
        pad_token_id=pad_id,
    )
    inner = base_model.causal_lm(model)
    training = model.training
    model.eval()

    def answer(rows: Sequence[Sequence[int]]) -> list[list[int]]:
        inputs = left_padded(rows, pad_id, next(model.parameters()).device)
        output = _without_shaping(model).generate(**inputs, generation_config=config)
        return [_until_end(ids, ends) for ids in output[:, inputs["input_ids"].shape[1] :].tolist()]

    alike: dict[int, list[int]] = {}
    for row, prompt in enumerate(prompts):
        if packing.attends_alone(inner.base_model):
            alike.setdefault(0, []).append(row)
        else:
            alike.setdefault(len(prompt) if _keeps_apart(inner) else -row, []).append(row)
    answers: dict[int, list[int]] = {}
    for rows in alike.values():
        answers.update(zip(rows, answer([prompts[row] for row in rows]), strict=True))
    model.train(training)
    return [answers[row] for row in range(len(prompts))]


def _keeps_apart(model: Any) -> bool:
    """Say whether a model with a state answers several prompts at once as each alone. transformers' RWKV does not."""
    if model not in _apart:
        vocabulary = model.config.get_text_config().vocab_size
        some = torch.arange(3, 35, device=next(model.parameters()).device).view(4, 8) % vocabulary
        config = GenerationConfig(max_new_tokens=8, do_sample=False, eos_token_id=[], pad_token_id=0)
        settings = {"generation_config": config, "attention_mask": torch.ones_like(some)}
        together = _without_shaping(model).generate(some, **settings)
        settings["attention_mask"] = settings["attention_mask"][:1]
        alone = [_without_shaping(model).generate(row[None], **settings)[0] for row in some]
        _apart[model] = torch.equal(together, torch.stack(alone))
    return _apart[model]


def _without_shaping(model: Any) -> Any:
    """Drop sampling habits that a hub model ships with, which `generate` would otherwise mix into ours."""
    own = model.generation_config
    model.generation_config = GenerationConfig(
        bos_token_id=own.bos_token_id, eos_token_id=own.eos_token_id, pad_token_id=own.pad_token_id
    )
    return model


def answer_of(ids: list[int], ends: Sequence[int], text_format: TextFormat) -> Answer:
    """Return what was sampled as an answer, which ends with the first of the `ends`."""
    ids = _until_end(ids, ends)
    ended = bool(ids) and ids[-1] in ends
    text = text_format.answer_text(ids[:-1] if ended else ids)
    return Answer(text=text, tokens=len(ids), ended=ended, ids=tuple(ids))


def _until_end(ids: list[int], ends: Sequence[int]) -> list[int]:
    """Return an answer with the token that ends it and without what comes after."""
    end = next((place for place, token in enumerate(ids) if token in ends), len(ids))
    return ids[: end + 1]


def predict(
    model: str,
    prompt: str,
    *,
    registry_dir: Path | None = None,
    target_sequence_length: int = 128,
    temperature: float = 0.0,
    seed: int = 0,
) -> str:
    """Return a registered model's answer to one prompt, rendered just as in training.

    Args:
        model: `NAME`, `NAME@alias` or `NAME@version` in the local registry, or a folder (see `registry.named_model`).
        prompt: What to ask. The instruction that the model was tuned with is put where it stood in training.
        registry_dir: Where the registry lives; its default place when None.
        target_sequence_length: Most tokens of the answer.
        temperature: 0 takes the likeliest token each time.
        seed: Of the sample, where the temperature is above 0.

    Raises:
        ModelError: If the registry has no such model.
    """
    check_limits(target_sequence_length=target_sequence_length, seed=seed, temperature=temperature)
    named = registry.named_model(model, registry_dir)
    reference = str(named.folder)
    tokenizer = load_tokenizer(reference)
    text_format = TextFormat(
        tokenizer,
        prompt_sequence_length=8192,
        target_sequence_length=target_sequence_length,
    )
    network = base_model.load_causal_lm(reference, dtype=base_model.choose_dtype("auto"))
    conversation = instructed(prompt, named.parameters)
    (answer,) = generate_answers(network, text_format, [conversation], temperature=temperature, batch_size=1, seed=seed)
    return answer.text
