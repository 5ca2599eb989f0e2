"""When a service is expected: four kinds of schedule as plain values.  Pure; UTC in, UTC out.

A cron time that a change of the clocks skips fires once, after the gap; one that repeats fires once,
the first time (as `cronsim`, which follows Debian's cron).  A cron whose minute or hour starts with a
star fires whenever the clock shows such a time: twice when it repeats, never when it is skipped.
`OnCalendar` follows systemd: a skipped time does not fire.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import assert_never
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from oncalendar import OnCalendar as CalendarTimes
from oncalendar import OnCalendarError

from medic.errors import Invalid
from medic.times import format_duration, parse_duration, parse_zone

_MACROS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_MAX_COUNT = 10_000
_MAX_EXPRESSION = 1_000
# Fixed, since parsing reads no clock: a cron must fire after the first, an OnCalendar expression
# after the second (its library ends with the year 2199), so that a schedule never runs dry.
_ANY_TIME = datetime(2000, 1, 1, tzinfo=UTC)
_FAR_AHEAD = datetime(2190, 1, 1, tzinfo=UTC)
_STRIDE = timedelta(days=2)
_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Every:
    """A signal at the latest `period` after the one before."""

    period: timedelta


@dataclass(frozen=True, slots=True)
class Cron:
    """Five cron fields, read on the clock of the IANA zone `zone`."""

    expression: str
    zone: str


@dataclass(frozen=True, slots=True)
class OnCalendar:
    """systemd OnCalendar expressions, one a line; `zone` holds for those that name none."""

    expression: str
    zone: str


@dataclass(frozen=True, slots=True)
class AtLeast:
    """`count` successes or more in every window of length `within`."""

    count: int
    within: timedelta


Schedule = Every | Cron | OnCalendar | AtLeast
Calendar = Cron | OnCalendar


def parse_schedule(
    *,
    every: object = None,
    cron: object = None,
    on_calendar: object = None,
    at_least: object = None,
    within: object = None,
    timezone: object = None,
    default_zone: str = "UTC",
) -> Schedule:
    """Read a schedule from a service's flat fields; `None` means that a field was not given.

    :raises Invalid: naming the field that is wrong.
    """
    kinds = {"every": every, "cron": cron, "on_calendar": on_calendar, "at_least": at_least}
    given = [name for name, value in kinds.items() if value is not None]
    if not given:
        raise Invalid.at("every", "give a schedule: every, cron, on_calendar, or at_least with within")
    if len(given) > 1:
        raise Invalid.at(given[1], f"give one schedule only, not {' and '.join(given)}")
    if within is not None and at_least is None:
        raise Invalid.at("within", "goes with at_least only")
    zone = parse_zone(default_zone if timezone is None else timezone).key
    if every is not None:
        return Every(_period(every, "every"))
    if cron is not None:
        return _cron(cron, zone)
    if on_calendar is not None:
        return _on_calendar(on_calendar, zone)
    if isinstance(at_least, bool) or not isinstance(at_least, int) or not 1 <= at_least <= _MAX_COUNT:
        raise Invalid.at("at_least", f"must be a whole number from 1 to {_MAX_COUNT}")
    if within is None:
        raise Invalid.at("within", "is needed beside at_least, as 1h")
    return AtLeast(at_least, _period(within, "within"))


def occurrence_after(schedule: Schedule, at: datetime) -> datetime:
    """The first expected time later than `at`; for `Every` and `AtLeast` one length after it."""
    match schedule:
        case Every(period):
            return at + period
        case AtLeast(_, within):
            return at + within
        case Cron() | OnCalendar():
            return next(occurrences(schedule, at))
        case _:
            assert_never(schedule)


def occurrences(schedule: Calendar, after: datetime) -> Iterator[datetime]:
    """The expected times later than `after`, ever later, without end in practice."""
    start = after.astimezone(ZoneInfo(schedule.zone))
    times: Iterator[datetime]
    if isinstance(schedule, Cron):
        is_elapsing = any(field.startswith("*") for field in schedule.expression.split()[:2])
        times = _elapsing(schedule, after) if is_elapsing else CronSim(schedule.expression, start)
    else:
        times = CalendarTimes(schedule.expression, start)
    last = after
    for local in times:
        at = local.astimezone(UTC)
        # Both libraries walk the wall clock: inside a repeated hour they look back by an hour, and
        # two times that fall into the same gap come out as the same moment.
        if at > last:
            last = at
            yield at


def _elapsing(schedule: Cron, after: datetime) -> Iterator[datetime]:
    """Each moment at which the clock shows such a time, from one change of the clock to the next.

    `cronsim` by itself walks on by whole hours, and past a change of half an hour (Lord Howe) loses a time.
    """
    zone = ZoneInfo(schedule.zone)
    # The clock is `offset` ahead at `known`, and nothing up to `at` is asked for.
    at = known = after
    offset = _offset(zone, known)
    while True:
        for local in CronSim(schedule.expression, at.replace(tzinfo=None) + offset):
            found = (local - offset).replace(tzinfo=UTC)
            # More than one change may lie on the way to a far one: the stretches at both its ends are looked at.
            is_far = found - at > 2 * _STRIDE
            near = at + _STRIDE if is_far else found
            if _offset(zone, near) != offset:
                known = _change(zone, known, near)
                at, offset = known - _SECOND, _offset(zone, known)
                break
            if is_far:
                at = known = found - _STRIDE
                offset = _offset(zone, known)
                break
            yield found
            at = known = found
        else:
            return


def _offset(zone: ZoneInfo, at: datetime) -> timedelta:
    return at.astimezone(zone).utcoffset() or timedelta(0)


def _change(zone: ZoneInfo, before: datetime, behind: datetime) -> datetime:
    """The first second at which the clock is no longer ahead as it was at `before`, and as it is at `behind`."""
    offset, start = _offset(zone, before), before.replace(microsecond=0)
    low, high = 0, (behind - start) // _SECOND
    while high - low > 1:
        middle = (low + high) // 2
        if _offset(zone, start + middle * _SECOND) == offset:
            low = middle
        else:
            high = middle
    return start + high * _SECOND


def describe(schedule: Schedule) -> str:
    """One short line for people, as ``every 5m`` or ``cron 0 2 * * * (Europe/Berlin)``."""
    match schedule:
        case Every(period):
            return f"every {format_duration(period)}"
        case Cron(expression, zone):
            return f"cron {expression} ({zone})"
        case OnCalendar(expression, zone):
            return f"on calendar {'; '.join(expression.splitlines())} ({zone})"
        case AtLeast(count, within):
            return f"at least {count} within {format_duration(within)}"
        case _:
            assert_never(schedule)


def _period(value: object, path: str) -> timedelta:
    period = parse_duration(value, path=path)
    if period < timedelta(seconds=1):
        raise Invalid.at(path, "must be 1s or longer")
    return period


def _text(value: object, path: str) -> str:
    text = value.strip() if isinstance(value, str) else ""
    if not text or len(text) > _MAX_EXPRESSION:
        raise Invalid.at(path, f"must be text, 1 to {_MAX_EXPRESSION} characters")
    return text


def _cron(value: object, zone: str) -> Cron:
    text = _text(value, "cron")
    fields = _MACROS.get(text.lower(), text).split()
    if len(fields) != 5:
        raise Invalid.at("cron", "must have five fields: minute, hour, day, month, weekday, as 0 2 * * *")
    schedule = Cron(" ".join(fields), zone)
    try:
        occurrence_after(schedule, _ANY_TIME)
    except CronSimError as error:
        raise Invalid.at("cron", f"cannot be read ({str(error).lower()})") from None
    except StopIteration:
        raise Invalid.at("cron", "never fires: no month has such a day") from None
    return schedule


def _on_calendar(value: object, zone: str) -> OnCalendar:
    lines = [line.strip() for line in _text(value, "on_calendar").splitlines() if line.strip()]
    for line in lines:
        try:
            occurrence_after(OnCalendar(line, zone), _FAR_AHEAD)
        except OnCalendarError as error:
            raise Invalid.at("on_calendar", f"cannot be read ({str(error).lower()}): {line}") from None
        except StopIteration:
            raise Invalid.at("on_calendar", f"ends, or never fires; leave the year out: {line}") from None
    return OnCalendar("\n".join(lines), zone)
