"""Feedback without pairs: an answer, and what somebody thought of it.

    {"prompt": "...", "completion": "...", "label": true}
    {"input_text": "...", "output_text": "...", "rating": 4}
    {"messages": [...], "label": false, "user": "u7", "source": "app"}

A row is a demonstration of any format with one field more: `label`, true where the answer was liked and false where it was
not, or `rating`, a number that is higher for better answers. It is of the last answer alone; those before it are a part of
the prompt. `user` and `source` are optional: who judged, and where. They are looked at, for those who judge all alike, and
not kept.
"""

from collections.abc import Collection, Mapping
from typing import Any

from rlhf_tuning.data import chat_messages, gemini_contents, prompt_completion, tuning_chat, tuning_text
from rlhf_tuning.data.problems import Fault, describe
from rlhf_tuning.data.rows import Judgement, Kind, Row
from rlhf_tuning.data.shape import Shape

_JUDGED = ("label", "rating")
#: A number beyond this is no rating.
_MOST_RATING = 1e9
#: Who may have judged.
RATERS = ("user", "source")


class FeedbackFormat:
    """The rows of feedback whose prompt and answer stand as in one format of demonstrations.

    Args:
        shown: The module of that format.
    """

    def __init__(self, shown: Any) -> None:
        self._shown = shown
        self.__name__ = f"feedback.{shown.__name__.rpartition('.')[2]}"
        self.FIELDS = f"{shown.FIELDS} and {' or '.join(_JUDGED)}"
        self.SHAPES: dict[Kind, Shape | None] = {"feedback": None}

    def recognises(self, record: Mapping[str, object]) -> bool:
        """Say whether a row is of this format."""
        return any(field in record for field in _JUDGED) and bool(self._shown.recognises(record))

    def parse(
        self, record: Mapping[str, object], *, accepts: Collection[Kind], instruction: str, faults: list[Fault]
    ) -> Row | None:
        """Return the canonical row; it counts only when nothing was added to `faults`."""
        rest = {field: record[field] for field in record if field not in (*_JUDGED, *RATERS)}
        own: list[Fault] = []
        row: Row | None = self._shown.parse(rest, accepts=("demonstration",), instruction=instruction, faults=own)
        faults += map(_with_judgement, own)
        judgement = _read_judgement(record, faults)
        raters = tuple(_read_rater(record[field], field, faults) for field in RATERS if field in record)
        if row is None or judgement is None:
            return None
        return row._replace(dialogue=False, judgement=judgement._replace(raters=raters))


def _with_judgement(fault: Fault) -> Fault:
    """Name what feedback has besides, where a fault names the fields of a row."""
    if "[" in fault.field or not fault.accepted.removeprefix("only ").startswith("the fields "):
        return fault
    fields, *more = fault.accepted.split("; ")
    fields = ", ".join([fields, " or ".join(_JUDGED), *(f"optional {field}" for field in RATERS)])
    return fault._replace(accepted="; ".join([fields, *more]))


def _read_judgement(record: Mapping[str, object], faults: list[Fault]) -> Judgement | None:
    if all(field in record for field in _JUDGED):
        faults.append(Fault("extra_field", "rating", describe(record["rating"]), "label or rating, not both"))
        return None
    if "label" in record:
        label = record["label"]
        if not isinstance(label, bool):
            faults.append(Fault("wrong_type", "label", describe(label), "true or false, without quotes"))
            return None
        return Judgement(float(label), rated=False)
    rating = record["rating"]
    if isinstance(rating, bool) or not isinstance(rating, int | float) or not abs(rating) < _MOST_RATING:
        faults.append(Fault("wrong_type", "rating", describe(rating), "a number, higher for better answers"))
        return None
    return Judgement(float(rating), rated=True)


def _read_rater(value: object, field: str, faults: list[Fault]) -> str:
    if not isinstance(value, str):
        faults.append(Fault("wrong_type", field, describe(value), "a string"))
    return f"{field} {value}"


FORMATS = tuple(map(FeedbackFormat, (tuning_text, chat_messages, tuning_chat, gemini_contents, prompt_completion)))
