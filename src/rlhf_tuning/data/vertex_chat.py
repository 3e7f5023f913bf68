"""Vertex chat rows.

    {"messages": [{"author": "user" | "assistant", "content": "..."}, ...], "context": "..."}
    the same with "candidate_0", "candidate_1" and "choice"

The first and the last message are the user's; authors need not alternate. `context` is optional and, where it stands,
takes the place of the instruction, even when it is empty. It becomes a system turn unless it is blank.
"""

from collections.abc import Collection, Mapping
from typing import cast

from rlhf_tuning.data.fields import PREFERENCE_FIELDS, check_fields, kind_of, read_preference, read_text
from rlhf_tuning.data.problems import Fault, describe
from rlhf_tuning.data.rows import Conversation, Kind, Row

FIELDS = "messages"
_AUTHORS = ("user", "assistant")
_PROMPT = ("messages",)
_PREFERENCE = ("messages", *PREFERENCE_FIELDS)


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
    context = instruction
    if "context" in record:
        context = read_text(record["context"], "context", faults, blank=True)
    prompt: Conversation = [{"role": "system", "content": context}] if context.strip() else []
    prompt.extend(_read_messages(record["messages"], faults))
    return Row(prompt, *read_preference(record, faults)) if preference else Row(prompt)


def _read_messages(messages: object, faults: list[Fault]) -> Conversation:
    if not isinstance(messages, list):
        faults.append(Fault("wrong_type", "messages", describe(messages), "an array of messages"))
        return []
    if not messages:
        faults.append(Fault("no_messages", "messages", "an empty array", "at least one message of the user"))
        return []
    turns = [_read_message(message, f"messages[{index}]", faults) for index, message in enumerate(messages)]
    for index in sorted({0, len(turns) - 1}):
        if turns[index]["role"] == "assistant":
            place = "first" if index == 0 else "last"
            faults.append(
                Fault("wrong_turn", f"messages[{index}].author", '"assistant"', f'"user" in the {place} message')
            )
    return turns


def _read_message(message: object, path: str, faults: list[Fault]) -> dict[str, str]:
    if not isinstance(message, dict):
        faults.append(Fault("wrong_type", path, describe(message), "an object with author and content"))
        return {"role": "", "content": ""}
    record = cast(dict[str, object], message)
    if not check_fields(record, faults, required=("author", "content"), where=f"{path}."):
        return {"role": "", "content": ""}
    author = record["author"]
    if not isinstance(author, str):
        faults.append(Fault("wrong_type", f"{path}.author", describe(author), '"user" or "assistant"'))
        author = ""
    elif author not in _AUTHORS:
        faults.append(Fault("wrong_author", f"{path}.author", describe(author), '"user" or "assistant"'))
    return {"role": author, "content": read_text(record["content"], f"{path}.content", faults)}
