"""The smooth rate: one number for each subject.  Pure.

GCRA (ITU-T I.371, the "virtual scheduling" form; the same as a token bucket): ``tat`` is the moment at
which the bucket is full again.  A call of cost ``c`` moves it ``c`` intervals on, and passes when it then
lies at most ``burst`` intervals ahead of now.  Moments may be of any unit, the same for all arguments.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

SLACK = 0.001
"""A thousandth of a call: swallows the rounding of sums, and never lets one more call through."""


class RateVerdict(NamedTuple):
    """``tat`` is the new one, also when refused (then unchanged).  Times are of the argument's unit."""

    allowed: bool
    tat: float
    remaining: int
    reset_after: float
    retry_after: float


@dataclass(frozen=True, slots=True)
class Settlement:
    """What the shared bucket said; ``ahead`` is how far it is ahead of now, in seconds."""

    allowed: bool
    ahead: float


def admit(tat: float, *, now: float, interval: float, burst: int, cost: int) -> RateVerdict:
    """Judge one call.

    :param interval: the time that gives one call back.
    """
    allowed, moved = advance(tat, now=now, interval=interval, burst=burst, cost=cost)
    return RateVerdict(
        allowed=allowed,
        tat=moved,
        remaining=max(0, math.floor(burst - (moved - now) / interval + SLACK)),
        reset_after=moved - now,
        retry_after=0.0 if allowed else moved - now + (cost - burst) * interval,
    )


def advance(tat: float, *, now: float, interval: float, burst: int, cost: int) -> tuple[bool, float]:
    """`admit` without the words around it: whether the call passes, and the new ``tat``."""
    base = tat if tat > now else now  # noqa: FURB136 - a call of `max` costs more than all the rest here
    moved = base + cost * interval
    if moved - now - burst * interval <= SLACK * interval:
        return True, moved
    return False, base
