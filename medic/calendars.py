"""Working hours: whether a moment lies in them, and when that changes.  Pure.

Hours are kept by weekday as ``{"mon": [["09:00", "17:30"]]}``: from the first time on, up to the second, on the clock
of the calendar's zone; ``24:00`` is the end of the day.  A holiday is a whole day of that clock without any.  An hour
that the clocks repeat is worked twice, one that they skip not at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any, Final
from zoneinfo import ZoneInfo

from medic.errors import Invalid, Problem
from medic.times import parse_zone

WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MAX_SPANS: Final = 24
"""Of a weekday."""

_TIME = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])|24:00", re.ASCII)
_DAY_MINUTES = 24 * 60
_DAY = timedelta(days=1)
_HOUR = timedelta(hours=1)
_SECOND = timedelta(seconds=1)


def parse_hours(value: Mapping[str, Sequence[Sequence[str]]]) -> dict[str, list[list[str]]]:
    """Hours in the form in which they are kept: weekdays in their order, spans by their beginning.

    :raises Invalid: naming every span that is wrong.
    """
    problems = [
        Problem(f"hours.{day}", f"is no weekday; write {', '.join(WEEKDAYS)}")
        for day in value
        if day not in WEEKDAYS
    ]
    kept: dict[str, list[list[str]]] = {}
    for day in WEEKDAYS:
        spans = [list(span) for span in value.get(day, ())]
        if len(spans) > MAX_SPANS:
            problems.append(Problem(f"hours.{day}", f"has more than {MAX_SPANS} spans"))
        found = [_problem(f"hours.{day}.{number}", span) for number, span in enumerate(spans)]
        wrong = [problem for problem in found if problem is not None]
        spans.sort()
        if not wrong and any(later[0] < earlier[1] for earlier, later in pairwise(spans)):
            wrong.append(Problem(f"hours.{day}", "has spans that overlap"))
        problems += wrong
        if spans:
            kept[day] = spans
    if problems:
        raise Invalid(f"{problems[0].path}: {problems[0].message}", problems=tuple(problems))
    return kept


def _problem(path: str, span: Sequence[str]) -> Problem | None:
    if len(span) != 2 or not all(_TIME.fullmatch(part) for part in span):
        return Problem(path, 'is no span of hours, as ["09:00", "17:30"]')
    if span[0] >= span[1]:
        return Problem(
            path, "ends before it begins; hours over midnight are two spans, up to 24:00 and from 00:00"
        )
    return None


def is_working(hours: Mapping[str, Any], holidays: Sequence[date], timezone: str, at: datetime) -> bool:
    """Whether a moment lies in the working hours."""
    local = at.astimezone(parse_zone(timezone))
    if local.date() in holidays:
        return False
    minute = local.hour * 60 + local.minute
    return any(start <= minute < end for start, end in _spans(hours, local.date()))


def next_change(
    hours: Mapping[str, Any], holidays: Sequence[date], timezone: str, at: datetime
) -> datetime | None:
    """The first moment after ``at`` at which work begins or ends, in UTC; None when it never does."""
    zone = parse_zone(timezone)
    now = is_working(hours, holidays, timezone, at)
    for day in _days(hours, frozenset(holidays), at.astimezone(zone).date()):
        own = _moments(hours, day, zone)
        # Where the clocks are put back over midnight, moments of two days lie between one another.
        for moment in sorted(own | _moments(hours, day + _DAY, zone)):
            if at < moment <= max(own) and is_working(hours, holidays, timezone, moment) != now:
                return moment
    return None


def _spans(hours: Mapping[str, Any], day: date) -> Iterator[tuple[int, int]]:
    for start, end in hours.get(WEEKDAYS[day.weekday()], ()):
        yield _minute(start), _minute(end)


def _minute(text: str) -> int:
    return int(text[:2]) * 60 + int(text[3:])


def _days(hours: Mapping[str, Any], holidays: frozenset[date], today: date) -> Iterable[date]:
    """The days, in order, one of which holds the next change if there is one."""
    monday = today - today.weekday() * _DAY
    weekdays = [list(_spans(hours, monday + number * _DAY)) for number in range(7)]
    if not any(weekdays):
        return ()
    if all(_is_whole(spans) for spans in weekdays):
        # Only holidays interrupt it: their beginnings and ends.
        near = {day + step * _DAY for day in holidays for step in (0, 1)} | {today, today + _DAY}
        return sorted(day for day in near if day >= today)
    # A week without a holiday has a change, and so has the week behind the last one; a zone may leave out a day.
    ahead = sum(1 for day in holidays if day >= today)
    days = (today + number * _DAY for number in range(-1, 7 * (ahead + 3)))
    # Work begins and ends at days that have some: the others cost nothing, however many holidays there are.
    return (
        day for day in days if _has_work(weekdays, holidays, day) or _has_work(weekdays, holidays, day + _DAY)
    )


def _has_work(weekdays: Sequence[Sequence[object]], holidays: frozenset[date], day: date) -> bool:
    return day not in holidays and bool(weekdays[day.weekday()])


def _is_whole(spans: Sequence[tuple[int, int]]) -> bool:
    reached = 0
    for start, end in sorted(spans):
        if start > reached:
            return False
        reached = max(reached, end)
    return reached == _DAY_MINUTES


def _moments(hours: Mapping[str, Any], day: date, zone: ZoneInfo) -> set[datetime]:
    """Every moment of a local day at which work may begin or end."""
    midnight = datetime(day.year, day.month, day.day)  # noqa: DTZ001 - the clock of the zone, which is put on below
    walls = {midnight, midnight + _DAY}
    for span in _spans(hours, day):
        walls |= {midnight + timedelta(minutes=minute) for minute in span}
    moments = {wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for wall in walls for fold in (0, 1)}
    return moments | set(_jumps(min(moments), max(moments), zone))


def _jumps(start: datetime, end: datetime, zone: ZoneInfo) -> Iterator[datetime]:
    """The moments at which the zone's clocks are changed, found by halving the hour around each."""
    at = start
    while at < end:
        low, high = at, min(at + _HOUR, end)
        before, at = _offset(low, zone), high
        if before == _offset(high, zone):
            continue
        while high - low > _SECOND:
            middle = low + (high - low) // _SECOND // 2 * _SECOND
            if _offset(middle, zone) == before:
                low = middle
            else:
                high = middle
        yield high


def _offset(at: datetime, zone: ZoneInfo) -> timedelta | None:
    return at.astimezone(zone).utcoffset()
