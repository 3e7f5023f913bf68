"""What of valid rows a model reads otherwise than they are written: what its chat template and the limits make of them.

A row of which the template loses or changes a turn never comes so far: `text_format` refuses it.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rlhf_tuning.data.problems import shorten
from rlhf_tuning.data.summary import Example, Finding, SampledRow
from rlhf_tuning.models.text_format import RefusedConversationError, TextFormat, Turn

_EXAMPLES = 5


class ReadRow(NamedTuple):
    """A sampled row that the template takes. `sizes` are its tokens where a tokenizer is at hand, else its characters."""

    row: SampledRow
    sizes: tuple[int, ...]


class Sample(NamedTuple):
    """Sampled rows of a dataset; `of_sample` says that they are not all, and is empty where they are."""

    parameter: str
    rows: Sequence[ReadRow]
    of_sample: str

    def said(self, found: Sequence[ReadRow]) -> str:
        """Say of how many rows something is found."""
        return f"{len(found):,} of {len(self.rows):,} rows{self.of_sample} of {self.parameter}"

    def finding(self, code: str, found: Sequence[ReadRow], message: str, show: Callable[[SampledRow], str]) -> Finding:
        """Return a finding with its first rows as examples."""
        examples = tuple(Example(row.location, shorten(show(row), 200)) for row, _ in found[:_EXAMPLES])
        return Finding(code=code, parameter=self.parameter, message=message, examples=examples)


def findings(sample: Sample, text_format: TextFormat | None) -> list[Finding]:
    """Return what will be read otherwise than it is written.

    Args:
        sample: Of the dataset.
        text_format: Of the model; None where it is not at hand.
    """
    found = [_answers_stripped(sample)]
    if text_format is not None:
        found += [_system_cut(sample, text_format)]
    if text_format is not None and text_format.tokenizer.chat_template:
        found += [_turns_stripped(sample, text_format), _turns_joined(sample, text_format)]
        found += [_turns_written(sample, text_format)]
    return [finding for finding in found if finding is not None]


def openings(text_format: TextFormat) -> list[str]:
    """Return what the model's chat template begins turns with in plain characters, such as Llama 2's `[/INST]`."""
    found: dict[str, None] = {}
    for roles in (("system", "user", "assistant", "user"), ("user", "assistant", "user"), ("user",)):
        for written in _template_pieces(text_format, roles)[::2]:
            line = (written.strip().splitlines() or [""])[-1].strip()
            if re.search(r"[^\w\s]", line) and not text_format.marks.in_text(line):
                found[line] = None
    return list(found)


def _answers_stripped(sample: Sample) -> Finding | None:
    found = [read for read in sample.rows if any(answer != answer.strip() for answer in _answers(read.row))]
    if not found:
        return None
    message = (
        f"An answer begins or ends with white space in {sample.said(found)}. That is no part of an answer: training, "
        "scoring, evaluation and serving leave it out."
    )
    return sample.finding("answers_stripped", found, message, lambda row: repr(_answers(row)))


def _system_cut(sample: Sample, text_format: TextFormat) -> Finding | None:
    limit = text_format.prompt_sequence_length
    over = [read for read in sample.rows if read.sizes[0] > limit]
    for read in over[:1]:
        # Where the template alone fills the limit, this says so.
        text_format.prompt_ids(_turns(read.row))
    found = [read for read in over if read.row.prompt[0]["role"] == "system" and _cuts_system(text_format, read.row)]
    if not found:
        return None
    message = (
        f"The system turn (context or instruction) takes more than half of prompt_sequence_length {limit:,} in "
        f"{sample.said(found)} and loses its end there: a model would never read it. Shorten it, or raise "
        f"prompt_sequence_length; {max(read.sizes[0] for read in found):,} would keep every one whole."
    )
    return sample.finding("system_cut", found, message, lambda row: row.prompt[0]["content"])


def _cuts_system(text_format: TextFormat, row: SampledRow) -> bool:
    return text_format.kept_turns(_turns(row))[0]["content"] != row.prompt[0]["content"].strip()


def _turns_stripped(sample: Sample, text_format: TextFormat) -> Finding | None:
    found = [read for read in sample.rows if _strips(text_format, read.row)]
    if not found:
        return None
    message = (
        f"In {sample.said(found)} a turn begins or ends with white space that {text_format.template_name} takes out, in "
        "training as where the model is served."
    )
    return sample.finding("turns_stripped", found, message, lambda row: repr([turn["content"] for turn in row.prompt]))


def _strips(text_format: TextFormat, row: SampledRow) -> bool:
    turns = [turn["content"] for turn in row.prompt if turn["content"] != turn["content"].strip()]
    text = text_format.prompt_text(_turns(row)) if turns else ""
    return any(turn not in text for turn in turns)


def _turns_joined(sample: Sample, text_format: TextFormat) -> Finding | None:
    """Find turns that a template writes into one, such as the system turn into the user's."""
    joins: dict[tuple[str, ...], str] = {}
    for read in sample.rows:
        roles = tuple(turn["role"] for turn in read.row.prompt)
        if roles not in joins:
            joins[roles] = _joined(text_format, roles)
    of_rows = [(read, joins[tuple(turn["role"] for turn in read.row.prompt)]) for read in sample.rows]
    found = [read for read, joined in of_rows if joined]
    if not found:
        return None
    kinds = " and ".join(dict.fromkeys(joined for _, joined in of_rows if joined))
    message = (
        f"In {sample.said(found)} {text_format.template_name} writes {kinds} into one. Nothing is lost, and a server that "
        "holds the model does the same."
    )
    return sample.finding("turns_joined", found, message, lambda row: row.prompt[0]["content"])


