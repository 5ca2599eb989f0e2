"""A thread that says "I am alive" while the program runs."""

from __future__ import annotations

import os
import threading
import time
import weakref
from datetime import timedelta
from types import TracebackType
from typing import Self

from medic.client import exchange
from medic.client.courier import TRY_S
from medic.client.heartbeat import Heartbeat, clock
from medic.client.notices import Notice
from medic.client.program import Medic
from medic.times import parse_duration

_STOP_S = 1.0
_SHORTEST_S = 0.05


class Beat:
    """Sends ``ok`` for a service, at once and then every so often, from a daemon thread.

    It never raises into the program and never ends by itself.  A beat that cannot be sent is not kept: it says
    that the program lives now, and Medic does not count its own absence against a service.

    After a fork the child beats too, so that a program that goes into the background keeps its beat.  Where a
    parent forks workers, start the beat in the one process whose life it stands for, or say
    ``in_children=False``: workers that beat would hide that their parent died.

    :param every: seconds, or text as ``30s`` or ``5m``.
    :raises Invalid: when ``every`` is no duration.
    """

    def __init__(
        self, client: Medic, service: str, every: float | str | timedelta = 30, *, in_children: bool = True
    ) -> None:
        if isinstance(every, str):
            every = parse_duration(every, path="every")
        seconds = every.total_seconds() if isinstance(every, timedelta) else float(every)
        self._every = max(seconds, _SHORTEST_S)
        self._client = client
        self._service = service
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        if in_children:
            _IN_CHILDREN.add(self)

    def start(self) -> Self:
        """Begin to beat; again is harmless."""
        if self._thread is None:
            exchange.load()
            self._stop = threading.Event()
            thread = threading.Thread(
                target=self._beat, args=(self._stop,), name=f"medic-beat-{self._service}", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:
                self._client.tell(Notice.NO_SPOOL, f"No thread can be started to beat for {self._service}.")
            else:
                self._thread = thread
        return self

    def stop(self) -> None:
        """Leave off; waits a second at most for a beat that is on its way."""
        thread, self._thread = self._thread, None
        self._stop.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(_STOP_S)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _beat(self, stop: threading.Event) -> None:
        due = time.monotonic()
        while not stop.is_set():
            try:
                signal = Heartbeat(self._service, "ok", clock())
                self._client.courier().deliver(signal, within=min(TRY_S, self._every), keep=False)
            except Exception as error:  # noqa: BLE001 - a beat must not end because of one bad moment
                self._client.tell(Notice.AWAY, f"A beat of {self._service} failed: {type(error).__name__}.")
            now = time.monotonic()
            due = max(due + self._every, now)  # a beat that took too long is not made up for
            stop.wait(due - now)

    def _after_fork(self) -> None:
        if self._thread is not None:  # it ran in the parent; threads do not come along
            self._thread = None
            self.start()


_IN_CHILDREN: weakref.WeakSet[Beat] = weakref.WeakSet()


def _restart_all() -> None:
    for beat in list(_IN_CHILDREN):
        beat._after_fork()  # noqa: SLF001 - ours


os.register_at_fork(after_in_child=_restart_all)
