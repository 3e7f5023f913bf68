"""When a schedule runs: five cron fields in a time zone, checked here because no service says well what is wrong."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from rlhf_pipelines.parameters import closest
from rlhf_tuning.errors import ParameterError

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_EXAMPLE = "Give minute, hour, day of month, month and day of week, such as `0 3 * * 1`: Mondays at 03:00."


@dataclass(frozen=True, kw_only=True)
class _Field:
    name: str
    first: int
    last: int
    names: Sequence[str] = ()


_FIELDS = (
    _Field(name="minute", first=0, last=59),
    _Field(name="hour", first=0, last=23),
    _Field(name="day of month", first=1, last=31),
    _Field(name="month", first=1, last=12, names=_MONTHS),
    _Field(name="day of week", first=0, last=6, names=_DAYS),
)


def check_cron(cron: str, time_zone: str) -> None:
    """Check when a schedule runs.

    Raises:
        ParameterError: If the fields or the time zone cannot be used, or no such day ever comes.
    """
    next_runs(cron, time_zone, after=datetime.now(UTC), count=1)


def next_runs(cron: str, time_zone: str, *, after: datetime, count: int) -> list[datetime]:
    """Return the next times of `cron`, in `time_zone`, that are later than `after`.

    A time that a change of the clocks leaves out has no run; one that comes twice has one.

    Raises:
        ParameterError: As `check_cron`.
    """
    zone = _zone(time_zone)
    times = _times(cron, zone, after)
    found = [moment for _, moment in zip(range(count), times, strict=False)]
    if not found:
        raise ParameterError(f"--cron is {cron!r}: no year has such a day. {_EXAMPLE}")
    return found


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        known = sorted(available_timezones())
        hint = closest(name, known) or " Give a name of the IANA time zone database."
        raise ParameterError(
            f"--time-zone is {name!r}, which is no time zone such as Europe/Zurich or UTC.{hint}"
        ) from None


def _times(cron: str, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
    texts = cron.split()
    if len(texts) != len(_FIELDS) or cron.startswith(("TZ=", "CRON_TZ=")):
        extra = " The time zone goes into --time-zone." if "TZ=" in cron else ""
        raise ParameterError(f"--cron is {cron!r}, which has {len(texts)} fields, not 5.{extra} {_EXAMPLE}")
    minutes, hours, days, months, weekdays = (
        _values(text, part, cron) for text, part in zip(texts, _FIELDS, strict=True)
    )
    # As cron has it: when both kinds of day are given, either is enough.
    either = not texts[2].startswith("*") and not texts[4].startswith("*")
    start = after.astimezone(zone).date()
    for offset in range(8 * 366):  # the 29th of February may be eight years away
        day = start + timedelta(days=offset)
        fits = (day.day in days, day.isoweekday() % 7 in weekdays)
        if day.month in months and (any(fits) if either else all(fits)):
            yield from (moment for moment in _moments(day, hours, minutes, zone) if moment > after)


def _moments(day: date, hours: set[int], minutes: set[int], zone: ZoneInfo) -> Iterator[datetime]:
    for hour in sorted(hours):
        for minute in sorted(minutes):
            local = datetime.combine(day, time(hour, minute), zone)
            # A time that the clocks leave out comes back from UTC as another.
            if local.astimezone(UTC).astimezone(zone).replace(tzinfo=None) == local.replace(tzinfo=None):
                yield local


def _values(text: str, part: _Field, cron: str) -> set[int]:
    found: set[int] = set()
    for piece in text.split(","):
        match = re.fullmatch(r"(\*|\w+(?:-\w+)?)(?:/(\d+))?", piece)
        if match is None:
            raise _unusable(part, piece, cron)
        span, step = match[1], int(match[2] or 1)
        first, _, last = span.partition("-")
        start = part.first if span == "*" else _number(first, part, cron)
        to_the_end = span == "*" or (match[2] and not last)
        end = part.last if to_the_end else _number(last or first, part, cron)
        if step < 1 or end < start:
            raise _unusable(part, piece, cron)
        found.update(range(start, end + 1, step))
    return {0 if part.names is _DAYS and value == 7 else value for value in found}


def _number(text: str, part: _Field, cron: str) -> int:
    if text.lower() in part.names:
        return part.names.index(text.lower()) + part.first
    most = 7 if part.names is _DAYS else part.last  # both 0 and 7 are Sunday
    if not text.isdecimal() or not part.first <= int(text) <= most:
        raise _unusable(part, text, cron)
    return int(text)


def _unusable(part: _Field, piece: str, cron: str) -> ParameterError:
    names = f", or {part.names[0]} to {part.names[-1]}" if part.names else ""
    return ParameterError(
        f"--cron is {cron!r}: {part.name} cannot be {piece!r}; it takes {part.first} to {part.last}{names}, lists "
        "(1,15), ranges (1-5) and steps (*/2)."
    )
