"""TRL rows in its conversational format.

    {"prompt": [{"role": "system" | "user" | "assistant", "content": "..."}, ...]}
    the same with "chosen": [{"role": "assistant", "content": "..."}] and "rejected" likewise

A system message may stand at the beginning; without one, the instruction becomes it. After it, the first and the last
message are the user's.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from msgspec import Raw, Struct

from rlhf_tuning.data.batch import Columns, JsonString
from rlhf_tuning.data.fields import check_different, check_ends, check_fields, kind_of, read_message, read_objects
from rlhf_tuning.data.problems import Fault, describe
from rlhf_tuning.data.rows import Conversation, Kind, Row, encode_text, encode_turn, join_turns
from rlhf_tuning.data.trl_standard import PREFERENCE
from rlhf_tuning.data.vertex_chat import conversations

FIELDS = "prompt (and chosen, rejected)"
_ROLES = ("system", "user", "assistant")


class Message(Struct, forbid_unknown_fields=True, gc=False):
    """The fields of a message, for reading many rows at once."""

    role: Literal["system", "user", "assistant"]
    content: Raw


class Prompt(Struct, forbid_unknown_fields=True, gc=False):
    """The fields of a prompt row, for reading many at once."""

    prompt: list[Message]


class Preference(Struct, forbid_unknown_fields=True, gc=False):
    """The fields of a preference row, for reading many at once."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]


def recognises(record: Mapping[str, object]) -> bool:
    """Say whether a row is of this format."""
    return isinstance(record.get("prompt"), list)


def parse(
    record: Mapping[str, object], *, accepts: Collection[Kind], instruction: str, faults: list[Fault]
) -> Row | None:
    """Return the canonical row; it counts only when nothing was added to `faults`."""
    preference = kind_of(record, accepts, PREFERENCE[1:]) == "preference"
    if not check_fields(record, faults, required=PREFERENCE if preference else PREFERENCE[:1]):
        return None
    prompt = _read_messages(record["prompt"], "prompt", faults)
    system = 1 if prompt and prompt[0]["role"] == "system" else 0
    if prompt and len(prompt) == system:
        faults.append(Fault("no_messages", "prompt", "only a system message", "at least one message of the user"))
    check_ends([turn["role"] for turn in prompt[system:]], "prompt", "role", faults, offset=system)
    for index, turn in enumerate(prompt[1:], 1):
        if turn["role"] == "system":
            faults.append(
                Fault("wrong_turn", f"prompt[{index}].role", '"system"', "a system message only at the start")
            )
    if instruction and not system:
        prompt = [{"role": "system", "content": instruction}, *prompt]
    if not preference:
        return Row(prompt)
    before = len(faults)
    chosen, rejected = _read_answer(record, "chosen", faults), _read_answer(record, "rejected", faults)
    if len(faults) == before:
        check_different(chosen, rejected, "rejected", "chosen", faults)
    return Row(prompt, chosen, rejected)


def _read_answer(record: Mapping[str, object], field: str, faults: list[Fault]) -> str:
    """Return the text of an answer: an array of one message of the assistant."""
    turns = _read_messages(record[field], field, faults)
    if not turns:
        return ""
    if len(turns) > 1:
        accepted = "one message of the assistant: leave out those that repeat prompt"
        faults.append(Fault("wrong_turn", field, f"{len(turns)} messages", accepted))
    elif turns[0]["role"] in ("user", "system"):
        faults.append(Fault("wrong_turn", f"{field}[0].role", describe(turns[0]["role"]), '"assistant"'))
    return turns[0]["content"]


def _read_messages(messages: object, field: str, faults: list[Fault]) -> Conversation:
    return [
        read_message(message, f"{field}[{index}]", key="role", speakers=_ROLES, faults=faults)
        for index, message in enumerate(read_objects(messages, field, faults))
    ]


def prompt_columns(rows: Sequence[Prompt | Preference], *, instruction: str) -> Columns | None:
    """Return prompt rows by column, or None where a row needs a closer look."""
    default = [encode_turn("system", encode_text(instruction))] if instruction else []
    prompts: list[bytes] = []
    keys: list[JsonString] = []
    texts: list[Raw] = []
    for row in rows:
        roles = [message.role for message in row.prompt]
        begin = 1 if roles[:1] == ["system"] else 0
        if roles[begin : begin + 1] != ["user"] or roles[-1] != "user" or "system" in roles[begin:]:
            return None
        texts += [message.content for message in row.prompt]
        turns = [encode_turn(message.role, message.content) for message in row.prompt]
        prompts.append(join_turns(turns if begin else [*default, *turns]))
        keys.append(prompts[-1] if default or len(turns) > 1 else row.prompt[0].content)
    return conversations(prompts, keys, texts, (), 2 * len(rows) + 6 * len(texts))


def preference_columns(rows: Sequence[Preference], *, instruction: str) -> Columns | None:
    """Return preference rows by column, or None where a row needs a closer look."""
    columns = prompt_columns(rows, instruction=instruction)
    for answers in ([row.chosen for row in rows], [row.rejected for row in rows]):
        if any(len(answer) != 1 or answer[0].role != "assistant" for answer in answers):
            return None
    chosen = [row.chosen[0].content for row in rows]
    rejected = [row.rejected[0].content for row in rows]
    return columns and columns._replace(
        chosen=chosen,
        rejected=rejected,
        quotes=columns.quotes + 16 * len(rows),
    )
