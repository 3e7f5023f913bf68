"""Which prompts are the same to a person: compared by their text, and dialogues by how they begin.

Text is compared in Unicode's form C, without regard to case and to how much white space stands where. The opening of a
conversation is the first turn of its user; of a dialogue that was written into one text, the user's words in it up to the
other's. A model that was trained on one continuation of a dialogue knows the others, so what is measured on one must not be
trained on another.
"""

import json
import re
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import xxhash

from rlhf_tuning.data.batch import Batch, Flags, Hashes
from rlhf_tuning.data.rows import Conversation

#: An opening that begins more than so large a share of all rows, and so many rows, is a greeting or a common task: it does
#: not tell what a dialogue is about.
COMMON_SHARE, COMMON_ROWS = 0.01, 10

_TEXT = rb'"([^"\\]*(?:\\.[^"\\]*)*)"'
_BEGINNING = re.compile(
    rb'\{"prompt": \[(?:\{"role": "system", "content": ' + _TEXT + rb'\}, )?\{"role": "user", "content": ' + _TEXT
)
# In the escapes of JSON: the first mark of a user at the start of a line, and the next one of the other.
_WRITTEN_DIALOGUE = re.compile(
    rb"(?:^|\\n)[ \t]*(?:human|user)[ \t]*:(.*?)(?:\\n[ \t]*)+(?:assistant|ai|bot|model)[ \t]*:", re.IGNORECASE
)
_NONE = np.empty(0, np.uint64)


class Alike(NamedTuple):
    """Some prompts, as sorted hashes of their text as a whole, and of their openings."""

    whole: Hashes = _NONE
    opening: Hashes = _NONE

    def __bool__(self) -> bool:
        return len(self.whole) > 0


NONE_ALIKE = Alike()


def alike_to(lines: Iterable[bytes]) -> Alike:
    """Return the prompts of canonical lines."""
    hashes = np.array([(whole_hash(line), _opening_hash(line)) for line in lines], np.uint64).reshape(-1, 2)
    return Alike(np.unique(hashes[:, 0]), np.unique(hashes[:, 1]))


def opening_hashes(batch: Batch) -> Hashes:
    """Return [rows] hashes of the prompts' openings. Prompts with different openings are not the same."""
    starts = [0, *batch.ends[:-1].tolist()]
    return np.array([_opening_hash(batch.encoded, start) for start in starts], np.uint64)


def whole_hash(line: bytes) -> int:
    """Return a hash of the prompt of a canonical line."""
    prompt: Conversation = json.loads(line)["prompt"]
    return xxhash.xxh64_intdigest("\n".join(f"{turn['role']} {same_text(turn['content'])}" for turn in prompt).encode())


def beginning(line: bytes) -> bytes:
    """Return how a canonical line would begin if its prompt were its opening alone; another line as it is."""
    if not _BEGINNING.match(line):
        return line
    return b'{"prompt": [{"role": "user", "content": "%b"}]' % _opening(line)


def begins_as(line: bytes, others: Alike) -> bool:
    """Say whether the prompt of a canonical line begins as one of some others."""
    return bool(is_among(np.array([_opening_hash(line)], np.uint64), others.opening)[0])


def is_among(values: Hashes, known: Hashes) -> Flags:
    """Return [values] whether each is one of some sorted hashes."""
    if not len(known):
        return np.zeros(len(values), np.bool_)
    places = np.minimum(np.searchsorted(known, values), len(known) - 1)
    found: Flags = known[places] == values
    return found


def same_text(text: str) -> str:
    """Return what texts have in common that are the same to a person."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    return " ".join(text.casefold().split())


def _opening_hash(encoded: bytes, start: int = 0) -> int:
    content = _opening(encoded, start)
    text: str = json.loads(b'"%b"' % content) if b"\\" in content else content.decode()
    return xxhash.xxh64_intdigest(same_text(text).encode())


def _opening(encoded: bytes, start: int = 0) -> bytes:
    """Return the opening of the canonical line that begins there, in the escapes of JSON."""
    found = _BEGINNING.match(encoded, start)
    assert found, "no canonical row"
    content: bytes = found[2]
    dialogue = _WRITTEN_DIALOGUE.search(content) if b"\\" in content else None
    return dialogue[1].strip() if dialogue else content
