"""/v1/hooks/{token}: another system starts a playbook.  No key: the address is a secret, and a second one proves the call.

The order: what costs nothing first.  An address that asked for too many hooks that are nobody's is not looked up, one
that sent too many wrong secrets is not compared; the body is proven as bytes, and only then read.
"""

from __future__ import annotations

import hmac
import re
import time
from datetime import datetime
from typing import Any, Literal

from apiflask import APIBlueprint
from flask import g, request
from pydantic import Field
from sqlalchemy.orm import Session

from medic import audit, hook_store, hooks, vault
from medic.crypto.sealing import SealBroken
from medic.db import database_now, in_transaction
from medic.errors import (
    Invalid,
    MedicError,
    Misconfigured,
    NotFound,
    Throttled,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from medic.hook_store import Proof
from medic.hooks import Called
from medic.idempotency import Kept, Repeatable, keep, recall
from medic.models.playbooks import Hook
from medic.payloads import read_body
from medic.telemetry.traces import current_traceparent
from medic_api.fields import Answer
from medic_api.guard import OPEN, guard, limit
from medic_api.guard import services as shared

bp = APIBlueprint("hooks", __name__, url_prefix="/v1", tag="Triggers and hooks")

MAX_BODY_BYTES = 262_144
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_HEADERS = {
    "Authorization": "`Bearer` and the secret, for a hook whose `verification` is `bearer`.",
    "Idempotency-Key": "Makes a repeat harmless, as does `webhook-id`; of a signed call only the latter counts.",
    "webhook-id": "Standard Webhooks: the message's id, the same for each retry.",
    "webhook-timestamp": "Standard Webhooks: seconds since 1970, within five minutes.",
    "webhook-signature": "Standard Webhooks: `v1,` and the signature.",
}


class CalledOut(Answer):
    """What a call started."""

    status: Literal["started", "shadow", "already", "ignored"] = Field(
        description="`shadow`: only recorded. `already`: it was done before. `ignored`: it asks for nothing."
    )
    executions: list[str]
    detail: str


@bp.post("/hooks/<hook_token:token>")
@guard(scope=OPEN, rate="trigger", limited=False)
@bp.doc(
    summary="Start a playbook by its hook",
    description="The body is JSON of at most 256 KiB, or empty. 202 once the execution is committed; 200 when nothing "
    "starts, as the call is a repeat or asks for nothing.",
    responses={200: "Nothing starts.", 400: "The body is not JSON.", 401: "No proof, or a wrong one.",
               413: "The body is larger than 256 KiB.", 503: "Medic cannot do it now."},
    extensions={"x-headers": _HEADERS},
)  # fmt: skip
@bp.output(CalledOut, status_code=202)
def call_hook(token: str) -> Any:
    at = time.monotonic()
    hook, now = _find(token, at)
    body = _read()
    _prove(hook, body, at, now)
    limit("trigger", f"hook:{hook.id}", at)
    outcome = in_transaction(shared().engine, lambda session: _receive(session, hook, body))
    if isinstance(outcome, MedicError):
        raise outcome  # after the commit: the refusal is in the audit log
    if outcome.status == "started" and outcome.execution_id is not None:
        shared().hints.give(outcome.execution_id, epoch=0)
    return _body(outcome), 202 if outcome.status in {"started", "shadow"} else 200


def _find(token: str, at: float) -> tuple[Hook, datetime]:
    """The hook of this address and the database's time, unless too many that are nobody's were asked for from there."""
    strangers, address = shared().strangers, request.remote_addr or ""
    wait = strangers.wait(address, token, now=at)
    if wait > 0:
        raise Throttled("Too many hooks that are nobody's from this address.", retry_after=wait)
    pepper = shared().settings.need_pepper()
    hook, now = in_transaction(
        shared().engine, lambda session: (hook_store.find(session, pepper, token), database_now(session))
    )
    if hook is None:
        strangers.count(address, now=at, key=token)
        raise NotFound("There is no such hook.")
    strangers.passed(token, now=at)
    return hook, now


def _read() -> bytes:
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise TooLarge("The body is larger than 256 KiB.")
    raw = request.get_data()
    if len(raw) > MAX_BODY_BYTES:
        raise TooLarge("The body is larger than 256 KiB.")
    return raw


def _prove(hook: Hook, body: bytes, at: float, now: datetime) -> None:
    given = request.headers.get("Authorization", "")
    proof = Proof(
        bearer=given[7:].strip() if given[:7].lower() == "bearer " else None,
        message_id=request.headers.get("webhook-id"),
        timestamp=request.headers.get("webhook-timestamp"),
        signature=request.headers.get("webhook-signature"),
    )
    is_bearer = hook.verification == "bearer"
    secret = proof.bearer if is_bearer else None
    guesses, address = shared().guesses, request.remote_addr or ""
    wait = guesses.wait(address, secret, now=at)
    if wait > 0:
        raise Throttled("Too many wrong secrets from this address.", retry_after=wait)
    settings = shared().settings
    try:
        ring = None if is_bearer else vault.key_ring(settings)
        is_proven = hook_store.is_proven(hook, proof, body, pepper=settings.need_pepper(), ring=ring, now=now)
    except (Misconfigured, SealBroken):
        raise Unavailable("This hook's secret does not open; set MEDIC_SECRETS_KEY to the key that sealed it, or rotate"
                          " the hook.", retry_after=60) from None  # fmt: skip
    if not is_proven:
        guesses.count(address, now=at, key=secret)
        how = "its secret as Authorization: Bearer" if is_bearer else "a valid webhook-signature"
        raise Unauthenticated(f"This hook needs {how}.")
    if secret is not None:
        guesses.passed(secret, now=at)


def _receive(session: Session, hook: Hook, raw: bytes) -> Called | MedicError:
    """Do what is asked for, unless this message was dealt with before."""
    now = database_now(session)
    asked = _asked(hook, raw)
    kept = recall(session, asked, now=now) if asked else None
    caller = audit.Actor(
        "hook", str(hook.trigger_id), source=request.remote_addr, request_id=g.get("request_id")
    )
    if kept is not None:
        again = Called("already", kept.body.get("execution"), "This message was dealt with before.")
        hooks.keep_unanswered(session, hook.trigger_id, again, actor=caller, now=now)
        return again
    outcome = hooks.receive(
        session, hook_id=hook.id, body=read_body(raw), actor=caller, source_ip=request.remote_addr, now=now,
        traceparent=current_traceparent(),
    )  # fmt: skip
    if isinstance(outcome, Called) and asked:
        answer = {"execution": str(outcome.execution_id) if outcome.execution_id else None}
        days = shared().settings.idempotency_retention_days
        keep(session, asked, Kept(202, answer), days=days, now=now)
    return outcome


def _asked(hook: Hook, raw: bytes) -> Repeatable | None:
    """The message's id.  Of a signed call only the signed one counts: else a replay would name another."""
    name = "webhook-id"
    if hook.verification == "bearer" and "Idempotency-Key" in request.headers:
        name = "Idempotency-Key"
    key = request.headers.get(name)
    if key is None:
        return None
    if _KEY.fullmatch(key) is None:
        raise Invalid.at(name, "must be 1 to 255 visible ASCII characters")
    return Repeatable(f"hook:{hook.id}", key, hmac.digest(shared().settings.need_pepper(), raw, "sha256"))


def _body(called: Called) -> dict[str, Any]:
    executions = [str(called.execution_id)] if called.execution_id is not None else []
    return {"status": called.status, "executions": executions, "detail": called.detail}
