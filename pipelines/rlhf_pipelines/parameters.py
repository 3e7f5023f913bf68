"""The parameters of every pipeline: names, types, defaults and descriptions, without importing kfp.

The command's flags, its `--help` and the checks before a run are made from this table; a test holds the pipelines'
signatures equal to it. The first block of `PARAMETERS` is the contract of the Vertex RLHF job: names, types and
defaults are kept ("none" there is the empty string here). What values are allowed is in `rlhf_tuning.limits`.
"""

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rlhf_tuning.errors import ParameterError
from rlhf_tuning.limits import NO_EXPLORATION, problem_with
from rlhf_tuning.models.model_reference import problem_with_name

Value = str | int | float | bool


@dataclass(frozen=True)
class Parameter:
    """One parameter of a pipeline.

    Args:
        name: As in the pipeline's signature.
        type: Of its values.
        default: Its value when absent or null; None makes it required.
        description: For people, one line.
    """

    name: str
    type: type[Value]
    default: Value | None
    description: str

    @property
    def required(self) -> bool:
        """Say whether a run cannot start without it."""
        return self.default is None


PARAMETERS: dict[str, Parameter] = {
    parameter.name: parameter
    for parameter in (
        # The contract of the Vertex job.
        Parameter("prompt_dataset", str, None, "JSONL of prompts without labels: a path, a gs:// path, or a glob"),
        Parameter("preference_dataset", str, None, "JSONL of human preferences: a path, a gs:// path, or a glob"),
        Parameter("large_model_reference", str, None, "base model: a hub id, a folder, a gs:// folder, or an alias"),
        Parameter("model_display_name", str, "", "name in the model registry; generated when empty"),
        Parameter("prompt_sequence_length", int, 512, "most tokens of a prompt, up to 8192"),
        Parameter("target_sequence_length", int, 64, "most tokens of an answer, up to 1024"),
        Parameter(
            "reward_model_learning_rate_multiplier", float, 1.0, "times the base learning rate of the reward model"
        ),
        Parameter(
            "reinforcement_learning_rate_multiplier",
            float,
            1.0,
            "times the base learning rate of reinforcement learning",
        ),
        Parameter("reward_model_train_steps", int, 1000, "optimizer steps of the reward model"),
        Parameter("reinforcement_learning_train_steps", int, 1000, "optimizer steps of reinforcement learning"),
        Parameter("kl_coeff", float, 0.1, "strength of the KL penalty; 0 uses no reference model"),
        Parameter("instruction", str, "", "put before every prompt; the default context of chat rows"),
        Parameter("deploy_model", bool, True, "deploy to an endpoint after the upload, where the run's target has one"),
        Parameter("eval_dataset", str, "", "JSONL of prompts or preferences for evaluation; held out when empty"),
        Parameter("project", str, "", "Google Cloud project; the run's own when empty"),
        Parameter("location", str, "", "Google Cloud region; the run's own when empty"),
        Parameter("accelerator_type", str, "GPU", "kind of accelerator; only GPU is supported"),
        Parameter("encryption_spec_key_name", str, "", "customer-managed encryption key on Google Cloud"),
        Parameter("tensorboard_resource_id", str, "", "Vertex TensorBoard to write to"),
        # Ours. Constants hidden inside the Vertex job, and what it could not do.
        Parameter("rl_algorithm", str, "rloo", "reinforcement learning algorithm: rloo or grpo"),
        Parameter("lora_dim", int, 16, "LoRA rank of the policy; 0 trains all weights"),
        Parameter("reward_lora_dim", int, 16, "LoRA rank of the reward model; 0 trains all weights"),
        Parameter("batch_size", int, 64, "rows in one optimizer step, on all GPUs together"),
        Parameter("num_generations", int, 4, "answers sampled for each prompt in reinforcement learning"),
        Parameter("temperature", float, 1.0, "sampling temperature"),
        Parameter("seed", int, 0, "seed of every random choice"),
        Parameter("reward_model_reference", str, "", "base of the reward model; the policy's own when empty"),
        Parameter(
            "eval_prompts", int, 200, "most prompts to hold out, a tenth at the most, when there is no eval_dataset"
        ),
        Parameter("scorer", str, "", "program that scores answers in the evaluation, such as house_style"),
        Parameter("judge", str, "", "language model that compares answers: language_model, gemini or local_model"),
        Parameter("judge_model", str, "", "name of that model, as its server knows it; for local_model a base model"),
        Parameter("judge_endpoint", str, "", "base URL of an OpenAI-compatible server"),
        Parameter("judge_key_secret", str, "", "secret that holds the judge's key: projects/P/secrets/S/versions/V"),
        Parameter(
            "judge_rubric", str, "", "what a better answer is: words, or a text file, also on gs://; general if empty"
        ),
        Parameter("judge_max_calls", int, 1000, "most requests to the judge; what was judged by then counts"),
        Parameter("dtype", str, "auto", "number format of the weights: auto, float32 or bfloat16"),
        Parameter(
            "max_bad_rows", int, 0, "bad rows of each dataset that are set aside; one more and the data is refused"
        ),
        Parameter("registry_dir", str, "", "folder of the local model registry; its usual place when empty"),
        Parameter(
            "serving_machine", str, "", "what an endpoint runs on, such as l4-x2; the cheapest that fits when empty"
        ),
        Parameter(
            "warm_start_adapter", str, "", "LoRA adapter to start the policy from: a registered model or a folder"
        ),
        Parameter("rollout_engine", str, "auto", "what samples answers in training: auto, lean or transformers"),
        Parameter(
            "held_out_reward_model_share",
            float,
            0.25,
            "share of the preferences' prompts for a second reward model that only judges; 0 for none",
        ),
        Parameter(
            "watch_interval", int, 0, "steps between looks of the watch over over-optimisation; 0 for a tenth of all"
        ),
        Parameter("watch_prompts", int, 64, "prompts set aside for that watch, and not learnt from; 0 for no watch"),
        Parameter(
            "gate_win_rate_margin", float, 0.0, "win rate against the champion beyond one half that must be shown"
        ),
        Parameter(
            "gate_max_kl",
            float,
            50.0,
            "most nats of KL to the base model over an answer for a promotion; 0 for no limit",
        ),
        Parameter(
            "gate_max_length_ratio",
            float,
            3.0,
            "most that answers may grow or shrink for a promotion, as a factor; 0 for no limit",
        ),
        # Of a tune that recurs.
        Parameter(
            "min_new_preferences", int, 100, "new preferences, held against the champion's, that a recurring run needs"
        ),
        Parameter("warm_start", bool, False, "start the policy of a recurring run from the champion's adapter"),
    )
}

