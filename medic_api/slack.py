"""/v1/slack/interactions: the buttons under Medic's messages in Slack.

A request's proof is Slack's signature over its raw body, checked before anything of it is read.  Whoever presses a
button is known by the id that Slack gave them; who may see the channel may press what acknowledges and mutes.  What
approves, rejects and settles is for those who stand for an API key that may (`medic.slack_users`).

Slack shows nothing of the answer to such a request, so the text goes to the ``response_url`` too, if that can be done in
the time that Slack waits; nothing hangs on it.
"""

from __future__ import annotations

import functools
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal
from urllib.parse import parse_qs
from uuid import UUID

import structlog
from apiflask import APIBlueprint
from flask import g, request
from sqlalchemy import select
from sqlalchemy.orm import Session

from medic import alerts, audit, mutes, slack_users
from medic.crypto.signatures import verify_slack
from medic.db import advisory_lock, database_now, in_transaction
from medic.egress import SafeClient, allow_list
from medic.errors import (
    Conflict,
    EgressFailed,
    EgressRefused,
    Forbidden,
    Malformed,
    NotFound,
    Throttled,
    Unauthenticated,
    Unavailable,
)
from medic.executions import approvals, control, views
from medic.executions.control import Verdict
from medic.models.alerting import Alert
from medic.models.executions import Execution, ExecutionStep
from medic.settings import Settings
from medic.times import format_time
from medic_api.fields import MAX_ID, Answer
from medic_api.guard import OPEN, guard, limit
from medic_api.guard import services as shared

bp = APIBlueprint("slack", __name__, url_prefix="/v1", tag="Alerts")

ACKNOWLEDGE = "medic_ack"
MUTE = "medic_mute"

SIGNATURE = "X-Slack-Signature"
TIMESTAMP = "X-Slack-Request-Timestamp"

APPROVE: Final = {"medic_approve": "approved", "medic_reject": "rejected"}
SETTLE: Final[Mapping[str, Verdict]] = {
    "medic_happened": "happened",
    "medic_retry": "retry",
    "medic_fail": "fail",
}

_USER = re.compile(r"[A-Za-z0-9]{1,64}", re.ASCII)
_NUMBER = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)
_DOUBT = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.([0-9]{1,4})\.([0-9]{1,9})", re.ASCII)
_LONGEST_NAME = 80


REPLY_S = 1.5
"""Slack waits three seconds in all."""

log = structlog.get_logger("medic_api")


class SlackText(Answer):
    """What the one who pressed the button reads; nothing for a button that is not Medic's."""

    response_type: Literal["ephemeral"]
    replace_original: bool
    text: str


@dataclass(frozen=True, slots=True)
class Press:
    """One button, pressed.  ``name``: how Slack calls the user, for people to read.

    :param about: the number of an alert or of an approval, or the attempt whose outcome is unknown.
    """

    action: str
    about: str
    user: str
    name: str


@dataclass(frozen=True, slots=True)
class Interaction:
    """Medic's own buttons that were pressed, and where the one who did reads what became of it."""

    presses: tuple[Press, ...]
    reply_to: str | None = None


def _proven(view: Callable[..., Any]) -> Callable[..., Any]:
    """Only for what Slack signed."""

    @functools.wraps(view)
    def proven(*args: Any, **kwargs: Any) -> Any:
        _prove()
        return view(*args, **kwargs)

    return proven


def _prove() -> None:
    at, address = time.monotonic(), request.remote_addr or ""
    secret = shared().settings.slack_signing_secret
    if secret is None:
        limit("management", f"address:{address}", at)
        raise Unavailable("SLACK_SIGNING_SECRET is not set, so no button works.", retry_after=300)
    keys = [part.strip().encode() for part in secret.get_secret_value().split(",") if part.strip()]
    is_genuine = verify_slack(
        keys,
        timestamp=request.headers.get(TIMESTAMP),
        signature=request.headers.get(SIGNATURE),
        body=request.get_data(cache=True),
        now=datetime.now(UTC),
    )
    if is_genuine:
        # Counted apart from strangers: behind a proxy they may share Slack's address, and must not use up its calls.
        limit("management", "slack", at)
        return
    guesses = shared().guesses
    wait = guesses.wait(address, None, now=at)
    if wait > 0:
        raise Throttled("Too many wrong signatures from this address.", retry_after=wait)
    guesses.count(address, now=at)
    limit("management", f"address:{address}", at)
    raise Unauthenticated(
        "This is not signed by Slack, or too long ago; check SLACK_SIGNING_SECRET and the clock."
    )


