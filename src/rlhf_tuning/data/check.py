"""Reads every row of every dataset before anything is spent, and says all that is wrong at once."""

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from rlhf_tuning.data.alike import NONE_ALIKE
from rlhf_tuning.data.findings import Training, empty_file_findings, eval_prompts_in_preferences, examine
from rlhf_tuning.data.importer import prompts_of, report_overlap, too_few_to_split
from rlhf_tuning.data.output import scratch_folder, written_together
from rlhf_tuning.data.problems import Problems
from rlhf_tuning.data.reader import DEMONSTRATIONS, EITHER, FEEDBACK, PREFERENCES, PROMPTS, TO_LABEL, check_instruction
from rlhf_tuning.data.repeats import Repeats
from rlhf_tuning.data.rows import Kind
from rlhf_tuning.data.scan import SAMPLE_ROWS, Scan, ScannedDataset, gather, scan_at_once, scan_in_turn
from rlhf_tuning.data.sources import Source, resolve
from rlhf_tuning.data.summary import DatasetSummary, DataSummary, Finding
from rlhf_tuning.errors import DataError
from rlhf_tuning.limits import check_limits

#: In the order of the report.
_ACCEPTS: dict[str, tuple[Kind, ...]] = {
    "preference_dataset": PREFERENCES,
    "prompt_dataset": PROMPTS,
    "preference_prompt_dataset": PROMPTS,
    "human_preference_dataset": PREFERENCES,
    "supervised_dataset": DEMONSTRATIONS,
    "dataset_uri": DEMONSTRATIONS,
    "feedback_dataset": FEEDBACK,
    "eval_dataset": EITHER,
    "evaluation_data_uri": DEMONSTRATIONS,
}
#: The parameters that name what can be checked.
DATASETS = tuple(_ACCEPTS)
#: Of what is measured on, that in which its prompts are looked for.
_TRAINED_ON = {
    "eval_dataset": ("preference_dataset", "prompt_dataset", "supervised_dataset", "feedback_dataset"),
    "evaluation_data_uri": ("dataset_uri",),
}
#: What has an instruction of its own.
_OF_SUPERVISED_TUNING = ("dataset_uri", "evaluation_data_uri")


@dataclass(frozen=True)
class DatasetCheck:
    """What is in datasets.

    Args:
        prompt_fingerprint: Of the prompt dataset's content with the instruction; empty where there is none.
        preference_fingerprint: Likewise of the preference dataset.
        demonstration_fingerprint: Likewise of the demonstrations.
        feedback_fingerprint: Likewise of the feedback.
        eval_fingerprint: Likewise of the evaluation dataset, or of the demonstrations to measure on.
        counts: Rows of each dataset that was given, by its parameter's name.
        warnings: What is suspicious, each with what to do about it.
        problems: Why the datasets cannot be used, as one message; empty where they can.
        summary: All figures, for the report.
        preference_prompt_fingerprint: Of the prompts whose answers a judge is to compare.
        to_label: Prompts without an answer among the demonstrations.
        human_preference_fingerprint: Of the preferences that say what a judge is worth.
    """

    prompt_fingerprint: str
    preference_fingerprint: str
    demonstration_fingerprint: str
    feedback_fingerprint: str
    eval_fingerprint: str
    counts: dict[str, int]
    warnings: list[str]
    problems: str
    summary: DataSummary
    preference_prompt_fingerprint: str = ""
    to_label: int = 0
    human_preference_fingerprint: str = ""

    def raise_if_unusable(self) -> None:
        """Stop when a dataset cannot be used.

        Raises:
            DataError: The message lists every kind of problem in any of them.
        """
        if self.problems:
            raise DataError(self.problems)


