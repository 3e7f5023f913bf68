"""A fingerprint of a dataset's content: the same for the same rows, whatever their order and files."""

import hashlib

_MODULUS = 2**256


class Fingerprint:
    """Sums the SHA-256 of every canonical row modulo 2^256, so order does not matter but repeated rows count.

    The canonical row holds the instruction, so another instruction gives another fingerprint. It tells accidents
    apart, not attacks: a sum can be forged by someone who chooses very many rows.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._sum = 0

    def add(self, line: bytes) -> None:
        """Count one canonical row, as it is written."""
        self.rows += 1
        self._sum += int.from_bytes(hashlib.sha256(line).digest())

    def value(self) -> str:
        """Return the fingerprint of the rows so far, as `sha256:` and 64 hexadecimal digits."""
        content = f"rows-v1 {self.rows} {self._sum % _MODULUS:064x}"
        return f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"
