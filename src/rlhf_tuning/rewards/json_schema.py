"""An answer is to be JSON of a form: `correct` where it fits a JSON schema, else `wrong`.

    {"kind": "json_schema", "schema": {"type": "object", "required": ["city"]}, "correct": 1, "wrong": 0}

`schema` may be the name of a file. What it refers to on other hosts is not fetched.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from jsonschema import SchemaError, validators
from referencing import Registry
from referencing.exceptions import Unresolvable

from rlhf_tuning import rewards
from rlhf_tuning.errors import ParameterError
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
        return ""

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


class JsonSchemaScorer(NothingToClose):
    """Scores by whether the answer fits."""

    def __init__(self, options: Options) -> None:
        self._options = options
        assert isinstance(options.schema, dict)
        self._validator = validators.validator_for(options.schema)(options.schema, registry=Registry())

    def score(self, examples: Sequence[Example], answers: Sequence[Answer], *, step: int) -> list[float]:
        """Return what each answer is worth.

        Raises:
            ParameterError: If the schema refers to what is not in it.
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
