"""The row formats. To add one: a file like `vertex_text.py`, a line in `FORMATS`, and its test."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, Protocol

from rlhf_tuning.data import trl_conversational, trl_standard, vertex_chat, vertex_chat_inline, vertex_text
from rlhf_tuning.data.problems import Fault, shorten
from rlhf_tuning.data.rows import Kind, Row
from rlhf_tuning.data.shape import Shape
from rlhf_tuning.data.strict_json import decode_object


class Parser(Protocol):
    """Turns one object into a canonical row, adding what is wrong with it to `faults`."""

    def __call__(
        self, record: Mapping[str, object], *, accepts: Collection[Kind], instruction: str, faults: list[Fault]
    ) -> Row | None:
        """Return the canonical row; it counts only when nothing was added to `faults`."""


class Format(NamedTuple):
    """One row format.

    Args:
        name: As problems and reports call it.
        fields: What it is known by.
        recognises: Says whether an object is of this format.
        parse: Reads one row carefully, and says all that is wrong with it.
        shapes: What rows of each kind look like to the fast path.
    """

    name: str
    fields: str
    recognises: Callable[[Mapping[str, object]], bool]
    parse: Parser
    shapes: Mapping[Kind, Shape]


def _format(module: Any) -> Format:
    """Return the format that a module of this package defines, named as the module is."""
    return Format(module.__name__.rpartition(".")[2], module.FIELDS, module.recognises, module.parse, module.SHAPES)


#: The first that recognises a row parses it.
FORMATS = (
    _format(vertex_text),
    _format(vertex_chat_inline),
    _format(vertex_chat),
    _format(trl_conversational),
    _format(trl_standard),
)


def parse_line(
    raw: bytes, *, accepts: Collection[Kind], instruction: str, faults: list[Fault]
) -> tuple[Format, Row] | None:
    """Return the canonical row that a line holds, with its format; or None, with every reason added to `faults`.

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
            return None if faults or row is None else (row_format, row)
    fields = shorten(", ".join(ascii(field)[1:-1] for field in record)) or "none"
    known = " or ".join(dict.fromkeys(row_format.fields for row_format in FORMATS))
    faults.append(Fault("unknown_format", "", f"the fields {fields}", f"a row with {known}"))
    return None
