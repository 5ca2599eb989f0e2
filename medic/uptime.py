"""Uptime: a stretch of time divided into up, down and unknown.  Pure.

An open alert is down time, also while Medic could not hear; of the rest, what nobody watched is unknown, and
what is left was up.  A percentage speaks of what is known alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from medic.evaluator import Interval
from medic.evaluator.case import merged

DAY = timedelta(days=1)
_DECIMALS = 1_000


@dataclass(frozen=True, slots=True)
class Split:
    """Whole seconds; together as long as what was divided."""

    up_s: int
    down_s: int
    unknown_s: int

    @property
    def percent(self) -> float | None:
        return percent(self.up_s, self.down_s)


def day_of(day: date) -> Interval:
    """From midnight to midnight, in UTC."""
    start = datetime.combine(day, time(), UTC)
    return Interval(start, start + DAY)


def split(whole: Interval, *, down: Iterable[Interval], unknown: Iterable[Interval]) -> Split:
    """Divide a stretch of time.

    :param down: when an alert was open; may overlap, lie outside, or be empty.
    :param unknown: when nobody watched; the same.
    """
    is_down = _within(whole, down)
    either = _within(whole, [*is_down, *unknown])
    # Rounded as borders, not each by itself: so the parts never add up to more than the whole.
    total_s = _length(whole) // timedelta(seconds=1)
    down_s = min(total_s, _rounded(sum(map(_length, is_down), timedelta())))
    not_up_s = min(total_s, _rounded(sum(map(_length, either), timedelta())))
    return Split(total_s - not_up_s, down_s, not_up_s - down_s)


def percent(up_s: int, down_s: int) -> float | None:
    """How much of the known time it was up, in percent; none when nothing is known.

    Cut, not rounded, to three decimals: 100 means that it was never down.
    """
    known = up_s + down_s
    return 100 * _DECIMALS * up_s // known / _DECIMALS if known else None


def pauses(changes: Sequence[tuple[datetime, bool]], *, was_paused: bool, whole: Interval) -> list[Interval]:
    """When a service was paused.

    :param changes: each time and whether it was paused from then on, oldest first.
    :param was_paused: as it was before the first of them.
    """
    found = []
    since = whole.start if was_paused else None
    for at, is_paused in changes:
        if is_paused and since is None:
            since = at
        elif not is_paused and since is not None:
            found.append(Interval(since, at))
            since = None
    if since is not None:
        found.append(Interval(since, whole.end))
    return found


def _within(whole: Interval, parts: Iterable[Interval]) -> tuple[Interval, ...]:
    """Sorted, overlaps joined, cut at both ends."""
    return merged(
        [Interval(max(part.start, whole.start), part.end) for part in parts if part.end > whole.start],
        whole.end,
    )


def _length(interval: Interval) -> timedelta:
    return interval.end - interval.start


def _rounded(length: timedelta) -> int:
    return math.floor(length / timedelta(seconds=1) + 0.5)
