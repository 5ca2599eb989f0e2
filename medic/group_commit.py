"""Group commit: heartbeats that arrive together share one transaction; each is answered after it commits.

One thread per process takes what has gathered and commits it; while it does, the next group gathers.
Alone, a heartbeat waits for nothing but its own commit.  Each caller sleeps on a bare lock that the committing
thread opens: with hundreds of callers, what a wake costs is much of what a heartbeat costs.  The queue is bounded: beyond it callers are told
to come back, and nothing that was refused is stored.

Errors concern only those who caused them: a value that PostgreSQL refuses (class 22 or 23) splits the group
in halves until it stands alone; a deadlock or serialization failure is tried once more; a database that
is away, or a commit whose answer was lost, is a 503 for the whole group.

In a process that listens the same thread also keeps record that it hears, and whom it refused: see
`medic.listening`.  Whoever writes on no behalf of an API keeps none.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable, Sequence

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from medic import heartbeats
from medic.db import AtOnce, in_transaction, sqlstate
from medic.errors import Invalid, MedicError, NotFound, Unavailable
from medic.heartbeats import Signal, Written
from medic.listening import Listening
from medic.refusals import Kind

QUEUE_LIMIT = 10_000
"""Signals that may wait in one process; at the least speed that is worth running, some seconds' worth."""
GROUP_LIMIT = 1_000
PATIENCE_S = 15.0
"""A caller waits no longer; a database that takes longer is as good as away."""

AWAY = (
    "The database is away; it is not known whether the heartbeat was stored. Send it again with the same id."
)
UNSTORABLE = "A value is outside of what can be stored."
FULL = "Medic has more heartbeats waiting than it can take; send it again."


