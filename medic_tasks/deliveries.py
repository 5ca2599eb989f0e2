"""Deliveries: the tick that finds what is due, and the task that sends it, target by target."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy.orm import Session

from medic import broker
from medic import settings as settings_
from medic.db import database_now, engine, in_transaction
from medic.deliveries.claim import claim
from medic.deliveries.due import due_targets, fail_orphans, hint
from medic.deliveries.message import ClaimedMessage
from medic.deliveries.record import record_delivered, record_permanent, record_temporary
from medic.deliveries.schedule import LEASE
from medic.errors import MedicError
from medic.executions.patience import patiently
from medic.settings import Settings
from medic.target_store import view
from medic.targets import KINDS
from medic.targets.base import Permanent, TargetView, Temporary
from medic.telemetry.logs import bind_context
from medic.vault import key_ring
from medic_tasks.sweeps import while_away

log = structlog.get_logger("medic.deliveries")
app = broker.app()

MESSAGES = 20
ENOUGH_S = 60.0
"""After so many messages, or so long, a target makes room for the others."""

TIME_LIMIT_S = ENOUGH_S + 2 * LEASE.total_seconds()
"""Frees a worker from a target that never returns; its lease is over long before."""


@dataclass(frozen=True, slots=True)
class NotSent:
    """Why a message did not arrive."""

    error: str
    final: bool = False
    disables: bool = False
    retry_after: float | None = None


@app.task(name="medic.sweep.deliveries")
@while_away
def sweep_deliveries() -> str:
    """Ask the workers to look at every target that has something due."""

    def look(session: Session) -> list[int]:
        now = database_now(session)
        fail_orphans(session, now=now)
        return due_targets(session, now=now)

    found = in_transaction(engine(), look)
    return f"{hint(found)} of {len(found)} targets"


@app.task(name=broker.DELIVER_TASK, max_retries=2, default_retry_delay=1, time_limit=TIME_LIMIT_S)
def deliver_target(target_id: int) -> str:
    """Send what is due to a target."""
    bind_context(target_id=target_id)
    return while_away(functools.partial(deliver, target_id))()


def deliver(target_id: int) -> str:
    """Send one message after the other until nothing may go, or the target does not answer."""
    began = time.monotonic()
    for count in range(MESSAGES):
        if time.monotonic() - began > ENOUGH_S:
            break
        message = in_transaction(
            engine(), lambda session: claim(session, target_id=target_id, now=database_now(session))
        )
        if message is None:
            return f"sent {count}"
        sent = send(message, settings_.current())
        hint(patiently(engine(), functools.partial(_record, message=message, sent=sent)))
        if isinstance(sent, NotSent) and not sent.final:
            return f"sent {count}, then: {sent.error}"
    hint([target_id])
    return f"sent {MESSAGES}, and on"


def send(message: ClaimedMessage, settings: Settings) -> Mapping[str, Any] | NotSent:
    """Speak to the target, with no transaction open; whatever goes wrong is an answer too."""
    kind = KINDS.get(message.target.kind)
    if kind is None:
        return NotSent(f"There is no kind of target {message.target.kind}.", final=True)
    try:
        notification = message.notification(settings.base_url)
        return kind.send(_opened(message, settings), notification, message.envelope, settings=settings)
    except Temporary as error:
        log.warning("delivery.not_sent", target=message.target.name, error=error.message)
        return NotSent(error.message, retry_after=error.retry_after)
    except Permanent as error:
        log.warning("delivery.refused", target=message.target.name, error=error.message)
        return NotSent(error.message, final=True, disables=error.disables)
    except MedicError as error:
        # A key that is missing, say: the operator can mend it, and then the message goes.
        log.error("delivery.not_sent", target=message.target.name, error=error.message)  # noqa: TRY400
        return NotSent(error.message)
    except Exception as error:
        log.exception("delivery.broke", target=message.target.name)
        return NotSent(f"Medic could not send it: {type(error).__name__}.")


def _opened(message: ClaimedMessage, settings: Settings) -> TargetView:
    target = message.target
    if target.sealed is None:
        return TargetView(id=target.id, name=target.name, config=target.config, secrets={})
    return view(target, key_ring(settings))


def _record(session: Session, message: ClaimedMessage, sent: Mapping[str, Any] | NotSent) -> set[int]:
    """Write down what became of it; which other targets have something due now."""
    now = database_now(session)
    if not isinstance(sent, NotSent):
        record_delivered(session, message, sent, now=now)
        return set()
    if sent.final:
        return record_permanent(session, message, sent.error, disables=sent.disables, now=now)
    return record_temporary(session, message, sent.error, retry_after=sent.retry_after, now=now)
