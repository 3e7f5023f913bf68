from datetime import UTC, datetime

import pytest

from rlhf_pipelines.backends.backend import Plan
from rlhf_pipelines.backends.cron import check_plan, next_runs
from rlhf_tuning.errors import ParameterError


def runs(cron, time_zone="UTC", after="2026-01-01T00:00", count=3):
    found = next_runs(cron, time_zone, after=datetime.fromisoformat(after).replace(tzinfo=UTC), count=count)
    return [f"{moment:%Y-%m-%d %H:%M %a}" for moment in found]


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("0 3 * * 1", ["2026-01-05 03:00 Mon", "2026-01-12 03:00 Mon", "2026-01-19 03:00 Mon"]),
        ("*/25 0 * * *", ["2026-01-01 00:25 Thu", "2026-01-01 00:50 Thu", "2026-01-02 00:00 Fri"]),
        ("30 6,18 * * mon-FRI", ["2026-01-01 06:30 Thu", "2026-01-01 18:30 Thu", "2026-01-02 06:30 Fri"]),
        ("0 0 29 feb *", ["2028-02-29 00:00 Tue", "2032-02-29 00:00 Sun"]),
        ("0 0 13 * 5", ["2026-01-02 00:00 Fri", "2026-01-09 00:00 Fri", "2026-01-13 00:00 Tue"]),
        ("0 0 * * 7", ["2026-01-04 00:00 Sun", "2026-01-11 00:00 Sun", "2026-01-18 00:00 Sun"]),
        ("0 0 10-20/5 1 *", ["2026-01-10 00:00 Sat", "2026-01-15 00:00 Thu", "2026-01-20 00:00 Tue"]),
        ("5/20 1 1 * *", ["2026-01-01 01:05 Thu", "2026-01-01 01:25 Thu", "2026-01-01 01:45 Thu"]),
        ("0\t0 *  * 1/3 ", ["2026-01-05 00:00 Mon", "2026-01-08 00:00 Thu", "2026-01-12 00:00 Mon"]),
    ],
)
def test_says_when_the_next_runs_are(cron, expected):
    assert runs(cron, count=len(expected)) == expected


def test_hours_are_those_of_the_time_zone_through_changes_of_the_clocks():
    found = next_runs("30 2 * * *", "Europe/Zurich", after=datetime(2026, 3, 28, tzinfo=UTC), count=3)
    # On 29 March the clocks go from 2 to 3: no such time, no run.
    assert [f"{moment.astimezone(UTC):%d %H:%M}" for moment in found] == ["28 01:30", "30 00:30", "31 00:30"]
    found = next_runs("30 2 * * *", "Europe/Zurich", after=datetime(2026, 10, 24, 12, tzinfo=UTC), count=2)
    assert [f"{moment.astimezone(UTC):%d %H:%M}" for moment in found] == ["25 00:30", "26 01:30"]


@pytest.mark.parametrize(
    ("cron", "time_zone", "message"),
    [
        ("0 25 * * *", "UTC", "hour cannot be '25'; it takes 0 to 23"),
        ("0 3 * *", "UTC", "has 4 fields, not 5"),
        ("0 0 3 * * *", "UTC", "has 6 fields, not 5"),
        ("TZ=UTC 0 3 * * 1", "UTC", "goes into --time-zone"),
        ("@daily", "UTC", "has 1 fields, not 5"),
        ("", "UTC", "has 0 fields"),
        ("0 3 * * mo", "UTC", "day of week cannot be 'mo'; it takes 0 to 6, or sun to sat"),
        ("0 3 5-1 * *", "UTC", "day of month cannot be '5-1'"),
        ("*/0 3 * * *", "UTC", "minute cannot be '*/0'"),
        ("1,, 3 * * *", "UTC", "minute cannot be ''"),
        ("-5 3 * * *", "UTC", "minute cannot be '-5'"),
        ("0 3 L * *", "UTC", "day of month cannot be 'L'"),
        ("0 3 * * mon#1", "UTC", "day of week cannot be 'mon#1'"),
        ("0 0 31 2 *", "UTC", "no year has such a day"),
        ("0 3 * * *", "Europe/Zürich", "--time-zone is 'Europe/Zürich'"),
        ("0 3 * * *", "Europe/Zurch", "Did you mean Europe/Zurich?"),
        ("0 3 * * *", "../etc/passwd", "--time-zone is"),
        ("0 3 * * *", "", "--time-zone is ''"),
    ],
)
def test_says_what_cannot_be_used(cron, time_zone, message):
    with pytest.raises(ParameterError, match=message.replace("?", r"\?").replace("*", r"\*")):
        check_plan(Plan(cron=cron, time_zone=time_zone))
