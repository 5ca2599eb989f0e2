"""The lane of large batches: each is a transaction of its own, in the thread of its request.

A batch gains nothing from sharing a commit, and single heartbeats must not wait behind one.  What can be done
without the database is done by all at the same time; one after the other they are stored, as two that lock the
same rows only make each other read them again.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from medic import heartbeats
from medic.db import in_transaction
from medic.errors import Invalid, Unavailable
from medic.group_commit import AWAY, FULL, PATIENCE_S, UNSTORABLE, of_sender, refusal
from medic.heartbeats import Signal, Written


class BatchLane:
    """Writes large batches for the threads of one process."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._turn = threading.Lock()

    def write(self, signals: Sequence[Signal]) -> list[Written]:
        """Store the signals; returns when they are committed.

        :raises Unavailable: there is no place, or the database is away.
        :raises Invalid: PostgreSQL refuses a value of these signals, of which none is stored.
        """
        try:
            encoded = heartbeats.encode(signals)
            if not self._turn.acquire(timeout=PATIENCE_S):
                raise Unavailable(FULL, retry_after=2)
            try:
                return in_transaction(
                    self._engine, lambda session: heartbeats.write_encoded(session.connection(), encoded)
                )
            finally:
                self._turn.release()
        except DBAPIError as error:
            raise (refusal(error) if of_sender(error) else Unavailable(AWAY, retry_after=5)) from None
        except ValueError:  # refused before PostgreSQL saw it
            raise Invalid(UNSTORABLE) from None
        except PoolTimeout:
            raise Unavailable(AWAY, retry_after=5) from None
