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
from dataclasses import dataclass
from functools import partial
from typing import Any, Unpack

import torch

from rlhf_tuning import step
from rlhf_tuning.data.importer import ALL_HELD_OUT, Part, sample_canonical, sample_unasked
from rlhf_tuning.distributed import processes
from rlhf_tuning.errors import DataError
from rlhf_tuning.limits import check_label_smoothing, check_samples, check_weights
from rlhf_tuning.models import base_model
from rlhf_tuning.models.text_format import Conversation, TextFormat
from rlhf_tuning.ops import packing
from rlhf_tuning.statistics import MeanEstimate
from rlhf_tuning.training.held_out_preferences import log_probabilities_of, of_own_answers, of_pairs, warning
from rlhf_tuning.training.trainer_settings import step_order
from rlhf_tuning.training.tuning import HandedOn, Tuning, TuningConfig, most_measured

#: So many looks at held-out preferences in an epoch; an epoch without a lower loss ends the training.
LOOKS_AN_EPOCH = 4
#: Pairs that one forward and backward pass holds at most: packed, and with a prompt for each answer.
_TOGETHER, _TOGETHER_APART = 8, 4
#: Rows of every length, among which those are chosen that tell whether prompts can be shared.
_LOOKED_AT = 1000
_ANSWERS = ("chosen_ids", "rejected_ids")


@dataclass(frozen=True, kw_only=True)
class PreferenceConfig(TuningConfig):
    """Settings of preference tuning beside those that every method has, named as Google's where it has them.

    With `loss_type` kto it learns from feedback, and what is said of preferences holds for that, see `kto`.

    `adapter_size` is the LoRA rank, 0 for full fine-tuning; the reference is the base also with a `warm_start_adapter`.
    `epoch_count` is how often each preference is learnt from, unless nothing more is learnt. Preferences to
    `held_out_reward_model_share` of the prompts are left to a held-out reward model. `watch_prompts` held-out prompts are
    answered at each look, at `temperature`.
    """

    RANK = "adapter_size"
    BASE_LEARNING_RATE = 5e-5
    FULL_BASE_LEARNING_RATE = 1e-6

    beta: float = 0.1
    epoch_count: float = 1.0
    adapter_size: int = 16
    loss_type: str = "sigmoid"
    label_smoothing: float = 0.0
    rpo_alpha: float = 0.0
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    temperature: float = 1.0
    held_out_reward_model_share: float = 0.0
    watch_prompts: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
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
    def loss(self) -> dict[str, Any]:
        """The settings of `preference_loss.losses`."""
        names = ("loss_type", "beta", "label_smoothing", "rpo_alpha")
        return {name: getattr(self, name) for name in names}

    def steps(self, preferences: int) -> int:
        """Return the most optimizer steps on so many preferences."""
        return math.ceil(self.epoch_count * preferences / self.batch_size)

    def interval(self, preferences: int) -> int:
        """Return the steps between two looks at held-out preferences, where there are so many to learn from."""
        return max(1, round(preferences / self.batch_size / LOOKS_AN_EPOCH))

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
    evaluation_prompts_path: str = "",
    **handed_on: Unpack[HandedOn],
) -> dict[str, float]:
    """Tune a model on preferences until it has seen them `epoch_count` times or learns nothing more, and save it.

    Args:
        config: The settings.
        preferences_path: Canonical preferences to learn from.
        eval_preferences_path: Canonical preferences to measure on, none of them learnt from.
        evaluation_prompts_path: Prompts on which answers will be compared: where others are enough, they have no say in
            which checkpoint it is. Empty for none.
        **handed_on: To `Tuning`.

    Returns:
        What held-out preferences said of the model that is returned, with intervals, and the steps that were taken.

    Raises:
        ParameterError: If the processes cannot share a batch evenly, or the loss is not finite.
        DataError: If there is no preference.
        ModelError: If the base model cannot be loaded.
        RunError: If the training ends early and nothing of ours ended it.
    """
    from trl import DPOConfig

    from rlhf_tuning.training.preference_trainer import PreferenceTrainer

    tuning = Tuning(
        config,
        method="preference",
        inputs=(preferences_path, eval_preferences_path, evaluation_prompts_path),
        **handed_on,
    )

    # 1. Encode the preferences.
    preferences = sample_canonical(preferences_path, most=sys.maxsize, seed=config.seed, part=config.part)
    if not preferences:
        raise DataError(ALL_HELD_OUT)
    rows = _encoded(preferences, tuning.text_format)
    steps, interval = config.steps(len(rows)), config.interval(len(rows))
    most = most_measured(interval * config.batch_size)
    held_out, judged = sample_unasked(eval_preferences_path, evaluation_prompts_path, most=most, seed=config.seed)
    if not held_out:
        raise DataError(f"{eval_preferences_path} holds no preference.")
    measured = _encoded(held_out, tuning.text_format)
    step.say(
        f"Preference tuning: {steps:,} steps of {config.batch_size:,} on {len(rows):,} preferences; measured on "
        f"{len(measured):,} others"
    )
    if config.loss_type == "robust" and any(row["margin"] for row in rows):
        step.say("The margins that preferences have are left out, as loss_type robust has no use for them")

    # 2. Load the model, and ask it what it says before it learns: it is the reference.
    tuning.load()
    compute, share = tuning.compute, _shares_prompts(tuning.model, rows, tuning.compute)
    for some, which in ((rows, "to learn from"), (measured, "set aside")):
        label = f"reference, preferences {which}"
        known = log_probabilities_of(tuning.model, some, share=share, compute=compute, label=label)
        for row, (chosen, rejected) in zip(some, known, strict=True):
            row |= {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}

    # 3. Train.
    order = step_order(list(map(_length, rows)), steps=steps, batch_size=config.batch_size, seed=config.seed)
    terms = {config.loss_type: 1.0} | ({"sft": config.rpo_alpha} if config.rpo_alpha else {})
    asked = distinct_prompts(held_out, most=config.watch_prompts)

    def measure(model: Any) -> dict[str, MeanEstimate]:
        found = of_pairs(model, measured, share=share, compute=compute, loss=config.loss)
        return found | of_own_answers(
            model, tuning.text_format, asked, temperature=config.temperature, seed=config.seed
        )

    curve, _ = tuning.train(
        rows,
        steps=steps,
        make_trainer=partial(PreferenceTrainer, order=order, share=share),
        make_arguments=partial(
            DPOConfig,
            beta=config.beta,
            loss_type=list(terms),
            loss_weights=list(terms.values()),
            label_smoothing=config.label_smoothing,
        ),
        most_together=_TOGETHER if share else _TOGETHER_APART,
        # Both answers, each with a prompt of its own where it is not shared.
        most_tokens=max(_length(row) + (not share) * len(row["prompt_ids"]) for row in rows),
        metrics=partial(_metrics, beta=config.beta),
        measure=measure,
        interval=interval,
        patience=LOOKS_AN_EPOCH,
        unit=config.loss_type,
        judged=judged,
    )
    if said := warning(curve.as_json()):
        step.say(f"Warning: {said}")

    # 4. Save.
    return curve.as_metrics() | tuning.save()


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


def _metrics(logs: Mapping[str, float], *, beta: float) -> dict[str, float]:
    return {
        "accuracy": logs["rewards/accuracies"],
        "margin": logs["rewards/margins"],
        "chosen": logs["logps/chosen"],
        "rejected": logs["logps/rejected"],
        "chosen_change": logs["rewards/chosen"] / beta,
        "rejected_change": logs["rewards/rejected"] / beta,
    }
