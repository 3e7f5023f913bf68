"""Datasets of any accepted format to the canonical rows that training and evaluation read.

Every row is checked on the way. When one cannot be used, nothing is written and the error lists what is wrong.
"""

import json
import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from xxhash import xxh64_intdigest

from rlhf_tuning.data import known_rows
from rlhf_tuning.data.alike import (
    COMMON_ROWS,
    COMMON_SHARE,
    NONE_ALIKE,
    Alike,
    alike_to,
    beginning,
    begins_as,
    is_among,
    whole_hash,
)
from rlhf_tuning.data.batch import PROMPT, Batch, Hashes
from rlhf_tuning.data.held_out import ENOUGH_TO_CHOOSE, judged_prompts
from rlhf_tuning.data.output import scratch_folder, written_together
from rlhf_tuning.data.problems import Problem, Problems
from rlhf_tuning.data.reader import (
    DEMONSTRATIONS,
    EITHER,
    FEEDBACK,
    PREFERENCES,
    PROMPTS,
    TO_LABEL,
    check_instruction,
)
from rlhf_tuning.data.rows import Kind, encode_prompt, encode_text
from rlhf_tuning.data.scan import (
    Scan,
    ScannedDataset,
    ScannedFile,
    gather,
    scan_at_once,
    scan_in_turn,
)
from rlhf_tuning.data.sources import resolve
from rlhf_tuning.errors import DataError
from rlhf_tuning.limits import check_limits

#: At most so many preferences are held out when there is no evaluation dataset with preferences.
MAX_EVAL_PREFERENCES = 500
#: Likewise of demonstrations.
MAX_EVAL_DEMONSTRATIONS = 500
#: What to say when nothing is left to learn from.
ALL_HELD_OUT = "Every preference fell to the held-out reward model. Give more, or set held_out_reward_model_share to 0."

_BEFORE_PROMPT = len(b'{"prompt": ')
_COPY_BYTES = 2**18
_INDEX_ROWS = 2**18
_NONE = np.empty(0, np.uint64)


@dataclass(frozen=True)
class ImportSummary:
    """What an import wrote.

    Args:
        rows: Rows for training.
        eval_rows: Rows for evaluation.
        left_out: Rows for neither, since their prompt, or how it begins, is that of an evaluation prompt.
        fingerprint: Of the dataset before rows were held out, with the instruction; `check_datasets` finds the same.
        feedback_fingerprint: Likewise of feedback, alone or beside preferences; empty where there is none.
        eval_fingerprint: Likewise of the evaluation dataset; empty where there is none.
        files: How many files the dataset had, without those of the evaluation dataset.
        set_aside: How many bad rows `max_bad_rows` let pass.
        eval_prompts: Prompts of demonstrations, to be answered.
        is_split: Whether the rows for evaluation were held out of the dataset, and are not an evaluation dataset's.
    """

    rows: int
    eval_rows: int
    left_out: int
    fingerprint: str
    eval_fingerprint: str
    files: int
    set_aside: int = 0
    eval_prompts: int = 0
    feedback_fingerprint: str = ""
    is_split: bool = False


def import_prompts(
    *,
    prompt_dataset: str,
    eval_dataset: str,
    instruction: str,
    prompts_path: str,
    eval_prompts_path: str,
    eval_prompts: int = 200,
    seed: int = 0,
    max_bad_rows: int = 0,
    prompt_fingerprint: str = "",
    eval_fingerprint: str = "",
) -> ImportSummary:
    """Write the canonical prompts for reinforcement learning, and those for evaluation.

    Without an evaluation dataset a tenth of the distinct prompts is held out, chosen by their content and the seed. Nothing
    that is alike, see `alike`, stays among the others. An evaluation dataset with preferences gives each of its prompts
    once.

    Args:
        prompt_dataset: The prompts; a path, folder, glob, or one on `gs://`.
        eval_dataset: The evaluation rows, likewise, or an empty string.
        instruction: Prepended to every prompt.
        prompts_path: Where to write the prompts.
        eval_prompts_path: Where to write the evaluation prompts.
        eval_prompts: How many prompts may be held out at most; 0 holds out none.
        seed: Of the choice of held-out prompts.
        max_bad_rows: So many bad rows of each dataset are set aside.
        prompt_fingerprint: What the content was when it was checked; empty where that is not known.
        eval_fingerprint: Likewise of the evaluation dataset.

    Raises:
        DataError: If a dataset cannot be used, or is not the one that was checked; the message lists every kind of
            problem.
    """
    check_limits(seed=seed, max_bad_rows=max_bad_rows, **({"eval_prompts": eval_prompts} if eval_prompts else {}))
    seen: set[bytes] = set()

    def write_prompts(batch: Batch, evaluation: BinaryIO) -> int:
        if batch.kind == "prompt":
            evaluation.write(batch.encoded)
            return len(batch)
        written = 0
        for index in range(len(batch)):
            line = batch.line(index)
            prompt = line[_BEFORE_PROMPT : _BEFORE_PROMPT + int(batch.sizes[index, PROMPT])]
            key = batch.hashes[index, PROMPT].tobytes()
            if key in seen:
                continue
            seen.add(key)
            evaluation.write(b'{"prompt": %b}\n' % prompt)
            written += 1
        return written

    return _import(
        parameter="prompt_dataset",
        reference=prompt_dataset,
        eval_dataset=eval_dataset,
        accepts=PROMPTS,
        instruction=instruction,
        paths=(prompts_path, eval_prompts_path),
        held_out=eval_prompts,
        seed=seed,
        max_bad_rows=max_bad_rows,
        fingerprints=(prompt_fingerprint, eval_fingerprint),
        write_eval=write_prompts,
    )


