"""Who may call what, and how often: each view says its scope and its rate class, and nothing goes without.

The order: what costs nothing first.  The shape of the key, the limit on failures of an address, the
database, the scope, the limit of the class.
"""

from __future__ import annotations

import functools
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from flask import Response, current_app, g, request
from sqlalchemy import Engine

from medic import audit
from medic.access import Caller, Keyring
from medic.batch_lane import BatchLane
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

REFUSED = "medic.refused"
"""Where the WSGI environment holds the error of a key that was looked up on the way here (`medic_api.express`)."""
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
    batches: BatchLane
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

    The text does not name it: whoever came by a number would learn whose it is.

    :raises Forbidden: when this is none of them, or belongs to no service.
    """
    key = caller()
    if key.service_patterns is not None and (name is None or not key.may_touch(name)):
        raise Forbidden("This key is not for this service." if name else "This key needs a service.")


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
                authenticate(at, anew=scope != "heartbeats:write")
                caller().need(scope)
            subject = f"key:{caller().key_id}" if "caller" in g else f"address:{request.remote_addr}"
            if limited:
                is_heartbeat = rate == "heartbeat_key"
                writable = services().writable.count(caller()) if is_heartbeat else 0
                limit(rate, subject, at, writable=writable, unread=_named if is_heartbeat else None)
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


def authenticate(at: float, *, anew: bool) -> None:
    """Find the caller, or raise; an address that failed too often is not looked up any more.

    :param anew: a revoked key that may administer or approve ends at once, not within five seconds.
    """
    shared = services()
    address = request.remote_addr or ""
    refused: Unauthenticated | None = request.environ.get(REFUSED)
    given = request.headers.get("Authorization", "")
    text = given[7:].strip() if given[:7].lower() == "bearer " else None
    wait = shared.failures.wait(address, text, now=at)
    if wait > 0:
        raise Throttled("Too many failed keys from this address.", retry_after=wait)
    if text is None:
        # Nothing is looked up, but no call goes without a limit.
        limit("management", f"address:{address}", at)
    try:
        if refused is not None:
            raise refused
        g.caller = shared.keyring.authenticate(text, anew=anew)
        shared.failures.passed(text or "", now=at)
    except Unauthenticated:
        metrics.AUTH_FAILURES.labels("missing" if text is None else "invalid").inc()
        if text is not None:
            shared.failures.count(address, now=at, key=text)
        raise


def limit(
    rate_class: str, subject: str, at: float, *, writable: int = 0, heartbeats_of: Sequence[int | str] = (),
    unread: Callable[[], Sequence[int | str]] | None = None,
) -> None:  # fmt: skip
    """Count this call; refuse it beyond the limit.  The answer carries the limit's headers.

    :param heartbeats_of: the services whose heartbeats a refusal costs, by id or name.
    :param unread: finds them in the request when it is refused before it is read.
    """
    decision = services().limiter.hit(rate_class, subject, services=writable, now=at)
    g.rate_decision = decision
    if not decision.allowed:
        metrics.RATE_LIMIT_REFUSALS.labels(rate_class).inc()
        services().heartbeats.refused(unread() if unread is not None else heartbeats_of, "limit")
        raise throttled(decision)


SMALL_BYTES = 65_536
"""What is looked into although it is refused: whose heartbeat it is has to be known."""


def is_small() -> bool:
    """Whether the body may be read although the call is refused."""
    return 0 < (request.content_length or 0) <= SMALL_BYTES and "Content-Encoding" not in request.headers


def peek() -> dict[str, Any]:
    """The fields of a small body; none if it is no JSON object."""
    try:
        body = json.loads(request.get_data()) if is_small() else None
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _named() -> Sequence[str]:
    """The service in the path or the body, if the caller may send its heartbeats."""
    name = (request.view_args or {}).get("name") or peek().get("service")
    return [name] if isinstance(name, str) and caller().may_touch(name) else []


def throttled(decision: Decision) -> Throttled:
    """The error of a call that was refused."""
    return Throttled("Too many calls; wait and try again.", retry_after=decision.retry_after)


@dataclass(slots=True)
class Grant:
    """How many calls may pass, and what the rest is told."""

    left: int
    refusal: Throttled


def grant_part(decision: Decision, subject: str, count: int, at: float, *, writable: int = 0) -> Grant:
    """Of so many calls of a smooth class, which were refused together, as many as the limit lets through."""
    limiter = services().limiter
    left = count
    while not decision.allowed and left > 0:
        # Another process may take what was left a moment ago; then there is less.
        left = min(left - 1, decision.remaining)
        if left > 0:
            decision = limiter.hit(decision.policy, subject, cost=left, services=writable, now=at)
    g.rate_decision = decision
    metrics.RATE_LIMIT_REFUSALS.labels(decision.policy).inc(count - left)
    wait = decision.retry_after or decision.reset_after
    return Grant(left, Throttled("Too many heartbeats; wait and try again.", retry_after=wait))


def add_limit_headers(response: Response) -> Response:
    decision: Decision | None = g.get("rate_decision")
    if decision is not None:
        for name, value in headers(decision).items():
            response.headers.setdefault(name, value)
    return response
