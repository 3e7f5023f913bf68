"""What phase 2 rewards an answer for: the reward model, and rewards of one's own, one file each; their weighted sum.

To add one: its file with a class `Options` and a function `make_scorer`, a line in `REWARDS`, a test.

The parameter `rewards` is a JSON list of objects, or the name of a file with one. Each has a `kind` of this table, what
every reward takes (see `Options`) and what its kind takes (see its file). Files that they name are read into the list by
`read_rewards`, so that what is handed from step to step, and what kfp's cache goes by, is the whole.

A reward says what every answer is worth, or fails the run: nothing is scored as 0 because something broke.
"""

import importlib
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol, cast

import msgspec
import regex

from rlhf_tuning.data.sources import read_object
from rlhf_tuning.errors import DataError, ParameterError

#: A reward's kind to the module that holds it, imported only when it is used.
REWARDS: dict[str, str] = {
    "reward_model": "rlhf_tuning.rewards.reward_model",
    "python": "rlhf_tuning.rewards.python",
    "service": "rlhf_tuning.rewards.service",
    "string_match": "rlhf_tuning.rewards.string_match",
    "json_schema": "rlhf_tuning.rewards.json_schema",
    "length": "rlhf_tuning.rewards.length",
    "near_limit": "rlhf_tuning.rewards.near_limit",
    "unfinished": "rlhf_tuning.rewards.unfinished",
    "judge": "rlhf_tuning.rewards.judge",
}

#: The metrics of a part, before its weight: mean and standard deviation over a batch, with its name behind.
REWARD_OF, SPREAD_OF = "reward_of_", "reward_spread_of_"
#: As Google's composite reward has it.
MOST_REWARDS = 16
#: Google's contracts clip what a function or a service returns.
UNIT = (-1.0, 1.0)
#: For a pattern of a person on a text of a model, which may be an unlucky pair.
REGEX_SECONDS = 5.0

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")

#: A canonical prompt row: `prompt`, and where its row has them `references`.
Example = Mapping[str, Any]


class Answer(NamedTuple):
    """What is scored. `tokens` counts the end-of-sequence token; `ended` says whether there was one."""

    text: str
    tokens: int
    ended: bool


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What every reward takes.

    Its part of the sum is weight * clip((score - mean) / std).

    Args:
        kind: One of `REWARDS`.
        name: What metrics and the report call it; the kind when empty.
        weight: Of its part.
        extract: A regular expression: of the answer only its last match is scored, or that match's first group; an empty
            text where there is none.
        mean: Taken off the score.
        std: Divides what is left.
        clip: Lowest and highest value after that; null for no limit.
    """

    kind: str
    name: str = ""
    weight: float = 1.0
    extract: str = ""
    mean: float = 0.0
    std: float = 1.0
    clip: tuple[float, float] | None = None

    @property
    def references(self) -> Collection[str]:
        """What every row must bring, by the names in `references`."""
        return ()

    @property
    def scores_anywhere(self) -> bool:
        """Whether any step can score by it: one without the trainer's packages, and at no cost."""
        return True

    def problem(self) -> str:
        """Return what is wrong with values that have the right types, or an empty string."""
        return ""

    def with_files(self, read: Callable[[str], str | None]) -> "Options":
        """Return the options with the content of files in the place of their names, where `read` gives it."""
        return self

    def check_access(self) -> None:
        """Check what is needed to score besides the options, such as a key, as far as that costs nothing.

        Raises:
            RlhfError: If it is not there.
        """


class Scorer(Protocol):
    """Scores answers."""

    def score(self, examples: Sequence[Example], answers: Sequence[Answer], *, step: int) -> list[float]:
        """Return the score of each answer to its example.

        Raises:
            UserError: If it cannot be scored for a reason that the person can mend.
            RunError: If it cannot be scored for another.
        """

    def close(self) -> None:
        """Let go of what it holds."""


class NothingToClose:
    """Of scorers that hold nothing."""

    def close(self) -> None:
        """Do nothing."""


class _Module(Protocol):
    Options: type[Options]

    def make_scorer(self, options: Any, *, most_tokens: int) -> Scorer:
        """Return the scorer; it fails here rather than at the first answer, where it can tell."""


