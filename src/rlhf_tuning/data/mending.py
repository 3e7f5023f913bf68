"""How a dataset whose rows are of another make, or in another encoding, is mended as a whole: by `rlhf convert`.

It is told only when its layout has made good rows of the bad ones.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from itertools import islice

from rlhf_tuning.data.by_names import from_zero
from rlhf_tuning.data.convert import BYTES_TRIED, ROWS_TRIED, Trial, layout_of_bad, tried
from rlhf_tuning.data.feedback_pairs import FeedbackPairs
from rlhf_tuning.data.formats import parse_line
from rlhf_tuning.data.layout import Layout, Record, UnclearError
from rlhf_tuning.data.problems import OF_TEXTS, Fault, convert_command
from rlhf_tuning.data.record_files import is_old_western
from rlhf_tuning.data.rows import Kind
from rlhf_tuning.data.strict_json import decode_object


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
    records: list[Record] = []
    faults: list[Fault] = []
    others, unread = good_rows, list[bytes]()
    size = 0
    for line in islice(bad_lines, ROWS_TRIED):
        if (size := size + len(line)) > BYTES_TRIED:
            break
        record = decode_object(line, [])
        found: list[Fault] = []
        parse_line(line, accepts=accepts, instruction="", faults=found)
        if record is not None and {fault.code for fault in found} - OF_TEXTS:
            records.append(record)
            faults += found
        elif record is not None:
            others = True
        else:
            unread.append(line)
    if unread and all(map(is_old_western, unread)):
        taken = "bytes that are no UTF-8 are taken for Western letters, as older Windows programs write them"
        return f"To mend {parameter}: {taken}: {_sample(unread[0])}\n{convert_command(files, _only(accepts))}"
    if not records:
        return ""
    # Pairs are made of feedback too. A prompt may be all that is good of a preference.
    kinds: list[Kind] = [*sorted(accepts), *(("feedback",) if "preference" in accepts else ())]
    for kind in kinds:
        try:
            layout = from_zero(from_one) if from_one else layout_of_bad(records, faults, kind, others=others)
        except UnclearError as error:
            if others:
                continue
            return (
                f"To mend {parameter}: {error}. Write two answers a row, as candidate_0 and candidate_1, and choice, "
                "which is 0 where the first is preferred and 1 where the second is."
            )
        if layout is None:
            continue
        if unread:
            # Of a key that stands twice nobody knows which is meant.
            return (
                f"To mend {parameter}: mend first the lines that are no proper JSON objects, and check again. A "
                "command for the other rows is told then."
            )
        trial = tried(layout, records, unfit=len(records))
        to = "preference" if kind == "feedback" and kind not in accepts else kind
        command = convert_command(files, to, max_bad_rows=trial.unfit)
        return f"To mend {parameter}: {_told(layout, trial, len(records), to)}\n{command}"
    return ""


def _only(accepts: Collection[Kind]) -> str:
    """Return the kind that rows have to be; nothing where their fields say it."""
    return next(iter(accepts)) if len(accepts) == 1 else ""


def _told(layout: Layout, trial: Trial, rows: int, to: Kind) -> str:
    pairs = layout.kind == "feedback" and to == "preference"
    said = f"{layout.taken}; {FeedbackPairs.RULE}" if pairs else layout.taken
    left_out = ", ".join(f"{count:,} are left out: {reason}" for reason, count in trial.left_out.most_common())
    return f"{said}. Of {rows:,} rows {left_out}" if left_out else said


def _sample(line: bytes) -> str:
    [start, end] = next(match.span() for match in re.finditer(rb"\w*[\x80-\xff]+\w*", line))
    found = line[start:end]
    return f"{ascii(found)[2:-1]} for {found.decode('cp1252')}"
