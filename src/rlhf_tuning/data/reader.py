r"""The rows of a file, many at a time, with the places where they stand.

A byte order mark at the start of a file and `\r\n` at the end of lines are accepted. Blank lines at the end of a file
are too; a blank line before a row is a problem, because it is what an interrupted or doubled writer leaves behind.
"""

import itertools
import re
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

import numpy as np

from rlhf_tuning.data.batch import Batch, Columns, make_batch
from rlhf_tuning.data.block import read_block
from rlhf_tuning.data.formats import Format, parse_line
from rlhf_tuning.data.other_files import HEAD_BYTES, OtherFile, other_file
from rlhf_tuning.data.problems import SHOWN_OF_EACH, Fault, Problem, Problems, convert_command
from rlhf_tuning.data.rows import (
    Kind,
    Row,
    encode_detail,
    encode_prompt,
    encode_text,
    examples,
    opening,
    prompt_key,
)
from rlhf_tuning.data.sources import LINE_BYTES, LongLine, Source, UnreadableError, read_blocks
from rlhf_tuning.errors import ParameterError

PROMPTS: tuple[Kind, ...] = ("prompt",)
PREFERENCES: tuple[Kind, ...] = ("preference",)
EITHER: tuple[Kind, ...] = ("prompt", "preference")
DEMONSTRATIONS: tuple[Kind, ...] = ("demonstration",)
FEEDBACK: tuple[Kind, ...] = ("feedback",)
#: Demonstrations of which some have no answer yet.
TO_LABEL: tuple[Kind, ...] = ("demonstration", "prompt")

#: Legal in JSON when escaped, and hardly meant: control characters other than tab, line feed and their like.
_CONTROL_CHARACTER = re.compile("[\x01-\x07\x0b\x0e-\x1f]")

#: Larger blocks spare calls, smaller ones fit into a processor's cache; between 256 KiB and 2 MiB it hardly matters.
BLOCK_BYTES = 2**19

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_KINDS: dict[Kind, str] = {
    "prompt": "a row without preference fields",
    "preference": "a row with preference fields",
    "demonstration": "a demonstration",
    "feedback": "feedback",
}


class FirstRow(NamedTuple):
    """The first good row of a dataset, which says what the others are; and where it stands."""

    kind: Kind
    location: str


