"""TRL rows in its standard format.

    {"prompt": "..."}
    {"prompt": "...", "chosen": "...", "rejected": "..."}

The prompt is one user turn: the instruction, an empty line, and the text.
"""

from collections.abc import Collection, Mapping, Sequence

from msgspec import Raw, Struct

from rlhf_tuning.data.batch import Columns
from rlhf_tuning.data.fields import check_different, check_fields, kind_of, read_text
from rlhf_tuning.data.problems import Fault
from rlhf_tuning.data.rows import Kind, Row
from rlhf_tuning.data.vertex_text import user_columns

FIELDS = "prompt (and chosen, rejected)"
PREFERENCE = ("prompt", "chosen", "rejected")


class Prompt(Struct, forbid_unknown_fields=True, gc=False):
    """The fields of a prompt row, for reading many at once."""

    prompt: Raw


class Preference(Struct, forbid_unknown_fields=True, gc=False):
    """The fields of a preference row, for reading many at once."""

    prompt: Raw
    chosen: Raw
    rejected: Raw


def recognises(record: Mapping[str, object]) -> bool:
    """Say whether a row is of this format."""
    return "prompt" in record


def parse(
    record: Mapping[str, object], *, accepts: Collection[Kind], instruction: str, faults: list[Fault]
) -> Row | None:
    """Return the canonical row; it counts only when nothing was added to `faults`."""
    preference = kind_of(record, accepts, PREFERENCE[1:]) == "preference"
    if not check_fields(record, faults, required=PREFERENCE if preference else PREFERENCE[:1]):
        return None
    text = read_text(record["prompt"], "prompt", faults)
    prompt = [{"role": "user", "content": f"{instruction}\n\n{text}" if instruction else text}]
    if not preference:
        return Row(prompt)
    chosen = read_text(record["chosen"], "chosen", faults)
    rejected = read_text(record["rejected"], "rejected", faults)
    check_different(chosen, rejected, "rejected", "chosen", faults)
    return Row(prompt, chosen, rejected)


def prompt_columns(rows: Sequence[Prompt], *, instruction: str) -> Columns | None:
    """Return prompt rows by column."""
    return user_columns([row.prompt for row in rows], instruction)


def preference_columns(rows: Sequence[Preference], *, instruction: str) -> Columns | None:
    """Return preference rows by column."""
    return user_columns([row.prompt for row in rows], instruction)._replace(
        chosen=[row.chosen for row in rows], rejected=[row.rejected for row in rows], quotes=6 * len(rows)
    )