def import_preferences(
    *,
    preference_dataset: str,
    eval_dataset: str,
    instruction: str,
    preferences_path: str,
    eval_preferences_path: str,
    seed: int = 0,
    max_bad_rows: int = 0,
    preference_fingerprint: str = "",
    eval_fingerprint: str = "",
    preference_rows_path: str = "",
    eval_prompts_path: str = "",
    prompt_dataset: str = "",
    eval_prompts: int = 200,
    prompt_fingerprint: str = "",
    parameter: str = "preference_dataset",
) -> ImportSummary:
    """Write the canonical preferences to learn from, and those to measure on.

    Unless the evaluation dataset has preferences, a tenth of the rows (at most 500) is held out, chosen by prompt. Nothing
    that is alike, see `alike`, stands on both sides, and no prompt on which answers will be compared is learnt from: neither
    those of the evaluation dataset nor, without one, those that `import_prompts` holds out of the prompt dataset.

    Args:
        preference_dataset: The preferences; a path, folder, glob, or one on `gs://`.
        eval_dataset: The evaluation rows, likewise, or an empty string.
        instruction: Prepended to every prompt.
        preferences_path: Where to write the preferences.
        eval_preferences_path: Where to write the held-out preferences.
        seed: Of the choice of held-out preferences.
        max_bad_rows: So many bad rows of each dataset are set aside.
        preference_fingerprint: What the content was when it was checked; empty where that is not known.
        eval_fingerprint: Likewise of the evaluation dataset.
        preference_rows_path: Where to write which rows the dataset has, those held out too (see `known_rows`); nowhere
            where it is empty.
        eval_prompts_path: Where to write the prompts on which answers are compared, where there is no prompt dataset: the
            rows of an evaluation dataset of prompts, repeats too; else those of the preferences that are measured on, each
            once. Nowhere where it is empty.
        prompt_dataset: The prompts, of which some are held out; empty where no policy is tuned on such.
        eval_prompts: How many prompts are held out at most, as `import_prompts` is told.
        prompt_fingerprint: What the content was when it was checked; empty where that is not known.
        parameter: What names the dataset, for messages.

    Raises:
        DataError: If a dataset cannot be used, or is not the one that was checked; the message lists every kind of
            problem.
    """
    check_limits(seed=seed, max_bad_rows=max_bad_rows)
    asked: list[bytes] = []

    def write_preferences(batch: Batch, evaluation: BinaryIO) -> int:
        if batch.kind == "prompt":
            asked.append(bytes(batch.encoded))
            return 0
        evaluation.write(batch.encoded)
        return len(batch)

    summary = _import(
        parameter=parameter,
        reference=preference_dataset,
        eval_dataset=eval_dataset,
        accepts=PREFERENCES,
        instruction=instruction,
        paths=(preferences_path, eval_preferences_path),
        held_out=MAX_EVAL_PREFERENCES,
        seed=seed,
        max_bad_rows=max_bad_rows,
        fingerprints=(preference_fingerprint, eval_fingerprint),
        write_eval=write_preferences,
        rows_path=preference_rows_path,
        prompts=_Prompts(prompt_dataset, eval_prompts, prompt_fingerprint) if prompt_dataset else None,
    )
    if not eval_prompts_path:
        return summary
    most = None if eval_dataset else eval_prompts
    prompts = asked or _prompts_in(eval_preferences_path, most=most, seed=seed)
    return replace(summary, eval_prompts=_write_prompts(eval_prompts_path, prompts))


