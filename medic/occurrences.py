"""Schedule triggers that are due.  Each time of a schedule starts one execution at the most, whoever sweeps.

Of the times that passed while Medic was away, the last one is run, if it is younger than the trigger's
``catch_up``; the others are recorded as missed.  A backup that runs nine times in a row repairs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from sqlalchemy import delete, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from medic import audit
from medic.db import is_lost
from medic.errors import MedicError
from medic.firing import Fired, fire
from medic.models.playbooks import Trigger, TriggerOccurrence
from medic.schedule import Cron, occurrences
from medic.telemetry.traces import start_trace

KEPT = timedelta(days=30)
SET_ASIDE = timedelta(minutes=5)
_MOMENT = timedelta(microseconds=1)

log = structlog.get_logger("medic.occurrences")


@dataclass(frozen=True, slots=True)
class Passed:
    """``run``: the time to start for, if there is one.  ``missed``: the first that nothing was started for."""

    run: datetime | None
    missed: datetime | None
    next: datetime | None


def passed(schedule: Cron, due_at: datetime, catch_up: timedelta, now: datetime) -> Passed:
    """What is to become of the times of a schedule from ``due_at`` up to now."""
    # No further back than what would still be run: a minute's cron that slept for a year is read at once.
    floor = now - catch_up
    run = due_at if due_at >= floor else None
    following = None
    for at in occurrences(schedule, max(due_at, floor - _MOMENT)):
        if at > now:
            following = at
            break
        run = at
    return Passed(run, due_at if run != due_at else None, following)


def fire_due(session: Session, *, now: datetime) -> tuple[bool, UUID | None]:
    """Deal with the trigger that is due longest, unless another sweeper has it.

    :returns: whether there was one, and the execution to dispatch after the commit.
    """
    trigger = session.scalars(
        select(Trigger)
        .where(Trigger.due_at <= now)
        .order_by(Trigger.due_at, Trigger.id)
        .limit(1)
        .with_for_update(key_share=True, skip_locked=True)
    ).one_or_none()
    if trigger is None or trigger.due_at is None:
        return False, None
    try:
        schedule = Cron(trigger.cron or "", trigger.timezone or "UTC")
        found = passed(schedule, trigger.due_at, timedelta(seconds=trigger.catch_up_s), now)
    except Exception:
        # A zone that this machine does not know, say: one trigger must not keep the others from theirs.
        log.exception("occurrences.not_read", trigger=trigger.id)
        trigger.due_at = now + SET_ASIDE
        session.flush()
        return True, None
    trigger.due_at = found.next
    session.flush()
    if found.missed is not None:
        _keep(session, trigger, found.missed, "missed", note="Medic did not run then, and a later time took its place."
              if found.run else "Medic did not run then, and it was too late afterwards.")  # fmt: skip
        log.warning("occurrences.missed", trigger=trigger.id, at=found.missed.isoformat())
    started = _start(session, trigger, found.run, now) if found.run is not None else None
    session.execute(
        delete(TriggerOccurrence).where(
            TriggerOccurrence.trigger_id == trigger.id, TriggerOccurrence.at < now - KEPT
        )
    )
    return True, started


def _start(session: Session, trigger: Trigger, at: datetime, now: datetime) -> UUID | None:
    # Taken first: whoever has the row starts, and nobody after it.
    if not _keep(session, trigger, at, "failed"):
        return None
    try:
        # A trace of its own: the sweep that starts it has many to start.
        with session.begin_nested(), start_trace("execution") as traceparent:
            fired = fire(
                session, trigger, actor=audit.Actor("trigger", str(trigger.id)), context={"trigger": "schedule"},
                now=now, service=trigger.service_pattern, traceparent=traceparent,
            )  # fmt: skip
    except Exception as error:
        # A playbook that cannot start must not keep its schedule from going on.
        if isinstance(error, DBAPIError) and is_lost(error):
            raise
        text = str(error) if isinstance(error, MedicError) else type(error).__name__
        log.warning("occurrences.not_started", trigger=trigger.id, error=text)
        fired = Fired("failed", note=text)
    session.execute(
        update(TriggerOccurrence)
        .where(TriggerOccurrence.trigger_id == trigger.id, TriggerOccurrence.at == at)
        .values(outcome=fired.outcome, execution_id=fired.execution_id, note=fired.note)
    )
    return fired.execution_id if fired.outcome == "started" else None


def _keep(session: Session, trigger: Trigger, at: datetime, outcome: str, *, note: str = "") -> bool:
    """False when this time was dealt with before."""
    return (
        session.execute(
            upsert(TriggerOccurrence)
            .values(trigger_id=trigger.id, at=at, outcome=outcome, note=note)
            .on_conflict_do_nothing()
            .returning(TriggerOccurrence.at)
        ).scalar_one_or_none()
        is not None
    )
