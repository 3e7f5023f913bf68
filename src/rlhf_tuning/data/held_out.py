"""Which rows are held out for evaluation: by a hash of the prompt and the seed, so never by the rows' order.

All rows of one prompt go to one side. Memory does not grow with the number of prompts: only the prompts with the
smallest hashes are kept, ten times as many as may be held out. Where fewer exist, their number is known exactly and a
tenth of it can be taken; where more exist, a tenth is above the limit and the limit is what counts.
"""

import hashlib
import heapq
from array import array

#: One in so many is held out, up to a limit.
ONE_IN = 10


class HeldOut:
    """Watches a dataset's prompts go by, then says which rows to hold out.

    Args:
        limit: How many prompts (`prompts`) or rows (`groups`) may be held out at most.
        seed: Another seed holds out others.
    """

    def __init__(self, *, limit: int, seed: int) -> None:
        self._limit = limit
        self._capacity = limit * ONE_IN
        self._salt = f"held out {seed} ".encode()
        self._rows: dict[int, array[int]] = {}  # hash of a prompt to the numbers of its rows
        self._largest: list[int] = []  # heap of the negated hashes: its first is the largest kept
        self._total = 0

    def add(self, key: bytes) -> None:
        """Take note of the next row's prompt, by its key."""
        row = self._total
        self._total += 1
        order = int.from_bytes(hashlib.sha256(self._salt + key).digest()[:16])
        if order in self._rows:
            self._rows[order].append(row)
        elif len(self._rows) < self._capacity:
            heapq.heappush(self._largest, -order)
            self._rows[order] = array("Q", (row,))
        elif order < -self._largest[0]:
            # The largest leaves with its rows; it cannot come back, as the bar only falls.
            del self._rows[-heapq.heappushpop(self._largest, -order)]
            self._rows[order] = array("Q", (row,))

    @property
    def can_split(self) -> bool:
        """Say whether there are two different prompts, one for each side."""
        return len(self._rows) > 1

    def prompts(self) -> tuple[set[int], set[int]]:
        """Choose a tenth of the distinct prompts, at least one and at most the limit.

        Returns:
            The first row of each chosen prompt, and all rows of the chosen prompts.
        """
        count = max(1, min(self._limit, len(self._rows) // ONE_IN))
        chosen = [self._rows[order] for order in sorted(self._rows)[:count]]
        return {rows[0] for rows in chosen}, {row for rows in chosen for row in rows}

    def groups(self) -> set[int]:
        """Choose a tenth of the rows, at least one and at most the limit, never splitting a prompt's rows.

        A prompt with more rows than still fit is passed over. If no prompt fits at all, the one with the fewest rows
        is taken, so that something is held out.
        """
        target = max(1, min(self._limit, self._total // ONE_IN))
        chosen: set[int] = set()
        for order in sorted(self._rows):
            rows = self._rows[order]
            if len(chosen) + len(rows) <= target:
                chosen.update(rows)
        if not chosen:
            fewest = min(sorted(self._rows), key=lambda order: len(self._rows[order]))
            chosen.update(self._rows[fewest])
        return chosen
