"""How a dataset whose rows are of another make, or in another encoding, is mended as a whole: by a command.

It is told only when its program, run here on the bad rows of the dataset, has made good rows of them.
"""

import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable, Sequence
from itertools import islice

from rlhf_tuning.data.conversions import CONVERSIONS, Conversion, Fields, Record, UnclearError, from_zero
from rlhf_tuning.data.formats import parse_line
from rlhf_tuning.data.problems import Fault, convert
from rlhf_tuning.data.rows import Kind
from rlhf_tuning.data.strict_json import decode_object

#: Bad rows that are looked at, and that a program is tried on; no more than so many bytes of them either.
_ROWS_TRIED, _BYTES_TRIED = 20_000, 64 * 2**20

#: A command names so many files at most.
_FILES_NAMED = 20

#: Problems of a text. All others are of the shape, which a program may mend.
_OF_TEXTS = frozenset({"blank_text", "nul_character", "lone_surrogate", "identical_candidates", "no_messages"})

#: No letter, dash, quotation mark or the like of Windows' Western encoding; a character of UTF-8; a run of another script.
_NO_WESTERN = re.compile(
    rb"[^\x00-\x7f\x80\x85\x91-\x97\xa0\xab\xb0\xbb\xc0-\xff]|[\xc2-\xf4][\x80-\xbf]|[\x80-\xff]{3}"
)
#: Leaves alone what is UTF-8.
_TO_UTF_8 = (
    'import codecs, sys; codecs.register_error("old", lambda error: '
    '(error.object[error.start:error.end].decode("cp1252"), error.end)); '
    '[sys.stdout.buffer.write(line.decode("utf-8", "old").encode()) for line in sys.stdin.buffer]'
)


def how_to_mend(
    parameter: str,
    files: Sequence[str],
    bad_lines: Iterable[bytes],
    *,
    accepts: Collection[Kind],
    good_rows: bool,
    from_one: str = "",
) -> str:
    """Return the command that mends the rows of a dataset, with what it does in words; nothing where none is known.

    Args:
        parameter: The dataset's.
        files: Its files.
        bad_lines: The bad rows as they stand.
        accepts: Which kinds of row may stand there.
        good_rows: Whether it has good rows too.
        from_one: The field of the choice, where all that is wrong is that every row counts the candidates from 1.
    """
    lines: list[bytes] = []
    records: list[Record] = []
    faults: list[Fault] = []
    others, unread = good_rows, list[bytes]()
    size = 0
    for line in islice(bad_lines, _ROWS_TRIED):
        if (size := size + len(line)) > _BYTES_TRIED:
            break
        record = decode_object(line, [])
        found: list[Fault] = []
        parse_line(line, accepts=accepts, instruction="", faults=found)
        if record is not None and {fault.code for fault in found} - _OF_TEXTS:
            lines.append(line)
            records.append(record)
            faults += found
        elif record is not None:
            others = True
        else:
            unread.append(line)
    if unread and all(map(_is_old_western, unread)):
        taken = "bytes that are no UTF-8 are taken for Western letters, as older Windows programs write them"
        return _told(parameter, files, f"{taken}: {_sample(unread[0])}", _TO_UTF_8)
    if not records:
        return ""
    makers = {"preference": (lambda fields: from_zero(from_one),)} if from_one else CONVERSIONS
    for kind in sorted(accepts):  # a prompt may be all that is good of a preference
        for make in makers.get(kind, ()):
            try:
                conversion = make(Fields(records, faults))
            except UnclearError as error:
                if others:
                    continue
                return (
                    f"To mend {parameter}: {error}. Write two answers a row, as candidate_0 and candidate_1, and choice, "
                    "which is 0 where the first is preferred and 1 where the second is."
                )
            if conversion is None or (others and not conversion.spares_others):
                continue
            left_out = _tried(conversion, lines, kind)
            if left_out is None:
                continue
            if unread:
                # A program would not see what is wrong with them: of a key that stands twice it keeps the last.
                return (
                    f"To mend {parameter}: mend first the lines that are no proper JSON objects, and check again. A "
                    "command for the other rows is told then."
                )
            rows = f". Of {len(lines):,} rows {left_out:,} are left out: {conversion.left_out}" if left_out else ""
            return _told(parameter, files, conversion.taken + rows, conversion.program)
    return ""


def _told(parameter: str, files: Sequence[str], taken: str, program: str) -> str:
    many = f" Likewise with each of its {len(files):,} files." if len(files) > _FILES_NAMED else ""
    command = convert(files[:1] if many else files, f"python3 -c {shlex.quote(program)}")
    return f"To mend {parameter}: {taken}.{many}\n{command}"


def _is_old_western(line: bytes) -> bool:
    """Say whether a line is a JSON object with single letters in Windows' Western encoding."""
    if line.isascii() or _NO_WESTERN.search(line):
        return False
    return decode_object(line.decode("cp1252").encode(), []) is not None


def _sample(line: bytes) -> str:
    [start, end] = next(match.span() for match in re.finditer(rb"\w*[\x80-\xff]+\w*", line))
    found = line[start:end]
    return f"{ascii(found)[2:-1]} for {found.decode('cp1252')}"


def _tried(conversion: Conversion, lines: Sequence[bytes], kind: Kind) -> int | None:
    """Return how many rows a program leaves out; None where it does not make good rows of the others."""
    with tempfile.TemporaryFile() as given:
        given.writelines(line + b"\n" for line in lines)
        given.seek(0)
        command = [sys.executable, "-I", "-c", conversion.program]
        made = subprocess.run(command, stdin=given, capture_output=True, check=False)
    rows = made.stdout.splitlines()
    if made.returncode or not rows:
        return None
    for row in rows:
        faults: list[Fault] = []
        parse_line(row, accepts=(kind,), instruction="", faults=faults)
        if {fault.code for fault in faults} - _OF_TEXTS:
            return None
    return len(lines) - len(rows) if conversion.left_out else 0
