"""TRL rows in its conversational format.

    {"prompt": [{"role": "system" | "user" | "assistant", "content": "..."}, ...], "references": {"answer": "..."}}
    {"prompt": [...], "chosen": [{"role": "assistant", "content": "..."}], "rejected": likewise, "margin": 0.5}

`references` and `margin` are optional. A system message may stand at the beginning; without one, the instruction becomes it.
After it, the first and the last message are the user's.
"""

from collections.abc import Collection, Mapping

from rlhf_tuning.data.fields import (
    MARGIN,
    REFERENCES,
    check_different,
    check_ends,
    check_fields,
    kind_of,
    read_margin,
    read_message,
    read_objects,
    read_references,
)
from rlhf_tuning.data.problems import Fault, describe
from rlhf_tuning.data.rows import Conversation, Kind, Row
from rlhf_tuning.data.shape import Field, Shape
from rlhf_tuning.data.trl_standard import PREFERENCE

FIELDS = "prompt (and chosen, rejected)"
_ROLES = ("system", "user", "assistant")


_PROMPT = (("prompt", Field.MESSAGES),)
_MESSAGE = (("role", Field.SPEAKER), ("content", Field.CONTENT))
SHAPES: dict[Kind, Shape] = {
    "prompt": Shape(row=_PROMPT, message=_MESSAGE, system=True),
    "preference": Shape(
        row=(*_PROMPT, ("chosen", Field.FIRST), ("rejected", Field.SECOND)), message=_MESSAGE, system=True, answers=True
    ),
}


def recognises(record: Mapping[str, object]) -> bool:
    """Say whether a row is of this format."""
    return isinstance(record.get("prompt"), list)


def parse(
    record: Mapping[str, object], *, accepts: Collection[Kind], instruction: str, faults: list[Fault]
) -> Row | None:
    """Return the canonical row; it counts only when nothing was added to `faults`."""
    preference = kind_of(record, accepts, PREFERENCE[1:]) == "preference"
    required, optional = (PREFERENCE, MARGIN) if preference else (PREFERENCE[:1], REFERENCES)
    if not check_fields(record, faults, required=required, optional=optional):
        return None
    prompt = read_prompt(record, instruction, faults)
    if not preference:
        return Row(prompt, references=read_references(record, faults))
    before = len(faults)
    chosen, rejected = read_answer(record, "chosen", faults), read_answer(record, "rejected", faults)
    if len(faults) == before:
        check_different(chosen, rejected, "rejected", "chosen", faults)
    return Row(prompt, chosen, rejected, margin=read_margin(record, faults))


def read_prompt(record: Mapping[str, object], instruction: str, faults: list[Fault]) -> Conversation:
    """Return the turns of a prompt of messages."""
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
    return [{"role": "system", "content": instruction}, *prompt] if instruction and not system else prompt


def read_answer(record: Mapping[str, object], field: str, faults: list[Fault]) -> str:
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
