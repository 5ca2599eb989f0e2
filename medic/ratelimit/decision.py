"""What the limiter says about one call, and how HTTP says it."""

from __future__ import annotations

import math
from typing import NamedTuple

WINDOW = 60
"""Every limit counts calls in this many seconds."""

WINDOW_US = WINDOW * 1_000_000
"""The same in microseconds, the unit of exact windows."""


class Decision(NamedTuple):
    """One call was judged.  ``reset_after`` and ``retry_after`` are seconds from now.

    `remaining` calls of cost 1 would pass right now.  After `reset_after` the whole allowance is back.
    `retry_after` is 0 when the call is allowed; else a call of the same cost passes after it, if nobody
    else calls meanwhile (a cost above what the class ever lets through at once never passes).
    """

    policy: str
    allowed: bool
    limit: int
    remaining: int
    reset_after: float
    retry_after: float


def headers(decision: Decision) -> dict[str, str]:
    """The response headers of a call that was judged.

    ``RateLimit-Policy`` and ``RateLimit`` follow draft-ietf-httpapi-ratelimit-headers-11 (2026-05-23),
    which is still a draft and may change.  ``Retry-After`` (RFC 9110, section 10.2.3) comes with a
    refusal; it is the one that clients can rely on.
    """
    name = decision.policy
    fields = {
        "RateLimit-Policy": f'"{name}";q={decision.limit};w={WINDOW}',
        "RateLimit": f'"{name}";r={decision.remaining};t={math.ceil(decision.reset_after)}',
    }
    if not decision.allowed:
        fields["Retry-After"] = str(max(1, math.ceil(decision.retry_after)))
    return fields
