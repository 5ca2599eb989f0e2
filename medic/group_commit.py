"""Group commit: heartbeats that arrive together share one transaction; each is answered after it commits.

One thread per process takes what has gathered and commits it; while it does, the next group gathers.
Alone, a heartbeat waits for nothing but its own commit.  The queue is bounded: beyond it callers are told
to come back, and nothing that was refused is stored.

Errors concern only those who caused them: a value that PostgreSQL refuses (class 22 or 23) splits the group
in halves until it stands alone; a deadlock or serialization failure is tried once more; a database that
is away, or a commit whose answer was lost, is a 503 for the whole group.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from medic import heartbeats
from medic.db import AtOnce, in_transaction, sqlstate
from medic.errors import Invalid, MedicError, NotFound, Unavailable
from medic.heartbeats import Signal, Written

QUEUE_LIMIT = 10_000
"""Signals that may wait in one process; at the least speed that is worth running, some seconds' worth."""
GROUP_LIMIT = 1_000
PATIENCE_S = 15.0
"""A caller waits no longer; a database that takes longer is as good as away."""

AWAY = (
    "The database is away; it is not known whether the heartbeat was stored. Send it again with the same id."
)
FULL = "Medic has more heartbeats waiting than it can take; send it again."


@dataclass(slots=True, eq=False)
class _Waiting:
    """One caller's signals, and where the answer goes."""

    signals: Sequence[Signal]
    done: threading.Event = field(default_factory=threading.Event)
    written: list[Written] | None = None
    error: MedicError | None = None


class GroupCommit:
    """Writes signals for the threads of one process.

    :param queue_limit: signals that may wait; beyond it callers are told to come back.
    :param group_limit: signals in one transaction.
    """

    def __init__(
        self, engine: Engine, *, queue_limit: int = QUEUE_LIMIT, group_limit: int = GROUP_LIMIT
    ) -> None:
        self._engine = engine
        self._queue_limit = queue_limit
        self._group_limit = group_limit
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._queue: deque[_Waiting] = deque()
        self._queued = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._at_once = AtOnce(self._engine)

    def write(self, signals: Sequence[Signal]) -> list[Written]:
        """Store the signals; returns when they are committed.

        :raises Unavailable: the queue is full, Medic stops, or the database is away.
        :raises Invalid: PostgreSQL refuses a value of these very signals.
        """
        waiting = _Waiting(signals)
        with self._changed:
            if self._closing or self._queued + len(signals) > self._queue_limit:
                raise Unavailable(FULL, retry_after=2)
            if self._thread is None:
                # Daemon: an interpreter that ends without `close` must not hang on it.
                self._thread = threading.Thread(target=self._run, name="group-commit", daemon=True)
                self._thread.start()
            self._queue.append(waiting)
            self._queued += len(signals)
            self._changed.notify()
        if not waiting.done.wait(PATIENCE_S):
            raise Unavailable(AWAY, retry_after=5)
        if waiting.error is not None:
            raise waiting.error
        assert waiting.written is not None
        return waiting.written

    @property
    def depth(self) -> int:
        """Signals that wait now."""
        return self._queued

    def close(self) -> None:
        """Take no more, and commit what was accepted."""
        with self._changed:
            self._closing = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            group = self._take()
            if not group:
                self._at_once.close()
                return
            self._commit(group)

    def _take(self) -> list[_Waiting]:
        """The next group; empty when there is nothing more to come."""
        with self._changed:
            while not self._queue:
                if self._closing:
                    return []
                self._changed.wait()
            group: list[_Waiting] = []
            size = 0
            while self._queue and (not group or size + len(self._queue[0].signals) <= self._group_limit):
                size += len(self._queue[0].signals)
                group.append(self._queue.popleft())
            self._queued -= size
            return group

    def _commit(self, group: list[_Waiting]) -> None:
        signals = [signal for waiting in group for signal in waiting.signals]
        try:
            written = self._write(signals)
        except DBAPIError as error:
            if sqlstate(error)[:2] in {"22", "23"} and not _partition_is_missing(error):
                self._split(group, error)
            else:
                self._fail(group, Unavailable(AWAY, retry_after=5))
        except PoolTimeout:
            self._fail(group, Unavailable(AWAY, retry_after=5))
        except Exception as error:  # noqa: BLE001 - every caller gets an answer, whatever broke
            self._fail(group, MedicError(f"The heartbeat could not be stored ({type(error).__name__})."))
        else:
            at = 0
            for waiting in group:
                waiting.written = written[at : at + len(waiting.signals)]
                at += len(waiting.signals)
                waiting.done.set()

    def _write(self, signals: list[Signal]) -> list[Written]:
        if any(signal.follows_run for signal in signals):
            return in_transaction(self._engine, lambda session: heartbeats.write(session, signals))
        return self._at_once.run(lambda connection: heartbeats.write_on(connection, signals))

    def _split(self, group: list[_Waiting], error: DBAPIError) -> None:
        """Nothing of the group is stored; find whose value it was."""
        if len(group) == 1:
            self._fail(group, refusal(error))
            return
        middle = len(group) // 2
        self._commit(group[:middle])
        self._commit(group[middle:])

    @staticmethod
    def _fail(group: list[_Waiting], error: MedicError) -> None:
        for waiting in group:
            waiting.error = error
            waiting.done.set()


def _partition_is_missing(error: DBAPIError) -> bool:
    """The day has no partition: Medic's fault, not the sender's.  It is a check violation without a name."""
    diagnostics = getattr(error.orig, "diag", None)
    return sqlstate(error) == "23514" and getattr(diagnostics, "constraint_name", None) is None


def refusal(error: DBAPIError) -> MedicError:
    """What a refused value means to its sender."""
    if sqlstate(error) == "23503":
        return NotFound("The service was deleted a moment ago.")
    return Invalid("A value is outside of what can be stored.")
