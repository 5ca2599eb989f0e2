"""When to leave Redis alone: after a failure for `PAUSE` seconds, then one caller tries again."""

from __future__ import annotations

import threading

import structlog

from medic.telemetry import metrics

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

PAUSE = 5.0
"""Seconds.  A call that waits for a dead Redis costs up to two timeouts; once in five seconds is bearable."""


class Circuit:
    """Closed: Redis is asked.  Open: it is not, but for one probe in each `PAUSE`.

    One WARNING when it opens, one INFO when it closes; nothing in between.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = True
        self._retry_at = 0.0

    @property
    def closed(self) -> bool:
        return self._closed

    def lets_through(self, *, now: float) -> bool:
        """Whether this caller may ask Redis.  A caller that may, reports `succeeded` or `failed`."""
        if self._closed:
            return True
        with self._lock:
            # The second condition: a clock that stepped back must not keep the circuit open.
            if now >= self._retry_at or self._retry_at - now > PAUSE:
                self._retry_at = now + PAUSE
                return True
            return self._closed

    def succeeded(self) -> None:
        if self._closed:
            return
        with self._lock:
            reopened = not self._closed
            self._closed = True
        if reopened:
            metrics.RATE_LIMIT_DEGRADED.set(0)
            log.info("ratelimit.recovered", message="Redis answers again; limits are shared again.")

    def failed(self, error: Exception, *, now: float) -> None:
        with self._lock:
            first = self._closed
            self._closed = False
            self._retry_at = now + PAUSE
        if first:
            metrics.RATE_LIMIT_DEGRADED.set(1)
            metrics.RATE_LIMIT_DEGRADATIONS.inc()
            # The type alone: redis-py's texts may hold the address.
            log.warning(
                "ratelimit.degraded",
                message="Redis does not answer; each process limits by itself until it does.",
                error=type(error).__name__,
            )

    def after_fork(self) -> None:
        """The lock may have been held by a thread that the child does not have."""
        self._lock = threading.Lock()