class FileReader:
    """Reads one file of a dataset.

    Args:
        source: The file.
        parameter: The parameter that named the dataset.
        accepts: Which kinds of row may stand there. Where both may, all rows must be of the first row's kind.
        instruction: Prepended to every prompt, as the row's format defines.
        problems: Collects what is wrong.
        first: The first row of an earlier file of the dataset.
        bad_row: Called with the bytes of every line that holds a bad row, but for those too long to be kept.

    After reading, `first` is the dataset's first row so far, `empty` says that the file has no row, good or bad,
    `bad_rows` counts the bad ones, `kept_bad_rows` those given to `bad_row`, `control_character_rows` counts the good
    ones with such characters in a text, and
    `control_characters` has the lines of the first of those.
    """

    def __init__(
        self,
        source: Source,
        *,
        parameter: str,
        accepts: Collection[Kind],
        instruction: str,
        problems: Problems,
        first: FirstRow | None = None,
        bad_row: Callable[[bytes], None] = lambda line: None,
    ) -> None:
        self.first, self.empty, self.bad_rows, self.kept_bad_rows = first, True, 0, 0
        self.control_character_rows = 0
        self.control_characters: list[int] = []
        self._source, self._parameter, self._accepts = source, parameter, accepts
        self._instruction, self._problems, self._bad_row = instruction, problems, bad_row
        self._format: Format | None = None
        self._line = 0
        self._blank_lines = 0  # those just read, which are a problem when anything follows

    def batches(self) -> Iterator[Batch]:
        """Yield the file's good rows in order; everything that is wrong goes to the problems."""
        try:
            blocks = read_blocks(self._source, parameter=self._parameter, block_bytes=BLOCK_BYTES)
            start, broke_off = _start_of(blocks)
            if self._is_other_file(start):
                return
            for block in itertools.chain(start, blocks):
                if isinstance(block, LongLine):
                    self._line += 1
                    self._add_blank_lines(self._line)
                    self.empty = False
                    found = f"{block.size:,} bytes, beginning {ascii(block.head[:40])[2:-1]}"
                    fault = Fault("long_line", "", found, f"at most {LINE_BYTES:,} bytes")
                    self._add_bad_row([fault], self._line, b"")
                    continue
                if self._line == 0:
                    block = block.removeprefix(_BYTE_ORDER_MARK)
                yield from self._read(block)
            if broke_off:
                raise broke_off
        except UnreadableError as error:
            self.empty = False
            accepted = "a file that can be read to its end"
            self._add_problem("unreadable_file", self._line + 1 if self._line else 0, error.reason, accepted)

    def _is_other_file(self, start: list[bytes | LongLine]) -> bool:
        """Say whether a file holds something else than JSON lines, and add that as its only problem."""
        text = b"".join(block for block in start if not isinstance(block, LongLine))
        if start and isinstance(start[0], LongLine):
            other = other_file(start[0].head, text, self._source.name, cut=True)
        else:
            end = text.find(b"\n") + 1 or len(text)
            other = other_file(text[:end], text[end:], self._source.name)
        if other is not None:
            self.empty = False
            self._add_problem("not_json_lines", 0, other.found, f"one JSON object on each line. {self._advice(other)}")
        return other is not None

    def _advice(self, other: OtherFile) -> str:
        to = next(iter(self._accepts)) if len(self._accepts) == 1 else ""
        return other.advice or f"Convert it: {convert_command([self._source.name], to)}"

    def _read(self, block: bytes) -> Iterator[Batch]:
        if self._format is None and (end := block.find(b"\n") + 1):
            # The first row says how all others may be read: so small files are read fast too.
            yield from self._read_lines(block[:end])
            block = block[end:]
        if self._format is not None and self.first is not None and not self._blank_lines:
            whole = block if block.endswith(b"\n") else block + b"\n"
            batch = read_block(whole, self._line + 1, self._format, self.first.kind, instruction=self._instruction)
            if batch is not None:
                self._line += len(batch)
                yield batch
                return
        yield from self._read_lines(block)

    def _read_lines(self, block: bytes) -> Iterator[Batch]:
        """Read a block line by line: the careful path, which names what is wrong."""
        rows: list[Row] = []
        line_numbers: list[int] = []
        faults: list[Fault] = []
        lines = block.split(b"\n")
        ends_in_newline = not lines[-1]
        if ends_in_newline:
            lines.pop()
        for number, raw in enumerate(lines, self._line + 1):
            if not raw.strip():
                self._blank_lines += 1
                continue
            self._add_blank_lines(number)
            self.empty = False
            parsed = parse_line(raw, accepts=self._accepts, instruction=self._instruction, faults=faults)
            if parsed is not None:
                row_format, row = parsed
                self.first = self.first or FirstRow(row.kind, f"{self._source.name}:{number}")
                if row.kind == self.first.kind:
                    if self._format is not None and row_format is not self._format and rows:
                        yield _batch_of(self._format, rows, line_numbers)
                        rows, line_numbers = [], []
                    self._format = row_format
                    several = examples(row)
                    rows += several
                    line_numbers += [number] * len(several)
                    if b"\\u00" in raw and any(map(_CONTROL_CHARACTER.search, _texts(row))):
                        self.control_character_rows += 1
                        if len(self.control_characters) < SHOWN_OF_EACH:
                            self.control_characters.append(number)
                    continue
                accepted = f"only rows like the first, {_KINDS[self.first.kind]} ({self.first.location})"
                faults.append(Fault("mixed_rows", "", _KINDS[row.kind], accepted))
            if number == self._line + len(lines) and not ends_in_newline:
                faults[:] = [_cut_off(fault) for fault in faults]
            self._add_bad_row(faults, number, raw)
            faults = []
        self._line += len(lines)
        if rows and self._format is not None:
            yield _batch_of(self._format, rows, line_numbers)

    def _add_blank_lines(self, line: int) -> None:
        """Add a problem for each of the blank lines that end before `line`."""
        for blank in range(line - self._blank_lines, line):
            self.bad_rows += 1
            self._add_problem("blank_line", blank, "a blank line", "a row on every line up to the last")
        self._blank_lines = 0

    def _add_bad_row(self, faults: list[Fault], line: int, raw: bytes) -> None:
        self.bad_rows += 1
        self.kept_bad_rows += bool(raw)
        bad_row = self.kept_bad_rows if raw else 0
        self._problems.add_faults(faults, parameter=self._parameter, file=self._source.name, line=line, bad_row=bad_row)
        if raw:
            self._bad_row(raw)

    def _add_problem(self, code: str, line: int, found: str, accepted: str) -> None:
        self._problems.add(Problem(code, self._parameter, self._source.name, line, "", found, accepted))


