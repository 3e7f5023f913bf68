"""Prompts with their completions, as TRL and Vertex for open models have them.

    {"prompt": "...", "completion": "..."}
    {"prompt": [{"role": "system" | "user" | "assistant", "content": "..."}, ...],
     "completion": [{"role": "assistant", "content": "..."}]}

The completion alone is learnt. A prompt of messages is as in `trl_conversational`; one that is a text is one user turn: the
instruction, an empty line, and the text.
"""

from collections.abc import Collection, Mapping

from rlhf_tuning.data.fields import check_fields, read_text
from rlhf_tuning.data.problems import Fault
from rlhf_tuning.data.rows import Kind, Row
from rlhf_tuning.data.shape import Shape
from rlhf_tuning.data.trl_conversational import read_answer, read_prompt

FIELDS = "prompt and completion"
SHAPES: dict[Kind, Shape] = {}


def recognises(record: Mapping[str, object]) -> bool:
    """Say whether a row is of this format."""
    return "prompt" in record or "completion" in record


def parse(
    record: Mapping[str, object], *, accepts: Collection[Kind], instruction: str, faults: list[Fault]
) -> Row | None:
    """Return the canonical row; it counts only when nothing was added to `faults`."""
    if not check_fields(record, faults, required=("prompt", "completion")):
        return None
    if isinstance(record["prompt"], list):
        return Row(read_prompt(record, instruction, faults), answer=read_answer(record, "completion", faults))
    text = read_text(record["prompt"], "prompt", faults)
    answer = read_text(record["completion"], "completion", faults)
    return Row([{"role": "user", "content": f"{instruction}\n\n{text}" if instruction else text}], answer=answer)