#: What only a recurring tune has.
_RECURRING = ("min_new_preferences", "warm_start")


def _named(*names: str) -> tuple[Parameter, ...]:
    return tuple(PARAMETERS[name] for name in names)


#: Pipeline to its parameters, in the order of its signature.
PIPELINES: dict[str, tuple[Parameter, ...]] = {
    "rlhf_pipeline": tuple(parameter for name, parameter in PARAMETERS.items() if name not in _RECURRING),
    "recurring_rlhf_pipeline": tuple(PARAMETERS.values()),
    "reward_model_pipeline": _named(
        "preference_dataset",
        "large_model_reference",
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
        "dtype",
        "max_bad_rows",
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
        "max_bad_rows",
    ),
}

#: What `rlhf validate` looks at, of the parameters of a run. Any dataset may be left out.
VALIDATED: tuple[Parameter, ...] = tuple(
    replace(parameter, default="") if parameter.required else parameter
    for parameter in _named(
        "prompt_dataset",
        "preference_dataset",
        "eval_dataset",
        "instruction",
        "large_model_reference",
        "prompt_sequence_length",
        "target_sequence_length",
        "reward_model_train_steps",
        "reinforcement_learning_train_steps",
        "batch_size",
        "max_bad_rows",
    )
)

#: What `rlhf plan` takes: the parameters of any tune, so that a run's own command becomes a question. Data is not read.
PLANNED: tuple[Parameter, ...] = tuple(
    replace(parameter, default="") if name in ("prompt_dataset", "preference_dataset") else parameter
    for name, parameter in PARAMETERS.items()
)

#: What values are checked for: a pipeline, or one of the two commands that ask about one.
TABLES = {**PIPELINES, "validate": VALIDATED, "plan": PLANNED}

_TYPE_WORDS: dict[type[Value], str] = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
#: One argument of a process holds at most 128 KiB on Linux, and a step's inputs travel as one, escaped.
_MOST_TEXT_BYTES = 32 * 1024
#: kfp carries numbers as doubles.
_MOST_INTEGER = 2**53


def check_parameters(pipeline: str, values: Mapping[str, object]) -> dict[str, Value]:
    """Return the value of every parameter of `pipeline`, with defaults filled in where `values` has none or null.

    `validate` stands for what `rlhf validate` looks at; the other parameters of a run may be there: they are checked too,
    as far as they are given, and left out. `plan` stands for what `rlhf plan` takes.

    Raises:
        ParameterError: Listing every problem that was found: unknown, missing, wrong type, beyond its limits.
    """
    table = {parameter.name: parameter for parameter in TABLES[pipeline]}
    others = PARAMETERS if pipeline == "validate" else {}
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
    if "rl_algorithm" in table and checked.get("temperature") == 0:
        problems.append(NO_EXPLORATION)
    problems += [f"{name} is missing: {table[name].description}." for name in missing]
    if problems:
        raise ParameterError(_joined(problems))
    return checked


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
    return value if isinstance(value, str | int | float) and isinstance(value, parameter.type) else None


def _type_problem(parameter: Parameter, value: object) -> str:
    name, wanted = parameter.name, _TYPE_WORDS[parameter.type]
    if isinstance(value, str):
        hint = " Write it without quotes." if _converted(parameter, parse_text(parameter, value)) is not None else ""
        return f"{name} must be {wanted}, not the text {value!r}.{hint}"
    shown = json.dumps(value, ensure_ascii=False, default=str)
    return f"{name} must be {wanted}, not {shown if len(shown) <= 60 else shown[:60] + '...'}."


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
    if name in ("large_model_reference", "reward_model_reference"):
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


def _joined(problems: Sequence[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    return f"{len(problems)} parameters cannot be used:\n" + "\n".join(f"  - {problem}" for problem in problems)
