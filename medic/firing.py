"""A schedule's time has come, or a hook was called: start the playbook, or record what would have started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from medic import audit, services
from medic.errors import Invalid, NotFound
from medic.executions.admission import Refused, Subject, start
from medic.executions.pinned import pinned
from medic.models.executions import Execution
from medic.models.playbooks import Playbook, PlaybookVersion, Trigger
from medic.reactions import record_shadow


@dataclass(frozen=True, slots=True)
class Fired:
    """``outcome``: ``started``, ``shadow`` or ``refused``; ``note`` says why it was refused."""

    outcome: str
    execution_id: UUID | None = None
    note: str = ""


def fire(
    session: Session, trigger: Trigger, *, actor: audit.Actor, context: Mapping[str, Any], now: datetime,
    service: str | None = None, variables: Mapping[str, Any] | None = None, traceparent: str | None = None,
) -> Fired:  # fmt: skip
    """Start the trigger's playbook; the caller holds the trigger's row and dispatches after the commit.

    :param service: the service that it is for.
    :param variables: over those of the trigger.
    :raises Invalid: the variables do not fit the playbook, or there is no such service.
    """
    playbook = session.get_one(Playbook, trigger.playbook_id)
    version = session.get_one(PlaybookVersion, (playbook.id, playbook.version))
    service_id = None
    if service is not None:
        try:
            service_id = services.find(session, service)[0].id
        except NotFound as error:
            raise Invalid.at("service", error.message) from None
    subject = Subject(
        playbook_id=playbook.id,
        playbook_version=version.version,
        document=pinned(version.source),
        started_by=actor,
        service_id=service_id,
        service_name=service,
        trigger_id=trigger.id,
        cooldown=timedelta(seconds=trigger.cooldown_s) if trigger.cooldown_s else None,
        variables={**trigger.variables, **(variables or {})},
        context=dict(context),
        traceparent=traceparent,
    )
    if not playbook.enabled:
        return _refuse(session, subject, "disabled", f"The playbook {playbook.name} is switched off.", now)
    if trigger.mode == "shadow":
        return Fired("shadow", record_shadow(session, subject, now))
    if _is_cooling(session, subject, now):
        return _refuse(session, subject, "cooldown", "The trigger's cooldown is not over.", now)
    outcome = start(session, subject, now=now)
    if isinstance(outcome, Refused):
        return Fired("refused", note=outcome.reason)
    return Fired("started", outcome)


def _is_cooling(session: Session, subject: Subject, now: datetime) -> bool:
    """A cooldown holds for a service, which admission sees to; without one it holds for the trigger."""
    if subject.cooldown is None or subject.service_id is not None:
        return False
    last = session.scalar(
        select(func.max(func.coalesce(Execution.finished_at, Execution.created_at))).where(
            Execution.trigger_id == subject.trigger_id, Execution.mode == "live"
        )
    )
    return last is not None and last > now - subject.cooldown


def _refuse(session: Session, subject: Subject, code: str, reason: str, now: datetime) -> Fired:
    audit.append(
        session, now=now, actor=subject.started_by, action="execution.refuse", object_kind="playbook",
        object_id=subject.document.name, detail={"code": code, "reason": reason, "service": subject.service_name, "alert": None,
                "trigger": subject.trigger_id},
    )  # fmt: skip
    return Fired("refused", note=reason)