def import_judgements(
    *,
    preference_dataset: str,
    feedback_dataset: str,
    eval_dataset: str,
    instruction: str,
    preferences_path: str,
    eval_preferences_path: str,
    eval_prompts_path: str = "",
    preference_rows_path: str = "",
    prompt_dataset: str = "",
    eval_prompts: int = 200,
    seed: int = 0,
    max_bad_rows: int = 0,
    preference_fingerprint: str = "",
    feedback_fingerprint: str = "",
    prompt_fingerprint: str = "",
    eval_fingerprint: str = "",
) -> ImportSummary:
    """Write preferences and feedback to learn from, in one file, and those to measure on in another.

    Either may be absent. Of each a part is held out as `import_preferences` does; of feedback also where the evaluation
    dataset brings preferences, since that brings none. No prompt of what is measured on is learnt from.

    Args:
        preference_dataset: The preferences; a path, folder, glob, or one on `gs://`; empty for none.
        feedback_dataset: Answers with a label or a rating each, likewise.
        eval_dataset: As for `import_preferences`, as are the others.
        instruction: Likewise.
        preferences_path: Where to write the rows to learn from.
        eval_preferences_path: Where to write those to measure on.
        eval_prompts_path: Likewise.
        preference_rows_path: Where to write which rows both datasets have.
        prompt_dataset: Likewise.
        eval_prompts: Likewise.
        seed: Likewise.
        max_bad_rows: Likewise.
        preference_fingerprint: Likewise.
        feedback_fingerprint: What the content of the feedback was when it was checked; empty where that is not known.
        prompt_fingerprint: Likewise.
        eval_fingerprint: Likewise.

    Returns:
        The rows of both together, and of the preferences what else there is.

    Raises:
        DataError: If a dataset cannot be used, or is not the one that was checked; the message lists every kind of
            problem.
    """
    settings: dict[str, Any] = {
        "eval_dataset": eval_dataset,
        "instruction": instruction,
        "seed": seed,
        "max_bad_rows": max_bad_rows,
    }
    held_out_prompts = _Prompts(prompt_dataset, eval_prompts, prompt_fingerprint) if prompt_dataset else None
    feedback = partial(
        _import,
        parameter="feedback_dataset",
        reference=feedback_dataset,
        accepts=FEEDBACK,
        held_out=MAX_EVAL_PREFERENCES,
        fingerprints=(feedback_fingerprint, eval_fingerprint),
        prompts=held_out_prompts,
        **settings,
    )
    if not preference_dataset:
        asked: list[bytes] = []

        def write_preferences(batch: Batch, evaluation: BinaryIO) -> int:
            if batch.kind == "prompt":
                asked.append(bytes(batch.encoded))
            else:
                evaluation.write(batch.encoded)
            return 0  # there is no feedback in it

        check_limits(seed=seed, max_bad_rows=max_bad_rows)
        paths = (preferences_path, eval_preferences_path)
        found = feedback(paths=paths, write_eval=write_preferences, rows_path=preference_rows_path)
        found = replace(found, fingerprint="", feedback_fingerprint=found.fingerprint)
        if not eval_prompts_path:
            return found
        most = None if eval_dataset else eval_prompts
        prompts = asked or _prompts_in(eval_preferences_path, most=most, seed=seed)
        return replace(found, eval_prompts=_write_prompts(eval_prompts_path, prompts))
    of_preferences = partial(
        import_preferences,
        preference_dataset=preference_dataset,
        preference_fingerprint=preference_fingerprint,
        eval_fingerprint=eval_fingerprint,
        eval_prompts_path=eval_prompts_path,
        prompt_dataset=prompt_dataset,
        eval_prompts=eval_prompts,
        prompt_fingerprint=prompt_fingerprint,
        **settings,
    )
    if not feedback_dataset:
        return of_preferences(
            preferences_path=preferences_path,
            eval_preferences_path=eval_preferences_path,
            preference_rows_path=preference_rows_path,
        )
    with scratch_folder(preferences_path) as folder:
        learnt, measured, more, of_more = (folder / name for name in ("learnt", "measured", "more", "of_more"))
        rows = [folder / "rows", folder / "more-rows"] if preference_rows_path else []
        summary = of_preferences(
            preferences_path=str(learnt),
            eval_preferences_path=str(measured),
            preference_rows_path=str(rows[0]) if rows else "",
        )
        with measured.open("rb") as lines:
            apart = alike_to(lines)
        found = feedback(
            paths=(str(more), str(of_more)),
            write_eval=lambda batch, evaluation: 0,  # its preferences stand among the others
            apart=apart,
            rows_path=str(rows[1]) if rows else "",
        )
        if rows:
            known_rows.write_together(preference_rows_path, rows)
        with learnt.open("rb") as lines:
            known = set(alike_to(lines).whole.tolist())
        with written_together(preferences_path, eval_preferences_path) as (stream, eval_stream):
            for path in (learnt, more):
                with path.open("rb") as source:
                    _copy(source, stream)
            with measured.open("rb") as source:
                _copy(source, eval_stream)
            with of_more.open("rb") as lines:
                apart_lines = [line for line in lines if whole_hash(line) not in known]
            eval_stream.writelines(apart_lines)
    return replace(
        summary,
        rows=summary.rows + found.rows,
        eval_rows=summary.eval_rows + len(apart_lines),
        left_out=summary.left_out + found.left_out,
        feedback_fingerprint=found.fingerprint,
    )


