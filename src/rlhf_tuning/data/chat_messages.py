"""Chat rows as servers of the OpenAI kind have them, and Vertex for open models.

    {"messages": [{"role": "system" | "user" | "assistant", "content": "..."}, ...]}

A system message may stand at the beginning; without one, the instruction becomes it. After it, the first message is the
user's and the last one the assistant's. Every answer is a demonstration, with all before it as its prompt. The assistant may
be called `model`, as in rows for the first Gemini models.
"""

from collections.abc import Collection, Mapping

from rlhf_tuning.data.dialogue import read_dialogue, with_system
from rlhf_tuning.data.fields import check_fields, read_message, read_objects
from rlhf_tuning.data.problems import Fault
from rlhf_tuning.data.rows import Conversation, Kind, Row
from rlhf_tuning.data.shape import Shape

FIELDS = "messages"
SHAPES: dict[Kind, Shape] = {}
_ROLES = ("system", "user", "assistant", "model")


def recognises(record: Mapping[str, object]) -> bool:
    """Say whether a row is of this format."""
    messages = record.get("messages")
    return isinstance(messages, list) and any(isinstance(message, dict) and "role" in message for message in messages)


def parse(
    record: Mapping[str, object], *, accepts: Collection[Kind], instruction: str, faults: list[Fault]
) -> Row | None:
    """Return the canonical row; it counts only when nothing was added to `faults`."""
    if not check_fields(record, faults, required=("messages",)):
        return None
    turns = read_roles(record["messages"], "messages", faults)
    system = turns[0]["content"] if turns and turns[0]["role"] == "system" else None
    dialogue = turns if system is None else turns[1:]
    if turns and not dialogue:
        faults.append(Fault("no_messages", "messages", "only a system message", "messages of a user and an assistant"))
    row = read_dialogue(dialogue, "messages", "role", faults, offset=len(turns) - len(dialogue))
    return row and with_system(row, instruction if system is None else system)


def read_roles(messages: object, field: str, faults: list[Fault]) -> Conversation:
    """Return the turns that messages of `role` and `content` are."""
    turns = [
        read_message(message, f"{field}[{index}]", key="role", speakers=_ROLES, faults=faults)
        for index, message in enumerate(read_objects(messages, field, faults))
    ]
    return [turn | {"role": "assistant"} if turn["role"] == "model" else turn for turn in turns]
