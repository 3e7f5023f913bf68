"""Which pipeline takes which parameters, and the checks of values before a run. Imports no kfp.

What a parameter is, and which values it may have, is in `rlhf_tuning.parameters`.
"""

import difflib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rlhf_pipelines.methods import METHODS, SET_BY_COMPARISON
from rlhf_tuning.errors import ParameterError
from rlhf_tuning.labelling.tasks import task_rubric
from rlhf_tuning.limits import (
    NO_COEFFICIENT,
    NO_DATA_FOR_REWARDS,
    NO_EXPLORATION,
    NO_FEEDBACK,
    NO_JUDGE,
    NO_SAMPLES,
    NO_SMOOTHING,
    problem_with,
    problem_with_on_policy,
    problem_with_preferences,
    problem_with_supervised_phase,
    problem_with_weights,
)
from rlhf_tuning.models.model_reference import problem_with_name
from rlhf_tuning.parameters import PARAMETERS, Parameter, Value


def _named(*names: str, **described: str) -> tuple[Parameter, ...]:
    """Return parameters of the table; those that mean something narrower in a pipeline have a description of its own."""
    return tuple(
        replace(PARAMETERS[name], description=described.get(name, PARAMETERS[name].description)) for name in names
    )


def _optional(parameters: Iterable[Parameter], *names: str) -> tuple[Parameter, ...]:
    """Return parameters of which some may be left out though other pipelines need them."""
    return tuple(replace(found, default="") if found.name in names else found for found in parameters)


def _needing(name: str, parameters: tuple[Parameter, ...]) -> tuple[Parameter, ...]:
    """Return parameters of which one has no default here."""
    return tuple(replace(parameter, default=None) if parameter.name == name else parameter for parameter in parameters)


_OF_A_RECURRING_TUNE = ("min_new_preferences", "warm_start")
_OF_THE_SMOKE_TEST = ("probe_object",)
#: By the names of the old job.
_OF_SUPERVISED_TUNING = (
    "dataset_uri",
    "train_steps",
    "learning_rate_multiplier",
    "evaluation_data_uri",
    "evaluation_interval",
    "enable_early_stopping",
    "enable_checkpoint_selection",
    "default_context",
    "max_context_length",
    "tuning_method",
)
_OF_A_SUPERVISED_PHASE = (
    "supervised_dataset",
    "supervise_on_preferred",
    "supervised_train_steps",
    "supervised_learning_rate_multiplier",
)
#: By the names of the old job, where it has them.
_OF_DISTILLATION = (
    "teacher_model_reference",
    "student_model_reference",
    "teacher",
    "teacher_endpoint",
    "teacher_key_secret",
    "teacher_max_calls",
    "teacher_max_cost",
    "teacher_price",
    "keep_answers",
    "on_policy",
    "on_policy_train_steps",
)
#: Likewise.
_OF_RLAIF = (
    "preference_prompt_dataset",
    "task_type",
    "large_model_a_reference",
    "large_model_b_reference",
    "sampling_strategy",
    "human_preference_dataset",
)
_OF_A_COMPARISON = ("best_of",)
#: Of phase 2, whatever rewards it.
OF_REINFORCEMENT = (
    "reinforcement_learning_rate_multiplier",
    "reinforcement_learning_train_steps",
    "kl_coeff",
    "rl_algorithm",
    "num_generations",
    "rollout_engine",
    "warm_start_adapter",
    "watch_interval",
    "max_kl",
    "num_iterations",
    "target_kl",
    "reward_clip_range",
    "missing_eos_penalty",
    "normalize_advantages",
    "dynamic_sampling",
)
#: By the names of Google's, where it has them, and of TRL.
OF_PREFERENCE_TUNING = (
    "beta",
    "epoch_count",
    "adapter_size",
    "loss_type",
    "label_smoothing",
    "rpo_alpha",
    "desirable_weight",
    "undesirable_weight",
)
_OF_OTHERS = (
    _OF_A_RECURRING_TUNE
    + _OF_SUPERVISED_TUNING
    + _OF_DISTILLATION
    + _OF_RLAIF
    + OF_PREFERENCE_TUNING
    + _OF_A_COMPARISON
    + _OF_THE_SMOKE_TEST
)
_OF_EVERY_TUNE = tuple(name for name in PARAMETERS if name not in _OF_OTHERS)
#: Of a language model that judges.
OF_A_JUDGE = (
    "judge",
    "judge_model",
    "judge_endpoint",
    "judge_key_secret",
    "judge_rubric",
    "judge_max_calls",
    "judge_max_cost",
    "judge_price",
)
#: Of every pipeline that trains.
OF_A_BUDGET = ("max_hours", "max_cost", "price_per_hour", "train_until_budget")
#: Of every method, whatever it learns from.
_OF_EVERY_METHOD = (
    "model_display_name",
    "project",
    "location",
    "tensorboard_resource_id",
    "encryption_spec_key_name",
    "accelerator_type",
    "deploy_model",
    "prompt_sequence_length",
    "target_sequence_length",
    "batch_size",
    "temperature",
    "inference_engine",
    "seed",
    "eval_prompts",
    "scorer",
    *OF_A_JUDGE,
    "dtype",
    "checkpoint_interval",
    *OF_A_BUDGET,
    "max_bad_rows",
    "registry_dir",
    "warm_start_adapter",
    "serving_machine",
    "serving_image",
    "serving_endpoint",
    "gate_win_rate_margin",
    "gate_min_prompts",
    "gate_min_judged_share",
    "gate_max_equal_length_loss",
    "gate_max_judge_loss",
    "gate_max_unfinished_rise",
    "gate_max_empty_rise",
    "gate_max_repetitive_rise",
    "gate_max_refusal_rise",
    "gate_max_regression",
    "regression_suite",
    "require_approval",
)