def check_datasets(
    *,
    prompt_dataset: str = "",
    preference_dataset: str = "",
    eval_dataset: str = "",
    dataset_uri: str = "",
    evaluation_data_uri: str = "",
    supervised_dataset: str = "",
    feedback_dataset: str = "",
    preference_prompt_dataset: str = "",
    human_preference_dataset: str = "",
    instruction: str,
    default_context: str = "",
    max_bad_rows: int = 0,
    training: Training | None = None,
    problems_path: str = "",
    bad_rows_path: str = "",
    to_label: bool = False,
) -> DatasetCheck:
    """Check every row of the datasets given.

    Args:
        prompt_dataset: The prompts, or an empty string where they are not used.
        preference_dataset: The preferences, likewise.
        eval_dataset: The evaluation rows, likewise.
        dataset_uri: The demonstrations to learn from, likewise.
        evaluation_data_uri: The demonstrations to measure on, likewise.
        supervised_dataset: The demonstrations of a supervised phase before others, likewise.
        feedback_dataset: The feedback, likewise.
        preference_prompt_dataset: The prompts whose answers a judge is to compare, likewise.
        human_preference_dataset: The preferences that say what that judge is worth, likewise.
        instruction: Prepended to every prompt.
        default_context: The same, of `dataset_uri` and `evaluation_data_uri`.
        max_bad_rows: So many bad rows of each dataset are set aside.
        training: What the rows are for; without it lengths are counted in characters and epochs are not looked at.
        problems_path: Where to write every problem, one JSON object a line; nowhere where it is empty.
        bad_rows_path: Where to write the bad rows, as they stand in their files; nowhere where it is empty.
        to_label: Whether the demonstrations may be prompts that a teacher is to answer.

    Raises:
        DataError: If a dataset cannot be found, or would be written over. What is wrong inside is in the result.
    """
    check_limits(max_bad_rows=max_bad_rows)
    references = {
        "eval_dataset": eval_dataset,
        "evaluation_data_uri": evaluation_data_uri,
        "preference_dataset": preference_dataset,
        "prompt_dataset": prompt_dataset,
        "supervised_dataset": supervised_dataset,
        "dataset_uri": dataset_uri,
        "feedback_dataset": feedback_dataset,
        "preference_prompt_dataset": preference_prompt_dataset,
        "human_preference_dataset": human_preference_dataset,
    }
    if not any(references.values()):
        raise DataError(
            "There is no dataset to check. Give prompt_dataset, preference_dataset, eval_dataset, supervised_dataset, "
            "dataset_uri, evaluation_data_uri or feedback_dataset."
        )
    instruction = check_instruction(instruction)
    default_context = check_instruction(default_context, parameter="default_context")
    sources = _resolve_all(references)
    _keep_apart(sources, {"every problem": problems_path, "every bad row": bad_rows_path})
    for path in filter(None, (problems_path, bad_rows_path)):
        Path(path).unlink(missing_ok=True)  # whatever stops this check, nothing older is left to be taken for its own
    with scratch_folder() as folder:
        problems = Problems(str(folder / "problems") if problems_path else "")
        scans = {
            parameter: Scan(
                parameter=parameter,
                accepts=TO_LABEL if to_label and parameter in _OF_SUPERVISED_TUNING else _ACCEPTS[parameter],
                instruction=default_context if parameter in _OF_SUPERVISED_TUNING else instruction,
                folder=folder,
                find_repeats=True,
                sample_rows=SAMPLE_ROWS,
                keep_prompts=parameter in _TRAINED_ON,
            )
            for parameter in sources
        }
        # 1. The evaluation prompts go first: they are few, so remembering them is what keeps memory small.
        data: dict[str, ScannedDataset] = {}
        eval_prompts = dict.fromkeys(_TRAINED_ON, NONE_ALIKE)
        for evaluation, trained_on in _TRAINED_ON.items():
            if evaluation not in sources:
                continue
            files = scan_in_turn(sources[evaluation], scans[evaluation])
            data[evaluation] = gather(files, scans[evaluation], problems, max_bad_rows=max_bad_rows)
            eval_prompts[evaluation] = prompts_of(files)
            for parameter in trained_on:
                if parameter in scans:
                    scans[parameter] = replace(scans[parameter], eval_prompts=eval_prompts[evaluation])
        # 2. The rest, on all cores.
        others = [parameter for parameter in sources if parameter not in _TRAINED_ON]
        for parameter, files in zip(
            others, scan_at_once([(sources[parameter], scans[parameter]) for parameter in others]), strict=True
        ):
            data[parameter] = gather(files, scans[parameter], problems, max_bad_rows=max_bad_rows)
        # 3. What only shows when the datasets are held side by side.
        for evaluation, trained_on in _TRAINED_ON.items():
            for parameter in trained_on:
                if evaluation in data and parameter in data:
                    report_overlap(data[evaluation], data[parameter], problems)
        repeats = {
            parameter: dataset.repeats.find(demonstrations=dataset.kind == "demonstration")
            for parameter, dataset in data.items()
            if dataset.repeats
        }
        samples = training is not None and training.reinforcement_learning_train_steps > 0
        _check_split(data, repeats, references, problems, samples=samples)
        # 4. What is in them, and what of it is suspicious.
        text_format = training.load_text_format() if training and not problems.counts else None
        datasets: list[DatasetSummary] = []
        findings: list[Finding] = []
        for parameter in ("preference_dataset", "feedback_dataset"):
            if "eval_dataset" in data and parameter in data:
                distinct = len(eval_prompts["eval_dataset"].whole)
                overlap = eval_prompts_in_preferences(data["eval_dataset"], distinct, data[parameter])
                findings += [overlap] if overlap else []
        for parameter in _ACCEPTS:
            if parameter in data:
                summary, more = examine(
                    data[parameter],
                    references[parameter],
                    repeats[parameter],
                    training=training,
                    # Those show what a judge is worth: no model reads them.
                    text_format=None if parameter == "human_preference_dataset" else text_format,
                    problems=problems,
                )
                datasets.append(summary)
                findings += more
        problems.flush()
        findings += empty_file_findings(problems)
        bad_rows = [file.set_aside_file for dataset in data.values() for file in dataset.files]
        for path, parts in ((problems_path, [folder / "problems"]), (bad_rows_path, bad_rows)):
            if path:
                _join(parts, path)
    return DatasetCheck(
        prompt_fingerprint=_fingerprint(data, "prompt_dataset"),
        preference_fingerprint=_fingerprint(data, "preference_dataset"),
        demonstration_fingerprint=_fingerprint(data, "dataset_uri") or _fingerprint(data, "supervised_dataset"),
        feedback_fingerprint=_fingerprint(data, "feedback_dataset"),
        eval_fingerprint=_fingerprint(data, "eval_dataset") or _fingerprint(data, "evaluation_data_uri"),
        counts={parameter: dataset.rows for parameter, dataset in data.items()},
        warnings=[finding.message for finding in findings],
        problems=problems.render() if problems.counts else "",
        summary=DataSummary(
            datasets=tuple(datasets),
            findings=tuple(findings),
            problem_counts=dict(problems.counts),
            problems=tuple(problem for kept in problems.kept.values() for problem in kept),
            repeats=problems.repeats(),
            advice=tuple(problems.advice),
            usable=not problems.counts,
        ),
        preference_prompt_fingerprint=_fingerprint(data, "preference_prompt_dataset"),
        to_label=sum(dataset.total("without_answer") for dataset in data.values()),
        human_preference_fingerprint=_fingerprint(data, "human_preference_dataset"),
    )


