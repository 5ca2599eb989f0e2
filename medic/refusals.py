"""Heartbeats that this process refused, by service, until they are stored (`medic.coverage`).

They are counted in memory, so that a refusal stays as cheap as it is; in a flood as well as without the database.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from medic.models.monitoring import NAME_PATTERN

Kind = Literal["limit", "queue"]
"""`limit`: too many calls.  `queue`: Medic could not take it; its queue was full, or its database away."""

CAPACITY = 100_000
"""Services that are remembered; each costs some 200 bytes."""

_NAME = re.compile(NAME_PATTERN, re.ASCII)


@dataclass(slots=True)
class Refused:
    """Heartbeats of one service, by its id or name: when the first and the last was refused, and how many."""

    service: int | str
    kind: Kind
    first: float
    last: float
    count: int = 1


class Refusals:
    """What the threads of one process refused since it was last stored."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[tuple[int | str, Kind], Refused] = {}

    def note(self, services: Iterable[int | str], kind: Kind) -> None:
        """Count one heartbeat for each mention of a service.

        :param services: ids, or names as they were given: one of nobody is found out when it is stored.
        """
        at = time.monotonic()
        with self._lock:
            for service in services:
                held = self._held.get((service, kind))
                if held is not None:
                    held.last = at
                    held.count += 1
                elif len(self._held) < CAPACITY and (isinstance(service, int) or _NAME.fullmatch(service)):
                    self._held[service, kind] = Refused(service, kind, at, at)

    def take(self, limit: int) -> list[Refused]:
        """Up to so many, oldest first; they are no longer here."""
        if not self._held:
            return []
        with self._lock:
            keys = [key for key, _ in zip(self._held, range(limit), strict=False)]
            return [self._held.pop(key) for key in keys]

    def give_back(self, taken: Sequence[Refused]) -> None:
        """They could not be stored."""
        with self._lock:
            for one in taken:
                newer = self._held.get((one.service, one.kind))
                if newer is None:
                    self._held[one.service, one.kind] = one
                else:
                    newer.first = one.first
                    newer.count += one.count

    def __bool__(self) -> bool:
        return bool(self._held)
