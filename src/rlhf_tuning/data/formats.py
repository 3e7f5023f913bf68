"""The row formats. To add one: a file like `vertex_text.py`, a line in `FORMATS`, and its test."""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple, Protocol

from rlhf_tuning.data import vertex_chat, vertex_text
from rlhf_tuning.data.problems import Fault, shorten
from rlhf_tuning.data.rows import Kind, Row
from rlhf_tuning.data.strict_json import decode_object


class Parser(Protocol):
    """Turns one object into a canonical row, adding what is wrong with it to `faults`."""

    def __call__(
        self, record: Mapping[str, object], *, accepts: Collection[Kind], instruction: str, faults: list[Fault]
    ) -> Row | None:
        """Return the canonical row; it counts only when nothing was added to `faults`."""


class Format(NamedTuple):
    """One row format: its name, the fields it is known by, how a row is recognised, and how it is parsed."""

    name: str
    fields: str
    recognises: Callable[[Mapping[str, object]], bool]
    parse: Parser


#: The first that recognises a row parses it.
FORMATS = (
    Format("vertex_text", vertex_text.FIELDS, vertex_text.recognises, vertex_text.parse),
    Format("vertex_chat", vertex_chat.FIELDS, vertex_chat.recognises, vertex_chat.parse),
)


def parse_line(raw: bytes, *, accepts: Collection[Kind], instruction: str, faults: list[Fault]) -> Row | None:
    """Return the canonical row that a line holds; or None, with every reason added to `faults`.

    Args:
        raw: One line of a file.
        accepts: Which kinds of row may stand there.
        instruction: Prepended to the prompt, as each format defines.
        faults: What is wrong with the row.
    """
    record = decode_object(raw, faults)
    if record is None:
        return None
    for row_format in FORMATS:
        if row_format.recognises(record):
            row = row_format.parse(record, accepts=accepts, instruction=instruction, faults=faults)
            return None if faults else row
    fields = shorten(", ".join(ascii(field)[1:-1] for field in record)) or "none"
    known = " or ".join(row_format.fields for row_format in FORMATS)
    faults.append(Fault("unknown_format", "", f"the fields {fields}", f"a row with {known}"))
    return None
