"""Preferences from feedback: where a prompt has several answers that people thought differently of."""

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from rlhf_tuning.data.formats import parse_line
from rlhf_tuning.data.layout import Made, ranked
from rlhf_tuning.data.rows import Kind

_FEEDBACK: tuple[Kind, ...] = ("feedback",)


class FeedbackPairs:
    """Makes the preferences: `noted` every row of a dataset, then ask for those of each prompt.

    An answer that was judged several times has the mean of its labels or ratings. Labels and ratings are not compared with
    each other.
    """

    RULE = (
        "the answer of the highest mean label or rating is taken for chosen, and each lower one to the same prompt for "
        "rejected, in a row of its own; of ratings the difference, as a share of the widest one, is the margin"
    )

    def __init__(self) -> None:
        self._lowest, self._highest = math.inf, -math.inf

    def noted(self, line: bytes) -> Made:
        """Take note of a good row of feedback, and return what its prompt's preferences are made of."""
        parsed = parse_line(line, accepts=_FEEDBACK, instruction="", faults=[])
        assert parsed is not None, "no good row"
        row, judgement = parsed[1], parsed[1].judgement
        assert judgement is not None, "no feedback"
        if judgement.rated:
            self._lowest, self._highest = min(self._lowest, judgement.value), max(self._highest, judgement.value)
        record = json.loads(line)
        # A text stays one: an instruction is put before it, and before messages as a turn.
        text = record.get("input_text", record.get("prompt"))
        prompt = text if isinstance(text, str) else row.prompt
        return {"prompt": prompt, "answer": row.answer, "value": judgement.value, "rated": judgement.rated}

    def key(self, noted: Made) -> str:
        """Return what the rows have in common that are compared with each other."""
        return json.dumps([noted["prompt"], noted["rated"]])

    def rows(self, group: Sequence[Any]) -> Iterator[Made]:
        """Yield the preferences of rows with one key, once all rows were noted."""
        values: dict[str, list[float]] = {}
        for noted in group:
            values.setdefault(noted["answer"].strip(), []).append(noted["value"])
        means = [(answer, sum(found) / len(found)) for answer, found in values.items()]
        span = self._highest - self._lowest if group[0]["rated"] else None
        return ranked(group[0]["prompt"], means, span)
