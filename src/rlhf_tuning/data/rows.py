"""The canonical rows: what every format becomes, and what every later step reads.

    {"prompt": [{"role": "system" | "user" | "assistant", "content": str}, ...]}
    {"prompt": [...], "chosen": str, "rejected": str}

The last turn of a prompt is the user's. A row is written as one line of UTF-8 JSON, keys in this order.
"""

import hashlib
from json.encoder import encode_basestring
from typing import Literal, NamedTuple

Kind = Literal["prompt", "preference"]
Conversation = list[dict[str, str]]


class Row(NamedTuple):
    """One row. `chosen` and `rejected` are both None for a prompt without a preference."""

    prompt: Conversation
    chosen: str | None = None
    rejected: str | None = None

    @property
    def kind(self) -> Kind:
        """Return whether the row is a prompt alone or a preference."""
        return "prompt" if self.chosen is None else "preference"


def encode_prompt(prompt: Conversation) -> bytes:
    """Return a conversation as canonical JSON; equal conversations give equal bytes."""
    turns = ", ".join(
        f'{{"role": {encode_basestring(turn["role"])}, "content": {encode_basestring(turn["content"])}}}'
        for turn in prompt
    )
    return f"[{turns}]".encode()


def prompt_line(prompt: bytes) -> bytes:
    """Return the line of a prompt row, from its encoded prompt."""
    return b'{"prompt": ' + prompt + b"}\n"


def preference_line(prompt: bytes, chosen: str, rejected: str) -> bytes:
    """Return the line of a preference row, from its encoded prompt."""
    answers = f', "chosen": {encode_basestring(chosen)}, "rejected": {encode_basestring(rejected)}}}\n'
    return b'{"prompt": ' + prompt + answers.encode()


def encode_row(row: Row, prompt: bytes) -> bytes:
    """Return the line of a row, from the row and its encoded prompt."""
    if row.chosen is None or row.rejected is None:
        return prompt_line(prompt)
    return preference_line(prompt, row.chosen, row.rejected)


def prompt_key(prompt: bytes) -> bytes:
    """Return the identity of an encoded prompt: 16 bytes, so that millions fit in memory."""
    return hashlib.sha256(prompt).digest()[:16]
