"""Preference tuning on feedback without pairs (KTO): liked answers are to gain probability, others to lose some.

For an answer y to a prompt x, h(y) = log policy(y | x) - log reference(y | x), in nats: how much likelier the answer has
become since the start. z is the reference point, the mean of h over answers that belong to other prompts, not below 0: how
much likelier whatever a step has answers of became. With the sigmoid s the loss of an answer is

    desirable_weight   (1 - s(beta (h - z)))  where it was liked,
    undesirable_weight (1 - s(beta (z - h)))  where it was not

(Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306). So what is far on its right side, and what is far on its wrong
one, is learnt from little. No gradient goes through z. Training takes TRL's loss, see `kto_trainer`; here each answer has
its own number, for those that are only measured on (`tests/unit/training/test_kto_trainer.py` holds them equal).

Ratings are taken for labels as `feedback_labels` says. Else it goes as in `preference`: the reference is asked before the
first step, and held-out feedback says when to stop and what to return.
"""

import random
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from rlhf_tuning import environment, step
from rlhf_tuning.data.feedback_labels import labelled, middle_of_scale
from rlhf_tuning.data.importer import read_canonical, sample_canonical, sample_unasked
from rlhf_tuning.distributed import processes, sharding
from rlhf_tuning.errors import DataError
from rlhf_tuning.models import base_model
from rlhf_tuning.models.text_format import Conversation, TextFormat
from rlhf_tuning.ops import lanes
from rlhf_tuning.statistics import MeanEstimate, clustered_auc, clustered_difference, clustered_mean
from rlhf_tuning.training.budget_watch import BudgetWatch
from rlhf_tuning.training.checkpoints import Checkpoints
from rlhf_tuning.training.given_answers import log_probabilities_of
from rlhf_tuning.training.held_out_loss import HeldOutLoss, HeldOutWatcher, check_finite
from rlhf_tuning.training.held_out_preferences import of_own_answers, warning
from rlhf_tuning.training.loading import load_base, load_text_format
from rlhf_tuning.training.preference import (
    LOOKS_AN_EPOCH,
    PreferenceConfig,
    distinct_prompts,
    most_measured,
    outcome,
)
from rlhf_tuning.training.trainer_settings import (
    check_steps,
    continue_adapter,
    drop_printing,
    new_adapter,
    one_device,
    passes,
    shared_settings,
    step_order,
)
from rlhf_tuning.training.training_log import TrainingLog
from rlhf_tuning.training.tuned_model import save_tuned_model

#: Examples that one forward and backward pass holds at most on a CPU.
_TOGETHER = 8
#: Nats within which two answers have gained alike: rounding, where the policy still is the reference.
_TIE = 1e-4
#: What all desirable answers together may weigh beside the others, by the paper: from as much to a third more.
_BALANCED = (1.0, 4 / 3)


