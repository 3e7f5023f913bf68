"""`rlhf plan`: the forecast of a run, as a person or a program reads it."""

import json
import textwrap
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rlhf_pipelines.cli.text_table import room, text_table
from rlhf_pipelines.parameters import PLANNED, check_parameters
from rlhf_pipelines.targets import machine_price, machines
from rlhf_tuning.errors import ParameterError
from rlhf_tuning.models.architecture import Architecture
from rlhf_tuning.models.base_model_check import check_models_at_hand
from rlhf_tuning.parameters import Value
from rlhf_tuning.planning.expectation import measure_here, read_bases
from rlhf_tuning.planning.forecast import (
    BANDWIDTH_SHARE,
    GB,
    MEMORY_ERROR,
    TIME_ERROR,
    TRAINING_SHARE,
    Forecast,
    Hardware,
    Plan,
    alternatives,
    forecast,
    gpu_hardware,
)
from rlhf_tuning.planning.run_budget import ALONE, check_budget, of_plan
from rlhf_tuning.step import duration

_HERE = "here"
_SOURCE = "benchmarks/scale.py"


#: By what a forecast tells the runs of a pipeline from others, where a person has not given it.
_TOLD_BY = {
    "supervised_tuning_pipeline": ("dataset_uri",),
    "distillation_pipeline": ("dataset_uri", "teacher_model_reference"),
    "reward_tuning_pipeline": ("rewards",),
    "rlaif_pipeline": ("preference_prompt_dataset",),
}


def values_of_run(pipeline: str, given: Mapping[str, object]) -> dict[str, Value]:
    """Return the parameters by which a run of a pipeline is forecast.

    Args:
        pipeline: One of `parameters.FORECAST`.
        given: Its parameters, as a person gave them.

    Raises:
        ParameterError: If they cannot be used, or no base model is named.
    """
    own = check_parameters(f"plan --pipeline {pipeline}", given)
    values = {found.name: found.default for found in PLANNED if found.default is not None} | own
    values |= {name: values[name] or "-" for name in _TOLD_BY.get(pipeline, ())}
    values |= ALONE if pipeline == "reward_model_pipeline" else {}
    if student := values.get("student_model_reference"):
        values["large_model_reference"] = student
    if not values.get("large_model_reference"):
        raise ParameterError("student_model_reference is missing: the model whose run is forecast.")
    return values


def plan_run(
    values: Mapping[str, Value],
    *,
    machine: str,
    spot: bool = False,
    mean_prompt_tokens: int = 0,
    mean_answer_tokens: int = 0,
    preferences: int | None = None,
    as_json: bool = False,
) -> int:
    """Print the forecast of a run and return the exit status: 0 it fits, 1 it does not.

    Args:
        values: Checked parameters, as `parameters.TABLES` lists them.
        machine: `here`, or the name of a machine with GPUs.
        spot: Whether the price of a machine, where `price_per_hour` is 0, is that of a Spot machine.
        mean_prompt_tokens: 0 for the most that are allowed.
        mean_answer_tokens: Likewise.
        preferences: Of preference tuning, how many there are; None where the run is another.
        as_json: Whether a program reads it.

    Raises:
        ParameterError: If there is no such machine, a number makes no sense, or the run exceeds its budget.
        ModelError: If the base model cannot be tuned, or its shape cannot be known.
    """
    check_models_at_hand(values, whole=False)
    plan = Plan.of_preference_tuning(values, preferences) if preferences is not None else Plan.of(values)
    plan = replace(plan, prompt_tokens=mean_prompt_tokens, answer_tokens=mean_answer_tokens)
    model, reward_base = read_bases(values)
    hardware = _hardware(machine, plan, model, str(values["dtype"]))
    price, source = _price(values, machine, spot=spot)
    budget = None
    if values["max_hours"] or values["max_cost"]:
        budget = of_plan({**values, "price_per_hour": price or 0.0}, plan, model, reward_base)
    found = forecast(plan, model, hardware, reward_base=reward_base)
    instead = [] if found.fits else alternatives(plan, model, hardware, reward_base=reward_base)
    if as_json:
        print(json.dumps(_as_json(found, model, price, instead) | {"price": source}, indent=2))
    else:
        labels = bool(values.get("teacher_model_reference") or values.get("preference_prompt_dataset"))
        print("\n".join(_as_text(found, plan, model, price, instead, labels=labels)))
        if source:
            print("\n".join(textwrap.wrap(f"Price: {source}.", min(110, room()), subsequent_indent="  ")))
    if budget:
        check_budget(budget, hardware)
    return 0 if found.fits else 1