@bp.post("/slack/interactions")
@guard(scope=OPEN, rate="management", limited=False)
@_proven
@bp.doc(
    summary="Take the press of a button in Slack",
    description="The request URL of the Slack app's interactivity: a form whose field `payload` is JSON of the type "
    "`block_actions`. Pressing twice, or a repeat by Slack, changes nothing. 503 while `SLACK_SIGNING_SECRET` is unset.",
    responses={
        400: "It is signed, but no interaction of Slack.",
        401: "It is not signed by Slack, or more than five minutes ago.",
        503: "No signing secret is set, or Medic cannot do it now.",
    },
    extensions={
        "x-headers": {SIGNATURE: "`v0=` and the HMAC of the raw body.", TIMESTAMP: "When it was signed."}
    },
)
@bp.output(SlackText)
def press_button() -> Any:
    interaction = read_interaction(request.get_data(cache=True))
    texts = [
        in_transaction(shared().engine, functools.partial(_press, press)) for press in interaction.presses
    ]
    answer = {"response_type": "ephemeral", "replace_original": False, "text": " ".join(texts)}
    if texts and interaction.reply_to:
        _reply(interaction.reply_to, answer, shared().settings)
    return answer


@functools.lru_cache(maxsize=4)
def _client(settings: Settings) -> SafeClient:
    return SafeClient(allow_list(settings))


def _reply(url: str, answer: dict[str, Any], settings: Settings) -> None:
    """The URL lets anybody answer who has it, so nothing logs it."""
    try:
        response = _client(settings).request(
            "POST",
            url,
            headers={"content-type": "application/json"},
            body=json.dumps(answer).encode(),
            timeout=REPLY_S,
        )
    except (EgressRefused, EgressFailed) as error:
        log.info("slack.reply_not_sent", error=error.code)
    else:
        if response.status >= 300:
            log.info("slack.reply_refused", status=response.status)


def read_interaction(body: bytes) -> Interaction:
    """What this body says was pressed.

    :raises Malformed: it is no interaction of Slack.
    """
    try:
        payload = json.loads(parse_qs(body.decode(), strict_parsing=True, max_num_fields=20)["payload"][0])
        if payload["type"] != "block_actions":
            return Interaction(())
        user, actions = payload["user"], payload["actions"]
        user_id = user["id"] if _USER.fullmatch(user["id"]) else None
        if user_id is None:
            raise Malformed("The user's id is none of Slack's.")
        name = _readable(user.get("username") or user.get("name")) or user_id
        presses = tuple(
            Press(action["action_id"], action["value"], user_id, name)
            for action in actions[:10]
            if _is_ours(action.get("action_id"), action.get("value"))
        )
        reply_to = payload.get("response_url")
        return Interaction(presses, reply_to if isinstance(reply_to, str) else None)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise Malformed(
            "This is no interaction of Slack: a form with a field payload, which is JSON."
        ) from None


def _is_ours(action: object, value: object) -> bool:
    if not isinstance(action, str) or not isinstance(value, str):
        return False
    if action in SETTLE:
        return _DOUBT.fullmatch(value) is not None
    is_number = _NUMBER.fullmatch(value) is not None and int(value) <= MAX_ID
    return is_number and action in {ACKNOWLEDGE, MUTE, *APPROVE}


def _readable(name: object) -> str:
    """A name without what does not print; empty if it is none."""
    return (
        "".join(c for c in name if c.isprintable())[:_LONGEST_NAME].strip() if isinstance(name, str) else ""
    )


def _press(press: Press, session: Session) -> str:
    """Do what the button says, and say what became of it; one that is out of date changes nothing."""
    who = audit.Actor("slack", press.user, source=request.remote_addr, request_id=g.get("request_id"))
    now = database_now(session)
    if press.action in APPROVE or press.action in SETTLE:
        return _decide(session, press, who, now)
    try:
        alert = alerts.find(session, int(press.about))
    except NotFound:
        return f"There is no alert {press.about} any more."
    if alert.resolved_at is not None:
        return f"Alert {alert.id} of {alert.service_name} is resolved already; nothing was changed."
    if press.action == ACKNOWLEDGE:
        return _acknowledge(session, alert, who, now)
    return _mute(session, alert, press, who, now)


