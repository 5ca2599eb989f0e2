"""Heartbeats in: the thin path.  The answer leaves after the rows are committed."""

from __future__ import annotations

import contextlib
import time
from datetime import UTC, datetime, timedelta
from typing import Literal

from apiflask import APIBlueprint
from flask import Response
from pydantic import Field, FiniteFloat
from sqlalchemy.orm import Session

from medic import services
from medic.db import database_now, in_transaction
from medic.errors import Conflict, Invalid, NotFound
from medic.heartbeats import Signal, Watched, Written
from medic.service_policy import DEFAULT_GRACE_S, Policy
from medic.telemetry import metrics
from medic.times import format_time
from medic_api.fields import RESERVED_NAMES, Answer, Duration, Name, Request, Text, Time
from medic_api.guard import actor, caller, guard, limit
from medic_api.guard import services as shared

MAX_MESSAGE_BYTES = 10_000
MAX_METRICS = 50
FUTURE = timedelta(seconds=60)

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
    metrics: dict[Text, FiniteFloat] | None = Field(None, max_length=MAX_METRICS)


class HeartbeatOut(Answer):
    """What was stored."""

    id: int
    service: str
    received_at: str
    repeat: bool = Field(description="This `id` was stored before; nothing changed.")
    message_cut: bool = Field(description="The message was longer than 10 kB and is cut.")


class CreateQuery(Request):
    """What an unknown service becomes."""

    create: Literal["0", "1"] = Field("0", description="1 makes the service if there is none.")
    every: Duration = Field(timedelta(minutes=5), ge=timedelta(seconds=1))
    grace: Duration = timedelta(seconds=DEFAULT_GRACE_S)


@bp.post("/heartbeats")
@guard(scope="heartbeats:write", rate="heartbeat_key")
@bp.doc(
    summary="Send a heartbeat",
    description="Answers 202 once the heartbeat is committed. `?create=1&every=5m&grace=1m` makes an unknown "
    "service, if the key has `services:write`. Send an `id` to make a retry harmless.",
    responses={200: "A repeat: stored before.", 404: "No such service."},
)
@bp.input(CreateQuery, location="query")
@bp.input(HeartbeatIn, location="json")
@bp.output(HeartbeatOut, status_code=202)
def send_heartbeat(json_data: HeartbeatIn, query_data: CreateQuery) -> Response:
    return take(json_data, query_data)


def take(body: HeartbeatIn, wish: CreateQuery, *, message_cut: bool = False) -> Response:
    """Store one heartbeat of a key that may send some, and answer.

    :param message_cut: the message was cut already.
    :raises Forbidden: the key is not for this service.
    :raises NotFound: there is no such service, and none is made.
    """
    name = body.service
    services.need_touch(caller().may_touch(name), name)
    limit("heartbeat", f"service:{name}", time.monotonic(), heartbeats_of=[name])
    directory = shared().directory
    for _ in range(2):  # a second time when it was made anew since we heard of it
        known = directory.find(name) or _create(name, wish)
        signal, cut = to_signal(
            body, known, arrival=datetime.now(UTC), retention_days=shared().settings.heartbeat_retention_days
        )
        written = shared().heartbeats.write([signal])[0]
        if not written.is_current:
            directory.forget(name)
        if written.id is not None:
            if not written.is_repeat:
                metrics.HEARTBEATS.labels(signal.kind).inc()
            return Response(
                answer_text(name, written, cut=cut or message_cut),
                status=200 if written.is_repeat else 202,
                content_type="application/json",
            )
    raise NotFound(f"There is no service {name}.")


def to_signal(
    body: HeartbeatIn, service: Watched, *, arrival: datetime, retention_days: int
) -> tuple[Signal, bool]:
    """A checked body as a signal; true when its message was cut.

    The age is the client's own difference where it sent both times, else that to the arrival.

    :raises Invalid: it happened in the future, or longer ago than heartbeats are kept.
    """
    if len(body.model_fields_set) == 1:  # it says no more than whose it is; most do
        return Signal(service, "ok"), False
    message, cut = (None, False) if body.message is None else cut_message(body.message.encode())
    age = 0.0
    if body.occurred_at is not None:
        age = ((body.sent_at or arrival) - body.occurred_at).total_seconds()
        if age < -FUTURE.total_seconds():
            raise Invalid.at("occurred_at", "is in the future")
        if age > retention_days * 86_400:
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


def cut_message(raw: bytes) -> tuple[str, bool]:
    """At most 10 kB of a message, as text that can be stored; true when some was cut."""
    is_cut = len(raw) > MAX_MESSAGE_BYTES
    shown = raw[:MAX_MESSAGE_BYTES].decode(errors="ignore") if is_cut else raw.decode(errors="replace")
    return shown.replace("\0", "\ufffd"), is_cut


def kind_of(status: str | None, exit_code: int | None) -> str:
    """What a signal is: as it says, but a non-zero exit code is a failure whatever it says."""
    if exit_code:
        return "fail"
    if status is not None:
        return status
    return "ok" if exit_code is None else "complete"


def _create(name: str, wish: CreateQuery) -> Watched:
    if wish.create != "1":
        raise NotFound(f"There is no service {name}.")
    caller().need("services:write")
    if name in RESERVED_NAMES or name.isdigit():
        raise Invalid.at("service", "is a reserved name")
    policy = Policy(
        every_s=int(wish.every.total_seconds()),
        grace_s=int(wish.grace.total_seconds()),
        timezone=shared().settings.timezone,
    )

    def make(session: Session) -> None:
        services.create(session, name=name, policy=policy, actor=actor(), now=database_now(session))

    with contextlib.suppress(Conflict):  # somebody else got there first
        in_transaction(shared().engine, make)
    found = shared().directory.find(name)
    if found is None:
        raise NotFound(f"There is no service {name}.")
    return found


def answer_text(service: str, written: Written, *, cut: bool) -> str:
    """The answer's JSON; a name needs no escapes."""
    assert written.received_at is not None
    return (
        f'{{"id":{written.id},"service":"{service}","received_at":"{format_time(written.received_at)}",'
        f'"repeat":{"true" if written.is_repeat else "false"},"message_cut":{"true" if cut else "false"}}}'
    )
