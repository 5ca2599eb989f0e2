"""Healthchecks' ping URLs: whoever has one needs no key.  Answers are text, and codes as Healthchecks gives them.

A URL that is somebody's is limited by itself.  One that is nobody's counts against its address, which is not
looked up any more after too many of them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from uuid import UUID

from apiflask import APIBlueprint
from flask import Response, g, request
from sqlalchemy.orm import Session

from medic import audit, pings
from medic.db import database_now, in_transaction
from medic.errors import Conflict, Malformed, NotFound, Throttled
from medic.heartbeats import Signal, Watched, Written
from medic.pings import Behind
from medic.telemetry import metrics
from medic_api.fields import RESERVED_NAMES
from medic_api.guard import OPEN, guard, limit
from medic_api.guard import services as shared
from medic_api.ingest import MAX_MESSAGE_BYTES, cut_message
from medic_api.problems import CONTENT_TYPE

bp = APIBlueprint("pings", __name__, url_prefix="/ping", tag="Ping URLs")

MAX_EXIT_STATUS = 255
METHODS = ["GET", "POST"]
_DESCRIPTION = (
    "As Healthchecks has it. The body of a POST is kept as the message, cut to 10,000 bytes; the header "
    "`Ping-Body-Cut: 1` then says so. A plain ping ends the open run that has no id."
)
_RID = {"rid": "The run's id, a UUID: tells apart runs that overlap."}
_CREATE = {"create": "`1` makes the service if there is none and the team allows it."}
_TEXTS = {404: "not found", 429: "rate limit exceeded", 413: "request body too large"}


@bp.route("/<uuid:uuid>", methods=METHODS, strict_slashes=False)  # Healthchecks takes one with a slash, too
@guard(scope=OPEN, rate="ping", limited=False)
@bp.doc(
    summary="Ping a service by its UUID",
    description=_DESCRIPTION,
    responses={200: "OK", 400: "No such form.", 404: "not found"},
    extensions={"x-message": True, "x-query": _RID, "x-plain": True},
)
def ping(uuid: UUID) -> Response:
    return _by_uuid(uuid, None)


@bp.route("/<uuid:uuid>/<ping_signal:signal>", methods=METHODS)
@guard(scope=OPEN, rate="ping", limited=False)
@bp.doc(
    summary="Ping a service by its UUID with start, fail, log or an exit status",
    description=_DESCRIPTION,
    responses={200: "OK", 400: "No such form.", 404: "not found"},
    extensions={"x-message": True, "x-query": _RID, "x-plain": True},
)
def ping_signal(uuid: UUID, signal: str) -> Response:
    return _by_uuid(uuid, signal)


@bp.route("/<ping_key:ping_key>/<name:slug>", methods=METHODS)
@guard(scope=OPEN, rate="ping", limited=False)
@bp.doc(
    summary="Ping a team's service by its name",
    description=_DESCRIPTION,
    responses={200: "OK", 201: "Created", 400: "No such form.", 404: "not found"},
    extensions={"x-message": True, "x-query": _RID | _CREATE, "x-plain": True},
)
def ping_slug(ping_key: str, slug: str) -> Response:
    return _by_slug(ping_key, slug, None)


@bp.route("/<ping_key:ping_key>/<name:slug>/<ping_signal:signal>", methods=METHODS)
@guard(scope=OPEN, rate="ping", limited=False)
@bp.doc(
    summary="Ping a team's service by its name with start, fail, log or an exit status",
    description=_DESCRIPTION,
    responses={200: "OK", 201: "Created", 400: "No such form.", 404: "not found"},
    extensions={"x-message": True, "x-query": _RID | _CREATE, "x-plain": True},
)
def ping_slug_signal(ping_key: str, slug: str, signal: str) -> Response:
    return _by_slug(ping_key, slug, signal)


def _by_uuid(uuid: UUID, signal: str | None) -> Response:
    with _known_only(str(uuid)):
        service = shared().pings.by_uuid(uuid)
        if service is None:
            raise NotFound("not found")
    limit("ping", str(uuid), g.at, heartbeats_of=[service.id])
    written = _store(service, signal)
    if not written.is_current:
        shared().pings.forget(uuid)
    if written.id is None:
        raise NotFound("not found")
    return _text("OK")


def _by_slug(ping_key: str, slug: str, signal: str | None) -> Response:
    wants = request.args.get("create") == "1"
    with _known_only(f"{ping_key}/{slug}"):
        behind = shared().pings.by_slug(ping_key, slug)
        if behind is None or (behind.service is None and not (wants and behind.creates)):
            raise NotFound("not found")
    limit("ping", f"{behind.team}/{slug}", g.at, heartbeats_of=[behind.service.id] if behind.service else ())
    _check(signal)
    for _ in range(2):  # a second time when it was made anew since we heard of it
        made = behind.service is None
        if made:
            _create(behind, slug)
            behind = shared().pings.by_slug(ping_key, slug)
            if behind is None or behind.service is None:
                raise Conflict("ambiguous slug")
        assert behind.service is not None
        if _store(behind.service, signal).id is not None:
            return _text("Created", 201) if made else _text("OK")
        shared().pings.forget((ping_key, slug))
        behind = shared().pings.by_slug(ping_key, slug)
        if behind is None or (behind.service is None and not (wants and behind.creates)):
            break
    raise NotFound("not found")


@contextlib.contextmanager
def _known_only(subject: str) -> Iterator[None]:
    """Look up a ping URL, unless its address asked for too many that are nobody's."""
    strangers, address = shared().strangers, request.remote_addr or ""
    g.at = time.monotonic()
    wait = strangers.wait(address, subject, now=g.at)
    if wait > 0:
        raise Throttled("rate limit exceeded", retry_after=wait)
    try:
        yield
    except NotFound:
        strangers.count(address, now=g.at, key=subject)
        raise
    strangers.passed(subject, now=g.at)


