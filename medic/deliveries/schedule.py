"""When a message that did not arrive is tried again.  Pure: the jitter comes from the message itself."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from uuid import UUID

LEASE = timedelta(seconds=90)
"""How long a worker may take to send and to record it.  Nothing renews it: no kind of target is at one message for
longer than `medic.targets.base.LONGEST_SEND`."""

PAUSES_S = (5, 15, 60, 300, 900, 1800, 3600)
"""After the first failure, the second, …; the last one repeats."""

JITTER = 0.2
PATIENCE = timedelta(hours=24)
MAX_TRIES = 40
MAX_LOSSES = 3
"""Workers that may be lost over one message: who knows whether it is the message that kills them."""

IN_FLIGHT = 2
"""Messages on their way to one target: one that hangs holds up few workers, one that is lost not all others."""

TRIES_WITH_OTHERS = 3
"""Tries while another target stands ready to be told in this one's place."""

LONGEST_RETRY_AFTER_S = 3600.0
REST = timedelta(seconds=15)
"""The most that the other messages of a target wait when it did not answer: one tries it for all."""
LONGEST_REST_S = 300.0
"""The same, when the target itself asked for time."""


def retry_at(
    key: UUID, *, tries: int, created_at: datetime, now: datetime, retry_after: float | None = None,
    others: bool = False,
) -> datetime | None:  # fmt: skip
    """The moment of the next try; nothing when it is to be given up.

    :param tries: failures so far, this one included.
    :param retry_after: seconds that the target asked for.
    :param others: whether another target can be told instead.
    """
    if tries >= (TRIES_WITH_OTHERS if others else MAX_TRIES):
        return None
    pause = PAUSES_S[min(tries, len(PAUSES_S)) - 1] * (1 + JITTER * (2 * _chance(key, tries) - 1))
    if retry_after is not None:
        pause = max(pause, min(retry_after, LONGEST_RETRY_AFTER_S))
    at = now + timedelta(seconds=pause)
    return at if at <= created_at + PATIENCE else None


def _chance(key: UUID, tries: int) -> float:
    """A number in [0, 1) that looks random, and is the same for whoever computes it."""
    digest = hashlib.sha256(key.bytes + tries.to_bytes(4, "big")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
