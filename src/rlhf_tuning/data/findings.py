"""What is in valid data, and what of it is suspicious: each finding says what it costs and what to do."""

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

from rlhf_tuning.data import as_read
from rlhf_tuning.data.held_out import held_out_rows, validation_rows
from rlhf_tuning.data.importer import MAX_EVAL_PREFERENCES
from rlhf_tuning.data.problems import Problem, Problems, shorten
from rlhf_tuning.data.repeats import Place, Repeats
from rlhf_tuning.data.rows import Conversation, Kind
from rlhf_tuning.data.sample import SampleRow
from rlhf_tuning.data.scan import ScannedDataset
from rlhf_tuning.data.summary import DatasetSummary, Example, Finding, Lengths, SampledRow
from rlhf_tuning.limits import highest
from rlhf_tuning.models.text_format import RefusedConversationError, TextFormat
from rlhf_tuning.statistics import wilson_interval

#: Past this a reward model mostly learns its rows by heart: Ouyang et al. 2022 (arXiv:2203.02155) and Stiennon et al. 2020
#: (arXiv:2009.01325) let it see them once. Google's advice for the Vertex job was 20 to 30 times.
MOST_REWARD_MODEL_EPOCHS = 2
#: Preference tuning learns them by heart too, if later: people mostly let it see them one to three times.
MOST_PREFERENCE_EPOCHS = 3
#: Google's advice for the Vertex job: 10 to 20 times.
MOST_REINFORCEMENT_EPOCHS = 20

#: Google advised 5,000 to 10,000 preferences; far fewer rarely teach a reward model more than length.
FEW_PREFERENCES = 1_000

#: Fewer demonstrations rarely teach more than a tone; and they are learnt by heart sooner than preferences.
FEW_DEMONSTRATIONS = 100
MOST_SUPERVISED_EPOCHS = 10

#: A share of first candidates chosen further from one half than this is no chance of a well-shuffled dataset.
POSITION_MARGIN = 0.05

#: From where on "the longer answer wins" explains so much that a reward model may learn nothing else.
LENGTH_SHARE = 0.6

#: Where more of the labels than this are alike, the few others have to teach all.
LIKED_SHARE = 0.9

#: A writing system other than the main one is named from this share of the rows on.
SCRIPT_SHARE = 0.01

#: A shorter prompt may be the beginning of an answer by chance.
_CHARACTERS_REPEATED = 10

_PARTS: dict[Kind, tuple[Literal["prompt", "chosen", "rejected", "answer"], ...]] = {
    "prompt": ("prompt",),
    "preference": ("prompt", "chosen", "rejected"),
    "demonstration": ("prompt", "answer"),
    "feedback": ("prompt", "answer"),
}
_EXAMPLES = 5
_REPORT_ROWS = 6
_SCRIPT_LETTERS = 300
_REPEATED: dict[Kind, tuple[str, str]] = {
    "prompt": ("repeated_prompts", "prompt"),
    "preference": ("repeated_preferences", "row"),
    "demonstration": ("repeated_demonstrations", "row"),
}
_ASCII = re.compile("[\x00-\x7f]+")
_SCRIPT_NAMES = {"CJK": "Chinese or Japanese", "HIRAGANA": "Chinese or Japanese", "KATAKANA": "Chinese or Japanese"}

#: The share of rows that a sequence length should leave whole.
WHOLE_SHARE = 0.95

#: How a conversation that was written into one text marks who speaks, at the start of a line.
_SPEAKER = re.compile(r"^[ \t]*(?:(human|user)|(assistant|ai|bot|model))[ \t]*:", re.IGNORECASE | re.MULTILINE)

#: What chat templates mark turns with. In a text these are plain characters; a person should still know.
_CHAT_MARKER = re.compile(r"<\|\w(?:[\w ]{0,38}\w)?\|>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>|</?s>")


class _TooOften(NamedTuple):
    """From when on a dataset is learnt from too often, by which steps, and what a model does then."""

    most: int
    steps: str
    harm: str


_LEARNT_TOO_OFTEN = {
    "prompt_dataset": _TooOften(
        MOST_REINFORCEMENT_EPOCHS, "reinforcement_learning_train_steps", "learns to please the score"
    ),
    "dataset_uri": _TooOften(MOST_SUPERVISED_EPOCHS, "train_steps", "learns its rows by heart"),
    "supervised_dataset": _TooOften(MOST_SUPERVISED_EPOCHS, "supervised_train_steps", "learns its rows by heart"),
}


