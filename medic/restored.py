"""After a backup was restored: the rows tell of a moment that is over, and nobody knows what was done since.

So everything holds (the stop switch), and each open execution stands in doubt: its next step, and those behind it,
may have been done in the time that the backup does not know of.  Messages and workers of that time are fenced by an
epoch that none of them can have reached, and its ids are not given again, as others may still hold them (a button in
Slack, an incident at PagerDuty).  To run it once more changes nothing of that.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, text, update
from sqlalchemy.orm import Session

from medic import audit, machine, stop
from medic.db import Base
from medic.executions import control
from medic.models.executions import Approval, Execution, ExecutionStep, StepAttempt

REASON = "A backup was restored."
EPOCH_LEAP = 1_000_000
"""No execution is dispatched so often between a backup and its restore."""

ID_LEAP = 10_000_000
_SEALED = "audit_entries"
"""The only numbers that are not moved ahead: the chain of the log tells of them."""

_AHEAD = text(
    "SELECT setval(s, nextval(s) + :leap) FROM (SELECT CAST(pg_get_serial_sequence(:table, 'id') AS regclass) AS s) q"
)


@dataclass(frozen=True, slots=True)
class Restored:
    """What was found."""

    engaged: bool
    """The stop switch was off before."""
    in_doubt: int
    """Executions that stand in doubt now, those that did before included."""
    waiting_for_approval: int
    cancelled: int
    """Executions that somebody had asked to be cancelled while a step ran."""


def restored(session: Session, *, actor: audit.Actor, now: datetime, reason: str = REASON) -> Restored:
    """Engage the stop switch, put what is open in doubt, and fence the time that is lost."""
    engaged = stop.stopped(session) is None
    stop.stop_all(session, reason=reason, actor=actor, now=now)
    _leave_ids(session)
    found = session.scalars(
        select(Execution)
        .where(Execution.state.not_in(machine.FINAL_STATES))
        .order_by(Execution.id)
        .with_for_update(key_share=True)
    ).all()
    verdicts = [_put_in_doubt(session, execution, actor, now) for execution in found]
    result = Restored(
        engaged=engaged,
        in_doubt=verdicts.count("in_doubt"),
        waiting_for_approval=verdicts.count("pending_approval"),
        cancelled=verdicts.count("cancelled"),
    )
    audit.append(
        session, now=now, actor=actor, action="backup.restore", object_kind="medic", object_id="medic",
        detail={"in_doubt": result.in_doubt, "waiting_for_approval": result.waiting_for_approval,
                "cancelled": result.cancelled},
    )  # fmt: skip
    return result


def _put_in_doubt(session: Session, execution: Execution, actor: audit.Actor, now: datetime) -> str:
    """The state that the execution has now."""
    was, held = execution.state, execution.waiting_for
    execution.owner, execution.epoch, execution.redispatches = None, execution.epoch + EPOCH_LEAP, 0
    session.execute(
        update(StepAttempt)
        .where(StepAttempt.execution_id == execution.id, StepAttempt.outcome.is_(None))
        .values(outcome="lost", ended_at=now)
    )
    if execution.cancel_requested_at is not None:
        error = {"code": "cancelled", "message": f"Cancelled by {execution.cancel_requested_by}."}
        control.end(session, execution, state="cancelled", error=error, now=now, rest="cancelled")
        return execution.state
    execution.look_again(now + machine.REMINDER)
    if was == "pending_approval":
        # A human may still say yes or no to it; the time alone may not, as somebody may have done so already.
        session.execute(
            update(Approval)
            .where(Approval.execution_id == execution.id, Approval.state == "pending")
            .values(expires_at=None, on_timeout=None)
        )
    elif was != "in_doubt":
        step = session.get_one(ExecutionStep, (execution.id, execution.next_step))
        execution.state, execution.waiting_for, step.state = "in_doubt", None, "in_doubt"
        step.error = {"code": "restored", "message": f"{_found(was)} Nobody knows what was done since."}
        if held in {"concurrency", "lock"}:
            step.error = step.error | {"held": held}
    session.flush()
    if execution.state != was:
        audit.append(
            session, now=now, actor=actor, action="execution.doubt", object_kind="execution",
            object_id=execution.id, detail={"was": was, "position": execution.next_step},
        )  # fmt: skip
    return execution.state


def _found(was: str) -> str:
    """Where the backup found it, in words."""
    return f"A backup was restored in which this was {'running' if was == 'running' else 'waiting'}."


def _leave_ids(session: Session) -> None:
    """Give no id again that was given since the backup."""
    for table in Base.metadata.sorted_tables:
        column = table.columns.get("id")
        if column is not None and column.identity is not None and table.name != _SEALED:
            session.execute(_AHEAD, {"table": table.name, "leap": ID_LEAP})
