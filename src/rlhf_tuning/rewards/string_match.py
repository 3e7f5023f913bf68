"""An answer is held against a text or a regular expression, as Google's string match scorer does.

    {"kind": "string_match", "expression": "{{references.answer}}", "operation": "exact_match"}

`expression` may hold `{{references.NAME}}`, in whose place the row's own text stands, as it is. With `key` an answer is
JSON, and what is held against the expression is the text that its object has there. White space at the ends does not count.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Literal

from rlhf_tuning import rewards
from rlhf_tuning.patterns import is_in, problem_with_pattern
from rlhf_tuning.rewards import Answer, Example, NothingToClose

_PLACE = re.compile(r"\{\{\s*references\.([^{}\s]+)\s*\}\}")


class Options(rewards.Options, frozen=True, kw_only=True):
    """What answers are held against, and what a match is worth."""

    expression: str
    operation: Literal["exact_match", "partial_match", "regex_contains"] = "exact_match"
    key: str = ""
    correct: float = 1.0
    wrong: float = 0.0
    clip: tuple[float, float] | None = rewards.UNIT

    @property
    def references(self) -> list[str]:
        """The names in the expression."""
        return _PLACE.findall(self.expression)

    def problem(self) -> str:
        """Return what is wrong with the expression, or an empty string."""
        if not self.expression.strip():
            return "expression is empty."
        if self.operation == "regex_contains" and not _PLACE.search(self.expression):
            return problem_with_pattern(self.expression, "expression")
        return ""

    def filled(self, references: Mapping[str, str]) -> str:
        """Return the expression with a row's own texts."""
        return _PLACE.sub(lambda place: str(references[place[1]]), self.expression)

    def problem_with(self, references: Mapping[str, str]) -> str:
        """Return why a row's references cannot be used, or an empty string."""
        expression = self.filled(references)
        if self.operation != "exact_match" and not expression.strip():
            return (
                "the expression becomes empty, which every answer contains. Give the row a reference, or leave it out."
            )
        if self.operation == "regex_contains":
            return problem_with_pattern(expression, f"the expression becomes {expression[:80]!r}, which")
        return ""


class StringMatchScorer(NothingToClose):
    """Scores by whether the text matches."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def score(self, examples: Sequence[Example], answers: Sequence[Answer], *, step: int) -> list[float]:
        """Return what each answer is worth.

        Raises:
            ParameterError: If a regular expression takes too long.
        """
        options = self._options
        return [
            options.correct if self._matches(example, answer.text) else options.wrong
            for example, answer in zip(examples, answers, strict=True)
        ]

    def _matches(self, example: Example, text: str) -> bool:
        expression = self._options.filled(example.get("references", {}))
        target = _value(text, self._options.key) if self._options.key else text
        if target is None:
            return False
        if self._options.operation == "exact_match":
            return target.strip() == expression.strip()
        if self._options.operation == "partial_match":
            return expression.strip() in target
        name = f"The expression of the reward {self._options.name or self._options.kind}"
        return is_in(expression, target, name=name)


def _value(text: str, key: str) -> str | None:
    """Return the text that a JSON object has under a key; None where there is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    value = found.get(key) if isinstance(found, dict) else None
    return value if value is None or isinstance(value, str) else json.dumps(value)


def make_scorer(options: Options, *, most_tokens: int) -> StringMatchScorer:
    """Return the scorer."""
    return StringMatchScorer(options)