_OF_THE_OLD_DISTILLATION: dict[str, Value] = {
    "temperature": 0.0,
    "evaluation_interval": 100,
    "model_display_name": "distilled-student-model",
}

#: Pipeline to its parameters. To add a pipeline: its file in `rlhf_pipelines/`, which defines a function of that name and
#: `for_target`, and its line here.
PIPELINES: dict[str, tuple[Parameter, ...]] = {
    "rlhf_pipeline": _named(*_OF_EVERY_TUNE),
    "recurring_rlhf_pipeline": _named(*_OF_EVERY_TUNE, *_OF_A_RECURRING_TUNE),
    "reward_model_pipeline": _optional(
        _named(
            "large_model_reference",
            "preference_dataset",
            "feedback_dataset",
            "prompt_sequence_length",
            "target_sequence_length",
            "reward_model_learning_rate_multiplier",
            "reward_model_train_steps",
            "instruction",
            "eval_dataset",
            "reward_lora_dim",
            "batch_size",
            "seed",
            "reward_model_reference",
            "reward_model_max_epochs",
            "dtype",
            "checkpoint_interval",
            *OF_A_BUDGET,
            "max_bad_rows",
            preference_dataset="JSONL of human preferences: a path, a gs:// path, or a glob; empty with feedback alone.",
            feedback_dataset="JSONL of answers with a label or a rating each, beside preferences or in place of them.",
            eval_dataset="JSONL of preferences to measure on; a part of the data is held out when empty.",
        ),
        "preference_dataset",
    ),
    "supervised_tuning_pipeline": _named(
        "dataset_uri",
        "large_model_reference",
        *_OF_SUPERVISED_TUNING[1:],
        *_OF_EVERY_METHOD,
        "lora_dim",
        accelerator_type="Kind of accelerator; only GPU is supported, which empty means too.",
        lora_dim="LoRA rank; 0 trains all weights.",
        batch_size="Demonstrations in one optimizer step, on all GPUs together.",
        temperature="Sampling temperature of the answers that are compared.",
        eval_prompts="Most prompts to answer, a tenth of the data's at the most, when there is no evaluation_data_uri.",
    ),
    "distillation_pipeline": tuple(
        replace(parameter, default=_OF_THE_OLD_DISTILLATION.get(parameter.name, parameter.default))
        for parameter in _named(
            "dataset_uri",
            *_OF_DISTILLATION,
            *(name for name in _OF_SUPERVISED_TUNING[1:] if name != "tuning_method"),
            *_OF_EVERY_METHOD,
            "lora_dim",
            dataset_uri="JSONL of prompts, some of them with answers: a path, a gs:// path, or a glob.",
            evaluation_data_uri="JSONL of the same to measure on; a part of the data is held out when empty.",
            train_steps="Optimizer steps of the student on the teacher's answers.",
            learning_rate_multiplier="Times the base learning rate of the student.",
            accelerator_type="Kind of accelerator; only GPU is supported.",
            lora_dim="LoRA rank; 0 trains all weights.",
            batch_size="Demonstrations in one optimizer step, on all GPUs together.",
            temperature="Sampling temperature of the teacher; 0 takes the likeliest token each time.",
            eval_prompts="Most prompts to compare on, a tenth of the data's at the most, without evaluation_data_uri.",
        )
    ),
    "rlaif_pipeline": _named(
        "prompt_dataset",
        "preference_prompt_dataset",
        "large_model_reference",
        *_OF_RLAIF[1:],
        *(
            name
            for name in _OF_EVERY_TUNE
            if name not in ("prompt_dataset", "preference_dataset", "feedback_dataset", "large_model_reference")
            and name not in _OF_A_SUPERVISED_PHASE
        ),
        judge="Language model that prefers and evaluates: language_model, gemini or local_model; without one the scorer.",
        judge_max_calls="Most requests to the server in one step; pairs not judged by then are left out, or count as lost.",
    ),
    "preference_tuning_pipeline": _optional(
        _named(
            "large_model_reference",
            "preference_dataset",
            "feedback_dataset",
            *OF_PREFERENCE_TUNING,
            "learning_rate_multiplier",
            "enable_early_stopping",
            "enable_checkpoint_selection",
            "watch_prompts",
            "instruction",
            "eval_dataset",
            *_OF_A_SUPERVISED_PHASE,
            *_OF_EVERY_METHOD,
            "held_out_reward_model_share",
            "reward_model_reference",
            "reward_model_train_steps",
            "reward_model_max_epochs",
            "reward_model_learning_rate_multiplier",
            "reward_lora_dim",
            "gate_reward_model_margin",
            "gate_max_kl",
            "gate_max_length_ratio",
            learning_rate_multiplier="Times the base learning rate of preference tuning.",
            enable_early_stopping="Stop when the held-out loss has not fallen for an epoch; in a supervised phase likewise.",
            batch_size="Preferences in one optimizer step, on all GPUs together.",
            temperature="Sampling temperature of the answers that are compared.",
            eval_prompts="Most prompts to answer, of held-out preferences, when there is no evaluation dataset.",
            watch_prompts="Held-out prompts answered now and then while it learns, to see KL and length; 0 for none.",
            reward_model_learning_rate_multiplier="Times the base learning rate of the held-out reward model.",
            reward_model_train_steps="Most optimizer steps of a reward model, of which the held-out one takes its share.",
            reward_lora_dim="LoRA rank of the held-out reward model; 0 trains all weights.",
            reward_model_reference="Base of the held-out reward model; the model's own when empty.",
            reward_model_max_epochs="Most times that the held-out reward model sees each preference; 0 for no limit.",
            preference_dataset="JSONL of human preferences: a path, a gs:// path, or a glob; empty with a feedback_dataset.",
            feedback_dataset="JSONL of answers with a label or a rating each, for loss_type kto, in place of preferences.",
        ),
        "preference_dataset",
    ),
    "method_comparison_pipeline": _named(
        *(
            name
            for name in _OF_EVERY_TUNE
            if name not in (*SET_BY_COMPARISON, "supervise_on_preferred") and not name.startswith("gate_")
        ),
        "seed",
        "supervised_dataset",
        *(name for name in OF_PREFERENCE_TUNING if not name.endswith("desirable_weight")),
        "learning_rate_multiplier",
        "enable_early_stopping",
        "enable_checkpoint_selection",
        *_OF_A_COMPARISON,
        supervised_dataset="JSONL of prompts with the answers to learn; the preferred answers when empty.",
        supervised_train_steps="Most optimizer steps of supervised tuning.",
        supervised_learning_rate_multiplier="Times the base learning rate of supervised tuning.",
        learning_rate_multiplier="Times the base learning rate of preference tuning.",
        enable_early_stopping="Stop supervised and preference tuning when the loss on held-out rows falls no more.",
        lora_dim="LoRA rank of supervised tuning and of the policy; 0 trains all weights.",
        eval_prompts="Most prompts to hold out for all methods to answer, when there is no evaluation dataset.",
        held_out_reward_model_share="Share of the prompts from which a reward model learns that only judges, above 0.",
    ),
    "reward_tuning_pipeline": _needing(
        "rewards",
        _named(
            "prompt_dataset",
            "large_model_reference",
            "rewards",
            *OF_REINFORCEMENT,
            "lora_dim",
            "watch_prompts",
            "instruction",
            "eval_dataset",
            *_OF_EVERY_METHOD,
            "gate_max_kl",
            "gate_max_length_ratio",
            rewards="What answers are rewarded for: a JSON list of rewards, or the name of a .json file with one.",
            eval_dataset="JSONL of prompts for evaluation; a part of the prompts is held out when empty.",
            lora_dim="LoRA rank; 0 trains all weights.",
            batch_size="Prompts in one optimizer step, on all GPUs together.",
        ),
    ),
    "infer_pipeline": _named(
        "prompt_dataset",
        "large_model_reference",
        "prompt_sequence_length",
        "target_sequence_length",
        "instruction",
        "batch_size",
        "temperature",
        "seed",
        "dtype",
        "inference_engine",
        "max_bad_rows",
        large_model_reference="The model: a hub id, a folder (a tuned model's too), a gs:// folder, or an alias.",
        batch_size="Prompts answered at once.",
        temperature="Sampling temperature; 0 takes the likeliest token each time.",
        inference_engine="What samples the answers: own (our loop), vllm, or auto: vLLM where it pays.",
    ),
    "smoke_pipeline": _named(*_OF_THE_SMOKE_TEST),
}

