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
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol, cast, get_args

import msgspec

from rlhf_tuning.data.sources import read_object
from rlhf_tuning.data.strict_json import DECODER, DuplicateKeyError
from rlhf_tuning.errors import DataError, ParameterError
from rlhf_tuning.patterns import last_match, problem_with_pattern

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

#: Of every number of a reward, and of what an answer is worth, on either side of 0: training squares and sums that in 32
#: bits.
MOST = 1e12
#: A day, which no single answer takes; a socket cannot wait for ever.
MOST_SECONDS = 86_400.0

#: What msgspec calls the types of JSON, and people do.
_TYPES = {"int": "a whole number", "float": "a number", "str": "a text", "bool": "true or false", "array": "a list"}
_TYPES |= {"object": "an object"}
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

    def beyond(self, scores: int, cost: float) -> list[str]:
        """Return which limits of its own would end a run that asks for so many scores, which cost so much together."""
        return []

    def problem_with(self, references: Mapping[str, str]) -> str:
        """Return why a row's references cannot be used, though none is missing; or an empty string."""
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
        self.name, self.weight, self.scorer, self.options = name, options.weight, scorer, options
        self._mean, self._std = options.mean, options.std
        self._low, self._high = options.clip or (-math.inf, math.inf)

    def score(self, examples: Sequence[Example], answers: Sequence[Answer], *, step: int) -> list[float]:
        """Return the part of each answer before it is weighted.

        Raises:
            RlhfError: If an answer has no score, or none that can be learnt from.
        """
        if pattern := self.options.extract:
            name = f"The extract of the reward {self.name}"
            answers = [answer._replace(text=last_match(pattern, answer.text, name=name)) for answer in answers]
        scores = self.scorer.score(examples, answers, step=step)
        if len(scores) != len(answers) or not all(map(math.isfinite, scores)):
            bad = sum(not math.isfinite(score) for score in scores)
            raise ParameterError(
                f"The reward {self.name} gives {bad:,} of {len(answers):,} answers a score that is not finite, so nothing "
                "can be learnt from it. Look at what it returns."
            )
        found = [min(max((score - self._mean) / self._std, self._low), self._high) for score in scores]
        _check_size(found, f"The reward {self.name} gives")
        return found


class Rewards:
    """All rewards of a run."""

    def __init__(self, parts: Sequence[Reward]) -> None:
        self.parts = list(parts)

    def score(self, examples: Sequence[Example], answers: Sequence[Answer], *, step: int) -> list[float]:
        """Return the weighted sum for each answer."""
        return self.weighed([part.score(examples, answers, step=step) for part in self.parts])

    def weighed(self, columns: Sequence[Sequence[float]]) -> list[float]:
        """Return the weighted sum for each answer.

        Args:
            columns: What each part says of all answers.

        Raises:
            ParameterError: If one is too large to be learnt from.
        """
        weights = [part.weight for part in self.parts]
        sums = [
            sum(weight * score for weight, score in zip(weights, row, strict=True))
            for row in zip(*columns, strict=True)
        ]
        _check_size(sums, "All rewards together, with their weights, give")
        return sums

    def check_references(self, examples: Sequence[Example], *, parameter: str = "prompt_dataset") -> None:
        """Check that every row brings what some reward holds answers against, see `check_references`."""
        check_references([part.options for part in self.parts], examples, parameter=parameter)

    def close(self) -> None:
        """Let go of what they hold."""
        for part in self.parts:
            part.scorer.close()


def _check_size(worth: Sequence[float], who: str) -> None:
    largest = max(worth, key=abs, default=0.0)
    if abs(largest) > MOST:
        raise ParameterError(
            f"{who} an answer {largest:.3g}, and beyond {MOST:g} on either side of 0 nothing can be learnt. Give clip, or "
            "look at std and weight."
        )


