"""Strict reading of the fields that row formats share. Nothing is converted: `"1"`, `true` and `1.0` are not `1`."""

from collections.abc import Collection, Mapping

from rlhf_tuning.data.problems import Fault, describe, shorten
from rlhf_tuning.data.rows import Kind

#: What turns a Vertex prompt row into a preference row.
PREFERENCE_FIELDS = ("candidate_0", "candidate_1", "choice")

_TEXT = "a non-empty string"


def kind_of(record: Mapping[str, object], accepts: Collection[Kind]) -> Kind:
    """Return what a Vertex row is to be read as: what is accepted, and where both are, what its fields say."""
    if len(accepts) == 1:
        return next(iter(accepts))
    return "preference" if any(field in record for field in PREFERENCE_FIELDS) else "prompt"


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
    for field in required:
        if field not in record:
            complete = False
            faults.append(Fault("missing_field", where + field, "no such field", f"the fields {fields}"))
    for field in record:
        if field not in required and field not in optional:
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


def read_preference(record: Mapping[str, object], faults: list[Fault]) -> tuple[str, str]:
    """Return the chosen and the rejected candidate of a Vertex preference row that has all its fields."""
    candidates = tuple(read_text(record[field], field, faults) for field in PREFERENCE_FIELDS[:2])
    if candidates[0] == candidates[1] and candidates[0].strip():
        faults.append(Fault("identical_candidates", "candidate_1", "the text of candidate_0", "two texts that differ"))
    choice = record["choice"]
    accepted = "0 or 1, the index of the preferred candidate"
    if type(choice) is not int:
        faults.append(Fault("wrong_type", "choice", describe(choice), accepted))
    elif choice not in (0, 1):
        faults.append(Fault("wrong_choice", "choice", describe(choice), accepted))
    else:
        return candidates[choice], candidates[1 - choice]
    return "", ""
