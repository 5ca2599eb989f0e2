"""Heartbeats in: the thin path.  The answer leaves after the rows are committed."""

from __future__ import annotations

import contextlib
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Literal

from apiflask import APIBlueprint
from flask import Response, json, request
from pydantic import Field, FiniteFloat, ValidationError
from sqlalchemy.orm import Session

from medic import heartbeats, services
from medic.db import database_now, in_transaction
from medic.errors import Conflict, Forbidden, Invalid, Malformed, NotFound
from medic.heartbeats import Signal, Watched, Written
from medic.telemetry import metrics
from medic.times import format_time, parse_duration
from medic_api.fields import RESERVED_NAMES, Answer, Name, Request, Text, Time
from medic_api.guard import actor, caller, guard, limit
from medic_api.guard import services as shared
from medic_api.problems import invalid_body, validation_problems

MAX_MESSAGE_BYTES = 10_000
MAX_METRICS = 50
FUTURE = timedelta(seconds=60)
CACHE_SECONDS = 5.0
CACHE_SIZE = 200_000

bp = APIBlueprint("ingest", __name__, url_prefix="/v1", tag="Heartbeats")


class HeartbeatIn(Request):
    """One signal of a service."""

    service: Name
    status: Literal["ok", "start", "complete", "fail", "log"] | None = Field(
        None, description="Default `ok`, or what `exit_code` says."
    )
    run_id: Text | None = Field(None, min_length=1, max_length=200)
    duration_ms: int | None = Field(None, ge=0, le=2**53)
    exit_code: int | None = Field(None, ge=-(2**15), le=2**15 - 1)
    message: Text | None = Field(None, description="Cut to 10 kB.")
    occurred_at: Time | None = None
    sent_at: Time | None = None
    id: Text | None = Field(
        None, min_length=1, max_length=200, description="Stored at most once per service."
    )
    metrics: dict[str, FiniteFloat] | None = Field(None, max_length=MAX_METRICS)


class HeartbeatOut(Answer):
    """What was stored."""

    id: int
    service: str
    received_at: str
    repeat: bool = Field(description="This `id` was stored before; nothing changed.")
    message_cut: bool = Field(description="The message was longer than 10 kB and is cut.")


class Directory:
    """The services that this process heard of lately, as ingest needs them.

    A policy that changed meanwhile is harmless: its version no longer fits the hot row, and the sweep decides.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, Watched]] = {}
        self._lock = threading.Lock()

    def find(self, name: str) -> Watched | None:
        at = time.monotonic()
        held = self._known.get(name)
        if held is not None and at - held[0] < CACHE_SECONDS:
            return held[1]
        found = in_transaction(shared().engine, lambda session: heartbeats.watched(session, [name])).get(name)
        with self._lock:
            if found is None:
                self._known.pop(name, None)
            else:
                if len(self._known) >= CACHE_SIZE:
                    self._known.clear()
                self._known[name] = (at, found)
        return found

    def forget(self, name: str) -> None:
        with self._lock:
            self._known.pop(name, None)


DIRECTORY = Directory()


@bp.post("/heartbeats")
@bp.doc(
    summary="Send a heartbeat",
    description="Answers 202 once the heartbeat is committed. `?create=1&every=5m&grace=1m` makes an unknown "
    "service, if the key has `services:write`. Send an `id` to make a retry harmless.",
    responses={200: "A repeat: stored before.", 404: "No such service."},
)
@bp.output(HeartbeatOut, status_code=202)
@guard(scope="heartbeats:write", rate="heartbeat_key")
def send_heartbeat() -> Response:
    try:
        body = HeartbeatIn.model_validate_json(request.get_data())
    except ValidationError as error:
        problems = validation_problems(error)
        if any(
            item["type"] == "json_invalid" for item in error.errors(include_input=False, include_url=False)
        ):
            raise Malformed("The body is not JSON.") from None
        return invalid_body(problems)
    services.need_touch(caller().may_touch(body.service), body.service)
    limit("heartbeat", f"service:{body.service}", time.monotonic())
    known = DIRECTORY.find(body.service) or _create(body.service)
    signal, cut = to_signal(body, known, arrival=datetime.now(UTC))
    written = in_transaction(shared().engine, lambda session: heartbeats.write(session, [signal]))[0]
    if written.id is None:
        DIRECTORY.forget(body.service)
        raise NotFound(f"There is no service {body.service}.")
    if not written.is_repeat:
        metrics.HEARTBEATS.labels(signal.kind).inc()
    return _answer(body.service, written, cut=cut)


def to_signal(body: HeartbeatIn, service: Watched, *, arrival: datetime) -> tuple[Signal, bool]:
    """A checked body as a signal; true when its message was cut.

    The age is the client's own difference where it sent both times, else that to the arrival.
    """
    message, cut = body.message, False
    if message is not None and len(message.encode()) > MAX_MESSAGE_BYTES:
        message, cut = message.encode()[:MAX_MESSAGE_BYTES].decode(errors="ignore"), True
    age = 0.0
    if body.occurred_at is not None:
        age = ((body.sent_at or arrival) - body.occurred_at).total_seconds()
        if age < -FUTURE.total_seconds():
            raise Invalid.at("occurred_at", "is in the future")
        if age > shared().settings.heartbeat_retention_days * 86_400:
            raise Invalid.at("occurred_at", "is older than heartbeats are kept")
    return Signal(
        service=service,
        kind=kind_of(body.status, body.exit_code),
        age_s=max(age, 0.0),
        run_id=body.run_id,
        duration_ms=body.duration_ms,
        exit_code=body.exit_code,
        message=message,
        metrics=body.metrics,
        client_id=body.id,
    ), cut


def kind_of(status: str | None, exit_code: int | None) -> str:
    """What a signal is: as it says, but a non-zero exit code is a failure whatever it says."""
    if exit_code:
        return "fail"
    if status is not None:
        return status
    return "ok" if exit_code is None else "complete"


def _create(name: str) -> Watched:
    wish = request.args
    if wish.get("create") != "1":
        raise NotFound(f"There is no service {name}.")
    if "services:write" not in caller().scopes and "admin" not in caller().scopes:
        raise Forbidden("Making a service needs the scope services:write.")
    policy = services.Policy(
        every_s=int(parse_duration(wish.get("every", "5m"), path="every").total_seconds()),
        grace_s=int(parse_duration(wish.get("grace", "1m"), path="grace").total_seconds()),
        timezone=shared().settings.timezone,
    )

    def make(session: Session) -> None:
        services.create(session, name=name, policy=policy, actor=actor(), now=database_now(session))

    if name in RESERVED_NAMES or name.isdigit():
        raise Invalid.at("service", "is a reserved name")
    with contextlib.suppress(Conflict):  # somebody else got there first
        in_transaction(shared().engine, make)
    found = DIRECTORY.find(name)
    if found is None:
        raise NotFound(f"There is no service {name}.")
    return found


def _answer(service: str, written: Written, *, cut: bool) -> Response:
    assert written.received_at is not None
    body = {
        "id": written.id,
        "service": service,
        "received_at": format_time(written.received_at),
        "repeat": written.is_repeat,
        "message_cut": cut,
    }
    return Response(
        json.dumps(body), status=200 if written.is_repeat else 202, content_type="application/json"
    )
