"""The report of a local run with what only the whole run knows: its steps' times, and the commands that go on from it."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rlhf_pipelines.parameters import PIPELINES
from rlhf_tuning.errors import DataError
from rlhf_tuning.models.model_reference import split_revision
from rlhf_tuning.parameters import Value
from rlhf_tuning.reports.page import write_page
from rlhf_tuning.reports.report import RunReport, StepTime, render_report, write_report
from rlhf_tuning.reports.saved_report import read_drawable_report, read_report, reading

#: Beside a run's steps: what this module needs to make the report again.
RUN_FILE = "run.json"
#: Under the folder of a run: the answers, and all that the report shows.
EVALUATION = Path("evaluate") / "evaluation"


def write_run_file(
    run_folder: Path,
    *,
    pipeline: str,
    arguments: Mapping[str, Value],
    steps: Sequence[StepTime],
    model: str,
    call: str,
    ended: str,
    price_per_hour: float | None = None,
) -> None:
    """Keep what a run knows of itself.

    Args:
        run_folder: The run's folder under the pipeline root.
        pipeline: Its name.
        arguments: The values of its parameters.
        steps: How long each step took.
        model: Resource name of the model that it registered.
        call: The command that calls it.
        ended: When, in words.
        price_per_hour: What this machine costs; None where nobody said.
    """
    content = {
        "pipeline": pipeline,
        "arguments": dict(arguments),
        "steps": [asdict(step) for step in steps],
        "model": model,
        "call": call,
        "ended": ended,
        "price_per_hour": price_per_hour,
    }
    (run_folder / RUN_FILE).write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def write_complete_report(run_folder: Path, path: Path, price_per_hour: float | None = None) -> None:
    """Make the report of a run that ends, from what it left behind.

    Args:
        run_folder: The run's folder under the pipeline root.
        path: The page.
        price_per_hour: What the machine costs an hour; None for what was said when it ran.
    """
    write_report(_completed(read_report(run_folder / EVALUATION), run_folder, price_per_hour), str(path))


def write_report_again(run_folder: Path, path: Path, price_per_hour: float | None = None) -> None:
    """Make the report of a run of before, as `write_complete_report` does, from files that may have been damaged since.

    Args:
        run_folder: The run's folder under the pipeline root.
        path: The page.
        price_per_hour: What the machine costs an hour; None for what was said when it ran.

    Raises:
        DataError: If the folder is not that of a run which evaluated its model, or one of its files is damaged.
    """
    if not (run_folder / EVALUATION).is_file():
        raise DataError(
            f"{run_folder} is not the folder of a run that evaluated its model: {EVALUATION} is missing. Give a folder such "
            "as runs/rlhf-pipeline-2027-01-31-06-00-00-123456."
        )
    report = read_drawable_report(run_folder / EVALUATION)
    # What that file holds can be drawn, so that whatever fails now is of the other one.
    with reading(run_folder / RUN_FILE, "Remove it, and the report is made without what that file tells."):
        html = render_report(_completed(report, run_folder, price_per_hour))
    write_page(html, str(path))


def _completed(report: RunReport, run_folder: Path, price_per_hour: float | None) -> RunReport:
    """Return a report with what the run's file tells, where there is one."""
    if not (run_folder / RUN_FILE).is_file():
        return report
    known = json.loads((run_folder / RUN_FILE).read_text(encoding="utf-8"))
    return replace(
        report,
        created=known["ended"],
        tuned_model=known["model"].removeprefix("models/"),
        command=known["call"],
        steps=[StepTime(**step) for step in known["steps"]],
        steps_note="",
        price_per_hour=price_per_hour if price_per_hour is not None else known.get("price_per_hour"),
        reproduce=_command(known["pipeline"], _pinned(known["arguments"], report.base_model)),
    )


def _pinned(arguments: Mapping[str, Value], base_model: str) -> dict[str, Value]:
    """Return a run's arguments with the commit of the hub that it took its base model from."""
    name = "student_model_reference" if "student_model_reference" in arguments else "large_model_reference"
    return {**arguments, name: base_model} if base_model and split_revision(base_model)[1] else dict(arguments)


def _command(pipeline: str, arguments: Mapping[str, Value]) -> str:
    """Return the command that runs the same again: every parameter that is not at its default."""
    words = ["rlhf", "run", "--pipeline", pipeline]
    defaults = {parameter.name: parameter.default for parameter in PIPELINES[pipeline]}
    for name, value in arguments.items():
        if value != defaults.get(name):
            words += [f"--{name.replace('_', '-')}", str(value).lower() if isinstance(value, bool) else str(value)]
    return shlex.join(words)
