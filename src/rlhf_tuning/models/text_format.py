"""The one place where prompts and answers become tokens: for reward training, RL, evaluation and serving alike.

A template that differs between them is the largest silent error in this field, so nothing else in this library calls a
chat template or tokenises a prompt. The rules:

- A model with a chat template gets exactly what its template says, its default system turn included, because that is
  what a server that holds the tuned model will send. A model without one gets plain text.
- Every turn of a prompt stands in what the model reads: once, in its order, unchanged but for white space around it. A
  conversation of which a template leaves out, repeats, moves or changes a turn is refused.
- White space around a turn is left to the template, as a server leaves it. White space around an answer is no part of it.
- An answer is always closed with the end-of-sequence token when it is scored, also one that was cut off: the reward
  model then judges the text that a reader would see, at the position where it has learnt to.
- Text of people and models never forges a turn: tokens that are marks (see `marks`) come from the template alone, and what
  looks like them inside a text is encoded as ordinary characters.
- A prompt over `prompt_sequence_length` loses its oldest turns first, then the beginning of its last turn and the end of
  its system turn: what is longer than half of the room. Neither is ever lost whole. An answer over
  `target_sequence_length` loses its end.
"""

import copy
import json
import re
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

from rlhf_tuning.errors import DataError, ParameterError
from rlhf_tuning.models.marks import Marks


class Turn(TypedDict):
    """One turn of a conversation; `role` is `system`, `user` or `assistant`."""

    role: str
    content: str


Conversation = list[Turn]

#: Stands for one turn's content while a template is rendered; private-use characters that no template touches.
_PLACEHOLDER = "\ue0a1{}\ue0a2"
_PLACEHOLDERS = re.compile(r"\ue0a1(\d+)\ue0a2")


class RefusedConversationError(DataError):
    """A conversation cannot be said by the model's chat template: it refuses it, or loses or changes a turn.

    Args:
        template: What to call the template, as `TextFormat.template_name` does.
        found: What it does, such as `leaves out the system turn`.
        advice: What to do.
        conversation: Of which it does so.
    """

    def __init__(self, template: str, found: str, advice: str, conversation: Sequence[Turn]) -> None:
        roles = ", ".join(turn["role"] for turn in conversation)
        beginning = conversation[-1]["content"][:80] if conversation else ""
        super().__init__(
            f"A conversation of the turns {roles} that ends with {beginning!r} cannot be used: {template} {found}. {advice}"
        )
        self.found = f"a conversation of which {template} {found}"
        self.advice = advice


