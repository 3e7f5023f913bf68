"""An answer is to be JSON of a form: `correct` where it fits a JSON schema, else `wrong`.

    {"kind": "json_schema", "schema": {"type": "object", "required": ["city"]}, "correct": 1, "wrong": 0}

`schema` may be the name of a file. What it refers to on other hosts is not fetched, and its regular expressions have a limit
of time, so that what would go around that is refused.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from jsonschema import SchemaError, ValidationError, validators
from referencing import Registry
from referencing.exceptions import Unresolvable

from rlhf_tuning import rewards
from rlhf_tuning.errors import ParameterError
from rlhf_tuning.patterns import is_in
from rlhf_tuning.rewards import Answer, Example, NothingToClose


class Options(rewards.Options, frozen=True, kw_only=True):
    """The schema, and what it is worth to fit it."""

    schema: dict[str, Any] | str
    correct: float = 1.0
    wrong: float = 0.0
    clip: tuple[float, float] | None = rewards.UNIT

    def problem(self) -> str:
        """Return what is wrong with the schema, or an empty string."""
        if isinstance(self.schema, str):
            return ""
        try:
            validators.validator_for(self.schema).check_schema(self.schema)
        except SchemaError as error:
            return f"schema is no JSON schema: {error.message[:200]}."
        return _without_limit(list(_objects(self.schema)))

    def with_files(self, read: Callable[[str], str | None]) -> "Options":
        """Return the options with the schema in the place of its file's name.

        Raises:
            ParameterError: If the file holds no schema.
        """
        text = read(self.schema) if isinstance(self.schema, str) else None
        if text is None:
            return self
        try:
            schema = json.loads(text)
        except ValueError as error:
            raise ParameterError(f"rewards, json_schema: the file {self.schema} is no JSON: {error}.") from None
        found = msgspec.structs.replace(self, schema=schema)
        if not isinstance(schema, dict) or found.problem():
            raise ParameterError(
                f"rewards, json_schema: the file {self.schema} holds no JSON schema. {found.problem()}"
            )
        return found


def _objects(part: object) -> Iterator[Mapping[str, Any]]:
    """Yield all objects of a schema, itself first, but for values that answers are held against."""
    if isinstance(part, dict):
        yield part
        for name, inside in part.items():
            if name not in ("const", "enum", "default", "examples"):
                yield from _objects(inside)
    elif isinstance(part, list):
        for inside in part:
            yield from _objects(inside)


def _without_limit(parts: Sequence[Mapping[str, Any]]) -> str:
    """Return by what regular expressions of a schema would have no limit of time; or an empty string."""
    if any(isinstance(part.get("$schema"), str) for part in parts[1:]):
        return "schema has a $schema below its top. Leave that out: one holds for all."
    if all(any(name in part for part in parts) for name in ("patternProperties", "unevaluatedProperties")):
        return "schema has both patternProperties and unevaluatedProperties. Take additionalProperties for the latter."
    return ""


def _matches(pattern: str, text: str) -> bool:
    return is_in(pattern, text, name=f"The pattern {pattern[:80]!r} in the schema of the reward json_schema")


def _pattern(validator: Any, pattern: str, value: Any, schema: Mapping[str, Any]) -> Iterator[ValidationError]:
    if validator.is_type(value, "string") and not _matches(pattern, value):
        yield ValidationError("no match")


def _pattern_properties(
    validator: Any, patterns: Mapping[str, Any], value: Any, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    if validator.is_type(value, "object"):
        for pattern, below in patterns.items():
            for name, inside in value.items():
                if _matches(pattern, name):
                    yield from validator.descend(inside, below)


def _additional_properties(
    validator: Any, below: Any, value: Any, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    if validator.is_type(value, "object"):
        known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
        for name, inside in value.items():
            if name not in known and not any(_matches(pattern, name) for pattern in patterns):
                yield from validator.descend(inside, below)


#: jsonschema's own know no limit.
_IN_TIME = {
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
}


class JsonSchemaScorer(NothingToClose):
    """Scores by whether the answer fits."""

    def __init__(self, options: Options) -> None:
        self._options = options
        assert isinstance(options.schema, dict)
        made = validators.extend(validators.validator_for(options.schema), _IN_TIME)
        # Where a schema refers to itself, its $schema would have jsonschema's own again.
        schema = {name: value for name, value in options.schema.items() if name != "$schema"}
        self._validator = made(schema, registry=Registry())

    def score(self, examples: Sequence[Example], answers: Sequence[Answer], *, step: int) -> list[float]:
        """Return what each answer is worth.

        Raises:
            ParameterError: If the schema refers to what is not in it, or a pattern takes too long.
        """
        return [self._options.correct if self._fits(answer.text) else self._options.wrong for answer in answers]

    def _fits(self, text: str) -> bool:
        try:
            return bool(self._validator.is_valid(json.loads(text)))
        except (ValueError, RecursionError):
            return False
        except Unresolvable as error:
            raise ParameterError(f"rewards, json_schema: its schema refers to {error.ref!r}, which it lacks.") from None


def make_scorer(options: Options, *, most_tokens: int) -> JsonSchemaScorer:
    """Return the scorer."""
    return JsonSchemaScorer(options)
