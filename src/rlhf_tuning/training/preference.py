"""Preference tuning: learn from people's choices without a reward model and without sampling, by TRL's DPOTrainer.

Of the two answers to a prompt the chosen one is to gain more than the rejected one: direct preference optimisation (DPO;
Rafailov et al. 2023, https://arxiv.org/abs/2305.18290) and its kin, see `preference_loss`. What is gained is measured
against a reference, the base model, which is asked once before the first step; then no copy of it is kept. Where people said
by how much an answer is better, so much more is asked for. What is measured on held-out preferences leaves that out, as for
a reward model.

What differs from stock TRL:

- Text is encoded by `text_format` and reaches the trainer as token ids; an answer that is cut off is learnt without its end.
- The layout, see `preference_trainer`.
- Held-out preferences say when to stop and what to return, see `held_out_loss` and `held_out_preferences`.

In several processes (see `processes`) each learns from its share of a step's preferences.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from rlhf_tuning import environment, step
from rlhf_tuning.data.importer import ALL_HELD_OUT, Part, sample_canonical, sample_unasked
from rlhf_tuning.distributed import processes, sharding
from rlhf_tuning.errors import DataError
from rlhf_tuning.limits import check_label_smoothing, check_limits, check_samples, check_weights
from rlhf_tuning.models import base_model
from rlhf_tuning.models.text_format import Conversation, TextFormat
from rlhf_tuning.ops import lanes, packing
from rlhf_tuning.statistics import MeanEstimate
from rlhf_tuning.training.budget_watch import BudgetWatch
from rlhf_tuning.training.checkpoints import Checkpoints
from rlhf_tuning.training.held_out_loss import HeldOutLoss, HeldOutWatcher
from rlhf_tuning.training.held_out_preferences import log_probabilities_of, of_own_answers, of_pairs, warning
from rlhf_tuning.training.loading import load_base, load_text_format
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

#: Multiplied by `learning_rate_multiplier`.
BASE_LEARNING_RATE = 5e-5
#: Full fine-tuning moves every weight, so each moves less.
FULL_BASE_LEARNING_RATE = 1e-6

#: So many looks at held-out preferences in an epoch; an epoch without a lower loss ends the training.
LOOKS_AN_EPOCH = 4
#: Pairs that one forward and backward pass holds at most: packed, and with a prompt for each answer.
_TOGETHER, _TOGETHER_APART = 8, 4
#: Rows of every length, among which those are chosen that tell whether prompts can be shared.
_LOOKED_AT = 1000
#: Between so many held-out rows are measured on.
_MEASURED = (100, 500)
_ANSWERS = ("chosen_ids", "rejected_ids")


@dataclass(frozen=True, kw_only=True)
class PreferenceConfig:
    """Settings of preference tuning, named as the pipeline's parameters are, which are Google's where it has them.

    With `loss_type` kto it learns from feedback, and what is said of preferences holds for that, see `kto`.

    `batch_size` counts a step's preferences, in all processes together. `adapter_size` is the LoRA rank, 0 for full
    fine-tuning, and `warm_start_adapter` the folder of the adapter that the training starts from; the reference stays the
    base. `epoch_count` is how often each preference is learnt from, unless nothing more is learnt. Preferences to
    `held_out_reward_model_share` of the prompts are left to a held-out reward model. `watch_prompts` held-out prompts are
    answered at each look, at `temperature`. `checkpoint_interval` are the minutes between two checkpoints.
    """

    large_model_reference: str
    beta: float = 0.1
    epoch_count: float = 1.0
    learning_rate_multiplier: float = 1.0
    adapter_size: int = 16
    loss_type: str = "sigmoid"
    label_smoothing: float = 0.0
    rpo_alpha: float = 0.0
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    enable_early_stopping: bool = True
    enable_checkpoint_selection: str = "default"
    batch_size: int = 64
    prompt_sequence_length: int = 512
    target_sequence_length: int = 64
    temperature: float = 1.0
    seed: int = 0
    dtype: str = "auto"
    warm_start_adapter: str = ""
    held_out_reward_model_share: float = 0.0
    watch_prompts: int = 64
    checkpoint_interval: float = 10.0

    def __post_init__(self) -> None:
        check_limits(**asdict(self))
        check_label_smoothing(label_smoothing=self.label_smoothing, loss_type=self.loss_type)
        check_weights(
            loss_type=self.loss_type,
            rpo_alpha=self.rpo_alpha,
            desirable_weight=self.desirable_weight,
            undesirable_weight=self.undesirable_weight,
            batch_size=self.batch_size,
        )
        check_samples(self.temperature)

    @property
    def learning_rate(self) -> float:
        """The peak learning rate."""
        base = BASE_LEARNING_RATE if self.adapter_size else FULL_BASE_LEARNING_RATE
        return base * self.learning_rate_multiplier

    @property
    def loss(self) -> dict[str, Any]:
        """The settings of `preference_loss.losses`."""
        names = ("loss_type", "beta", "label_smoothing", "rpo_alpha")
        return {name: getattr(self, name) for name in names}

    def steps(self, preferences: int) -> int:
        """Return the most optimizer steps on so many preferences."""
        return math.ceil(self.epoch_count * preferences / self.batch_size)

    @property
    def part(self) -> Part | None:
        """The preferences to learn from; None for all."""
        if self.held_out_reward_model_share == 0:
            return None
        return Part(share=self.held_out_reward_model_share, seed=self.seed, held_out=False)


def train_on_preferences(
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
    """Tune a model on preferences until it has seen them `epoch_count` times or learns nothing more, and save it.

    Args:
        config: The settings.
        preferences_path: Canonical preferences to learn from.
        eval_preferences_path: Canonical preferences to measure on, none of them learnt from.
        adapter_dir: Gets the LoRA adapter (with full fine-tuning none), `metrics.jsonl` and `held_out_loss.json`.
        model_dir: Gets the merged model with its tokenizer, which plain transformers loads.
        tensorboard_dir: Gets event files.
        checkpoint_dir: Keeps checkpoints until the model is saved, see `checkpoints`; empty for none.
        evaluation_prompts_path: Prompts on which answers will be compared: where others are enough, they have no say in
            which checkpoint it is. Empty for none.
        budget: From `run_budget.step_budget`; empty for none.

    Returns:
        What held-out preferences said of the model that is returned, with intervals, and the steps that were taken.

    Raises:
        ParameterError: If the processes cannot share a batch evenly, or the loss is not finite.
        DataError: If there is no preference.
        ModelError: If the base model cannot be loaded.
        RunError: If the training ends early and nothing of ours ended it.
    """
    from datasets import Dataset
    from trl import DPOConfig

    from rlhf_tuning.training.preference_trainer import PreferenceTrainer

    # 1. Encode the preferences.
    share_of_batch = processes.share(config.batch_size, environment.process_count())
    processes.join()
    budget_watch = BudgetWatch(budget, dtype=config.dtype, label="preference tuning")
    text_format = load_text_format(config)
    preferences = sample_canonical(preferences_path, most=sys.maxsize, seed=config.seed, part=config.part)
    if not preferences:
        raise DataError(ALL_HELD_OUT)
    rows = _encoded(preferences, text_format)
    steps = config.steps(len(rows))
    every = max(1, round(len(rows) / config.batch_size / LOOKS_AN_EPOCH))
    most = most_measured(every * config.batch_size)
    held_out, judged = sample_unasked(eval_preferences_path, evaluation_prompts_path, most=most, seed=config.seed)
    if not held_out:
        raise DataError(f"{eval_preferences_path} holds no preference.")
    measured = _encoded(held_out, text_format)
    step.say(
        f"Preference tuning: {steps:,} steps of {config.batch_size:,} on {len(rows):,} preferences; measured on "
        f"{len(measured):,} others"
    )

    if config.loss_type == "robust" and any(row["margin"] for row in rows):
        step.say("The margins that preferences have are left out, as loss_type robust has no use for them")

    # 2. Load the model, and ask it what it says before it learns: it is the reference.
    lora = config.adapter_size > 0
    model, compute = load_base(config, rank="adapter_size", output=Path(model_dir), seed=config.seed)
    share = _shares_prompts(model, rows, compute)
    for some, which in ((rows, "to learn from"), (measured, "set aside")):
        known = log_probabilities_of(model, some, share=share, compute=compute, label=f"reference, preferences {which}")
        for row, (chosen, rejected) in zip(some, known, strict=True):
            row |= {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}

    # 3. Build the trainer.
    together = passes(
        model,
        share=share_of_batch,
        most=_TOGETHER if share else _TOGETHER_APART,
        # Both answers, each with a prompt of its own where it is not shared.
        tokens=max(_length(row) + (not share) * len(row["prompt_ids"]) for row in rows),
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
        terms = {config.loss_type: 1.0} | ({"sft": config.rpo_alpha} if config.rpo_alpha else {})
        arguments = DPOConfig(
            **settings,
            per_device_train_batch_size=together.rows,
            gradient_accumulation_steps=share_of_batch // together.rows,
            lr_scheduler_type="linear",
            max_length=None,
            beta=config.beta,
            loss_type=list(terms),
            loss_weights=list(terms.values()),
            label_smoothing=config.label_smoothing,
        )
        log = TrainingLog(
            label="preference tuning",
            total_steps=steps,
            metrics_path=Path(adapter_dir) / "metrics.jsonl",
            tensorboard_dir=Path(tensorboard_dir),
            select=_metrics(config.beta),
            vertex_tags={},
        )
        trainer = PreferenceTrainer(
            order=step_order(list(map(_length, rows)), steps=steps, batch_size=config.batch_size, seed=config.seed),
            share=share,
            model=model,
            args=one_device(arguments),
            train_dataset=Dataset.from_list(rows),
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
            partial(_measured, trainer.model, config, measured, asked, text_format, share=share, compute=compute),
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
        inputs = preferences_path, eval_preferences_path, evaluation_prompts_path, started_from
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


def most_measured(learnt: int) -> int:
    """Return on how many held-out rows a look is taken, if so many are learnt from between two looks.

    Half as many, within limits, which takes a sixth of the time: a backward pass takes twice that of a forward pass.
    """
    return min(max(learnt // 2, _MEASURED[0]), _MEASURED[1])


def _encoded(preferences: Sequence[Mapping[str, Any]], text_format: TextFormat) -> list[dict[str, Any]]:
    """Return preferences as tokens, the longest first and beside others as long."""

    def encode(some: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [
            {"prompt_ids": text_format.prompt_ids(row["prompt"])}
            | {f"{name}_ids": text_format.learnt_ids(row[name]) for name in ("chosen", "rejected")}
            | {"margin": row.get("margin", 0.0)}
            for row in some
        ]

    return sorted(processes.spread(encode, preferences), key=lambda row: -_length(row))


def _length(row: Mapping[str, Any]) -> int:
    return sum(len(row[name]) for name in ("prompt_ids", *_ANSWERS))


def _shares_prompts(model: Any, rows: Sequence[Mapping[str, Any]], compute: torch.dtype) -> bool:
    """Say whether the answers of a pair can share their prompt on this model."""
    some = rows[:: max(1, len(rows) // _LOOKED_AT)]
    pairs = [[row["prompt_ids"] + row[name] for name in _ANSWERS] for row in some]
    longest = max(len(row["prompt_ids"]) + len(row[name]) for row in rows for name in _ANSWERS)
    with torch.autocast(base_model.device().type, dtype=compute, enabled=compute != torch.float32):
        found = packing.is_exact(model.base_model, packing.telling(pairs), longest=longest)
    if not found:
        step.say("This model's answers cannot share their prompt, so each is computed with a prompt of its own")
    return found


def distinct_prompts(rows: Sequence[Mapping[str, Any]], *, most: int) -> list[Conversation]:
    """Return so many distinct prompts of canonical rows at most."""
    distinct = {str(row["prompt"]): row["prompt"] for row in rows}
    return list(distinct.values())[:most]


def _measured(
    model: Any,
    config: PreferenceConfig,
    rows: Sequence[Mapping[str, Any]],
    asked: Sequence[Conversation],
    text_format: TextFormat,
    *,
    share: bool,
    compute: torch.dtype,
) -> dict[str, MeanEstimate]:
    """Return what the model makes of held-out pairs, and what its own answers show."""
    found = of_pairs(model, rows, share=share, compute=compute, loss=config.loss)
    return found | of_own_answers(model, text_format, asked, temperature=config.temperature, seed=config.seed)


def _metrics(beta: float) -> Any:
    tokens_before = 0

    def select(logs: Mapping[str, float], seconds: float) -> dict[str, float]:
        nonlocal tokens_before
        tokens, tokens_before = logs["num_tokens"] - tokens_before, int(logs["num_tokens"])
        return {
            "loss": logs["loss"],
            "accuracy": logs["rewards/accuracies"],
            "margin": logs["rewards/margins"],
            "chosen": logs["logps/chosen"],
            "rejected": logs["logps/rejected"],
            "chosen_change": logs["rewards/chosen"] / beta,
            "rejected_change": logs["rewards/rejected"] / beta,
            "entropy": logs["entropy"],
            "grad_norm": logs["grad_norm"],
            "learning_rate": logs["learning_rate"],
            "tokens_per_second": tokens / seconds,
            "seconds_per_step": seconds,
        }

    return select


def outcome(curve: Mapping[str, Any]) -> dict[str, float]:
    """Return what was measured of the model that is returned, by what `held_out_loss.json` has."""
    returned = next(look for look in curve["looks"] if look["step"] == curve["best_step"])
    found = {"steps": curve["last_step"], "returned_step": curve["best_step"]}
    found["held_out_loss_before"] = curve["looks"][0]["loss"]["mean"]
    for name, estimate in returned.items():
        if isinstance(estimate, Mapping):
            found |= {f"held_out_{name}{end}": estimate[key] for end, key in _ENDS}
    return found


_ENDS = (("", "mean"), ("_low", "low"), ("_high", "high"))
