"""Vertex chat preferences as the RLHF notebook wrote them: the candidates sit inside the last message.

    {"messages": [..., {"author": "user", "content": "...", "candidate_0": "...", "candidate_1": "...", "choice": 0}],
     "context": "..."}

All else is as in `vertex_chat`.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, cast

from msgspec import UNSET, Raw, Struct, UnsetType

from rlhf_tuning.data import vertex_chat
from rlhf_tuning.data.batch import Columns
from rlhf_tuning.data.fields import PREFERENCE_FIELDS, check_fields, read_preference
from rlhf_tuning.data.problems import Fault
from rlhf_tuning.data.rows import Kind, Row

FIELDS = "messages (and candidate_0, candidate_1, choice)"


class Message(Struct, forbid_unknown_fields=True, gc=False):
    """The fields of a message, for reading many rows at once."""

    author: Literal["user", "assistant"]
    content: Raw
    candidate_0: Raw | UnsetType = UNSET
    candidate_1: Raw | UnsetType = UNSET
    choice: Literal[0, 1] | UnsetType = UNSET


class Preference(Struct, forbid_unknown_fields=True, gc=False):
    """The fields of a preference row, for reading many at once."""

    messages: list[Message]
    context: Raw | UnsetType = UNSET


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


def preference_columns(rows: Sequence[Preference], *, instruction: str) -> Columns | None:
    """Return preference rows by column, or None where a row needs a closer look."""
    chosen: list[Raw] = []
    rejected: list[Raw] = []
    first_chosen: list[bool] = []
    for row in rows:
        if not row.messages:
            return None
        # Candidates in any other message show in the count of quotation marks.
        last = row.messages[-1]
        if last.candidate_0 is UNSET or last.candidate_1 is UNSET or last.choice is UNSET:
            return None
        candidates = (last.candidate_0, last.candidate_1)
        choice = int(last.choice)
        chosen.append(candidates[choice])
        rejected.append(candidates[1 - choice])
        first_chosen.append(choice == 0)
    columns = vertex_chat.conversation_columns(cast(Sequence[vertex_chat.Prompt], rows), instruction=instruction)
    return columns and columns._replace(
        chosen=chosen,
        rejected=rejected,
        first_chosen=first_chosen,
        quotes=columns.quotes + 6 * len(rows),
    )
