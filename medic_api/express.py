"""The express lane: `POST /v1/heartbeats` as clients mostly send it, in front of Flask.

Nine of ten requests are a heartbeat with a known key for a known service, and Flask's own machinery costs several
times what such a heartbeat does.  The lane answers these and nothing else.  Whatever is not plain (a query, no
length, a key that fails, a field that is wrong, a service that is not known) it hands on untouched and uncounted, and the
view in `medic_api.ingest` judges it.  What goes wrong after a limit was counted is answered by Flask's own
error handlers.  So each rule is written once, and tests hold that both ways answer alike.

With tracing on there is no lane: a span for each request is wanted then.
"""

from __future__ import annotations

import io
import re
import secrets
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from flask import Flask, g
from prometheus_client import Counter, Histogram
from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from medic.access import Caller
from medic.errors import MedicError, Unauthenticated
from medic.heartbeats import Signal
from medic.ratelimit import Decision, headers
from medic.telemetry import metrics
from medic_api.edge import REQUEST_ID, SECURITY_HEADERS
from medic_api.guard import REFUSED, Services, throttled
from medic_api.ingest import HeartbeatIn, answer_text, to_signal
from medic_api.problems import from_medic

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

PATH = "/v1/heartbeats"
MAX_BODY_BYTES = 65_536
_HEADERS = (*SECURITY_HEADERS, ("Content-Type", "application/json"), ("Cache-Control", "no-store"))
_LENGTH = re.compile("[1-9][0-9]{0,5}", re.ASCII)
_REASONS = {200: "200 OK", 202: "202 ACCEPTED"}


class Express:
    """A WSGI application that answers plain heartbeats, and gives the rest to Flask's."""

    def __init__(self, app: Flask, shared: Services) -> None:
        self._app = app
        self._flask: WSGIApplication = app.wsgi_app
        self._shared = shared

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if (
            environ["PATH_INFO"] != PATH
            or environ["REQUEST_METHOD"] != "POST"
            or environ.get("QUERY_STRING")
            or "HTTP_TRANSFER_ENCODING" in environ
        ):
            return self._flask(environ, start_response)
        length = environ.get("CONTENT_LENGTH", "")
        if _LENGTH.fullmatch(length) is None or int(length) > MAX_BODY_BYTES:
            return self._flask(environ, start_response)
        began = time.perf_counter()
        body = environ["wsgi.input"].read(int(length))
        environ["wsgi.input"] = io.BytesIO(body)
        plain = self._plain(environ, body)
        if plain is None:
            return self._flask(environ, start_response)
        caller, signal, cut, writable = plain
        service = signal.service
        at = time.monotonic()
        decision = self._count("heartbeat_key", f"key:{caller.key_id}", at, writable)
        if decision.allowed:
            decision = self._count("heartbeat", f"service:{service.name}", at)
        try:
            if not decision.allowed:
                self._shared.heartbeats.refused([service.id], "limit")
                raise throttled(decision)
            written = self._shared.heartbeats.write([signal])[0]
        except MedicError as error:
            return self._refuse(error, decision, environ, start_response)
        if not written.is_current:
            self._shared.directory.forget(service.name)
        if written.id is None:
            return self._flask(environ, start_response)  # it was deleted, and perhaps made anew
        status = 200 if written.is_repeat else 202
        text = answer_text(service.name, written, cut=cut).encode()
        given = environ.get("HTTP_X_REQUEST_ID", "")
        request_id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(12)
        sent = [
            *_HEADERS,
            ("X-Request-ID", request_id),
            ("Content-Length", str(len(text))),
            *headers(decision).items(),
        ]
        if status == 202:
            _heartbeats(signal.kind).inc()
        count, seconds = _requests(status)
        count.inc()
        seconds.observe(time.perf_counter() - began)
        start_response(_REASONS[status], sent)
        return (text,)

    def _plain(self, environ: WSGIEnvironment, body: bytes) -> tuple[Caller, Signal, bool, int] | None:
        """The caller, what it sends, whether its message was cut, and how many services the caller may write.

        None when somebody else has to judge.
        """
        given = environ.get("HTTP_AUTHORIZATION", "")
        if given[:7] != "Bearer ":
            return None
        shared = self._shared
        now = time.monotonic()
        if shared.failures.wait(environ.get("REMOTE_ADDR", ""), given[7:], now=now) > 0:
            return None
        try:
            caller = shared.keyring.authenticate(given[7:])
        except Unauthenticated as error:
            environ[REFUSED] = error  # so that Flask does not look it up once more
            return None
        except (DBAPIError, PoolTimeout):
            return None
        try:
            caller.need("heartbeats:write")
            shared.failures.passed(given[7:], now=now)
            heartbeat = HeartbeatIn.model_validate_json(body, strict=True)
            service = (
                shared.directory.find(heartbeat.service) if caller.may_touch(heartbeat.service) else None
            )
            if service is None:
                return None
            signal, cut = to_signal(
                heartbeat,
                service,
                arrival=datetime.now(UTC),
                retention_days=shared.settings.heartbeat_retention_days,
            )
            writable = shared.writable.count(caller)
        except (ValidationError, MedicError, DBAPIError, PoolTimeout):
            return None
        return caller, signal, cut, writable

    def _count(self, rate_class: str, subject: str, at: float, writable: int = 0) -> Decision:
        decision = self._shared.limiter.hit(rate_class, subject, services=writable, now=at)
        if not decision.allowed:
            metrics.RATE_LIMIT_REFUSALS.labels(rate_class).inc()
        return decision

    def _refuse(
        self, error: MedicError, decision: Decision, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Answer with an error as Flask's own handlers would."""
        with self._app.request_context(environ):
            self._app.preprocess_request()
            g.rate_decision = decision
            response = self._app.process_response(from_medic(error))
            return response(environ, start_response)


@lru_cache
def _heartbeats(kind: str) -> Counter:
    """Finding the child of a metric by its labels costs more than counting does."""
    return metrics.HEARTBEATS.labels(kind)


@lru_cache
def _requests(status: int) -> tuple[Counter, Histogram]:
    return metrics.HTTP_REQUESTS.labels("POST", PATH, str(status)), metrics.HTTP_REQUEST_SECONDS.labels(
        "POST", PATH
    )
