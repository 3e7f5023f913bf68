"""What a row was probably meant to be, where its fields are those of no format, or of two."""

import difflib
from collections.abc import Sequence
from functools import lru_cache

from rlhf_tuning.data.problems import shorten

#: What turns the rows of many preference datasets on the Hugging Face hub into TRL conversational ones.
SPLIT_ANSWERS = "jq -c '{prompt: .chosen[:-1], chosen: .chosen[-1:], rejected: .rejected[-1:]}'"

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
    if len(lost) == 1 and len(left) == 1:
        # The only one that is missing and the only one too many: mostly the same thing by another name.
        renamed[lost.pop()] = left.pop()
    advice = [f"did you mean {field} by {shorten(ascii(name)[1:-1])}?" for field, name in renamed.items()]
    advice += [f"{', '.join(lost)} {'is' if len(lost) == 1 else 'are'} missing"] if lost else []
    if lost == ["prompt"]:
        advice.append("if both answers begin with it, extract_prompt of trl.data_utils takes it from them")
    advice += [f"drop {', '.join(ascii(name)[1:-1] for name in left)}"] if left else []
    return shorten(f"a row with {', '.join(best)}, the nearest format; {'; '.join(advice)}", 300)


def closest_field(field: str, names: Sequence[str]) -> str:
    """Return the one of some names that is most likely a misspelling of a field; empty where none is."""
    spelt = {name.lower().replace("-", "_"): name for name in names[:_MOST_FIELDS]}
    # candidate_0 and candidate_1 are alike, but one is no misspelling of the other: their numbers must agree.
    same = [name for name in spelt if _digits(name) == _digits(field)]
    found = difflib.get_close_matches(field, same, n=1, cutoff=0.75)
    return spelt[found[0]] if found else ""


def _digits(name: str) -> str:
    return "".join(filter(str.isdigit, name))


def _likeness(fields: Sequence[str], shape: Sequence[str]) -> float:
    others = [field for field in fields if field not in shape]
    found = sum(1 if field in fields else 0.9 * bool(closest_field(field, others)) for field in shape)
    return found / len(shape)
