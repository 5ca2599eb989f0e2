"""Take an execution from a worker whose lease ran out."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from medic import audit, machine
from medic.db import database_now
from medic.executions import control
from medic.executions.pinned import pinned
from medic.models.executions import Execution, ExecutionStep
from medic.models.playbooks import PlaybookVersion

# The lease's end and the epoch are checked in the statement itself: a worker that renews at this moment
# keeps its step.  One epoch has one owner, so the epoch names it.
_TAKE = text(
    """
    WITH e AS (
        UPDATE executions x
           SET owner = NULL, epoch = x.epoch + 1, state = 'waiting', waiting_for = 'retry', due_at = now()
         WHERE x.id = :id AND x.owner IS NOT NULL AND x.epoch = :epoch AND x.due_at <= now()
     RETURNING x.id, x.next_step, x.epoch - 1 AS lost_epoch
    ), a AS (
        UPDATE step_attempts t SET outcome = 'lost', ended_at = now()
          FROM e WHERE t.execution_id = e.id AND t.position = e.next_step AND t.epoch = e.lost_epoch
    )
    SELECT next_step FROM e
    """
)


def take_over(session: Session, *, execution_id: UUID, epoch: int) -> bool:
    """Fence the lost worker and apply the step's ``on_crash``; false when it is alive after all."""
    position = session.execute(_TAKE, {"id": execution_id, "epoch": epoch}).scalar_one_or_none()
    if position is None:
        return False
    now = database_now(session)
    execution = session.get_one(Execution, execution_id)
    step = session.get_one(ExecutionStep, (execution_id, position))
    version = session.get_one(PlaybookVersion, (execution.playbook_id, execution.playbook_version))
    planned = pinned(version.source).steps[position]
    loss = machine.after_loss(planned, losses=step.losses)
    step.losses += 1
    step.error = loss.error
    if execution.cancel_requested_at is not None:
        control.end(session, execution, state="cancelled", error=loss.error, now=now, rest="cancelled")
    elif loss.verdict == "fail":
        control.fail_step(session, execution, step, error=loss.error, on_failure=planned.on_failure, now=now)
    elif loss.verdict == "ask":
        step.state = "in_doubt"
        execution.state, execution.waiting_for = "in_doubt", None
        execution.look_again(now + machine.REMINDER)
    else:
        step.state = "pending"
    audit.append(
        session, now=now, actor=audit.MEDIC, action="step.lost", object_kind="execution", object_id=execution_id,
        detail={"position": position, "epoch": epoch, "then": loss.verdict},
    )  # fmt: skip
    return True
