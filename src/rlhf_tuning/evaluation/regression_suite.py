"""A suite of general prompts: what the base model could do, and the tuned model may not have forgotten. Needs no torch.

A suite is JSON lines, a prompt each with what its answer must be, in the words of promptfoo, which people write such suites
for (https://www.promptfoo.dev/docs/configuration/expected-outputs/deterministic/):

    {"prompt": "What is the capital of France?", "assert": [{"type": "icontains", "value": "Paris"}]}

A prompt passes when all that is asserted holds; without `assert` both models' answers are put to the judge. `general` is a
suite of ours, in `general_suite.jsonl`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, cast

from rlhf_tuning.data.problems import Fault
from rlhf_tuning.data.sources import read_object
from rlhf_tuning.data.strict_json import decode_object
from rlhf_tuning.errors import DataError, ParameterError
from rlhf_tuning.evaluation.comparison import WORTH
from rlhf_tuning.evaluation.judges.verdict import Verdict
from rlhf_tuning.models.text_format import Conversation, Turn, conversation_key
from rlhf_tuning.patterns import is_in, problem_with_pattern
from rlhf_tuning.statistics import MeanEstimate, WinRate, clustered_win_rate, share_difference, win_rate
from rlhf_tuning.step import counted

GENERAL = "general"
_GENERAL_FILE = Path(__file__).parent / "general_suite.jsonl"
#: So many problems are told.
_MOST_TOLD = 10
_ROLES = ("system", "user", "assistant")


def _is_json(answer: str) -> bool:
    try:
        json.loads(answer)
    except (ValueError, RecursionError):
        return False
    return True


def _caseless(check: Callable[[str, str], bool]) -> Callable[[str, str], bool]:
    return lambda answer, value: check(answer.lower(), value.lower())


def _contains(answer: str, value: str) -> bool:
    return value in answer


#: What may be asserted of an answer without white space around it, and one text. To add one: a line here and in the test.
_OF_A_TEXT: dict[str, Callable[[str, str], bool]] = {
    "equals": lambda answer, value: answer == value.strip(),
    "contains": _contains,
    "icontains": _caseless(_contains),
    "starts-with": lambda answer, value: answer.startswith(value),
    "regex": lambda answer, value: is_in(
        value, answer, name=f"The regular expression {value[:80]!r} of regression_suite"
    ),
}
#: Likewise of some texts.
_OF_TEXTS: dict[str, Callable[[str, Sequence[str]], bool]] = {
    "contains-any": lambda answer, values: any(_contains(answer, value) for value in values),
    "icontains-any": lambda answer, values: any(_caseless(_contains)(answer, value) for value in values),
    "contains-all": lambda answer, values: all(_contains(answer, value) for value in values),
    "icontains-all": lambda answer, values: all(_caseless(_contains)(answer, value) for value in values),
}
_ALONE: dict[str, Callable[[str], bool]] = {"is-json": _is_json}
ASSERTIONS = (*_OF_A_TEXT, *_OF_TEXTS, *_ALONE)


class Assertion(NamedTuple):
    """One thing that must hold of an answer, or with `not-` before its type must not."""

    type: str
    value: str | tuple[str, ...] = ""

    def holds(self, answer: str) -> bool:
        """Say whether it holds."""
        kind = self.type.removeprefix("not-")
        answer = answer.strip()
        if kind in _ALONE:
            found = _ALONE[kind](answer)
        elif kind in _OF_TEXTS:
            found = _OF_TEXTS[kind](answer, self.value)
        else:
            found = _OF_A_TEXT[kind](answer, cast(str, self.value))
        return found != self.type.startswith("not-")

    def __str__(self) -> str:
        return f"{self.type} {json.dumps(self.value, ensure_ascii=False)}" if self.value else self.type


class Case(NamedTuple):
    """A prompt of a suite, and what must hold of its answer; nothing where a judge says which is better."""

    prompt: Conversation
    assertions: tuple[Assertion, ...] = ()

    def passes(self, answer: str) -> bool:
        """Say whether all holds of an answer."""
        return all(assertion.holds(answer) for assertion in self.assertions)


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A case with the answers of both models; `verdict` is the judge's, where there is nothing to assert."""

    case: Case
    base: str
    tuned: str
    verdict: Verdict | None = None


