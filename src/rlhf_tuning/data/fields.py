"""Strict reading of the fields that row formats share. Nothing is converted: `"1"`, `true` and `1.0` are not `1`."""

from collections.abc import Collection, Mapping, Sequence
from typing import cast

from rlhf_tuning.data.nearest import closest_field, may_be
from rlhf_tuning.data.problems import Fault, describe, shorten
from rlhf_tuning.data.rows import Kind
from rlhf_tuning.data.shape import Field

#: What turns a Vertex prompt row into a preference row.
PREFERENCE_FIELDS = ("candidate_0", "candidate_1", "choice")
CANDIDATES = (("candidate_0", Field.FIRST), ("candidate_1", Field.SECOND), ("choice", Field.CHOICE))

#: What a preference of any format may have besides.
MARGIN = ("margin",)
#: What a prompt of any format may have besides.
REFERENCES = ("references",)
#: A larger one would outweigh all other rows.
MOST_MARGIN = 10

_TEXT = "a non-empty string"


def kind_of(
    record: Mapping[str, object], accepts: Collection[Kind], preference_fields: Collection[str] = PREFERENCE_FIELDS
) -> Kind:
    """Return what a row is to be read as: what is accepted, and where both are, what its fields say."""
    if len(accepts) == 1:
        return next(iter(accepts))
    return "preference" if any(field in record for field in preference_fields) else "prompt"


def check_fields(
    record: Mapping[str, object],
    faults: list[Fault],
    *,
    required: Collection[str],
    optional: Collection[str] = (),
    where: str = "",
) -> bool:
    """Return whether every required field is there and no other; add each that is missing or extra to `faults`.

    Args:
        record: The object.
        faults: What is wrong with the row.
        required: Fields that must be there.
        optional: Fields that may be there.
        where: The path to the object inside its row, such as `messages[0].`.
    """
    # Nearly every row is right, and for those two set comparisons are all it takes.
    if record.keys() == set(required):
        return True
    complete = True
    fields = ", ".join((*required, *(f"optional {field}" for field in optional)))
    extra = [field for field in record if field not in required and field not in optional]
    missing = [field for field in required if field not in record]
    # The only field too many is mostly the only missing one by another name.
    same = extra[0] if len(extra) == len(missing) == 1 and may_be(extra[0], missing[0]) else ""
    for field in required:
        if field not in record:
            complete = False
            found, accepted = "no such field", f"the fields {fields}"
            if misspelt := closest_field(field, extra) or same:
                extra.remove(misspelt)
                found, accepted = f"{shorten(ascii(misspelt)[1:-1])}", f"{accepted}; did you mean {field}?"
            faults.append(Fault("missing_field", where + field, found, accepted))
    for field in extra:
        complete = False
        value = describe(record[field])
        faults.append(Fault("extra_field", where + shorten(ascii(field)[1:-1]), value, f"only the fields {fields}"))
    return complete


def read_text(value: object, field: str, faults: list[Fault], *, blank: bool = False) -> str:
    """Return a text that can be trained on; or an empty one, with the reason added to `faults`.

    Args:
        value: The field's value.
        field: Its name, or path inside the row.
        faults: What is wrong with the row.
        blank: Whether a blank text is accepted.
    """
    if not isinstance(value, str):
        faults.append(Fault("wrong_type", field, describe(value), "a string" if blank else _TEXT))
        return ""
    if not blank and not value.strip():
        faults.append(Fault("blank_text", field, describe(value), _TEXT))
    if "\0" in value:
        faults.append(Fault("nul_character", field, f"NUL at character {value.index(chr(0)) + 1}", "text without NUL"))
    try:
        value.encode()
    except UnicodeEncodeError as error:
        found = f"\\u{ord(value[error.start]):04x} alone at character {error.start + 1}"
        faults.append(Fault("lone_surrogate", field, found, "text of Unicode characters"))
    return value


def read_preference(record: Mapping[str, object], faults: list[Fault], where: str = "") -> tuple[str, str, bool]:
    """Return the chosen and the rejected candidate of an object that has all fields of a Vertex preference.

    The third value says whether the first candidate is the chosen one.
    """
    first, second = (read_text(record[field], where + field, faults) for field in PREFERENCE_FIELDS[:2])
    check_different(first, second, where + "candidate_1", "candidate_0", faults)
    choice = record["choice"]
    accepted = "0 or 1, the index of the preferred candidate"
    if type(choice) is not int:
        accepted += ", without quotes" if choice in ("0", "1") else ""
        faults.append(Fault("wrong_type", where + "choice", describe(choice), accepted))
    elif choice not in (0, 1):
        faults.append(Fault("wrong_choice", where + "choice", describe(choice), accepted))
    else:
        return (first, second, True) if choice == 0 else (second, first, False)
    return "", "", False


