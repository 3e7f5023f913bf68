"""Reads a whole dataset, all its files on all cores, and gathers what is to be known of it."""

import contextlib
import multiprocessing
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_tuning.data.alike import NONE_ALIKE, Alike, is_among, opening_hashes, whole_hash
from rlhf_tuning.data.batch import CHOSEN, REJECTED, Batch, Hashes
from rlhf_tuning.data.block import tell_if_slow
from rlhf_tuning.data.feedback_tally import FeedbackTally
from rlhf_tuning.data.fingerprint import Fingerprint
from rlhf_tuning.data.held_out import HeldOut, held_out_orders
from rlhf_tuning.data.mending import how_to_mend
from rlhf_tuning.data.problems import Problem, Problems, describe, printable
from rlhf_tuning.data.reader import FileReader, FirstRow
from rlhf_tuning.data.repeats import RepeatFinder
from rlhf_tuning.data.rows import Kind
from rlhf_tuning.data.sample import Sample
from rlhf_tuning.data.sources import Source
from rlhf_tuning.step import Progress

#: Rows of a dataset that lengths, scripts and examples are taken from.
SAMPLE_ROWS = 5_000

#: Files of less than this together are read by one process: others would take longer to start than to read.
_PARALLEL_BYTES = 64 * 2**20
_PROGRESS_BYTES = 256 * 2**20
#: As a canonical string, of a demonstration that waits for its answer.
_NO_ANSWER = b'""'


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What to do with a dataset.

    Args:
        parameter: The parameter that named it.
        accepts: Which kinds of row may stand there.
        instruction: Prepended to every prompt.
        folder: For what waits on disk; the caller removes it.
        write_rows: Whether the canonical rows are wanted, as files in the folder.
        held_out: How many prompts or rows may be held out at most; 0 where nothing is.
        seed: Of what is held out.
        find_repeats: Whether rows that say the same are looked for.
        sample_rows: How many rows to sample.
        index_rows: Whether it is wanted, as a file in the folder, which rows are held out and which prompts are alike.
        keep_prompts: Whether the prompts' hashes are wanted, in memory.
        keep_rows: Whether the rows' hashes are wanted, in memory: 8 bytes each.
        eval_prompts: Evaluation prompts to look for.
    """

    parameter: str
    accepts: tuple[Kind, ...]
    instruction: str
    folder: Path
    write_rows: bool = False
    held_out: int = 0
    seed: int = 0
    find_repeats: bool = False
    sample_rows: int = 0
    index_rows: bool = False
    keep_prompts: bool = False
    keep_rows: bool = False
    eval_prompts: Alike = NONE_ALIKE


@dataclass(kw_only=True)
class ScannedFile:
    """What one file holds. It is small, or on disk, so that it can go from one process to another."""

    source: Source
    problems: Problems
    first: FirstRow | None = None
    empty: bool = False
    bad_rows: int = 0
    kept_bad_rows: int = 0
    control_character_rows: int = 0
    control_characters: list[int] = field(default_factory=list)
    formats: Counter[str] = field(default_factory=Counter)
    fingerprint: Fingerprint = field(default_factory=Fingerprint)
    first_chosen: int = 0
    ordered: int = 0
    longer_chosen: int = 0
    equally_long: int = 0
    without_answer: int = 0
    feedback: FeedbackTally = field(default_factory=FeedbackTally)
    held_out: HeldOut
    repeats: RepeatFinder | None = None
    sample: Sample
    prompts: list[tuple[Hashes, Any]] = field(default_factory=list)
    rows: list[Hashes] = field(default_factory=list)
    eval_prompts_seen: dict[int, int] = field(default_factory=dict)
    rows_file: Path | None = None
    index_file: Path | None = None
    set_aside_file: Path | None = None


def scan_file(
    source: Source,
    number: int,
    scan: Scan,
    first: FirstRow | None = None,
    *,
    counter: Any = None,
    sink: Callable[[Batch], None] | None = None,
) -> ScannedFile:
    """Read one file.

    Args:
        source: The file.
        number: Its number in the dataset.
        scan: What to do.
        first: The first row of an earlier file.
        counter: A shared number to which the bytes read are added.
        sink: Called with every batch of good rows.
    """
    name = f"{scan.parameter}-{number}"
    result = ScannedFile(
        source=source,
        problems=Problems(str(scan.folder / f"{name}.problems")),
        held_out=HeldOut(limit=scan.held_out),
        repeats=RepeatFinder(scan.folder) if scan.find_repeats else None,
        sample=Sample(scan.sample_rows),
        set_aside_file=scan.folder / f"{name}.bad",
    )
    if scan.write_rows:
        result.rows_file = scan.folder / f"{name}.rows"
    if scan.index_rows:
        result.index_file = scan.folder / f"{name}.index"
    reader = FileReader(
        source,
        parameter=scan.parameter,
        accepts=scan.accepts,
        instruction=scan.instruction,
        problems=result.problems,
        first=first,
        bad_row=lambda line: _append(result.set_aside_file, line + b"\n"),
    )
    for batch in reader.batches():
        _take(batch, result, scan, number)
        if sink is not None:
            sink(batch)
        if counter is not None:
            with counter.get_lock():
                counter.value += len(batch.encoded)
    result.problems.flush()
    result.first, result.empty = reader.first, reader.empty
    result.bad_rows, result.kept_bad_rows = reader.bad_rows, reader.kept_bad_rows
    result.control_character_rows = reader.control_character_rows
    result.control_characters = reader.control_characters
    return result


def _take(batch: Batch, result: ScannedFile, scan: Scan, number: int) -> None:
    """Gather what is to be known of rows."""
    result.formats[batch.format] += len(batch)
    result.fingerprint.add(batch)
    if batch.kind == "preference":
        result.first_chosen += int(np.count_nonzero(batch.first_chosen))
        result.ordered += len(batch.first_chosen)
        difference = batch.sizes[:, CHOSEN] - batch.sizes[:, REJECTED]
        result.longer_chosen += int(np.count_nonzero(difference > 0))
        result.equally_long += int(np.count_nonzero(difference == 0))
    if batch.kind == "demonstration":
        result.without_answer += int(np.count_nonzero(batch.sizes[:, CHOSEN] == len(_NO_ANSWER)))
    result.feedback.add(batch.judgements)
    result.sample.add(batch, result.source.name, number)
    if result.repeats is not None:
        result.repeats.add(batch, number)
    if scan.keep_rows:
        result.rows.append(batch.row_hashes[:, 0])
    orders = np.zeros(len(batch), np.uint64)
    if scan.held_out:
        orders = held_out_orders(batch, scan.seed)
        result.held_out.add(orders)
    openings = opening_hashes(batch) if scan.keep_prompts or scan.eval_prompts or scan.index_rows else orders
    if scan.keep_prompts:
        whole = np.array([whole_hash(batch.line(row)) for row in range(len(batch))], np.uint64)
        result.prompts.append((np.stack([whole, openings], 1), batch.line_numbers))
    if scan.eval_prompts:
        _look_for_eval_prompts(openings, batch, result, scan.eval_prompts)
    if result.index_file is not None:
        sizes = np.diff(batch.ends, prepend=0).astype(np.uint64)
        _append(result.index_file, np.stack([orders, openings, sizes], 1).tobytes())
    if result.rows_file is not None:
        _append(result.rows_file, batch.encoded)


def _look_for_eval_prompts(openings: Hashes, batch: Batch, result: ScannedFile, eval_prompts: Alike) -> None:
    for row in np.flatnonzero(is_among(openings, eval_prompts.opening)).tolist():
        whole = whole_hash(batch.line(row))
        if is_among(np.array([whole], np.uint64), eval_prompts.whole)[0]:
            result.eval_prompts_seen.setdefault(whole, int(batch.line_numbers[row]))


def _append(path: Path | None, content: bytes) -> None:
    if path is not None:
        with path.open("ab", buffering=0) as stream:
            stream.write(content)


def scan_in_turn(
    sources: Sequence[Source], scan: Scan, sink: Callable[[Batch], None] | None = None
) -> list[ScannedFile]:
    """Read files one after the other: where the first row of one says what the rows of the next must be.

    Args:
        sources: The files.
        scan: What to do.
        sink: Called with every batch of good rows.
    """
    files: list[ScannedFile] = []
    first: FirstRow | None = None
    for number, source in enumerate(sources):
        files.append(scan_file(source, number, scan, first, sink=sink))
        first = first or files[-1].first
    return files


def scan_at_once(datasets: Sequence[tuple[Sequence[Source], Scan]]) -> list[list[ScannedFile]]:
    """Read the files of several datasets on all cores, with the progress where there is much to read."""
    tell_if_slow()
    jobs = [(source, number, scan) for sources, scan in datasets for number, source in enumerate(sources)]
    total = sum(source.size or 0 for source, _, _ in jobs)
    cores = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, len(jobs))
    # Started afresh, not forked: a fork copies locks that other threads may hold.
    context = multiprocessing.get_context("spawn")
    counter = context.Value("q", 0)
    progress = Progress("reading data", total // 10**6, "MB") if total >= _PROGRESS_BYTES else None
    with contextlib.ExitStack() as stack:
        if progress is not None:
            stack.enter_context(_reporting(progress, counter))
        if cores > 1 and total >= _PARALLEL_BYTES:
            pool = ProcessPoolExecutor(cores, mp_context=context, initializer=_start_worker, initargs=(counter,))
            stack.callback(pool.shutdown, cancel_futures=True)
            results = list(pool.map(_scan_in_worker, jobs))
        else:
            results = [scan_file(*job, counter=counter) for job in jobs]
    if progress is not None:
        progress.update(progress.total)
    ends = np.cumsum([len(sources) for sources, _ in datasets]).tolist()
    return [results[end - len(sources) : end] for (sources, _), end in zip(datasets, ends, strict=True)]


_worker_counter: Any = None


def _start_worker(counter: Any) -> None:
    global _worker_counter
    _worker_counter = counter


def _scan_in_worker(job: tuple[Source, int, Scan]) -> ScannedFile:
    return scan_file(*job, counter=_worker_counter)


@contextlib.contextmanager
def _reporting(progress: Progress, counter: Any) -> Iterator[None]:
    """Report the bytes counted so far, twice a second, until the body ends."""
    ended = threading.Event()

    def report() -> None:
        while not ended.wait(0.5):
            progress.update(min(counter.value // 10**6, progress.total - 1))

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@dataclass(kw_only=True)
class ScannedDataset:
    """What the files of a dataset hold together."""

    parameter: str
    files: list[ScannedFile]
    kind: Kind
    rows: int
    set_aside: int
    fingerprint: Fingerprint
    held_out: HeldOut
    sample: Sample
    repeats: RepeatFinder | None
    formats: Counter[str]
    feedback: FeedbackTally

    def total(self, name: str) -> int:
        """Return the sum of one of the files' numbers."""
        return sum(getattr(file, name) for file in self.files)


