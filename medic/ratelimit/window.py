"""The exact sliding window: how many calls were let through in the last minute?  Pure.

The log of a subject holds the moments of the calls that passed, oldest first, a call of cost ``c`` as
``c`` entries, never more than the limit of them in one window.  An entry counts while it is younger than
the window: one at ``e`` is out at ``e + window``.  Refused calls are not logged, so a client that keeps
calling is let in again as soon as there is room.

Moments are whole microseconds, so that this and the Redis script (`medic.ratelimit.scripts`) agree to
the last call.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WindowVerdict:
    """Times are microseconds.  The caller drops ``expired`` entries and, if allowed, appends ``at``."""

    allowed: bool
    expired: int
    at: int
    remaining: int
    reset_after: int
    retry_after: int


def judge(log: Sequence[int], *, now: int, window: int, limit: int, cost: int) -> WindowVerdict:
    """Judge one call against the log.

    A clock that stepped back must neither lose calls nor lock anybody out: within one window the call
    counts as made at the newest entry, further back the log is void.
    """
    count = len(log)
    expired = 0
    at = now
    if count:
        newest = log[-1]
        if newest > now + window:
            expired = count
        else:
            at = max(now, newest)
            expired = bisect_right(log, at - window)
    used = count - expired
    allowed = used + cost <= limit
    if allowed:
        return WindowVerdict(
            allowed=True, expired=expired, at=at, remaining=limit - used - cost, reset_after=window, retry_after=0
        )  # fmt: skip
    # A cost above the limit never passes; the whole window is the honest answer that stays finite.
    leaver = expired + used + cost - limit - 1
    retry_after = window if cost > limit else log[leaver] + window - at
    reset_after = log[-1] + window - at if used else 0
    return WindowVerdict(
        allowed=False, expired=expired, at=at, remaining=max(0, limit - used),
        reset_after=reset_after, retry_after=retry_after,
    )  # fmt: skip
