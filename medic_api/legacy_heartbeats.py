"""The original's heartbeat routes: ``/heartbeat`` and ``/v2/heartbeat/{id}/start|complete|fail``."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

from flask import Response, g, request
from pydantic import ConfigDict, Field, ValidationError
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from medic import legacy, services
from medic.db import in_transaction
from medic.errors import Invalid, Malformed, NotFound, Throttled
from medic.heartbeats import Signal, Written
from medic.legacy import Known
from medic.models.alerting import Team
from medic.models.monitoring import Heartbeat, Run, Service
from medic.services import names_regex
from medic.telemetry import metrics
from medic.times import format_time
from medic_api.fields import Request, Text
from medic_api.guard import caller, guard, limit, peek
from medic_api.guard import services as shared
from medic_api.ingest import cut_message
from medic_api.intake import from_validation
from medic_api.legacy import Envelope, blueprint, envelope

bp = blueprint("legacy_heartbeats")

MAX_COUNT = 250
_KINDS = {
    "down": "fail", "fail": "fail", "failed": "fail", "failure": "fail", "error": "fail", "critical": "fail",
    "start": "start", "started": "start", "complete": "complete", "completed": "complete", "log": "log",
}  # fmt: skip
_SHOWN = {"ok": "UP", "fail": "DOWN", "start": "STARTED", "complete": "COMPLETED", "log": "LOG"}
_STATES = {"start": "STARTED", "complete": "COMPLETED", "fail": "FAILED"}


class LegacyBeat(Request):
    """A heartbeat as the original took it."""

    heartbeat_name: Text = Field(min_length=1, max_length=255)
    status: Text = Field(
        description="DOWN, FAIL, FAILED, FAILURE, ERROR and CRITICAL are failures; START, COMPLETE and LOG are "
        "what they say; any other is a success. Which is not told apart by the kind is kept as the message, cut to "
        "10 kB.",
    )
    service_name: Text | None = Field(None, max_length=255, description="Not read, as it never was.")


class LegacyBeatQuery(Request):
    """Which heartbeats to show."""

    heartbeat_name: Text | None = Field(None, max_length=255)
    service_name: Text | None = Field(None, max_length=255)
    maxCount: int = Field(MAX_COUNT, ge=1, le=MAX_COUNT)  # noqa: N815 - the original's name


class LegacyRun(Request):
    """The body may be empty; the original ignored what it could not read."""

    model_config = ConfigDict(extra="ignore")
    run_id: Text | None = Field(None, min_length=1, max_length=200)


class Inactive(Malformed):
    """The service is there, and paused."""


def _limited(view: Callable[..., Response]) -> Callable[..., Response]:
    """Count the call before anything of it is read: for its key, or else, when it is malformed, for its address."""

    @functools.wraps(view)
    def limited(*args: Any, **kwargs: Any) -> Response:
        at = time.monotonic()
        if "caller" in g:
            limit(
                "heartbeat_key",
                f"key:{caller().key_id}",
                at,
                writable=shared().writable.count(caller()),
                unread=_named,
            )
            return view(*args, **kwargs)
        try:
            return view(*args, **kwargs)
        except Inactive:
            raise
        except Invalid:
            _stranger(None, at)
            shared().strangers.count(request.remote_addr or "", now=at)
            raise

    return limited


@bp.post("/heartbeat")
@guard(scope="heartbeats:write", rate="heartbeat_key", limited=False, legacy=True)
@_limited
@bp.doc(summary="Send a heartbeat, as to the original")
@bp.input(LegacyBeat, location="json")
@bp.output(Envelope, status_code=201)
def post_heartbeat(json_data: LegacyBeat) -> Response:
    known = _find(name=json_data.heartbeat_name)
    kind = _KINDS.get(json_data.status.strip().lower(), "ok")
    told = json_data.status.strip().upper() == _SHOWN[kind]
    message, cut = (None, False) if told else cut_message(json_data.status.encode())
    _write(known, Signal(known.watched, kind, message=message))
    note = " Its status was longer than 10 kB and is cut." if cut else ""
    return envelope(message=f"Heartbeat of {known.called} stored.{note}", status=201)


@bp.get("/heartbeat")
@guard(scope="services:read", rate="management", legacy=True)
@bp.doc(summary="List heartbeats, newest first, as the original")
@bp.input(LegacyBeatQuery, location="query")
@bp.output(Envelope)
def get_heartbeats(query_data: LegacyBeatQuery) -> Response:
    query = (
        select(Heartbeat, Service, Team.name)
        .join(Service, Service.id == Heartbeat.service_id)
        .outerjoin(Team, Team.id == Service.team_id)
        .order_by(Heartbeat.received_at.desc(), Heartbeat.id.desc())
        .limit(query_data.maxCount)
    )
    if query_data.heartbeat_name is not None:
        query = query.where(Service.name == legacy.fold(query_data.heartbeat_name))
    if query_data.service_name is not None:
        shown = func.coalesce(func.nullif(Service.description, ""), Service.name)
        query = query.where(func.lower(shown) == query_data.service_name.lower())
    patterns = caller().service_patterns if "caller" in g else None
    if patterns is not None:
        query = query.where(Service.name.regexp_match(names_regex(patterns)))

    def work(session: Session) -> list[dict[str, Any]]:
        return [
            {
                "heartbeat_id": beat.id,
                "heartbeat_name": service.legacy_name or service.name,
                "service_name": service.description or service.name,
                "time": format_time(beat.received_at),
                "status": _SHOWN[beat.kind],
                "team": team,
                "priority": service.priority,
            }
            for beat, service, team in session.execute(query)
        ]

    return envelope(in_transaction(shared().engine, work))


@bp.post("/v2/heartbeat/<id:service_id>/<legacy_signal:signal>")
@guard(scope="heartbeats:write", rate="heartbeat_key", limited=False, legacy=True)
@_limited
@bp.doc(
    summary="Start, complete or fail a run, as with the original",
    description="The body may hold `run_id`. A run that was longer than the service's longest says so.",
)
@bp.output(Envelope, status_code=201)
def post_signal(service_id: int, signal: Literal["start", "complete", "fail"]) -> Response:
    run_id = _run_id()
    known = _find(service_id=service_id)
    written = _write(known, Signal(known.watched, signal, run_id=run_id))
    results: dict[str, Any] = {
        "service_id": service_id,
        "heartbeat_name": known.called,
        "status": _STATES[signal],
        "run_id": run_id,
    }
    duration = (
        None if signal == "start" else in_transaction(shared().engine, lambda s: _duration(s, known, written))
    )
    if duration is not None:
        results["duration_ms"] = duration
        longest = known.max_runtime_s * 1000 if known.max_runtime_s is not None else None
        if longest is not None and duration > longest:
            results["duration_alert"] = {
                "alert_type": "exceeded",
                "max_duration_ms": longest,
                "exceeded_by_ms": duration - longest,
            }
    return envelope(results, message=f"{_STATES[signal]} of {known.called} stored.", status=201)


def _run_id() -> str | None:
    try:
        body = json.loads(request.get_data() or b"{}")
    except (ValueError, RecursionError):
        return None
    try:
        return LegacyRun.model_validate(body).run_id if isinstance(body, dict) else None
    except ValidationError as error:
        raise from_validation(error) from None


def _find(*, name: str | None = None, service_id: int | None = None) -> Known:
    """The service, if this caller may send its heartbeats and it is watched."""
    at, keyless = time.monotonic(), "caller" not in g
    subject = f"legacy:{service_id if name is None else legacy.fold(name)}"
    if keyless:
        _stranger(subject, at)
    known = in_transaction(
        shared().engine, lambda session: legacy.find(session, name=name, service_id=service_id)
    )
    if not keyless and name is not None:
        services.need_touch(caller().may_touch(legacy.fold(name)), name)
    if known is None:
        if keyless:
            shared().strangers.count(request.remote_addr or "", now=at, key=subject)
        raise NotFound(
            f"There is no heartbeat {name}." if name is not None else f"There is no service {service_id}."
        )
    if keyless:
        shared().strangers.passed(subject, now=at)
    else:
        services.need_touch(caller().may_touch(known.watched.name), known.watched.name)
    limit("heartbeat", f"service:{known.watched.name}", at, heartbeats_of=[known.watched.id])
    if not known.is_active:
        raise Inactive(f"{known.called} is not active.")
    return known


def _named() -> Sequence[int | str]:
    """The service of a call that is refused unread, if the caller may send its heartbeats."""
    service_id = (request.view_args or {}).get("service_id")
    if isinstance(service_id, int):
        return [service_id] if caller().service_patterns is None else []
    name = peek().get("heartbeat_name")
    folded = legacy.fold(name) if isinstance(name, str) else ""
    return [folded] if folded and caller().may_touch(folded) else []


def _stranger(subject: str | None, at: float) -> None:
    """Refuse an address that sent too much that is nobody's, unless this is known."""
    wait = shared().strangers.wait(request.remote_addr or "", subject, now=at)
    if wait > 0:
        raise Throttled("Too many unknown heartbeats from this address.", retry_after=wait)


def _write(known: Known, signal: Signal) -> Written:
    written = shared().heartbeats.write([signal])[0]
    if written.id is None:
        raise NotFound(f"There is no heartbeat {known.called}.")
    metrics.HEARTBEATS.labels(signal.kind).inc()
    return written


def _duration(session: Session, known: Known, written: Written) -> int | None:
    return session.scalar(
        select(Run.duration_ms).where(Run.service_id == known.watched.id, Run.end_id == written.id)
    )
