"""Whether parameter values fit a compiled pipeline, which no client checks and no service explains well.

It reads the compiled pipeline and not our own table, so that it holds for every pipeline that can be submitted.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

from rlhf_pipelines.parameters import closest

_TYPE_WORDS = {
    "STRING": "text",
    "NUMBER_INTEGER": "a whole number",
    "NUMBER_DOUBLE": "a number",
    "BOOLEAN": "true or false",
    "LIST": "a list",
    "STRUCT": "an object",
}
#: Pipeline services carry numbers as doubles.
_MOST_INTEGER = 2**53


def problems_with_values(spec: Mapping[str, Any], values: Mapping[str, object]) -> list[str]:
    """Return what stands against running a compiled pipeline with these values: nothing when they fit.

    Args:
        spec: The compiled pipeline, or an object that holds it as `pipeline_spec` beside a `platform_spec`.
        values: Parameter name to value.
    """
    pipeline = spec.get("pipeline_spec", spec)
    declared: Mapping[str, Any] = pipeline.get("root", {}).get("inputDefinitions", {}).get("parameters", {})
    problems = [
        f"{name} is no parameter of the pipeline.{closest(name, list(declared))}"
        for name in values
        if name not in declared
    ]
    for name, definition in declared.items():
        required = not definition.get("isOptional") and "defaultValue" not in definition
        if required and values.get(name, "") == "":
            description = f": {definition['description']}" if definition.get("description") else "."
            problems.append(f"{name} is missing{description}")
        elif name in values:
            problems += _problems_with_value(name, str(definition.get("parameterType", "")), values[name])
    return problems


def _problems_with_value(name: str, wanted: str, value: object) -> list[str]:
    if not _fits(wanted, value):
        return [f"{name} must be {_TYPE_WORDS[wanted]}, not {_shown(value)}."]
    return [f"{name} {problem}" for problem in _problems_within(value)]


def _fits(wanted: str, value: object) -> bool:
    if isinstance(value, bool):
        return wanted == "BOOLEAN" or wanted not in _TYPE_WORDS
    if isinstance(value, float) and wanted == "NUMBER_INTEGER":
        return not math.isfinite(value) or value.is_integer()  # what is not finite gets its own words
    types: dict[str, tuple[type, ...]] = {
        "STRING": (str,),
        "NUMBER_INTEGER": (int,),
        "NUMBER_DOUBLE": (int, float),
        "BOOLEAN": (),
        "LIST": (list, tuple),
        "STRUCT": (Mapping,),
    }
    return wanted not in types or isinstance(value, types[wanted])


def _problems_within(value: object) -> list[str]:
    """Return what no service can carry: also inside lists and objects."""
    if isinstance(value, Mapping):
        return [problem for inner in value.values() for problem in _problems_within(inner)]
    if isinstance(value, list | tuple):
        return [problem for inner in value for problem in _problems_within(inner)]
    if isinstance(value, float) and not math.isfinite(value):
        return [f"is {value}; it must be a finite number."]
    if isinstance(value, int) and abs(value) > _MOST_INTEGER:
        return [f"is {_shown(value)}; whole numbers beyond {_MOST_INTEGER} are not exact in a pipeline."]
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        return ["is not valid Unicode."]
    if isinstance(value, str) and "\0" in value:
        return ["holds a null character, which no process can be given."]
    return []


def _shown(value: object) -> str:
    text = f"the text {value!r}" if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:60] + "..."
