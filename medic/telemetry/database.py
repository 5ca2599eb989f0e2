"""What the database costs: how long statements take, how full the pool is, which connections break."""

from __future__ import annotations

import re
import time
from functools import lru_cache
from typing import Any, Final
from weakref import WeakSet

from prometheus_client import Histogram
from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext

from medic.telemetry import metrics

_WORDS: Final = frozenset({"select", "insert", "update", "delete", "with", "execute"})
_FIRST: Final = re.compile(r"\s*([A-Za-z]+)")
_BROKEN: Final = ("08", "53", "57P")
"""Of a server's verdict on a connection: it broke, there are too many, or the server stops."""

_measured: WeakSet[Engine] = WeakSet()


def measure_engine(engine: Engine) -> None:
    """Feed the database's metrics from this engine, here and in later forks.  Safe to call twice."""
    if engine in _measured:
        return
    _measured.add(engine)
    event.listen(engine, "before_cursor_execute", _begins)
    event.listen(engine, "after_cursor_execute", _ends)
    event.listen(engine, "handle_error", _fails)
    size = engine.pool.size() if hasattr(engine.pool, "size") else 0

    def checked_out(*_: Any) -> None:
        metrics.DB_POOL_SIZE.set(size)
        metrics.DB_POOL_IN_USE.inc()

    def checked_in(*_: Any) -> None:
        metrics.DB_POOL_IN_USE.dec()

    event.listen(engine, "checkout", checked_out)
    event.listen(engine, "checkin", checked_in)


def _begins(*arguments: Any) -> None:
    context = arguments[4]
    if context is not None:
        context.medic_began = time.perf_counter()


def _ends(*arguments: Any) -> None:
    _, _, statement, _, context, _ = arguments
    began = getattr(context, "medic_began", None)
    if began is not None:
        _seconds(_operation(statement)).observe(time.perf_counter() - began)


def _fails(context: ExceptionContext) -> None:
    code = getattr(context.original_exception, "pgcode", None) or ""
    # A connection that could not be made at all belongs to no connection and has no verdict.
    unmade = context.connection is None and not code
    if context.is_disconnect or unmade or code.startswith(_BROKEN):
        metrics.DB_CONNECTION_ERRORS.inc()


def _operation(statement: str) -> str:
    match = _FIRST.match(statement)
    word = match[1].lower() if match else ""
    return word if word in _WORDS else "other"


@lru_cache
def _seconds(operation: str) -> Histogram:
    """Finding the child of a metric by its labels costs more than counting does."""
    return metrics.DB_SECONDS.labels(operation)
