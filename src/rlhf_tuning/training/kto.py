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
from functools import partial
from itertools import chain
from typing import Any, Unpack

import torch

from rlhf_tuning import step
from rlhf_tuning.data.feedback_labels import labelled, middle_of_scale
from rlhf_tuning.data.importer import read_canonical, sample_canonical, sample_unasked
from rlhf_tuning.distributed import processes
from rlhf_tuning.errors import DataError
from rlhf_tuning.models.text_format import TextFormat
from rlhf_tuning.statistics import MeanEstimate, clustered_auc, clustered_difference, clustered_mean
from rlhf_tuning.training.given_answers import log_probabilities_of
from rlhf_tuning.training.held_out_loss import check_finite
from rlhf_tuning.training.held_out_preferences import of_own_answers, warning
from rlhf_tuning.training.preference import LOOKS_AN_EPOCH, PreferenceConfig, distinct_prompts
from rlhf_tuning.training.trainer_settings import step_order
from rlhf_tuning.training.tuning import HandedOn, Tuning, most_measured

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
    evaluation_prompts_path: str = "",
    **handed_on: Unpack[HandedOn],
) -> dict[str, float]:
    """Tune a model on feedback until it has seen it `epoch_count` times or learns nothing more, and save it.

    Args:
        config: The settings.
        preferences_path: Canonical feedback to learn from.
        eval_preferences_path: Canonical feedback to measure on, none of it learnt from.
        evaluation_prompts_path: Prompts on which answers will be compared: where others are enough, they have no say in
            which checkpoint it is. Empty for none.
        **handed_on: To `Tuning`.

    Returns:
        What held-out feedback said of the model that is returned, with intervals, and the steps that were taken.

    Raises:
        ParameterError: If the processes cannot share a batch evenly, or the loss is not finite.
        DataError: If no answer was liked or disliked.
        ModelError: If the base model cannot be loaded.
        RunError: If the training ends early and nothing of ours ended it.
    """
    from trl import KTOConfig

    from rlhf_tuning.training.kto_trainer import FeedbackTrainer

    tuning = Tuning(
        config,
        method="preference",
        inputs=(preferences_path, eval_preferences_path, evaluation_prompts_path),
        **handed_on,
    )

    # 1. Encode the feedback.
    middle = middle_of_scale(chain.from_iterable(map(read_canonical, (preferences_path, eval_preferences_path))))
    given = sample_canonical(preferences_path, most=sys.maxsize, seed=config.seed, part=config.part)
    feedback = labelled(given, middle)
    if not feedback:
        raise DataError(f"{preferences_path} holds no answer that was liked or disliked.")
    rows = _encoded(feedback, tuning.text_format)
    steps, interval = config.steps(len(rows)), config.interval(len(rows))
    unasked, judged = sample_unasked(eval_preferences_path, evaluation_prompts_path, most=sys.maxsize, seed=config.seed)
    held_out = labelled(unasked, middle)
    if not held_out:
        raise DataError(f"{eval_preferences_path} holds no answer that was liked or disliked.")
    most = min(len(held_out), most_measured(interval * config.batch_size))
    held_out = random.Random(config.seed).sample(held_out, most)
    measured = _encoded(held_out, tuning.text_format)
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
    tuning.load()
    _ask_reference(tuning.model, taken, tuning.compute, "to learn from")
    _ask_reference(tuning.model, measured, tuning.compute, "set aside")

    # 3. Train.
    asked = distinct_prompts(held_out, most=config.watch_prompts)

    def measure(model: Any) -> dict[str, MeanEstimate]:
        found = of_feedback(model, measured, config=config, compute=tuning.compute)
        return found | of_own_answers(
            model, tuning.text_format, asked, temperature=config.temperature, seed=config.seed
        )

    curve, _ = tuning.train(
        taken,
        steps=steps,
        make_trainer=FeedbackTrainer,
        make_arguments=partial(
            KTOConfig,
            beta=config.beta,
            loss_type="kto",
            desirable_weight=config.desirable_weight,
            undesirable_weight=config.undesirable_weight,
        ),
        most_together=_TOGETHER,
        most_tokens=max(map(_length, rows)),
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
    """Return the rows of a step, each with the answer of another one of them, to another prompt where there is one.

    That is the one which stands half of them away, since neighbours are as long as each other; where it has the same prompt,
    it changes places with the first that mends it.
    """
    half = len(places) // 2
    others = [*places[half:], *places[:half]]

    def alike(at: int, other: int) -> bool:
        return bool(rows[places[at]]["prompt_ids"] == rows[other]["prompt_ids"])

    for at, other in enumerate(others):
        if alike(at, other):
            free = (to for to, there in enumerate(others) if not alike(at, there) and not alike(to, other))
            if (to := next(free, None)) is not None:
                others[at], others[to] = others[to], other
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


def _metrics(logs: Mapping[str, float], *, beta: float) -> dict[str, float]:
    # A step may have no answer that was liked, or none that was not.
    changes = {
        name: logs[f"rewards/{theirs}"] / beta
        for name, theirs in (("desirable_change", "chosen"), ("undesirable_change", "rejected"))
        if f"rewards/{theirs}" in logs
    }
    margin = {"margin": logs["rewards/margins"]} if "rewards/margins" in logs else {}
    return {**margin, **changes, "reference_point": logs["kl"]}