class Reward:
    """One reward of a run.

    Args:
        name: What metrics and the report call it.
        options: Its weight, and what becomes of its scores.
        scorer: Gives the scores.
    """

    def __init__(self, name: str, options: Options, scorer: Scorer) -> None:
        self.name, self.weight, self.scorer = name, options.weight, scorer
        self.references = options.references
        self._mean, self._std = options.mean, options.std
        self._low, self._high = options.clip or (-math.inf, math.inf)
        self._extract = regex.compile(options.extract, regex.DOTALL) if options.extract else None

    def score(self, examples: Sequence[Example], answers: Sequence[Answer], *, step: int) -> list[float]:
        """Return the part of each answer before it is weighted.

        Raises:
            RlhfError: If an answer has no score, or none that is a finite number.
        """
        if self._extract:
            answers = [answer._replace(text=self._extracted(self._extract, answer.text)) for answer in answers]
        scores = self.scorer.score(examples, answers, step=step)
        if len(scores) != len(answers) or not all(map(math.isfinite, scores)):
            bad = sum(not math.isfinite(score) for score in scores)
            raise ParameterError(
                f"The reward {self.name} gives {bad:,} of {len(answers):,} answers a score that is not finite, so nothing "
                "can be learnt from it. Look at what it returns."
            )
        return [min(max((score - self._mean) / self._std, self._low), self._high) for score in scores]

    def _extracted(self, pattern: Any, text: str) -> str:
        with in_time(self.name, "extract"):
            found = list(pattern.finditer(text, timeout=REGEX_SECONDS))
        return str(found[-1][min(1, pattern.groups)] or "") if found else ""


@contextmanager
def in_time(name: str, option: str) -> Iterator[None]:
    """Turn the timeout of a regular expression into words.

    Raises:
        ParameterError: If it took too long.
    """
    try:
        yield
    except TimeoutError:
        raise ParameterError(
            f"The {option} of the reward {name} took more than {REGEX_SECONDS:g} s on one answer. Simplify it."
        ) from None


class Rewards:
    """All rewards of a run."""

    def __init__(self, parts: Sequence[Reward]) -> None:
        self.parts = list(parts)

    def score(self, examples: Sequence[Example], answers: Sequence[Answer], *, step: int) -> list[float]:
        """Return the weighted sum for each answer."""
        columns = [[part.weight * score for score in part.score(examples, answers, step=step)] for part in self.parts]
        return [sum(row) for row in zip(*columns, strict=True)]

    def check_references(self, examples: Sequence[Example], *, parameter: str = "prompt_dataset") -> None:
        """Check that every row brings what some reward holds answers against, see `check_references`."""
        check_references({part.name: part.references for part in self.parts}, examples, parameter=parameter)

    def close(self) -> None:
        """Let go of what they hold."""
        for part in self.parts:
            part.scorer.close()


def check_references(
    needed: Mapping[str, Collection[str]], examples: Sequence[Example], *, parameter: str = "prompt_dataset"
) -> None:
    """Check that every row brings what some reward holds answers against.

    Args:
        needed: What each reward needs, by its name.
        examples: The rows.
        parameter: Whose they are.

    Raises:
        DataError: Naming the first row that does not.
    """
    for reward, names in needed.items():
        for number, example in enumerate(examples, 1):
            if missing := [name for name in names if name not in example.get("references", {})]:
                raise DataError(
                    f"The reward {reward} holds answers against references.{missing[0]}, which prompt {number:,} of "
                    f"{len(examples):,} does not have: {example['prompt'][-1]['content'][:80]!r}. Give every row of "
                    f'{parameter} "references": {{"{missing[0]}": "..."}}.'
                )


def load_rewards(rewards: str, *, most_tokens: int, reward_model: Scorer | None = None) -> Rewards:
    """Return the rewards of a run, ready to score.

    Where there is a reward model, it is one of them, and the first, whether it is named or not.

    Args:
        rewards: The parameter, as `read_rewards` returns it.
        most_tokens: Of an answer.
        reward_model: Scores by the reward model; None where there is none.

    Raises:
        ParameterError: If they cannot be used.
        MachineError: If this machine cannot run one of them.
    """
    options = list(read_options(rewards))
    named = check_reward_model(options, trained=reward_model is not None)
    if reward_model is not None:
        options = [*(named or [Options(kind="reward_model")]), *(each for each in options if each not in named)]
    if not any(each.weight for each in options):
        raise ParameterError("rewards has no reward with a weight other than 0, so there is nothing to learn from.")
    parts: list[Reward] = []
    try:
        for name, each in zip(_names(options), options, strict=True):
            given = each.kind == "reward_model" and reward_model
            parts.append(Reward(name, each, given or _module(each.kind).make_scorer(each, most_tokens=most_tokens)))
    except BaseException:
        Rewards(parts).close()
        raise
    return Rewards(parts)


def check_reward_model(options: Sequence[Options], *, trained: bool) -> list[Options]:
    """Return the options of the reward model, where they are named.

    Raises:
        ParameterError: If they are named twice, or the run trains none.
    """
    named = [each for each in options if each.kind == "reward_model"]
    if len(named) > 1:
        raise ParameterError("rewards names the reward_model twice; there is one.")
    if named and not trained:
        raise ParameterError("rewards names the reward_model, but this run trains none. Leave that reward out.")
    return named


