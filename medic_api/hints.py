"""Dispatch right after the commit, as a hint: nobody waits for the broker, and a failure changes no answer.

The row is due; what is lost here, the sweep dispatches.  An API without a broker leaves all of them to it.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import structlog
from sqlalchemy import Engine

from medic.executions.dispatch import dispatch

WAITING = 100
"""Hints that may wait for a broker that is slow; the rest is the sweep's."""

log = structlog.get_logger("medic_api")


class Hints:
    """Two threads, started at the first hint and not before a server forks its workers.

    :param has_broker: without one nothing is dispatched here, so that the row stays due.
    """

    def __init__(self, engine: Engine, *, has_broker: bool = True) -> None:
        self._engine = engine
        self._has_broker = has_broker
        self._room = threading.Semaphore(WAITING)
        self._threads: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def give(self, execution_id: UUID, *, epoch: int) -> None:
        """Dispatch this execution soon.  Call it after the commit."""
        if not self._has_broker or not self._room.acquire(blocking=False):
            return
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(2, thread_name_prefix="medic-hint")
        self._threads.submit(self._dispatch, execution_id, epoch)

    def _dispatch(self, execution_id: UUID, epoch: int) -> None:
        try:
            dispatch(self._engine, execution_id=execution_id, epoch=epoch)
        except Exception as error:  # noqa: BLE001 - a hint: whatever went wrong, the row is due
            log.warning("hint.failed", execution_id=str(execution_id), error=type(error).__name__)
        finally:
            self._room.release()

    def close(self) -> None:
        """Wait for the hints that were given."""
        with self._lock:
            if self._threads is not None:
                self._threads.shutdown()
                self._threads = None
