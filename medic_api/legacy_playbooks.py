"""The original's ways to start a playbook: by key, and by the one webhook secret."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

from flask import Response, g, request
from pydantic import Field, SecretStr
from sqlalchemy.orm import Session

from medic import audit, playbooks
from medic.crypto.signatures import same_secret
from medic.db import database_now, in_transaction
from medic.errors import Conflict, MedicError, NotFound, Throttled, Unauthenticated, Unavailable
from medic.executions import views
from medic.executions.admission import Refused, Subject, start
from medic.executions.pinned import pinned
from medic.models.executions import Execution
from medic.models.monitoring import Service
from medic.models.playbooks import Playbook
from medic.telemetry.traces import current_traceparent
from medic_api.fields import MAX_ID, JsonValue, Request, Text
from medic_api.guard import OPEN, actor, guard, limit, need_service
from medic_api.guard import services as shared
from medic_api.legacy import Envelope, blueprint, envelope

bp = blueprint("legacy_playbooks")

SECRET_HEADER = "X-Webhook-Secret"  # noqa: S105 - a header's name
_HOOK = "webhook-secret"


class LegacyStart(Request):
    """What the playbook runs on; the body may be empty."""

    service_id: int | None = Field(None, ge=1, le=MAX_ID)
    variables: dict[Text, JsonValue] = Field(default_factory=dict, max_length=200)


def _proven(view: Callable[..., Response]) -> Callable[..., Response]:
    """Only for a caller that has the secret, before anything of the request is read.  Whoever guesses too often is
    not compared any more.
    """

    @functools.wraps(view)
    def proven(*args: Any, **kwargs: Any) -> Response:
        _prove()
        return view(*args, **kwargs)

    return proven


def _prove() -> None:
    at, address = time.monotonic(), request.remote_addr or ""
    given = request.headers.get(SECRET_HEADER)
    guesses, secret = shared().guesses, shared().settings.webhook_secret
    wait = guesses.wait(address, given, now=at)
    if wait > 0:
        raise Throttled("Too many wrong secrets from this address.", retry_after=wait)
    if secret is None:
        limit("trigger", f"address:{address}", at)
        raise Unavailable("MEDIC_WEBHOOK_SECRET is not set, so nothing starts here.", retry_after=300)
    if not any(same_secret(given, known) for known in _live(secret)):
        guesses.count(address, now=at)
        raise Unauthenticated(f"A valid {SECRET_HEADER} is needed.")
    guesses.passed(given or "", now=at)
    limit("trigger", f"address:{address}", at)


def _live(secret: SecretStr) -> list[SecretStr]:
    """The whole value too: one secret may hold a comma."""
    parts = [part.strip() for part in secret.get_secret_value().split(",")]
    return [secret, *(SecretStr(part) for part in parts if part)]


@bp.post("/v2/playbooks/<id:playbook_id>/execute")
@guard(scope="executions:run", rate="trigger")
@bp.doc(
    summary="Start a playbook, as with the original",
    description="Answers once the execution is committed; it then runs.",
)
@bp.input(LegacyStart, location="json")
@bp.output(Envelope, status_code=201)
def execute_playbook(playbook_id: int, json_data: LegacyStart) -> Response:
    return _start(playbook_id, json_data, started_by=actor(), trigger="api", narrow=True)


@bp.post("/v2/webhooks/playbooks/<id:playbook_id>/trigger")
@guard(scope=OPEN, rate="trigger", limited=False)
@_proven
@bp.doc(
    summary="Start a playbook by the webhook secret, as with the original",
    description="503 while `MEDIC_WEBHOOK_SECRET` is unset. An address that guesses is told to wait.",
    responses={401: "No secret, or a wrong one.", 503: "No secret is set, or Medic cannot do it now."},
    extensions={"x-headers": {SECRET_HEADER: "`MEDIC_WEBHOOK_SECRET`."}},
)
@bp.input(LegacyStart, location="json")
@bp.output(Envelope, status_code=201)
def trigger_playbook(playbook_id: int, json_data: LegacyStart) -> Response:
    hook = audit.Actor("hook", _HOOK, source=request.remote_addr, request_id=g.get("request_id"))
    return _start(playbook_id, json_data, started_by=hook, trigger="webhook", narrow=False)


def _start(
    playbook_id: int, wish: LegacyStart, *, started_by: audit.Actor, trigger: str, narrow: bool
) -> Response:
    def work(session: Session) -> Execution | MedicError:
        subject = _subject(session, playbook_id, wish, started_by, trigger)
        if narrow:
            need_service(subject.service_name)
        outcome = start(session, subject, now=database_now(session))
        if isinstance(outcome, Refused):
            return Conflict(outcome.reason)  # after the commit: the refusal is in the audit log
        execution = views.find(session, outcome)
        session.refresh(execution)
        return execution

    execution = in_transaction(shared().engine, work)
    if isinstance(execution, MedicError):
        raise execution
    if execution.state == "running":
        shared().hints.give(execution.id, epoch=execution.epoch)
    results: dict[str, Any] = {
        "execution_id": str(execution.id),
        "playbook_id": playbook_id,
        "playbook_name": execution.playbook_name,
        "status": execution.state,
        "service_id": execution.service_id,
    }
    return envelope(results, message=f"{execution.playbook_name} is {execution.state}.", status=201)


def _subject(
    session: Session, playbook_id: int, wish: LegacyStart, started_by: audit.Actor, trigger: str
) -> Subject:
    found = session.get(Playbook, playbook_id)
    if found is None:
        raise NotFound(f"There is no playbook {playbook_id}.")
    stored = playbooks.find(session, found.name)
    if stored.playbook.id != playbook_id:
        raise NotFound(f"There is no playbook {playbook_id}.")
    if not stored.playbook.enabled:
        raise Conflict(f"The playbook {found.name} is switched off.")
    service = None
    if wish.service_id is not None:
        service = session.get(Service, wish.service_id)
        if service is None:
            raise NotFound(f"There is no service {wish.service_id}.")
    return Subject(
        playbook_id=playbook_id,
        playbook_version=stored.version.version,
        document=pinned(stored.version.source),
        started_by=started_by,
        service_id=wish.service_id,
        service_name=service.name if service is not None else None,
        variables=wish.variables,
        context={"trigger": trigger} | ({"source_ip": request.remote_addr} if request.remote_addr else {}),
        traceparent=current_traceparent(),
    )
