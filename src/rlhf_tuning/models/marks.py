"""Which tokens of a tokenizer are marks, and texts encoded so that only the marks that a template wrote become such tokens.

A mark is a token that says more than its characters: it begins or ends a turn, a sequence, a call of a tool. Tokenizers
find marks in a text wherever their characters stand, also where a person typed them, and can be told to leave alone only
those that are called special. So a text that holds a typed mark is encoded by a copy of the tokenizer in which every mark
has another spelling, and that is given the template's own marks in that spelling. All else is as the tokenizer has it, so
that the tokens on either side of a mark are the same as in any other text.
"""

import json
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

#: Added tokens that are text like any other: white space and words; single bytes whatever they are called.
_TEXT = re.compile(r"[\s\u2581\w]+")
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")

#: How marks look that a template need not hold in one piece: `<|user|>`, `[INST]`, `<think>`.
_FRAMED = re.compile(r"[<\[{|>＜【].+[>\]}|<＞】]", re.DOTALL)

#: The elements of HTML, as Gemma has them, look the same.
_HTML = re.compile(
    r"</?(?:table|caption|t(?:head|body|foot|[rhd])|h[1-6]|blockquote|strong|em|[biusap]|su[bp]|code|pre|br|hr|[uod]l|li)>"
)

#: Characters of which another spelling is made: for private use, so hardly ever in a text.
_PRIVATE = range(0xE0A1, 0x110000)

_MOST_PIECES = 1_000


class Marks:
    """The marks of a tokenizer.

    Args:
        tokenizer: Of `tokenizer.load_tokenizer`.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids = {
            token.content: index
            for index, token in tokenizer.added_tokens_decoder.items()
            if _is_mark(token, tokenizer)
        }
        longest_first = sorted(self._ids, key=len, reverse=True)
        self._found: dict[str, list[int]] = {}
        self._respelt: dict[str, Any] = {}
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def in_text(self, text: str) -> bool:
        """Say whether a text holds the characters of a mark."""
        return self._pattern.search(text) is not None

    def encode(self, pieces: Sequence[str]) -> list[int]:
        """Return the tokens of a text; what encodes a whole text without typed marks is the tokenizer itself.

        Args:
            pieces: The text in pieces, of which the first, the third and so on are the template's, and the others typed.
        """
        wanted = [index for piece in pieces[::2] for index in self._marks_in(piece)]
        ids: list[int] = self._tokenizer("".join(pieces), add_special_tokens=False)["input_ids"]
        if [index for index in ids if index in self._known_ids] == wanted:
            return ids
        if not self._tokenizer.is_fast:
            return self._encode_between_marks(pieces)
        character = next(
            character for character in map(chr, _PRIVATE) if not any(character in piece for piece in pieces)
        )
        if character not in self._respelt:
            self._respelt[character] = self._with_other_spelling(character)
        spelt = [
            piece if place % 2 else self._pattern.sub(lambda mark: self._spelling(mark[0], character), piece)
            for place, piece in enumerate(pieces)
        ]
        encoded: list[int] = self._respelt[character].encode("".join(spelt), add_special_tokens=False).ids
        return encoded

    def _marks_in(self, piece: str) -> list[int]:
        """Return the marks of a template's piece. There are few such pieces, and some tokenizers have thousands of marks."""
        if piece not in self._found:
            if len(self._found) >= _MOST_PIECES:
                self._found.clear()
            self._found[piece] = [self._ids[mark] for mark in self._pattern.findall(piece)]
        return self._found[piece]

    def _spelling(self, mark: str, character: str) -> str:
        return f"{character}{self._ids[mark]}{character}"

    def _encode_between_marks(self, pieces: Sequence[str]) -> list[int]:
        """Encode what stands between the template's marks as a tokenizer written in Python does: each by itself."""
        ids: list[int] = []
        text = ""
        for place, piece in enumerate(pieces):
            start = 0
            for mark in () if place % 2 else self._pattern.finditer(piece):
                ids += [*self._encode_plain(text + piece[start : mark.start()]), self._ids[mark[0]]]
                text, start = "", mark.end()
            text += piece[start:]
        return ids + self._encode_plain(text)

    def _encode_plain(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids

    @cached_property
    def _known_ids(self) -> frozenset[int]:
        return frozenset(self._ids.values())

    def _with_other_spelling(self, character: str) -> Any:
        """Return the tokenizer with another spelling of every mark, which takes a second where the vocabulary is large."""
        from tokenizers import Tokenizer

        new = {mark: self._spelling(mark, character) for mark in self._ids}
        stored = json.loads(self._tokenizer.backend_tokenizer.to_str())
        stored["truncation"] = stored["padding"] = None
        for token in stored["added_tokens"]:
            token["content"] = new.get(token["content"], token["content"])
        model = stored["model"]
        # Marks stand in many vocabularies too, where the model would find them.
        if isinstance(model["vocab"], dict):
            model["vocab"] = {new.get(token, token): index for token, index in model["vocab"].items()}
        else:
            model["vocab"] = [[new.get(token, token), score] for token, score in model["vocab"]]
        if model.get("unk_token") in new:
            model["unk_token"] = new[model["unk_token"]]
        if "merges" in model:
            pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
            model["merges"] = [pair for pair in pairs if new.keys().isdisjoint((*pair, "".join(pair)))]
        return Tokenizer.from_str(json.dumps(stored))


def _is_mark(token: Any, tokenizer: Any) -> bool:
    """Say whether an added token is a mark and not text: models are also taught words, white space and HTML as tokens."""
    text: str = token.content
    if text.isspace() or _BYTE.fullmatch(text):
        return False
    if token.special:
        # An ordinary token that pads is called special once its tokenizer was saved.
        return len(text) > 1 or text != tokenizer.pad_token
    if len(text) == 1 or _TEXT.fullmatch(text):
        return False
    return text in (tokenizer.chat_template or "") or bool(_FRAMED.fullmatch(text) and not _HTML.fullmatch(text))
