"""When windows hold and for whom, against what a clock on the wall and a list of names say."""

from __future__ import annotations

import functools
import time
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from medic.errors import Invalid
from medic.playbook.glob import matches
from medic.schedule import Cron
from medic.suppression_rules import (
    Span,
    Timing,
    covers,
    is_active,
    is_within,
    next_due,
    parse_selector,
    passed,
    run_after,
    selects,
    spans,
)

ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"])
# Both changes of the clocks of each zone lie in these weeks of 2026, and days without one.
DAYS = st.sampled_from(
    [date(2026, 3, 7), date(2026, 3, 28), date(2026, 4, 4), date(2026, 6, 1), date(2026, 10, 3), date(2026, 10, 24),
     date(2026, 10, 31)]
)  # fmt: skip
NOW = datetime(2026, 1, 1, tzinfo=UTC)
WEEKDAYS = {"*": set(range(7)), "6": {5}, "1-5": set(range(5)), "0": {6}}


@functools.cache
def fires(day: date, hour: int, minute: int, zone: str) -> datetime:
    """When the clock of the zone first shows this, or the first moment behind a gap that holds it."""
    wanted = f"{day} {hour:02}:{minute:02}"
    naive = datetime(day.year, day.month, day.day, hour, minute, tzinfo=UTC)
    low = naive - (naive.astimezone(ZoneInfo(zone)).utcoffset() or timedelta(0)) - timedelta(hours=3)
    for step in range(60 * 6):
        at = low + timedelta(minutes=step)
        if at.astimezone(ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M") >= wanted:
            return at
    raise AssertionError(wanted)


@st.composite
def recurring(draw: st.DrawFn) -> tuple[Timing, list[Span], datetime]:
    """A window that recurs daily or on weekdays, its occurrences about a day, and a moment among them."""
    zone, day = draw(ZONES), draw(DAYS)
    hour, minute = (
        draw(st.integers(0, 23) | st.sampled_from([1, 2, 3])),
        draw(st.sampled_from([0, 15, 30, 59])),
    )
    weekday = draw(st.sampled_from(sorted(WEEKDAYS)))
    duration = timedelta(minutes=draw(st.integers(1, 50 * 60)))
    around = [day + timedelta(days=offset) for offset in range(-4, 8)]
    starts = [fires(one, hour, minute, zone) for one in around if one.weekday() in WEEKDAYS[weekday]]
    middle = datetime(day.year, day.month, day.day, tzinfo=UTC)
    moment = middle + timedelta(minutes=draw(st.integers(0, 36 * 60)))
    near = [
        s + d for s in starts for d in (timedelta(0), duration) if abs(s + d - middle) < timedelta(days=1)
    ]
    moment = draw(st.sampled_from([moment, *near])) + timedelta(microseconds=draw(st.integers(-1, 1)))
    low = draw(st.none() | st.integers(-30, 30).map(lambda h: moment + timedelta(hours=h)))
    high = draw(st.none() | st.integers(-30, 30).map(lambda h: moment + timedelta(hours=h, minutes=7)))
    if low is not None and high is not None and high <= low:
        high = None
    found = [Span(max(s, low or s), min(s + duration, high or s + duration)) for s in starts]
    timing = Timing(low, high, Cron(f"{minute} {hour} * * {weekday}", zone), duration)
    return timing, [span for span in found if span.start < span.end], moment


def holds(occurrences: list[Span], at: datetime) -> bool:
    return any(span.start <= at < span.end for span in occurrences)


BERLIN = Timing(cron=Cron("30 2 * * *", "Europe/Berlin"), duration=timedelta(hours=1))


@settings(max_examples=200, deadline=None)
@given(case=recurring())
# The clocks skip 02:30 on the one day, and show it twice on the other.
@example(
    (
        BERLIN,
        [Span(datetime(2026, 3, 29, 1, tzinfo=UTC), datetime(2026, 3, 29, 2, tzinfo=UTC))],
        datetime(2026, 3, 29, 1, 59, tzinfo=UTC),
    )
)
@example(
    (
        BERLIN,
        [Span(datetime(2026, 10, 25, 0, 30, tzinfo=UTC), datetime(2026, 10, 25, 1, 30, tzinfo=UTC))],
        datetime(2026, 10, 25, 1, 30, tzinfo=UTC),
    )
)
def test_a_window_holds_from_each_start_for_its_duration_and_within_its_bounds(
    case: tuple[Timing, list[Span], datetime]
) -> None:  # fmt: skip
    timing, occurrences, at = case
    assert is_active(timing, at) == holds(occurrences, at)
    run = run_after(timing, at)
    if run is not None and abs(run.end - at) < timedelta(days=1):
        assert run.end > at
        assert holds(occurrences, max(run.start, at))
        assert holds(occurrences, run.end - timedelta(microseconds=1))
        assert not holds(occurrences, run.end)
    if holds(occurrences, at):
        assert run is not None
        assert run.start <= at


@settings(max_examples=100, deadline=None)
@given(case=recurring(), hours=st.integers(1, 40))
def test_the_occurrences_between_two_moments_are_whole_and_none_is_missing(
    case: tuple[Timing, list[Span], datetime], hours: int
) -> None:
    timing, occurrences, since = case
    until = since + timedelta(hours=hours)
    wanted = [span for span in occurrences if span.start < until and span.end > since]
    assert sorted(spans(timing, since, until), key=lambda s: (s.start, s.end)) == sorted(
        wanted, key=lambda s: (s.start, s.end)
    )


@settings(max_examples=100, deadline=None)
@given(case=recurring(), notices=st.booleans(), hours=st.integers(0, 30))
def test_the_next_moment_is_never_before_a_change_and_what_passed_is_what_the_states_show(
    case: tuple[Timing, list[Span], datetime], notices: bool, hours: int
) -> None:
    timing, occurrences, at = case
    due = next_due(timing, at, notices=notices)
    moment = timedelta(microseconds=1)
    if due is None:
        assert not holds(occurrences, at)
        return
    assert due > at
    if due - at > timedelta(days=1):
        return
    before, behind = holds(occurrences, due - moment), holds(occurrences, due)
    assert (before, behind) in ({(True, False), (False, True)} if notices else {(True, False)})
    happened = passed(timing, due, due)
    assert (happened.has_ended, happened.newest) == ((True, "end") if before else (False, "start"))
    later = min(due + timedelta(hours=hours), at + timedelta(days=1))
    happened = passed(timing, due, later)
    assert (happened.newest == "start") == holds(occurrences, later)
    if before and not holds(occurrences, later):
        assert happened.has_ended


def test_a_window_that_is_over_has_no_next_moment() -> None:
    once = Timing(NOW, NOW + timedelta(hours=1))
    assert next_due(once, NOW - timedelta(1), notices=True) == NOW
    assert next_due(once, NOW - timedelta(1), notices=False) == NOW + timedelta(hours=1)
    assert next_due(once, NOW, notices=True) == NOW + timedelta(hours=1)
    assert next_due(once, NOW + timedelta(hours=1), notices=True) is None


@pytest.mark.parametrize(
    ("given_", "path"),
    [
        ({}, "ends_at"),
        ({"ends_at": NOW + timedelta(1), "duration": timedelta(1)}, "ends_at"),
        ({"ends_at": NOW}, "ends_at"),
        ({"starts_at": NOW + timedelta(2), "ends_at": NOW + timedelta(1)}, "ends_at"),
        ({"starts_at": datetime(9999, 1, 1, tzinfo=UTC), "duration": timedelta(3000)}, "ends_at"),
        ({"duration": timedelta(0)}, "ends_at"),
        ({"cron": "0 2 * * *"}, "duration"),
        ({"cron": "0 2 * * *", "duration": timedelta(seconds=59)}, "duration"),
        ({"cron": "0 2 1 * *", "duration": timedelta(days=32)}, "duration"),
        ({"cron": "* * * * *", "duration": timedelta(minutes=1)}, "duration"),
        ({"cron": "0 2 * * *", "duration": timedelta(hours=23), "timezone": "Europe/Berlin"}, "duration"),
        ({"cron": "x", "duration": timedelta(hours=1)}, "cron"),
        ({"cron": "0 2 * * *", "duration": timedelta(hours=1), "timezone": "Mars/Base"}, "timezone"),
        ({"cron": "0 2 * * *", "duration": timedelta(hours=1), "ends_at": NOW}, "ends_at"),
    ],
)
def test_times_that_make_no_window_are_refused(given_: dict[str, Any], path: str) -> None:
    fields = {"starts_at": None, "ends_at": None, "cron": None, "duration": None, "timezone": "UTC"} | given_
    with pytest.raises(Invalid) as refused:
        Timing.parse(**fields, now=NOW)
    assert [problem.path for problem in refused.value.problems] == [path]


def test_a_window_may_hold_once_in_decades() -> None:
    """A leap day that is a Sunday: what it is compared with ends before the calendar does."""
    rare = Timing.parse(
        starts_at=None, ends_at=None, cron="0 0 29 2 */7", duration=timedelta(days=1), timezone="UTC", now=NOW
    )
    start = datetime(2032, 2, 29, tzinfo=UTC)
    assert run_after(rare, NOW) == Span(start, start + timedelta(days=1))


def test_a_selector_is_the_union_of_what_it_names() -> None:
    selector = parse_selector({"services": ["web-*"], "tags": ["db"], "team": "sre"})
    assert selects(selector, name="web-1", tags=[], team=None)
    assert selects(selector, name="x", tags=["eu", "db"], team=None)
    assert selects(selector, name="x", tags=[], team="sre")
    assert not selects(selector, name="web", tags=["eu"], team="dba")
    assert not selects(parse_selector({"services": ["web"]}), name="x", tags=[], team=None)
    assert selects(parse_selector({"all": True}), name="x", tags=[], team=None)
    for wrong in ({}, {"all": False}, {"services": [], "tags": []}, {"all": True, "tags": ["db"]}):
        with pytest.raises(Invalid):
            parse_selector(wrong)


GLOBS = st.text("ab*?", min_size=1, max_size=6)
NAMES = st.text("ab", max_size=7)


@settings(max_examples=500)
@given(wide=GLOBS, narrow=GLOBS, name=NAMES)
@example("a?b", "a*b", "ab")
@example("?*", "*", "")
def test_a_glob_that_covers_another_fits_every_name_of_it(wide: str, narrow: str, name: str) -> None:
    if covers(wide, narrow) and matches(narrow, name):
        assert matches(wide, name)


@given(glob=GLOBS, name=NAMES)
def test_a_glob_covers_itself_and_its_names(glob: str, name: str) -> None:
    assert covers(glob, glob)
    assert covers("*", glob)
    assert covers(glob, name) == matches(glob, name)


def test_a_hundred_patterns_are_held_against_a_hundred_in_no_time() -> None:
    """A list of windows does so for each of them."""
    began = time.process_time()
    assert not is_within(
        {"services": ["team-99-" + "a" * 110] * 100 + ["x"]}, [f"team-{n}-*" for n in range(100)]
    )
    assert not is_within({"services": ["*" * 127 + "x"] * 100}, ["*" * 127 + str(n % 10) for n in range(100)])
    assert time.process_time() - began < 0.5


def test_only_names_keep_a_window_within_a_narrowed_key() -> None:
    assert is_within({"services": ["web-1", "web-*", "web-b*"]}, ["db", "web-*"])
    for wider in ({"all": True}, {"tags": ["web"]}, {"team": "web"}, {"services": ["web-1", "w*"]},
                  {"services": ["web-1"], "tags": ["web"]}):  # fmt: skip
        assert not is_within(wider, ["db", "web-*"])
