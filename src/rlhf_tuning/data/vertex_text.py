"""Vertex text rows.

    {"input_text": "...", "references": {"answer": "..."}}
    {"input_text": "...", "candidate_0": "...", "candidate_1": "...", "choice": 0, "margin": 0.5}

`references` and `margin` are optional. The prompt is one user turn: the instruction, an empty line, and the text.
"""

from collections.abc import Collection, Mapping

from rlhf_tuning.data.fields import (
    CANDIDATES,
    MARGIN,
    PREFERENCE_FIELDS,
    REFERENCES,
    check_fields,
    kind_of,
    read_margin,
    read_preference,
    read_references,
    read_text,
)
from rlhf_tuning.data.problems import Fault
from rlhf_tuning.data.rows import Kind, Row
from rlhf_tuning.data.shape import Field, Shape

FIELDS = "input_text (and candidate_0, candidate_1, choice)"
_PROMPT = ("input_text",)
_PREFERENCE = ("input_text", *PREFERENCE_FIELDS)


SHAPES: dict[Kind, Shape] = {
    "prompt": Shape(row=(("input_text", Field.PROMPT),)),
    "preference": Shape(row=(("input_text", Field.PROMPT), *CANDIDATES)),
}


def recognises(record: Mapping[str, object]) -> bool:
    """Say whether a row is of this format."""
    return "input_text" in record


def parse(
    record: Mapping[str, object], *, accepts: Collection[Kind], instruction: str, faults: list[Fault]
) -> Row | None:
    """Return the canonical row; it counts only when nothing was added to `faults`."""
    preference = kind_of(record, accepts) == "preference"
    required, optional = (_PREFERENCE, MARGIN) if preference else (_PROMPT, REFERENCES)
    if not check_fields(record, faults, required=required, optional=optional):
        return None
    text = read_text(record["input_text"], "input_text", faults)
    prompt = [{"role": "user", "content": f"{instruction}\n\n{text}" if instruction else text}]
    if not preference:
        return Row(prompt, references=read_references(record, faults))
    return Row(prompt, *read_preference(record, faults), margin=read_margin(record, faults))
