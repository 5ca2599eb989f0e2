"""From an alert to its playbooks: which triggers match, and what is admitted.

It runs in the transaction of the verdict, so that an alert without its executions cannot be committed.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from sqlalchemy import insert, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from medic import audit
from medic.db import is_lost
from medic.errors import MedicError
from medic.executions.admission import Refused, Subject, bind_variables, start
from medic.executions.pinned import pinned
from medic.ids import ENTROPY_BYTES, uuid7
from medic.models.executions import Execution, ExecutionStep
from medic.models.monitoring import Service
from medic.models.playbooks import Playbook, PlaybookVersion, Trigger
from medic.playbook.glob import matches
from medic.telemetry.traces import start_trace

REFUSED_AGAIN = timedelta(minutes=5)
"""The stop switch, a breaker or a cooldown may be over by then; the service itself may be silent for a day."""

log = structlog.get_logger("medic.reactions")


@dataclass(frozen=True, slots=True)
class Failing:
    """A service whose alert is open."""

    service: Service
    alert_id: int
    failures: int
    reasons: tuple[str, ...]


@dataclass(slots=True)
class Reaction:
    """``started``: executions to dispatch after the commit.  ``again``: by service id, when to look once more."""

    started: list[UUID] = field(default_factory=list)
    again: dict[int, datetime] = field(default_factory=dict)


def react(session: Session, failing: Sequence[Failing], *, now: datetime) -> Reaction:
    """Start what the triggers ask for."""
    reaction = Reaction()
    if not failing:
        return reaction
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
        return reaction
    ran = _already_started(session, [case.alert_id for case in failing])
    for case in failing:
        for trigger, playbook, version in triggers:
            if not applies(trigger, case):
                continue
            earlier = ran.get((trigger.id, case.alert_id), [])
            moment = starts_at(trigger, earlier, now)
            if moment is not None and moment <= now:
                outcome = _start(session, case, trigger, playbook, version, len(earlier), now)
                reaction.started += [outcome] if isinstance(outcome, UUID) else []
                moment = now + REFUSED_AGAIN if isinstance(outcome, Refused) else _repeat(trigger, now)
            if moment is not None:
                known = reaction.again.get(case.service.id, moment)
                reaction.again[case.service.id] = min(known, moment)
            if case.service.playbook_policy == "first":
                break
    return reaction


def applies(trigger: Trigger, case: Failing) -> bool:
    """Whether a trigger is for this service, in this state."""
    return (
        case.failures >= trigger.consecutive_failures
        and matches(trigger.service_pattern or "", case.service.name)
        and set(trigger.tags) <= set(case.service.tags)
        and (not trigger.priorities or case.service.priority in trigger.priorities)
        and (not trigger.reasons or bool(set(trigger.reasons) & set(case.reasons)))
    )


@dataclass(frozen=True, slots=True)
class Started:
    """When a trigger started for an alert, and whether that was in earnest."""

    at: datetime
    mode: str


def starts_at(trigger: Trigger, earlier: Sequence[Started], now: datetime) -> datetime | None:
    """Once per alert, or again each ``repeat_every`` after the last; None: not again.

    What ran in shadow does not keep a trigger back that is live by now.
    """
    same = [started.at for started in earlier if started.mode == trigger.mode]
    return _repeat(trigger, max(same)) if same else now


def _repeat(trigger: Trigger, last: datetime) -> datetime | None:
    return last + timedelta(seconds=trigger.repeat_every_s) if trigger.repeat_every_s else None


def _already_started(session: Session, alert_ids: list[int]) -> dict[tuple[int, int], list[Started]]:
    rows = session.execute(
        select(Execution.trigger_id, Execution.alert_id, Execution.created_at, Execution.mode).where(
            Execution.alert_id.in_(alert_ids), Execution.trigger_id.is_not(None)
        )
    )
    ran: dict[tuple[int, int], list[Started]] = {}
    for trigger_id, alert_id, created_at, mode in rows:
        if trigger_id is not None and alert_id is not None:
            ran.setdefault((trigger_id, alert_id), []).append(Started(created_at, mode))
    return ran


def _start(
    session: Session, case: Failing, trigger: Trigger, playbook: Playbook, version: PlaybookVersion, slot: int,
    now: datetime,
) -> UUID | Refused | None:  # fmt: skip
    try:
        # A trace of its own: the sweep that starts it has many to start.
        with session.begin_nested(), start_trace("execution") as traceparent:
            subject = Subject(
                playbook_id=playbook.id,
                playbook_version=version.version,
                document=pinned(version.source),
                started_by=audit.Actor("trigger", str(trigger.id)),
                service_id=case.service.id,
                service_name=case.service.name,
                alert_id=case.alert_id,
                trigger_id=trigger.id,
                repeat_slot=slot,
                cooldown=timedelta(seconds=trigger.cooldown_s) if trigger.cooldown_s else None,
                variables=trigger.variables,
                traceparent=traceparent,
                context={"CONSECUTIVE_FAILURES": case.failures, "ALERT_CYCLE": slot + 1, "trigger": "alert"},
            )
            if trigger.mode == "shadow":
                record_shadow(session, subject, now)
                return None
            outcome = start(session, subject, now=now)
    except Exception as error:
        # A playbook that cannot start must not keep the alert from opening.
        if isinstance(error, DBAPIError) and is_lost(error):
            raise
        log.warning(
            "reactions.not_started", playbook=playbook.name, alert=case.alert_id,
            error=str(error) if isinstance(error, MedicError) else type(error).__name__,
        )  # fmt: skip
        return None
    if isinstance(outcome, Refused):
        log.info("reactions.refused", playbook=playbook.name, alert=case.alert_id, code=outcome.code)
    return outcome


def record_shadow(session: Session, subject: Subject, now: datetime) -> UUID | None:
    """Keep what would have started, as an execution that is over and did nothing; once per alert and repeat."""
    execution_id = session.execute(
        upsert(Execution)
        .values(
            id=uuid7(now, secrets.token_bytes(ENTROPY_BYTES)),
            playbook_id=subject.playbook_id,
            playbook_version=subject.playbook_version,
            playbook_name=subject.document.name,
            service_id=subject.service_id,
            service_name=subject.service_name,
            alert_id=subject.alert_id,
            trigger_id=subject.trigger_id,
            repeat_slot=subject.repeat_slot,
            started_by=str(subject.started_by),
            mode="shadow",
            variables=bind_variables(subject.document, subject.variables) | subject.context,
            state="completed",
            next_step=len(subject.document.steps),
            step_count=len(subject.document.steps),
            created_at=now,
            finished_at=now,
        )
        .on_conflict_do_nothing()
        .returning(Execution.id)
    ).scalar_one_or_none()
    if execution_id is None:
        return None
    why = {"code": "skipped", "message": "The trigger is in shadow mode: nothing was done."}
    session.execute(
        insert(ExecutionStep),
        [
            {"execution_id": execution_id, "position": position, "name": step.name, "type": step.type,
             "state": "skipped", "ended_at": now, "error": why}
            for position, step in enumerate(subject.document.steps)
        ],
    )  # fmt: skip
    audit.append(
        session, now=now, actor=subject.started_by, action="trigger.shadow", object_kind="execution",
        object_id=execution_id,
        detail={"playbook": subject.document.name, "service": subject.service_name, "alert": subject.alert_id,
                "slot": subject.repeat_slot},
    )  # fmt: skip
    return execution_id
