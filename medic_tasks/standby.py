"""Beat's own sweep of services, for when nobody else sweeps: the broker is away, or the worker of `medic.system`.

The tick in the database tells.  A thread of beat looks at it; when it is older than three intervals, beat takes the
ticks and sweeps by itself, and ends windows and mutes, until somebody else takes one.  So an outage of the broker delays no alert row, and while only that worker is away, messages leave all the same.
"""

from __future__ import annotations

import threading
from datetime import datetime, timedelta

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from medic.db import database_now, in_transaction
from medic.deliveries.due import due_targets, hint
from medic.executions.dispatch import dispatch
from medic.ticks import last_tick, take_tick
from medic.vitals import SERVICES_TICK
from medic_tasks.suppression import end_quiet
from medic_tasks.sweeps import judge

LATE_INTERVALS = 3
OWN_PACE = 1.1
"""In intervals, the time between own sweeps: a worker that is back finds a tick to take within a few of them."""

log = structlog.get_logger("medic.standby")


class Standby:
    """Sweeps in the place of the worker when that does not.

    :param every_s: the interval of ticks.
    """

    def __init__(self, engine: Engine, *, every_s: float) -> None:
        self._engine = engine
        self._every_s = every_s
        self._first_look: datetime | None = None
        self._own_tick: datetime | None = None

    def start(self) -> None:
        """Look from now on, in a thread that ends with the process; what it is at then is rolled back."""
        threading.Thread(target=self._run, name="standby", daemon=True).start()

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            pause.wait(self._every_s * (1 if self._own_tick is None else OWN_PACE))
            try:
                self.look()
            except (DBAPIError, PoolTimeout) as error:
                log.warning("standby.database_away", error=type(error).__name__)
            except Exception:
                log.exception("standby.failed")

    def look(self) -> bool:
        """Sweep if nobody else does; whether it did."""
        now, last, is_taken = in_transaction(self._engine, self._take)
        self._first_look = self._first_look or now
        was_own = self._own_tick is not None and last == self._own_tick
        if not is_taken:
            if self._own_tick is not None and not was_own:
                log.info("standby.over")
                self._own_tick = None
            return False
        self._own_tick = now
        if not was_own:
            log.warning("standby.sweeps", because="the last tick is older than three intervals")
        swept = judge(self._engine)
        end_quiet(self._engine)  # what it wakes is judged by the next look
        for execution_id in swept.started:
            if not dispatch(self._engine, execution_id=execution_id, epoch=0):
                # The rest is due, and dispatched by the sweep of executions when the broker is back.
                return True
        # Their own tick runs where the sweep should have run.
        due = in_transaction(self._engine, lambda session: due_targets(session, now=database_now(session)))
        for target_id in due:
            if not hint([target_id]):
                break
        return True

    def _take(self, session: Session) -> tuple[datetime, datetime | None, bool]:
        """The time, the last tick before it, and whether this one is taken."""
        now, last = database_now(session), last_tick(session, SERVICES_TICK)
        late = timedelta(seconds=self._every_s * LATE_INTERVALS)
        if last is None and now - (self._first_look or now) < late:
            return now, last, False  # a new database: the worker has yet to start
        is_own = last is not None and last == self._own_tick
        least = timedelta(seconds=self._every_s / 2) if is_own else late
        return now, last, take_tick(session, SERVICES_TICK, at_least=least)