def _prompts_in(path: str, *, most: int | None, seed: int) -> list[bytes]:
    """Return the distinct prompts of imported rows, as rows of their own, or at most so many of them, drawn by the seed.

    Where there are enough, a third is left over: a checkpoint is chosen by those, see `sample_unasked`. So whole dialogues
    are drawn, each with all prompts that begin as it does.
    """
    dialogues: dict[bytes, dict[bytes, None]] = {}
    for row in read_canonical(path):
        line = b'{"prompt": %b}\n' % encode_prompt(row["prompt"])
        dialogues.setdefault(beginning(line), {})[line] = None
    distinct = [line for lines in dialogues.values() for line in lines]
    count = judged_prompts(len(distinct))
    count = count if most is None else min(count, most)
    if count == len(distinct):
        return distinct
    drawn = random.Random(seed).sample(list(dialogues), len(dialogues))
    return [line for opening in drawn for line in dialogues[opening]][:count]


def sample_unasked(
    path: str | Path, evaluation_prompts_path: str, *, most: int, seed: int
) -> tuple[list[dict[str, Any]], bool]:
    """Return held-out rows to choose a checkpoint by, drawn by the seed.

    They begin otherwise than all prompts on which answers are compared, where all do or enough of them. Else they are any,
    and then what is found on those prompts is too good by chance.

    Args:
        path: The held-out rows.
        evaluation_prompts_path: The prompts that answers are compared on; empty for none.
        most: How many rows to return at most.
        seed: Of the draw.

    Returns:
        The rows, and whether some are to those prompts.

    Raises:
        DataError: If a file is missing or not what an import writes.
    """
    if not evaluation_prompts_path:
        return sample_canonical(path, most=most, seed=seed), False
    with open(evaluation_prompts_path, "rb") as lines:
        unasked = sample_canonical(path, most=most, seed=seed, part=_Unlike(alike_to(lines)))
    rows = sample_canonical(path, most=most, seed=seed)
    if len(unasked) == len(rows) or len({encode_prompt(row["prompt"]) for row in unasked}) >= ENOUGH_TO_CHOOSE:
        return unasked, False
    return rows, True


def _write_prompts(path: str, rows: Sequence[bytes]) -> int:
    """Write rows and return how many there are."""
    with written_together(path) as [stream]:
        stream.writelines(rows)
    return sum(part.count(b"\n") for part in rows)


class _Prompts(NamedTuple):
    """The prompt dataset, as the import of preferences needs to know it."""

    reference: str
    held_out: int
    fingerprint: str


def import_demonstrations(
    *,
    dataset_uri: str,
    evaluation_data_uri: str,
    instruction: str,
    demonstrations_path: str,
    eval_demonstrations_path: str,
    eval_prompts_path: str,
    eval_prompts: int = 200,
    seed: int = 0,
    max_bad_rows: int = 0,
    demonstration_fingerprint: str = "",
    eval_fingerprint: str = "",
    to_label: bool = False,
) -> ImportSummary:
    """Write the canonical demonstrations to learn from, those to measure the loss on, and the prompts to answer.

    Without demonstrations to measure on, a tenth (at most 500) is held out. Nothing that is alike, see `alike`, stands on
    both sides, and no dialogue does. The prompts are theirs, each once.

    Args:
        dataset_uri: The demonstrations; a path, folder, glob, or one on `gs://`.
        evaluation_data_uri: Those to measure on, likewise, or an empty string.
        instruction: Prepended to every prompt.
        demonstrations_path: Where to write the demonstrations to learn from.
        eval_demonstrations_path: Where to write those to measure on.
        eval_prompts_path: Where to write the prompts of the latter.
        eval_prompts: How many prompts to write at most where they are held out.
        seed: Of the choice of what is held out.
        max_bad_rows: So many bad rows of each dataset are set aside.
        demonstration_fingerprint: What the content was when it was checked; empty where that is not known.
        eval_fingerprint: Likewise of the demonstrations to measure on.
        to_label: Whether rows may be prompts that a teacher is to answer; their answers are empty.

    Raises:
        DataError: If a dataset cannot be used, or is not the one that was checked; the message lists every kind of
            problem.
    """
    check_limits(seed=seed, max_bad_rows=max_bad_rows, eval_prompts=eval_prompts)

    def write_demonstrations(batch: Batch, evaluation: BinaryIO) -> int:
        evaluation.write(batch.encoded)
        return len(batch)

    summary = _import(
        parameter="dataset_uri",
        reference=dataset_uri,
        eval_parameter="evaluation_data_uri",
        eval_dataset=evaluation_data_uri,
        accepts=TO_LABEL if to_label else DEMONSTRATIONS,
        eval_accepts=TO_LABEL if to_label else DEMONSTRATIONS,
        instruction=instruction,
        paths=(demonstrations_path, eval_demonstrations_path),
        held_out=MAX_EVAL_DEMONSTRATIONS,
        seed=seed,
        max_bad_rows=max_bad_rows,
        fingerprints=(demonstration_fingerprint, eval_fingerprint),
        write_eval=write_demonstrations,
    )
    prompts = _prompts_in(eval_demonstrations_path, most=None if evaluation_data_uri else eval_prompts, seed=seed)
    return replace(summary, eval_prompts=_write_prompts(eval_prompts_path, prompts))