#: What `rlhf validate` looks at, of the parameters of a run. Any dataset may be left out.
VALIDATED: tuple[Parameter, ...] = tuple(
    replace(parameter, default="") if parameter.required else parameter
    for parameter in _named(
        "prompt_dataset",
        "preference_dataset",
        "eval_dataset",
        "dataset_uri",
        "evaluation_data_uri",
        "supervised_dataset",
        "supervise_on_preferred",
        "feedback_dataset",
        "preference_prompt_dataset",
        "human_preference_dataset",
        "teacher_model_reference",
        "teacher",
        "teacher_max_calls",
        "keep_answers",
        "on_policy",
        "instruction",
        "default_context",
        "large_model_reference",
        "student_model_reference",
        "prompt_sequence_length",
        "target_sequence_length",
        "reward_model_train_steps",
        "reinforcement_learning_train_steps",
        "train_steps",
        "supervised_train_steps",
        "batch_size",
        "eval_prompts",
        "watch_prompts",
        "held_out_reward_model_share",
        "reward_model_max_epochs",
        "rewards",
        "max_bad_rows",
        "regression_suite",
    )
)


#: What `rlhf try-rewards` looks at, of the parameters of a run.
TRIED: tuple[Parameter, ...] = tuple(
    replace(parameter, default=None if parameter.name == "rewards" else "" if parameter.required else parameter.default)
    for parameter in _named(
        "rewards",
        "prompt_dataset",
        "preference_dataset",
        "instruction",
        "large_model_reference",
        "target_sequence_length",
        "reinforcement_learning_train_steps",
        "batch_size",
        "num_generations",
        "num_iterations",
        "watch_interval",
        "watch_prompts",
        "max_bad_rows",
        "seed",
    )
)


