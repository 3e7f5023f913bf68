"""What the rows of a format look like to the fast path, which is written in C and knows no format by name."""

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property


class Field(IntEnum):
    """What a field holds; the numbers are those of `read_rows.c`."""

    PROMPT = 0  # a text
    FIRST = 1  # the first candidate, or the preferred answer
    SECOND = 2
    CONTEXT = 3  # a text that may be blank or missing, in place of the instruction
    MESSAGES = 4  # a conversation
    CHOICE = 5
    SPEAKER = 6
    CONTENT = 7


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Rows of one format and kind.

    Args:
        row: Name and meaning of the fields of a row.
        message: Likewise of a message; what is neither `SPEAKER` nor `CONTENT` stands in the last one only.
        system: Whether a conversation may begin with a system message.
        answers: Whether an answer is an array of one message.
    """

    row: tuple[tuple[str, Field], ...]
    message: tuple[tuple[str, Field], ...] = ()
    system: bool = False
    answers: bool = False

    @cached_property
    def required(self) -> frozenset[Field]:
        """Return what every row has."""
        fields = {field for _, field in (*self.row, *self.message)}
        return frozenset(fields - {Field.CONTEXT, Field.SPEAKER, Field.CONTENT})