def import_supervised(
    *,
    supervised_dataset: str,
    preference_dataset: str,
    prompt_dataset: str,
    eval_dataset: str,
    instruction: str,
    demonstrations_path: str,
    eval_demonstrations_path: str,
    feedback_dataset: str = "",
    held_out_reward_model_share: float = 0.0,
    eval_prompts: int = 200,
    seed: int = 0,
    max_bad_rows: int = 0,
    demonstration_fingerprint: str = "",
    preference_fingerprint: str = "",
    feedback_fingerprint: str = "",
    prompt_fingerprint: str = "",
    eval_fingerprint: str = "",
) -> ImportSummary:
    """Write what a supervised phase before others learns from, and what its loss is measured on.

    No prompt on which answers will be compared is learnt from, as for the reward model, and none on which that is measured.
    The preferred answers are those that it learns from, and the loss is measured on those that it is measured on. Those of
    the held-out reward model are not learnt from: it is to judge what came of this.

    Args:
        supervised_dataset: Demonstrations; a path, folder, glob, or one on `gs://`. Empty for the preferred answers.
        preference_dataset: The preferences, likewise.
        prompt_dataset: The prompts of reinforcement learning, of which some are held out; empty where there is none.
        eval_dataset: The evaluation rows, likewise, or an empty string.
        instruction: Prepended to every prompt.
        demonstrations_path: Where to write the demonstrations to learn from.
        eval_demonstrations_path: Where to write those to measure on.
        feedback_dataset: Answers with a label or a rating each, which stand beside preferences or in their place.
        held_out_reward_model_share: Share of the prompts whose preferences only the held-out reward model learns from.
        eval_prompts: How many prompts are held out at most, as `import_prompts` is told.
        seed: Of the choice of what is held out.
        max_bad_rows: So many bad rows of each dataset are set aside.
        demonstration_fingerprint: What the content was when it was checked; empty where that is not known.
        preference_fingerprint: Likewise of the preferences.
        feedback_fingerprint: Likewise of the feedback.
        prompt_fingerprint: Likewise of the prompts.
        eval_fingerprint: Likewise of the evaluation dataset.

    Raises:
        DataError: If a dataset cannot be used, or is not the one that was checked; the message lists every kind of
            problem.
    """
    with scratch_folder(demonstrations_path) as folder:
        learnt, measured = folder / "learnt", folder / "measured"
        summary = import_judgements(
            preference_dataset=preference_dataset,
            feedback_dataset=feedback_dataset,
            eval_dataset=eval_dataset,
            instruction=instruction,
            preferences_path=str(learnt),
            eval_preferences_path=str(measured),
            seed=seed,
            max_bad_rows=max_bad_rows,
            preference_fingerprint=preference_fingerprint,
            feedback_fingerprint=feedback_fingerprint,
            eval_fingerprint=eval_fingerprint,
            prompt_dataset=prompt_dataset,
            eval_prompts=eval_prompts,
            prompt_fingerprint=prompt_fingerprint,
        )
        if supervised_dataset:
            with measured.open("rb") as lines:
                apart = alike_to(lines)
            return _import(
                parameter="supervised_dataset",
                reference=supervised_dataset,
                eval_dataset=eval_dataset,
                accepts=DEMONSTRATIONS,
                instruction=instruction,
                paths=(demonstrations_path, eval_demonstrations_path),
                held_out=MAX_EVAL_DEMONSTRATIONS,
                seed=seed,
                max_bad_rows=max_bad_rows,
                fingerprints=(demonstration_fingerprint, eval_fingerprint),
                write_eval=lambda batch, evaluation: 0,  # no demonstrations: its prompts are only kept apart
                prompts=_Prompts(prompt_dataset, eval_prompts, prompt_fingerprint) if prompt_dataset else None,
                apart=apart,
            )
        part = Part(share=held_out_reward_model_share, seed=seed, held_out=False)
        with written_together(demonstrations_path, eval_demonstrations_path) as (stream, eval_stream):
            rows = _write_preferred(read_canonical(learnt, part=part), stream)
            if not rows:
                raise DataError(ALL_HELD_OUT)
            eval_rows = _write_preferred(read_canonical(measured), eval_stream)
    return replace(summary, rows=rows, eval_rows=eval_rows)


def _write_preferred(preferences: Iterable[dict[str, Any]], demonstrations: BinaryIO) -> int:
    """Write the preferred answer of each preference as a demonstration, each once, and return how many there are."""
    seen: set[int] = set()
    for row in preferences:
        if "chosen" not in row:
            continue
        line = b'{"prompt": %b, "answer": %b}\n' % (encode_prompt(row["prompt"]), encode_text(row["chosen"]))
        key = xxh64_intdigest(line)
        if key not in seen:
            seen.add(key)
            demonstrations.write(line)
    return len(seen)