def _asked_before(parameters: Iterable[Parameter]) -> tuple[Parameter, ...]:
    """Return the parameters of a run that is only asked about: of those that it needs, the base model alone."""
    return tuple(
        replace(found, default="") if found.required and found.name != "large_model_reference" else found
        for found in parameters
    )


#: What `rlhf plan` takes: the parameters of any tune, so that a run's own command becomes a question. Data is not read; that
#: there is a `dataset_uri` says that the run is supervised tuning.
PLANNED = _asked_before(
    (
        *PIPELINES["recurring_rlhf_pipeline"],
        *(p for p in PIPELINES["supervised_tuning_pipeline"] if p.name in _OF_SUPERVISED_TUNING),
        *(p for p in PIPELINES["distillation_pipeline"] if p.name in _OF_DISTILLATION),
        *(p for p in PIPELINES["rlaif_pipeline"] if p.name in _OF_RLAIF),
        *(p for p in PIPELINES["preference_tuning_pipeline"] if p.name in OF_PREFERENCE_TUNING),
    )
)

#: What `rlhf label` takes.
LABELLED: tuple[Parameter, ...] = tuple(
    replace(parameter, default="") if parameter.name == "task_type" else parameter
    for parameter in _named(
        "preference_prompt_dataset",
        "large_model_reference",
        *_OF_RLAIF[1:],
        "instruction",
        "prompt_sequence_length",
        "target_sequence_length",
        "temperature",
        "batch_size",
        "seed",
        "dtype",
        "inference_engine",
        "scorer",
        *OF_A_JUDGE,
        "max_bad_rows",
        "registry_dir",
        large_model_reference="Model that answers where large_model_a_reference or large_model_b_reference is empty.",
        judge="Language model that prefers: language_model, gemini or local_model; without one the scorer does.",
        temperature="Sampling temperature.",
        batch_size="Prompts answered at once.",
    )
)

