"""Who may call what, and how often: each view says its scope and its rate class, and nothing goes without.

The order: what costs nothing first.  The shape of the key, the limit on failures of an address, the
database, the scope, the limit of the class.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from flask import Response, current_app, g, request
from sqlalchemy import Engine

from medic import audit
from medic.access import Caller, Keyring
from medic.db import transaction
from medic.errors import Forbidden, Throttled, Unauthenticated
from medic.group_commit import GroupCommit
from medic.ratelimit import Decision, Limiter, headers
from medic.services import count as count_services
from medic.settings import Settings
from medic.telemetry import metrics
from medic_api.directory import Directory
from medic_api.failures import Failures
from medic_api.hints import Hints

View = TypeVar("View", bound=Callable[..., Any])

OPEN = None
"""The scope of a view that needs no key."""


class Writable:
    """How many services a key may write: what its limit grows with.  Counted once a minute."""

    SECONDS = 60.0

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._counts: dict[str, tuple[float, int]] = {}

    def count(self, key: Caller) -> int:
        at = time.monotonic()
        held = self._counts.get(key.key_id)
        if held is not None and at - held[0] < self.SECONDS:
            return held[1]
        with transaction(self._engine) as session:
            found = count_services(session, patterns=key.service_patterns)
        if len(self._counts) > 10_000:
            self._counts.clear()
        self._counts[key.key_id] = (at, found)
        return found


@dataclass(frozen=True, slots=True)
class Services:
    """What the views of this process share."""

    settings: Settings
    engine: Engine
    keyring: Keyring
    limiter: Limiter
    failures: Failures
    writable: Writable
    directory: Directory
    heartbeats: GroupCommit
    hints: Hints


@dataclass(frozen=True, slots=True)
class Guarded:
    """What a view demands; tests and the documentation read it from the view."""

    scope: str | None
    rate_class: str


def services() -> Services:
    """What this application's views share."""
    found: Services = current_app.extensions["medic"]
    return found


def caller() -> Caller:
    """The key behind this request.

    :raises Unauthenticated: in a view that is open.
    """
    found: Caller | None = g.get("caller")
    if found is None:
        raise Unauthenticated("A valid API key is needed.")
    return found


def actor() -> audit.Actor:
    """The caller, for the audit log."""
    return audit.Actor("key", caller().key_id, source=request.remote_addr, request_id=g.get("request_id"))


def need_service(name: str | None) -> None:
    """A key that is narrowed to services only sees and touches what belongs to them.

    :raises Forbidden: when this is none of them, or belongs to no service.
    """
    key = caller()
    if key.service_patterns is not None and (name is None or not key.may_touch(name)):
        raise Forbidden(f"This key is not for the service {name}." if name else "This key needs a service.")


def need_wide() -> None:
    """What reaches every service is not for a key that is narrowed to some.

    :raises Forbidden: when this key is.
    """
    if caller().service_patterns is not None:
        raise Forbidden("This key is narrowed to some services; this reaches all of them.")


def guard(*, scope: str | None, rate: str) -> Callable[[View], View]:
    """Let a view be reached only with this scope, within the limit of this rate class."""

    def wrap(view: View) -> View:
        @functools.wraps(view)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            at = time.monotonic()
            if scope is not None and not (scope == "metrics:read" and services().settings.metrics_public):
                authenticate(at)
                caller().need(scope)
            subject = f"key:{caller().key_id}" if "caller" in g else f"address:{request.remote_addr}"
            writable = services().writable.count(caller()) if rate == "heartbeat_key" else 0
            limit(rate, subject, at, writable=writable)
            return view(*args, **kwargs)

        guarded.__medic_guard__ = Guarded(scope, rate)  # type: ignore[attr-defined]
        return guarded  # type: ignore[return-value]

    return wrap


def authenticate(at: float) -> None:
    """Find the caller, or raise; an address that failed too often is not looked up any more."""
    shared = services()
    address = request.remote_addr or ""
    given = request.headers.get("Authorization", "")
    text = given[7:].strip() if given[:7].lower() == "bearer " else None
    wait = shared.failures.wait(address, text, now=at)
    if wait > 0:
        raise Throttled("Too many failed keys from this address.", retry_after=wait)
    try:
        g.caller = shared.keyring.authenticate(text)
        shared.failures.passed(text or "", now=at)
    except Unauthenticated:
        metrics.AUTH_FAILURES.labels("missing" if text is None else "invalid").inc()
        if text is not None:
            shared.failures.count(address, now=at)
        raise


def limit(rate_class: str, subject: str, at: float, *, writable: int = 0) -> None:
    """Count this call; refuse it beyond the limit.  The answer carries the limit's headers."""
    decision = services().limiter.hit(rate_class, subject, services=writable, now=at)
    g.rate_decision = decision
    if not decision.allowed:
        metrics.RATE_LIMIT_REFUSALS.labels(rate_class).inc()
        raise Throttled("Too many calls; wait and try again.", retry_after=decision.retry_after)


def add_limit_headers(response: Response) -> Response:
    decision: Decision | None = g.get("rate_decision")
    if decision is not None:
        for name, value in headers(decision).items():
            response.headers.setdefault(name, value)
    return response
