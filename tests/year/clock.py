"""Moments as whole microseconds since 1970, and the times of a wall clock, found the slow way.

Nothing here knows cronsim, oncalendar or `medic.schedule`: a schedule is a set of times of day and a
question that each day answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICRO = timedelta(microseconds=1)
SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

ZONES = (
    "UTC", "Europe/Berlin", "Europe/London", "America/New_York", "America/Santiago", "Asia/Kolkata",
    "Australia/Sydney", "Australia/Lord_Howe",
)  # fmt: skip


def micros(moment: datetime) -> int:
    return (moment - EPOCH) // MICRO


def moment(at: int) -> datetime:
    return EPOCH + at * MICRO


@dataclass(frozen=True, eq=False)
class Wall:
    """Times of a wall clock, and how cron or systemd writes them.

    :param elapses: a cron that keeps to elapsed time, as its minute or hour starts with a star.
    """

    kind: str
    expression: str
    hours: tuple[int, ...]
    minutes: tuple[int, ...]
    on: Callable[[date], bool]
    elapses: bool = False


def _daily(_: date) -> bool:
    return True


def _month_ends(day: date) -> bool:
    return (day + timedelta(days=1)).day == 1


WALLS: tuple[Wall, ...] = (
    Wall("cron", "30 2 * * *", (2,), (30,), _daily),
    Wall("cron", "0 0 * * *", (0,), (0,), _daily),
    Wall("cron", "0,30 1,2,3 * * *", (1, 2, 3), (0, 30), _daily),
    Wall("cron", "15 4 * * 1-5", (4,), (15,), lambda day: day.weekday() < 5),
    Wall("cron", "0 6 * * 0", (6,), (0,), lambda day: day.weekday() == 6),
    Wall("cron", "0 5 1,15 * 1", (5,), (0,), lambda day: day.day in {1, 15} or day.weekday() == 0),
    Wall("cron", "45 23 31 * *", (23,), (45,), lambda day: day.day == 31),
    Wall("cron", "0 3 29 2 *", (3,), (0,), lambda day: (day.month, day.day) == (2, 29)),
    Wall("cron", "0 */8 * * *", (0, 8, 16), (0,), _daily, elapses=True),
    Wall("cron", "30 2-6 * * 6", (2, 3, 4, 5, 6), (30,), lambda day: day.weekday() == 5),
    Wall("on_calendar", "*-*-* 02:30", (2,), (30,), _daily),
    Wall("on_calendar", "daily", (0,), (0,), _daily),
    Wall("on_calendar", "Mon..Fri 08:00", (8,), (0,), lambda day: day.weekday() < 5),
    Wall("on_calendar", "Sun *-*-* 01,02,03:15", (1, 2, 3), (15,), lambda day: day.weekday() == 6),
    Wall("on_calendar", "*-*~01 23:00", (23,), (0,), _month_ends),
    Wall("on_calendar", "*-02-29 04:00", (4,), (0,), lambda day: (day.month, day.day) == (2, 29)),
    Wall("on_calendar", "*-*-* 00/8:00", (0, 8, 16), (0,), _daily),
)  # fmt: skip
FREQUENT: tuple[Wall, ...] = (
    Wall("cron", "*/20 * * * *", tuple(range(24)), (0, 20, 40), _daily, elapses=True),
    Wall("cron", "0 * * * *", tuple(range(24)), (0,), _daily, elapses=True),
    Wall("on_calendar", "hourly", tuple(range(24)), (0,), _daily),
)


@cache
def times_of(wall: Wall, zone: str, first: date, last: date) -> list[int]:
    """Every expected time of these days, in order."""
    if wall.kind == "cron" and wall.elapses:
        return _elapsing(wall, zone, first, last)
    clock = ZoneInfo(zone)
    found = set()
    day = first
    while day <= last:
        for hour in wall.hours if wall.on(day) else ():
            for minute in wall.minutes:
                # A time that repeats is the first one of the two.
                local = datetime(day.year, day.month, day.day, hour, minute, tzinfo=clock)
                at = local.astimezone(UTC)
                if at.astimezone(clock).replace(tzinfo=None) == local.replace(tzinfo=None):
                    found.add(micros(at))
                elif wall.kind == "cron":
                    found.add(micros(_after_the_gap(at, clock)))
        day += timedelta(days=1)
    return sorted(found)


def _after_the_gap(at: datetime, clock: ZoneInfo) -> datetime:
    """The moment at which the clock was put forward, not long before."""
    minute = timedelta(minutes=1)
    while (at - minute).astimezone(clock).utcoffset() == at.astimezone(clock).utcoffset():
        at -= minute
    return at


def _elapsing(wall: Wall, zone: str, first: date, last: date) -> list[int]:
    """Each moment at which the clock shows such a time: twice when it repeats, never when it is skipped."""
    clock = ZoneInfo(zone)
    at = datetime(first.year, first.month, first.day, tzinfo=UTC) - timedelta(days=1)
    end = datetime(last.year, last.month, last.day, tzinfo=UTC) + timedelta(days=2)
    found = []
    while at < end:
        local = at.astimezone(clock)
        if local.hour in wall.hours and local.minute in wall.minutes and wall.on(local.date()):
            found.append(micros(at))
        at += timedelta(minutes=5)
    return found
