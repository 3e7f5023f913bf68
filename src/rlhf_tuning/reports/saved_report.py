"""A run's report as data, inside the run's evaluation file, so that it can be made again, or beside another's."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rlhf_tuning.errors import DataError
from rlhf_tuning.evaluation.comparison import AnswerPair, JudgeRecord, ScoredAnswer
from rlhf_tuning.evaluation.gate import Condition, Decision
from rlhf_tuning.evaluation.judges.verdict import Agreement, Verdict
from rlhf_tuning.evaluation.phase_gains import Gain, Size
from rlhf_tuning.evaluation.regression_suite import Regression
from rlhf_tuning.reports.report import (
    DataSource,
    PreferencePart,
    Proportion,
    RewardModelPart,
    RunReport,
    StepTime,
    SupervisedPart,
    render_report,
)
from rlhf_tuning.statistics import MeanEstimate, WinRate

#: What the evaluation file has by itself.
_APART = ("pairs", "judges")


def add_report(report: RunReport, evaluation_path: str) -> None:
    """Put everything that a report shows into the evaluation file, which has the answers and the judges already."""
    path = Path(evaluation_path)
    content = json.loads(path.read_text(encoding="utf-8"))
    kept = {field.name: vars(report)[field.name] for field in fields(report) if field.name not in _APART}
    kept |= {
        "supervised": asdict(report.supervised) if report.supervised else None,
        "distillation": asdict(report.distillation) if report.distillation else None,
        "preference": asdict(report.preference) if report.preference else None,
        "reward_model": asdict(report.reward_model) if report.reward_model else None,
        "gains": [asdict(gain) for gain in report.gains],
        "sizes": [asdict(size) for size in report.sizes],
        "regression": report.regression.as_json() if report.regression else None,
        "data": [asdict(source) for source in report.data],
        "decision": report.decision.as_json() if report.decision else None,
        "steps": [asdict(step) for step in report.steps],
        "data_warnings": list(report.data_warnings),
        "budget": list(report.budget),
    }
    content["report"] = kept
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_report(evaluation_path: Path) -> RunReport:
    """Return the report of a run from its evaluation file.

    Raises:
        DataError: If the file is missing, damaged, or was written by something else.
    """
    with reading(evaluation_path, "Run the pipeline again."):
        content = json.loads(evaluation_path.read_text(encoding="utf-8"))
        kept = content["report"]
        parts = {
            "pairs": [_pair(answer) for answer in content["answers"]],
            "judges": [_judge(judge) for judge in content["judges"]],
            "supervised": SupervisedPart(**kept["supervised"]) if kept["supervised"] else None,
            "distillation": SupervisedPart(**kept["distillation"]) if kept["distillation"] else None,
            "preference": PreferencePart(**kept["preference"]) if kept["preference"] else None,
            "reward_model": _reward_model(kept["reward_model"]),
            "gains": [_gain(gain) for gain in kept["gains"]],
            "sizes": [Size(**size) for size in kept["sizes"]],
            "regression": Regression.from_json(kept["regression"]) if kept["regression"] else None,
            "data": [DataSource(**source) for source in kept["data"]],
            "decision": _decision(kept["decision"]),
            "steps": [StepTime(**step) for step in kept["steps"]],
        }
        return RunReport(**{**kept, **parts})


def read_drawable_report(evaluation_path: Path) -> RunReport:
    """Return the report of a run of before, which can be drawn.

    Drawing is what tells whether each value is of the kind that it should be. A run that draws its own report does not
    come here, so that no mistake of ours is taken for a damaged file.

    Raises:
        DataError: If the file is missing, damaged, or was written by something else.
    """
    report = read_report(evaluation_path)
    with reading(evaluation_path, "Run the pipeline again."):
        render_report(report)
    return report


@contextmanager
def reading(path: Path, remedy: str) -> Iterator[None]:
    """Let whatever goes wrong with the content of a file be told as damage to it.

    Args:
        path: The file.
        remedy: What a person can do.

    Raises:
        DataError: If the file cannot be read, or what is done with its content fails.
    """
    try:
        yield
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}.") from None
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, StopIteration, TypeError, ValueError) as error:
        raise DataError(
            f"{path} is damaged, or not by this version of rlhf-pipelines ({type(error).__name__}: {error}). {remedy}"
        ) from error


def _pair(answer: Mapping[str, Any]) -> AnswerPair:
    return AnswerPair(
        prompt=answer["prompt"],
        tuned=ScoredAnswer(**answer["tuned"]),
        base=ScoredAnswer(**answer["base"]) if answer["base"] else None,
        verdicts={name: _verdict(verdict) for name, verdict in answer["verdicts"].items()},
    )


def _verdict(verdict: Mapping[str, Any]) -> Verdict:
    return Verdict(**{name: tuple(pair) if pair else None for name, pair in verdict.items()})


def _judge(judge: Mapping[str, Any]) -> JudgeRecord:
    agreement = Agreement(**judge["agreement"]) if judge["agreement"] else None
    return JudgeRecord(name=judge["name"], label=judge["label"], agreement=agreement, notes=tuple(judge["notes"]))


def _gain(gain: Mapping[str, Any]) -> Gain:
    return Gain(
        model=gain["model"],
        against=gain["against"],
        wins={label: WinRate(*rate) for label, rate in gain["wins"].items()},
        kl=MeanEstimate(*gain["kl"]) if gain["kl"] else None,
    )


def _reward_model(part: Mapping[str, Any] | None) -> RewardModelPart | None:
    if part is None:
        return None
    shares = {
        name: Proportion(**part[name]) if part[name] else None
        for name in ("accuracy", "shorter_preferred", "longer_wins", "feedback")
    }
    return RewardModelPart(**{**part, **shares})


def _decision(decision: Mapping[str, Any] | None) -> Decision | None:
    if decision is None:
        return None
    conditions = tuple(Condition(**condition) for condition in decision["conditions"])
    return Decision(
        champion=decision["champion"],
        conditions=conditions,
        judge=decision["judge"],
        needs_approval=decision["needs_approval"],
    )