def _import(
    *,
    parameter: str,
    reference: str,
    eval_dataset: str,
    accepts: tuple[Kind, ...],
    instruction: str,
    paths: tuple[str, str],
    held_out: int,
    seed: int,
    max_bad_rows: int,
    fingerprints: tuple[str, str],
    write_eval: Callable[[Batch, BinaryIO], int],
    rows_path: str = "",
    prompts: _Prompts | None = None,
    eval_parameter: str = "eval_dataset",
    eval_accepts: tuple[Kind, ...] = EITHER,
    apart: Alike = NONE_ALIKE,
) -> ImportSummary:
    instruction = check_instruction(instruction)
    sources = resolve(reference, parameter=parameter)
    eval_sources = resolve(eval_dataset, parameter=eval_parameter) if eval_dataset else []
    problems = Problems()
    with scratch_folder(paths[0]) as folder, written_together(*paths) as (training, evaluation):
        # 1. The evaluation dataset: it says whether rows must be held out, and which prompts may not be trained on.
        eval_rows = 0
        eval_fingerprint = ""
        evaluated = NONE_ALIKE
        if eval_sources:

            def take(batch: Batch) -> None:
                nonlocal eval_rows
                eval_rows += write_eval(batch, evaluation)

            eval_scan = Scan(
                parameter=eval_parameter,
                accepts=eval_accepts,
                instruction=instruction,
                folder=folder,
                keep_prompts=True,
            )
            eval_files = scan_in_turn(eval_sources, eval_scan, sink=take)
            eval_data = gather(eval_files, eval_scan, problems, max_bad_rows=max_bad_rows)
            _check_unchanged(eval_parameter, eval_data, fingerprints[1], problems)
            eval_fingerprint = eval_data.fingerprint.value()
            evaluated = prompts_of(eval_files)
        elif prompts is not None:
            held_out_scan = Scan(
                parameter="prompt_dataset",
                accepts=PROMPTS,
                instruction=instruction,
                folder=folder,
                write_rows=True,
                held_out=prompts.held_out,
                seed=seed,
                index_rows=True,
            )
            [prompt_files] = scan_at_once([(resolve(prompts.reference, parameter="prompt_dataset"), held_out_scan)])
            prompt_data = gather(prompt_files, held_out_scan, problems, max_bad_rows=max_bad_rows)
            _check_unchanged("prompt_dataset", prompt_data, prompts.fingerprint, problems)
            evaluated = _held_out(prompt_files, prompt_data.held_out.prompts() if prompts.held_out else _NONE)
        # 2. The dataset itself.
        needs_split = held_out > 0 and not (eval_sources if parameter == "prompt_dataset" else eval_rows)
        scan = Scan(
            parameter=parameter,
            accepts=accepts,
            instruction=instruction,
            folder=folder,
            write_rows=True,
            held_out=held_out if needs_split else 0,
            seed=seed,
            index_rows=needs_split or bool(evaluated),
            eval_prompts=evaluated if eval_sources else NONE_ALIKE,
            keep_rows=bool(rows_path),
        )
        [files] = scan_at_once([(sources, scan)])
        data = gather(files, scan, problems, max_bad_rows=max_bad_rows)
        if eval_sources:
            report_overlap(eval_data, data, problems)
        if not problems.counts and needs_split and not data.held_out.can_split:
            problems.add(too_few_to_split(parameter, reference))
        _check_unchanged(parameter, data, fingerprints[0], problems)
        problems.raise_if_any()
        if rows_path:
            known_rows.write(rows_path, known_rows.distinct(files))
        # 3. What is held out leaves the rest, and so does what is alike.
        chosen = _NONE
        if needs_split:
            chosen = data.held_out.prompts() if parameter == "prompt_dataset" else data.held_out.groups()
        left = _split(
            files, chosen, _united(evaluated, apart), training, evaluation, first_only=parameter == "prompt_dataset"
        )
        if left.gone == data.rows:
            raise DataError(
                f"No row of {parameter} is left to train on: every prompt, or how it begins, is that of an evaluation "
                f"prompt. Add rows with other prompts, or give an {eval_parameter} with others."
            )
    return ImportSummary(
        rows=data.rows - left.gone,
        eval_rows=eval_rows + left.held,
        left_out=left.alike,
        fingerprint=data.fingerprint.value(),
        eval_fingerprint=eval_fingerprint,
        files=len(files),
        set_aside=data.set_aside,
        is_split=needs_split,
    )


class _Left(NamedTuple):
    """How many rows left training, how many of them came to evaluation, and how many are only alike."""

    gone: int
    held: int
    alike: int


