"""Vertex chat rows.

    {"messages": [{"author": "user" | "assistant", "content": "..."}, ...], "context": "..."}
    the same with "candidate_0", "candidate_1" and "choice"

The first and the last message are the user's; authors need not alternate. `context` is optional and, where it stands,
takes the place of the instruction, even when it is empty. It becomes a system turn unless it is blank.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from msgspec import UNSET, Raw, Struct, UnsetType

from rlhf_tuning.data.batch import Columns, JsonString, is_blank
from rlhf_tuning.data.fields import (
    PREFERENCE_FIELDS,
    check_ends,
    check_fields,
    kind_of,
    read_message,
    read_objects,
    read_preference,
    read_text,
)
from rlhf_tuning.data.problems import Fault
from rlhf_tuning.data.rows import Conversation, Kind, Row, encode_text, encode_turn, join_turns

FIELDS = "messages (and candidate_0, candidate_1, choice)"
_AUTHORS = ("user", "assistant")
_PROMPT = ("messages",)
_PREFERENCE = ("messages", *PREFERENCE_FIELDS)


class Message(Struct, forbid_unknown_fields=True, gc=False):
    """The fields of a message, for reading many rows at once."""

    author: Literal["user", "assistant"]
    content: Raw


class Prompt(Struct, forbid_unknown_fields=True, gc=False):
    """The fields of a prompt row, for reading many at once."""

    messages: list[Message]
    context: Raw | UnsetType = UNSET


class Preference(Struct, forbid_unknown_fields=True, gc=False, kw_only=True):
    """The fields of a preference row, for reading many at once."""

    messages: list[Message]
    context: Raw | UnsetType = UNSET
    candidate_0: Raw
    candidate_1: Raw
    choice: Literal[0, 1]


def recognises(record: Mapping[str, object]) -> bool:
    """Say whether a row is of this format."""
    return "messages" in record


def parse(
    record: Mapping[str, object], *, accepts: Collection[Kind], instruction: str, faults: list[Fault]
) -> Row | None:
    """Return the canonical row; it counts only when nothing was added to `faults`."""
    preference = kind_of(record, accepts) == "preference"
    if not check_fields(record, faults, required=_PREFERENCE if preference else _PROMPT, optional=("context",)):
        return None
    prompt = read_context(record, instruction, faults)
    prompt += read_messages(record["messages"], faults)
    return Row(prompt, *read_preference(record, faults)) if preference else Row(prompt)


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


def prompt_columns(rows: Sequence[Prompt], *, instruction: str) -> Columns | None:
    """Return prompt rows by column, or None where a row needs a closer look."""
    return conversation_columns(rows, instruction=instruction)


def preference_columns(rows: Sequence[Preference], *, instruction: str) -> Columns | None:
    """Return preference rows by column, or None where a row needs a closer look."""
    columns = conversation_columns(rows, instruction=instruction)
    if columns is None:
        return None
    chosen = [row.candidate_1 if row.choice else row.candidate_0 for row in rows]
    rejected = [row.candidate_0 if row.choice else row.candidate_1 for row in rows]
    return columns._replace(
        chosen=chosen,
        rejected=rejected,
        first_chosen=[not row.choice for row in rows],
        quotes=columns.quotes + 6 * len(rows),
    )


def conversation_columns(rows: Sequence[Prompt | Preference], *, instruction: str) -> Columns | None:
    """Return the conversations of rows, and what is to be checked of them."""
    default = [encode_turn("system", encode_text(instruction))] if instruction else []
    prompts: list[bytes] = []
    keys: list[bytes | Raw] = []
    texts: list[Raw] = []
    contexts: list[Raw] = []
    quotes = 2 * len(rows)
    for row in rows:
        messages = row.messages
        if not messages or messages[0].author != "user" or messages[-1].author != "user":
            return None
        turns = default
        if row.context is not UNSET:
            context = row.context
            contexts.append(context)
            quotes += 2
            turns = [] if is_blank(context) else [encode_turn("system", context)]
        texts += [message.content for message in messages]
        quotes += 6 * len(messages)
        prompt = join_turns([*turns, *(encode_turn(message.author, message.content) for message in messages)])
        prompts.append(prompt)
        keys.append(prompt if turns or len(messages) > 1 else messages[0].content)
    return conversations(prompts, keys, texts, contexts, quotes)


def conversations(
    prompts: Sequence[bytes],
    keys: Sequence[JsonString],
    texts: Sequence[JsonString],
    contexts: Sequence[JsonString],
    quotes: int,
) -> Columns:
    """Return prompts by column, from their encoded conversations."""
    return Columns(
        prompts=prompts,
        begin=b"",
        end=b"",
        keys=keys,
        chosen=(),
        rejected=(),
        first_chosen=(),
        texts=texts,
        open_texts=contexts,
        quotes=quotes,
    )
