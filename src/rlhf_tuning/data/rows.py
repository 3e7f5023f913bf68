"""The canonical rows: what every format becomes, and what every later step reads.

    {"prompt": [{"role": "system" | "user" | "assistant", "content": str}, ...]}
    {"prompt": [...], "chosen": str, "rejected": str}

The last turn of a prompt is the user's. A row is written as one line of UTF-8 JSON, keys in this order.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import msgspec

Kind = Literal["prompt", "preference"]
Conversation = list[dict[str, str]]

_encode_string = msgspec.json.Encoder().encode


class Row(NamedTuple):
    """One row. `chosen` and `rejected` are both None for a prompt without a preference.

    `first_chosen` tells whether the first of two candidates is the preferred one, where their order means something.
    """

    prompt: Conversation
    chosen: str | None = None
    rejected: str | None = None
    first_chosen: bool | None = None

    @property
    def kind(self) -> Kind:
        """Return whether the row is a prompt alone or a preference."""
        return "prompt" if self.chosen is None else "preference"


def encode_text(text: str) -> bytes:
    """Return a text as a canonical JSON string."""
    return _encode_string(text)


def encode_prompt(prompt: Conversation) -> bytes:
    """Return a conversation as canonical JSON; equal conversations give equal bytes."""
    return join_turns(encode_turn(turn["role"], encode_text(turn["content"])) for turn in prompt)


def prompt_key(prompt: Conversation) -> bytes:
    """Return what tells a prompt apart from all others: for one turn of the user its content, which is read fastest."""
    if len(prompt) == 1 and prompt[0]["role"] == "user":
        return encode_text(prompt[0]["content"])
    return encode_prompt(prompt)


def encode_turn(role: str, content: bytes) -> bytes:
    """Return one turn as canonical JSON, from its role and its content as a JSON string."""
    return b'{"role": "%b", "content": %b}' % (role.encode(), content)


def join_turns(turns: Iterable[bytes]) -> bytes:
    """Return a conversation as canonical JSON, from its encoded turns."""
    return b"[%b]" % b", ".join(turns)