def read_rewards(rewards: str, *, remote: bool = True) -> str:
    """Return the parameter `rewards` with all that it names read into it; an empty string where it is empty.

    Args:
        rewards: A JSON list, or the name of a `.json` file with one.
        remote: Whether files on Cloud Storage are read too; else their names stay.

    Raises:
        ParameterError: If it cannot be used.
        DataError: If a file on Cloud Storage cannot be read.
    """
    text, folder = rewards.strip(), ""
    if _is_file(text):
        if text.startswith("gs://") and not remote:
            return text
        folder = text.rpartition("/")[0]
        text = _read(text)

    def read(name: str) -> str | None:
        path = name if "://" in name or name.startswith(("/", "~")) or not folder else f"{folder}/{name}"
        return None if path.startswith("gs://") and not remote else _read(path)

    return written([each.with_files(read) for each in read_options(text)])


def check_access(rewards: str) -> None:
    """Check what rewards need to score besides their options, such as a key.

    Args:
        rewards: The parameter, as `read_rewards` returns it.

    Raises:
        RlhfError: If it is not there.
    """
    for each in read_options(rewards):
        each.check_access()


def written(options: Sequence[Options]) -> str:
    """Return options as the parameter `rewards` has them."""
    return msgspec.json.encode(options).decode() if options else ""


def read_options(rewards: str) -> Sequence[Options]:
    """Return what the JSON list says, each with its own kind of options.

    Raises:
        ParameterError: If it cannot be used.
    """
    if not rewards.strip():
        return []
    try:
        listed = msgspec.json.decode(rewards)
    except msgspec.DecodeError as error:
        raise ParameterError(
            f"rewards is no JSON: {error}. Give a list such as "
            '[{"kind": "length", "low": 20, "high": 60}]'
            ", or the name of a .json file with one."
        ) from None
    if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed) or not listed:
        raise ParameterError('rewards must be a list of objects, such as [{"kind": "length", "low": 20, "high": 60}].')
    if len(listed) > MOST_REWARDS:
        raise ParameterError(f"rewards lists {len(listed)} rewards; at most {MOST_REWARDS} are possible.")
    options = [_one(item, number) for number, item in enumerate(listed, 1)]
    _names(options)
    return options


def _one(item: dict[str, Any], number: int) -> Options:
    kind = item.get("kind")
    if kind not in REWARDS:
        raise ParameterError(f"rewards, number {number}: its kind is {kind!r}; it must be one of {', '.join(REWARDS)}.")
    try:
        options = msgspec.convert(item, _module(kind).Options)
    except msgspec.ValidationError as error:
        raise ParameterError(
            f"rewards, number {number} ({kind}): {str(error).replace(' - at `$.', ' at `')}."
        ) from None
    problem = _problem(options) or options.problem()
    if problem:
        raise ParameterError(f"rewards, number {number} ({kind}): {problem}")
    return options


def _problem(options: Options) -> str:
    numbers = (options.weight, options.mean, options.std, *(options.clip or ()))
    if not all(map(math.isfinite, numbers)):
        return "every number must be finite."
    if options.std <= 0:
        return f"std is {options.std:g}; it must be greater than 0."
    if options.clip and options.clip[0] >= options.clip[1]:
        return f"clip is {list(options.clip)}; its first number must be the lower one."
    if options.name and not _NAME.fullmatch(options.name):
        return f"name is {options.name!r}; it must be a small letter, then small letters, digits and underscores."
    return problem_with_pattern(options.extract, "extract")


def problem_with_pattern(pattern: str, option: str) -> str:
    """Return why a text is no regular expression, or an empty string."""
    try:
        regex.compile(pattern)
    except regex.error as error:
        return f"{option} is no regular expression: {error}."
    return ""


def _names(options: Sequence[Options]) -> list[str]:
    names = [each.name or each.kind for each in options]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ParameterError(f"rewards has two rewards called {twice[0]}. Give each a name of its own.")
    return names


def _module(kind: str) -> _Module:
    return cast(_Module, importlib.import_module(REWARDS[kind]))


def _is_file(text: str) -> bool:
    return "\n" not in text and PurePosixPath(text).suffix == ".json" and not text.startswith("[")


def _read(name: str) -> str:
    """Return the text of a file.

    Raises:
        ParameterError: If it cannot be read.
        DataError: If it is on Cloud Storage and cannot be read.
    """
    try:
        if name.startswith("gs://"):
            return read_object(name, parameter="rewards").decode("utf-8-sig")
        return Path(name).expanduser().read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        reason = "it is not UTF-8 text"
    except OSError as error:
        reason = error.strerror or type(error).__name__
    raise ParameterError(f"rewards names the file {name!r}, which cannot be read: {reason}.")
