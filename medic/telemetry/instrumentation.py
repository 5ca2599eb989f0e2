"""Spans that libraries make: Flask, SQLAlchemy, Celery, Redis, requests.

Call each after `traces.configure_tracing`; with tracing off each returns at once.  All are safe to call twice.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from medic.telemetry.traces import shutdown_tracing, tracing_enabled

# Each library's instrumentation, and here and there the library itself, is loaded only where tracing is on.
# ruff: noqa: PLC0415

if TYPE_CHECKING:
    from sqlalchemy import Engine

# Probes and scrapes come every few seconds and tell nothing.
_UNTRACED = r"^https?://[^/]+/(health(/[^?]*)?|metrics)/?(\?|$)"

_engines: WeakSet[Engine] = WeakSet()


def instrument_flask(app: Any) -> None:
    """Spans of requests.  Call it before any ``before_request`` of one's own, so that those run inside the span."""
    if not tracing_enabled() or getattr(app, "_is_instrumented_by_opentelemetry", False):
        return
    from opentelemetry.instrumentation.flask import FlaskInstrumentor

    FlaskInstrumentor.instrument_app(app, excluded_urls=_UNTRACED, enable_commenter=False)  # type: ignore[no-untyped-call]


def instrument_engine(engine: Engine) -> None:
    """Spans of statements on this engine, with their text and without their parameters."""
    if not tracing_enabled() or engine in _engines:
        return
    # The instrumentor proper refuses SQLAlchemy 2.1 by its version, wraps `create_engine` for good, takes one
    # engine in its life and adds a span for each checkout; its listener does what is wanted here.
    from opentelemetry import metrics, trace
    from opentelemetry.instrumentation.sqlalchemy.engine import EngineTracer

    unused = metrics.NoOpMeter("medic").create_up_down_counter("db.client.connections.usage")
    EngineTracer(trace.get_tracer("medic.sqlalchemy"), engine, unused)  # type: ignore[no-untyped-call]
    _engines.add(engine)


def instrument_clients() -> None:
    """Spans of Redis commands (without arguments) and of requests' calls, which carry W3C trace context on."""
    if not tracing_enabled():
        return
    from opentelemetry.instrumentation.redis import RedisInstrumentor
    from opentelemetry.instrumentation.requests import RequestsInstrumentor

    for instrumentor in (RedisInstrumentor(), RequestsInstrumentor()):
        if not instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.instrument()


def instrument_celery() -> None:
    """Spans of publishing and running tasks, one trace along a chain; each pool process sends what it has at its end.

    Call it where the Celery app is made.  Nothing has to be done after the fork: an exporter is made in the
    process whose span it sends.
    """
    if not tracing_enabled():
        return
    from celery import Celery, signals
    from opentelemetry.instrumentation.celery import CeleryInstrumentor

    instrumentor = CeleryInstrumentor()  # type: ignore[no-untyped-call]
    if instrumentor.is_instrumented_by_opentelemetry:
        return
    instrumentor.instrument()
    _guard_publishing(Celery)
    # billiard's children end by os._exit, which runs no atexit.
    signals.worker_process_shutdown.connect(_flush, weak=False)


def _flush(**_: object) -> None:
    shutdown_tracing()


def _guard_publishing(celery: Any) -> None:
    """End the producer span of a publish that failed.

    Celery sends `after_task_publish` only after success, and the instrumentation ends its span there.  Without
    this, the span of a failed publish would stay the current one of its thread, and adopt all that follows.
    """
    from opentelemetry import context, trace

    unguarded = celery.send_task

    @functools.wraps(unguarded)
    def send_task(app: Any, *args: Any, **options: Any) -> Any:
        before = trace.get_current_span()
        token = context.attach(context.get_current())
        try:
            return unguarded(app, *args, **options)
        except BaseException as error:
            left = trace.get_current_span()
            if left is not before:
                _end_publish(app, left, error)
            raise
        finally:
            context.detach(token)

    celery.send_task = send_task


def _end_publish(app: Any, span: object, error: BaseException) -> None:
    """Leave and end the span, and take it out of the table in which it waits for the end of its publish."""
    from opentelemetry.instrumentation.celery.utils import CTX_KEY

    for task in app.tasks.values():
        waiting = getattr(task, CTX_KEY, None) or {}
        for key in [key for key, (held, *_) in list(waiting.items()) if held is span]:
            _, activation, _ = waiting.pop(key)
            activation.__exit__(type(error), error, error.__traceback__)
