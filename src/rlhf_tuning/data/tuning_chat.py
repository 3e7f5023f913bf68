"""Vertex's chat rows for supervised tuning.

    {"context": "...", "messages": [{"author": "user", "content": "..."}, {"author": "assistant", "content": "..."}, ...]}

The first message is the user's and the last one the assistant's. Every answer is a demonstration, with all before it as its
prompt. `context` is as in `vertex_chat`.
"""

from collections.abc import Collection, Mapping

from rlhf_tuning.data.dialogue import read_dialogue
from rlhf_tuning.data.fields import check_fields, read_message, read_objects
from rlhf_tuning.data.problems import Fault
from rlhf_tuning.data.rows import Kind, Row
from rlhf_tuning.data.shape import Shape
from rlhf_tuning.data.vertex_chat import read_context

FIELDS = "messages"
SHAPES: dict[Kind, Shape] = {}


def recognises(record: Mapping[str, object]) -> bool:
    """Say whether a row is of this format."""
    return "messages" in record


def parse(
    record: Mapping[str, object], *, accepts: Collection[Kind], instruction: str, faults: list[Fault]
) -> Row | None:
    """Return the canonical row; it counts only when nothing was added to `faults`."""
    if not check_fields(record, faults, required=("messages",), optional=("context",)):
        return None
    context = read_context(record, instruction, faults)
    turns = [
        read_message(message, f"messages[{index}]", key="author", speakers=("user", "assistant"), faults=faults)
        for index, message in enumerate(read_objects(record["messages"], "messages", faults))
    ]
    row = read_dialogue(turns, "messages", "author", faults)
    return row and row._replace(prompt=[*context, *row.prompt])
