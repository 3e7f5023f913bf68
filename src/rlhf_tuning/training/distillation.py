"""On-policy distillation: the student answers, and learns at every token of its answers what the teacher would say there.

Supervised tuning on a teacher's answers shows the student only beginnings that the teacher wrote; when it answers by itself
it comes to others. Here it is shown its own (Agarwal et al. 2023, https://arxiv.org/abs/2306.13649). The loss is the reverse
KL(student || teacher) a token, exact over the vocabulary, by TRL's DistillationTrainer; see `student_trainer` for the
layout, `held_out_loss` for when it stops and what it returns: there the loss is that KL on the student's own answers to
prompts that were held out.

What differs from the paper: all answers are the student's own, none the teacher's, since a supervised phase comes before.

In several processes (see `processes`) each answers and learns from its share of a step's prompts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Unpack

import torch

from rlhf_tuning import environment
from rlhf_tuning.data.importer import sample_canonical, sample_unasked
from rlhf_tuning.distributed import processes
from rlhf_tuning.errors import DataError
from rlhf_tuning.labelling.teacher import check_same_tokens
from rlhf_tuning.models import base_model
from rlhf_tuning.models.model_reference import local_folder
from rlhf_tuning.models.text_format import Conversation, TextFormat
from rlhf_tuning.ops import divergence
from rlhf_tuning.statistics import MeanEstimate, mean_interval, ratio_interval
from rlhf_tuning.training.held_out_loss import check_finite
from rlhf_tuning.training.own_answers import own_answers
from rlhf_tuning.training.trainer_settings import MOST_SPARE_ROWS, step_order
from rlhf_tuning.training.tuning import HandedOn, Tuning, TuningConfig

#: Of the student's answers: the KL is of the distributions themselves.
_TEMPERATURE = 1.0
#: Answers that one forward and backward pass holds at most on a CPU.
_TOGETHER = 8
#: Held-out prompts that are answered at each look.
_MEASURED = 100
#: So many looks in a row without a lower KL end the training.
_PATIENCE = 3


@dataclass(frozen=True, kw_only=True)
class DistillationConfig(TuningConfig):
    """Settings of on-policy distillation beside those that every method has.

    `large_model_reference` is the student, and `teacher_model_reference` a model with the same tokens. A step answers
    `batch_size` prompts. `lora_dim` 0 means full fine-tuning. Every `evaluation_interval` steps the KL is measured, on
    answers to held-out prompts.
    """

    RANK = "lora_dim"
    BASE_LEARNING_RATE = 1e-4
    FULL_BASE_LEARNING_RATE = 1e-6

    teacher_model_reference: str
    on_policy_train_steps: int = 100
    evaluation_interval: int = 20
    lora_dim: int = 16


def train_student(
    config: DistillationConfig,
    *,
    demonstrations_path: str,
    eval_demonstrations_path: str,
    evaluation_prompts_path: str = "",
    **handed_on: Unpack[HandedOn],
) -> dict[str, float]:
    """Move a student towards a teacher for exactly `on_policy_train_steps` steps, unless it gets no nearer, and save it.

    Args:
        config: The settings.
        demonstrations_path: Canonical demonstrations, whose prompts are answered.
        eval_demonstrations_path: Canonical demonstrations, on whose prompts it is measured.
        evaluation_prompts_path: Prompts on which answers will be compared: where others are enough, they have no say in
            which checkpoint it is. Empty for none.
        **handed_on: To `Tuning`.

    Returns:
        The KL a token on held-out prompts before and after, that of training, and the steps that were taken.

    Raises:
        ParameterError: If the teacher has other tokens, the processes cannot share a batch evenly, or the loss is not
            finite.
        DataError: If there is no prompt.
        ModelError: If a model cannot be loaded.
        RunError: If the training ends early and nothing of ours ended it.
    """
    from rlhf_tuning.training.student_trainer import StudentTrainer

    tuning = Tuning(
        config,
        method="distillation",
        inputs=(
            demonstrations_path,
            eval_demonstrations_path,
            evaluation_prompts_path,
            str(local_folder(config.teacher_model_reference) or ""),
        ),
        label="on-policy distillation",
        **handed_on,
    )

    # 1. Encode the prompts.
    check_same_tokens(config.large_model_reference, config.teacher_model_reference)
    most = max(config.on_policy_train_steps * config.batch_size, MOST_SPARE_ROWS)
    learnt = sample_canonical(demonstrations_path, most=most, seed=config.seed)
    held_out, judged = sample_unasked(
        eval_demonstrations_path, evaluation_prompts_path, most=_MEASURED, seed=config.seed
    )
    for path, examples in ((demonstrations_path, learnt), (eval_demonstrations_path, held_out)):
        if not examples:
            raise DataError(f"{path} holds no prompt.")
    encoded = processes.spread(lambda some: [tuning.text_format.prompt_ids(row["prompt"]) for row in some], learnt)
    measured = _evenly([row["prompt"] for row in held_out], environment.process_count())

    # 2. Load the student and the teacher.
    tuning.load()
    base_model.check_memory(config.teacher_model_reference, dtype=tuning.compute)
    base_model.check_disk(config.teacher_model_reference)
    teacher = base_model.load_causal_lm(config.teacher_model_reference, dtype=tuning.compute, shard=True)

    # 3. Train.
    order = step_order(
        [0] * len(encoded), steps=config.on_policy_train_steps, batch_size=config.batch_size, seed=config.seed
    )
    curve, history = tuning.train(
        [{"prompt": prompt} for prompt in encoded],
        steps=config.on_policy_train_steps,
        make_trainer=partial(StudentTrainer, teacher=teacher, order=order, compute=tuning.compute),
        make_arguments=partial(_arguments, config),
        most_together=_TOGETHER,
        most_tokens=max(map(len, encoded)) + config.target_sequence_length,
        metrics=_metrics,
        measure=partial(
            _measured,
            teacher=teacher,
            text_format=tuning.text_format,
            prompts=measured,
            compute=tuning.compute,
            seed=config.seed,
        ),
        interval=config.evaluation_interval,
        patience=_PATIENCE,
        unit="nats a token from the teacher",
        judged=judged,
    )
    del teacher

    # 4. Save.
    tail = history[-max(1, len(history) // 10) :]
    return curve.as_metrics() | {"loss": sum(record["loss"] for record in tail) / len(tail)} | tuning.save()


def _evenly(prompts: Sequence[Conversation], count: int) -> list[Conversation]:
    """Return prompts of which each of so many processes has as many: a divided model is passed through by all together."""
    whole = len(prompts) // count * count
    return list(prompts[:whole]) or [prompts[number % len(prompts)] for number in range(count)]


def _arguments(config: DistillationConfig, **settings: Any) -> Any:
    from trl import DistillationConfig as Arguments

    del settings["max_length"]  # prompts are cut already
    return Arguments(
        **settings, max_completion_length=config.target_sequence_length, temperature=_TEMPERATURE, beta=1.0
    )


def _metrics(logs: Mapping[str, float]) -> dict[str, float]:
    return {
        "answer_tokens": logs["completions/mean_length"],
        "ended": 1.0 - logs["completions/clipped_ratio"],
    }


def _measured(
    model: Any,
    *,
    teacher: Any,
    text_format: TextFormat,
    prompts: Sequence[Conversation],
    compute: torch.dtype,
    seed: int,
) -> dict[str, MeanEstimate]:
    """Return the KL to the teacher of a model's own answers, a token."""
    device = base_model.device().type

    def ask(some: Sequence[Conversation]) -> list[tuple[float, int]]:
        answers = own_answers(model, text_format, some, temperature=_TEMPERATURE, seed=seed)
        with torch.autocast(device, dtype=compute, enabled=compute != torch.float32):
            nats = divergence.of_answers(
                base_model.causal_lm(model),
                teacher,
                [text_format.prompt_ids(prompt) for prompt in some],
                [answer.ids for answer in answers],
                temperature=_TEMPERATURE,
                batch_size=_TOGETHER,
            )
        return [(nat, len(answer.ids)) for nat, answer in zip(nats, answers, strict=True)]

    training = model.training
    model.eval()
    nats, tokens = zip(*processes.spread(ask, prompts), strict=True)
    model.train(training)
    check_finite(nats)
    return {"loss": ratio_interval(nats, tokens), "answer_tokens": mean_interval(tokens)}
