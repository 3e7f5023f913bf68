"""The canonical rows: what every format becomes, and what every later step reads.

    {"prompt": [{"role": "system" | "user" | "assistant", "content": str}, ...]}, or with "references": {name: str, ...}
    {"prompt": [...], "chosen": str, "rejected": str}, where people said by how much also "margin": float
    {"prompt": [...], "answer": str}
    {"prompt": [...], "answer": str, "label": bool}, or with "rating": float

They are a prompt alone, a preference, a demonstration, and feedback. A demonstration whose answer is empty waits for a
teacher to give one. The last turn of a prompt is the user's. A row is
written as one line of UTF-8 JSON, keys in this order.
"""

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import msgspec

Kind = Literal["prompt", "preference", "demonstration", "feedback"]
Conversation = list[dict[str, str]]

_encode = msgspec.json.Encoder().encode


class Judgement(NamedTuple):
    """What somebody thought of an answer.

    Attributes:
        value: A rating; or of a label 1 where the answer was liked, else 0.
        rated: Whether it is a rating.
        raters: Who judged, and where, as far as a row says.
    """

    value: float
    rated: bool
    raters: tuple[str, ...] = ()


class Row(NamedTuple):
    """One row. `chosen` and `rejected` are both there in a preference alone, `answer` in a demonstration and in feedback,
    and `judgement` in feedback alone.

    `first_chosen` tells whether the first of two candidates is the preferred one, where their order means something.
    `margin` is by how much the chosen answer is better, where that was said; see `fields.read_margin`.
    `references` are what rewards hold the answers to a prompt against, and stand in prompts alone.
    `dialogue` says that the assistant's turns in the prompt of a demonstration are demonstrations too: see `examples`.
    """

    prompt: Conversation
    chosen: str | None = None
    rejected: str | None = None
    first_chosen: bool | None = None
    answer: str | None = None
    dialogue: bool = False
    margin: float | None = None
    judgement: Judgement | None = None
    references: Mapping[str, str] | None = None

    @property
    def kind(self) -> Kind:
        """Return what the row is."""
        if self.answer is not None:
            return "demonstration" if self.judgement is None else "feedback"
        return "prompt" if self.chosen is None else "preference"


def encode_detail(row: Row) -> bytes:
    """Return what a canonical row says besides prompt and answers: references, a margin or a judgement, if any."""
    if row.references is not None:
        return b'"references": %b' % _encode(row.references)
    if row.margin is not None:
        return b'"margin": %b' % _encode_number(row.margin)
    if row.judgement is None:
        return b""
    if row.judgement.rated:
        return b'"rating": %b' % _encode_number(row.judgement.value)
    return b'"label": %b' % (b"true" if row.judgement.value else b"false")


def examples(row: Row) -> list[Row]:
    """Return the rows that a row stands for: of a whole dialogue each answer, with all that was said before it."""
    if not row.dialogue:
        return [row]
    answers = [place for place, turn in enumerate(row.prompt) if turn["role"] == "assistant"]
    earlier = [Row(row.prompt[:place], answer=row.prompt[place]["content"]) for place in answers]
    return [*earlier, row._replace(dialogue=False)]


def opening(prompt: Conversation) -> Conversation:
    """Return a prompt up to its first answer, which all rows of a dialogue have in common."""
    answers = [place for place, turn in enumerate(prompt) if turn["role"] == "assistant"]
    return prompt[: answers[0]] if answers else prompt


def encode_text(text: str) -> bytes:
    """Return a text as a canonical JSON string."""
    return _encode(text)


def _encode_number(number: float) -> bytes:
    """Return a number as canonical JSON; 0 has no sign."""
    return _encode(float(number) + 0.0)


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