def gather(files: Sequence[ScannedFile], scan: Scan, problems: Problems, *, max_bad_rows: int = 0) -> ScannedDataset:
    """Put the files of a dataset together, and everything that is wrong with them into `problems`.

    Args:
        files: In order.
        scan: What was done with them.
        problems: Of all datasets.
        max_bad_rows: So many bad rows are set aside, and are no problem then.
    """
    bad_rows = sum(file.bad_rows for file in files)
    whole = _problem_of_all_rows(files, scan)
    set_aside = bad_rows if bad_rows <= max_bad_rows and whole is None else 0
    if whole is not None:
        problems.add(whole)
    if bad_rows and not set_aside and (advice := _advice(files, scan, whole)):
        problems.advice.append(advice)
    empty = [file.source.name for file in files if file.empty]
    result = ScannedDataset(
        parameter=scan.parameter,
        files=list(files),
        kind=next((file.first.kind for file in files if file.first is not None), scan.accepts[0]),
        rows=0,
        set_aside=set_aside,
        fingerprint=Fingerprint(),
        held_out=HeldOut(limit=scan.held_out),
        sample=Sample(scan.sample_rows),
        repeats=None,
        formats=Counter(),
        feedback=FeedbackTally(),
    )
    for file in files:
        problems.merge(file.problems, set_aside=bool(set_aside), bad_rows=file.kept_bad_rows)
        result.fingerprint.merge(file.fingerprint)
        result.held_out.merge(file.held_out)
        result.sample.merge(file.sample)
        result.formats.update(file.formats)
        result.feedback.merge(file.feedback)
        if result.repeats is None:
            result.repeats = file.repeats
        elif file.repeats is not None:
            result.repeats.merge(file.repeats)
    result.rows = result.fingerprint.rows
    if len(empty) == len(files) or (set_aside and not result.rows):
        names = [file.source.name for file in files]
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        found = "no rows" if len(empty) == len(files) else "no good row"
        problems.add(Problem("empty_dataset", scan.parameter, shown, 0, "", found, "at least one row"))
    elif empty:
        problems.warnings.append(
            f"{scan.parameter}: {len(empty)} of {len(files)} files are empty, the first is {printable(empty[0])}. "
            "If something should be in them, they were not written to their end."
        )
    return result