#: What `rlhf compare-methods` takes: the parameters of all its methods, but for those that it sets itself.
COMPARED: tuple[Parameter, ...] = tuple(
    replace(parameter, default="") if parameter.name in ("dataset_uri", "prompt_dataset") else parameter
    for parameter in _named(
        *dict.fromkeys(
            parameter.name
            for method in METHODS.values()
            for parameter in PIPELINES[method.pipeline]
            if parameter.name not in SET_BY_COMPARISON and not parameter.name.startswith("gate_")
        ),
        dataset_uri="JSONL of prompts with the answers to learn; the preferred answers of preference_dataset when empty.",
        prompt_dataset="JSONL of prompts without labels: a path, a gs:// path, or a glob; only rlhf learns from them.",
    )
)

#: Of which pipelines `rlhf plan` forecasts a run: of those that tune on one dataset, or train a reward model.
FORECAST = tuple(name for name, parameters in PIPELINES.items() if "max_hours" in {found.name for found in parameters})

#: What values are checked for: a pipeline, or a command that asks about some.
TABLES = {
    **PIPELINES,
    "validate": VALIDATED,
    "try-rewards": TRIED,
    "plan": PLANNED,
    "plan --preferences": _asked_before(PIPELINES["preference_tuning_pipeline"]),
    **{f"plan --pipeline {name}": _asked_before(PIPELINES[name]) for name in FORECAST},
    "compare-methods": COMPARED,
    "label": LABELLED,
}
#: Of these, commands that leave out other parameters of a run.
_LENIENT = ("validate", "try-rewards", "compare-methods", "label")

_MODELS = tuple(
    f"{which}_reference"
    for which in ("large_model", "large_model_a", "large_model_b", "reward_model", "teacher_model", "student_model")
)
_TYPE_WORDS: dict[type[Value], str] = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
#: One argument of a process holds at most 128 KiB on Linux, and a step's inputs travel as one, escaped.
_MOST_TEXT_BYTES = 32 * 1024
#: kfp carries numbers as doubles.
_MOST_INTEGER = 2**53


