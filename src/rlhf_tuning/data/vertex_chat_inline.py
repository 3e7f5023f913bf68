"""Vertex chat preferences as the RLHF notebook wrote them: the candidates sit inside the last message.

    {"messages": [..., {"author": "user", "content": "...", "candidate_0": "...", "candidate_1": "...", "choice": 0}],
     "context": "..."}

All else is as in `vertex_chat`.
"""

from collections.abc import Collection, Mapping
from typing import cast

from rlhf_tuning.data import vertex_chat
from rlhf_tuning.data.fields import CANDIDATES, PREFERENCE_FIELDS, check_fields, read_preference
from rlhf_tuning.data.problems import Fault
from rlhf_tuning.data.rows import Kind, Row
from rlhf_tuning.data.shape import Shape

FIELDS = "messages (and candidate_0, candidate_1, choice)"


SHAPES: dict[Kind, Shape] = {"preference": Shape(row=vertex_chat.CHAT, message=(*vertex_chat.MESSAGE, *CANDIDATES))}


def recognises(record: Mapping[str, object]) -> bool:
    """Say whether a row is of this format."""
    messages = record.get("messages")
    if not isinstance(messages, list) or not messages or not isinstance(messages[-1], dict):
        return False
    return any(field in messages[-1] and field not in record for field in PREFERENCE_FIELDS)


def parse(
    record: Mapping[str, object], *, accepts: Collection[Kind], instruction: str, faults: list[Fault]
) -> Row | None:
    """Return the canonical row; it counts only when nothing was added to `faults`."""
    if "preference" not in accepts:
        return vertex_chat.parse(record, accepts=accepts, instruction=instruction, faults=faults)
    if not check_fields(record, faults, required=("messages",), optional=("context",)):
        return None
    messages = cast(list[object], record["messages"])
    last = cast(dict[str, object], messages[-1])
    where = f"messages[{len(messages) - 1}]."
    if not check_fields(last, faults, required=("author", "content", *PREFERENCE_FIELDS), where=where):
        return None
    prompt = vertex_chat.read_context(record, instruction, faults)
    plain = {field: value for field, value in last.items() if field not in PREFERENCE_FIELDS}
    prompt += vertex_chat.read_messages([*messages[:-1], plain], faults)
    return Row(prompt, *read_preference(last, faults, where))
