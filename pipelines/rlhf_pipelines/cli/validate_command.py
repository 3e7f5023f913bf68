"""`rlhf validate`: check the data of a run on this machine, and write what a person wants to know of it."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_pipelines.parameters import OF_PREFERENCE_TUNING, PLANNED, check_parameters
from rlhf_tuning.errors import ParameterError
from rlhf_tuning.parameters import PARAMETERS, Value
from rlhf_tuning.step import counted

if TYPE_CHECKING:
    from rlhf_tuning.evaluation.regression_suite import Case


def validate_here(values: Mapping[str, Value], output_dir: Path, *, pipeline: str | None = None) -> int:
    """Validate datasets, print what was found, and return the exit status.

    Args:
        values: Checked parameters, as `parameters.VALIDATED` lists them, or of a pipeline.
        output_dir: Folder for the report, the problems and the bad rows.
        pipeline: Whose run it is; None where that was not said.

    Raises:
        ParameterError: If the folder cannot be made, or the regression suite be used.
        ModelError: If the base model cannot be tuned.
        DataError: If a dataset cannot be used; the files are written all the same.
    """
    from rlhf_tuning.data.check import DATASETS
    from rlhf_tuning.validation import ValidationConfig, validate_data

    if output_dir.exists() and not output_dir.is_dir():
        raise ParameterError(f"--output-dir {output_dir} is a file. Name a folder, which is made if it is not there.")
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ParameterError(f"--output-dir {output_dir} cannot be made: {error.strerror}.") from None
    suite = _checked_suite(values)
    if suite and not any(values.get(name) for name in DATASETS):
        print(f"{_prompts(len(suite))}. No dataset is given, so nothing else was checked.")
        return 0
    known = {field.name: values[field.name] for field in fields(ValidationConfig) if field.name in values}
    if student := values.get("student_model_reference"):
        known["large_model_reference"] = known.get("large_model_reference") or student
    tunes = pipeline == "preference_tuning_pipeline"
    rewards_judge = pipeline == "reward_tuning_pipeline" and not values.get("scorer")
    config = ValidationConfig(**known, tunes_on_preferences=tunes, rewards_judge=rewards_judge)  # type: ignore[arg-type]
    report = output_dir / "report.html"
    report.unlink(missing_ok=True)  # whatever stops this check, no older verdict is left to be taken for its own
    check = validate_data(
        config,
        report_path=str(report),
        problems_path=str(output_dir / "problems.jsonl"),
        bad_rows_path=str(output_dir / "bad_rows.jsonl"),
        tell=print,
        torch=True,
    )
    if config.feedback_dataset and not config.preference_dataset:
        print(
            "Feedback: preference_tuning_pipeline with loss_type kto learns from it, and reward_model_pipeline; "
            "rlhf_pipeline beside preferences"
        )
    if suite:
        print(_prompts(len(suite)))
    warnings = len(check.warnings)
    warned = f", with {counted(warnings, 'warning')}" if warnings else ""
    unseen = config.large_model_reference and any(it.code == "lengths_not_checked" for it in check.summary.findings)
    model = " The base model was not checked, as the warning says." if unseen else ""
    print(f"The data can be used{warned}.{model} Report: {report}")
    return 0


def _checked_suite(values: Mapping[str, Value]) -> "list[Case]":
    """Return the cases of the regression suite, held against the limits of the gate."""
    from rlhf_tuning.evaluation.regression_suite import check_suite, read_suite

    suite = str(values.get("regression_suite", ""))
    most = {
        name: float(values.get(name, PARAMETERS[name].default or 0.0))
        for name in ("gate_max_regression", "gate_max_judge_loss")
    }
    # Without a pipeline nobody said whether there is a judge.
    check_suite(suite, judge=str(values.get("judge", "any")), **most)
    return read_suite(suite)


def _prompts(count: int) -> str:
    return f"Regression suite: {counted(count, 'prompt')}"


def check_budget_here(given: Mapping[str, object], *, pipeline: str | None = None) -> None:
    """Refuse a run that is forecast to take more on this machine than its budget, where it has one.

    Args:
        given: Its parameters, as a person gave them; any of a tune.
        pipeline: Whose run it is; None where that was not said.

    Raises:
        ParameterError: Saying what would fit.
    """
    if not (given.get("max_hours") or given.get("max_cost")):
        return
    from rlhf_tuning.planning.run_budget import check_run

    names = {parameter.name for parameter in PLANNED}
    known = {name: value for name, value in given.items() if name in names}
    # What is asked about a run is asked about the model that it tunes.
    known.setdefault("large_model_reference", given.get("student_model_reference"))
    values = check_parameters("plan", known)
    prefers = pipeline == "preference_tuning_pipeline" or any(
        given.get(name) is not None for name in OF_PREFERENCE_TUNING
    )
    check_run(values, tunes_on_preferences=prefers)
    print("The budget can do, by the forecast for this machine.")