def check_parameters(pipeline: str, values: Mapping[str, object]) -> dict[str, Value]:
    """Return the value of every parameter of `pipeline`, with defaults filled in where `values` has none or null.

    `validate` stands for what `rlhf validate` looks at, `try-rewards`, `compare-methods` and `label` for what those commands
    take; other parameters of a run may be there: they are checked too, as far as they are given, and left out. `plan` stands
    for what `rlhf plan` takes, `plan --preferences` for what it takes of preference tuning, and `plan --pipeline NAME` of a
    run of that pipeline.

    Raises:
        ParameterError: Listing every problem that was found: unknown, missing, wrong type, beyond its limits.
    """
    table = {parameter.name: parameter for parameter in TABLES[pipeline]}
    others = PARAMETERS if pipeline in _LENIENT else {}
    problems = [_unknown(name, pipeline) for name in values if name not in table and name not in others]
    checked: dict[str, Value] = {}
    missing: list[str] = []
    for name, parameter in table.items():
        value = values.get(name)
        if parameter.required and (value is None or (isinstance(value, str) and not value.strip())):
            missing.append(name)
            continue
        if value is None:
            value = parameter.default
        converted = _checked(parameter, value, problems)
        if converted is not None:
            checked[name] = converted
    for name, value in values.items():
        if name in others and name not in table and value is not None:
            _checked(others[name], value, problems)
    if checked.get("temperature") == 0 and not checked.get("teacher_model_reference"):
        if "rl_algorithm" in table:
            problems.append(NO_EXPLORATION)
        elif "gate_min_prompts" in table and "teacher" not in table:
            problems.append(NO_SAMPLES)
    if checked.get("target_kl") and checked.get("kl_coeff") == 0:
        problems.append(NO_COEFFICIENT)
    if problem := problem_with_supervised_phase(
        supervised_dataset=str(checked.get("supervised_dataset", "")),
        supervise_on_preferred=bool(checked.get("supervise_on_preferred")),
        warm_start=bool(checked.get("warm_start")),
        warm_start_adapter=str(checked.get("warm_start_adapter", "")),
    ):
        problems.append(problem)
    if (
        pipeline == "reward_model_pipeline"
        and not checked.get("preference_dataset")
        and not checked.get("feedback_dataset")
    ):
        problems.append(NO_DATA_FOR_REWARDS)
    if pipeline == "preference_tuning_pipeline":
        problems += _problems_of_preference_tuning(checked)
    if checked.get("rewards"):
        # Here, where the files are that it names: a step may run elsewhere.
        from rlhf_tuning.rewards import read_rewards

        try:
            checked["rewards"] = read_rewards(str(checked["rewards"]), remote=False)
        except ParameterError as error:
            problems.append(str(error))
        else:
            _checked(table["rewards"], checked["rewards"], problems)
    if checked.get("task_type"):
        try:
            task_rubric(str(checked["task_type"]))
        except ParameterError as error:
            problems.append(str(error))
    if "teacher" in checked and "on_policy" in checked:
        on_policy, teacher = bool(checked["on_policy"]), str(checked["teacher"])
        if problem := problem_with_on_policy(on_policy=on_policy, teacher=teacher):
            problems.append(problem)
    if checked.get("label_smoothing") and checked.get("loss_type") != "robust":
        problems.append(NO_SMOOTHING)
    if pipeline == "method_comparison_pipeline":
        problems += [NO_JUDGE] if checked.get("held_out_reward_model_share") == 0 else []
        problems += [NO_FEEDBACK] if checked.get("loss_type") == "kto" else []
    problems += [f"{name} is missing: {table[name].description}" for name in missing]
    if problems:
        raise ParameterError(_joined(problems, len(missing)))
    return checked


def _problems_of_preference_tuning(checked: Mapping[str, Any]) -> list[str]:
    """Return what of its data and settings does not go together, as far as they have values that can be."""
    data = ("preference_dataset", "feedback_dataset", "loss_type", "supervise_on_preferred")
    weights = ("loss_type", "rpo_alpha", "desirable_weight", "undesirable_weight", "batch_size")
    found = [
        problem(**{name: checked[name] for name in names})
        for problem, names in ((problem_with_preferences, data), (problem_with_weights, weights))
        if checked.keys() >= set(names)
    ]
    return [problem for problem in found if problem]


def closest(name: str, names: Sequence[str]) -> str:
    """Return ` Did you mean NAME?`, or nothing when no name is close."""
    found = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f" Did you mean {found[0]}?" if found else ""


