"""Who may call what, and how often: each view says its scope and its rate class, and nothing goes without.

The order: what costs nothing first.  The shape of the key, the limit on failures of an address, the
database, the scope, the limit of the class.
"""

from __future__ import annotations

import functools
import threading
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
from medic_api.directory import Directory, PingDirectory
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
    """What the views of this process share.

    ``failures`` counts wrong API keys by address, ``strangers`` ping URLs that are nobody's, ``guesses`` wrong
    webhook secrets.  ``batches`` is the lane of large batches, so that single heartbeats never wait behind one;
    ``large_batches`` leaves half of the threads to them, too.
    """

    settings: Settings
    engine: Engine
    keyring: Keyring
    limiter: Limiter
    failures: Failures
    writable: Writable
    directory: Directory
    heartbeats: GroupCommit
    batches: GroupCommit
    large_batches: threading.Semaphore
    pings: PingDirectory
    strangers: Failures
    guesses: Failures
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


def guard(
    *, scope: str | None, rate: str, limited: bool = True, legacy: bool = False
) -> Callable[[View], View]:
    """Let a view be reached only with this scope, within the limit of this rate class.

    :param limited: false: the view calls `limit` itself, as soon as it knows for whom.
    :param legacy: one of the original's heartbeat routes, which MEDIC_LEGACY_KEYLESS opens.
    """

    def wrap(view: View) -> View:
        @functools.wraps(view)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            at = time.monotonic()
            if scope is not None and not _is_open(scope, legacy=legacy):
                authenticate(at)
                caller().need(scope)
            subject = f"key:{caller().key_id}" if "caller" in g else f"address:{request.remote_addr}"
            if limited:
                writable = services().writable.count(caller()) if rate == "heartbeat_key" else 0
                limit(rate, subject, at, writable=writable)
            return view(*args, **kwargs)

        guarded.__medic_guard__ = Guarded(scope, rate)  # type: ignore[attr-defined]
        return guarded  # type: ignore[return-value]

    return wrap


def _is_open(scope: str, *, legacy: bool) -> bool:
    """A setting lets this call in without a key."""
    settings = services().settings
    if legacy and settings.legacy_keyless:
        return "Authorization" not in request.headers
    return scope == "metrics:read" and settings.metrics_public


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


@dataclass(slots=True)
class Grant:
    """How many calls may pass, and what the rest is told."""

    left: int
    refusal: Throttled


def limit_many(rate_class: str, subject: str, count: int, at: float, *, writable: int = 0) -> Grant:
    """Count so many calls as far as the limit goes, which must be that of a smooth class."""
    limiter = services().limiter
    decision = limiter.hit(rate_class, subject, cost=count, services=writable, now=at)
    left = count
    while not decision.allowed and left > 0:
        # Another process may take what was left a moment ago; then there is less.
        left = min(left - 1, decision.remaining)
        if left > 0:
            decision = limiter.hit(rate_class, subject, cost=left, services=writable, now=at)
    g.rate_decision = decision
    if left < count:
        metrics.RATE_LIMIT_REFUSALS.labels(rate_class).inc(count - left)
    wait = decision.retry_after or decision.reset_after
    return Grant(left, Throttled("Too many heartbeats; wait and try again.", retry_after=wait))


def add_limit_headers(response: Response) -> Response:
    decision: Decision | None = g.get("rate_decision")
    if decision is not None:
        for name, value in headers(decision).items():
            response.headers.setdefault(name, value)
    return response
