"""Gathers what a run left behind into its report."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rlhf_tuning import environment, registry
from rlhf_tuning.evaluation.comparison import BASE_MODEL, AnswerPair, JudgeRecord
from rlhf_tuning.evaluation.gate import Decision
from rlhf_tuning.evaluation.phase_gains import Gain, Size
from rlhf_tuning.evaluation.regression_suite import Regression
from rlhf_tuning.models.model_reference import split_revision
from rlhf_tuning.models.start_model import RECORD, supervised_settings
from rlhf_tuning.reports.report import (
    DataSource,
    PreferencePart,
    Proportion,
    RewardModelPart,
    RunReport,
    StepTime,
    SupervisedPart,
    write_report,
)
from rlhf_tuning.step_times import Took
from rlhf_tuning.training.held_out_preferences import warning
from rlhf_tuning.training.training_log import read_metrics

#: What is to be said of the times that a report has when the evaluation makes it.
TIMES_SO_FAR = (
    "From the start of a step's program, in its last attempt, until its outputs were written; waiting for machines "
    "and starting them come on top. The evaluation is counted up to this page. Steps after it, and those that hand no data "
    "to it, such as Validate Inputs, are not listed. What an earlier run had done took no time in this one. Steps may run "
    "side by side, so their sum is no time by the clock."
)

#: Settings of a supervised phase, which the run has under names of their own.
_OF_A_SUPERVISED_PHASE = ("train_steps", "learning_rate_multiplier")
#: Whose versions decide what a run gives.
PACKAGES = ("rlhf-pipelines", "torch", "transformers", "trl", "peft", "accelerate", "datasets")


def package_versions() -> dict[str, str]:
    """Return the version of every package that decides what a run gives."""
    return {name: version(name) for name in PACKAGES}


def data_sources(
    reward_model: Mapping[str, object],
    model: Mapping[str, object],
    predictions: Mapping[str, object],
    start: Mapping[str, object] | None = None,
) -> list[DataSource]:
    """Return the datasets of a run, as the metadata of its artifacts names them, and what a supervised phase left."""
    named = (
        ("demonstrations", start or model, "demonstration"),
        ("preferences", reward_model or model, "preference"),
        ("feedback", model, "feedback"),
        ("prompts", model, "prompt"),
        ("evaluation prompts", predictions, "prompt"),
    )
    return [
        DataSource(
            name=name,
            rows=int(str(metadata.get(f"{kind}_rows", "0")).removesuffix(".0")),  # kfp hands numbers on as floats
            fingerprint=str(metadata.get(f"{kind}_fingerprint", "")),
        )
        for name, metadata, kind in named
        if f"{kind}_rows" in metadata
    ]


def lineage(
    reward_model: Mapping[str, object],
    model: Mapping[str, object],
    predictions: Mapping[str, object],
    champion: str,
    start: Mapping[str, object] | None = None,
) -> dict[str, str]:
    """Return which weights and images a run used, as the metadata of its artifacts and the environment name them.

    Args:
        reward_model: Of the reward model.
        model: Of the tuned model.
        predictions: Of the champion's answers.
        champion: Its name; empty for the base model.
        start: What a supervised phase left of the same kind: `model` started from what that made.
    """
    made_from = _base("Base model", start or model)
    if start:
        made_from |= _base("Supervised model", model)
    if reward_model:
        made_from |= _base("Base of the reward model", reward_model)
    if champion:
        made_from |= {"Compared with": champion, "Its weights": str(predictions.get("base_model_fingerprint", ""))}
    if model.get("teacher_model"):
        made_from |= {"Teacher": str(model["teacher_model"]), "Its fingerprint": str(model["teacher_fingerprint"])}
    if model.get("warm_start_fingerprint"):
        made_from["Adapter it started from"] = str(model["warm_start_fingerprint"])
    images = dict(pair.split("=", 1) for pair in environment.IMAGES.split(",") if pair)
    made_from |= {f"Image of the {name} steps": reference for name, reference in images.items()}
    return made_from if images else made_from | {"Images": "none: the steps ran as processes of one machine"}


def _base(name: str, metadata: Mapping[str, object]) -> dict[str, str]:
    reference, commit = split_revision(str(metadata.get("base_model", "")))
    kind = "commit on the hub" if commit else "content fingerprint"
    fingerprint = str(metadata.get("base_model_fingerprint", "")).removeprefix("commit:")
    return {name: reference, f"{name}, {kind}": fingerprint}


def steps_so_far(times: Sequence[Took]) -> list[StepTime]:
    """Return the times with those of other runs marked: their results were taken from there."""
    return [
        StepTime(name=took.name, seconds=0.0, cached=True)
        if took.run != times[-1].run
        else StepTime(name=took.name, seconds=took.seconds)
        for took in times
    ]


def write_run_report(
    pairs: Sequence[AnswerPair],
    *,
    scorer_name: str,
    reward_model_dir: str,
    adapter_dir: str,
    data: Sequence[DataSource],
    made_from: Mapping[str, str],
    path: str,
    judges: Sequence[JudgeRecord] = (),
    decision: Decision | None = None,
    opponent: str = BASE_MODEL,
    start_dir: str = "",
    gains: Sequence[Gain] = (),
    sizes: Sequence[Size] = (),
    regression: Regression | None = None,
    data_warnings: Sequence[str] = (),
    times: Sequence[Took] = (),
    budget: Sequence[str] = (),
) -> RunReport:
    """Write the report of a whole run, and return what is in it.

    Args:
        pairs: The answers of both models.
        scorer_name: What gave the true score.
        reward_model_dir: What phase 1 left; empty where there was none.
        adapter_dir: What the training left.
        data: The datasets and their fingerprints.
        made_from: From `lineage`.
        path: The file to write.
        judges: What is known of the judges.
        decision: The gate's.
        opponent: How people read the model that the tuned one is compared with.
        start_dir: The model that a supervised phase made, from which the training started; empty where there was none.
        gains: What each phase brought.
        sizes: How large a student and its teacher are, and how fast.
        regression: What a regression suite says.
        data_warnings: What is wrong with the data though it is valid.
        times: Of the steps so far; the last is that of the step which writes the report.
        budget: What the run's budget ended, a sentence each.
    """
    settings = json.loads((Path(adapter_dir) / registry.TUNING_SETTINGS).read_text(encoding="utf-8"))
    history = read_metrics(Path(adapter_dir) / "metrics.jsonl")
    method = registry.method_of(adapter_dir)
    supervised = Path(adapter_dir) if method == "supervised" else Path(start_dir) / RECORD if start_dir else None
    before = supervised_settings(start_dir) if start_dir else {}
    base = str(before.get("large_model_reference", settings["large_model_reference"]))
    watch = Path(adapter_dir) / registry.WATCH
    report = RunReport(
        title=f"{_title(method, reward_model_dir)} of {Path(split_revision(base)[0]).name}",
        base_model=base,
        lineage=made_from,
        pairs=pairs,
        scorer_name=scorer_name,
        judges=judges,
        reward_model=_reward_model(Path(reward_model_dir)) if reward_model_dir else None,
        supervised=_supervised(supervised) if supervised else None,
        distillation=_supervised(Path(adapter_dir)) if method == "distillation" else None,
        preference=_preference(Path(adapter_dir)) if method == "preference" else None,
        reinforcement=history if method == "reinforcement" else [],
        data=data,
        parameters={
            **{f"supervised_{name}": before[name] for name in _OF_A_SUPERVISED_PHASE if before},
            **_reward_settings(reward_model_dir),
            **settings,
        },
        versions=package_versions(),
        seed=settings["seed"],
        decision=decision,
        opponent=opponent,
        reference="supervised" if start_dir else "base",
        gains=gains,
        sizes=sizes,
        regression=regression,
        data_warnings=data_warnings,
        watch=json.loads(watch.read_text(encoding="utf-8")) if watch.is_file() else None,
        steps=steps_so_far(times),
        steps_note=TIMES_SO_FAR,
        budget=budget,
    )
    write_report(report, path)
    return report


def _title(method: str, reward_model_dir: str) -> str:
    """Return how people call what made the model: without a reward model RLHF has no human feedback."""
    return "Reward tuning" if method == "reinforcement" and not reward_model_dir else registry.METHODS[method]


def _supervised(folder: Path) -> SupervisedPart:
    return SupervisedPart(history=read_metrics(folder / "metrics.jsonl"), held_out=_held_out(folder) or {})


def _preference(folder: Path) -> PreferencePart:
    held_out = _held_out(folder) or {}
    history = read_metrics(folder / "metrics.jsonl")
    return PreferencePart(history=history, held_out=held_out, warning=warning(held_out))


def _held_out(folder: Path) -> dict[str, Any] | None:
    path = folder / registry.HELD_OUT_LOSS
    measured: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    return measured


def _reward_settings(reward_model_dir: str) -> dict[str, object]:
    if not reward_model_dir:
        return {}
    settings: dict[str, object] = json.loads((Path(reward_model_dir) / "reward_model.json").read_text(encoding="utf-8"))
    return settings


def _reward_model(folder: Path) -> RewardModelPart:
    measured = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    pairs = 0 if "feedback_alone" in measured else measured["n"]
    return RewardModelPart(
        held_out=_held_out(folder),
        history=read_metrics(folder / "metrics.jsonl"),
        accuracy=_proportion(measured, "accuracy", pairs),
        shorter_preferred=_proportion(measured, "shorter_preferred_accuracy", measured["shorter_preferred_n"]),
        by_margin=measured["by_margin"],
        by_length_difference=measured["by_length_difference"],
        longer_wins=_proportion(measured, "longer_wins_accuracy", pairs),
        feedback=_proportion(measured, "feedback_auc", measured.get("feedback_n", 0)),
    )


def _proportion(measured: Mapping[str, float], name: str, n: int) -> Proportion | None:
    if not n:
        return None
    return Proportion(share=measured[name], low=measured[f"{name}_low"], high=measured[f"{name}_high"], n=n)
