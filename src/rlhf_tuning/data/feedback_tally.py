"""What people said of answers, counted row by row in little memory."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from rlhf_tuning.data.rows import Judgement

#: So many people, places and different ratings are told apart; those that come later are not.
_MOST_TOLD_APART = 100_000

#: Less likely than this by chance, it is no chance that somebody's labels are all alike.
_BY_CHANCE = 1e-3


class OneSided(NamedTuple):
    """Somebody, or a place, whose labels are all alike."""

    rater: str
    labels: int
    liked: bool


class FeedbackTally:
    """Counts labels, ratings, and who gave them. It can be pickled."""

    def __init__(self) -> None:
        self.labels = self.liked = 0
        self.ratings: Counter[float] = Counter()
        self._raters: dict[str, tuple[int, int]] = {}  # labels, and how many of them are positive

    def add(self, judgements: Iterable[Judgement]) -> None:
        """Count what rows say."""
        for judgement in judgements:
            if judgement.rated:
                if len(self.ratings) < _MOST_TOLD_APART or judgement.value in self.ratings:
                    self.ratings[judgement.value] += 1
                continue
            liked = int(judgement.value)
            self.labels += 1
            self.liked += liked
            for rater in judgement.raters:
                self._count(rater, 1, liked)

    def merge(self, other: "FeedbackTally") -> None:
        """Count the rows of another part of the dataset."""
        self.labels += other.labels
        self.liked += other.liked
        self.ratings.update(other.ratings)
        for rater, (labels, liked) in other._raters.items():
            self._count(rater, labels, liked)

    def one_sided(self) -> list[OneSided]:
        """Return those whose labels are all alike though that is unlikely, by how many labels they gave.

        Among all labels, a share p is positive: so many alike come about by chance with a probability of p^n, or (1 - p)^n.
        """
        share = self.liked / self.labels if self.labels else 0.0
        found = []
        for rater, (labels, liked) in self._raters.items():
            chance = share if liked else 1 - share
            if liked in (0, labels) and chance**labels < _BY_CHANCE:
                found.append(OneSided(rater, labels, bool(liked)))
        return sorted(found, key=lambda each: (-each.labels, each.rater))

    def _count(self, rater: str, labels: int, liked: int) -> None:
        if rater in self._raters or len(self._raters) < _MOST_TOLD_APART:
            before = self._raters.get(rater, (0, 0))
            self._raters[rater] = (before[0] + labels, before[1] + liked)