def _check_split(
    data: dict[str, ScannedDataset],
    repeats: dict[str, Repeats],
    references: dict[str, str],
    problems: Problems,
    *,
    samples: bool,
) -> None:
    """Add a problem for each dataset from which rows must be held out and cannot be.

    Prompts are held out where a policy is tuned on them, as it is beside preferences, and else where `samples` says so.
    """
    if problems.counts:
        return
    eval_data = data.get("eval_dataset")
    needed = []
    if "prompt_dataset" in data and ("preference_dataset" in data or samples) and eval_data is None:
        needed.append("prompt_dataset")
    if "preference_dataset" in data and (eval_data is None or eval_data.kind == "prompt"):
        needed.append("preference_dataset")
    if "feedback_dataset" in data:
        needed.append("feedback_dataset")
    if "dataset_uri" in data and "evaluation_data_uri" not in data:
        needed.append("dataset_uri")
    if "supervised_dataset" in data:
        needed.append("supervised_dataset")
    if "human_preference_dataset" in data:
        needed.append("human_preference_dataset")  # as it is imported
    for parameter in needed:
        if repeats[parameter].distinct_prompts == 1:
            problems.add(too_few_to_split(parameter, references[parameter]))


def _keep_apart(sources: dict[str, list[Source]], outputs: dict[str, str]) -> None:
    """Refuse to write over a dataset: the bad rows of an earlier check, mended, may be one."""
    for what, path in outputs.items():
        if not path or not os.path.exists(path):
            continue
        for parameter, files in sources.items():
            if any(os.path.exists(file.name) and os.path.samefile(file.name, path) for file in files):
                raise DataError(
                    f"{parameter} holds {path}, where {what} would be written. Move the file, or choose another folder "
                    "for what is written."
                )


def _join(parts: Iterable[Path | None], path: str) -> None:
    """Write files, as far as they are there, as one."""
    with written_together(path) as [target]:
        for part in parts:
            if part is not None and part.exists():
                with part.open("rb") as source:
                    shutil.copyfileobj(source, target)


def _fingerprint(data: dict[str, ScannedDataset], parameter: str) -> str:
    return data[parameter].fingerprint.value() if parameter in data else ""


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
        raise DataError("\n".join(sorted(errors, reverse=True)))
    return sources
