"""Spans on their way to an OTLP gRPC collector.  Import it only where tracing is on; it loads SDK and gRPC.

- Each process has its own exporter, made at its first finished span: gRPC does not survive a fork.
- A collector that is away costs one warning, and one line when it is back; meanwhile spans are dropped.
- A trace begins with a request, a task or an execution.  A lone client call (the broker being polled, the
  group commit, a pool that connects) begins none.
- Spans are redacted as logs are, and URLs shown without path and query, in the exporter's thread.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.util import Finalize
from typing import Final
from urllib.parse import unquote, urlsplit

# gRPC's core writes to stderr past every logger; what matters of it comes back as an error code.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from opentelemetry import context, propagate, trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.environment_variables import (
    OTEL_EXPORTER_OTLP_TIMEOUT,
    OTEL_EXPORTER_OTLP_TRACES_TIMEOUT,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Decision, ParentBased, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import Attributes, AttributeValue

from medic.errors import Misconfigured
from medic.settings import Settings
from medic.telemetry.redaction import HIDDEN, is_secret_name, redact, redact_url

_log = logging.getLogger("medic.telemetry")

# Seconds for a batch with its repeats, unless OpenTelemetry's own OTEL_EXPORTER_OTLP_TIMEOUT says otherwise.
# A stop waits about as long for a collector that hangs.
_EXPORT_TIMEOUT: Final = 5.0

_CLIENT_URLS: Final = frozenset({"http.url", "url.full"})
_SERVER_PATHS: Final = frozenset({"http.target", "url.path"})


def parse_resource_attributes(text: str) -> dict[str, str]:
    """Read ``k=v,k=v``; values may be percent-encoded, as the OpenTelemetry specification has it.

    :raises Misconfigured: when an entry has no key or no ``=``.
    """
    found = {}
    for entry in filter(None, map(str.strip, text.split(","))):
        name, equals, value = entry.partition("=")
        if not equals or not name.strip():
            raise Misconfigured("OTEL_RESOURCE_ATTRIBUTES: write k=v,k=v")
        found[name.strip()] = unquote(value.strip())
    return found


class Tracing:
    """The one tracer provider of a process and its forks."""

    def __init__(self, settings: Settings, component: str) -> None:
        """:raises Misconfigured: when the endpoint or the resource attributes cannot be read."""
        scheme = urlsplit(settings.otel_endpoint).scheme
        if scheme not in {"http", "https"} or not urlsplit(settings.otel_endpoint).hostname:
            raise Misconfigured("OTEL_EXPORTER_OTLP_ENDPOINT: must be http://host:port or https://host:port")
        named = {
            "service.version": settings.version,
            "deployment.environment": settings.environment,
            "deployment.environment.name": settings.environment,
            "medic.component": component,
        }
        extra = parse_resource_attributes(settings.otel_resource_attributes)
        for name in ("opentelemetry.exporter.otlp", "opentelemetry.sdk._shared_internal"):
            logging.getLogger(name).setLevel(
                logging.CRITICAL + 1
            )  # `CollectorExporter` says it once, and shorter
        # Not every request's baggage should travel on to every webhook: W3C trace context alone.
        self._propagator = TraceContextTextMapPropagator()
        propagate.set_global_textmap(self._propagator)
        self._processor = PerProcess(settings.otel_endpoint)
        provider = TracerProvider(
            resource=Resource.create({**named, **extra, "service.name": settings.otel_service_name}),
            sampler=ParentBased(root=NoLoneCalls()),
            shutdown_on_exit=False,
        )
        provider.add_span_processor(self._processor)
        trace.set_tracer_provider(provider)
        self._tracer = provider.get_tracer("medic")

    def shutdown(self) -> None:
        self._processor.shutdown()

    def ids(self) -> tuple[str, str] | None:
        here = trace.get_current_span().get_span_context()
        if not here.is_valid:
            return None
        return trace.format_trace_id(here.trace_id), trace.format_span_id(here.span_id)

    def traceparent(self) -> str | None:
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier)
        return carrier.get("traceparent")

    @contextmanager
    def continued(self, traceparent: str) -> Iterator[None]:
        remote = self._propagator.extract({"traceparent": traceparent}, context.Context())
        if not trace.get_current_span(remote).get_span_context().is_valid:
            yield
            return
        token = context.attach(trace.set_span_in_context(trace.get_current_span(remote)))
        try:
            yield
        finally:
            context.detach(token)

    @contextmanager
    def started(self, name: str, attributes: Mapping[str, AttributeValue]) -> Iterator[str | None]:
        caller = trace.get_current_span().get_span_context()
        with self._tracer.start_as_current_span(
            name,
            context=context.Context(),
            attributes=attributes,
            links=[Link(caller)] if caller.is_valid else (),
        ):
            yield self.traceparent()


class NoLoneCalls(Sampler):
    """Drops a client call that is the root of its trace; keeps everything else."""

    def should_sample(
        self,
        parent_context: context.Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        if kind is SpanKind.CLIENT:
            return SamplingResult(Decision.DROP)
        return ALWAYS_ON.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        return "NoLoneCalls"


class PerProcess(SpanProcessor):
    """Hands finished spans to the batch processor of this very process."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._lock = threading.Lock()
        self._batch: BatchSpanProcessor | None = None
        self._exporter: CollectorExporter | None = None
        self._stopped = False
        # The parent's, kept alive: closing a channel whose threads the fork left behind can hang.
        self._inherited: list[BatchSpanProcessor] = []
        os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        if self._batch is not None:
            self._inherited.append(self._batch)
        self._batch = self._exporter = None
        self._stopped = False

    def on_end(self, span: ReadableSpan) -> None:
        if self._stopped or span.context is None or not span.context.trace_flags.sampled:
            return
        batch = self._batch
        if batch is None:
            with self._lock:
                if self._batch is None and not self._stopped:
                    self._exporter = CollectorExporter(self._endpoint)
                    self._batch = BatchSpanProcessor(self._exporter)
                    # Unlike atexit it also runs where a multiprocessing child ends, as granian's workers are.
                    Finalize(None, self.shutdown, exitpriority=0)
                batch = self._batch
        if batch is not None:
            batch.on_end(span)

    def on_start(self, span: Span, parent_context: context.Context | None = None) -> None:
        """Nothing happens before a span ends."""

    def shutdown(self) -> None:
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
        if self._batch is not None and self._exporter is not None:
            self._exporter.hurry()
            self._batch.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._batch is None or self._batch.force_flush(timeout_millis)


