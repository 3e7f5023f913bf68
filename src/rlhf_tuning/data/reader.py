r"""Rows of a dataset with the places where they stand.

A byte order mark at the start of a file and `\r\n` at the end of lines are accepted. Blank lines at the end of a file
are too; a blank line before a row is a problem, because it is what an interrupted or doubled writer leaves behind.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from rlhf_tuning.data.formats import parse_line
from rlhf_tuning.data.problems import Fault, Problem, Problems
from rlhf_tuning.data.rows import Kind, Row
from rlhf_tuning.data.sources import Source, read_lines
from rlhf_tuning.errors import DataError, ParameterError

PROMPTS: tuple[Kind, ...] = ("prompt",)
PREFERENCES: tuple[Kind, ...] = ("preference",)
EITHER: tuple[Kind, ...] = ("prompt", "preference")

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_KINDS: dict[Kind, str] = {"prompt": "a row without preference fields", "preference": "a row with preference fields"}


class LocatedRow(NamedTuple):
    """A canonical row and where it was read."""

    row: Row
    file: str
    line: int


def read_rows(
    sources: Sequence[Source],
    *,
    parameter: str,
    accepts: Collection[Kind],
    instruction: str,
    problems: Problems,
) -> Iterator[LocatedRow]:
    """Yield every good row in order; everything that is wrong goes to `problems`.

    Args:
        sources: The dataset's files.
        parameter: The parameter that named them.
        accepts: Which kinds of row may stand there. Where both may, all rows must be of the first row's kind.
        instruction: Prepended to every prompt, as the row's format defines.
        problems: Collects what is wrong.
    """
    first: LocatedRow | None = None
    rows_seen = False
    empty_files: list[str] = []
    for source in sources:
        file_is_empty = True
        faults: list[Fault] = []
        try:
            for line, raw in _row_lines(source, parameter, problems):
                file_is_empty = False
                row = parse_line(raw, accepts=accepts, instruction=instruction, faults=faults)
                if row is not None:
                    located = LocatedRow(row, source.name, line)
                    first = first or located
                    if row.kind == first.row.kind:
                        yield located
                        continue
                    accepted = f"only rows like the first, {_KINDS[first.row.kind]} ({first.file}:{first.line})"
                    faults.append(Fault("mixed_rows", "", _KINDS[row.kind], accepted))
                problems.add_faults(faults, parameter=parameter, file=source.name, line=line)
                faults.clear()
        except DataError as error:
            file_is_empty = False
            reason = str(error).removeprefix(f"{parameter}: {source.name} cannot be read: ").removesuffix(".")
            problems.add(
                Problem("unreadable_file", parameter, source.name, 0, "", reason, "a file that can be read to its end")
            )
        if file_is_empty:
            empty_files.append(source.name)
        rows_seen = rows_seen or not file_is_empty
    if not rows_seen:
        shown = ", ".join(empty_files[:3]) + (f" and {len(empty_files) - 3} more" if len(empty_files) > 3 else "")
        problems.add(Problem("empty_dataset", parameter, shown, 0, "", "no rows", "at least one row"))
    elif empty_files:
        problems.warnings.append(
            f"{parameter}: {len(empty_files)} of {len(sources)} files are empty, the first is {empty_files[0]}. "
            "If something should be in them, they were not written to their end."
        )


def check_instruction(instruction: str) -> str:
    """Return the instruction, or an empty one when it is blank.

    Raises:
        ParameterError: If it is no proper text.
    """
    try:
        instruction.encode()
    except UnicodeEncodeError:
        raise ParameterError("instruction is not valid Unicode text. Write it in UTF-8.") from None
    if "\0" in instruction:
        raise ParameterError("instruction holds a NUL character. Remove it.")
    return instruction if instruction.strip() else ""


def _row_lines(source: Source, parameter: str, problems: Problems) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that should hold rows; blank ones become problems once a row follows them."""
    blank_from = 0
    for line, raw in read_lines(source, parameter=parameter):
        if line == 1:
            raw = raw.removeprefix(_BYTE_ORDER_MARK)
        if not raw.strip():
            blank_from = blank_from or line
            continue
        if blank_from:
            for blank in range(blank_from, line):
                accepted = "a row on every line up to the last"
                problems.add(Problem("blank_line", parameter, source.name, blank, "", "a blank line", accepted))
            blank_from = 0
        yield line, raw
