"""TRL rows in its standard format.

    {"prompt": "...", "references": {"answer": "..."}}
    {"prompt": "...", "chosen": "...", "rejected": "...", "margin": 0.5}

`references` and `margin` are optional. The prompt is one user turn: the instruction, an empty line, and the text.
"""

from collections.abc import Collection, Mapping

from rlhf_tuning.data.fields import (
    MARGIN,
    REFERENCES,
    check_different,
    check_fields,
    kind_of,
    read_margin,
    read_references,
    read_text,
)
from rlhf_tuning.data.problems import Fault
from rlhf_tuning.data.rows import Kind, Row
from rlhf_tuning.data.shape import Field, Shape

FIELDS = "prompt (and chosen, rejected)"
PREFERENCE = ("prompt", "chosen", "rejected")


SHAPES: dict[Kind, Shape] = {
    "prompt": Shape(row=(("prompt", Field.PROMPT),)),
    "preference": Shape(row=(("prompt", Field.PROMPT), ("chosen", Field.FIRST), ("rejected", Field.SECOND))),
}


def recognises(record: Mapping[str, object]) -> bool:
    """Say whether a row is of this format."""
    return "prompt" in record


def parse(
    record: Mapping[str, object], *, accepts: Collection[Kind], instruction: str, faults: list[Fault]
) -> Row | None:
    """Return the canonical row; it counts only when nothing was added to `faults`."""
    preference = kind_of(record, accepts, PREFERENCE[1:]) == "preference"
    required, optional = (PREFERENCE, MARGIN) if preference else (PREFERENCE[:1], REFERENCES)
    if not check_fields(record, faults, required=required, optional=optional):
        return None
    text = read_text(record["prompt"], "prompt", faults)
    prompt = [{"role": "user", "content": f"{instruction}\n\n{text}" if instruction else text}]
    if not preference:
        return Row(prompt, references=read_references(record, faults))
    chosen = read_text(record["chosen"], "chosen", faults)
    rejected = read_text(record["rejected"], "rejected", faults)
    check_different(chosen, rejected, "rejected", "chosen", faults)
    return Row(prompt, chosen, rejected, margin=read_margin(record, faults))
