"""The row formats. To add one: a file like `vertex_text.py`, a line in `FORMATS`, and its test."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple, Protocol

from rlhf_tuning.data import (
    chat_messages,
    feedback,
    gemini_contents,
    gemini_preferences,
    prompt_completion,
    trl_conversational,
    trl_standard,
    tuning_chat,
    tuning_text,
    vertex_chat,
    vertex_chat_inline,
    vertex_text,
)
from rlhf_tuning.data.fields import PREFERENCE_FIELDS
from rlhf_tuning.data.nearest import nearest_format
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

    Attributes:
        name: As problems and reports call it.
        fields: What it is known by.
        recognises: Says whether an object is of this format.
        parse: Reads one row carefully, and says all that is wrong with it.
        shapes: What rows of each kind look like to the fast path; None for a kind that it does not read. It reads no
            demonstrations.
    """

    name: str
    fields: str
    recognises: Callable[[Mapping[str, object]], bool]
    parse: Parser
    shapes: Mapping[Kind, Shape | None]


def _format(module: Any) -> Format:
    """Return the format that a module of this package, or what is like one, defines, named as it is."""
    return Format(module.__name__.rpartition(".")[2], module.FIELDS, module.recognises, module.parse, module.SHAPES)


#: Of prompts and preferences. The first that recognises a row parses it.
FORMATS = (
    _format(vertex_text),
    _format(vertex_chat_inline),
    _format(vertex_chat),
    _format(trl_conversational),
    _format(trl_standard),
    _format(gemini_preferences),
)
#: Of demonstrations, likewise.
DEMONSTRATION_FORMATS = (
    _format(tuning_text),
    _format(chat_messages),
    _format(tuning_chat),
    _format(gemini_contents),
    _format(prompt_completion),
)

#: Of feedback, likewise.
FEEDBACK_FORMATS = tuple(map(_format, feedback.FORMATS))

_AS_PROMPT: tuple[Kind, ...] = ("prompt",)
_AS_DEMONSTRATION: tuple[Kind, ...] = ("demonstration",)
_WITH: dict[Kind, str] = {"prompt": "without", "preference": "with"}


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
    if "prompt" in accepts and "demonstration" in accepts:
        return _parse_to_label(record, instruction, faults)
    return _parse(record, accepts, instruction, faults)


def _parse_to_label(record: Mapping[str, object], instruction: str, faults: list[Fault]) -> tuple[Format, Row] | None:
    """Return a prompt as a demonstration whose answer is still empty, or else a demonstration."""
    as_prompt: list[Fault] = []
    if parsed := _parse(record, _AS_PROMPT, instruction, as_prompt):
        return parsed[0], parsed[1]._replace(answer="", references=None)
    parsed = _parse(record, _AS_DEMONSTRATION, instruction, faults)
    if len(as_prompt) < len(faults) or any(fault.code == "missing_field" for fault in faults):
        faults[:] = as_prompt
    return parsed


def _parse(
    record: Mapping[str, object], accepts: Collection[Kind], instruction: str, faults: list[Fault]
) -> tuple[Format, Row] | None:
    row_format = next((row_format for row_format in _formats(accepts) if row_format.recognises(record)), None)
    if row_format is not None:
        row = row_format.parse(record, accepts=accepts, instruction=instruction, faults=faults)
        if row is not None and not faults:
            return row_format, row
    if fault := _row_fault(record, row_format, accepts):
        faults[:] = [fault]
    return None


def _formats(accepts: Collection[Kind]) -> tuple[Format, ...]:
    if "feedback" in accepts:
        return FEEDBACK_FORMATS
    return DEMONSTRATION_FORMATS if "demonstration" in accepts else FORMATS


def _row_fault(record: Mapping[str, object], row_format: Format | None, accepts: Collection[Kind]) -> Fault | None:
    """Return the one fault that explains all that is wrong with a row, where there is one."""
    fields = record.keys()
    shown = f"the fields {shorten(', '.join(ascii(field)[1:-1] for field in record)) or 'none'}"
    whole_turns = _is_conversation(record.get("chosen")) and not isinstance(record.get("prompt"), list)
    vertex = fields & {"input_text", "messages", "contents"}
    trl = fields & set(trl_standard.PREFERENCE)
    if row_format is None or whole_turns or len(vertex) > 1 or (trl and (vertex or fields >= {*PREFERENCE_FIELDS})):
        if whole_turns and "preference" in accepts:
            accepted = "prompt, chosen and rejected as messages, and nothing else"
        else:
            shapes = tuple(
                fields
                for each in _formats(accepts)
                for kind in accepts
                if kind == "demonstration" or kind in each.shapes
                for fields in _fields_of(each, kind)
            )
            accepted = nearest_format(tuple(islice(record, 100)), shapes)
            known = " or ".join(dict.fromkeys(each.fields for each in _formats(accepts)))
            accepted = accepted or f"a row with {known}"
        if row_format is None:
            return Fault("unknown_format", "", shown, accepted)
        return Fault("several_formats", "", shown, accepted)
    if "feedback" in accepts:
        return None
    if "demonstration" in accepts:
        return _without_answer(record)
    if len(accepts) == 1:
        [kind] = accepts
        other: Kind = "prompt" if kind == "preference" else "preference"
        ignored: list[Fault] = []
        if row_format.parse(record, accepts=(other,), instruction="", faults=ignored) is not None and not ignored:
            found = f"a row {_WITH[other]} preference fields, which belongs into {other}_dataset"
            return Fault("wrong_kind", "", found, f"rows {_WITH[kind]} preference fields")
    return None


def _without_answer(record: Mapping[str, object]) -> Fault | None:
    """Return what is wrong with a good row that is no demonstration."""
    row_format = next((row_format for row_format in FORMATS if row_format.recognises(record)), None)
    if row_format is None:
        return None
    kinds: tuple[Kind, ...] = ("preference", "prompt")
    for kind in kinds:
        ignored: list[Fault] = []
        if row_format.parse(record, accepts=(kind,), instruction="", faults=ignored) is not None and not ignored:
            found = f"a row {_WITH[kind]} preference fields, which belongs into {kind}_dataset"
            return Fault("wrong_kind", "", found, "rows with the answer that is to be learnt")
    return None


def _fields_of(row_format: Format, kind: Kind) -> Iterator[tuple[str, ...]]:
    """Yield which fields a row of a format has; feedback has one field or another."""
    names = [name for name in re.findall(r"\w+", row_format.fields) if name not in ("and", "or")]
    if kind == "feedback":
        yield from ((*names[:-2], judged) for judged in names[-2:])
    else:
        yield (names[0],) if kind == "prompt" else tuple(names)


def _is_conversation(value: object) -> bool:
    """Say whether an answer is the whole conversation that it ends, as on many datasets of the Hugging Face hub."""
    return (
        isinstance(value, list) and len(value) > 1 and all(isinstance(turn, dict) and "role" in turn for turn in value)
    )