def check_instruction(instruction: str, *, parameter: str = "instruction") -> str:
    """Return the instruction, or an empty one when it is blank.

    Raises:
        ParameterError: If it is no proper text.
    """
    try:
        instruction.encode()
    except UnicodeEncodeError:
        raise ParameterError(f"{parameter} is not valid Unicode text. Write it in UTF-8.") from None
    if "\0" in instruction:
        raise ParameterError(f"{parameter} holds a NUL character. Remove it.")
    return instruction if instruction.strip() else ""


def _start_of(blocks: Iterator[bytes | LongLine]) -> tuple[list[bytes | LongLine], UnreadableError | None]:
    """Return the first blocks of a file, enough to tell what it is, and why there are no more where that is so."""
    start: list[bytes | LongLine] = []
    rest = 0
    try:
        for block in blocks:
            rest += len(block) if start else len(block) - block.find(b"\n") if isinstance(block, bytes) else 0
            start.append(block)
            if rest > HEAD_BYTES or (start[1:] and isinstance(block, LongLine)):
                break
    except UnreadableError as error:
        return start, error
    return start, None


def _texts(row: Row) -> list[str]:
    answers = (row.chosen or "", row.rejected or "", row.answer or "")
    return [*(turn["content"] for turn in row.prompt), *answers, *(row.references or {}).values()]


def _cut_off(fault: Fault) -> Fault:
    """Say of a fault in a file's last line that the file ends inside it, which is what an interrupted copy leaves."""
    if fault.code not in ("invalid_json", "invalid_utf8"):
        return fault
    return fault._replace(found=f"{fault.found}; the file ends here without a newline, so it may be cut off")


def _batch_of(row_format: Format, rows: list[Row], line_numbers: list[int]) -> Batch:
    kind = rows[0].kind
    details = [encode_detail(row) for row in rows]
    columns = Columns(
        prompts=[encode_prompt(row.prompt) for row in rows],
        keys=[prompt_key(row.prompt) for row in rows],
        chosen=[encode_text(row.chosen or row.answer or "") for row in rows] if kind != "prompt" else (),
        rejected=[encode_text(row.rejected or "") for row in rows] if kind == "preference" else (),
        openings=[prompt_key(opening(row.prompt)) for row in rows] if kind == "demonstration" else (),
        first_chosen=[bool(row.first_chosen) for row in rows] if rows[0].first_chosen is not None else (),
        details=details if any(details) else (),
        judgements=[row.judgement for row in rows if row.judgement is not None],
    )
    return make_batch(kind, row_format.name, columns, np.array(line_numbers, np.int64))
