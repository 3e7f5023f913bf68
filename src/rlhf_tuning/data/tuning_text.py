"""Vertex's text rows for supervised tuning.

    {"input_text": "...", "output_text": "..."}

The prompt is one user turn: the instruction, an empty line, and the text.
"""

from collections.abc import Collection, Mapping

from rlhf_tuning.data.fields import check_fields, read_text
from rlhf_tuning.data.problems import Fault
from rlhf_tuning.data.rows import Kind, Row
from rlhf_tuning.data.shape import Shape

FIELDS = "input_text and output_text"
SHAPES: dict[Kind, Shape] = {}


def recognises(record: Mapping[str, object]) -> bool:
    """Say whether a row is of this format."""
    return "input_text" in record or "output_text" in record


def parse(
    record: Mapping[str, object], *, accepts: Collection[Kind], instruction: str, faults: list[Fault]
) -> Row | None:
    """Return the canonical row; it counts only when nothing was added to `faults`."""
    if not check_fields(record, faults, required=("input_text", "output_text")):
        return None
    text = read_text(record["input_text"], "input_text", faults)
    answer = read_text(record["output_text"], "output_text", faults)
    return Row([{"role": "user", "content": f"{instruction}\n\n{text}" if instruction else text}], answer=answer)
