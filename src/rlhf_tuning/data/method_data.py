"""One division of one's data for all methods that are compared: none learns from what any of them is judged by.

In a folder, as rows of an accepted format with the instruction in them:

    eval_prompts.jsonl        prompts that all answer, and that nothing like is learnt from; without prompts of
                              reinforcement learning, those of choices.jsonl
    choices.jsonl             canonical preferences held out of everything, to hold the judges against
    judge_preferences.jsonl   preferences that a reward model learns from which only judges
    preferences.jsonl         the others
    prompts.jsonl             prompts of reinforcement learning, where there are such
    demonstrations.jsonl      demonstrations, or the preferred answers of preferences.jsonl
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xxhash import xxh64_intdigest

from rlhf_tuning.data.alike import alike_to
from rlhf_tuning.data.importer import Part, import_demonstrations, import_preferences, import_prompts

#: Of the hash that parts the judge's preferences; no seed of a run, which parts what is left by one of its own.
_PART_SEED = 2**40


@dataclass(frozen=True, kw_only=True)
class MethodData:
    """What was written: how many rows of each file, by its name without the ending, and a digest of all files."""

    folder: Path
    rows: Mapping[str, int]
    fingerprint: str

    def path(self, name: str) -> str:
        """Return a file's path."""
        return data_path(self.folder, name)


def data_path(folder: Path, name: str) -> str:
    """Return where one of the files is, or will be."""
    return str(folder / f"{name}.jsonl")


def write_method_data(
    folder: Path,
    *,
    prompt_dataset: str,
    preference_dataset: str,
    eval_dataset: str,
    dataset_uri: str,
    instruction: str,
    eval_prompts: int,
    judge_share: float,
    max_bad_rows: int = 0,
    fingerprints: Mapping[str, str] | None = None,
) -> MethodData:
    """Write the files. The same data gives the same files, whatever the seeds of the trainings.

    Args:
        folder: Where to.
        prompt_dataset: As of a run, as are the others; empty where no method learns from prompts.
        preference_dataset: Preferences.
        eval_dataset: Prompts or preferences for evaluation; a part is held out when empty.
        dataset_uri: Demonstrations; the preferred answers when empty.
        instruction: Put before every prompt.
        eval_prompts: Most prompts to hold out.
        judge_share: Share of the prompts of preferences from which only the judging reward model learns.
        max_bad_rows: So many bad rows of each dataset are set aside.
        fingerprints: What the content of `prompt`, `preference`, `demonstration` and `eval` was when it was checked; of
            those that are known.

    Raises:
        DataError: If a dataset cannot be used, or has changed since it was checked.
    """
    known = {f"{name}_fingerprint": value for name, value in (fingerprints or {}).items()}

    def of(*names: str) -> dict[str, Any]:
        return {name: known[name] for name in (f"{name}_fingerprint" for name in names) if name in known}

    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, int] = {}
    with tempfile.TemporaryDirectory(dir=folder, prefix=".import-") as scratch:
        if prompt_dataset:
            imported = import_prompts(
                prompt_dataset=prompt_dataset,
                eval_dataset=eval_dataset,
                instruction=instruction,
                prompts_path=data_path(folder, "prompts"),
                eval_prompts_path=data_path(folder, "eval_prompts"),
                eval_prompts=eval_prompts,
                max_bad_rows=max_bad_rows,
                **of("prompt", "eval"),
            )
            rows |= {"prompts": imported.rows, "eval_prompts": imported.eval_rows}
        preferences = Path(scratch) / "preferences"
        imported = import_preferences(
            preference_dataset=preference_dataset,
            eval_dataset=eval_dataset,
            instruction=instruction,
            preferences_path=str(preferences),
            eval_preferences_path=data_path(folder, "choices"),
            eval_prompts_path="" if prompt_dataset else data_path(folder, "eval_prompts"),
            prompt_dataset=prompt_dataset,
            eval_prompts=eval_prompts,
            max_bad_rows=max_bad_rows,
            **of("preference", "eval", *(["prompt"] if prompt_dataset else [])),
        )
        rows["choices"] = imported.eval_rows
        if not prompt_dataset:
            rows["eval_prompts"] = imported.eval_prompts
        part = Part(share=judge_share, seed=_PART_SEED, held_out=True)
        for name, held_out in (("judge_preferences", True), ("preferences", False)):
            kept = (row for line, row in _rows(preferences) if part.has(line) is held_out)
            rows[name] = _write(folder / f"{name}.jsonl", map(_preference, kept))
        if dataset_uri:
            demonstrations = Path(scratch) / "demonstrations"
            _import_demonstrations(demonstrations, dataset_uri, instruction, max_bad_rows, **of("demonstration"))
            shown = _not_alike(demonstrations, folder / "eval_prompts.jsonl")
        else:
            shown = ({**row, "answer": row["chosen"]} for line, row in _rows(preferences) if not part.has(line))
        rows["demonstrations"] = _write(folder / "demonstrations.jsonl", _once(map(_demonstration, shown)))
    return MethodData(folder=folder, rows=rows, fingerprint=_digest(folder / f"{name}.jsonl" for name in sorted(rows)))


