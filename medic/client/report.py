"""The signals of one run: its start beside the job, its end within a patience, whatever Medic does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from medic.client.courier import TRY_S, Courier, Fate
from medic.client.heartbeat import Heartbeat

_PAUSE_S = 0.5
_START_S = 1.0
"""How long the end of a short run waits for the start's answer, so that the two arrive in their order."""


class RunReport:
    """Tells Medic of one run, from threads of its own.

    :param courier: makes the courier; called in a thread, as it reads files that may lie on a slow disk.
    """

    def __init__(self, courier: Callable[[], Courier]) -> None:
        self._make = courier
        self._courier: Courier | None = None
        self._own: list[str] = []
        self._unsettled: dict[str, Heartbeat] = {}
        self._started = threading.Event()
        self._ended = threading.Event()
        self._over = threading.Event()

    def start(self, heartbeat: Heartbeat) -> None:
        """Send the start, then what waits in the spool, for as long as the run lasts.  Returns at once."""
        self._add(heartbeat)
        self._in_thread(lambda: self._send_start(heartbeat))

    def finish(self, heartbeat: Heartbeat, *, patience: float) -> None:
        """Send the end; returns once it is sent, or after ``patience`` seconds, or when told to `hurry`.

        What is not sent by then is in the spool.
        """
        until = time.monotonic() + patience
        self._add(heartbeat)
        self._ended.set()
        if patience > 0 and self._in_thread(lambda: self._send_end(heartbeat, until)):
            self._over.wait(patience)
        self._over.set()
        for left in list(self._unsettled.values()):
            with suppress(Exception):
                self._carrier().keep(left)

    def hurry(self) -> None:
        """Leave off waiting in `finish`."""
        self._over.set()

    def _send_start(self, heartbeat: Heartbeat) -> None:
        courier = self._carrier()
        self._settle(heartbeat, courier.deliver(heartbeat))
        self._started.set()
        courier.persist(first=self._own, until=float("inf"), stop=self._ended)

    def _send_end(self, heartbeat: Heartbeat, until: float) -> None:
        try:
            courier = self._carrier()
            if len(self._unsettled) > 1:
                self._started.wait(min(_START_S, (until - time.monotonic()) / 2))
            while not self._over.is_set() and (left := until - time.monotonic()) > 0:
                fate = courier.deliver(heartbeat, within=min(TRY_S, left))
                self._settle(heartbeat, fate)
                if fate is not Fate.LOST:
                    break
                self._over.wait(max(_PAUSE_S, courier.pause))  # no spool: all there is to do is to try again
            courier.persist(first=self._own, until=until, stop=self._over, for_first=True)
        finally:
            self._over.set()

    def _add(self, heartbeat: Heartbeat) -> None:
        self._own.append(heartbeat.id)
        self._unsettled[heartbeat.id] = heartbeat

    def _settle(self, heartbeat: Heartbeat, fate: Fate) -> None:
        if fate is not Fate.LOST:
            self._unsettled.pop(heartbeat.id, None)

    def _carrier(self) -> Courier:
        if self._courier is None:
            self._courier = self._make()
        return self._courier

    def _in_thread(self, work: Callable[[], None]) -> bool:
        def guarded() -> None:
            with suppress(Exception):  # whatever goes wrong here is no business of the job
                work()

        try:
            threading.Thread(target=guarded, name="medic-report", daemon=True).start()
        except RuntimeError:  # no more threads here: `finish` puts it into the spool
            return False
        return True