def _joined(text_format: TextFormat, roles: tuple[str, ...]) -> str:
    """Return which turns of these roles a template writes into one; nothing where each has its own beginning."""
    usual = _template_pieces(text_format, ("user", "assistant", "user"))
    pieces = _template_pieces(text_format, roles)
    order = [int(text.split()[1]) for text in pieces[1::2]]
    for before, index, written in zip(order, order[1:], pieces[2::2], strict=False):
        # The end of what stands before the later of the user's two turns is how such a turn begins.
        if usual and roles[index] == "user" and written.rstrip()[-4:] != usual[4].rstrip()[-4:]:
            return "the system turn and a turn of the user" if roles[before] == "system" else "turns of the user"
    return ""


def _turns_written(sample: Sample, text_format: TextFormat) -> Finding | None:
    """Find texts that begin a turn where the template does so in plain characters, which no encoding tells apart."""
    plain = openings(text_format)
    if not plain:
        return None
    pattern = re.compile("|".join(rf"(?<!\w){re.escape(opening)}" for opening in plain))
    marks = [(read, match[0]) for read in sample.rows if (match := pattern.search(_text(read.row)))]
    if not marks:
        return None
    found = [read for read, _ in marks]
    message = (
        f"In {sample.said(found)} a text holds what {text_format.template_name} begins turns with ({marks[0][1]}), and that "
        "in plain characters: a model cannot tell them from a turn. Take it out of such texts, unless that is meant."
    )
    return sample.finding("turns_written", found, message, lambda row: str(pattern.findall(_text(row))))


def _template_pieces(text_format: TextFormat, roles: tuple[str, ...]) -> list[str]:
    """Return the pieces of a conversation of some roles; nothing where the template does not take it."""
    try:
        return text_format.prompt_pieces([Turn(role=role, content=f"Text {place}") for place, role in enumerate(roles)])
    except RefusedConversationError:
        return []


def _turns(row: SampledRow) -> list[Turn]:
    return [Turn(role=turn["role"], content=turn["content"]) for turn in row.prompt]


def _answers(row: SampledRow) -> list[str]:
    return [answer for answer in (row.chosen, row.rejected, row.answer) if answer is not None]


def _text(row: SampledRow) -> str:
    return "\n".join([*(turn["content"] for turn in row.prompt), *_answers(row)])