def train_on_feedback(
    config: PreferenceConfig,
    *,
    preferences_path: str,
    eval_preferences_path: str,
    adapter_dir: str,
    model_dir: str,
    tensorboard_dir: str,
    checkpoint_dir: str = "",
    evaluation_prompts_path: str = "",
    budget: str = "",
) -> dict[str, float]:
    """Tune a model on feedback until it has seen it `epoch_count` times or learns nothing more, and save it.

    Args:
        config: The settings.
        preferences_path: Canonical feedback to learn from.
        eval_preferences_path: Canonical feedback to measure on, none of it learnt from.
        adapter_dir: Gets the LoRA adapter (with full fine-tuning none), `metrics.jsonl` and `held_out_loss.json`.
        model_dir: Gets the merged model with its tokenizer, which plain transformers loads.
        tensorboard_dir: Gets event files.
        checkpoint_dir: Keeps checkpoints until the model is saved, see `checkpoints`; empty for none.
        evaluation_prompts_path: Prompts on which answers will be compared: where others are enough, they have no say in
            which checkpoint it is. Empty for none.
        budget: From `run_budget.step_budget`; empty for none.

    Returns:
        What held-out feedback said of the model that is returned, with intervals, and the steps that were taken.

    Raises:
        ParameterError: If the processes cannot share a batch evenly, or the loss is not finite.
        DataError: If no answer was liked or disliked.
        ModelError: If the base model cannot be loaded.
        RunError: If the training ends early and nothing of ours ended it.
    """
    from datasets import Dataset
    from trl import KTOConfig

    from rlhf_tuning.training.kto_trainer import FeedbackTrainer

    # 1. Encode the feedback.
    share_of_batch = processes.share(config.batch_size, environment.process_count())
    processes.join()
    budget_watch = BudgetWatch(budget, dtype=config.dtype, label="preference tuning")
    text_format = load_text_format(config)
    paths = preferences_path, eval_preferences_path
    middle = middle_of_scale(chain.from_iterable(map(read_canonical, paths)))
    given = sample_canonical(preferences_path, most=sys.maxsize, seed=config.seed, part=config.part)
    feedback = labelled(given, middle)
    if not feedback:
        raise DataError(f"{preferences_path} holds no answer that was liked or disliked.")
    rows = _encoded(feedback, text_format)
    steps = config.steps(len(rows))
    every = max(1, round(len(rows) / config.batch_size / LOOKS_AN_EPOCH))
    unasked, judged = sample_unasked(eval_preferences_path, evaluation_prompts_path, most=sys.maxsize, seed=config.seed)
    held_out = labelled(unasked, middle)
    if not held_out:
        raise DataError(f"{eval_preferences_path} holds no answer that was liked or disliked.")
    most = min(len(held_out), most_measured(every * config.batch_size))
    held_out = random.Random(config.seed).sample(held_out, most)
    measured = _encoded(held_out, text_format)
    step.say(
        f"Preference tuning: {steps:,} steps of {config.batch_size:,} on {len(rows):,} answers, of which "
        f"{sum(row['label'] for row in rows):,} were liked; measured on {len(measured):,} others"
    )
    if middle is not None:
        step.say(
            f"Ratings above {middle:g}, the middle of the scale, are taken for liked and those below it for not; "
            f"{len(given) - len(feedback):,} of {len(given):,} answers stand right there and are left out"
        )
    if said := unbalanced(rows, config):
        step.say(f"Warning: {said}")
    # What each step learns from, with an answer to another prompt for the reference point.
    order = step_order(list(map(_length, rows)), steps=steps, batch_size=config.batch_size, seed=config.seed)
    starts = range(0, len(order), config.batch_size)
    taken = [row for start in starts for row in _with_others(rows, order[start : start + config.batch_size])]
    measured = _with_others(measured, range(len(measured)))

    # 2. Load the model, and ask it what it says before it learns: it is the reference.
    lora = config.adapter_size > 0
    model, compute = load_base(config, rank="adapter_size", output=Path(model_dir), seed=config.seed)
    _ask_reference(model, taken, compute, "to learn from")
    _ask_reference(model, measured, compute, "set aside")

    # 3. Build the trainer.
    together = passes(
        model,
        share=share_of_batch,
        most=_TOGETHER,
        tokens=max(map(_length, rows)),
        full=not lora,
        compute=compute,
    )
    with TemporaryDirectory(prefix="preference-trainer-") as scratch:
        settings = shared_settings(
            output_dir=scratch,
            steps=steps,
            learning_rate=config.learning_rate,
            seed=config.seed,
            compute=compute,
            checkpointing=together.checkpointing,
        )
        arguments = KTOConfig(
            **settings,
            per_device_train_batch_size=together.rows,
            gradient_accumulation_steps=share_of_batch // together.rows,
            lr_scheduler_type="linear",
            max_length=None,
            beta=config.beta,
            loss_type="kto",
            desirable_weight=config.desirable_weight,
            undesirable_weight=config.undesirable_weight,
        )
        log = TrainingLog(
            label="preference tuning",
            total_steps=steps,
            metrics_path=Path(adapter_dir) / "metrics.jsonl",
            tensorboard_dir=Path(tensorboard_dir),
            select=_metrics(config.beta),
            vertex_tags={},
        )
        trainer = FeedbackTrainer(
            model=model,
            args=one_device(arguments),
            train_dataset=Dataset.from_list(taken),
            processing_class=text_format.tokenizer,
            callbacks=[log, budget_watch],
            peft_config=new_adapter(model, config.adapter_size, warm_start=config.warm_start_adapter),
        )
        drop_printing(trainer)
        started_from = continue_adapter(trainer.model, config.warm_start_adapter)
        sharding.train_together(trainer)

        # 4. Train.
        asked = distinct_prompts(held_out, most=config.watch_prompts)
        watcher = HeldOutWatcher(
            trainer.model,
            partial(_measured, trainer.model, config, measured, asked, text_format, compute=compute),
            HeldOutLoss(
                steps,
                patience=LOOKS_AN_EPOCH,
                unit=config.loss_type,
                stops_early=config.enable_early_stopping,
                selects=config.enable_checkpoint_selection != "false",
                judged=judged,
            ),
            interval=every,
            from_start=True,
            log=log,
            scratch=scratch,
        )
        trainer.add_callback(watcher)
        inputs = *paths, evaluation_prompts_path, started_from
        checkpoints = Checkpoints(checkpoint_dir, config, *inputs, label="preference tuning")
        with closing(log):
            checkpoints.train(trainer, log, budget_watch, watcher)
        if not (watcher.curve.stopped or budget_watch.stopped):
            check_steps(trainer.state.global_step, asked=steps, label="Preference tuning")
        watcher.finish(adapter_dir)

    curve = watcher.curve.as_json()
    if said := warning(curve):
        step.say(f"Warning: {said}")

    # 5. Save. With LoRA the base is loaded anew for it, so what trained goes first.
    found = outcome(curve) | budget_watch.finish(adapter_dir)
    if lora and environment.is_main_process():
        trainer.model.save_pretrained(adapter_dir)
    tuned = None if lora else trainer.model
    weights = None if lora else sharding.whole_weights(trainer.model)
    trainer.accelerator.free_memory()
    del trainer, watcher, model, log
    base_model.release_memory()
    lanes.let_go()
    if environment.is_main_process():
        settings = {"method": "preference", **asdict(config)}
        save_tuned_model(tuned, weights, text_format.tokenizer, settings, adapter_dir=adapter_dir, model_dir=model_dir)
    checkpoints.remove()
    return found


