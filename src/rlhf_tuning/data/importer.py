"""Datasets of any accepted format to the canonical rows that training and evaluation read.

Every row is checked on the way. When one cannot be used, nothing is written and the error lists what is wrong.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_tuning.data.fingerprint import Fingerprint
from rlhf_tuning.data.held_out import HeldOut
from rlhf_tuning.data.output import scratch_file, written_together
from rlhf_tuning.data.problems import Problem, Problems
from rlhf_tuning.data.reader import EITHER, PREFERENCES, PROMPTS, LocatedRow, check_instruction, read_rows
from rlhf_tuning.data.rows import encode_prompt, encode_row, prompt_key, prompt_line
from rlhf_tuning.data.sources import Source, resolve
from rlhf_tuning.errors import DataError
from rlhf_tuning.limits import check_limits

#: At most so many preferences are held out when there is no evaluation dataset with preferences.
MAX_EVAL_PREFERENCES = 500


@dataclass(frozen=True)
class ImportSummary:
    """What an import wrote.

    Args:
        rows: Rows for training.
        eval_rows: Rows for evaluation.
        fingerprint: Of the dataset before rows were held out, with the instruction; `check_datasets` finds the same.
        files: How many files the dataset had, without those of the evaluation dataset.
    """

    rows: int
    eval_rows: int
    fingerprint: str
    files: int


def import_prompts(
    *,
    prompt_dataset: str,
    eval_dataset: str,
    instruction: str,
    prompts_path: str,
    eval_prompts_path: str,
    eval_prompts: int = 200,
    seed: int = 0,
) -> ImportSummary:
    """Write the canonical prompts for reinforcement learning, and those for evaluation.

    Without an evaluation dataset a tenth of the distinct prompts is held out, chosen by their content and the seed; no
    copy of them stays among the others. An evaluation dataset with preferences gives each of its prompts once.

    Args:
        prompt_dataset: The prompts; a path, folder, glob, or one on `gs://`.
        eval_dataset: The evaluation rows, likewise, or an empty string.
        instruction: Prepended to every prompt.
        prompts_path: Where to write the prompts.
        eval_prompts_path: Where to write the evaluation prompts.
        eval_prompts: How many prompts may be held out at most; 0 holds out none.
        seed: Of the choice of held-out prompts.

    Raises:
        DataError: If a dataset cannot be used; the message lists every kind of problem.
    """
    check_limits(seed=seed, **({"eval_prompts": eval_prompts} if eval_prompts else {}))
    instruction = check_instruction(instruction)
    sources = resolve(prompt_dataset, parameter="prompt_dataset")
    eval_sources = resolve(eval_dataset, parameter="eval_dataset") if eval_dataset else []
    problems, fingerprint = Problems(), Fingerprint()
    with written_together(prompts_path, eval_prompts_path) as (prompts, evaluation):
        rows = read_rows(
            sources, parameter="prompt_dataset", accepts=PROMPTS, instruction=instruction, problems=problems
        )
        if eval_sources:
            eval_keys: dict[bytes, tuple[str, int]] = {}
            eval_rows = 0
            for row, file, line in _eval_rows(eval_sources, instruction, problems):
                prompt = encode_prompt(row.prompt)
                key = prompt_key(prompt)
                if row.kind == "preference" and key in eval_keys:
                    continue
                eval_keys.setdefault(key, (file, line))
                evaluation.write(prompt_line(prompt))
                eval_rows += 1
            for row, file, line in rows:
                prompt = encode_prompt(row.prompt)
                report_overlap(prompt_key(prompt), file, line, eval_keys, problems)
                fingerprint.add(encoded := prompt_line(prompt))
                prompts.write(encoded)
            problems.raise_if_any()
            return ImportSummary(fingerprint.rows, eval_rows, fingerprint.value(), len(sources))

        if eval_prompts == 0:
            for row, _, _ in rows:
                fingerprint.add(encoded := prompt_line(encode_prompt(row.prompt)))
                prompts.write(encoded)
            problems.raise_if_any()
            return ImportSummary(fingerprint.rows, 0, fingerprint.value(), len(sources))

        held_out = HeldOut(limit=eval_prompts, seed=seed)
        with scratch_file(prompts_path) as every_row:
            for row, _, _ in rows:
                prompt = encode_prompt(row.prompt)
                held_out.add(prompt_key(prompt))
                fingerprint.add(encoded := prompt_line(prompt))
                every_row.write(encoded)
            if not problems.counts and not held_out.can_split:
                problems.add(too_few_to_split("prompt_dataset", prompt_dataset))
            problems.raise_if_any()
            first_rows, all_rows = held_out.prompts()
            every_row.seek(0)
            for number, encoded in enumerate(every_row):
                if number not in all_rows:
                    prompts.write(encoded)
                elif number in first_rows:
                    evaluation.write(encoded)
        return ImportSummary(fingerprint.rows - len(all_rows), len(first_rows), fingerprint.value(), len(sources))


def import_preferences(
    *,
    preference_dataset: str,
    eval_dataset: str,
    instruction: str,
    preferences_path: str,
    eval_preferences_path: str,
    seed: int = 0,
) -> ImportSummary:
    """Write the canonical preferences for training the reward model, and those for measuring its accuracy.

    Unless the evaluation dataset has preferences, a tenth of the rows (at most 500) is held out, chosen by prompt: no
    prompt stands on both sides.

    Args:
        preference_dataset: The preferences; a path, folder, glob, or one on `gs://`.
        eval_dataset: The evaluation rows, likewise, or an empty string.
        instruction: Prepended to every prompt.
        preferences_path: Where to write the preferences.
        eval_preferences_path: Where to write the held-out preferences.
        seed: Of the choice of held-out preferences.

    Raises:
        DataError: If a dataset cannot be used; the message lists every kind of problem.
    """
    check_limits(seed=seed)
    instruction = check_instruction(instruction)
    sources = resolve(preference_dataset, parameter="preference_dataset")
    eval_sources = resolve(eval_dataset, parameter="eval_dataset") if eval_dataset else []
    problems, fingerprint = Problems(), Fingerprint()
    with written_together(preferences_path, eval_preferences_path) as (preferences, evaluation):
        eval_rows = 0
        for row, _, _ in _eval_rows(eval_sources, instruction, problems) if eval_sources else ():
            if row.kind == "preference":
                evaluation.write(encode_row(row, encode_prompt(row.prompt)))
                eval_rows += 1
        rows = read_rows(
            sources, parameter="preference_dataset", accepts=PREFERENCES, instruction=instruction, problems=problems
        )
        if eval_rows:
            for row, _, _ in rows:
                fingerprint.add(encoded := encode_row(row, encode_prompt(row.prompt)))
                preferences.write(encoded)
            problems.raise_if_any()
            return ImportSummary(fingerprint.rows, eval_rows, fingerprint.value(), len(sources))

        held_out = HeldOut(limit=MAX_EVAL_PREFERENCES, seed=seed)
        with scratch_file(preferences_path) as every_row:
            for row, _, _ in rows:
                prompt = encode_prompt(row.prompt)
                held_out.add(prompt_key(prompt))
                fingerprint.add(encoded := encode_row(row, prompt))
                every_row.write(encoded)
            if not problems.counts and not held_out.can_split:
                problems.add(too_few_to_split("preference_dataset", preference_dataset))
            problems.raise_if_any()
            chosen = held_out.groups()
            every_row.seek(0)
            for number, encoded in enumerate(every_row):
                (evaluation if number in chosen else preferences).write(encoded)
        return ImportSummary(fingerprint.rows - len(chosen), len(chosen), fingerprint.value(), len(sources))


def read_canonical(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file that an import wrote.

    Raises:
        DataError: If the file is missing or not what an import writes.
    """
    try:
        with open(path, encoding="utf-8", newline="\n") as stream:
            for number, line in enumerate(stream, 1):
                try:
                    row = json.loads(line)
                except ValueError:
                    row = None
                if not isinstance(row, dict) or "prompt" not in row:
                    raise DataError(f"{path}:{number} is no imported row. Import the dataset again.")
                yield row
    except FileNotFoundError:
        raise DataError(f"{path} does not exist. Import the dataset first.") from None


def report_overlap(
    key: bytes, file: str, line: int, eval_keys: dict[bytes, tuple[str, int]], problems: Problems
) -> None:
    """Add a problem when the prompt at `file` and `line` is one of the evaluation's; each of those is named once."""
    if key in eval_keys:
        eval_file, eval_line = eval_keys.pop(key)
        problems.add(
            Problem(
                "eval_prompt_in_training",
                "eval_dataset",
                eval_file,
                eval_line,
                "",
                f"the prompt of {file}:{line}",
                "evaluation prompts that prompt_dataset does not have",
            )
        )


def too_few_to_split(parameter: str, reference: str) -> Problem:
    """Return the problem of a dataset with a single prompt from which nothing can be held out."""
    accepted = "at least two different prompts, or an eval_dataset"
    if parameter == "preference_dataset":
        accepted += " with preference fields"
    return Problem("too_few_rows", parameter, reference, 0, "", "one distinct prompt", accepted)


def _eval_rows(sources: list[Source], instruction: str, problems: Problems) -> Iterator[LocatedRow]:
    return read_rows(sources, parameter="eval_dataset", accepts=EITHER, instruction=instruction, problems=problems)
