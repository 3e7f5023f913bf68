"""How well a reward model agrees with people: held-out preferences scored, sorted by sureness and by length."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlhf_tuning import environment, statistics, step
from rlhf_tuning.distributed import processes
from rlhf_tuning.models.reward_model import RewardModel, answer_key
from rlhf_tuning.models.text_format import conversation_key

#: The Vertex job evaluated on no more rows than this.
MOST_EVAL_ROWS = 5_000

#: Into how many bins the evaluation sorts preferences.
_BINS = 6


def evaluate_reward_model(
    reward_model: RewardModel, preferences: Sequence[dict[str, Any]], *, scores_path: Path | None = None
) -> dict[str, Any]:
    """Score both answers of each preference and return how often the preferred one scores higher.

    Equal scores count half. Beside the accuracy stand its 95% interval, clustered by prompt, the accuracy where the shorter
    answer was preferred (a model that has only learnt length scores 0 there), and what "the longer answer wins" would have
    got. `by_margin` and `by_length_difference` tell the same apart by how far the scores are from each other, and by how
    many tokens longer the preferred answer is: from `low` to `high`, and `share` with its interval.

    Args:
        reward_model: The model to measure.
        preferences: Canonical rows; the first `MOST_EVAL_ROWS` are used.
        scores_path: Gets the score of every answer, for `saved_scores`.
    """
    rows = list(preferences[:MOST_EVAL_ROWS])

    def score(rows: Sequence[dict[str, Any]]) -> list[tuple[float, float]]:
        prompts = [row["prompt"] for row in rows]
        progress = step.Progress("reward model evaluation", 2 * len(rows), "answer")
        both = reward_model.score(
            prompts + prompts,
            [row["chosen"] for row in rows] + [row["rejected"] for row in rows],
            on_progress=progress.update,
        )
        return list(zip(both[: len(rows)], both[len(rows) :], strict=True))

    scores = processes.spread(score, rows)
    chosen, rejected = [pair[0] for pair in scores], [pair[1] for pair in scores]
    if scores_path and environment.is_main_process():
        known: dict[str, float] = {}
        for row, pair in zip(rows, scores, strict=True):
            known |= zip((answer_key(row["prompt"], row[name]) for name in ("chosen", "rejected")), pair, strict=True)
        scores_path.write_text(json.dumps(known) + "\n", encoding="utf-8")
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
    result["roc"] = roc_curve(margins)
    differences = [a - b for a, b in lengths]
    result["by_length_difference"] = [bin_of(differences, members) for members in _equal_bins(differences)]
    return result


def roc_curve(margins: Sequence[float], most: int = 50) -> dict[str, list[float]]:
    """Return the receiver operating characteristic of "the first answer is preferred", for KFP's ClassificationMetrics.

    Every preference stands for two cases, one in each order, so that the curve is symmetric and its area is the accuracy
    for margins of equal sureness.

    Args:
        margins: Score of the preferred answer less that of the other, for each preference.
        most: Points to return at most.
    """
    if not margins:
        return {"fpr": [], "tpr": [], "threshold": []}
    thresholds = sorted({*margins, *(-margin for margin in margins)}, reverse=True)
    step = max(1, math.ceil(len(thresholds) / most))
    kept = [*thresholds[::step], *([thresholds[-1]] if (len(thresholds) - 1) % step else [])]
    n = len(margins)
    return {
        "fpr": [sum(-margin >= threshold for margin in margins) / n for threshold in kept],
        "tpr": [sum(margin >= threshold for margin in margins) / n for threshold in kept],
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
