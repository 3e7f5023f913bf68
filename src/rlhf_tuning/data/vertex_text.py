"""Vertex text rows.

    {"input_text": "..."}
    {"input_text": "...", "candidate_0": "...", "candidate_1": "...", "choice": 0}

The prompt is one user turn: the instruction, an empty line, and the text.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from msgspec import Raw, Struct

from rlhf_tuning.data.batch import Columns, JsonString
from rlhf_tuning.data.fields import PREFERENCE_FIELDS, check_fields, kind_of, read_preference, read_text
from rlhf_tuning.data.problems import Fault
from rlhf_tuning.data.rows import Kind, Row, encode_text

FIELDS = "input_text (and candidate_0, candidate_1, choice)"
_PROMPT = ("input_text",)
_PREFERENCE = ("input_text", *PREFERENCE_FIELDS)


class Prompt(Struct, forbid_unknown_fields=True, gc=False):
    """The fields of a prompt row, for reading many at once."""

    input_text: Raw


class Preference(Struct, forbid_unknown_fields=True, gc=False):
    """The fields of a preference row, for reading many at once."""

    input_text: Raw
    candidate_0: Raw
    candidate_1: Raw
    choice: Literal[0, 1]


def recognises(record: Mapping[str, object]) -> bool:
    """Say whether a row is of this format."""
    return "input_text" in record


def parse(
    record: Mapping[str, object], *, accepts: Collection[Kind], instruction: str, faults: list[Fault]
) -> Row | None:
    """Return the canonical row; it counts only when nothing was added to `faults`."""
    preference = kind_of(record, accepts) == "preference"
    if not check_fields(record, faults, required=_PREFERENCE if preference else _PROMPT):
        return None
    text = read_text(record["input_text"], "input_text", faults)
    prompt = [{"role": "user", "content": f"{instruction}\n\n{text}" if instruction else text}]
    return Row(prompt, *read_preference(record, faults)) if preference else Row(prompt)


def prompt_columns(rows: Sequence[Prompt], *, instruction: str) -> Columns | None:
    """Return prompt rows by column."""
    return user_columns([row.input_text for row in rows], instruction)


def preference_columns(rows: Sequence[Preference], *, instruction: str) -> Columns | None:
    """Return preference rows by column."""
    return user_columns([row.input_text for row in rows], instruction)._replace(
        chosen=[row.candidate_1 if row.choice else row.candidate_0 for row in rows],
        rejected=[row.candidate_0 if row.choice else row.candidate_1 for row in rows],
        first_chosen=[not row.choice for row in rows],
        quotes=8 * len(rows),
    )


def user_columns(texts: Sequence[JsonString], instruction: str) -> Columns:
    """Return prompts of one user turn each by column, from their texts. One key a row is counted in `quotes`."""
    contents = texts
    if instruction:
        begin = encode_text(f"{instruction}\n\n")[:-1]
        contents = [begin + bytes(text)[1:] for text in texts]
    return Columns(
        prompts=contents,
        begin=b'[{"role": "user", "content": ',
        end=b"}]",
        keys=contents,
        chosen=(),
        rejected=(),
        first_chosen=(),
        texts=texts,
        open_texts=(),
        quotes=2 * len(texts),
    )
