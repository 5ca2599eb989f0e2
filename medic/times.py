"""Times and durations: the one place that parses and prints them.  Pure.

Durations are written ``90``, ``90s``, ``5m``, ``2h``, ``1d`` or ``1h30m``; a bare number is seconds.
Times are RFC 3339 with an offset; a time without one is refused, since nobody knows what it means.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from medic.errors import Invalid

_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_DURATION = re.compile(r"(?:(\d{1,6})d)?(?:(\d{1,6})h)?(?:(\d{1,7})m)?(?:(\d{1,9})s)?", re.ASCII)
_BARE = re.compile(r"\d{1,9}", re.ASCII)
_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:([Zz])|([+-])(\d\d):?(\d\d))", re.ASCII
)

MAX_DURATION = timedelta(days=3_660)
"""Ten years and a day: longer than any schedule, short enough that sums stay inside `datetime`."""


def parse_duration(value: object, *, path: str = "duration") -> timedelta:
    """Read a duration.

    :param value: text as in the module's docstring, or a whole number of seconds.
    :raises Invalid: when it is neither, or longer than `MAX_DURATION`.
    """
    seconds: int | None = None
    if isinstance(value, bool):
        pass
    elif isinstance(value, int):
        seconds = value if value >= 0 else None
    elif isinstance(value, str):
        text = value.strip()
        if _BARE.fullmatch(text):
            seconds = int(text)
        elif text and (match := _DURATION.fullmatch(text)):
            seconds = sum(
                int(part) * unit for part, unit in zip(match.groups(), _UNITS.values(), strict=True) if part
            )
    if seconds is None:
        raise Invalid.at(path, "is not a duration; write 90s, 5m, 2h, 1d or 1h30m")
    if seconds > MAX_DURATION.total_seconds():
        raise Invalid.at(path, "is longer than 3660d")
    return timedelta(seconds=seconds)


def format_duration(value: timedelta) -> str:
    """Print a duration so that `parse_duration` reads it back; fractions of a second are dropped."""
    rest = int(value.total_seconds())
    if rest == 0:
        return "0s"
    parts = []
    for unit, size in _UNITS.items():
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def parse_time(value: object, *, path: str = "time") -> datetime:
    """Read an RFC 3339 time with an offset, as UTC; digits past the microsecond are cut.

    :raises Invalid: when it is no time, or names no offset.
    """
    match = _TIME.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise Invalid.at(path, "is not a time with an offset, as 2026-11-23T09:30:00Z")
    year, month, day, hour, minute, second, fraction, zulu, sign, off_h, off_m = match.groups()
    micro = int((fraction or "0")[:6].ljust(6, "0"))
    try:
        # RFC 3339 allows second 60; no leap second is stored, so it reads as the last moment before.
        leap = second == "60"
        at = datetime(
            int(year), int(month), int(day), int(hour), int(minute), 59 if leap else int(second),
            999_999 if leap else micro, tzinfo=UTC,
        )  # fmt: skip
        if not zulu:
            if int(off_h) > 23 or int(off_m) > 59:
                raise Invalid.at(path, "has an impossible offset")
            offset = timedelta(hours=int(off_h), minutes=int(off_m))
            at = at - offset if sign == "+" else at + offset
    except (ValueError, OverflowError):
        raise Invalid.at(path, "is not a time of the calendar") from None
    return at


def format_time(value: datetime) -> str:
    """Print a time as RFC 3339 in UTC with ``Z``; microseconds only when there are any."""
    return value.astimezone(UTC).isoformat()[:-6] + "Z"


def parse_zone(name: object, *, path: str = "timezone") -> ZoneInfo:
    """Read an IANA zone name, as ``Europe/Berlin``.

    :raises Invalid: when no such zone is known.
    """
    if isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9_+\-]+(/[A-Za-z0-9_+\-]+)*", name):
        try:
            return ZoneInfo(name)
        except (KeyError, ValueError, OSError):
            pass
    raise Invalid.at(path, "is not an IANA time zone, as Europe/Berlin")