def _problem_of_all_rows(files: Sequence[ScannedFile], scan: Scan) -> Problem | None:
    """Return what is wrong with all rows of a dataset in the same way: no number of rows to set aside mends that."""
    rows = sum(file.fingerprint.rows for file in files)
    bad_rows = sum(file.bad_rows for file in files)
    names = [file.source.name for file in files if file.bad_rows]
    place = "".join(names[:1]) + (f" and {len(names) - 1:,} more" if len(names) > 1 else "")
    if bad_rows and not rows and bad_rows == sum(file.problems.counts["wrong_kind"] for file in files):
        if scan.accepts == ("demonstration",):
            first = next(problem for file in files for problem in file.problems.kept.get("wrong_kind", ()))
            found = f"no row with the answer that is to be learnt; the first is {first.found}"
            return Problem("wrong_kind", scan.parameter, place, 0, "", found, "rows with that answer")
        other, what = ("prompt", "without") if scan.accepts == ("preference",) else ("preference", "with")
        found = f"only rows {what} preference fields: this looks like the {other} dataset"
        accepted = f"the dataset that {scan.parameter} names. Were the two swapped?"
        return Problem("wrong_kind", scan.parameter, place, 0, "", found, accepted)
    choices = [problem for file in files for problem in file.problems.kept.get("wrong_choice", ())]
    if choices and all(problem.found == describe(2) for problem in choices) and not any(f.first_chosen for f in files):
        accepted = "0 for the first candidate and 1 for the second"
        return Problem(
            "choices_from_one", scan.parameter, place, 0, choices[0].field, "only 1 and 2, never 0", accepted
        )
    return None


def _advice(files: Sequence[ScannedFile], scan: Scan, whole: Problem | None) -> str:
    """Return how to mend a dataset, where a command does it."""
    if whole is not None and whole.code != "choices_from_one":
        return ""
    return how_to_mend(
        scan.parameter,
        [file.source.name for file in files if not file.empty],
        _bad_lines(files),
        accepts=scan.accepts,
        good_rows=any(file.fingerprint.rows for file in files),
        from_one=whole.field if whole is not None else "",
    )


def _bad_lines(files: Sequence[ScannedFile]) -> Iterator[bytes]:
    for file in files:
        if file.set_aside_file is not None and file.set_aside_file.exists():
            with file.set_aside_file.open("rb") as stream:
                yield from stream
