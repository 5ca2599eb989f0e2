"""Two beats that tick at the same moments, and two sweepers at whatever the ticks ask for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from threading import Barrier
from types import TracebackType
from typing import Self

from sqlalchemy import Engine, text

from medic.db import in_transaction
from medic.ticks import take_tick
from tests.year.simulation import sweep_all

JOB = "sweep-services"
_PASS = text("UPDATE ticks SET last_at = last_at - :time WHERE job = :job")


class Team:
    """``checked``: by sweeper, the services that it judged.  ``surplus``: ticks that were dropped."""

    def __init__(self, engine: Engine, interval: timedelta) -> None:
        self.engine, self.interval = engine, interval
        self.checked = [0, 0]
        self.surplus = 0
        self._at: datetime | None = None
        self._pool = ThreadPoolExecutor(2)
        self._together = Barrier(2)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()

    def tick(self, at: datetime) -> None:
        """Both beats tick; the tick that is taken is delivered twice, as a broker may do."""
        # Ticks are the database's own clock: since the last one, as much time has passed as the year says.
        with self.engine.begin() as connection:
            connection.execute(_PASS, {"time": at - (self._at or at), "job": JOB})
        self._at = at
        taken = list(self._pool.map(lambda _: self._beat(), range(2)))
        assert taken.count(True) == 1
        self.surplus += taken.count(False)
        for number, checked in enumerate(self._pool.map(lambda _: self._sweep(at), range(2))):
            self.checked[number] += checked

    def _beat(self) -> bool:
        self._together.wait(timeout=30)
        return in_transaction(
            self.engine, lambda session: take_tick(session, JOB, at_least=self.interval / 2)
        )

    def _sweep(self, at: datetime) -> int:
        self._together.wait(timeout=30)
        return sweep_all(self.engine, at)
