"""How well a reward model agrees with people: held-out preferences scored, by sureness and by length; and feedback."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_tuning import environment, statistics, step
from rlhf_tuning.data.feedback_labels import labelled, middle_of_scale
from rlhf_tuning.distributed import processes
from rlhf_tuning.models.reward_model import RewardModel, answer_key
from rlhf_tuning.models.text_format import Conversation, conversation_key

#: The Vertex job evaluated on no more rows than this.
MOST_EVAL_ROWS = 5_000

#: Into how many bins the evaluation sorts preferences.
_BINS = 6


def evaluate_reward_model(
    reward_model: RewardModel,
    preferences: Sequence[dict[str, Any]],
    *,
    learnt_from: Sequence[Mapping[str, Any]] = (),
    scores_path: Path | None = None,
) -> dict[str, Any]:
    """Score held-out answers and return how well the scores agree with what people said of them.

    Of preferences, how often the preferred answer scores higher; equal scores count half. Beside the accuracy stand its 95%
    interval, clustered by prompt, the accuracy where the shorter answer was preferred (a model that has only learnt length
    scores 0 there), and what "the longer answer wins" would have got. `by_margin` and `by_length_difference` tell the same
    apart by how far the scores are from each other, and by how many tokens longer the preferred answer is: from `low` to
    `high`, and `share` with its interval.

    Of feedback, `feedback_auc`: how often of an answer that was liked and one that was not, of any two prompts, the liked
    one scores higher. Where there are no preferences that stands for the accuracy too.

    Args:
        reward_model: The model to measure.
        preferences: Canonical rows, of preferences or of feedback; of each the first `MOST_EVAL_ROWS` are used.
        learnt_from: The other canonical rows of the dataset, whose ratings are of the same scale.
        scores_path: Gets the score of every answer, for `saved_scores`.
    """
    pairs = [row for row in preferences if "chosen" in row][:MOST_EVAL_ROWS]
    feedback = labelled(preferences, middle_of_scale([*learnt_from, *preferences]))[:MOST_EVAL_ROWS]
    asked = [(row["prompt"], [row["chosen"], row["rejected"]]) for row in pairs]
    asked += [(row["prompt"], [row["answer"]]) for row in feedback]

    def score(some: Sequence[tuple[Conversation, list[str]]]) -> list[list[float]]:
        texts = [text for _, answers in some for text in answers]
        prompts = [prompt for prompt, answers in some for _ in answers]
        progress = step.Progress("reward model evaluation", len(texts), "answer")
        scores = iter(reward_model.score(prompts, texts, on_progress=progress.update))
        return [[next(scores) for _ in answers] for _, answers in some]

    found = processes.spread(score, asked)
    if scores_path and environment.is_main_process():
        known = {
            answer_key(prompt, text): value
            for (prompt, answers), values in zip(asked, found, strict=True)
            for text, value in zip(answers, values, strict=True)
        }
        scores_path.write_text(json.dumps(known) + "\n", encoding="utf-8")
    chosen, rejected = [values[0] for values in found[: len(pairs)]], [values[1] for values in found[: len(pairs)]]
    of_feedback = [values[0] for values in found[len(pairs) :]]
    result = _of_pairs(reward_model, pairs, chosen, rejected)
    return result | _of_feedback(reward_model, feedback, of_feedback, alone=not pairs)


def told(evaluation: Mapping[str, Any]) -> str:
    """Return in words how well a reward model agrees with people."""

    def interval(name: str) -> str:
        return f"[{evaluation[f'{name}_low']:.1%}, {evaluation[f'{name}_high']:.1%}]"

    words = []
    if evaluation["n"] and "feedback_alone" not in evaluation:
        words.append(
            f"agrees with {evaluation['accuracy']:.1%} of {evaluation['n']} held-out preferences {interval('accuracy')}; "
            f"'the longer answer wins' agrees with {evaluation['longer_wins_accuracy']:.1%}"
        )
    if "feedback_auc" in evaluation:
        words.append(
            f"puts a liked answer before another in {evaluation['feedback_auc']:.1%} {interval('feedback_auc')} of what "
            f"{evaluation['feedback_n']} held-out answers show; by length alone it would be "
            f"{evaluation['feedback_length_auc']:.1%}"
        )
    return "; ".join(words) or "too little is held out to tell how well it agrees with people"


def _of_feedback(
    reward_model: RewardModel, rows: Sequence[dict[str, Any]], scores: Sequence[float], *, alone: bool
) -> dict[str, Any]:
    """Return what feedback shows of a reward model; nothing where not some answers were liked and some were not."""
    liked, keys = [row["label"] for row in rows], [conversation_key(row["prompt"]) for row in rows]
    if len(set(liked)) < 2:
        return {}
    lengths = [float(len(reward_model.text_format.answer_ids(row["answer"]))) for row in rows]
    result: dict[str, Any] = {"feedback_n": len(rows)}
    for name, values in (("feedback_auc", scores), ("feedback_length_auc", lengths)):
        area = statistics.clustered_auc(values, liked, keys)
        result |= {name: area.mean, f"{name}_low": area.low, f"{name}_high": area.high}
    if not alone:
        return result
    for name, of_feedback in (("accuracy", "feedback_auc"), ("longer_wins_accuracy", "feedback_length_auc")):
        result |= {f"{name}{end}": result[f"{of_feedback}{end}"] for end in ("", "_low", "_high")}
    positive, negative = (
        [score for score, like in zip(scores, liked, strict=True) if like is kind] for kind in (True, False)
    )
    margin = statistics.clustered_difference(scores, liked, keys).mean
    return result | {
        "feedback_alone": True,
        "n": len(rows),
        "mean_margin": margin,
        "roc": roc_curve(positive, negative),
    }


def _of_pairs(
    reward_model: RewardModel, rows: Sequence[dict[str, Any]], chosen: Sequence[float], rejected: Sequence[float]
) -> dict[str, Any]:
    """Return what preferences show of a reward model."""
    points = [_point(a, b) for a, b in zip(chosen, rejected, strict=True)]
    lengths = [
        (
            len(reward_model.text_format.answer_ids(row["chosen"])),
            len(reward_model.text_format.answer_ids(row["rejected"])),
        )
        for row in rows
    ]
    keys = [conversation_key(row["prompt"]) for row in rows]
    shorter = [row for row, (a, b) in enumerate(lengths) if a < b]
    longer_wins = [_point(a, b) for a, b in lengths]
    result: dict[str, Any] = {"n": len(rows)}
    for name, values, members in (
        ("accuracy", points, range(len(rows))),
        ("shorter_preferred_accuracy", points, shorter),
        ("longer_wins_accuracy", longer_wins, range(len(rows))),
    ):
        if members:
            share = statistics.clustered_share([values[row] for row in members], [keys[row] for row in members])
            result |= {name: share.mean, f"{name}_low": share.low, f"{name}_high": share.high}
    margins = [a - b for a, b in zip(chosen, rejected, strict=True)]
    result["shorter_preferred_n"] = len(shorter)
    result["mean_margin"] = sum(margins) / max(1, len(rows))

    def bin_of(values: Sequence[float], members: Sequence[int]) -> dict[str, float]:
        share = statistics.clustered_share([points[row] for row in members], [keys[row] for row in members])
        inside = [values[row] for row in members]
        found = {"low": min(inside), "high": max(inside), "n": len(members)}
        return found | {"share": share.mean, "share_low": share.low, "share_high": share.high}

    sureness = [abs(margin) for margin in margins]
    result["by_margin"] = [
        bin_of(sureness, members)
        # How sure the model is of whichever answer it prefers, beside how often it is right.
        | {"predicted": sum(_sureness(margins[row] * reward_model.scale) for row in members) / len(members)}
        for members in _equal_bins(sureness)
    ]
    result["roc"] = roc_curve(margins, [-margin for margin in margins])
    differences = [a - b for a, b in lengths]
    result["by_length_difference"] = [bin_of(differences, members) for members in _equal_bins(differences)]
    return result


def roc_curve(positive: Sequence[float], negative: Sequence[float], most: int = 50) -> dict[str, list[float]]:
    """Return the receiver operating characteristic of scores, for KFP's ClassificationMetrics.

    A preference stands for two cases, its margin and the negative of that, one in each order, so that the curve is symmetric
    and its area is the accuracy for margins of equal sureness.

    Args:
        positive: Scores of what was preferred.
        negative: Scores of what was not.
        most: Points to return at most.
    """
    if not positive or not negative:
        return {"fpr": [], "tpr": [], "threshold": []}
    thresholds = sorted({*positive, *negative}, reverse=True)
    step = max(1, math.ceil(len(thresholds) / most))
    kept = [*thresholds[::step], *([thresholds[-1]] if (len(thresholds) - 1) % step else [])]
    return {
        "fpr": [sum(score >= threshold for score in negative) / len(negative) for threshold in kept],
        "tpr": [sum(score >= threshold for score in positive) / len(positive) for threshold in kept],
        "threshold": kept,
    }


def _equal_bins(values: Sequence[float]) -> list[list[int]]:
    """Return the indices of values in order, in at most `_BINS` bins of about equal size; equal values stay together."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    bins: list[list[int]] = []
    began = 0
    for rank, index in enumerate(order):
        # A bin that was due among equal values begins after them.
        due = rank * _BINS // len(order) > began
        if not bins or (due and values[index] != values[bins[-1][-1]]):
            bins.append([])
            began = rank * _BINS // len(order)
        bins[-1].append(index)
    return bins


def _sureness(margin: float) -> float:
    """Return how likely the answer with the higher score is the preferred one, by the loss that scores are fitted with."""
    return 1 / (1 + math.exp(-abs(margin)))


def _point(first: float, second: float) -> float:
    return 0.5 if math.isclose(first, second, rel_tol=0, abs_tol=1e-9) else float(first > second)