def read_margin(record: Mapping[str, object], faults: list[Fault]) -> float | None:
    """Return by how much the preferred answer is better, None where a row does not say.

    It is what the score of the preferred answer is to exceed that of the other one by: 1 is about a clear difference, as
    people who annotate by degrees have it, and 0 asks for nothing more than a row without a margin.
    """
    if "margin" not in record:
        return None
    margin = record["margin"]
    accepted = f"a number from 0 to {MOST_MARGIN}"
    if isinstance(margin, bool) or not isinstance(margin, int | float):
        faults.append(Fault("wrong_type", "margin", describe(margin), accepted))
    elif not 0 <= margin <= MOST_MARGIN:
        faults.append(Fault("wrong_margin", "margin", describe(margin), accepted))
    else:
        return float(margin)
    return None


def read_references(record: Mapping[str, object], faults: list[Fault]) -> dict[str, str] | None:
    """Return what rewards hold the answers to a prompt against, texts by name; None where a row has none."""
    if "references" not in record:
        return None
    references = record["references"]
    if not isinstance(references, dict) or not references:
        accepted = 'an object of texts by name: {"answer": "..."}'
        faults.append(Fault("wrong_type", "references", describe(references), accepted))
        return None
    return {
        read_text(name, f"references, name {index}", faults): read_text(
            text, f"references.{shorten(ascii(name)[1:-1])}", faults, blank=True
        )
        for index, (name, text) in enumerate(references.items(), 1)
    }


def check_different(one: str, other: str, field: str, other_field: str, faults: list[Fault]) -> None:
    """Add a fault when the two answers of a preference are the same text, but for white space around it."""
    if one.strip() == other.strip() and one.strip():
        found = f"the text of {other_field}{'' if one == other else ', but for white space around it'}"
        faults.append(Fault("identical_candidates", field, found, "two texts that differ"))


def read_objects(value: object, field: str, faults: list[Fault]) -> list[Mapping[str, object] | None]:
    """Return the objects of an array of messages, None for each that is none."""
    if not isinstance(value, list):
        faults.append(Fault("wrong_type", field, describe(value), "an array of messages"))
        return []
    if not value:
        faults.append(Fault("no_messages", field, "an empty array", "at least one message of the user"))
    for index, item in enumerate(value):
        if not isinstance(item, dict):
            faults.append(Fault("wrong_type", f"{field}[{index}]", describe(item), "an object, one message"))
    return [cast(dict[str, object], item) if isinstance(item, dict) else None for item in value]


def read_message(
    record: Mapping[str, object] | None, path: str, *, key: str, speakers: Sequence[str], faults: list[Fault]
) -> dict[str, str]:
    """Return the turn that one message is; an empty one where it cannot be read.

    Args:
        record: The message; None where it is no object, which `read_objects` has said already.
        path: The path to it inside its row.
        key: The name of the field that tells who speaks.
        speakers: What that field may hold.
        faults: What is wrong with the row.
    """
    if record is None or not check_fields(record, faults, required=(key, "content"), where=f"{path}."):
        return {"role": "", "content": ""}
    speaker = record[key]
    quoted = [f'"{name}"' for name in speakers]
    accepted = f"{', '.join(quoted[:-1])} or {quoted[-1]}"
    if not isinstance(speaker, str):
        faults.append(Fault("wrong_type", f"{path}.{key}", describe(speaker), accepted))
        speaker = ""
    elif speaker not in speakers:
        faults.append(Fault("wrong_author", f"{path}.{key}", describe(speaker), accepted))
    return {"role": speaker, "content": read_text(record["content"], f"{path}.content", faults)}


def check_ends(
    roles: Sequence[str], field: str, key: str, faults: list[Fault], offset: int = 0, answerer: str = "assistant"
) -> None:
    """Add a fault where the first or the last of a conversation's messages is the assistant's.

    Args:
        roles: Who speaks in each message, without a leading system message.
        field: The array's name.
        key: The name of the field that tells who speaks.
        faults: What is wrong with the row.
        offset: How many messages stand before the first of `roles`.
        answerer: What that field calls the assistant.
    """
    for index in sorted({0, len(roles) - 1}) if roles else ():
        if roles[index] == "assistant":
            place = "first" if index == 0 else "last"
            path = f"{field}[{index + offset}].{key}"
            faults.append(Fault("wrong_turn", path, f'"{answerer}"', f'"user" in the {place} message'))