def _price(values: Mapping[str, Value], machine: str, *, spot: bool) -> tuple[float | None, str]:
    """Return what the machine costs an hour, None where nobody knows it, and where a price of the list is from."""
    if values["price_per_hour"]:
        return float(values["price_per_hour"]), ""
    found = machine_price(machine, str(values["location"]), spot=spot)
    return (found.of(spot=spot), found.told(spot=spot)) if found else (None, "")


def _hardware(name: str, plan: Plan, model: Architecture, dtype: str) -> Hardware:
    if name == _HERE:
        return measure_here(plan, model, dtype)
    offered = {key: found for key, found in machines("kubeflow").items() if found.gpu.gpu_memory}
    wanted = name.lower().removesuffix("-x1")
    for key, found in offered.items():
        if wanted and wanted in (key, found.machine_type):
            kind = key.removesuffix(f"-x{found.count}")
            return gpu_hardware(kind, found.gpu, found.count, dtype=dtype)
    raise ParameterError(
        f"--machine is {name!r}. A forecast needs one that is known: {_HERE} (this machine), {', '.join(offered)}."
    )


def _as_text(
    found: Forecast, plan: Plan, model: Architecture, price: float | None, instead: list[str], *, labels: bool
) -> list[str]:
    on = found.hardware
    each = " each" if on.devices > 1 else ""
    processor = f"{on.processor}, " if on.processor else ""
    lines = [
        f"{model.name}, {_billions(model.parameters)} weights, {on.numbers}, on {on.name} "
        f"({processor}{on.memory / GB:.0f} GB{each})",
        "",
    ]
    rows = [("", "steps", "s a step", "hours", f"peak GB{each}", "at its highest when")]
    for phase in found.phases:
        stage, size = phase.peak
        rows.append(
            (
                phase.name,
                f"{phase.steps:,}",
                _figure(phase.step_seconds),
                _figure(phase.hours),
                _figure(size / GB),
                stage,
            )
        )
    rows += [(name, "", "", _figure(hours), "", "") for name, hours in found.hours.items()]
    rows.append(("in all", "", "", _figure(found.all_hours), _figure(found.peak / GB), ""))
    lines += [text_table(rows), ""]
    parts = ", ".join(f"{name} {_figure(seconds)}" for name, seconds in found.phases[-1].seconds.items())
    said = [f"A step of {found.phases[-1].name}, in seconds: {parts}."]
    if price is not None:
        said.append(
            f"Cost: {found.all_hours * price:,.2f} at {price:g} an hour, {duration(3600 * found.all_hours)} in all."
        )
    said.append(_verdict(found))
    if instead:
        said.append(f"It would fit with any of: {'; '.join(instead)}.")
    elif not found.fits:
        said.append("No single change that is known here makes it fit; take a smaller model.")
    said.append(_lengths(plan))
    if plan.dynamic_sampling and plan.tunes_policy:
        said.append(_sampled_anew(found, plan))
    if labels:
        said.append("Not in it: the labelling before training, by a teacher or a judge.")
    said += _sureness(found)
    for paragraph in said:
        lines += textwrap.wrap(paragraph, min(110, room()), subsequent_indent="  ", break_on_hyphens=False)
    return lines


def _sampled_anew(found: Forecast, plan: Plan) -> str:
    """Say what dynamic sampling may cost: nobody knows before how many prompts have answers that all score the same."""
    once = next(phase.sampled_seconds for phase in found.phases if phase.name == "reinforcement learning")
    return (
        f"Not in it: dynamic_sampling. A step answers up to {plan.dynamic_sampling} times as many prompts more, which "
        f"takes up to {_figure(plan.dynamic_sampling * once)} s; {_figure(once)} s for each time all are replaced."
    )


