"""A fingerprint of a dataset's content: the same for the same rows, whatever their order and files."""

import hashlib

import numpy as np

from rlhf_tuning.data.batch import Batch


class Fingerprint:
    """Sums a 128-bit hash of every canonical row, so order does not matter but repeated rows count.

    The canonical row holds the instruction, so another instruction gives another fingerprint. It tells accidents
    apart, not attacks: a sum can be forged by someone who chooses very many rows.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._sums = np.zeros(2, np.uint64)

    def add(self, batch: Batch) -> None:
        """Count rows."""
        self.rows += len(batch)
        self._sums += batch.row_hashes.sum(axis=0, dtype=np.uint64)

    def merge(self, other: "Fingerprint") -> None:
        """Count the rows of another part of the dataset."""
        self.rows += other.rows
        self._sums += other._sums

    def value(self) -> str:
        """Return the fingerprint of the rows so far, as `sha256:` and 64 hexadecimal digits."""
        content = f"rows-v3 {self.rows} {self._sums[0]:016x} {self._sums[1]:016x}"
        return f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"