class CollectorExporter(SpanExporter):
    """OTLP over gRPC; http is plain, https is TLS (``OTEL_EXPORTER_OTLP_CERTIFICATE`` names another CA)."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        chosen = {OTEL_EXPORTER_OTLP_TIMEOUT, OTEL_EXPORTER_OTLP_TRACES_TIMEOUT} & os.environ.keys()
        self._inner = OTLPSpanExporter(
            endpoint=endpoint,
            insecure=urlsplit(endpoint).scheme == "http",
            timeout=None if chosen else _EXPORT_TIMEOUT,
        )
        self._away = False
        self._hurried = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self._hurried and self._away:
            return SpanExportResult.FAILURE
        try:
            result = self._inner.export([redacted_span(span) for span in spans])
        except Exception as error:  # noqa: BLE001 - the batch thread must live on, whatever gRPC raises
            result = SpanExportResult.FAILURE
            _log.debug("traces.export_failed", extra={"error": type(error).__name__})
        away = result is not SpanExportResult.SUCCESS
        if away and not self._away:
            _log.warning("traces.collector_unreachable", extra={"endpoint": redact_url(self._endpoint)})
        elif self._away and not away:
            _log.info("traces.collector_reached", extra={"endpoint": redact_url(self._endpoint)})
        self._away = away
        return result

    def hurry(self) -> None:
        """The process is about to stop: give up on a collector that is known to be away, and sleep no more."""
        self._hurried = True
        if self._away:
            self._inner.shutdown()

    def shutdown(self) -> None:
        if not (self._hurried and self._away):
            self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._inner.force_flush(timeout_millis)


def redacted_span(span: ReadableSpan) -> ReadableSpan:
    """The same span, with no secret in its texts."""
    parent: SpanContext | None = span.parent
    status = span.status
    return ReadableSpan(
        name=redact(span.name),
        context=span.context,
        parent=parent,
        resource=span.resource,
        attributes=_redacted(span.attributes),
        events=[
            Event(redact(event.name), _redacted(event.attributes), event.timestamp) for event in span.events
        ],
        links=span.links,
        kind=span.kind,
        status=Status(status.status_code, redact(status.description)) if status.description else status,
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _redacted(attributes: Attributes) -> dict[str, AttributeValue]:
    given = attributes or {}
    found: dict[str, AttributeValue] = {}
    for name, value in given.items():
        if name in _CLIENT_URLS:
            found[name] = redact_url(str(value))
        elif name in _SERVER_PATHS:
            found[name] = str(given.get("http.route") or redact(str(value).partition("?")[0]))
        elif name == "url.query" or is_secret_name(name):
            found[name] = HIDDEN
        elif isinstance(value, str):
            found[name] = redact(value)
        elif isinstance(value, Sequence):
            found[name] = [redact(item) if isinstance(item, str) else item for item in value]
        else:
            found[name] = value
    return found