@dataclass(frozen=True, kw_only=True)
class Regression:
    """What a suite says of a tuned model; `judge` is how people read who was asked, empty where nobody was."""

    answered: Sequence[Answered]
    judge: str = ""

    @property
    def checked(self) -> list[Answered]:
        """The cases of which something is asserted."""
        return [each for each in self.answered if each.case.assertions]

    @property
    def judged(self) -> list[Answered]:
        """The cases that were put to the judge."""
        return [each for each in self.answered if not each.case.assertions]

    @property
    def passed(self) -> tuple[int, int]:
        """How many of the checked ones the base model passes, and the tuned model."""
        answers = [(each.case.passes(each.base), each.case.passes(each.tuned)) for each in self.checked]
        return sum(base for base, _ in answers), sum(tuned for _, tuned in answers)

    @property
    def lost(self) -> list[Answered]:
        """The checked ones that the base model passes and the tuned model does not."""
        return [each for each in self.checked if each.case.passes(each.base) and not each.case.passes(each.tuned)]

    @property
    def difference(self) -> MeanEstimate | None:
        """How much larger the share is that the tuned model passes, with its 95% interval; None where none is checked."""
        if not self.checked:
            return None
        return share_difference(
            [each.case.passes(each.base) for each in self.checked],
            [each.case.passes(each.tuned) for each in self.checked],
            [conversation_key(each.case.prompt) for each in self.checked],
        )

    @property
    def win_rate(self) -> WinRate | None:
        """How often the judge prefers the tuned model's answer; None where nobody was asked. No verdict counts as lost."""
        if not self.judged:
            return None
        scores = [WORTH[each.verdict.outcome] if each.verdict else 0.0 for each in self.judged]
        return clustered_win_rate(scores, [conversation_key(each.case.prompt) for each in self.judged]).rate

    def metrics(self) -> dict[str, float]:
        """Return the numbers by name, for metric artifacts and manifests."""
        found: dict[str, float] = {}
        if self.difference:
            base, tuned = (count / len(self.checked) for count in self.passed)
            found |= {"regression_base_passed": base, "regression_tuned_passed": tuned}
            found |= {f"regression_difference{end}": value for end, value in _ends(self.difference)}
        if self.win_rate:
            found |= {f"regression_win_rate{end}": value for end, value in _ends(self.win_rate)}
        return found

    def as_json(self) -> dict[str, object]:
        """Return it as JSON values."""
        return {"judge": self.judge, "answered": [asdict(each) for each in self.answered]}

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> "Regression":
        """Return what `as_json` returned, once it was written and read."""
        return cls(judge=kept["judge"], answered=[_answered(**each) for each in kept["answered"]])


def _answered(case: Sequence[Any], base: str, tuned: str, verdict: Mapping[str, Any] | None) -> Answered:
    prompt, assertions = case
    made = Case(prompt, tuple(Assertion(kind, _hashable(value)) for kind, value in assertions))
    said = Verdict(**{name: tuple(pair) if pair else None for name, pair in verdict.items()}) if verdict else None
    return Answered(case=made, base=base, tuned=tuned, verdict=said)


def _ends(estimate: MeanEstimate | WinRate) -> tuple[tuple[str, float], ...]:
    return ("", estimate[0]), ("_low", estimate.low), ("_high", estimate.high)


def suite_file(regression_suite: str) -> str:
    """Return the file that the parameter names; empty for none, and for a suite of ours."""
    return "" if regression_suite.strip() == GENERAL else regression_suite.strip()


def read_suite(regression_suite: str) -> list[Case]:
    """Return the cases of a suite; none where the parameter is empty.

    Args:
        regression_suite: `general`, or a file: a path, or one that begins with `gs://`.

    Raises:
        ParameterError: Naming what is wrong with which line.
        DataError: If the file cannot be read.
    """
    if not regression_suite.strip():
        return []
    cases, problems = [], []
    for number, line in enumerate(_content(regression_suite).splitlines(), 1):
        if not line.strip():
            continue
        try:
            cases.append(_case(line))
        except ValueError as error:
            problems.append(f"line {number}: {error}")
    if problems:
        more = f"\n  and {len(problems) - _MOST_TOLD:,} more" if len(problems) > _MOST_TOLD else ""
        told = "\n  ".join(problems[:_MOST_TOLD])
        raise ParameterError(f"regression_suite {regression_suite} cannot be used:\n  {told}{more}")
    if not cases:
        raise ParameterError(f"regression_suite {regression_suite} holds no prompt.")
    return cases


