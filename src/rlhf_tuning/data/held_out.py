"""Which rows are held out for evaluation: by a hash of the prompt and the seed, so never by the rows' order.

All rows of one prompt go to one side, and all demonstrations of dialogues that begin alike. Memory does not grow with the
number of prompts: only the prompts with the smallest hashes are kept, ten times as many as may be held out. Where fewer
exist, their number is known exactly and a tenth of it can be taken; where more exist, a tenth is above the limit and the
limit is what counts.
"""

import json
import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlhf_tuning.data.batch import PROMPT, Batch, Hashes, mix

#: One in so many is held out, up to a limit.
ONE_IN = 10

#: Of the preferences that a reward model has, at most so many are set aside for its validation, and none where a tenth is
#: fewer than the second number: their loss would be noise.
_MOST_VALIDATION, _FEWEST_VALIDATION = 250, 20

#: Held-out prompts that are enough to judge a model by, and to choose its checkpoint by. Where there are as many as both, no
#: prompt serves for both.
ENOUGH_TO_JUDGE, ENOUGH_TO_CHOOSE = 100, 50


def held_out_rows(rows: int, limit: int) -> int:
    """Return how many of so many rows, or prompts, are held out: a tenth, at least one and at most the limit."""
    return max(1, min(limit, rows // ONE_IN))


def validation_rows(preferences: int) -> int:
    """Return how many of a reward model's preferences it is validated on while it learns from the others."""
    tenth = preferences // ONE_IN
    return min(_MOST_VALIDATION, tenth) if tenth >= _FEWEST_VALIDATION else 0


def judged_prompts(held_out: int) -> int:
    """Return on how many held-out prompts answers may be compared: others choose the checkpoint where there are enough."""
    return held_out - held_out // 3 if held_out >= ENOUGH_TO_JUDGE + ENOUGH_TO_CHOOSE else held_out


def set_aside(preferences: Sequence[dict[str, Any]], *, seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Divide preferences into those to learn from and those to validate on; all of one prompt are on one side.

    The evaluation's preferences have no say while a model learns, so that what is measured on them stays honest.
    """
    by_prompt: dict[str, list[dict[str, Any]]] = {}
    for row in preferences:
        by_prompt.setdefault(json.dumps(row["prompt"]), []).append(row)
    left = validation_rows(len(preferences))
    validated: set[str] = set()
    for prompt in random.Random(seed).sample(list(by_prompt), len(by_prompt)):
        if len(by_prompt[prompt]) <= left:
            left -= len(by_prompt[prompt])
            validated.add(prompt)
    sides: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for prompt, rows in by_prompt.items():
        sides[prompt in validated].extend(rows)
    return sides


def held_out_orders(batch: Batch, seed: int) -> Hashes:
    """Return [rows] where each row's prompt stands in line to be held out; equal prompts stand at the same place."""
    prompts = batch.hashes[:, PROMPT] if batch.openings is None else batch.openings
    return mix(prompts[:, 0], prompts[:, 1], np.full(len(prompts), seed, np.uint64))


class HeldOut:
    """Watches a dataset's prompts go by, then says which of them to hold out.

    Args:
        limit: How many prompts (`prompts`) or rows (`groups`) may be held out at most.
    """

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._capacity = limit * ONE_IN
        self._rows: dict[int, int] = {}  # place in line to number of rows
        self._last: int | None = None
        self._total = 0

    def add(self, orders: Hashes) -> None:
        """Take note of rows, by what `held_out_orders` gives for them."""
        self._total += len(orders)
        # Once as many prompts are known as are kept, only those that stand before the last of them matter.
        if self._last is not None:
            orders = orders[orders <= np.uint64(self._last)]
        places, counts = np.unique(orders, return_counts=True)
        for place, count in zip(places.tolist(), counts.tolist(), strict=True):
            self._rows[place] = self._rows.get(place, 0) + count
        # Now and then: sorting at every step would take longer than all the rest.
        if len(self._rows) > 2 * self._capacity:
            self._trim()

    def merge(self, other: "HeldOut") -> None:
        """Take note of all rows that another one did."""
        self._total += other._total
        for place, count in other._rows.items():
            self._rows[place] = self._rows.get(place, 0) + count
        self._trim()

    def _trim(self) -> None:
        if len(self._rows) > self._capacity:
            self._rows = dict(sorted(self._rows.items())[: self._capacity])
            self._last = next(reversed(self._rows))

    @property
    def can_split(self) -> bool:
        """Say whether there are two different prompts, one for each side."""
        return len(self._rows) > 1

    def prompts(self) -> Hashes:
        """Choose a tenth of the distinct prompts, at least one and at most the limit.

        Returns:
            The places in line of the chosen prompts, sorted.
        """
        self._trim()
        return np.array(sorted(self._rows)[: held_out_rows(len(self._rows), self._limit)], np.uint64)

    def groups(self) -> Hashes:
        """Choose a tenth of the rows, at least one and at most the limit, never splitting a prompt's rows.

        A prompt with more rows than still fit is passed over. If no prompt fits at all, the one with the fewest rows
        is taken, so that something is held out.

        Returns:
            The places in line of the chosen prompts, sorted.
        """
        self._trim()
        target = held_out_rows(self._total, self._limit)
        chosen: list[int] = []
        rows = 0
        for place in sorted(self._rows):
            if rows + self._rows[place] <= target:
                chosen.append(place)
                rows += self._rows[place]
        if not chosen:
            chosen.append(min(sorted(self._rows), key=lambda place: self._rows[place]))
        return np.array(chosen, np.uint64)
