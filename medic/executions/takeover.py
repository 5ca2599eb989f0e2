"""Take an execution from a worker whose lease ran out."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from medic import audit, machine
from medic.db import database_now
from medic.executions import control, telling
from medic.executions.pinned import pinned
from medic.models.executions import Execution, ExecutionStep
from medic.models.playbooks import PlaybookVersion
from medic.playbook.document import Probe
from medic.times import format_time

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
    if step.doubt is not None:
        # Only its probe was lost: the doubt is the same as before.
        loss = machine.Loss("ask", loss.error)
    step.error = loss.error
    if execution.cancel_requested_at is not None:
        control.end(session, execution, state="cancelled", error=loss.error, now=now, rest="cancelled")
    elif loss.verdict == "fail":
        control.fail_step(session, execution, step, error=loss.error, on_failure=planned.on_failure, now=now)
    elif loss.verdict == "ask":
        _doubt(session, execution, step, planned.probe, epoch=epoch, now=now)
    else:
        step.state = "pending"
    audit.append(
        session, now=now, actor=audit.MEDIC, action="step.lost", object_kind="execution", object_id=execution_id,
        detail={"position": position, "epoch": epoch, "then": loss.verdict},
    )  # fmt: skip
    return True


def _doubt(
    session: Session,
    execution: Execution,
    step: ExecutionStep,
    probe: Probe | None,
    *,
    epoch: int,
    now: datetime,
) -> None:
    """Nobody knows whether the step happened: its probe is asked at once, else a human."""
    probing = probe is not None and (step.doubt is None or step.losses < machine.MAX_LOSSES)
    doubt = step.doubt or {"epoch": epoch, "since": format_time(now)}
    step.state, step.doubt = "in_doubt", doubt | {"probing": probing}
    execution.state, execution.waiting_for = "in_doubt", None
    if probing:
        execution.look_again(now)
        return
    execution.look_again(now + machine.REMINDER)
    telling.tell_of_doubt(session, execution, step, epoch=doubt["epoch"], slot=0, now=now)
