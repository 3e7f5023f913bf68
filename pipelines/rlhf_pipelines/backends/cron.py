"""When a schedule runs: five cron fields in a time zone, checked here because no service says well what is wrong."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from cronsim import CronSim, CronSimError

from rlhf_pipelines.backends.backend import Plan
from rlhf_pipelines.parameters import closest
from rlhf_tuning.errors import ParameterError

#: What both Vertex and Kubeflow take; cronsim also knows `L` and `#`.
_PIECE = re.compile(r"(\*|(\d+|[a-z]{3})(-(\d+|[a-z]{3}))?)(/\d+)?", re.IGNORECASE)
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


def check_plan(plan: Plan) -> None:
    """Check when a schedule runs.

    Raises:
        ParameterError: If the fields or the time zone cannot be used, or no run ever comes.
    """
    now = datetime.now(UTC)
    after = max(plan.start or now, now) - timedelta(seconds=1)
    (first,) = next_runs(plan.cron, plan.time_zone, after=after, count=1)
    if plan.end and first > plan.end:
        raise ParameterError(
            f"--end is {plan.end:%Y-%m-%d %H:%M %Z}, before the first run, which would be {first:%Y-%m-%d %H:%M %Z}."
        )


def next_runs(cron: str, time_zone: str, *, after: datetime, count: int) -> list[datetime]:
    """Return the next times of `cron`, in `time_zone`, that are later than `after`.

    A time that a change of the clocks leaves out has no run; one that comes twice has one.

    Raises:
        ParameterError: If the fields or the time zone cannot be used, or no such day ever comes.
    """
    zone = _zone(time_zone)
    # Without a zone: in one, cronsim moves a time that the clocks leave out to the next minute, as Debian's cron does.
    local = _parsed(cron, after.astimezone(zone).replace(tzinfo=None))
    times = (moment.replace(tzinfo=zone) for moment in local)
    return list(islice((moment for moment in times if moment > after and _exists(moment)), count))


def weekdays(cron: str) -> list[int]:
    """Return the numbers of the days of the week in checked fields; Sunday is 0."""
    return sorted({day % 7 for day in _parsed(cron, datetime.now()).weekdays if isinstance(day, int)})


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        known = sorted(available_timezones())
        hint = closest(name, known) or " Give a name of the IANA time zone database."
        raise ParameterError(
            f"--time-zone is {name!r}, which is no time zone such as Europe/Zurich or UTC.{hint}"
        ) from None


def _exists(moment: datetime) -> bool:
    """Say whether the clocks show this time; one that they leave out comes back from UTC as another."""
    return moment.astimezone(UTC).astimezone(moment.tzinfo) == moment


def _parsed(cron: str, start: datetime) -> CronSim:
    texts = cron.split()
    if len(texts) != len(_FIELDS) or cron.startswith(("TZ=", "CRON_TZ=")):
        extra = " The time zone goes into --time-zone." if "TZ=" in cron else ""
        raise ParameterError(f"--cron is {cron!r}, which has {len(texts)} fields, not 5.{extra} {_EXAMPLE}")
    for part, text in zip(_FIELDS, texts, strict=True):
        for piece in text.split(","):
            alone = " ".join(piece if field is part else "*" for field in _FIELDS)
            if not _PIECE.fullmatch(piece) or not _is_taken(alone):
                raise _unusable(part, piece, cron)
    try:
        return CronSim(_to_saturday(" ".join(texts)), start)
    except CronSimError:  # the fields are right one by one
        raise ParameterError(f"--cron is {cron!r}: no year has such a day. {_EXAMPLE}") from None


def _is_taken(cron: str) -> bool:
    try:
        CronSim(_to_saturday(cron), datetime.min)
    except CronSimError:
        return False
    return True


def _to_saturday(cron: str) -> str:
    """End a step from a day of the week on, such as `1/2`, on Saturday, as the services do; cronsim adds a last Sunday."""
    return re.sub(r"(?<![\w-])(\w+)(/\d+)(?=[^ ]*$)", r"\1-6\2", cron)


def _unusable(part: _Field, piece: str, cron: str) -> ParameterError:
    names = f", or {part.names[0]} to {part.names[-1]}" if part.names else ""
    return ParameterError(
        f"--cron is {cron!r}: {part.name} cannot be {piece!r}; it takes {part.first} to {part.last}{names}, lists "
        "(1,15), ranges (1-5) and steps (*/2)."
    )
