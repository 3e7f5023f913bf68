"""Vertex chat rows.

    {"messages": [{"author": "user" | "assistant", "content": "..."}, ...], "context": "...",
     "references": {"answer": "..."}}
    the same, but for "references", with "candidate_0", "candidate_1" and "choice", and an optional "margin"

The first and the last message are the user's; authors need not alternate. `references` are optional. So is `context`, which
takes the place of the instruction, even when it is empty. It becomes a system turn unless it is blank.
"""

from collections.abc import Collection, Mapping

from rlhf_tuning.data.fields import (
    CANDIDATES,
    MARGIN,
    PREFERENCE_FIELDS,
    REFERENCES,
    check_ends,
    check_fields,
    kind_of,
    read_margin,
    read_message,
    read_objects,
    read_preference,
    read_references,
    read_text,
)
from rlhf_tuning.data.problems import Fault
from rlhf_tuning.data.rows import Conversation, Kind, Row
from rlhf_tuning.data.shape import Field, Shape

FIELDS = "messages (and candidate_0, candidate_1, choice)"
_AUTHORS = ("user", "assistant")
_PROMPT = ("messages",)
_PREFERENCE = ("messages", *PREFERENCE_FIELDS)


CHAT = (("messages", Field.MESSAGES), ("context", Field.CONTEXT))
MESSAGE = (("author", Field.SPEAKER), ("content", Field.CONTENT))
SHAPES: dict[Kind, Shape] = {
    "prompt": Shape(row=CHAT, message=MESSAGE),
    "preference": Shape(row=(*CHAT, *CANDIDATES), message=MESSAGE),
}


def recognises(record: Mapping[str, object]) -> bool:
    """Say whether a row is of this format."""
    return "messages" in record


def parse(
    record: Mapping[str, object], *, accepts: Collection[Kind], instruction: str, faults: list[Fault]
) -> Row | None:
    """Return the canonical row; it counts only when nothing was added to `faults`."""
    preference = kind_of(record, accepts) == "preference"
    required, optional = (_PREFERENCE, ("context", *MARGIN)) if preference else (_PROMPT, ("context", *REFERENCES))
    if not check_fields(record, faults, required=required, optional=optional):
        return None
    prompt = read_context(record, instruction, faults)
    prompt += read_messages(record["messages"], faults)
    if not preference:
        return Row(prompt, references=read_references(record, faults))
    return Row(prompt, *read_preference(record, faults), margin=read_margin(record, faults))


def read_context(record: Mapping[str, object], instruction: str, faults: list[Fault]) -> Conversation:
    """Return the system turn of a row: its context, else the instruction; nothing where that is blank."""
    context = instruction
    if "context" in record:
        context = read_text(record["context"], "context", faults, blank=True)
    return [{"role": "system", "content": context}] if context.strip() else []


def read_messages(messages: object, faults: list[Fault]) -> Conversation:
    """Return the turns that a row's messages are."""
    records = read_objects(messages, "messages", faults)
    turns = [
        read_message(message, f"messages[{index}]", key="author", speakers=_AUTHORS, faults=faults)
        for index, message in enumerate(records)
    ]
    check_ends([turn["role"] for turn in turns], "messages", "author", faults)
    return turns
