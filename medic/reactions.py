"""From an alert to its playbooks: which triggers match, and what is admitted.

It runs in the transaction of the verdict, so that an alert without its executions cannot be committed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from medic import audit
from medic.errors import MedicError
from medic.executions.admission import Refused, Subject, start
from medic.executions.pinned import pinned
from medic.models.executions import Execution
from medic.models.monitoring import Service
from medic.models.playbooks import Playbook, PlaybookVersion, Trigger
from medic.playbook.glob import matches

log = structlog.get_logger("medic.reactions")


@dataclass(frozen=True, slots=True)
class Failing:
    """A service whose alert is open."""

    service: Service
    alert_id: int
    failures: int
    reasons: tuple[str, ...]


def react(session: Session, failing: Sequence[Failing], *, now: datetime) -> list[UUID]:
    """Start what the triggers ask for; returns the executions, to be dispatched after the commit."""
    if not failing:
        return []
    triggers = session.execute(
        select(Trigger, Playbook, PlaybookVersion)
        .join(Playbook, Playbook.id == Trigger.playbook_id)
        .join(
            PlaybookVersion,
            (PlaybookVersion.playbook_id == Playbook.id) & (PlaybookVersion.version == Playbook.version),
        )
        .where(Trigger.kind == "alert", Trigger.enabled, Playbook.enabled, Playbook.deleted_at.is_(None))
        .order_by(Trigger.position, Trigger.consecutive_failures.desc(), Trigger.id)
    ).all()  # fmt: skip
    if not triggers:
        return []
    ran = _already_started(session, [case.alert_id for case in failing])
    started: list[UUID] = []
    for case in failing:
        for trigger, playbook, version in triggers:
            if not applies(trigger, case):
                continue
            slot = _slot(trigger, ran.get((trigger.id, case.alert_id), []), now)
            if slot is not None:
                execution = _start(session, case, trigger, playbook, version, slot, now)
                started += [execution] if execution else []
            if case.service.playbook_policy == "first":
                break
    return started


def applies(trigger: Trigger, case: Failing) -> bool:
    """Whether a trigger is for this service, in this state."""
    return (
        case.failures >= trigger.consecutive_failures
        and matches(trigger.service_pattern or "", case.service.name)
        and (not trigger.tags or bool(set(trigger.tags) & set(case.service.tags)))
        and (not trigger.priorities or case.service.priority in trigger.priorities)
        and (not trigger.reasons or bool(set(trigger.reasons) & set(case.reasons)))
    )


def _already_started(session: Session, alert_ids: list[int]) -> dict[tuple[int, int], list[datetime]]:
    rows = session.execute(
        select(Execution.trigger_id, Execution.alert_id, Execution.created_at).where(
            Execution.alert_id.in_(alert_ids), Execution.trigger_id.is_not(None)
        )
    )
    ran: dict[tuple[int, int], list[datetime]] = {}
    for trigger_id, alert_id, created_at in rows:
        if trigger_id is not None and alert_id is not None:
            ran.setdefault((trigger_id, alert_id), []).append(created_at)
    return ran


def _slot(trigger: Trigger, ran: list[datetime], now: datetime) -> int | None:
    """Once per alert, or again each ``repeat_every`` after the last; None: not now."""
    if not ran:
        return 0
    if trigger.repeat_every_s is None or now < max(ran) + timedelta(seconds=trigger.repeat_every_s):
        return None
    return len(ran)


def _start(
    session: Session, case: Failing, trigger: Trigger, playbook: Playbook, version: PlaybookVersion, slot: int,
    now: datetime,
) -> UUID | None:  # fmt: skip
    actor = audit.Actor("trigger", str(trigger.id))
    detail = {"service": case.service.name, "alert": case.alert_id, "slot": slot}
    if trigger.mode == "shadow":
        audit.append(
            session, now=now, actor=actor, action="trigger.shadow", object_kind="playbook",
            object_id=playbook.name, detail=detail,
        )  # fmt: skip
        return None
    subject = Subject(
        playbook_id=playbook.id,
        playbook_version=version.version,
        document=pinned(version.source),
        started_by=actor,
        service_id=case.service.id,
        service_name=case.service.name,
        alert_id=case.alert_id,
        trigger_id=trigger.id,
        repeat_slot=slot,
        cooldown=timedelta(seconds=trigger.cooldown_s) if trigger.cooldown_s else None,
        variables=trigger.variables,
        context={"CONSECUTIVE_FAILURES": case.failures, "ALERT_CYCLE": slot + 1, "trigger": "alert"},
    )
    try:
        with session.begin_nested():
            outcome = start(session, subject, now=now)
    except MedicError as error:
        # A playbook that cannot start must not keep the alert from opening.
        log.warning("reactions.not_started", playbook=playbook.name, alert=case.alert_id, error=str(error))
        return None
    if isinstance(outcome, Refused):
        log.info("reactions.refused", playbook=playbook.name, alert=case.alert_id, code=outcome.code)
        return None
    return outcome
