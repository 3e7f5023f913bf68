"""Reads every row of every dataset before anything is spent, and says all that is wrong at once."""

from collections.abc import Iterator
from dataclasses import dataclass

from rlhf_tuning.data.fingerprint import Fingerprint
from rlhf_tuning.data.importer import report_overlap, too_few_to_split
from rlhf_tuning.data.problems import Problems
from rlhf_tuning.data.reader import EITHER, PREFERENCES, PROMPTS, LocatedRow, check_instruction, read_rows
from rlhf_tuning.data.rows import Kind, encode_prompt, encode_row, prompt_key
from rlhf_tuning.data.sources import Source, resolve
from rlhf_tuning.errors import DataError

_ACCEPTS: dict[str, tuple[Kind, ...]] = {
    "eval_dataset": EITHER,
    "prompt_dataset": PROMPTS,
    "preference_dataset": PREFERENCES,
}


@dataclass(frozen=True)
class DatasetCheck:
    """What is in datasets that can be used.

    Args:
        prompt_fingerprint: Of the prompt dataset's content with the instruction; empty where there is none.
        preference_fingerprint: Likewise of the preference dataset.
        eval_fingerprint: Likewise of the evaluation dataset.
        counts: Rows of each dataset that was given, by its parameter's name.
        warnings: What is suspicious, each with what to do about it.
    """

    prompt_fingerprint: str
    preference_fingerprint: str
    eval_fingerprint: str
    counts: dict[str, int]
    warnings: list[str]


def check_datasets(
    *, prompt_dataset: str, preference_dataset: str, eval_dataset: str, instruction: str
) -> DatasetCheck:
    """Check every row of the datasets given.

    Args:
        prompt_dataset: The prompts, or an empty string where they are not used.
        preference_dataset: The preferences, likewise.
        eval_dataset: The evaluation rows, likewise.
        instruction: Prepended to every prompt.

    Raises:
        DataError: If a dataset cannot be used; the message lists every kind of problem in any of them.
    """
    references = {
        "prompt_dataset": prompt_dataset,
        "preference_dataset": preference_dataset,
        "eval_dataset": eval_dataset,
    }
    if not any(references.values()):
        raise DataError("There is no dataset to check. Give prompt_dataset, preference_dataset or eval_dataset.")
    instruction = check_instruction(instruction)
    sources = _resolve_all(references)
    problems = Problems()
    fingerprints = {parameter: Fingerprint() for parameter in sources}
    distinct: dict[str, bool] = {}

    # The evaluation prompts go first: they are few, so remembering them is what keeps memory small.
    eval_keys: dict[bytes, tuple[str, int]] = {}
    eval_kind: Kind = "prompt"
    seen_in_preferences: set[bytes] = set()
    for parameter in _ACCEPTS:
        if parameter not in sources:
            continue
        first_key = b""
        for (row, file, line), prompt in _rows(parameter, sources[parameter], instruction, problems):
            key = prompt_key(prompt)
            first_key = first_key or key
            distinct[parameter] = distinct.get(parameter, False) or key != first_key
            fingerprints[parameter].add(encode_row(row, prompt))
            if parameter == "eval_dataset":
                eval_kind = row.kind
                eval_keys.setdefault(key, (file, line))
            elif parameter == "preference_dataset" and key in eval_keys:
                seen_in_preferences.add(key)
            elif parameter == "prompt_dataset":
                report_overlap(key, file, line, eval_keys, problems)

    tunes = bool(prompt_dataset and preference_dataset)
    eval_is_preferences = bool(eval_dataset) and eval_kind == "preference"
    if tunes and not eval_dataset and distinct.get("prompt_dataset") is False:
        problems.add(too_few_to_split("prompt_dataset", prompt_dataset))
    if not eval_is_preferences and distinct.get("preference_dataset") is False:
        problems.add(too_few_to_split("preference_dataset", preference_dataset))
    problems.raise_if_any()

    if eval_is_preferences and seen_in_preferences:
        problems.warnings.append(
            f"{len(seen_in_preferences)} of {len(eval_keys)} prompts of eval_dataset also stand in preference_dataset: "
            "the reward model's accuracy will look better than it is. Remove them from one of the two."
        )
    counts = {parameter: fingerprint.rows for parameter, fingerprint in fingerprints.items()}
    values = {parameter: fingerprint.value() for parameter, fingerprint in fingerprints.items()}
    return DatasetCheck(
        prompt_fingerprint=values.get("prompt_dataset", ""),
        preference_fingerprint=values.get("preference_dataset", ""),
        eval_fingerprint=values.get("eval_dataset", ""),
        counts=counts,
        warnings=problems.warnings,
    )


def _resolve_all(references: dict[str, str]) -> dict[str, list[Source]]:
    """Resolve every dataset, so that two that are missing are both named."""
    sources: dict[str, list[Source]] = {}
    errors: list[str] = []
    for parameter, reference in references.items():
        if reference:
            try:
                sources[parameter] = resolve(reference, parameter=parameter)
            except DataError as error:
                errors.append(str(error))
    if errors:
        raise DataError("\n".join(errors))
    return sources


def _rows(
    parameter: str, sources: list[Source], instruction: str, problems: Problems
) -> Iterator[tuple[LocatedRow, bytes]]:
    rows = read_rows(
        sources, parameter=parameter, accepts=_ACCEPTS[parameter], instruction=instruction, problems=problems
    )
    for located in rows:
        yield located, encode_prompt(located.row.prompt)
