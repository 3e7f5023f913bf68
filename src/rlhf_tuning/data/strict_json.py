"""One line of bytes to one JSON object, refusing what a lenient parser would let through or quietly repair."""

import json
from typing import cast

from rlhf_tuning.data.problems import Fault, describe, shorten

_ACCEPTED = "one JSON object on each line, in UTF-8"


class DuplicateKeyError(ValueError):
    """A key occurs twice in one object; its text is that key."""


class _ConstantError(ValueError):
    pass


def decode_object(raw: bytes, faults: list[Fault]) -> dict[str, object] | None:
    """Return the object that a line holds; or None, with the reason added to `faults`."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = f"byte 0x{raw[error.start]:02x} at byte {error.start + 1} of the line ({error.reason})"
        faults.append(Fault("invalid_utf8", "", byte, "UTF-8"))
        return None
    try:
        value = DECODER.decode(text)
    except DuplicateKeyError as error:
        faults.append(Fault("duplicate_key", shorten(str(error)), "it twice", "each key once"))
    except _ConstantError as error:
        faults.append(Fault("not_a_number", "", str(error), "JSON without NaN and infinities"))
    except json.JSONDecodeError as error:
        found = f"{error.msg.removesuffix(' at')} at column {error.pos + 1}"
        faults.append(Fault("invalid_json", "", f"{found} of {shorten(ascii(text.strip()))}", _ACCEPTED))
    except RecursionError:
        faults.append(Fault("invalid_json", "", "nesting too deep to read", _ACCEPTED))
    except ValueError as error:  # an integer of thousands of digits
        faults.append(Fault("invalid_json", "", shorten(str(error)), _ACCEPTED))
    else:
        if isinstance(value, dict):
            return cast(dict[str, object], value)
        faults.append(Fault("not_an_object", "", describe(value), _ACCEPTED))
    return None


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    record = dict(pairs)
    if len(record) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise DuplicateKeyError(ascii(key)[1:-1])
            seen.add(key)
    return record


def _refuse_constant(name: str) -> object:
    raise _ConstantError(name)


#: Reads JSON as `decode_object` does.
DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
