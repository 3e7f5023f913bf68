"""What is in datasets that were read to their end: the figures behind the warnings and the data report."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from rlhf_tuning.data.problems import Problem
from rlhf_tuning.data.rows import Conversation, Kind


class Example(NamedTuple):
    """A row that shows a finding. `location` is `file:line`; `text` says or quotes what is to be seen there."""

    location: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is suspicious in valid data.

    Args:
        code: Stable name, such as `position_bias`.
        parameter: The dataset's parameter.
        message: What was found, with its numbers, and what to do about it.
        examples: Some of the rows; untrusted text.
    """

    code: str
    parameter: str
    message: str
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """How long one part of the rows is.

    Args:
        part: `prompt`, `chosen`, `rejected` or `answer`.
        unit: `tokens` where the model's tokenizer was at hand, else `characters`.
        values: One length a row of the sample, before anything is cut.
        limit: The parameter's limit in tokens, or None where the unit is characters.
    """

    part: Literal["prompt", "chosen", "rejected", "answer"]
    unit: Literal["tokens", "characters"]
    values: tuple[int, ...]
    limit: int | None = None

    @property
    def cut(self) -> int:
        """Return how many rows of the sample are longer than the limit."""
        return 0 if self.limit is None else sum(value > self.limit for value in self.values)


@dataclass(frozen=True, kw_only=True)
class SampledRow:
    """A row as the report shows it; untrusted text. It has the answers that its kind has."""

    location: str
    prompt: Conversation
    chosen: str | None = None
    rejected: str | None = None
    answer: str | None = None
    references: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class DatasetSummary:
    """One dataset.

    Args:
        parameter: That named it, such as `preference_dataset`.
        reference: What the parameter held.
        kind: What its rows are.
        files: How many files it has.
        rows: Good rows.
        set_aside: Bad rows that `max_bad_rows` let pass.
        distinct_prompts: How many different prompts the good rows have.
        fingerprint: Of the content.
        formats: Row format to number of rows.
        first_chosen: How many rows choose the first candidate; None where the format has no order.
        longer_chosen: How many rows choose the longer answer.
        equally_long: How many rows have answers of the same length.
        labels: How many rows say whether an answer was liked.
        liked: How many of them say that it was.
        sampled: How many rows the lengths and scripts were measured on: all, up to a stated number.
        lengths: Of prompts and answers.
        scripts: Writing system, such as `Latin`, to the number of sampled rows mostly written in it.
        same_when_cut: How many sampled rows have answers that are the same once they are cut to their limit.
        epochs: How often training will see each row; None where that is not known.
        examples: A few rows.
    """

    parameter: str
    reference: str
    kind: Kind
    files: int
    rows: int
    set_aside: int
    distinct_prompts: int
    fingerprint: str
    formats: dict[str, int]
    first_chosen: int | None = None
    longer_chosen: int | None = None
    equally_long: int = 0
    labels: int = 0
    liked: int = 0
    sampled: int = 0
    lengths: tuple[Lengths, ...] = ()
    scripts: dict[str, int] = field(default_factory=dict)
    same_when_cut: int = 0
    epochs: float | None = None
    examples: tuple[SampledRow, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DataSummary:
    """Everything that a check of datasets found.

    Args:
        datasets: In the order preferences, prompts, demonstrations, evaluation, as far as given.
        findings: Warnings, most serious first.
        problem_counts: Code to number of problems; empty where the data can be used (or bad rows were set aside).
        problems: The first of each code.
        repeats: How many more problems say what one of those says.
        advice: How to mend a whole dataset: what is taken for what, and under it the command.
        usable: Whether a run may start.
    """

    datasets: tuple[DatasetSummary, ...]
    findings: tuple[Finding, ...] = ()
    problem_counts: dict[str, int] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    repeats: dict[Problem, int] = field(default_factory=dict)
    advice: tuple[str, ...] = ()
    usable: bool = True