class _Waiting:
    """One caller's signals, and where the answer goes."""

    __slots__ = ("answered", "error", "signals", "written")

    def __init__(self, signals: Sequence[Signal]) -> None:
        self.signals = signals
        self.written: list[Written] | None = None
        self.error: MedicError | None = None
        # Held until there is an answer; whoever takes it then has waited for that.
        self.answered = threading.Lock()
        self.answered.acquire()


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
        self._listens = False
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._queue: deque[_Waiting] = deque()
        self._queued = 0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._is_idle = False
        self._work = threading.Lock()
        self._work.acquire()
        self._at_once = AtOnce(self._engine)
        # After a fork the child is a process of its own; it hears from its first heartbeat on.
        self._listening = Listening() if self._listens else None

    def listen(self) -> None:
        """Keep record from now on that this process hears.  It serves heartbeats, until it closes."""
        with self._lock:
            self._listens = True
            self._listening = self._listening or Listening()
            self._start()
            self._wake()

    @property
    def uncovered_s(self) -> float:
        """For how long this process could not record that it hears; 0 if it does not listen."""
        return 0.0 if self._listening is None else self._listening.uncovered_s

    def refused(self, services: Iterable[int | str], kind: Kind) -> None:
        """Heartbeats of these services (ids or names) were refused before they came here."""
        if self._listening is not None:
            self._listening.refusals.note(services, kind)

    def write(self, signals: Sequence[Signal]) -> list[Written]:
        """Store the signals; returns when they are committed.

        :raises Unavailable: the queue is full, Medic stops, or the database is away.
        :raises Invalid: PostgreSQL refuses a value of these very signals.
        """
        waiting = _Waiting(signals)
        with self._lock:
            is_taken = not self._closing and self._queued + len(signals) <= self._queue_limit
            if is_taken:
                self._start()
                self._queue.append(waiting)
                self._queued += len(signals)
                self._wake()
        if not is_taken:
            if self._listening is not None:
                self._listening.full()
            self._note(signals)
            raise Unavailable(FULL, retry_after=2)
        if not waiting.answered.acquire(timeout=PATIENCE_S):
            self._note(signals)
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
        with self._lock:
            self._closing = True
            self._wake()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _start(self) -> None:
        """Called under the lock."""
        if self._thread is None:
            # Daemon: an interpreter that ends without `close` must not hang on it.
            self._thread = threading.Thread(target=self._run, name="group-commit", daemon=True)
            self._thread.start()

    def _wake(self) -> None:
        """Called under the lock.  A thread that is committing looks by itself when it is done."""
        if self._is_idle:
            self._is_idle = False
            self._work.release()

    def _run(self) -> None:
        while (group := self._take()) is not None:
            if group:
                self._commit(group)
            if self._listening is not None and self._listening.is_due:
                self._listening.keep(self._at_once)
        if self._listening is not None:
            self._listening.end(self._at_once)
        self._at_once.close()

    def _take(self) -> list[_Waiting] | None:
        """The next group; empty when something else is to be looked at, None when there is nothing more to come."""
        with self._lock:
            if self._queue:
                return self._gathered()
            if self._closing:
                return None
            self._is_idle = True
            # -1 waits for ever.
            patience = -1.0 if self._listening is None else self._listening.patience_s
        if not self._work.acquire(timeout=patience):
            with self._lock:
                if not self._is_idle:
                    self._work.acquire()  # somebody woke us just now
                self._is_idle = False
        return []

    def _gathered(self) -> list[_Waiting]:
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
            if of_sender(error):
                self._split(group, refusal(error))
            else:
                self._lose(group, Unavailable(AWAY, retry_after=5))
        except ValueError:
            # The driver and json refuse some values before PostgreSQL sees them: NUL, half a surrogate pair, NaN.
            self._split(group, Invalid(UNSTORABLE))
        except PoolTimeout:
            self._lose(group, Unavailable(AWAY, retry_after=5))
        except Exception as error:  # noqa: BLE001 - every caller gets an answer, whatever broke
            self._lose(group, MedicError(f"The heartbeat could not be stored ({type(error).__name__})."))
        else:
            if self._listening is not None:
                self._listening.stored()
            at = 0
            for waiting in group:
                waiting.written = written[at : at + len(waiting.signals)]
                at += len(waiting.signals)
                waiting.answered.release()

    def _write(self, signals: list[Signal]) -> list[Written]:
        if any(signal.follows_run for signal in signals):
            return in_transaction(self._engine, lambda session: heartbeats.write(session, signals))
        return self._at_once.run(lambda connection: heartbeats.write_on(connection, signals))

    def _split(self, group: list[_Waiting], error: MedicError) -> None:
        """Nothing of the group is stored; find whose value it was."""
        if len(group) == 1:
            self._fail(group, error)
            return
        middle = len(group) // 2
        self._commit(group[:middle])
        self._commit(group[middle:])

    def _lose(self, group: list[_Waiting], error: MedicError) -> None:
        """It is Medic that failed, and not the senders."""
        if self._listening is not None:
            self._listening.failed()
        for waiting in group:
            self._note(waiting.signals)
        self._fail(group, error)

    def _note(self, signals: Sequence[Signal]) -> None:
        self.refused((signal.service.id for signal in signals), "queue")

    @staticmethod
    def _fail(group: list[_Waiting], error: MedicError) -> None:
        for waiting in group:
            waiting.error = error
            waiting.answered.release()


def of_sender(error: DBAPIError) -> bool:
    """Whether a value of the signals is what PostgreSQL refuses.

    A day without a partition is Medic's fault, not the sender's; it is a check violation without a name.
    """
    diagnostics = getattr(error.orig, "diag", None)
    no_partition = sqlstate(error) == "23514" and getattr(diagnostics, "constraint_name", None) is None
    return sqlstate(error)[:2] in {"22", "23"} and not no_partition


def refusal(error: DBAPIError) -> MedicError:
    """What a refused value means to its sender."""
    if sqlstate(error) == "23503":
        return NotFound("The service was deleted a moment ago.")
    return Invalid(UNSTORABLE)