def losses(risen: torch.Tensor, label: torch.Tensor, point: torch.Tensor, *, config: PreferenceConfig) -> torch.Tensor:
    """Return each answer's loss, (answers,).

    Args:
        risen: By how much each answer became likelier, nats. (answers,)
        label: Whether it was liked. (answers,), bool
        point: The reference point.
        config: beta and both weights.
    """
    ahead = (risen - point).where(label, point - risen)
    weight = torch.where(label, config.desirable_weight, config.undesirable_weight)
    return weight * (1 - torch.sigmoid(config.beta * ahead))


def unbalanced(rows: Sequence[Mapping[str, Any]], config: PreferenceConfig) -> str:
    """Return what a person should know of how much liked answers and others weigh together; empty where they are even."""
    desirable = sum(row["label"] for row in rows)
    undesirable = len(rows) - desirable
    if not desirable or not undesirable:
        which = "liked" if desirable else "disliked"
        return f"Every answer to learn from was {which}. A model that is only told that hardly learns what is better."
    ratio = config.desirable_weight * desirable / (config.undesirable_weight * undesirable)
    if _BALANCED[0] <= round(ratio, 2) <= round(_BALANCED[1], 2):
        return ""
    # A weight above 1 is a larger step, so the rarer ones get it.
    name, weight = "undesirable_weight", desirable * config.desirable_weight / undesirable
    if ratio < 1:
        name, weight = "desirable_weight", undesirable * config.undesirable_weight / desirable
    return (
        f"{desirable:,} answers to learn from were liked and {undesirable:,} were not, so that the ones weigh {ratio:.2g} "
        f"times as much as the others. {name} {weight:.3g} would have both weigh alike."
    )


