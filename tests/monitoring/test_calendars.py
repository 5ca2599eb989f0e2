"""Working hours against a clock that is read minute by minute."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from medic.calendars import WEEKDAYS, is_working, next_change, parse_hours
from medic.errors import Invalid

Hours = dict[str, list[list[str]]]

OFFICE: Hours = {day: [["09:00", "12:00"], ["13:00", "17:30"]] for day in WEEKDAYS[:5]}
ALWAYS: Hours = {day: [["00:00", "24:00"]] for day in WEEKDAYS}
MINUTE = timedelta(minutes=1)

ZONES = st.sampled_from([
    "UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "America/St_Johns",
    "Africa/Casablanca", "Pacific/Apia", "America/Santiago", "Asia/Beirut",
])  # fmt: skip
# Around changes of the clocks, the day that Apia left out, a leap day, and anything else.
MOMENTS = st.one_of(
    st.sampled_from([
        datetime(2026, 3, 29, 1, tzinfo=UTC), datetime(2026, 10, 25, 1, tzinfo=UTC),
        datetime(2026, 3, 8, 7, tzinfo=UTC), datetime(2026, 11, 1, 6, tzinfo=UTC),
        datetime(2026, 4, 4, 15, tzinfo=UTC), datetime(2026, 10, 3, 15, 30, tzinfo=UTC),
        datetime(2010, 11, 7, 2, 31, tzinfo=UTC), datetime(2011, 12, 30, 10, tzinfo=UTC),
        datetime(2026, 4, 5, 3, tzinfo=UTC), datetime(2024, 2, 29, tzinfo=UTC),
    ]).flatmap(lambda at: st.integers(-1_800, 1_800).map(lambda minutes: at + minutes * MINUTE)),
    st.integers(0, 60 * 24 * 365 * 20).map(lambda minutes: datetime(2010, 1, 1, tzinfo=UTC) + minutes * MINUTE),
)  # fmt: skip


@st.composite
def some_hours(draw: st.DrawFn) -> Hours:
    found: Hours = {}
    for day in draw(st.lists(st.sampled_from(WEEKDAYS), unique=True, max_size=7)):
        cuts = draw(st.lists(st.integers(0, 96), unique=True, min_size=2, max_size=6))
        times = [f"{cut // 4:02}:{cut % 4 * 15:02}" for cut in sorted(cuts)]
        found[day] = [list(span) for span in zip(times[::2], times[1::2], strict=False)]
    return found


def works(hours: Hours, holidays: list[date], zone: str, at: datetime) -> bool:
    """What a clock on the wall and the list say."""
    local = at.astimezone(ZoneInfo(zone))
    if local.date().isoformat() in [day.isoformat() for day in holidays]:
        return False
    shown = local.strftime("%H:%M")
    return any(start <= shown < end for start, end in hours.get(local.strftime("%a").lower(), []))


@settings(max_examples=150, deadline=None)
@given(hours=some_hours(), zone=ZONES, at=MOMENTS, off=st.lists(st.integers(-2, 5), max_size=4))
@example(hours=ALWAYS, zone="America/St_Johns", at=datetime(2010, 11, 7, 2, tzinfo=UTC), off=[0, 1])
@example(hours=OFFICE, zone="Pacific/Apia", at=datetime(2011, 12, 29, tzinfo=UTC), off=[])
def test_hours_hold_and_change_as_a_clock_says(hours: Hours, zone: str, at: datetime, off: list[int]) -> None:
    holidays = [at.date() + timedelta(days=number) for number in off]
    now = works(hours, holidays, zone, at)
    assert is_working(hours, holidays, zone, at) == now
    found = next_change(hours, holidays, zone, at)
    minutes = (at + number * MINUTE for number in range(1, 4 * 24 * 60))
    seen = next((minute for minute in minutes if works(hours, holidays, zone, minute) != now), None)
    if seen is not None:
        assert found == seen
    else:
        assert found is None or found > at + timedelta(days=3)
        assert found is None or works(hours, holidays, zone, found) != now


def test_a_calendar_without_an_end_has_no_next_change() -> None:
    at = datetime(2026, 5, 4, 12, tzinfo=UTC)
    assert next_change({}, [date(2026, 5, 5)], "UTC", at) is None
    assert next_change(ALWAYS, [date(2020, 1, 1)], "UTC", at) is None
    assert next_change(ALWAYS, [date(2099, 1, 1)], "UTC", at) == datetime(2099, 1, 1, tzinfo=UTC)


def test_a_long_run_of_holidays_is_looked_through() -> None:
    at = datetime(2026, 1, 2, 23, tzinfo=UTC)  # a Friday
    fridays = [date(2026, 1, 9) + timedelta(weeks=week) for week in range(60)]
    hours = {"fri": [["09:00", "10:00"]]}
    assert next_change(hours, fridays, "UTC", at) == datetime(2027, 3, 5, 9, tzinfo=UTC)


def test_holidays_by_the_thousand_cost_no_time() -> None:
    """A list shows 250 calendars, and somebody may have filled each of them."""
    at = datetime(2026, 1, 2, 23, tzinfo=UTC)
    mondays = [date(2026, 1, 5) + timedelta(weeks=week) for week in range(1_000)]
    hours = {
        "mon": [
            [f"{hour:02}:{minute:02}", f"{hour:02}:{minute + 1:02}"]
            for hour in range(12)
            for minute in (1, 31)
        ]
    }
    began = time.process_time()
    assert next_change(hours, mondays, "Europe/Berlin", at) == datetime(2045, 3, 5, 23, 1, tzinfo=UTC)
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize(
    ("hours", "path"),
    [
        ({"monday": [["09:00", "17:00"]]}, "hours.monday"),
        ({"mon": [["09:00"]]}, "hours.mon.0"),
        ({"mon": [["9:00", "17:00"]]}, "hours.mon.0"),
        ({"mon": [["09:00", "24:01"]]}, "hours.mon.0"),
        ({"tue": [["08:00", "09:00"], ["22:00", "06:00"]]}, "hours.tue.1"),
        ({"sun": [["09:00", "12:00"], ["11:59", "13:00"]]}, "hours.sun"),
    ],
)
def test_wrong_hours_are_named(hours: Hours, path: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse_hours(hours)
    assert [problem.path for problem in refused.value.problems] == [path]


def test_hours_are_kept_in_order() -> None:
    kept = parse_hours(
        {"tue": [["13:00", "24:00"], ["00:00", "12:00"]], "mon": [["09:00", "10:00"]], "wed": []}
    )
    assert list(kept.items()) == [
        ("mon", [["09:00", "10:00"]]),
        ("tue", [["00:00", "12:00"], ["13:00", "24:00"]]),
    ]