def check_references(
    options: Sequence[Options], examples: Sequence[Example], *, parameter: str = "prompt_dataset"
) -> None:
    """Check that every row brings what some reward holds answers against.

    Args:
        options: Of the rewards.
        examples: The rows.
        parameter: Whose they are.

    Raises:
        DataError: Naming the first row that does not.
    """
    for each in options:
        reward, names = each.name or each.kind, each.references
        for number, example in enumerate(examples, 1):
            given = example.get("references", {})
            row = f"prompt {number:,} of {len(examples):,}"
            asked = repr(example["prompt"][-1]["content"][:80])
            if missing := [name for name in names if name not in given]:
                raise DataError(
                    f"The reward {reward} holds answers against references.{missing[0]}, which {row} does not have: "
                    f'{asked}. Give every row of {parameter} "references": {{"{missing[0]}": "..."}}.'
                )
            if problem := each.problem_with(given):
                raise DataError(
                    f"The reward {reward} cannot use the references of {row} of {parameter}, {asked}: {problem}"
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
        listed = read_json(rewards)
    except ValueError as error:
        raise ParameterError(
            f"rewards is no JSON: it begins with {rewards.strip()[:40]!r} ({error}). Give a list such as "
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


def read_json(text: str) -> Any:
    """Return what a JSON text says.

    Raises:
        ValueError: If it is none, or names something twice in one object, of which readers take the one or the other.
    """
    try:
        DECODER.decode(text)
        return msgspec.json.decode(text)
    except DuplicateKeyError as error:
        raise ValueError(f"an object has {error} twice") from None
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _one(item: dict[str, Any], number: int) -> Options:
    kind = item.get("kind")
    if not isinstance(kind, str) or kind not in REWARDS:
        found = f"its kind is {kind!r}" if kind else "kind is missing"
        raise ParameterError(f"rewards, number {number}: {found}; it must be one of {', '.join(REWARDS)}.")
    made = _module(kind).Options
    fields = {field.name: field for field in msgspec.structs.fields(made)}
    known = f"its options are {', '.join(fields)}"
    if unknown := [name for name in item if name not in fields]:
        raise ParameterError(f"rewards, number {number} ({kind}): it has no option {unknown[0]}; {known}.")
    if missing := [name for name, field in fields.items() if field.required and name not in item]:
        raise ParameterError(f"rewards, number {number} ({kind}): {missing[0]} is missing; {known}.")
    try:
        options = msgspec.convert(item, made)
    except msgspec.ValidationError as error:
        types = {name: field.type for name, field in fields.items()}
        raise ParameterError(f"rewards, number {number} ({kind}): {_in_words(str(error), item, types)}.") from None
    problem = _problem(options) or options.problem()
    if problem:
        raise ParameterError(f"rewards, number {number} ({kind}): {problem}")
    return options


def _in_words(said: str, item: Mapping[str, Any], types: Mapping[str, Any]) -> str:
    """Return what msgspec says of a value as a person would, with what it leaves unsaid."""
    problem, _, place = said.rpartition(" - at `$.")
    option, quoted = place.rstrip("`"), re.findall("`(.*?)`", problem)
    if problem.startswith("Invalid enum value"):
        return f"{option} is {item[option]!r:.80}; it must be one of {', '.join(map(repr, get_args(types[option])))}"
    if not quoted:
        return f"{option} is {str(item[option])[:40]}, which is too large"
    wanted = " or ".join(_TYPES.get(each, each) for each in quoted[0].split(" | "))
    length = re.search(" of length [0-9]+", problem)
    given = msgspec.json.encode(item[option.partition("[")[0]]).decode()
    return f"{option} must be {wanted}{length[0] if length else ''}, which {given:.40} is not"


def _problem(options: Options) -> str:
    numbers = {**msgspec.structs.asdict(options), **dict(zip(("clip[0]", "clip[1]"), options.clip or (), strict=False))}
    for name, value in numbers.items():
        if isinstance(value, int | float) and not abs(value) <= MOST:
            return f"{name} is {str(value)[:40]}; no number may be beyond {MOST:g} on either side of 0."
    if options.std <= 0:
        return f"std is {options.std:g}; it must be greater than 0."
    if options.clip and options.clip[0] >= options.clip[1]:
        return f"clip is {list(options.clip)}; its first number must be the lower one."
    if options.name and not _NAME.fullmatch(options.name):
        return f"name is {options.name!r}; it must be a small letter, then small letters, digits and underscores."
    return problem_with_pattern(options.extract, "extract")


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
    except ValueError as error:  # such as a name with a zero byte
        reason = str(error)
    raise ParameterError(f"rewards names the file {name!r}, which cannot be read: {reason}.")
