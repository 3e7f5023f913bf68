"""What was thought of an answer as a label: was it liked?

A label says so. A rating is held against the middle of the scale, half-way between the lowest and the highest rating of the
dataset: above it the answer was liked, below it was not. One that stands right there says neither. Of 1 to 5 stars 4 and 5
are liked, 1 and 2 are not, and 3 is left out.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def middle_of_scale(rows: Iterable[Mapping[str, Any]]) -> float | None:
    """Return the middle between the lowest and the highest rating of canonical rows; None where there is no rating."""
    ratings = [row["rating"] for row in rows if "rating" in row]
    return (min(ratings) + max(ratings)) / 2 if ratings else None


def liked(row: Mapping[str, Any], middle: float | None) -> bool | None:
    """Return whether the answer of a canonical row was liked; None where the row does not say."""
    if "label" in row:
        return bool(row["label"])
    if "rating" not in row or row["rating"] == middle:
        return None
    return bool(row["rating"] > middle)


def labelled(rows: Sequence[Mapping[str, Any]], middle: float | None) -> list[dict[str, Any]]:
    """Return the feedback among canonical rows that says whether an answer was liked, with its `label`."""
    found = ((row, liked(row, middle)) for row in rows)
    return [{**row, "label": label} for row, label in found if label is not None]