def check_suite(regression_suite: str, *, judge: str, gate_max_regression: float, gate_max_judge_loss: float) -> str:
    """Check a suite before a run is begun, and return what changes with its content; empty without one.

    Raises:
        ParameterError: If it cannot be used, has prompts for a judge that there is not, or is too small to show anything.
        DataError: If the file cannot be read.
    """
    cases = read_suite(regression_suite)
    if not cases:
        return ""
    judged = sum(not case.assertions for case in cases)
    if judged and not judge:
        raise ParameterError(
            f"regression_suite {regression_suite} has {counted(judged, 'prompt')} without assert, which a judge "
            "compares, but judge is empty. Name a judge, or say what must hold of the answers."
        )
    for n, what, parameter, limit, difference in (
        (len(cases) - judged, "with assert", "gate_max_regression", gate_max_regression, gate_max_regression),
        # A win rate moves by half as much as the difference between wins and losses.
        (judged, "for the judge", "gate_max_judge_loss", gate_max_judge_loss, 2 * gate_max_judge_loss),
    ):
        if n and limit and (least := _fewest(difference)) > n:
            raise ParameterError(
                f"regression_suite {regression_suite} has {counted(n, 'prompt')} {what}. With {parameter} {limit:g} it "
                f"takes {least:,} at least, so no model could be promoted. Give more, or raise the limit."
            )
    return sha256(repr(cases).encode("utf-8", "surrogatepass")).hexdigest()


def _fewest(most: float) -> int:
    """Return how many prompts, all alike for both models, rule out a difference of shares of `most`."""
    n = 1
    while 1 - 2 * win_rate(0, n, 0).low >= most:
        n += 1
    return n


def _content(regression_suite: str) -> bytes:
    name = suite_file(regression_suite)
    if name.startswith("gs://"):
        return read_object(name, parameter="regression_suite")
    path = Path(name).expanduser() if name else _GENERAL_FILE
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"regression_suite is {name!r}, which cannot be read: {error.strerror}. Give a file of JSON lines, or "
            f"{GENERAL} for the suite of this project."
        ) from None


def _case(line: bytes) -> Case:
    """Return the case that a line holds.

    Raises:
        ValueError: If it holds none.
    """
    faults: list[Fault] = []
    row = decode_object(line, faults)
    if row is None:
        raise ValueError(f"{faults[0].found}; accepted: {faults[0].accepted}")
    if others := sorted(row.keys() - {"prompt", "assert"}):
        raise ValueError(f"{others[0]} is no field of a suite; it has prompt and assert")
    asserted = row.get("assert", [])
    if not isinstance(asserted, list):
        raise ValueError("assert is no list")
    return Case(_prompt(row.get("prompt")), tuple(map(_assertion, asserted)))


def _prompt(prompt: object) -> Conversation:
    if isinstance(prompt, str) and prompt.strip():
        return [Turn(role="user", content=prompt)]
    turns = prompt if isinstance(prompt, list) else []
    if turns and all(
        isinstance(turn, dict)
        and turn.keys() == {"role", "content"}
        and turn["role"] in _ROLES
        and isinstance(turn["content"], str)
        for turn in turns
    ):
        return cast(Conversation, turns)
    raise ValueError("prompt is neither text nor a list of turns, each with role (system, user, assistant) and content")


def _assertion(asserted: object) -> Assertion:
    if not isinstance(asserted, dict) or not {"type"} <= asserted.keys() <= {"type", "value"}:
        raise ValueError("what is asserted must have type and value, and no other field")
    kind, value = asserted["type"], asserted.get("value", "")
    plain = str(kind).removeprefix("not-")
    if plain not in ASSERTIONS:
        raise ValueError(f"type {kind!r} is none of {', '.join(ASSERTIONS)}, nor one of these after not-")
    if plain in _ALONE:
        if "value" in asserted:  # where promptfoo has a schema
            raise ValueError(f"{kind} takes no value: an answer is not held against a schema")
        return Assertion(kind)
    if plain in _OF_TEXTS:
        if not isinstance(value, list) or not value or not all(isinstance(each, str) and each for each in value):
            raise ValueError(f"the value of {kind} must be a list of texts")
        return Assertion(kind, tuple(value))
    if not isinstance(value, str) or not value:
        raise ValueError(f"the value of {kind} must be a text")
    if plain == "regex" and (problem := problem_with_pattern(value, f"the value of {kind}")):
        raise ValueError(problem.removesuffix("."))
    return Assertion(kind, value)


def _hashable(value: str | Sequence[str]) -> str | tuple[str, ...]:
    return value if isinstance(value, str) else tuple(value)
