"""An answer is to be JSON of a form: `correct` where it fits a JSON schema, else `wrong`.

    {"kind": "json_schema", "schema": {"type": "object", "required": ["city"]}, "correct": 1, "wrong": 0}

`schema` may be the name of a file. What it refers to on other hosts is not fetched, and its regular expressions have a limit
of time, so that what would go around that is refused. So is one that no answer could be held against: that refers to what it
lacks, or to itself without an end.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

import msgspec
from jsonschema import SchemaError, ValidationError, validators
from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]
from referencing.exceptions import Unresolvable
from referencing.jsonschema import specification_with

from rlhf_tuning import rewards
from rlhf_tuning.errors import ParameterError
from rlhf_tuning.patterns import is_in, problem_with_pattern
from rlhf_tuning.rewards import Answer, Example, NothingToClose

_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
#: An answer with fewer objects and lists is not what is nested too deep.
_FEW = 20


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
        named = self.schema.get("$schema")
        if "$schema" in self.schema and not (isinstance(named, str) and validators.validator_for(self.schema, None)):
            return f"schema has the $schema {str(named)[:80]!r}, which is no draft that is known here. Leave it out."
        draft = validators.validator_for(self.schema)
        try:
            draft.check_schema(self.schema)
            return _without_limit(list(_objects(self.schema))) or _unusable(self.schema, draft)
        except SchemaError as error:
            return f"schema is no JSON schema: {error.message[:200]}."
        except RecursionError:
            return "schema is nested too deep."

    def with_files(self, read: Callable[[str], str | None]) -> "Options":
        """Return the options with the schema in the place of its file's name.

        Raises:
            ParameterError: If the file holds no schema.
        """
        text = read(self.schema) if isinstance(self.schema, str) else None
        if text is None:
            return self
        try:
            schema = rewards.read_json(text)
        except ValueError as error:
            raise ParameterError(f"rewards, json_schema: the file {self.schema} is no JSON: {error}.") from None
        found = msgspec.structs.replace(self, schema=schema)
        problem = found.problem() if isinstance(schema, dict) else "It must be an object."
        if problem:
            raise ParameterError(
                f"rewards, json_schema: the file {self.schema} holds no JSON schema that can be used: {problem}"
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


def _unusable(schema: Mapping[str, Any], draft: Any) -> str:
    """Return why no answer can be held against a schema of a draft, though it has the form of one; or an empty string.

    Raises:
        SchemaError: If what it refers to has not the form of a schema.
    """
    kind = specification_with(draft.META_SCHEMA["$schema"])
    same_value: dict[int, list[int]] = {}
    todo: list[tuple[Any, Any]] = [(schema, REGISTRY.resolver_with_root(kind.create_resource(schema)))]
    while todo:
        part, resolver = todo.pop()
        if isinstance(part, bool) or id(part) in same_value:
            continue
        for pattern in (part.get("pattern", ""), *part.get("patternProperties", ())):
            if problem := problem_with_pattern(pattern, f"the pattern {pattern[:80]!r} in schema"):
                return problem
        same_value[id(part)] = [id(below) for below in _of_the_same_value(part, draft)]
        for below in kind.create_resource(part).subresources():
            todo.append((below.contents, resolver.in_subresource(below)))
        for name in _REFERENCES:
            if name not in part or name not in draft.VALIDATORS:
                continue
            try:
                found = resolver.lookup(part[name])
            except (Unresolvable, ValueError, TypeError):  # the last two, where what is on the way is no schema
                return f"schema refers to {part[name]!r}, which it lacks. Nothing is fetched from elsewhere."
            if id(found.contents) not in same_value:
                draft.check_schema(found.contents)  # what only a reference leads to was not looked at
            same_value[id(part)].append(id(found.contents))
            todo.append((found.contents, found.resolver))
    try:
        TopologicalSorter(same_value).prepare()
    except CycleError:
        return (
            "schema refers to itself for one and the same value, which has no end. It may do so for what is inside of one: "
            "below properties or items."
        )
    return ""


def _of_the_same_value(part: Mapping[str, Any], draft: Any) -> Iterator[Any]:
    """Yield the schemas in a schema that are for the same value, not for what is inside of it."""
    known = {name: part[name] for name in part if name in draft.VALIDATORS}
    for name in ("allOf", "anyOf", "oneOf"):
        yield from known.get(name, ())
    for name in ("dependentSchemas", "dependencies"):
        yield from known.get(name, {}).values()
    yield from (known[name] for name in ("not", "if") if name in known)
    if "if" in known:
        yield from (part[name] for name in ("then", "else") if name in part)


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
        self._validator = made(schema, registry=REGISTRY)

    def score(self, examples: Sequence[Example], answers: Sequence[Answer], *, step: int) -> list[float]:
        """Return what each answer is worth.

        Raises:
            ParameterError: If the schema has no end, or a pattern takes too long.
        """
        return [self._options.correct if self._fits(answer.text) else self._options.wrong for answer in answers]

    def _fits(self, text: str) -> bool:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return False
        try:
            return bool(self._validator.is_valid(value))
        except (ValueError, OverflowError):  # numbers beyond all that can be reckoned with
            return False
        except RecursionError:
            if text.count("[") + text.count("{") >= _FEW:
                return False  # the answer is nested too deep
            raise ParameterError(
                "rewards, json_schema: its schema leads from one reference to the next too often, or without an end. "
                "Simplify it."
            ) from None


def make_scorer(options: Options, *, most_tokens: int) -> JsonSchemaScorer:
    """Return the scorer."""
    return JsonSchemaScorer(options)