def _verdict(found: Forecast) -> str:
    on = found.hardware
    share = found.peak / on.memory
    each = " of each GPU" if on.devices > 1 else ""
    sharded = f" The base model's layers are divided over the {on.devices} GPUs." if found.sharded else ""
    if not found.fits:
        return (
            f"Memory: does NOT fit: {found.peak / GB:.1f} GB at the peak, and there are {on.memory / GB:.1f} GB{each}."
            f"{sharded}"
        )
    tight = " That is within the forecast's error: try one step of each phase first." if _is_tight(found) else ""
    of = f"the {on.memory / GB:.0f} GB{each}"
    return f"Memory: fits; the peak takes {share:.0%} of {of}.{sharded}{tight}"


def _is_tight(found: Forecast) -> bool:
    return found.fits and found.peak * (1 + MEMORY_ERROR[1]) > found.hardware.memory


def _lengths(plan: Plan) -> str:
    if plan.prompt_tokens and plan.answer_tokens:
        return (
            f"Lengths: hours are for prompts of {plan.prompt_tokens} and answers of {plan.answer_tokens} tokens on average, "
            "memory for the limits."
        )
    return (
        f"Lengths: every prompt {plan.prompt_tokens or plan.prompt_sequence_length} and every answer "
        f"{plan.answer_tokens or plan.target_sequence_length} tokens long, so an upper bound; --mean-prompt-tokens and "
        "--mean-answer-tokens say what yours are."
    )


def _sureness(found: Forecast) -> list[str]:
    on = found.hardware
    lines = [
        f"Error of the forecast, measured on small models on a CPU ({_SOURCE}): memory {MEMORY_ERROR[0]:.0%} in the median, "
        f"{MEMORY_ERROR[1]:.0%} or less in nine cases of ten; time of a step {TIME_ERROR[0]:.0%} and {TIME_ERROR[1]:.0%}."
    ]
    if not on.measured:
        lines.append(
            f"Not measured on this GPU: times assume that training reaches {TRAINING_SHARE:.0%} of the data sheet's peak "
            f"and sampling {BANDWIDTH_SHARE:.0%} of its bandwidth; hours may be half or twice these."
        )
    else:
        share = "" if on.cpu else ", of which a share is assumed to be reached"
        lines.append(
            f"Measured here just now, beside whatever else was running: products of {on.flops / 1e9:,.0f} GFLOP/s{share}, "
            f"memory of {on.bandwidth / GB:,.1f} GB/s, exponentials of {on.elementwise / GB:,.1f} GB/s."
        )
    if on.devices > 1:
        lines.append(f"It is assumed that all {on.devices} GPUs train together.")
    return lines


def _as_json(found: Forecast, model: Architecture, price: float | None, instead: list[str]) -> dict[str, Any]:
    return {
        "model": {"name": model.name, "parameters": model.parameters},
        "machine": {
            "name": found.hardware.name,
            "devices": found.hardware.devices,
            "memory_bytes": round(found.hardware.memory),
            "measured": found.hardware.measured,
        },
        "fits": found.fits,
        "tight": _is_tight(found),
        "sharded": found.sharded,
        "peak_bytes": round(found.peak),
        "hours": found.all_hours,
        "cost": None if price is None else found.all_hours * price,
        "instead": instead,
        "phases": [
            {
                "name": phase.name,
                "steps": phase.steps,
                "seconds_per_step": phase.step_seconds,
                "seconds": phase.seconds,
                "memory_bytes": {stage: round(size) for stage, size in phase.memory.items()},
                "hours": phase.hours,
            }
            for phase in found.phases
        ],
        "other_hours": found.hours,
        "error": {
            name: {"median": error[0], "nine_of_ten": error[1]}
            for name, error in (("memory", MEMORY_ERROR), ("time", TIME_ERROR))
        },
    }


def _billions(count: int) -> str:
    return f"{count / 1e9:.2f} billion" if count >= 1e9 else f"{count / 1e6:.0f} million"


def _figure(value: float) -> str:
    """Return a number with two or three digits that mean something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