def _unknown(name: str, pipeline: str) -> str:
    others = [other for other, parameters in PIPELINES.items() if any(p.name == name for p in parameters)]
    if others:
        return f"{name} is no parameter of {pipeline}, only of {' and '.join(others)}."
    return f"{name} is no parameter of {pipeline}.{closest(name, [p.name for p in TABLES[pipeline]])}"


def _checked(parameter: Parameter, value: object, problems: list[str]) -> Value | None:
    """Return `value` as the parameter's type; or None, with the reason added to `problems`."""
    converted = _converted(parameter, value)
    problem = _type_problem(parameter, value) if converted is None else _value_problem(parameter, converted)
    if problem:
        problems.append(problem)
    return None if problem else converted


def _converted(parameter: Parameter, value: object) -> Value | None:
    """Return `value` as the parameter's type, or None when it has another type. A bool is no number."""
    if isinstance(value, bool):
        return value if parameter.type is bool else None
    if parameter.type is float and isinstance(value, int):
        return float(value) if abs(value) <= _MOST_INTEGER else None
    if parameter.type is int and isinstance(value, float) and value.is_integer():
        return int(value)  # JSON writers of some languages write 1000 as 1000.0
    if parameter.name == "rewards" and isinstance(value, list):
        return _as_json(value, _MOST_TEXT_BYTES + 1)  # as a file of parameter values may have it
    return value if isinstance(value, str | int | float) and isinstance(value, parameter.type) else None


def _type_problem(parameter: Parameter, value: object) -> str:
    name, wanted = parameter.name, _TYPE_WORDS[parameter.type]
    if isinstance(value, str):
        hint = " Write it without quotes." if _converted(parameter, parse_text(parameter, value)) is not None else ""
        return f"{name} must be {wanted}, not the text {value!r}.{hint}"
    shown = _as_json(value, 61)
    return f"{name} must be {wanted}, not {shown if len(shown) <= 60 else shown[:60] + '...'}."


def _as_json(value: object, most: int) -> str:
    """Return the first characters of JSON. A short YAML file can stand for an endless one, whose aliases repeat lists."""
    text = ""
    for piece in json.JSONEncoder(ensure_ascii=False, default=str).iterencode(value):
        text += piece
        if len(text) >= most:
            break
    return text[:most]


def _value_problem(parameter: Parameter, value: Value) -> str:
    name = parameter.name
    if isinstance(value, float) and not math.isfinite(value):
        return f"{name} is {value}; it must be a finite number."
    if isinstance(value, int) and abs(value) > _MOST_INTEGER:
        return f"{name} is {value}; whole numbers beyond {_MOST_INTEGER} are not exact in a pipeline."
    if isinstance(value, str):
        if any(ord(character) < 32 and character not in "\t\n\r" for character in value):
            return f"{name} holds a control character, which no path or text needs."
        if len(value.encode("utf-8", "surrogatepass")) > _MOST_TEXT_BYTES:
            return f"{name} is {len(value):,} characters long; at most {_MOST_TEXT_BYTES // 1024} KiB are possible."
        if any("\ud800" <= character <= "\udfff" for character in value):
            return f"{name} is not valid Unicode."
    if name in _MODELS:
        return problem_with_name(str(value), parameter=name)
    return problem_with(name, value)


def parse_text(parameter: Parameter, text: str) -> object:
    """Return what `text`, given as a flag, means for `parameter`; `text` itself when it is no value of that type."""
    if parameter.type is bool:
        return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(text.lower(), text)
    try:
        if parameter.type is int:
            return int(text)
        if parameter.type is float:
            return float(text)
    except ValueError:
        pass
    return text


def _joined(problems: Sequence[str], missing: int) -> str:
    if len(problems) == 1:
        return problems[0]
    wrong = len(problems) - missing
    found = [f"{wrong} {'parameter' if wrong == 1 else 'parameters'} cannot be used"] if wrong else []
    found += [f"{missing} {'parameter is' if missing == 1 else 'parameters are'} missing"] if missing else []
    return f"{' and '.join(found)}:\n" + "\n".join(f"  - {problem}" for problem in problems)
