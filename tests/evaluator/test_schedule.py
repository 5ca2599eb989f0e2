"""Schedules: reading them, and their times on the clock of a zone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medic.errors import Invalid
from medic.schedule import (
    AtLeast,
    Cron,
    Every,
    OnCalendar,
    describe,
    occurrence_after,
    occurrences,
    parse_schedule,
)


@pytest.mark.parametrize(
    ("fields", "schedule", "text"),
    [
        ({"every": "5m"}, Every(timedelta(minutes=5)), "every 5m"),
        ({"every": 90, "timezone": "Europe/Berlin"}, Every(timedelta(seconds=90)), "every 1m30s"),
        ({"cron": " 0  2 * * * "}, Cron("0 2 * * *", "Asia/Tokyo"), "cron 0 2 * * * (Asia/Tokyo)"),
        ({"cron": "@daily", "timezone": "UTC"}, Cron("0 0 * * *", "UTC"), "cron 0 0 * * * (UTC)"),
        (
            {"on_calendar": "Mon 9:00\n daily "},
            OnCalendar("Mon 9:00\ndaily", "Asia/Tokyo"),
            "on calendar Mon 9:00; daily (Asia/Tokyo)",
        ),
        ({"at_least": 3, "within": "1h"}, AtLeast(3, timedelta(hours=1)), "at least 3 within 1h"),
    ],
)
def test_each_kind_is_read_and_described(fields: dict[str, Any], schedule: object, text: str) -> None:
    parsed = parse_schedule(**fields, default_zone="Asia/Tokyo")
    assert parsed == schedule
    assert describe(parsed) == text


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({}, "every"),
        ({"every": "5m", "cron": "0 2 * * *"}, "cron"),
        ({"every": 0}, "every"),
        ({"every": "soon"}, "every"),
        ({"every": "5m", "within": "1h"}, "within"),
        ({"cron": "0 2 * *"}, "cron"),
        ({"cron": "0 0 0 2 * *"}, "cron"),
        ({"cron": "61 2 * * *"}, "cron"),
        ({"cron": "0 0 31 2 *"}, "cron"),
        ({"cron": 5}, "cron"),
        ({"cron": "0 2 * * *", "timezone": "Mars/Olympus"}, "timezone"),
        ({"on_calendar": "2020-01-01"}, "on_calendar"),
        ({"on_calendar": "daily\n*-02-30"}, "on_calendar"),
        ({"on_calendar": "whenever"}, "on_calendar"),
        ({"at_least": 0, "within": "1h"}, "at_least"),
        ({"at_least": True, "within": "1h"}, "at_least"),
        ({"at_least": 2}, "within"),
        ({"at_least": 2, "within": "0s"}, "within"),
    ],
)
def test_a_wrong_schedule_is_refused_at_the_field_that_is_wrong(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(Invalid) as raised:
        parse_schedule(**fields)
    assert [problem.path for problem in raised.value.problems] == [path]


def _local(schedule: Cron | OnCalendar, after: datetime, count: int) -> list[str]:
    zone = ZoneInfo(schedule.zone)
    return [f"{time.astimezone(zone):%d %H:%M %z}" for time in islice(occurrences(schedule, after), count)]


def test_a_cron_time_that_is_skipped_fires_once_after_the_gap() -> None:
    schedule = Cron("15,30 2 * * *", "Europe/Berlin")
    times = _local(schedule, datetime(2026, 3, 28, 12, tzinfo=UTC), 3)
    assert times == ["29 03:00 +0200", "30 02:15 +0200", "30 02:30 +0200"]


def test_a_cron_time_that_repeats_fires_once() -> None:
    schedule = Cron("30 2 * * *", "Europe/Berlin")
    times = _local(schedule, datetime(2026, 10, 24, 12, tzinfo=UTC), 2)
    assert times == ["25 02:30 +0200", "26 02:30 +0100"]


def test_the_repeated_hour_does_not_turn_time_back() -> None:
    within_second_pass = datetime(2026, 10, 25, 1, 10, tzinfo=UTC)
    assert occurrence_after(Cron("0,30 2 * * *", "Europe/Berlin"), within_second_pass) == datetime(
        2026, 10, 26, 1, 0, tzinfo=UTC
    )


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(
        ["*/20 * * * *", "0 */8 * * *", "30 */2 * * *", "* 0 * * *", "*/30 1,2 * * *", "*/15 2 * * 0"]
    ),
    st.sampled_from(["UTC", "Europe/Berlin", "America/Santiago", "Australia/Lord_Howe", "Asia/Kolkata"]),
    # About each change of these zones' clocks in two years, or at any time.
    st.sampled_from([(4, 5), (10, 4), (3, 29), (10, 25), (4, 4), (9, 5), (7, 1)]),
    st.integers(0, 3 * 86_400),
)
def test_a_cron_that_begins_with_a_star_fires_whenever_the_clock_shows_its_time(
    expression: str, zone: str, day: tuple[int, int], seconds: int
) -> None:
    start = datetime(2026, *day, tzinfo=UTC) - timedelta(days=2) + timedelta(seconds=seconds)
    end = start + timedelta(days=5)
    asked = Cron(expression, zone)
    # On the clock of a zone that never changes, what fires is what the clock shows.
    shown = {
        time.replace(tzinfo=None)
        for time in islice(occurrences(Cron(expression, "UTC"), start - timedelta(days=2)), 8 * 24 * 60)
        if time < end + timedelta(days=2)
    }
    moments = []
    moment = start.replace(second=0) + timedelta(minutes=1)
    while moment <= end:
        if moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None) in shown:
            moments.append(moment)
        moment += timedelta(minutes=1)
    times = []
    for time in occurrences(asked, start):
        if time > end:
            break
        times.append(time)
    assert times == moments


def test_a_cron_that_begins_with_a_star_loses_no_time_where_clocks_change_by_half_an_hour() -> None:
    schedule = Cron("0 */8 * * *", "Australia/Lord_Howe")
    assert _local(schedule, datetime(2028, 4, 1, 12, tzinfo=UTC), 3) == [
        "02 00:00 +1100", "02 08:00 +1030", "02 16:00 +1030",
    ]  # fmt: skip
    assert _local(schedule, datetime(2028, 9, 30, 12, tzinfo=UTC), 3) == [
        "01 00:00 +1030", "01 08:00 +1100", "01 16:00 +1100",
    ]  # fmt: skip


def test_a_cron_that_begins_with_a_star_finds_the_repeated_hour_from_far_away() -> None:
    schedule = Cron("*/30 2 25 10 *", "Europe/Berlin")
    assert _local(schedule, datetime(2026, 1, 1, tzinfo=UTC), 5) == [
        "25 02:00 +0200", "25 02:30 +0200", "25 02:00 +0100", "25 02:30 +0100", "25 02:00 +0200",
    ]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["30 2 * * *", "*/7 * * * *", "0 */5 * * *", "15 1-3 * * 0", "59 23 L * *"]),
    st.sampled_from(["UTC", "Europe/Berlin", "America/Santiago", "Australia/Lord_Howe"]),
    st.datetimes(datetime(2024, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
)
def test_times_only_go_forward_wherever_one_begins_to_look(
    expression: str, zone: str, start: datetime
) -> None:
    for schedule in (Cron(expression, zone), OnCalendar("*-*-* 02:30\n*:0/45", zone)):
        times = [start, *islice(occurrences(schedule, start), 20)]
        assert all(earlier < later for earlier, later in pairwise(times))
        assert all(time.tzinfo is UTC for time in times)
        if isinstance(schedule, Cron):
            assert times[2] == occurrence_after(schedule, times[1])
