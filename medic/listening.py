"""One process's own record that it hears, kept by the thread that commits its heartbeats.

While it refuses heartbeats (its queue was full just now, its last group could not be stored) it records nothing,
and neither can it while the database is away.  A single fault is over in time for the next record: whose heartbeats it
cost is stored by service.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable

import structlog
from sqlalchemy import Connection

from medic import coverage
from medic.db import AtOnce
from medic.refusals import Refusals
from medic.telemetry import metrics

EVERY_S = 5.0
AGAIN_S = 1.0
"""How soon it is tried again when nothing could be recorded."""
REFUSING_S = 3.0
"""How long a fault, or a full queue, counts as refusing.  With `EVERY_S` it stays below the tolerance of 10 s."""
REFUSALS_AT_ONCE = 5_000
"""Of a flood as many are stored between two groups, which wait meanwhile."""

log = structlog.get_logger("medic.ingest")


class Listening:
    """The record of this process; `keep` and `end` are for the committing thread alone."""

    def __init__(self) -> None:
        self.process = uuid.uuid4()
        self.refusals = Refusals()
        self._covered_at = time.monotonic()
        self._next_at = self._covered_at
        self._fault_at: float | None = None
        self._full_at: float | None = None
        self._is_told = False

    @property
    def uncovered_s(self) -> float:
        """How long ago it last recorded that it hears, or began to listen."""
        return time.monotonic() - self._covered_at

    @property
    def patience_s(self) -> float:
        """How long until `keep` is due."""
        return max(0.0, self._next_at - time.monotonic())

    @property
    def is_due(self) -> bool:
        return time.monotonic() >= self._next_at

    def stored(self) -> None:
        """A group was committed."""
        self._fault_at = None

    def failed(self) -> None:
        """A group could not be stored, through no fault of its senders."""
        self._fault_at = time.monotonic()

    def full(self) -> None:
        """A heartbeat found no room in the queue."""
        self._full_at = time.monotonic()

    def keep(self, at_once: AtOnce) -> None:
        """Store whom it refused, and that it hears, if it does."""
        is_covered = self._flush(at_once) and not self._refuses() and self._record(at_once)
        now = time.monotonic()
        if is_covered:
            self._covered_at = now
        self._next_at = now + (EVERY_S if is_covered else AGAIN_S)
        uncovered = 0.0 if is_covered else now - self._covered_at
        metrics.INGEST_UNCOVERED_SECONDS.set(uncovered)
        if is_covered and self._is_told:
            self._is_told = False
            log.info("ingest.hears_again")
        elif uncovered >= 2 * EVERY_S and not self._is_told:
            self._is_told = True
            log.warning("ingest.cannot_hear", seconds=round(uncovered))

    def end(self, at_once: AtOnce) -> None:
        """The process stops on purpose; all of its heartbeats are answered."""
        while self.refusals and self._flush(at_once):
            pass
        self._record(at_once, closed=True)

    def _flush(self, at_once: AtOnce) -> bool:
        """Store whom it refused, or as many as may be stored at once."""
        refused = self.refusals.take(REFUSALS_AT_ONCE)
        if not refused:
            return True
        is_stored = self._run(at_once, lambda connection: coverage.record_refusals(connection, refused))
        if not is_stored:
            self.refusals.give_back(refused)
        return is_stored

    def _record(self, at_once: AtOnce, *, closed: bool = False) -> bool:
        return self._run(at_once, lambda connection: coverage.record(connection, self.process, closed=closed))

    @staticmethod
    def _run(at_once: AtOnce, work: Callable[[Connection], None]) -> bool:
        try:
            at_once.run(work)
        except Exception as error:  # noqa: BLE001 - nothing may stop the thread that commits
            log.debug("ingest.not_recorded", error=type(error).__name__)
            return False
        return True

    def _refuses(self) -> bool:
        newest = max(self._fault_at or 0.0, self._full_at or 0.0)
        return newest > 0.0 and time.monotonic() - newest < REFUSING_S
