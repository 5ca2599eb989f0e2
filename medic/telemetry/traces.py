"""Traces: the switch, and what the rest of Medic asks of a trace.

Off (``OTEL_ENABLED`` is not true), each function here answers at once, and nothing of OpenTelemetry is
imported.  On, spans go to an OTLP gRPC collector; see `medic.telemetry.otlp`.

One execution is one trace, carried through the database::

    with start_trace("execution") as traceparent:    # or current_traceparent(), when a request starts just one
        row.traceparent = traceparent
    ...                                              # a day's wait, another process
    with continue_trace(row.traceparent):
        chain.apply_async()
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from medic.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from medic.telemetry.otlp import Tracing

_tracing: Tracing | None = None


def configure_tracing(settings: Settings, component: str) -> bool:
    """Start tracing in this process and its later forks.  Safe to call twice; before routes are registered.

    :param component: ``api``, ``worker``, ``beat`` …; it stands in the resource of each span.
    :return: whether tracing is on.
    :raises Misconfigured: when endpoint or resource attributes cannot be read.
    """
    global _tracing  # noqa: PLW0603 - a process has one tracer, as OpenTelemetry itself holds
    if not settings.otel_enabled:
        return False
    if _tracing is None:
        from medic.telemetry.otlp import Tracing  # noqa: PLC0415 - 20 MB that a process without traces does without

        _tracing = Tracing(settings, component)
    return True


def tracing_enabled() -> bool:
    return _tracing is not None


def shutdown_tracing() -> None:
    """Send what is still here, within some seconds, and stop.  Also runs when the interpreter exits."""
    if _tracing is not None:
        _tracing.shutdown()


def get_tracer(name: str) -> Tracer:
    """A tracer for spans of one's own; ask for it where it is used.  Its spans are no-ops while tracing is off."""
    from opentelemetry import trace  # noqa: PLC0415 - the API alone; whoever is never traced does without

    return trace.get_tracer(name)


def current_ids() -> tuple[str, str] | None:
    """Trace id (32 hex digits) and span id (16) of this moment, if there are any."""
    return _tracing.ids() if _tracing is not None else None


def get_current_trace_id() -> str | None:
    """The trace id of this moment, 32 hex digits."""
    ids = current_ids()
    return ids[0] if ids else None


def current_traceparent() -> str | None:
    """This moment as a W3C ``traceparent``: ``00-<trace id>-<span id>-<flags>``, to be kept with a row."""
    return _tracing.traceparent() if _tracing is not None else None


@contextmanager
def continue_trace(traceparent: str | None) -> Iterator[None]:
    """Go on in the trace of ``traceparent`` for the length of the block.

    Without one, or with one that is malformed, the block stays in the trace it is in.
    """
    if _tracing is None or traceparent is None:
        yield
        return
    with _tracing.continued(traceparent):
        yield


@contextmanager
def start_trace(
    name: str, attributes: Mapping[str, str | int | float | bool] | None = None
) -> Iterator[str | None]:
    """Begin a trace of its own, linked to the one it is begun in; yields its ``traceparent``.

    For what outlives its caller: a sweep that starts a hundred executions starts a hundred traces.
    """
    if _tracing is None:
        yield None
        return
    with _tracing.started(name, attributes or {}) as traceparent:
        yield traceparent
