"""The one place where prompts and answers become tokens: for reward training, RL, evaluation and serving alike.

A template that differs between them is the largest silent error in this field, so nothing else in this library calls a
chat template or tokenises a prompt. The rules:

- A model with a chat template gets exactly what its template says, its default system turn included, because that is
  what a server that holds the tuned model will send. A model without one gets plain text.
- An answer is always closed with the end-of-sequence token when it is scored, also one that was cut off: the reward
  model then judges the text that a reader would see, at the position where it has learnt to.
- Text of people and models never forges a turn: special tokens inside it are encoded as ordinary characters.
- A prompt over `prompt_sequence_length` loses its oldest turns first, then the beginning of its last turn. An answer
  over `target_sequence_length` loses its end.
"""

import sys
from collections.abc import Sequence
from typing import Any, TypedDict

from rlhf_tuning.errors import DataError


class Turn(TypedDict):
    """One turn of a conversation; `role` is `system`, `user` or `assistant`."""

    role: str
    content: str


Conversation = list[Turn]

#: Stands for one turn's content while a template is rendered; private-use characters that no template touches.
_PLACEHOLDER = "\ue0a1{}\ue0a2"


class RefusedConversationError(DataError):
    """The model's chat template refuses a conversation: some take no system turn, or only turns that alternate.

    Args:
        reason: In the template's words.
        conversation: What it refused.
    """

    def __init__(self, reason: str, conversation: Sequence[Turn]) -> None:
        roles = ", ".join(turn["role"] for turn in conversation)
        beginning = conversation[-1]["content"][:80] if conversation else ""
        super().__init__(
            f"The model's chat template refuses a conversation of the turns {roles} that ends with {beginning!r}: {reason}. "
            "Write such rows without the turns that it does not take, or choose another base model."
        )
        self.reason = reason


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
        self._markers = [token for token in {*tokenizer.all_special_tokens, *tokenizer.added_tokens_encoder} if token]

    def without_limits(self) -> "TextFormat":
        """Return a format that cuts nothing, for telling how long texts are."""
        return TextFormat(self.tokenizer, prompt_sequence_length=sys.maxsize, target_sequence_length=sys.maxsize)

    def prompt_text(self, conversation: Sequence[Turn]) -> str:
        """Return the text of a prompt up to where the answer begins.

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
        except TemplateError as error:
            raise RefusedConversationError(str(error), conversation) from None

    def prompt_ids(self, conversation: Sequence[Turn]) -> list[int]:
        """Return the tokens of a prompt, at most `prompt_sequence_length` of them."""
        turns = [Turn(role=turn["role"], content=turn["content"]) for turn in conversation]
        ids = self._encode_prompt(turns)
        while len(ids) > self.prompt_sequence_length and (shorter := self._shortened(turns, len(ids))) is not None:
            turns = shorter
            ids = self._encode_prompt(turns)
        # Only when the template alone is longer than the limit.
        return ids[-self.prompt_sequence_length :]

    def answer_ids(self, answer: str) -> list[int]:
        """Return the tokens of an answer, at most `target_sequence_length` and the end-of-sequence token."""
        ids = self._encode_content(answer)[: self.target_sequence_length]
        return [*ids, self.tokenizer.eos_token_id]

    def scored_ids(self, conversation: Sequence[Turn], answer: str) -> list[int]:
        """Return the tokens that a reward model reads: prompt, answer, end of sequence."""
        return self.prompt_ids(conversation) + self.answer_ids(answer)

    def answer_text(self, ids: Sequence[int]) -> str:
        """Return the text of generated tokens, up to the end of the sequence."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def _encode_prompt(self, turns: Sequence[Turn]) -> list[int]:
        if not any(marker in turn["content"] for marker in self._markers for turn in turns):
            return self._encode_template(self.prompt_text(turns))
        # Rare: render the template around placeholders, and encode each content as characters.
        hidden = [Turn(role=turn["role"], content=_PLACEHOLDER.format(index)) for index, turn in enumerate(turns)]
        rest = self.prompt_text(hidden)
        ids: list[int] = []
        for index, turn in enumerate(turns):
            before, found, rest = rest.partition(_PLACEHOLDER.format(index))
            if not found:
                # The template leaves this turn out (some drop system turns); keep looking for the later ones.
                rest = before
                continue
            ids += self._encode_template(before, first=not ids) + self._encode_content(turn["content"].strip())
        return ids + self._encode_template(rest, first=not ids)

    def _encode_template(self, text: str, *, first: bool = True) -> list[int]:
        """Encode text whose special tokens mean what they say. A plain text gets the tokenizer's own beginning."""
        add_beginning = first and not self.tokenizer.chat_template
        ids: list[int] = self.tokenizer(text, add_special_tokens=add_beginning)["input_ids"]
        if add_beginning and ids and ids[-1] == self.tokenizer.eos_token_id:
            ids = ids[:-1]
        return ids

    def _encode_content(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids

    def _shortened(self, turns: Sequence[Turn], length: int) -> list[Turn] | None:
        """Return the turns with something left out, or None when nothing more can be."""
        dialogue = [index for index, turn in enumerate(turns) if turn["role"] != "system"]
        if len(dialogue) > 1:
            # Two turns at a time, so that the dialogue still begins with the user.
            dropped = set(dialogue[:2] if len(dialogue) > 2 else dialogue[:1])
            return [turn for index, turn in enumerate(turns) if index not in dropped]
        last = turns[-1]
        content = self._encode_content(last["content"])
        excess = length - self.prompt_sequence_length
        kept = content[excess:] if excess < len(content) else []
        text = self.tokenizer.decode(kept)
        if not content or text == last["content"]:
            return None
        return [*turns[:-1], Turn(role=last["role"], content=text)]


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