def _split(
    files: Sequence[ScannedFile],
    chosen: Hashes,
    evaluated: Alike,
    training: BinaryIO,
    evaluation: BinaryIO,
    *,
    first_only: bool,
) -> _Left:
    """Copy the files' rows to where they belong.

    Args:
        files: Scanned, with their rows written.
        chosen: Places in line of the prompts to hold out, sorted.
        evaluated: Further prompts that nothing may be learnt from.
        training: For all other rows.
        evaluation: For the held-out ones.
        first_only: Whether only the first row of each held-out prompt goes to evaluation, and the others nowhere.
    """
    evaluated = _united(evaluated, _held_out(files, chosen))
    telling, whole = _telling(files, evaluated.opening), set(evaluated.whole.tolist())
    gone = held = alike = 0
    seen: set[int] = set()
    for file in files:
        if file.rows_file is None or not file.rows_file.exists():  # a file without a good row
            continue
        with file.rows_file.open("rb") as rows:
            for order, opening, size, before in _rows_to_look_at(file, chosen, evaluated):
                _copy(rows, training, before)
                line = rows.read(size)
                if order is not None:
                    gone += 1
                    if not first_only or order not in seen:
                        seen.add(order)
                        evaluation.write(line)
                        held += 1
                elif opening in telling or whole_hash(line) in whole:
                    gone += 1
                    alike += 1
                else:
                    training.write(line)
            _copy(rows, training)
    return _Left(gone, held, alike)


def _united(some: Alike, others: Alike) -> Alike:
    return Alike(*(np.union1d(*both) for both in zip(some, others, strict=True)))


def _index(file: ScannedFile) -> Iterator[Hashes]:
    """Yield [rows, 3] parts of a file's index: place in line, hash of the prompt's opening, size of the row."""
    if file.index_file is None or not file.index_file.exists():
        return
    with file.index_file.open("rb") as stream:
        while chunk := stream.read(24 * _INDEX_ROWS):
            yield np.frombuffer(chunk, np.uint64).reshape(-1, 3)


def _held_out(files: Sequence[ScannedFile], chosen: Hashes) -> Alike:
    """Return the prompts that are held out, by their places in line."""
    return alike_to(line for file in files for line in _lines_at(file, chosen))


def _lines_at(file: ScannedFile, chosen: Hashes) -> Iterator[bytes]:
    if file.rows_file is None or not file.rows_file.exists():
        return
    with file.rows_file.open("rb") as rows:
        for _, _, size, before in _rows_to_look_at(file, chosen, NONE_ALIKE):
            rows.seek(before, os.SEEK_CUR)
            yield rows.read(size)


def _telling(files: Sequence[ScannedFile], openings: Hashes) -> set[int]:
    """Return those of some openings that tell what a dialogue is about: not the ones that begin very many rows."""
    counts, rows = np.zeros(len(openings), np.int64), 0
    for part in (part for file in files for part in _index(file)):
        found = part[is_among(part[:, 1], openings), 1]
        counts += np.bincount(np.searchsorted(openings, found), minlength=len(openings))
        rows += len(part)
    return set(openings[counts <= max(COMMON_ROWS, COMMON_SHARE * rows)].tolist())


def _rows_to_look_at(file: ScannedFile, chosen: Hashes, evaluated: Alike) -> Iterator[tuple[int | None, int, int, int]]:
    """Yield rows that are held out, or begin as an evaluated prompt does.

    Each as its place in line (None where it is not held out), its opening, its size, and the bytes since the last one.
    """
    gap = 0
    for index in _index(file):
        ends = np.cumsum(index[:, 2])
        held = is_among(index[:, 0], chosen)
        done = 0
        for row in np.flatnonzero(held | is_among(index[:, 1], evaluated.opening)).tolist():
            order, opening, size = index[row].tolist()
            start = int(ends[row]) - size
            yield order if held[row] else None, opening, size, gap + start - done
            gap, done = 0, start + size
        gap += int(ends[-1]) - done


def _copy(source: BinaryIO, target: BinaryIO, size: int | None = None) -> None:
    """Copy so many bytes, or all that are left."""
    buffer = memoryview(bytearray(_COPY_BYTES))
    while size is None or size > 0:
        count = source.readinto(buffer if size is None else buffer[:size])  # type: ignore[attr-defined]
        if not count:
            return
        target.write(buffer[:count])
        size = None if size is None else size - count


def _check_unchanged(parameter: str, data: ScannedDataset, expected: str, problems: Problems) -> None:
    """Stop when a dataset is another than the one that was checked: later steps carry the fingerprint of that one.

    Raises:
        DataError: If its content differs.
    """
    if expected and not problems.counts and data.fingerprint.value() != expected:
        raise DataError(
            f"{parameter} has changed since Validate Inputs checked it ({data.rows:,} rows now). Run again when nothing "
            "writes to it."
        )


def prompts_of(files: Sequence[ScannedFile]) -> Alike:
    """Return the prompts that scanned files have."""
    hashes = [hashes for file in files for hashes, _ in file.prompts]
    return Alike(*map(np.unique, np.concatenate(hashes).T)) if hashes else NONE_ALIKE