@dataclass(frozen=True, kw_only=True)
class Training:
    """What the rows will be used for.

    Args:
        load_text_format: Returns what counts tokens as training will; None where the model's tokenizer is not at hand.
        batch_size: Rows in an optimizer step.
        reward_model_train_steps: Optimizer steps on the preferences; 0 where there are none.
        reinforcement_learning_train_steps: Optimizer steps on the prompts; 0 where there are none.
        train_steps: Optimizer steps on the demonstrations; 0 where there are none.
        supervised_train_steps: Optimizer steps of the supervised phase; 0 where there is none.
        eval_prompts: Most prompts that are held out for evaluation, a tenth; 0 where there is an evaluation dataset.
        watch_prompts: Most prompts that the watch takes, a quarter of the others.
        held_out_reward_model_share: Share of the preferences' prompts that another reward model learns from.
        reward_model_max_epochs: Most times that a reward model sees each preference; 0 for no limit.
        preference_epochs: Most times that a model tuned on preferences or feedback sees each row; 0 where none is.
    """

    load_text_format: Callable[[], TextFormat | None]
    batch_size: int
    reward_model_train_steps: int
    reinforcement_learning_train_steps: int
    train_steps: int = 0
    supervised_train_steps: int = 0
    eval_prompts: int = 0
    watch_prompts: int = 0
    held_out_reward_model_share: float = 0.0
    reward_model_max_epochs: float = 0.0
    preference_epochs: float = 0.0

    def prompts_learnt_from(self, distinct: int) -> int:
        """Return how many of the prompts reinforcement learning is left with."""
        others = distinct - (held_out_rows(distinct, self.eval_prompts) if self.eval_prompts else 0)
        return others - min(self.watch_prompts, others // 4)

    def preferences_learnt_from(self, rows: int) -> int:
        """Return how many of the preferences the reward model learns from, where a tenth is held out to measure it."""
        others = rows - held_out_rows(rows, MAX_EVAL_PREFERENCES)
        own = round(others * (1 - self.held_out_reward_model_share))
        return own - validation_rows(own)

    def epochs(self, parameter: str, rows: int) -> float | None:
        """Return how often each row that is learnt from will be seen at most, or None where none is."""
        if parameter == "prompt_dataset":
            found = self.reinforcement_learning_train_steps * self.batch_size / max(1, rows)
        elif parameter in ("dataset_uri", "supervised_dataset"):
            steps = self.train_steps if parameter == "dataset_uri" else self.supervised_train_steps
            found = steps * self.batch_size / max(1, rows)
        elif parameter in ("preference_dataset", "feedback_dataset") and self.preference_epochs:
            found = self.preference_epochs
        elif parameter == "preference_dataset":
            found = self.reward_model_train_steps * self.batch_size / max(1, self.preferences_learnt_from(rows))
            found = min(found, self.reward_model_max_epochs or found)
        else:
            return None
        return found or None


@dataclass(frozen=True)
class _Row:
    """A sampled row, decoded, with its tokens where a tokenizer is at hand."""

    location: str
    prompt: Conversation
    chosen: str | None
    rejected: str | None
    answer: str | None
    references: dict[str, str] | None
    sizes: tuple[int, ...]
    same_when_cut: bool
    refused: Problem | None

    def read(self) -> as_read.ReadRow:
        """Return it as the model reads it."""
        row = SampledRow(
            location=self.location,
            prompt=self.prompt,
            chosen=self.chosen,
            rejected=self.rejected,
            answer=self.answer,
            references=self.references,
        )
        return as_read.ReadRow(row, self.sizes)


def examine(
    dataset: ScannedDataset,
    reference: str,
    repeats: Repeats,
    *,
    training: Training | None,
    text_format: TextFormat | None,
    problems: Problems,
) -> tuple[DatasetSummary, list[Finding]]:
    """Return the figures of one dataset, and what of them is suspicious.

    Args:
        dataset: As scanned.
        reference: What the parameter held.
        repeats: What the dataset says more than once.
        training: What the rows are for, where that is known.
        text_format: Counts tokens; without it lengths are in characters.
        problems: Collects the sampled rows that the model's chat template refuses.
    """
    rows = [_decoded(row, dataset.parameter, text_format) for row in dataset.sample.rows()]
    # Of a dialogue each answer is a row, and all of them stand in one line.
    refused = {row.location: row.refused for row in rows if row.refused is not None}
    for problem in sorted(refused.values()):
        problems.add(problem)
    ordered = dataset.total("ordered")
    is_preference = dataset.kind == "preference"
    learnable = round(dataset.rows * sum(not row.same_when_cut for row in rows) / max(1, len(rows)))
    summary = DatasetSummary(
        parameter=dataset.parameter,
        reference=reference,
        kind=dataset.kind,
        files=len(dataset.files),
        rows=dataset.rows,
        set_aside=dataset.set_aside,
        distinct_prompts=repeats.distinct_prompts,
        fingerprint=dataset.fingerprint.value(),
        formats=dict(dataset.formats),
        first_chosen=dataset.total("first_chosen") if ordered and ordered == dataset.rows else None,
        longer_chosen=dataset.total("longer_chosen") if is_preference else None,
        equally_long=dataset.total("equally_long"),
        labels=dataset.feedback.labels,
        liked=dataset.feedback.liked,
        sampled=len(rows),
        lengths=tuple(_lengths(rows, text_format, dataset.kind)),
        scripts=dict(Counter(_script(row) for row in rows).most_common()),
        same_when_cut=sum(row.same_when_cut for row in rows),
        epochs=training.epochs(dataset.parameter, learnable) if training else None,
        examples=tuple(row.read().row for row in rows[:_REPORT_ROWS]),
    )
    findings = [
        _set_aside(dataset),
        _contradictions(dataset, repeats),
        _contradicting_labels(dataset, repeats),
        _repeated(dataset, repeats),
        _other_answers(dataset, repeats),
        _same_when_cut(summary, rows),
        *_cut(summary),
        _liked(summary),
        _one_sided(dataset),
        _same_rating(dataset),
        _position_bias(summary),
        _length_bias(summary),
        _scripts(summary, rows),
        _few_rows(summary),
        _few_prompts(summary, training),
        _epochs(summary, training, learnable),
        _control_characters(dataset),
        _chat_markers(summary, rows, as_read.openings(text_format) if text_format is not None else []),
        _flattened_turns(summary, rows),
        _prompt_in_answers(summary, rows),
        *as_read.findings(
            as_read.Sample(dataset.parameter, [row.read() for row in rows if not row.refused], _of_sample(summary)),
            text_format,
        ),
    ]
    return summary, [finding for finding in findings if finding is not None]


def eval_prompts_in_preferences(
    eval_data: ScannedDataset, distinct: int, preferences: ScannedDataset
) -> Finding | None:
    """Find preferences that no model will learn from, since answers to their prompts will be compared.

    Args:
        eval_data: The evaluation dataset.
        distinct: How many different prompts that has.
        preferences: The preferences, or feedback, in which its prompts were looked for.
    """
    seen: dict[int, str] = {}
    for file in preferences.files:
        for prompt, line in file.eval_prompts_seen.items():
            seen.setdefault(prompt, f"{file.source.name}:{line}")
    if (eval_data.kind == "preference" and preferences.kind == "preference") or not seen:
        return None
    message = (
        f"{len(seen):,} of {distinct:,} prompts of eval_dataset also stand in {preferences.parameter}. The rows of these "
        "prompts are left out, so that nothing is learnt about what answers will be compared on. Other evaluation prompts "
        "would spare them."
    )
    examples = tuple(Example(place, "also an evaluation prompt") for place in list(seen.values())[:_EXAMPLES])
    return Finding(code="eval_prompt_in_preferences", parameter="eval_dataset", message=message, examples=examples)


def _decoded(row: SampleRow, parameter: str, text_format: TextFormat | None) -> _Row:
    content: dict[str, Any] = json.loads(row.line)
    prompt: Conversation = content["prompt"]
    # An empty one is still to be given, by a teacher.
    answers: list[str] = [content[part] for part in ("chosen", "rejected", "answer") if content.get(part)]
    same_when_cut = False
    refused: Problem | None = None
    if text_format is None:
        sizes = [sum(len(turn["content"]) for turn in prompt), *map(len, answers)]
    else:
        whole = text_format.without_limits()
        ids = [whole.answer_ids(answer)[:-1] for answer in answers]
        try:
            sizes = [len(whole.prompt_ids(prompt)), *map(len, ids)]  # type: ignore[arg-type]
        except RefusedConversationError as error:
            refused, sizes, ids = _refused(row, parameter, error), [], []
        limit = text_format.target_sequence_length
        same_when_cut = len(ids) == 2 and max(sizes[1:]) > limit and ids[0][:limit] == ids[1][:limit]
    return _Row(
        location=f"{row.file}:{row.place[2]}",
        prompt=prompt,
        chosen=content.get("chosen"),
        rejected=content.get("rejected"),
        answer=content.get("answer") or None,
        sizes=tuple(sizes),
        references=content.get("references"),
        same_when_cut=same_when_cut,
        refused=refused,
    )


def _refused(row: SampleRow, parameter: str, error: RefusedConversationError) -> Problem:
    accepted = f"a conversation that it takes whole. {error.advice}"
    return Problem("refused_conversation", parameter, row.file, row.place[2], "", error.found, accepted)


def _lengths(rows: Sequence[_Row], text_format: TextFormat | None, kind: Kind) -> Iterable[Lengths]:
    limits: tuple[int | None, int | None] = (None, None)
    if text_format is not None:
        limits = (text_format.prompt_sequence_length, text_format.target_sequence_length)
    unit: Literal["tokens", "characters"] = "characters" if text_format is None else "tokens"
    for index, part in enumerate(_PARTS[kind]):
        values = tuple(row.sizes[index] for row in rows if row.refused is None and index < len(row.sizes))
        if values or index == 0:
            yield Lengths(part=part, unit=unit, values=values, limit=limits[min(index, 1)])


def _set_aside(dataset: ScannedDataset) -> Finding | None:
    if not dataset.set_aside:
        return None
    counts: Counter[str] = Counter()
    examples: list[Example] = []
    for file in dataset.files:
        counts.update(file.problems.counts)
        examples += [
            Example(problem.location, f"{code}: {problem.found}")
            for code, kept in file.problems.kept.items()
            for problem in kept
        ]
    kinds = ", ".join(f"{code} {count:,}" for code, count in counts.most_common())
    message = f"{dataset.set_aside:,} bad rows of {dataset.parameter} were set aside, as max_bad_rows allows ({kinds})."
    return Finding(
        code="rows_set_aside", parameter=dataset.parameter, message=message, examples=tuple(examples[:_EXAMPLES])
    )


def _contradictions(dataset: ScannedDataset, repeats: Repeats) -> Finding | None:
    if not repeats.contradictions or dataset.kind != "preference":
        return None
    message = (
        f"{repeats.contradictions:,} pairs of answers in {dataset.parameter} are preferred one way in some rows and the "
        "other way in others. If people disagreed, keep what most said; if rows were swapped, mend them: a reward "
        "model learns nothing from both."
    )
    examples = _groups(dataset, repeats.contradiction_examples, "prefers otherwise than")
    return Finding(code="contradicting_preferences", parameter=dataset.parameter, message=message, examples=examples)


def _contradicting_labels(dataset: ScannedDataset, repeats: Repeats) -> Finding | None:
    if not repeats.contradictions or dataset.kind != "feedback":
        return None
    message = (
        f"{repeats.contradictions:,} answers of {dataset.parameter} were liked by some and not by others. `rlhf convert` "
        "takes the mean of an answer's labels; what learns from single labels learns nothing from both."
    )
    examples = _groups(dataset, repeats.contradiction_examples, "labels the same answer otherwise than")
    return Finding(code="contradicting_labels", parameter=dataset.parameter, message=message, examples=examples)


def _liked(summary: DatasetSummary) -> Finding | None:
    if not summary.labels:
        return None
    share, interval = summary.liked / summary.labels, wilson_interval(summary.liked, summary.labels)
    if 1 - LIKED_SHARE <= share <= LIKED_SHARE or interval.low <= 0.5 <= interval.high:
        return None
    message = (
        f"{share:.1%} [{interval.low:.1%}, {interval.high:.1%}] of the {summary.labels:,} labels of {summary.parameter} are "
        f"positive. Whatever takes every answer for {'good' if share > 0.5 else 'bad'} is mostly right: look for more of "
        "the others."
    )
    return Finding(code="one_sided_labels", parameter=summary.parameter, message=message)


def _one_sided(dataset: ScannedDataset) -> Finding | None:
    found = dataset.feedback.one_sided()
    if not found:
        return None
    labels = sum(each.labels for each in found)
    message = (
        f"{len(found):,} users or sources of {dataset.parameter} label all alike, {labels:,} rows together, which chance "
        "does not explain: they may press one button whatever they read. Look at their rows, and leave them out if so."
    )
    examples = tuple(
        Example(each.rater, f"{each.labels:,} labels, all {'positive' if each.liked else 'negative'}")
        for each in found[:_EXAMPLES]
    )
    return Finding(code="one_sided_raters", parameter=dataset.parameter, message=message, examples=examples)


def _same_rating(dataset: ScannedDataset) -> Finding | None:
    ratings = dataset.feedback.ratings
    if len(ratings) != 1 or ratings.total() < 2:
        return None
    [rating] = ratings
    message = f"Every rating of {dataset.parameter} is {rating:g}: nothing can be learnt from them."
    return Finding(code="same_rating", parameter=dataset.parameter, message=message)


def _repeated(dataset: ScannedDataset, repeats: Repeats) -> Finding | None:
    # Several people may judge one answer alike.
    if not repeats.repeated or dataset.kind == "feedback":
        return None
    code, word = _REPEATED[dataset.kind]
    message = (
        f"{repeats.repeated:,} of {dataset.rows:,} rows of {dataset.parameter} repeat an earlier {word}, and weigh more "
        "in training than others. Remove them unless that is meant."
    )
    examples = _groups(dataset, repeats.repeated_examples, "the same as")
    return Finding(code=code, parameter=dataset.parameter, message=message, examples=examples)


def _other_answers(dataset: ScannedDataset, repeats: Repeats) -> Finding | None:
    if not repeats.other_answers:
        return None
    message = (
        f"{repeats.other_answers:,} of {dataset.rows:,} demonstrations of {dataset.parameter} answer a prompt otherwise "
        "than an earlier one does. A model learns a mixture of such answers: keep the best where one was meant."
    )
    examples = _groups(dataset, repeats.other_answer_examples, "answers the same prompt otherwise than")
    return Finding(code="other_answers", parameter=dataset.parameter, message=message, examples=examples)


def _groups(dataset: ScannedDataset, groups: Sequence[Sequence[Place]], relation: str) -> tuple[Example, ...]:
    """Return an example for each group of rows: its first row, and where the others stand."""
    places = [[f"{dataset.files[place.file_number].source.name}:{place.line}" for place in group] for group in groups]
    return tuple(Example(group[0], f"{relation} {', '.join(group[1:])}") for group in places if len(group) > 1)


def _same_when_cut(summary: DatasetSummary, rows: Sequence[_Row]) -> Finding | None:
    if not summary.same_when_cut:
        return None
    message = (
        f"In {summary.same_when_cut:,} of {summary.sampled:,} rows{_of_sample(summary)} of {summary.parameter} both answers "
        "are the same once they are cut to target_sequence_length: they no longer say which is better. Raise it."
    )
    examples = tuple(Example(row.location, shorten(str(row.chosen), 200)) for row in rows if row.same_when_cut)
    return Finding(
        code="identical_when_cut", parameter=summary.parameter, message=message, examples=examples[:_EXAMPLES]
    )


def _cut(summary: DatasetSummary) -> Iterable[Finding]:
    """Find what the sequence lengths cut: prompts lose their beginning, answers their end."""
    for part, parameter, loses in (
        ("prompt", "prompt_sequence_length", "their oldest turns or their beginning"),
        ("answer", "target_sequence_length", "their end"),
    ):
        lengths = [entry for entry in summary.lengths if (entry.part == "prompt") == (part == "prompt")]
        cut = [value - entry.limit for entry in lengths if entry.limit for value in entry.values if value > entry.limit]
        if not cut:
            continue
        n = sum(len(entry.values) for entry in lengths)
        message = (
            f"{len(cut):,} of {n:,} {part}s ({_share(len(cut), n)}){_of_sample(summary)} of {summary.parameter} are longer "
            f"than {parameter} {lengths[0].limit:,} and lose {loses}: {sum(cut) / len(cut):,.0f} tokens each on average, "
            f"{max(cut):,} at most. {_half_compared(lengths)}{_limit_to_set(parameter, lengths)}"
        )
        yield Finding(code=f"{part}s_cut", parameter=summary.parameter, message=message)


def _half_compared(lengths: Sequence[Lengths]) -> str:
    """Say how many pairs have just one answer that is cut: people saw the whole of it, the model does not."""
    pairs = list(zip(*(entry.values for entry in lengths), strict=True))
    one_cut = sum(1 for pair in pairs if len({value > (lengths[0].limit or 0) for value in pair}) > 1)
    if not one_cut:
        return ""
    return (
        f"In {one_cut:,} of {len(pairs):,} pairs ({_share(one_cut, len(pairs))}) only one of the two is cut, so that a "
        "part is compared with a whole, where people saw both whole. "
    )


def _limit_to_set(parameter: str, lengths: Sequence[Lengths]) -> str:
    """Say which limit keeps nearly all rows whole; a row is as long as the longer of its answers."""
    sizes = sorted(max(row) for row in zip(*(entry.values for entry in lengths), strict=True))
    most = highest(parameter)
    wanted = sizes[math.ceil(WHOLE_SHARE * len(sizes)) - 1]
    if lengths[0].limit is not None and wanted <= lengths[0].limit:
        return f"{parameter} {sizes[-1]:,} would keep every row whole." if sizes[-1] <= most else ""
    if wanted <= most:
        return f"{parameter} {wanted:,} would keep {WHOLE_SHARE:.0%} of the rows whole."
    whole = sum(size <= most for size in sizes)
    return (
        f"Even {most:,}, the highest that is possible, would keep only {_share(whole, len(sizes))} of the rows whole."
    )


def _position_bias(summary: DatasetSummary) -> Finding | None:
    if summary.first_chosen is None:
        return None
    share = summary.first_chosen / summary.rows
    interval = wilson_interval(summary.first_chosen, summary.rows)
    if interval.low <= 0.5 <= interval.high or abs(share - 0.5) <= POSITION_MARGIN:
        return None
    message = (
        f"choice is 0 in {share:.1%} [{interval.low:.1%}, {interval.high:.1%}] of the {summary.rows:,} rows of "
        f"{summary.parameter}, far from one half: people may have taken what they saw first, or the better answer was "
        "always put at one place. Show candidates in random order."
    )
    return Finding(code="position_bias", parameter=summary.parameter, message=message)


def _length_bias(summary: DatasetSummary) -> Finding | None:
    n = summary.rows - summary.equally_long
    if summary.longer_chosen is None or not n or summary.parameter == "human_preference_dataset":  # nothing learns it
        return None
    share = summary.longer_chosen / n
    interval = wilson_interval(summary.longer_chosen, n)
    if 1 - LENGTH_SHARE <= share <= LENGTH_SHARE or interval.low <= 0.5 <= interval.high:
        return None
    word = "longer" if share > 0.5 else "shorter"
    share, low, high = (share, *interval) if share > 0.5 else (1 - share, 1 - interval.high, 1 - interval.low)
    message = (
        f"The {word} answer is preferred in {share:.1%} [{low:.1%}, {high:.1%}] of {n:,} rows of {summary.parameter}: "
        f"length alone tells so many of the choices, and a model tuned on them will get {word}. Compare the accuracy on "
        "held-out preferences with this share, and look at the rows where the "
        f"{'shorter' if word == 'longer' else 'longer'} answer won."
    )
    return Finding(code="length_bias", parameter=summary.parameter, message=message)


def _scripts(summary: DatasetSummary, rows: Sequence[_Row]) -> Finding | None:
    written = {script: count for script, count in summary.scripts.items() if script != "none"}
    main = max(written, key=lambda script: written[script], default="none")
    others = {
        script: count for script, count in written.items() if script != main and count >= SCRIPT_SHARE * summary.sampled
    }
    if not others:
        return None
    shares = ", ".join(f"{script} {count / summary.sampled:.1%}" for script, count in others.items())
    message = (
        f"Besides {main}, rows{_of_sample(summary)} of {summary.parameter} are written in {shares}. If one language was "
        "meant, something else got in."
    )
    examples = [
        Example(row.location, shorten(row.prompt[-1]["content"], 200)) for row in rows if _script(row) in others
    ]
    return Finding(
        code="mixed_scripts", parameter=summary.parameter, message=message, examples=tuple(examples[:_EXAMPLES])
    )


def _few_rows(summary: DatasetSummary) -> Finding | None:
    if summary.parameter in ("dataset_uri", "supervised_dataset") and summary.rows < FEW_DEMONSTRATIONS:
        message = (
            f"{summary.parameter} has {summary.rows:,} demonstrations. {FEW_DEMONSTRATIONS} to 500 are usual, and more for "
            "a task that is not plain; with so few, look at the answers before the model is trusted."
        )
        return Finding(code="few_demonstrations", parameter=summary.parameter, message=message)
    if summary.parameter == "feedback_dataset" and summary.rows < FEW_PREFERENCES:
        message = (
            f"feedback_dataset has {summary.rows:,} rows. Thousands are usual, since each says less than a choice between "
            "two answers; with so few, look at the answers before the tuned model is trusted."
        )
        return Finding(code="few_feedback", parameter=summary.parameter, message=message)
    if summary.parameter != "preference_dataset" or summary.rows >= FEW_PREFERENCES:
        return None
    message = (
        f"preference_dataset has {summary.rows:,} rows. 5,000 to 10,000 are usual; with so few, look at the accuracy "
        "on held-out preferences before the tuned model is trusted."
    )
    return Finding(code="few_preferences", parameter=summary.parameter, message=message)


def _few_prompts(summary: DatasetSummary, training: Training | None) -> Finding | None:
    if (
        training is None
        or summary.parameter != "prompt_dataset"
        or not training.reinforcement_learning_train_steps
        or (left := training.prompts_learnt_from(summary.distinct_prompts)) >= training.batch_size
    ):
        return None
    message = (
        f"Of the {summary.distinct_prompts:,} distinct prompts of prompt_dataset {left:,} are left to learn from, once "
        f"those for evaluation and the watch are taken: fewer than batch_size {training.batch_size:,}, so that each step "
        "has some of them more than once. Lower batch_size, or add prompts."
    )
    return Finding(code="fewer_prompts_than_a_batch", parameter=summary.parameter, message=message)


def _epochs(summary: DatasetSummary, training: Training | None, learnable: int) -> Finding | None:
    if training is None or summary.epochs is None:
        return None
    if training.preference_epochs and summary.kind in ("preference", "feedback"):
        if summary.epochs <= MOST_PREFERENCE_EPOCHS:
            return None
        word = "preference" if summary.kind == "preference" else "answer"
        message = (
            f"epoch_count shows each {word} {summary.epochs:,.0f} times; past {MOST_PREFERENCE_EPOCHS} times a model "
            f"mostly learns them by heart. Set it to {MOST_PREFERENCE_EPOCHS} at most, or add rows."
        )
    elif summary.parameter == "preference_dataset" and summary.epochs > MOST_REWARD_MODEL_EPOCHS:
        message = (
            f"The reward model sees each of the {training.preferences_learnt_from(learnable):,} preferences that it "
            f"learns from up to {summary.epochs:,.0f} times; past {MOST_REWARD_MODEL_EPOCHS} times it mostly learns them by "
            f"heart. Set reward_model_max_epochs to {MOST_REWARD_MODEL_EPOCHS}, or add rows."
        )
    elif summary.parameter in _LEARNT_TOO_OFTEN and summary.epochs > _LEARNT_TOO_OFTEN[summary.parameter].most:
        most, parameter, harm = _LEARNT_TOO_OFTEN[summary.parameter]
        steps = most * summary.rows // training.batch_size
        advice = f"Set {parameter} to {steps:,} at most, or add rows." if steps else "Lower batch_size, or add rows."
        message = (
            f"{parameter} and batch_size show each of the {summary.rows:,} rows of {summary.parameter} "
            f"{summary.epochs:,.0f} times; past {most} times a model {harm}. {advice}"
        )
    else:
        return None
    return Finding(code="many_epochs", parameter=summary.parameter, message=message)


def _control_characters(dataset: ScannedDataset) -> Finding | None:
    rows = dataset.total("control_character_rows")
    if not rows:
        return None
    message = (
        f"{rows:,} rows of {dataset.parameter} have control characters in a text, such as the colours of a terminal. They "
        "are kept; remove them unless a model shall write them."
    )
    places = [f"{file.source.name}:{line}" for file in dataset.files for line in file.control_characters]
    examples = tuple(Example(place, "a control character") for place in places[:_EXAMPLES])
    return Finding(code="control_characters", parameter=dataset.parameter, message=message, examples=examples)


def _chat_markers(summary: DatasetSummary, rows: Sequence[_Row], openings: Sequence[str]) -> Finding | None:
    """Find marks of chat templates, but for the `openings` that this model's own template writes in plain characters."""
    texts = [(row, "\n".join([*(turn["content"] for turn in row.prompt), *_answers(row)])) for row in rows]
    found = [
        (row, marks[0])
        for row, text in texts
        if (marks := [mark for mark in _CHAT_MARKER.findall(text) if mark not in openings])
    ]
    if not found:
        return None
    message = (
        f"{len(found):,} of {summary.sampled:,} rows{_of_sample(summary)} of {summary.parameter} hold marks of a chat "
        "template. They are read as plain characters and begin no turn; if turns were meant, write the rows as messages."
    )
    examples = tuple(Example(row.location, mark) for row, mark in found[:_EXAMPLES])
    return Finding(code="chat_markers", parameter=summary.parameter, message=message, examples=examples)


def _flattened_turns(summary: DatasetSummary, rows: Sequence[_Row]) -> Finding | None:
    """Find dialogues that were written into a text prompt, as "Human: ... Assistant: ..."."""
    found = [
        row
        for row in rows
        if (marks := list(_SPEAKER.finditer(row.prompt[-1]["content"])))
        and len(marks) > 1
        and any(mark[1] for mark in marks)
        and any(mark[2] for mark in marks)
    ]
    if not found:
        return None
    message = (
        f"{len(found):,} of {summary.sampled:,} rows{_of_sample(summary)} of {summary.parameter} hold a whole dialogue in "
        'one turn, with marks such as "Human:" and "Assistant:" in its text. A chat model sees one long message of the '
        "user; write such rows as messages, one for each turn."
    )
    examples = tuple(Example(row.location, shorten(row.prompt[-1]["content"], 200)) for row in found[:_EXAMPLES])
    return Finding(code="flattened_turns", parameter=summary.parameter, message=message, examples=examples)


def _prompt_in_answers(summary: DatasetSummary, rows: Sequence[_Row]) -> Finding | None:
    """Find answers that begin with their prompt, as older versions of TRL wanted them."""
    found = [row for row in rows if _answers(row) and _begin_with(row.prompt[-1]["content"], *_answers(row))]
    if not found:
        return None
    which = "both answers begin" if summary.kind == "preference" else "the answer begins"
    message = (
        f"In {len(found):,} of {summary.sampled:,} rows{_of_sample(summary)} of {summary.parameter} {which} with the "
        "prompt, which stands before it already: the model would learn to repeat it. Leave it out of the answers."
    )
    examples = tuple(Example(row.location, shorten(_answers(row)[0], 200)) for row in found[:_EXAMPLES])
    return Finding(code="prompt_in_answers", parameter=summary.parameter, message=message, examples=examples)


def _begin_with(prompt: str, *answers: str) -> bool:
    """Say whether all begin with the prompt, or with what stands in it after the instruction and an empty line."""
    prompt = prompt.strip()
    starts = [0, *(gap.end() for gap in re.finditer(r"\n\n+", prompt))]
    texts = [prompt[start:] for start in starts if len(prompt) - start >= _CHARACTERS_REPEATED]
    return any(all(answer.lstrip().startswith(text) for answer in answers) for text in texts)


def _answers(row: _Row) -> list[str]:
    return [answer for answer in (row.chosen, row.rejected, row.answer) if answer is not None]


def _script(row: _Row) -> str:
    """Return the writing system of most letters of a row's last turn and answers, or `none`."""
    text = "\n".join(
        [row.prompt[-1]["content"][:_SCRIPT_LETTERS], *(answer[:_SCRIPT_LETTERS] for answer in _answers(row))]
    )
    others = _ASCII.sub("", text)
    if len(others) * 4 < len(text):
        return "Latin" if any(map(str.isalpha, text)) else "none"
    counts = Counter(_script_of(letter) for letter in text if letter.isalpha())
    return max(counts, key=lambda script: counts[script], default="none")


@cache
def _script_of(letter: str) -> str:
    word = unicodedata.name(letter, "UNKNOWN").split()[0]
    return _SCRIPT_NAMES.get(word, word.capitalize())


def _share(count: int, n: int) -> str:
    share = count / n
    return "less than 0.1%" if share < 0.001 else f"{share:.1%}" if share < 0.1 else f"{share:.0%}"


def _of_sample(summary: DatasetSummary) -> str:
    return " of a sample" if summary.sampled < summary.rows else ""


def empty_file_findings(problems: Problems) -> list[Finding]:
    """Return a finding for each warning about files."""
    return [
        Finding(code="empty_files", parameter=warning.split(":")[0], message=warning) for warning in problems.warnings
    ]
