"""Supervised tuning: learn to answer as demonstrations do.

The loss is the negative log-probability of the answers' tokens, over all tokens of a step's answers, by TRL's SFTTrainer;
prompts are not learnt. Text is encoded by `text_format` and reaches the trainer as token ids; an answer that is cut off is
learnt without its end. See `answer_trainer` for the layout, `held_out_loss` for when it stops and what it returns.

In several processes (see `processes`) each learns from its share of a step's demonstrations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Unpack

import torch

from rlhf_tuning.data.importer import sample_canonical, sample_unasked
from rlhf_tuning.distributed import processes
from rlhf_tuning.errors import DataError
from rlhf_tuning.models.text_format import TextFormat
from rlhf_tuning.statistics import MeanEstimate
from rlhf_tuning.training.given_answers import log_probabilities_of
from rlhf_tuning.training.held_out_loss import of_answers
from rlhf_tuning.training.trainer_settings import MOST_SPARE_ROWS, step_order
from rlhf_tuning.training.tuning import HandedOn, Tuning, TuningConfig, most_measured

#: Examples that one forward and backward pass holds at most on a CPU.
_TOGETHER = 8
#: So many looks in a row without a lower held-out loss end the training.
_PATIENCE = 3


@dataclass(frozen=True, kw_only=True)
class SupervisedConfig(TuningConfig):
    """Settings of supervised tuning beside those that every method has.

    `lora_dim` 0 means full fine-tuning. Every `evaluation_interval` steps the loss on held-out demonstrations is measured.
    """

    RANK = "lora_dim"
    BASE_LEARNING_RATE = 2e-4
    FULL_BASE_LEARNING_RATE = 1e-5

    train_steps: int = 300
    evaluation_interval: int = 20
    lora_dim: int = 16


def train_supervised(
    config: SupervisedConfig,
    *,
    demonstrations_path: str,
    eval_demonstrations_path: str,
    evaluation_prompts_path: str = "",
    **handed_on: Unpack[HandedOn],
) -> dict[str, float]:
    """Tune a model on demonstrations for exactly `train_steps` steps, unless it learns nothing more, and save it.

    Args:
        config: The settings.
        demonstrations_path: Canonical demonstrations to learn from.
        eval_demonstrations_path: Canonical demonstrations to measure on, none of them learnt from.
        evaluation_prompts_path: Prompts on which answers will be compared: where others are enough, they have no say in
            which checkpoint it is. Empty for none.
        **handed_on: To `Tuning`.

    Returns:
        The held-out loss and perplexity before and after, the training loss, and the steps that were taken.

    Raises:
        ParameterError: If the processes cannot share a batch evenly, or the loss is not finite.
        DataError: If there is no demonstration.
        ModelError: If the base model cannot be loaded.
        RunError: If the training ends early and nothing of ours ended it.
    """
    from trl import SFTConfig

    from rlhf_tuning.training.answer_trainer import AnswerTrainer

    tuning = Tuning(
        config,
        method="supervised",
        inputs=(demonstrations_path, eval_demonstrations_path, evaluation_prompts_path),
        **handed_on,
    )

    # 1. Encode the demonstrations.
    most = max(config.train_steps * config.batch_size, MOST_SPARE_ROWS)
    learnt = _encoded(sample_canonical(demonstrations_path, most=most, seed=config.seed), tuning.text_format)
    most = most_measured(config.evaluation_interval * config.batch_size)
    held_out, judged = sample_unasked(eval_demonstrations_path, evaluation_prompts_path, most=most, seed=config.seed)
    measured = _encoded(held_out, tuning.text_format)
    for path, examples in ((demonstrations_path, learnt), (eval_demonstrations_path, measured)):
        if not examples:
            raise DataError(f"{path} holds no demonstration.")
    rows = [
        {"input_ids": [*prompt, *answer], "labels": [-100] * len(prompt) + list(answer)} for prompt, answer in learnt
    ]
    lengths = [len(row["input_ids"]) for row in rows]

    # 2. Load the model.
    tuning.load()

    # 3. Train.
    order = step_order(lengths, steps=config.train_steps, batch_size=config.batch_size, seed=config.seed)
    curve, history = tuning.train(
        rows,
        steps=config.train_steps,
        make_trainer=partial(AnswerTrainer, order=order),
        make_arguments=partial(SFTConfig, dataset_kwargs={"skip_prepare_dataset": True}),
        most_together=_TOGETHER,
        most_tokens=max(lengths),
        metrics=lambda logs: {},
        measure=partial(_measured, examples=measured, compute=tuning.compute),
        interval=config.evaluation_interval,
        patience=_PATIENCE,
        unit="nats a token",
        judged=judged,
    )

    # 4. Save.
    before = curve.looks[0].as_metrics("_before")
    tail = history[-max(1, len(history) // 10) :]
    loss = sum(record["loss"] for record in tail) / len(tail)
    return curve.as_metrics() | before | {"loss": loss} | tuning.save()


def _encoded(rows: Sequence[Mapping[str, Any]], text_format: TextFormat) -> list[tuple[list[int], list[int]]]:
    def encode(some: Sequence[Mapping[str, Any]]) -> list[tuple[list[int], list[int]]]:
        return [(text_format.prompt_ids(row["prompt"]), text_format.learnt_ids(row["answer"])) for row in some]

    return processes.spread(encode, rows)


def _measured(
    model: Any, *, examples: Sequence[tuple[list[int], list[int]]], compute: torch.dtype
) -> dict[str, MeanEstimate]:
    """Return loss and perplexity of demonstrations, each a prompt and an answer."""

    # The longest first, and beside others as long.
    examples = sorted(examples, key=lambda example: -len(example[0]) - len(example[1]))
    nats = [-value for value in log_probabilities_of(model, examples, compute=compute)]
    return of_answers(nats, [len(answer) for _, answer in examples])