def import_method_data(data: MethodData, paths: Mapping[str, str], *, seed: int) -> dict[str, int]:
    """Write as canonical rows what each training learns from and is measured on, as the methods' own pipelines import it.

    Args:
        data: The division.
        paths: Where to, by name: `demonstrations`, `preferences` and `judge_preferences`, and the same with `eval_` before
            them for the part that is held out of each; `prompts`, `evaluation_prompts` and `choices`.
        seed: Of what is held out.

    Returns:
        How many rows of each were written.

    Raises:
        DataError: If there is too little of something.
    """
    with tempfile.TemporaryDirectory(dir=data.folder, prefix=".import-") as scratch:
        shown = import_demonstrations(
            dataset_uri=data.path("demonstrations"),
            evaluation_data_uri="",
            instruction="",
            demonstrations_path=paths["demonstrations"],
            eval_demonstrations_path=paths["eval_demonstrations"],
            eval_prompts_path=str(Path(scratch) / "prompts"),
            seed=seed,
        )
    rows = {"demonstrations": shown.rows, "eval_demonstrations": shown.eval_rows, "choices": data.rows["choices"]}
    for name, eval_dataset in (("preferences", data.path("eval_prompts")), ("judge_preferences", "")):
        preferred = import_preferences(
            preference_dataset=data.path(name),
            eval_dataset=eval_dataset,
            instruction="",
            preferences_path=paths[name],
            eval_preferences_path=paths[f"eval_{name}"],
            seed=seed,
        )
        rows |= {name: preferred.rows, f"eval_{name}": preferred.eval_rows}
    prompts = import_prompts(
        prompt_dataset=data.path("prompts"),
        eval_dataset=data.path("eval_prompts"),
        instruction="",
        prompts_path=paths["prompts"],
        eval_prompts_path=paths["evaluation_prompts"],
        seed=seed,
    )
    shutil.copyfile(data.path("choices"), paths["choices"])
    return rows | {"prompts": prompts.rows, "evaluation_prompts": prompts.eval_rows}


def _digest(files: Iterable[Path]) -> str:
    """Return what changes with any file: how the data was divided counts, not only what was."""
    whole = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            whole.update(hashlib.file_digest(stream, "sha256").digest())
    return whole.hexdigest()


def _import_demonstrations(
    path: Path, dataset_uri: str, instruction: str, max_bad_rows: int, demonstration_fingerprint: str = ""
) -> None:
    """Write the canonical demonstrations, all of them."""
    measured = path.with_suffix(".measured")
    import_demonstrations(
        dataset_uri=dataset_uri,
        evaluation_data_uri="",
        instruction=instruction,
        demonstrations_path=str(path),
        eval_demonstrations_path=str(measured),
        eval_prompts_path=str(path.with_suffix(".prompts")),
        max_bad_rows=max_bad_rows,
        demonstration_fingerprint=demonstration_fingerprint,
    )
    with path.open("ab") as stream:
        stream.write(measured.read_bytes())


def _not_alike(path: Path, eval_prompts: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file that are not alike to evaluation prompts."""
    evaluated = alike_to(line for line, _ in _rows(eval_prompts))
    whole, opening = set(evaluated.whole.tolist()), set(evaluated.opening.tolist())
    for line, row in _rows(path):
        own = alike_to([line])
        if own.whole[0] not in whole and own.opening[0] not in opening:
            yield row


def _rows(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    with path.open("rb") as stream:
        for line in stream:
            yield line, json.loads(line)


def _once(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    seen: set[int] = set()
    for row in rows:
        key = xxh64_intdigest(json.dumps(row).encode())
        if key not in seen:
            seen.add(key)
            yield row


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write rows and return how many there are."""
    count = 0
    with path.open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def _preference(row: Mapping[str, Any]) -> dict[str, Any]:
    found = {"prompt": row["prompt"], "chosen": [_said(row["chosen"])], "rejected": [_said(row["rejected"])]}
    return found | {"margin": row["margin"]} if "margin" in row else found


def _demonstration(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"prompt": row["prompt"], "completion": [_said(row["answer"])]}


def _said(answer: str) -> dict[str, str]:
    return {"role": "assistant", "content": answer}