def _encoded(feedback: Sequence[Mapping[str, Any]], text_format: TextFormat) -> list[dict[str, Any]]:
    """Return feedback as tokens, the longest first and beside others as long."""

    def encode(some: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [
            {
                "prompt_ids": text_format.prompt_ids(row["prompt"]),
                "completion_ids": text_format.learnt_ids(row["answer"]),
                "label": row["label"],
            }
            for row in some
        ]

    return sorted(processes.spread(encode, feedback), key=lambda row: -_length(row))


def _length(row: Mapping[str, Any]) -> int:
    return len(row["prompt_ids"]) + len(row["completion_ids"])


def _with_others(rows: Sequence[Mapping[str, Any]], places: Sequence[int]) -> list[dict[str, Any]]:
    """Return the rows of a step, each with the answer of another one of them.

    That is the one which stands half of them away: neighbours are as long as each other, and may have one prompt.
    """
    half = len(places) // 2
    others = [*places[half:], *places[:half]]
    return [
        {**rows[place], "KL_completion_ids": rows[other]["completion_ids"]}
        for place, other in zip(places, others, strict=True)
    ]


def _ask_reference(model: Any, rows: Sequence[dict[str, Any]], compute: torch.dtype, which: str) -> None:
    """Add to rows what the model makes of their answers now; each is asked once, however often it comes."""
    asked = {
        (tuple(row["prompt_ids"]), tuple(row[name])): 0.0
        for name in ("completion_ids", "KL_completion_ids")
        for row in rows
    }
    known = log_probabilities_of(model, list(asked), compute=compute, label=f"reference, feedback {which}")
    asked = dict(zip(asked, known, strict=True))
    for row in rows:
        prompt = tuple(row["prompt_ids"])
        row["ref_logps"] = asked[prompt, tuple(row["completion_ids"])]
        row["ref_KL_logps"] = asked[prompt, tuple(row["KL_completion_ids"])]


def of_feedback(
    model: Any, rows: Sequence[Mapping[str, Any]], *, config: PreferenceConfig, compute: torch.dtype
) -> dict[str, MeanEstimate]:
    """Return what became of held-out answers.

    `loss`; `desirable_change` and `undesirable_change`, by how much likelier they became, nats; `margin`, by how much the
    former exceeds the latter, times beta; `accuracy`, how often of a liked answer and another the former gained more, a tie
    half; `reference_point`, which the loss holds at 0 or above. Without answers of either kind what compares them is not
    there. Intervals take the answers to a prompt as one: prompts are what is independent.

    Args:
        model: The model that learns.
        rows: Of `kto_trainer`.
        config: The settings.
        compute: Of matrix products, as in training.

    Raises:
        ParameterError: If a loss is not finite.
    """
    examples = [(row["prompt_ids"], row[name]) for name in ("completion_ids", "KL_completion_ids") for row in rows]
    now = torch.tensor(log_probabilities_of(model, examples, compute=compute), dtype=torch.float64)
    before = torch.tensor([row[name] for name in ("ref_logps", "ref_KL_logps") for row in rows], dtype=torch.float64)
    risen, of_others = (now - before).view(2, len(rows))
    label = torch.tensor([row["label"] for row in rows])
    found = losses(risen, label, of_others.mean().relu(), config=config)
    check_finite(found.tolist())
    prompts = [tuple(row["prompt_ids"]) for row in rows]
    values = {
        "loss": clustered_mean(found.tolist(), prompts),
        "reference_point": clustered_mean(of_others.tolist(), prompts),
    }
    for name, of_kind in (("desirable_change", label), ("undesirable_change", ~label)):
        if of_kind.any():
            kind = of_kind.nonzero()[:, 0].tolist()
            values[name] = clustered_mean(risen[of_kind].tolist(), [prompts[row] for row in kind])
    if label.any() and not label.all():
        known = risen.where(risen.abs() > _TIE, 0.0).tolist(), label.tolist(), prompts
        values["margin"] = clustered_difference([config.beta * nats for nats in known[0]], *known[1:])
        values["accuracy"] = clustered_auc(*known)
    return {name: value._replace(n=len(rows)) for name, value in values.items()}


def _measured(
    model: Any,
    config: PreferenceConfig,
    rows: Sequence[Mapping[str, Any]],
    asked: Sequence[Conversation],
    text_format: TextFormat,
    *,
    compute: torch.dtype,
) -> dict[str, MeanEstimate]:
    """Return what the model makes of held-out feedback, and what its own answers show."""
    found = of_feedback(model, rows, config=config, compute=compute)
    return found | of_own_answers(model, text_format, asked, temperature=config.temperature, seed=config.seed)


def _metrics(beta: float) -> Any:
    tokens_before = 0

    def select(logs: Mapping[str, float], seconds: float) -> dict[str, float]:
        nonlocal tokens_before
        tokens, tokens_before = logs["num_tokens"] - tokens_before, int(logs["num_tokens"])
        # A step may have no answer that was liked, or none that was not.
        changes = {
            name: logs[f"rewards/{theirs}"] / beta
            for name, theirs in (("desirable_change", "chosen"), ("undesirable_change", "rejected"))
            if f"rewards/{theirs}" in logs
        }
        margin = {"margin": logs["rewards/margins"]} if "rewards/margins" in logs else {}
        return {
            "loss": logs["loss"],
            **margin,
            **changes,
            "reference_point": logs["kl"],
            "entropy": logs["entropy"],
            "grad_norm": logs["grad_norm"],
            "learning_rate": logs["learning_rate"],
            "tokens_per_second": tokens / seconds,
            "seconds_per_step": seconds,
        }

    return select
