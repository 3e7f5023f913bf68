"""Where the parameters of a run come from: the embedded sample, a file of `parameter_values`, and flags."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf_pipelines.parameters import PIPELINES, TABLES, parse_text
from rlhf_tuning.errors import ParameterError
from rlhf_tuning.parameters import PARAMETERS

#: The sample's files: of a pipeline that tunes, and of those that take less of the sample.
_SAMPLE_FILES = {
    "prompt_dataset": "prompts.jsonl",
    "preference_dataset": "preferences.jsonl",
    "eval_dataset": "eval_prompts.jsonl",
    "supervised_dataset": "demonstrations.jsonl",
}
_SAMPLE_FILES_OF = {
    "reward_model_pipeline": {"preference_dataset": "preferences.jsonl"},
    "infer_pipeline": {"prompt_dataset": "eval_prompts.jsonl"},
    "label": {"preference_prompt_dataset": "prompts.jsonl"},
    "rlaif_pipeline": {
        "prompt_dataset": "prompts.jsonl",
        "preference_prompt_dataset": "prompts.jsonl",
        "eval_dataset": "eval_prompts.jsonl",
    },
    "distillation_pipeline": {"dataset_uri": "prompts.jsonl", "evaluation_data_uri": "eval_prompts.jsonl"},
    "reward_tuning_pipeline": {"prompt_dataset": "prompts.jsonl", "eval_dataset": "eval_prompts.jsonl"},
    "supervised_tuning_pipeline": {
        "dataset_uri": "demonstrations.jsonl",
        "evaluation_data_uri": "eval_demonstrations.jsonl",
    },
}
#: Of a pipeline that needs more than data.
_SAMPLE_VALUES_OF = {
    "reward_tuning_pipeline": {
        "rewards": '[{"kind": "python", "function": "rlhf_tuning.sample.house_style:evaluate", "clip": null}]',
    },
}
#: Of a file with parameter values.
_MOST_BYTES = 1 << 20
#: YAML 1.1 has other numbers as well: of base 8, of base 60.
_NUMBERS = {
    "tag:yaml.org,2002:int": r"^[-+]?(?:0|[1-9][0-9_]*)$",
    "tag:yaml.org,2002:float": r"^[-+]?(?:(?:\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+|\d[\d_]*\.\d*|\.\d+)$",
}
_SAMPLE_MODEL = "smollm2-135m-instruct"
_SAMPLE_MODELS = ("large_model_reference", "student_model_reference", "teacher_model_reference")


def gather_values(
    pipeline: str, *, sample_dir: Path | None, file: Path | None, flags: Mapping[str, str]
) -> dict[str, object]:
    """Return the parameter values for a run, not yet checked. A flag overrides the file, and both override the sample.

    Args:
        pipeline: Name of the pipeline, or `validate` or `plan`.
        sample_dir: Folder of the embedded sample, when it is wanted.
        file: JSON or YAML file of `parameter_values`.
        flags: Parameter name to the text given on the command line.
    """
    values: dict[str, object] = {}
    if sample_dir is not None:
        values.update(sample_values(pipeline, sample_dir))
    if file is not None:
        values.update(read_values(file))
    values.update({name: parse_text(PARAMETERS[name], text) for name, text in flags.items()})
    if pipeline not in PIPELINES and values.get("student_model_reference"):
        # What is asked about a run is asked about the model that it tunes.
        values.setdefault("large_model_reference", values["student_model_reference"])
    return values


def sample_values(pipeline: str, sample_dir: Path) -> dict[str, object]:
    """Return the values with which `pipeline` runs on the embedded sample."""
    known = {parameter.name for parameter in TABLES[pipeline]}
    files = _SAMPLE_FILES_OF.get(pipeline, _SAMPLE_FILES)
    settings = read_values(sample_dir / "parameters.json")
    if pipeline in ("supervised_tuning_pipeline", "distillation_pipeline"):
        # There the supervised phase is all there is, and its parameters have the names of the old job.
        settings |= {name.removeprefix("supervised_"): value for name, value in settings.items()}
    if pipeline == "compare-methods":
        # It is as long there; the multiplier would be DPO's too.
        settings["train_steps"] = settings["supervised_train_steps"]
    values = {
        **dict.fromkeys(_SAMPLE_MODELS, _SAMPLE_MODEL),
        "task_type": "question_answering",
        **settings,
        **_SAMPLE_VALUES_OF.get(pipeline, {}),
        **{name: str(sample_dir / file) for name, file in files.items()},
    }
    return {name: value for name, value in values.items() if name in known}


def read_values(file: Path) -> dict[str, object]:
    """Read a JSON or YAML file that holds one object of parameter names and values.

    Raises:
        ParameterError: If the file cannot be read, is malformed, names a parameter twice, or holds something else.
    """
    try:
        with file.open("rb") as stream:
            read = stream.read(_MOST_BYTES + 1)
        text = read.decode("utf-8-sig")
    except OSError as error:
        raise ParameterError(f"Cannot read the parameter values in {file}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ParameterError(f"{file} is not UTF-8 text.") from None
    if len(read) > _MOST_BYTES:
        raise ParameterError(f"{file} is no file of parameter values: it has more than {_MOST_BYTES >> 20} MiB.")
    try:
        values = _from_json(text) if file.suffix.lower() == ".json" else _from_yaml(text)
    except _RepeatedNameError as error:
        raise ParameterError(f"{file} gives {error} more than once.") from None
    except ValueError as error:
        raise ParameterError(f"{file} is malformed: {error}") from None
    except RecursionError:
        raise ParameterError(f"{file} is malformed: it is nested too deep.") from None
    if not isinstance(values, dict):
        raise ParameterError(f"{file} must hold one object of parameter names and values.")
    return {str(name): value for name, value in values.items()}


class _RepeatedNameError(Exception):
    """A name occurs twice in one object; JSON and YAML readers would keep the last and say nothing."""


def _without_repeats(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for name, value in pairs:
        if isinstance(name, list | dict):
            raise ValueError(f"{name} stands where a name should.")
        if name in found:
            raise _RepeatedNameError(name)
        found[name] = value
    return found


def _from_json(text: str) -> object:
    return json.loads(text, object_pairs_hook=_without_repeats)


def _from_yaml(text: str) -> object:
    import re

    import yaml

    class Loader(yaml.SafeLoader):
        """YAML as people mean it: `1e-4` is a number, `010` and `1:30` are none, `None` is null, names occur only once."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            self.flatten_mapping(node)
            return _without_repeats(
                [
                    (self.construct_object(key, deep=True), self.construct_object(value, deep=True))
                    for key, value in node.value
                ]
            )

        def construct_map(self, node: yaml.MappingNode) -> dict[Any, Any]:
            return self.construct_mapping(node)

    Loader.add_constructor("tag:yaml.org,2002:map", Loader.construct_map)
    Loader.yaml_implicit_resolvers = {
        first: [resolver for resolver in resolvers if resolver[0] not in _NUMBERS]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for tag, pattern in _NUMBERS.items():
        Loader.add_implicit_resolver(tag, re.compile(pattern), list("-+.0123456789"))
    Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^None$"), ["N"])
    try:
        return yaml.load(text, Loader=Loader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