def _decide(session: Session, press: Press, who: audit.Actor, now: datetime) -> str:
    """Approve, reject or settle as the key that this person stands for."""
    scope = "approvals:decide" if press.action in APPROVE else "executions:run"
    stands_for = slack_users.principal(session, press.user, now=now)
    if stands_for is None:
        return f"Nothing was changed: Medic does not know you, {press.user}; have an admin say which key you stand for."
    try:
        stands_for.caller.need(scope)
        if press.action in SETTLE:
            return _settle(session, press, stands_for, who, now)
        _, execution = views.approval(session, int(press.about))
        _need_touch(stands_for, execution)
        session.expunge_all()  # the use case reads them again, under its locks
        verdict = APPROVE[press.action]
        approvals.decide(
            session, approval_id=int(press.about), verdict=verdict, actor=who, now=now,
            comment=f"In Slack, as {stands_for.caller.name}", same=stands_for.names,
        )  # fmt: skip
    except (Conflict, Forbidden, NotFound) as error:
        return f"Nothing was changed: {error.message}"
    return f"You {verdict} the playbook {execution.playbook_name} (approval {press.about})."


def _settle(
    session: Session, press: Press, stands_for: slack_users.Principal, who: audit.Actor, now: datetime
) -> str:
    found = _DOUBT.fullmatch(press.about)
    assert found is not None
    execution_id, position, epoch = UUID(found[1]), int(found[2]), int(found[3])
    # Locked first: this very attempt has to stand in doubt, not another one since.
    execution = session.get(Execution, execution_id, with_for_update={"key_share": True})
    if execution is None:
        raise NotFound("There is no such execution any more.")
    _need_touch(stands_for, execution)
    step = session.get(ExecutionStep, (execution_id, position))
    doubt = step.doubt if step is not None and position == execution.next_step else None
    if doubt is None or doubt.get("epoch") != epoch:
        raise Conflict("this step is not in doubt any more.")
    verdict = SETTLE[press.action]
    control.settle(session, execution_id=execution_id, verdict=verdict, actor=who, now=now)
    return f"You settled step {position + 1} of the playbook {execution.playbook_name}: {verdict}."


def _need_touch(stands_for: slack_users.Principal, execution: Execution) -> None:
    key, service = stands_for.caller, execution.service_name
    if key.service_patterns is not None and (service is None or not key.may_touch(service)):
        raise Forbidden("the key that you stand for is not for this service.")


def _acknowledge(session: Session, alert: Alert, who: audit.Actor, now: datetime) -> str:
    # Locked first, so that of two presses at once the second one sees the first.
    locked = session.scalars(
        select(Alert)
        .where(Alert.id == alert.id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if locked is None or locked.resolved_at is not None:
        return f"Alert {alert.id} of {alert.service_name} is resolved already; nothing was changed."
    if locked.acknowledged_by is not None:
        by = "you" if locked.acknowledged_by == str(who) else locked.acknowledged_by
        return f"Alert {locked.id} of {locked.service_name} is acknowledged already, by {by}."
    alerts.acknowledge(session, alert_id=locked.id, actor=who, now=now)
    return f"You acknowledged alert {locked.id} of {locked.service_name}."


def _mute(session: Session, alert: Alert, press: Press, who: audit.Actor, now: datetime) -> str:
    name = alert.service_name
    advisory_lock(
        session, f"slack-mute:{alert.service_id}"
    )  # one press is one mute, however often Slack repeats it
    standing = mutes.active(session, [alert.service_id or 0], now=now).get(alert.service_id or 0)
    if standing:
        until = max(mute.ends_at for mute in standing)
        return f"{name} is muted already, until {_short(until)}."
    ends_at = now + timedelta(hours=shared().settings.auto_unmute_hours)
    try:
        mutes.create(
            session,
            service=name,
            reason=f"Muted from Slack by {press.name}",
            ends_at=ends_at,
            actor=who,
            now=now,
        )
    except NotFound:
        return f"The service {name} is deleted; nothing was changed."
    return f"You muted {name} until {_short(ends_at)}. Unmute it in Medic."


def _short(at: datetime) -> str:
    return format_time(at.replace(second=0, microsecond=0))
