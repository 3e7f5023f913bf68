"""Gemini's rows for supervised tuning.

    {"systemInstruction": {"parts": [{"text": "..."}]},
     "contents": [{"role": "user", "parts": [{"text": "..."}]}, {"role": "model", "parts": [{"text": "..."}]}, ...]}

`systemInstruction`, which may be written `system_instruction` too, is optional; its role means nothing. Where it stands, it
takes the place of the instruction. The first content is the user's and the last one the model's. Every answer is a
demonstration, with all before it as its prompt. Parts are texts, put together as they stand; any other part is refused.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import cast

from rlhf_tuning.data.dialogue import read_dialogue, with_system
from rlhf_tuning.data.fields import check_fields, read_objects, read_text
from rlhf_tuning.data.problems import Fault, describe
from rlhf_tuning.data.rows import Conversation, Kind, Row
from rlhf_tuning.data.shape import Shape

FIELDS = "contents"
SHAPES: dict[Kind, Shape] = {}
SYSTEM = ("systemInstruction", "system_instruction")
_ROLES = {"user": "user", "model": "assistant"}


def recognises(record: Mapping[str, object]) -> bool:
    """Say whether a row is of this format."""
    return "contents" in record


def parse(
    record: Mapping[str, object], *, accepts: Collection[Kind], instruction: str, faults: list[Fault]
) -> Row | None:
    """Return the canonical row; it counts only when nothing was added to `faults`."""
    if not check_fields(record, faults, required=("contents",), optional=SYSTEM):
        return None
    system = read_system(record, instruction, faults)
    row = read_dialogue(read_contents(record, faults), "contents", "role", faults, answerer="model")
    return row and with_system(row, system)


def read_system(record: Mapping[str, object], instruction: str, faults: list[Fault]) -> str:
    """Return the system instruction of a row, by either of its names; without one the instruction."""
    given = [field for field in SYSTEM if field in record]
    if len(given) > 1:
        faults.append(Fault("extra_field", given[1], describe(record[given[1]]), f"one of {' and '.join(given)}"))
    return _read_system(record[given[0]], given[0], faults) if given else instruction


def read_contents(record: Mapping[str, object], faults: list[Fault]) -> Conversation:
    """Return the turns that a row's contents are."""
    return [
        read_content(content, f"contents[{index}]", faults)
        for index, content in enumerate(read_objects(record["contents"], "contents", faults))
    ]


def _read_system(value: object, field: str, faults: list[Fault]) -> str:
    if not isinstance(value, dict):
        faults.append(Fault("wrong_type", field, describe(value), "an object with parts"))
        return ""
    if not check_fields(value, faults, required=("parts",), optional=("role",), where=f"{field}."):
        return ""
    return _read_parts(value["parts"], f"{field}.parts", faults)


def read_content(content: Mapping[str, object] | None, path: str, faults: list[Fault]) -> dict[str, str]:
    """Return the turn that one content is; an empty one where it cannot be read."""
    if content is None or not check_fields(content, faults, required=("role", "parts"), where=f"{path}."):
        return {"role": "", "content": ""}
    role = content["role"]
    if not isinstance(role, str) or role not in _ROLES:
        code = "wrong_author" if isinstance(role, str) else "wrong_type"
        faults.append(Fault(code, f"{path}.role", describe(role), '"user" or "model"'))
        role = ""
    return {"role": _ROLES.get(role, ""), "content": _read_parts(content["parts"], f"{path}.parts", faults)}


def _read_parts(parts: object, path: str, faults: list[Fault]) -> str:
    """Return the text of some parts."""
    if not isinstance(parts, list) or not parts:
        faults.append(Fault("wrong_type", path, describe(parts), "an array of at least one part"))
        return ""
    texts = []
    for index, part in enumerate(cast(Sequence[object], parts)):
        if not isinstance(part, dict):
            faults.append(Fault("wrong_type", f"{path}[{index}]", describe(part), 'an object, {"text": "..."}'))
            continue
        others = [field for field in part if field != "text"]
        for field in others:
            accepted = 'only parts of text: {"text": "..."}'
            faults.append(Fault("extra_field", f"{path}[{index}].{field}", describe(part[field]), accepted))
        if "text" in part or not others:
            texts.append(read_text(part.get("text"), f"{path}[{index}].text", faults, blank=True))
    text = "".join(texts)
    if texts and not text.strip() and len(texts) == len(parts):
        faults.append(Fault("blank_text", path, "parts without a text", "a non-empty text"))
    return text
