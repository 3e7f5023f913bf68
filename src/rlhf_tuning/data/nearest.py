"""What a row was probably meant to be, where its fields are those of no format, or of two."""

import difflib
from collections.abc import Sequence
from functools import lru_cache

from rlhf_tuning.data.problems import shorten

_PROMPTS = ("question", "query", "instruction", "input", "text", "user_prompt", "user_input", "history")

#: What well-known datasets call our fields.
SYNONYMS = {
    "input_text": ("prompt", *_PROMPTS),
    "prompt": ("input_text", *_PROMPTS),
    "chosen": (
        *("chosen_response", "response_chosen", "chosen_answer", "preferred", "preferred_response", "preferred_output"),
        *("accepted", "better", "response_j", "win"),
    ),
    "rejected": (
        *("rejected_response", "response_rejected", "rejected_answer", "dispreferred", "dispreferred_response"),
        *("non_preferred_output", "worse", "response_k", "lose"),
    ),
}

SYNONYMS |= {
    "label": ("liked", "thumbs", "thumbs_up", "thumb", "feedback", "vote", "is_positive", "positive", "desirable"),
    "rating": ("score", "stars", "quality"),
}
SYNONYMS |= dict.fromkeys(("output_text", "completion"), ("output", "response", "answer", "target", "reply"))

_OPTIONAL = ("context",)

#: A row of more fields is none that someone misspelt.
_MOST_FIELDS = 100


@lru_cache(maxsize=1024)
def nearest_format(fields: tuple[str, ...], shapes: tuple[tuple[str, ...], ...]) -> str:
    """Return which fields a row should have, and what to change in its own to get there.

    Args:
        fields: Of the row.
        shapes: The fields that rows of the known formats have.
    """
    best = max(shapes, key=lambda shape: (_likeness(fields, shape), len(shape)))
    if not _likeness(fields, best) and (len(fields), len(best)) != (1, 1):
        return ""
    missing = [field for field in best if field not in fields]
    surplus = [field for field in fields if field not in best and field not in _OPTIONAL]
    renamed = {field: name for field in missing if (name := closest_field(field, surplus))}
    left = [field for field in surplus if field not in renamed.values()]
    lost = [field for field in missing if field not in renamed]
    if len(lost) == 1 and len(left) == 1 and may_be(left[0], lost[0]):
        renamed[lost.pop()] = left.pop()
    advice = [f"did you mean {field} by {shorten(ascii(name)[1:-1])}?" for field, name in renamed.items()]
    if lost:
        named = ["label or rating" if field == "label" else field for field in lost]
        advice.append(f"{', '.join(named)} {'is' if len(lost) == 1 else 'are'} missing")
    elif left:
        others = ", ".join(ascii(name)[1:-1] for name in left)
        advice.append(f"{others} {'has' if len(left) == 1 else 'have'} no place in it")
    return shorten(f"a row with {', '.join(best)}, the nearest format; {'; '.join(advice)}", 300)


def closest_field(field: str, names: Sequence[str]) -> str:
    """Return the one of some names that most likely means a field, misspelt or by another common name; else nothing."""
    spelt = {plain(name): name for name in names[:_MOST_FIELDS]}
    # candidate_0 and candidate_1 are alike, but one is no misspelling of the other: their numbers must agree.
    same = [name for name in spelt if _digits(name) == _digits(field)]
    found = difflib.get_close_matches(field, same, n=1, cutoff=0.75)
    found = found or [name for name in SYNONYMS.get(field, ()) if name in spelt]
    return spelt[found[0]] if found else ""


def may_be(name: str, field: str) -> bool:
    """Say whether the only field too many may be the only missing one by another name: not where just a number differs."""
    return _digits(name) == _digits(field) or name.strip("0123456789") != field.strip("0123456789")


def plain(name: str) -> str:
    """Return a field's name as it is compared with others."""
    return name.lower().replace("-", "_").replace(" ", "_")


def _digits(name: str) -> str:
    return "".join(filter(str.isdigit, name))


def _likeness(fields: Sequence[str], shape: Sequence[str]) -> float:
    others = [field for field in fields if field not in shape]
    found = sum(1 if field in fields else 0.9 * bool(closest_field(field, others)) for field in shape)
    return found / len(shape)