def report_overlap(evaluation: ScannedDataset, training: ScannedDataset, problems: Problems) -> None:
    """Add a problem for each evaluation prompt that is also trained on, at its first row.

    An evaluation prompt may be one of the preferences', or of feedback: those rows are left out. But not one of the
    preferences' where it brings preferences of its own, which are to say how good the reward model is.

    Args:
        evaluation: The evaluation dataset.
        training: The dataset that is trained on, in which its prompts were looked for.
        problems: Gets them.
    """
    if training.kind == "feedback" or (training.kind == "preference" and evaluation.kind == "prompt"):
        return
    seen: dict[int, str] = {}
    for file in training.files:
        for prompt, line in file.eval_prompts_seen.items():
            seen.setdefault(prompt, f"{file.source.name}:{line}")
    accepted = f"evaluation prompts that {training.parameter} does not have, however they are spaced and capitalised"
    for name, line, prompt in _places(evaluation.files, set(seen)):
        if prompt not in seen:
            continue
        rest = (evaluation.parameter, name, line, "", f"the prompt of {seen.pop(prompt)}", accepted)
        if training.parameter == "prompt_dataset":
            problems.add(Problem("eval_prompt_in_training", *rest))
        elif training.parameter == "preference_dataset":
            problems.add(Problem("eval_preference_in_training", *rest))
        else:
            problems.add(Problem("eval_demonstration_in_training", *rest))


def _places(files: Sequence[ScannedFile], prompts: set[int]) -> Iterator[tuple[str, int, int]]:
    """Yield file, line and hash of every row with one of some prompts."""
    wanted = np.array(sorted(prompts), np.uint64)
    for file in files:
        for hashes, lines in file.prompts:
            for index in np.flatnonzero(is_among(hashes[:, 0], wanted)).tolist():
                yield file.source.name, int(lines[index]), int(hashes[index, 0])


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of the two parts of imported preferences: no opening is in both, whatever the order of the rows.

    Args:
        share: Of the prompts that are in the held-out part.
        seed: Of the choice.
        held_out: Whether this is that part, and not the rest.
    """

    share: float
    seed: int
    held_out: bool

    def has(self, line: bytes) -> bool:
        """Say whether a line of the file belongs to this part."""
        return (xxh64_intdigest(beginning(line), self.seed) < self.share * 2**64) is self.held_out


@dataclass(frozen=True)
class _Unlike:
    """The imported rows whose prompts begin otherwise than some others."""

    others: Alike

    def has(self, line: bytes) -> bool:
        """Say whether a line of the file is one of them."""
        return not begins_as(line, self.others)


def read_canonical(path: str | Path, *, part: Part | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file that an import wrote.

    Args:
        path: The file.
        part: Which part of the rows to yield; all when absent.

    Raises:
        DataError: If the file is missing or not what an import writes.
    """
    try:
        with open(path, "rb") as stream:
            for number, line in enumerate(stream, 1):
                if part is None or part.has(line):
                    yield _canonical_row(path, number, line.decode())
    except FileNotFoundError:
        raise DataError(f"{path} does not exist. Import the dataset first.") from None


def sample_canonical(
    path: str | Path, *, most: int, seed: int, part: Part | _Unlike | None = None, having: str = ""
) -> list[dict[str, Any]]:
    """Return the rows of a file that an import wrote, or, where it has more, so many of them, drawn by the seed.

    Training that ends before it has seen every row need not read, encode and remember them all.

    Args:
        path: The file.
        most: How many rows to return at most.
        seed: Of the draw.
        part: Which part of the rows to look at; all when absent.
        having: The field that rows have which are looked at, such as `chosen`; all when empty.

    Raises:
        DataError: If the file is missing or not what an import writes.
    """
    field = b', "%b": ' % having.encode() if having else b""

    def fits(line: bytes) -> bool:
        return field in line and (part is None or part.has(line))  # no text holds quotes as they are

    try:
        with open(path, "rb") as stream:
            rows = sum(map(fits, stream))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist. Import the dataset first.") from None
    drawn = set(random.Random(seed).sample(range(rows), most)) if rows > most else range(rows)
    with open(path, "rb") as stream:
        numbered = ((number, line) for number, line in enumerate(stream, 1) if fits(line))
        return [
            _canonical_row(path, number, line.decode())
            for place, (number, line) in enumerate(numbered)
            if place in drawn
        ]


def _canonical_row(path: str | Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict) or "prompt" not in row:
        raise DataError(f"{path}:{number} is no imported row. Import the dataset again.")
    return row


def too_few_to_split(parameter: str, reference: str) -> Problem:
    """Return the problem of a dataset with a single prompt from which nothing can be held out."""
    accepted = "at least two different prompts, or an eval_dataset"
    if parameter in ("supervised_dataset", "feedback_dataset", "human_preference_dataset"):
        accepted = "at least two different prompts"
    if parameter == "dataset_uri":
        accepted = "at least two different prompts, or an evaluation_data_uri"
    if parameter == "preference_dataset":
        accepted += " with preference fields"
    return Problem("too_few_rows", parameter, reference, 0, "", "one distinct prompt", accepted)