def _check(signal: str | None) -> str | None:
    """The run's id of a well-formed ping.

    :raises Malformed: with Healthchecks' text.
    """
    # By its length first: Python refuses to read a number of thousands of digits.
    if signal is not None and signal.isdigit() and (len(signal) > 9 or int(signal) > MAX_EXIT_STATUS):
        raise Malformed("invalid url format")
    run_id = request.args.get("rid")
    if run_id is None:
        return None
    try:
        return str(UUID(run_id))
    except ValueError:
        raise Malformed("invalid uuid format") from None


def _store(service: Watched, signal: str | None) -> Written:
    """Without an id: the service is gone."""
    run_id = _check(signal)
    exit_code = int(signal) if signal is not None and signal.isdigit() else None
    kind = "fail" if exit_code else signal if signal in {"start", "fail", "log"} else "complete"
    raw = request.get_data()
    message, g.ping_body_cut = cut_message(raw) if raw else (None, False)
    sent = Signal(service=service, kind=kind, run_id=run_id, exit_code=exit_code, message=message)
    written = shared().heartbeats.write([sent])[0]
    if written.id is not None:
        metrics.HEARTBEATS.labels(kind).inc()
    return written


def _create(behind: Behind, slug: str) -> None:
    if slug in RESERVED_NAMES or slug.isdigit():
        raise Malformed("invalid url format")
    limit("ping", f"create:{behind.team}", g.at)
    actor = audit.Actor(
        "hook", f"ping:{behind.team}", source=request.remote_addr, request_id=g.get("request_id")
    )

    def make(session: Session) -> None:
        pings.create(
            session, team=behind.team, slug=slug, timezone=shared().settings.timezone, actor=actor,
            now=database_now(session),
        )  # fmt: skip

    with contextlib.suppress(Conflict):  # somebody else got there first
        in_transaction(shared().engine, make)


def _text(text: str, status: int = 200) -> Response:
    return Response(text, status=status, content_type="text/plain; charset=utf-8")


@bp.after_request
def _as_healthchecks(response: Response) -> Response:
    """Errors as text, and the headers that clients of Healthchecks look at."""
    if response.content_type == CONTENT_TYPE:
        status = response.status_code
        text = _TEXTS.get(status) or response.get_json()["detail"]
        response.set_data(text)
        response.content_type = "text/plain; charset=utf-8"
    response.headers["Access-Control-Allow-Origin"] = "*"
    response.headers["Ping-Body-Limit"] = str(MAX_MESSAGE_BYTES)
    if g.get("ping_body_cut"):
        response.headers["Ping-Body-Cut"] = "1"
    return response
