"""Rows of another make to rows of ours: which layout they have, and all files of a dataset by it into one new file.

The layout is found once, by the first rows, and must make good rows of them. Then every row goes through it. What it makes
is read as a dataset is before it is written: what this writes, a run takes. Rows of no use are left out and counted by
reason; one that the layout was not made for stops everything, unless so many are to be left out.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

from rlhf_tuning.data.by_names import BY_NAMES, Fields, from_zero, has_meaning
from rlhf_tuning.data.feedback_pairs import FeedbackPairs
from rlhf_tuning.data.fields import PREFERENCE_FIELDS
from rlhf_tuning.data.formats import parse_line
from rlhf_tuning.data.layout import UNFIT, Layout, LeftOutError, Made, Record, UnclearError
from rlhf_tuning.data.output import scratch_folder, written_together
from rlhf_tuning.data.problems import CODES, OF_TEXTS, Fault, describe, printable, shorten
from rlhf_tuning.data.record_files import Item, read_items
from rlhf_tuning.data.rows import Kind
from rlhf_tuning.data.sources import Source, resolve
from rlhf_tuning.data.well_known import WELL_KNOWN
from rlhf_tuning.errors import DataError

#: Rows that the layout is found by; no more than so many bytes of them either.
ROWS_TRIED, BYTES_TRIED = 20_000, 64 * 2**20

#: Of rows that a well-known dataset's layout is tried on, one in so many may be none of its kind.
_ONE_UNFIT_IN = 100
#: Of rows that nearly all fit a layout, one in so many does not: the layout is taken all the same, and those are bad rows.
_ONE_ODD_IN = 4

#: Types of values, as messages call them.
_TYPES = {"str": "a string", "number": "a number", "bool": "a boolean", "list": "an array", "dict": "an object"}
_PARAMETER = "FROM"
#: So many files are named where nothing stands in any.
_FILES_NAMED = 3
_KINDS: tuple[Kind, ...] = ("preference", "feedback", "demonstration", "prompt")


@dataclass(kw_only=True)
class Converted:
    """What a conversion did.

    Args:
        kind: What the new rows are.
        taken: What was taken for what, in words.
        read: How many rows were read.
        written: How many were written.
        left_out: Why rows, or what was made of them, were left out, and how many.
        bad: Where rows stood that the layout was not made for, and why.
        western: How many lines had letters in Windows' Western encoding.
    """

    kind: Kind
    taken: str
    read: int = 0
    written: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)
    western: int = 0


#: Fields, and what they hold.
Traits = set[tuple[str, str]]


class Trial(NamedTuple):
    """What a layout makes of some rows: how many, how many it leaves out by reason, and how many are not its own."""

    made: int
    left_out: Counter[str]
    unfit: int


def convert(references: Sequence[str], output: str, *, to: Kind | None = None, max_bad_rows: int = 0) -> Converted:
    """Write the rows of files of another make as one file of ours.

    Args:
        references: Files, folders or globs; also on `gs://`.
        output: The new file.
        to: What the rows are to become; without it, the first of preferences, feedback, demonstrations and prompts that they
            can. Feedback becomes preferences where that is asked for.
        max_bad_rows: So many rows that the layout was not made for are left out.

    Raises:
        DataError: If the rows are of no known make, or more than so many are not like the others, or so many are fewer than
            none; nothing is written then.
    """
    if max_bad_rows < 0:
        raise DataError(f"--max-bad-rows is {max_bad_rows}; it must be at least 0.")
    sources = [source for reference in references for source in resolve(reference, parameter=_PARAMETER)]
    if Path(output).exists():
        raise DataError(f"{output} is there already. Name another file with --output, or remove it.")
    layout, usual = _layout_of_files(sources, to, max_bad_rows)
    pairs = layout.kind == "feedback" and to == "preference"
    done = Converted(kind="preference" if pairs else layout.kind, taken=layout.taken)
    with scratch_folder(output) as folder, written_together(output) as [stream]:
        rows = _made(_items(sources), layout, usual, done, folder, max_bad_rows)
        if pairs:
            feedback = FeedbackPairs()
            done.taken += f"; {feedback.RULE}"
            groups = _gathered(map(feedback.noted, rows), feedback.key, folder / "feedback")
            rows = (row for group in groups for row in _made_of(feedback.rows, group, "preference", done))
        for row in rows:
            stream.write(row + b"\n")
            done.written += 1
        if not done.written:
            raise DataError(f"No row of {', '.join(references)} can be used: {_reasons(done.left_out)}.")
    return done


def _reasons(left_out: Counter[str]) -> str:
    return "; ".join(f"{count:,}: {reason}" for reason, count in left_out.most_common()) or "there is none"


def _items(sources: Sequence[Source]) -> Iterator[tuple[str, Item]]:
    for source in sources:
        for item in read_items(source, parameter=_PARAMETER):
            yield f"{printable(source.name)}, row {item.place:,}", item


def _layout_of_files(sources: Sequence[Source], to: Kind | None, max_bad_rows: int) -> tuple[Layout, Traits]:
    """Return the layout of the first rows, of the first kind that nearly all of them can become; and how these look.

    Raises:
        DataError: If there is none, or what they mean cannot be told.
    """
    records: list[Record] = []
    size = 0
    unread = ""
    for place, item in islice(_items(sources), ROWS_TRIED):
        if item.record is None:
            unread = unread or f"{place}: {item.problem}"
        else:
            records.append(item.record)
            size += len(_encoded(item.record))
        if size > BYTES_TRIED:
            break
    if not records:
        if unread:
            raise DataError(f"There is no row to convert, for none is a JSON object. {unread}.")
        names = ", ".join(printable(source.name) for source in sources[:_FILES_NAMED])
        raise DataError(
            f"There is no row to convert: nothing stands in {names}{', ...' * (len(sources) > _FILES_NAMED)}."
        )
    kinds: tuple[Kind, ...] = _KINDS if to is None else ("preference", "feedback") if to == "preference" else (to,)
    # Never as many as those that fit.
    odd = min(max(len(records) // _ONE_ODD_IN, max_bad_rows), (len(records) - 1) // 2)
    usual = _usual(records, odd)
    unclear = ""
    for kind in kinds:
        try:
            layout = _layout_of_most(records, kind, usual, odd)
        except UnclearError as error:
            unclear = f": {error}"
            continue
        if layout is not None:
            return layout, usual
    strange = next((record for record in records if _faults(record, kinds[0])), records[0])
    fields = shorten(", ".join(ascii(name)[1:-1] for name in strange), 200)
    what = f"No {to} can be made" if to else "Nothing can be made"
    raise DataError(
        f"{what} of rows with the fields {fields}{unclear}. docs/reference/formats.md lists the rows that are known, and "
        "those that are read as they stand."
    )


def _layout_of_most(records: Sequence[Record], kind: Kind, usual: Traits, odd: int) -> Layout | None:
    """Return the layout by which all rows become rows of one kind, or all but so many; None where none is known.

    Raises:
        UnclearError: If they are nearly ours, but what they mean cannot be told.
    """
    unclear: UnclearError | None = None
    alike = _alike(records, usual, odd)
    for rows, unfit in ((records, 0), (alike, 0), (alike, odd)) if alike and odd else ((records, 0),):
        try:
            layout = layout_of(rows, kind, unfit=unfit)
        except UnclearError as error:
            unclear = unclear or error
            continue
        if layout is not None and (rows is records or fits(layout, records, unfit=odd)):
            return layout
    if unclear is not None:
        raise unclear
    return None


def _alike(records: Sequence[Record], usual: Traits, odd: int) -> list[Record]:
    """Return the rows with the usual traits, and no field with a meaning that only so few have."""
    names = Counter(name for record in records for name in record)
    strange = {name for name, count in names.items() if count <= odd and has_meaning(name)}
    return [record for record in records if usual <= _traits(record) and strange.isdisjoint(record)]


def _usual(records: Sequence[Record], odd: int) -> Traits:
    """Return the traits of all rows but so many."""
    counts = Counter(trait for record in records for trait in _traits(record))
    return {trait for trait, count in counts.items() if count >= len(records) - odd}


def _traits(record: Record) -> Traits:
    """Return what a row is told by from others: what its fields hold, and which fields all objects of an array have."""
    traits = {
        (name, "number" if type(value) in (int, float) else type(value).__name__) for name, value in record.items()
    }
    for name, value in record.items():
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            traits |= {(name, f"[].{key}") for key in set.intersection(*map(set, value))}
    return traits


def _unlike(record: Record, usual: Traits) -> str:
    """Return in what a row is not like the others, in words; nothing where it is."""
    lacking = sorted(usual - _traits(record))
    missing = ", ".join(dict.fromkeys(name for name, _ in lacking if name not in record))
    words = [f"no field {shorten(missing, 200)}, which the other rows have"] if missing else []
    for name, trait in lacking:
        if trait in _TYPES and name in record:
            words.append(f"{name}: {describe(record[name])}; the other rows have {_TYPES[trait]} there")
        elif trait.startswith("[].") and isinstance(record.get(name), list):
            words.append(f"{name}{trait}: missing; the other rows have it")
    return printable("; ".join(words))


def layout_of(records: Sequence[Record], kind: Kind, *, unfit: int = 0) -> Layout | None:
    """Return the layout by which rows become rows of one kind; None where none is known.

    Args:
        records: The rows.
        kind: What they are to become.
        unfit: So many of them the layout need not be made for.

    Raises:
        UnclearError: If they are nearly ours, but what they mean cannot be told.
    """
    bad: list[Record] = []
    faults: list[Fault] = []
    for record in records:
        found = _faults(record, kind)
        if {fault.code for fault in found} - OF_TEXTS:
            bad.append(record)
            faults += found
    from_one = _counts_from_one(records) if kind == "preference" else ""
    if from_one and fits(from_zero(from_one), records):
        return from_zero(from_one)
    if len(bad) <= unfit:
        return Layout(kind, "the rows stay as they are", lambda record: [dict(record)])
    return layout_of_bad(bad, faults, kind, others=len(bad) < len(records), unfit=unfit)


def layout_of_bad(
    records: Sequence[Record], faults: Sequence[Fault], kind: Kind, *, others: bool, unfit: int = 0
) -> Layout | None:
    """Return the layout of rows that are not ours as they stand; None where none is known.

    Args:
        records: The rows.
        faults: What is wrong with them.
        kind: What they are to become.
        others: Whether good rows stand between them, which are meant as they are.
        unfit: So many of them the layout need not be made for.

    Raises:
        UnclearError: If they are nearly ours, but what they mean cannot be told.
    """
    names = {name for name in records[0] if all(name in record for record in records)}
    few = len(records) // _ONE_UNFIT_IN
    for known in WELL_KNOWN if not others else ():
        layout = known.layout(names)
        if layout is not None and kind == "prompt" and known.kind in ("preference", "demonstration"):
            layout = _prompts_of(layout)
        if layout is not None and layout.kind == kind and fits(layout, records, unfit=max(unfit, few)):
            return layout
    for make in BY_NAMES[kind]:
        layout = make(Fields(records, faults, kind))
        if layout is not None and (layout.spares_others or not others) and fits(layout, records, unfit=unfit):
            return layout
    return None


def fits(layout: Layout, records: Sequence[Record], *, unfit: int = 0) -> bool:
    """Say whether a layout makes good rows of some, no more than so many are not its own, and more are."""
    found = tried(layout, records, unfit=unfit)
    return found.made > 0 and found.unfit <= unfit and found.made + found.left_out.total() > found.unfit


def tried(layout: Layout, records: Iterable[Record], *, unfit: int = 0) -> Trial:
    """Return what a layout makes of rows, up to the first that are too many not to be its own."""
    made, strange = 0, 0
    left_out: Counter[str] = Counter()
    if layout.together:
        groups: dict[str, list[Record]] = {}
        for record in records:
            groups.setdefault(str(record.get(layout.together)), []).append(record)
        records = ({"gathered": group} for group in groups.values())
    for record in records:
        try:
            for row in layout.rows(record):
                faults = _faults(row, layout.kind)
                if {fault.code for fault in faults} - OF_TEXTS:
                    raise ValueError(faults[0].code)
                made += 1
        except LeftOutError as error:
            left_out[str(error)] += 1
        except UNFIT:
            strange += 1
            if strange > unfit:
                break
    return Trial(made, left_out, strange)


def _faults(record: Record, kind: Kind) -> list[Fault]:
    faults: list[Fault] = []
    parse_line(_encoded(record), accepts=(kind,), instruction="", faults=faults)
    return faults


def _encoded(record: Record) -> bytes:
    # Half surrogate pairs, which are no text, are left to the checks.
    return json.dumps(record, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass")


def _counts_from_one(records: Iterable[Record]) -> str:
    """Return the field of the choice, where all rows with two candidates count them from 1; nothing elsewhere."""
    found: dict[str, set[Any]] = {"choice": set(), "messages[].choice": set()}
    for record in records:
        last = record["messages"][-1] if isinstance(record.get("messages"), list) and record["messages"] else None
        for name, holder in (("choice", record), ("messages[].choice", last)):
            if isinstance(holder, dict) and holder.keys() >= {*PREFERENCE_FIELDS} and "candidate_2" not in holder:
                choice = holder["choice"]
                found[name].add(choice if type(choice) is int else None)
    return next((name for name, values in found.items() if 2 in values and values <= {1, 2}), "")


def _prompts_of(layout: Layout) -> Layout:
    """Return the layout that makes prompts of what another one makes preferences or demonstrations of."""

    def rows(record: Record) -> Iterator[Made]:
        seen: list[Any] = []
        for made in layout.rows(record):
            parsed = parse_line(_encoded(made), accepts=(layout.kind,), instruction="", faults=[])
            if parsed is not None and parsed[1].prompt not in seen:
                seen.append(parsed[1].prompt)
                yield {"prompt": parsed[1].prompt}

    return Layout("prompt", f"{layout.taken}; only the prompts are kept", rows, together=layout.together)


def _made(
    items: Iterable[tuple[str, Item]],
    layout: Layout,
    usual: Traits,
    done: Converted,
    folder: Path,
    max_bad_rows: int,
) -> Iterator[bytes]:
    """Yield the new rows as lines, and count what is left out."""

    def bad(place: str, why: str) -> None:
        done.bad.append(f"{place}: {why}")
        if len(done.bad) > max_bad_rows:
            raise DataError(
                f"Nothing was written: {done.taken}; but not all rows are like that. {place}: {why}. "
                f"{_how_many(max_bad_rows)}"
            )

    def records() -> Iterator[tuple[str, Record]]:
        for place, item in items:
            done.read += 1
            done.western += item.western
            if item.record is None:
                bad(place, item.problem)
            else:
                yield place, item.record

    placed: Iterable[tuple[str, Record]] = records()
    if layout.together:
        groups = _gathered(placed, lambda pair: str(pair[1].get(layout.together)), folder / "rows")
        placed = ((group[0][0], {"gathered": [record for _, record in group]}) for group in groups)
    for place, record in placed:
        if layout.spares_others and not _faults(record, layout.kind):
            yield _encoded(record)
            continue
        try:
            yield from _made_of(layout.rows, record, layout.kind, done)
        except UNFIT as error:
            unlike = "" if isinstance(error, ValueError) or layout.together else _unlike(record, usual)
            if isinstance(error, KeyError):
                said = f"no field, or no known value, {error}"
            else:  # what Python says of types would tell a person nothing
                said = (
                    str(error)
                    if isinstance(error, ValueError)
                    else "a value in it is of another kind than it should be"
                )
            bad(place, unlike or said)


def _how_many(max_bad_rows: int) -> str:
    allowed = f"--max-bad-rows {max_bad_rows} lets so many pass. " if max_bad_rows else ""
    return f"{allowed}Mend them, or leave such rows out: --max-bad-rows N takes up to N."


def _made_of(rows: Callable[[Any], Iterable[Made]], record: Any, kind: Kind, done: Converted) -> Iterator[bytes]:
    """Yield what is made of one row, as far as it is good.

    Raises:
        ValueError: If the row is not what it was taken for; or another of `UNFIT`.
    """
    try:
        made = list(rows(record))
    except LeftOutError as error:
        done.left_out[str(error)] += 1
        return
    lines = []
    for row in made:
        faults = _faults(row, kind)
        strange = next((fault for fault in faults if fault.code not in OF_TEXTS), None)
        if strange is not None:
            raise ValueError(f"{strange.field}: {strange.found}; accepted is {strange.accepted}")
        if faults:
            done.left_out[CODES[faults[0].code]] += 1
        else:
            lines.append(_encoded(row))
    yield from lines


def _gathered(values: Iterable[Any], key: Callable[[Any], str], path: Path) -> Iterator[list[Any]]:
    """Yield the values of each key together, in the order of the first of each; meanwhile they wait on disk.

    Args:
        values: What JSON can hold.
        key: Returns a value's key.
        path: A file for them.
    """
    places: dict[bytes, list[int]] = {}
    with path.open("w+b") as stream:
        end = 0
        for value in values:
            places.setdefault(xxhash.xxh128_digest(key(value).encode("utf-8", "surrogatepass")), []).append(end)
            end += stream.write(_encoded(value) + b"\n")
        for found in places.values():
            group = []
            for place in found:
                stream.seek(place)
                group.append(json.loads(stream.readline()))
            yield group