class TextFormat:
    """Encodes prompts and answers for one tokenizer and one pair of sequence lengths.

    Args:
        tokenizer: As `tokenizer.load_tokenizer` returns it.
        prompt_sequence_length: Most tokens of a prompt.
        target_sequence_length: Most tokens of an answer, the end-of-sequence token not counted.
    """

    def __init__(self, tokenizer: Any, *, prompt_sequence_length: int, target_sequence_length: int) -> None:
        self.tokenizer = tokenizer
        self.prompt_sequence_length = prompt_sequence_length
        self.target_sequence_length = target_sequence_length
        self.marks = Marks(tokenizer)

    def without_limits(self) -> "TextFormat":
        """Return a format that cuts nothing, for telling how long texts are."""
        whole = copy.copy(self)
        whole.prompt_sequence_length = whole.target_sequence_length = sys.maxsize
        return whole

    @property
    def template_name(self) -> str:
        """Return what to call the chat template in a sentence."""
        name = Path(self.tokenizer.name_or_path)
        return (
            f"the chat template of {name.name if name.is_dir() else name}" if name.name else "the model's chat template"
        )

    def prompt_text(self, conversation: Sequence[Turn]) -> str:
        """Return the text of a prompt up to where the answer begins, as a server sends it to the model.

        Raises:
            RefusedConversationError: If the model's chat template does not take such a conversation.
        """
        if not self.tokenizer.chat_template:
            return plain_text(conversation)
        from jinja2 import TemplateError

        try:
            return str(
                self.tokenizer.apply_chat_template(list(conversation), add_generation_prompt=True, tokenize=False)
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise RefusedConversationError(self.template_name, f"says {str(error)!r}", _REFUSED, conversation) from None

    def prompt_pieces(self, conversation: Sequence[Turn]) -> list[str]:
        """Return the text of a prompt in pieces: the template's first, then one turn's content, the template's, and so on.

        White space around a content belongs to the template's pieces. Blank turns have no piece.

        Raises:
            RefusedConversationError: If not every turn is there as it is in the conversation.
        """
        text = self.prompt_text(conversation)
        # The text with placeholders tells the template's part from the turns'. It must not differ in anything else.
        hidden = [
            Turn(role=turn["role"], content=_hidden(turn["content"], index)) for index, turn in enumerate(conversation)
        ]
        pieces = _PLACEHOLDERS.split(self.prompt_text(hidden))
        order = [int(index) for index in pieces[1::2]]
        pieces[1::2] = [conversation[index]["content"].strip() for index in order]
        if misplaced := _misplaced(conversation, order):
            raise RefusedConversationError(self.template_name, *misplaced, conversation)
        if "".join(pieces) != text:
            turn = _called(conversation, self._changed(conversation, hidden))
            raise RefusedConversationError(self.template_name, f"changes the text of {turn}", _CHANGED, conversation)
        return pieces

    def _changed(self, conversation: Sequence[Turn], hidden: Sequence[Turn]) -> int:
        """Return the first turn whose content makes the template say something else."""
        before = self.prompt_text(hidden)
        for index, turn in enumerate(conversation):
            shown = [*hidden[:index], turn, *hidden[index + 1 :]]
            if self.prompt_text(shown) != before.replace(_PLACEHOLDER.format(index), turn["content"].strip()):
                return index
        return len(conversation) - 1

    def prompt_ids(self, conversation: Sequence[Turn]) -> list[int]:
        """Return the tokens of a prompt, at most `prompt_sequence_length` of them.

        Raises:
            RefusedConversationError: If not every turn would be read as it is.
            ParameterError: If `prompt_sequence_length` leaves no room for a question.
        """
        return self._fitted(conversation)[1]

    def kept_turns(self, conversation: Sequence[Turn]) -> Conversation:
        """Return what is left of a conversation in `prompt_sequence_length` tokens. Raises what `prompt_ids` does."""
        return self._fitted(conversation)[0]

    def answer_ids(self, answer: str) -> list[int]:
        """Return the tokens of an answer, at most `target_sequence_length` and the end-of-sequence token."""
        ids = self._encode_content(answer.strip())[: self.target_sequence_length]
        return [*ids, self.tokenizer.eos_token_id]

    def learnt_ids(self, answer: str) -> list[int]:
        """Return the tokens of an answer that a model is to give; one that is cut off ends nowhere, not amid a sentence."""
        answer = answer.strip()  # as `answer_text` is
        cut = len(self._encode_content(answer)) > self.target_sequence_length
        return self.answer_ids(answer)[: self.target_sequence_length] if cut else self.answer_ids(answer)

    def differ(self, one: str, other: str) -> bool:
        """Say whether two answers still differ once they are cut."""
        return self.answer_ids(one) != self.answer_ids(other)

    def scored_ids(self, conversation: Sequence[Turn], answer: str) -> list[int]:
        """Return the tokens that a reward model reads: prompt, answer, end of sequence."""
        return self.prompt_ids(conversation) + self.answer_ids(answer)

    def answer_text(self, ids: Sequence[int]) -> str:
        """Return the text of generated tokens, up to the end of the sequence."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def _fitted(self, conversation: Sequence[Turn]) -> tuple[Conversation, list[int]]:
        turns = [Turn(role=turn["role"], content=turn["content"]) for turn in conversation]
        ids = self._encode_prompt(turns)
        while len(ids) > self.prompt_sequence_length:
            turns = self._shortened(turns, len(ids))
            ids = self._encode_prompt(turns)
        return turns, ids

    def _encode_prompt(self, turns: Sequence[Turn]) -> list[int]:
        ids = self.marks.encode(self.prompt_pieces(turns))
        return ids if self.tokenizer.chat_template else [*self._beginning, *ids]

    def _encode_content(self, text: str) -> list[int]:
        return self.marks.encode(["", text])

    @cached_property
    def _beginning(self) -> list[int]:
        """Return the tokens that the tokenizer itself puts before a plain text."""
        alone, whole = (self.tokenizer("a", add_special_tokens=added)["input_ids"] for added in (False, True))
        starts = (start for start in range(len(whole)) if whole[start : start + len(alone)] == alone)
        return list(whole[: next(starts, 0)])

    def _shortened(self, turns: Sequence[Turn], length: int) -> Conversation:
        """Return the turns of a prompt of that many tokens with something left out."""
        dialogue = [index for index, turn in enumerate(turns) if turn["role"] != "system"]
        if len(dialogue) > 1:
            # The oldest turn and what answers it, so that the dialogue still begins with the user.
            kept = next((index for index in dialogue[1:] if turns[index]["role"] == "user"), dialogue[-1])
            return [turn for index, turn in enumerate(turns) if index >= kept or index not in dialogue]
        bare = [Turn(role=turn["role"], content=turn["content"].strip()) for turn in turns]
        if bare != turns:
            return bare
        ids = [self._encode_content(turn["content"]) for turn in turns]
        sizes = list(map(len, ids))
        room = self.prompt_sequence_length - (length - sum(sizes))
        last, before = len(turns) - 1, sum(sizes[:-1])
        most = {last: max(room - before, (room + 1) // 2)}
        if before:
            longest = max(range(last), key=lambda index: sizes[index])
            most[longest] = sizes[longest] + room - before - min(sizes[last], most[last])
        shorter = list(turns)
        for index, tokens in most.items():
            if sizes[index] > tokens:
                part = ids[index][-tokens:] if index == last else ids[index][:tokens]
                content = self._shorter(turns[index]["content"], part, end=index == last)
                shorter[index] = Turn(role=turns[index]["role"], content=content)
        if room < len(turns) or shorter == turns:
            raise ParameterError(
                f"prompt_sequence_length is {self.prompt_sequence_length:,}, of which {self.template_name} takes "
                f"{length - sum(sizes):,}: that leaves no room for a question. Raise it."
            )
        return shorter

    def _shorter(self, text: str, part: Sequence[int], *, end: bool) -> str:
        """Return as much of a text as a part of its tokens says, its beginning or its end: less than all, never nothing.

        Cut by characters: a token may hold half of one, which alone would become more tokens than it was.
        """
        size = max(1, min(len(self.tokenizer.decode(part)), len(text) - 1))
        return text[-size:] if end else text[:size]


_REFUSED = (
    "Some templates take no system turn (from context or instruction), or only turns of user and assistant in alternation. "
    "Write such rows without the turns that it does not take, or choose another base model."
)
_CHANGED = (
    "A server that holds the model would do the same. Write the text as the model shall read it (some templates take out "
    "what a model thought, or a word that switches that), or choose another base model."
)


def _hidden(content: str, index: int) -> str:
    """Return a content with a placeholder for its text, and the white space around that, which a template may strip."""
    text = content.strip()
    return content.replace(text, _PLACEHOLDER.format(index), 1) if text else content


def _called(conversation: Sequence[Turn], index: int) -> str:
    role = conversation[index]["role"]
    return "the system turn" if role == "system" else f"turn {index + 1}, which is the {role}'s"


def _misplaced(conversation: Sequence[Turn], order: Sequence[int]) -> tuple[str, str] | None:
    """Return what is wrong with the places at which a template puts the turns, and what to do; None where nothing is.

    Args:
        conversation: All turns; those that are blank need no place.
        order: The turns that are there, by their numbers, in the order of the text.
    """
    missing = [index for index, turn in enumerate(conversation) if turn["content"].strip() and index not in order]
    other = "Write such rows without it, or choose another base model."
    if missing and conversation[missing[0]]["role"] == "system":
        return (
            "leaves out the system turn (from context, a system message or instruction), so the model would never read it",
            "A server that holds the model would leave it out too. Write its text into the first message of the user "
            "instead, or choose a base model whose template has a system turn.",
        )
    if missing:
        parts = "Some templates take texts in parts alone, or the last question alone. "
        found = f"leaves out {_called(conversation, missing[0])}"
        return found, other if conversation[missing[0]]["role"] == "assistant" else f"{parts}Choose another base model."
    repeated = [index for index in order if order.count(index) > 1]
    if repeated:
        return f"repeats {_called(conversation, repeated[0])}", other
    dialogue = [index for index in order if conversation[index]["role"] != "system"]
    if dialogue != sorted(dialogue):
        return "puts the turns in another order", "Choose another base model."
    return None


def plain_text(conversation: Sequence[Turn]) -> str:
    """Return a prompt for a base model without a chat template.

    One user turn stands alone, with an empty line before the answer. A dialogue is written as `User:` and `Assistant:`
    paragraphs.
    """
    system = [turn["content"] for turn in conversation if turn["role"] == "system"]
    dialogue = [turn for turn in conversation if turn["role"] != "system"]
    if len(dialogue) == 1:
        return "\n\n".join([*system, dialogue[0]["content"]]) + "\n\n"
    names = {"user": "User", "assistant": "Assistant"}
    paragraphs = [f"{names[turn['role']]}: {turn['content']}" for turn in dialogue]
    return "\n\n".join([*system, *paragraphs, "Assistant:"])


def conversation_key(conversation: Sequence[Mapping[str, object]]) -> str:
    """Return what tells a conversation apart from others."""
    return json.dumps(list(map(dict, conversation)), sort_keys=True)


def instructed(prompt: str, parameters: object) -> Conversation:
    """Return a prompt with the instruction that a model was tuned with, where its training rows had it.

    Args:
        prompt: What to ask.
        parameters: Of the model's manifest: `instruction`, and `instruction_role`, which is `system` for chat rows and
            `user` for text rows.
    """
    settings = parameters if isinstance(parameters, dict) else {}
    instruction = settings.get("instruction", "")
    if not instruction:
        return [Turn(role="user", content=prompt)]
    if settings.get("instruction_role") == "system":
        return [Turn(role="system", content=instruction), Turn(role="user", content=prompt)]
    return [Turn(role="user", content=f"{instruction}\n\n{prompt}")]
