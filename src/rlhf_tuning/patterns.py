"""Regular expressions of a person on texts of a model. An unlucky pair of them would take for ever, so each has a limit."""

from collections.abc import Iterator
from contextlib import contextmanager

import regex

from rlhf_tuning.errors import ParameterError

#: For one expression on one text.
SECONDS = 5.0


def problem_with_pattern(pattern: str, name: str) -> str:
    """Return why a text is no regular expression, or an empty string."""
    try:
        regex.compile(pattern)
    except regex.error as error:
        return f"{name} is no regular expression: {error}."
    except RecursionError:
        return f"{name} is nested too deep for a regular expression."
    return ""


def is_in(pattern: str, text: str, *, name: str) -> bool:
    """Say whether a text has a match.

    Args:
        pattern: A regular expression.
        text: The text.
        name: What a person calls the expression.

    Raises:
        ParameterError: If that takes too long.
    """
    with _in_time(name):
        return regex.search(pattern, text, timeout=SECONDS) is not None


def last_match(pattern: str, text: str, *, name: str) -> str:
    """Return the last match, of any line, or its first group; an empty text where there is none. See `is_in`."""
    with _in_time(name):
        found = list(regex.finditer(pattern, text, regex.DOTALL, timeout=SECONDS))
    return str(found[-1][min(1, len(found[-1].groups()))] or "") if found else ""


@contextmanager
def _in_time(name: str) -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise ParameterError(f"{name} took more than {SECONDS:g} s on one answer. Simplify it.") from None
