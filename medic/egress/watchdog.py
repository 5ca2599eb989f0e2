"""The absolute end of an exchange.

Timeouts of sockets are per operation: a server that sends one byte in time, again and again, is never
stopped by them.  So one thread per exchange waits for the deadline and breaks off whatever is being
waited for.  A broken-off read looks like the end of the data, and a cut header block may still parse as
a good answer: whoever waited must ask `check` before believing what it got.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Self

_log = logging.getLogger("medic.egress")
_POLL = 0.1

Verdict = Literal["timeout", "cancelled"]


class BrokenOff(Exception):
    """The watchdog ended the exchange; ``verdict`` says why."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict)
        self.verdict = verdict


class Watchdog:
    """Watches one exchange on behalf of the thread that runs it.  Used as a context manager.

    :param seconds: how long the exchange may last in total.
    :param cancelled: asked ten times a second, from another thread; must answer at once.
    """

    def __init__(self, seconds: float, cancelled: Callable[[], bool] | None = None) -> None:
        self._ends_at = time.monotonic() + seconds
        self._cancelled = cancelled
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._break_off: Callable[[], object] | None = None
        self._guard: socket.socket | None = None
        self._verdict: Verdict | None = None
        self._thread = threading.Thread(target=self._watch, name="medic-egress-watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        self.release()

    @property
    def remaining(self) -> float:
        """Seconds until the deadline, never less than a millisecond: zero means "do not block" to a socket."""
        return max(self._ends_at - time.monotonic(), 0.001)

    def check(self) -> None:
        """Go on, or not.

        :raises BrokenOff: when the deadline has passed or the exchange was cancelled.
        """
        if self._verdict is None and time.monotonic() >= self._ends_at:
            raise BrokenOff("timeout")
        if self._verdict is not None:
            raise BrokenOff(self._verdict)

    def wait(self, event: threading.Event) -> None:
        """Wait for an event of this exchange.

        :raises BrokenOff: when it does not come in time.
        """
        self._arm(event.set)
        came = event.wait(self.remaining)
        self._arm(None)
        self.check()
        if not came:
            raise BrokenOff("timeout")

    def guard(self, sock: socket.socket) -> None:
        """Shut this socket down when the time is over.

        A duplicate of the descriptor is kept, since the TLS layer takes the original object over.
        """
        self.release()
        self._guard = guard = sock.dup()
        self._arm(lambda: guard.shutdown(socket.SHUT_RDWR))

    def release(self) -> None:
        """Let go of the socket guarded last."""
        self._arm(None)
        if self._guard is not None:
            self._guard.close()
            self._guard = None

    def _arm(self, break_off: Callable[[], object] | None) -> None:
        with self._lock:
            self._break_off = break_off
            if self._verdict is not None:
                self._fire()

    def _fire(self) -> None:
        if self._break_off is not None:
            with contextlib.suppress(OSError):  # not connected any more: nothing is left to break off
                self._break_off()

    def _watch(self) -> None:
        verdict: Verdict = "timeout"
        while (left := self._ends_at - time.monotonic()) > 0:
            if self._done.wait(left if self._cancelled is None else min(left, _POLL)):
                return
            if self._was_cancelled():
                verdict = "cancelled"
                break
        with self._lock:
            self._verdict = verdict
            self._fire()

    def _was_cancelled(self) -> bool:
        try:
            return self._cancelled is not None and self._cancelled()
        except Exception:  # noqa: BLE001  whatever it is, the deadline must hold
            _log.exception("asking whether a request is cancelled failed; it is ended")
            return True
