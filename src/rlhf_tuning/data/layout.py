"""How rows of another make become ours: what a layout is, and what layouts are written with.

A layout makes rows of one kind, in a format that is read as it stands. What it cannot use it says: a row that prefers no
answer, say, is left out and counted under its reason, and one that it was not made for is a bad row.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_tuning.data.rows import Conversation, Kind

Record = Mapping[str, Any]
#: A row of a format that is read as it stands.
Made = dict[str, Any]

TIES = "they prefer no answer"
OTHER_CONVERSATIONS = "their answers end different conversations"
CONTRADICTED = "their scores prefer the other answer"
TOO_FEW = "they have fewer than two answers to compare"

#: What a layout raises for a row that it was not made for.
UNFIT = (KeyError, TypeError, ValueError, IndexError, AttributeError)

_TRANSCRIPT = re.compile(r"(?:^|\n\n)(Human|Assistant):")
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}


class LeftOutError(Exception):
    """A row is of no use, though nothing is wrong with it; the message is the reason, as "they prefer no answer"."""


class UnclearError(Exception):
    """What a row means cannot be told, and why."""


@dataclass(frozen=True)
class Layout:
    """A way to make rows of ours of those of another make.

    Args:
        kind: What they become.
        taken: What is taken for what, in words.
        rows: Returns the rows that one is made into.
        spares_others: Whether rows that are good as they stand may stand between them, and stay as they are.
        together: The field whose value the rows have in common that are read as one: `rows` gets an object whose field
            `gathered` has them all.
    """

    kind: Kind
    taken: str
    rows: Callable[[Record], Iterable[Made]]
    spares_others: bool = False
    together: str = ""


def pair(prompt: str | Conversation, chosen: str, rejected: str, margin: float | None = None) -> Made:
    """Return a preference whose answers have no order."""
    if chosen.strip() == rejected.strip():
        raise LeftOutError("both of their answers are the same text")
    answers = {"chosen": chosen, "rejected": rejected}
    messages = {field: [{"role": "assistant", "content": text}] for field, text in answers.items()}
    row: Made = {"prompt": prompt, **(answers if isinstance(prompt, str) else messages)}
    return row if margin is None else {**row, "margin": margin}


def choice(prompt: str | Conversation, candidates: Sequence[str], preferred: int, margin: float | None = None) -> Made:
    """Return a preference whose two answers stand in the order in which people saw them."""
    first, second = candidates
    if first.strip() == second.strip():
        raise LeftOutError("both of their answers are the same text")
    row: Made = {"candidate_0": first, "candidate_1": second, "choice": preferred}
    if margin is not None:
        row["margin"] = margin
    if isinstance(prompt, str):
        return {"input_text": prompt, **row}
    system = [turn["content"] for turn in prompt[:1] if turn["role"] == "system"]
    messages = [{"author": turn["role"], "content": turn["content"]} for turn in prompt[len(system) :]]
    return {"messages": messages, **({"context": system[0]} if system else {}), **row}


def ranked(
    prompt: str | Conversation, answers: Iterable[tuple[str, float | None]], span: float | None = None
) -> Iterator[Made]:
    """Yield the preferences that scored answers to one prompt stand for.

    The answer of the highest score is preferred to each that has a lower one, in a row of its own; of several answers that
    share the highest score each is preferred in its turn. So every answer but the best stands in one row, however many there
    are, and no answer is compared with one of its own score.

    Args:
        prompt: The prompt.
        answers: Texts and scores; those without a score are passed over.
        span: How far apart scores can be: the margin of a row is the difference of its scores, as a share of this.
    """
    scored = [(text, score) for text, score in answers if score is not None and not math.isnan(score)]
    if len(scored) < 2:
        raise LeftOutError(TOO_FEW)
    highest = max(score for _, score in scored)
    best = [text for text, score in scored if score == highest]
    others = [(text, score) for text, score in scored if score < highest]
    if not others:
        raise LeftOutError(TIES)
    for index, (text, score) in enumerate(others):
        chosen = best[index % len(best)]
        # Two models may have given the same answer, and only one of them been scored lower.
        if text.strip() != chosen.strip():
            yield pair(prompt, chosen, text, None if span is None else margin(highest, score, span))


def margin(better: float, worse: float, span: float) -> float | None:
    """Return by how much an answer is better: the difference of two scores as a share of how far apart they can be."""
    if not 0 <= better - worse <= span:
        raise ValueError(f"scores of {better} and {worse} are not on a scale of {span}")
    return round((better - worse) / span, 4)


def check_scores(better: float | None, worse: float | None) -> None:
    """Leave out a row whose scores say otherwise than the names of its answers; scores that are missing say nothing."""
    if better is None or worse is None:
        return
    if better < worse:
        raise LeftOutError(CONTRADICTED)
    if better == worse:
        raise LeftOutError(TIES)


def transcript(text: str) -> Conversation:
    """Return the turns of a dialogue that is one text, each behind a line `Human:` or `Assistant:`."""
    before, *parts = _TRANSCRIPT.split(text)
    if before.strip() or not parts:
        raise ValueError("no dialogue of Human: and Assistant:")
    return [
        {"role": _SPEAKERS[who], "content": said.strip()} for who, said in zip(parts[::2], parts[1::2], strict=True)
    ]


def common_prompt(chosen: Conversation, rejected: Conversation) -> tuple[Conversation, str, str]:
    """Return the prompt that two conversations have in common, and their answers.

    Raises:
        LeftOutError: If they differ before their last messages.
    """
    *prompt, last = plain_turns(chosen)
    *other, other_last = plain_turns(rejected)
    if prompt != other:
        raise LeftOutError(OTHER_CONVERSATIONS)
    if {last["role"], other_last["role"]} != {"assistant"}:
        raise ValueError("a conversation whose last message is no answer")
    return prompt, last["content"], other_last["content"]


def plain_turns(messages: Sequence[Record]) -> Conversation:
    """Return messages with `role` and `content` alone."""
    return [{"role": turn["role"], "content": turn["content"]} for turn in messages]
