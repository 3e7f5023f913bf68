"""What somebody thought of a single answer, as a loss of its score: the cumulative link (McCullagh 1980).

Cuts divide the scores into levels, from the worst to the best. With the sigmoid s, a score x and the cuts a < b on either
side of a level, an answer gets that level with probability s(b - x) - s(a - x), and the loss is its negative logarithm. The
lowest level has no cut below it and the highest none above. A label is a scale of two levels, where this is the logistic
loss; a rating is a scale of as many as there are ratings, at most `_MOST_LEVELS`. Cuts are learnt beside the model and serve
training alone: what is compared are scores.
"""

import math
from bisect import bisect
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn.functional import logsigmoid

#: Of a scale with more ratings than this those that are neighbours share a level, so that each has as many answers.
_MOST_LEVELS = 10
#: Beyond any score.
_FAR = 1e4
#: Places in `Cuts()`: what is below all scores and above them, the cut between labels, and the first between ratings.
_BELOW, _ABOVE, _LABELS, _RATINGS = range(4)

#: Of a row that is no feedback.
NO_LEVEL = (_BELOW, _ABOVE)


class Levels:
    """Which level each answer has, and how many have it.

    Args:
        rows: Canonical rows; those that are no feedback are left out.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        ratings = sorted(row["rating"] for row in rows if "rating" in row)
        distinct = sorted(set(ratings))
        # Rows of a level, from its lowest rating on.
        if len(distinct) > _MOST_LEVELS:
            distinct = sorted({ratings[len(ratings) * level // _MOST_LEVELS] for level in range(_MOST_LEVELS)})
        self._starts = distinct[1:]
        labels = [row["label"] for row in rows if "label" in row]
        self._liked = sum(labels), len(labels)
        self._below = [sum(rating < start for rating in ratings) for start in self._starts], len(ratings)

    def cuts_of(self, row: Mapping[str, Any]) -> tuple[int, int]:
        """Return the places in `Cuts()` of what is below and above a row's level; `NO_LEVEL` where it is no feedback."""
        if "label" in row:
            return (_LABELS, _ABOVE) if row["label"] else (_BELOW, _LABELS)
        if "rating" not in row:
            return NO_LEVEL
        level = bisect(self._starts, row["rating"])
        return _RATINGS + level - 1 if level else _BELOW, _RATINGS + level if level < len(self._starts) else _ABOVE

    def cuts(self) -> "Cuts":
        """Return cuts by which a score of 0 has each level as likely as it is among the rows."""
        liked, labels = self._liked
        below, ratings = self._below
        return Cuts(_logit(labels - liked, labels), [_logit(count, ratings) for count in below])


def _logit(count: int, n: int) -> float:
    """Return the log odds of so many of n, never infinite."""
    return math.log((count + 0.5) / (n - count + 0.5))


class Cuts(nn.Module):
    """The cuts, which stay in order.

    Args:
        labels: Where that between labels begins.
        ratings: Where those between ratings begin, in ascending order.
    """

    def __init__(self, labels: float, ratings: Sequence[float]) -> None:
        super().__init__()
        gaps = [math.log(above - below) for below, above in pairwise(ratings)]
        self.values = nn.Parameter(torch.tensor([labels, *ratings[:1], *gaps]))

    def forward(self) -> torch.Tensor:
        """Return all cuts, with what is below and above all scores before them."""
        ends = self.values.new_tensor([-_FAR, _FAR])
        first, gaps = self.values[1:2], self.values[2:].exp()
        return torch.cat([ends, self.values[:1], first, first + gaps.cumsum(0)])


def losses(scores: torch.Tensor, below: torch.Tensor, above: torch.Tensor) -> torch.Tensor:
    """Return the loss of each answer, (answers,).

    Args:
        scores: (answers,)
        below: The cut below the level of each. (answers,)
        above: That above it. (answers,)
    """
    # log(s(u) - s(v)) = log s(u) + log s(-v) + log(1 - exp(v - u)), which is exact where the difference is small.
    between = torch.log(-torch.expm1(below - above))
    return -logsigmoid(above - scores) - logsigmoid(scores - below) - between
