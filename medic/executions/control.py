"""What a human does to an execution: cancel it, or settle a step that stands in doubt."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from medic import audit, machine
from medic.errors import Conflict, NotFound
from medic.executions.escalation import escalate
from medic.executions.pinned import pinned
from medic.models.executions import Approval, Execution, ExecutionStep, Lock
from medic.models.playbooks import PlaybookVersion
from medic.telemetry import metrics

Verdict = Literal["happened", "retry", "fail"]


def cancel(session: Session, *, execution_id: UUID, actor: audit.Actor, now: datetime) -> Execution:
    """Cancel: at once when nobody acts; else when the running step ends (a running script is killed).

    :raises NotFound: no such execution.
    :raises Conflict: it has ended.
    """
    execution = _locked(session, execution_id)
    if execution.state in machine.FINAL_STATES:
        raise Conflict(f"The execution is {execution.state} already.")
    if execution.cancel_requested_at is None:
        execution.cancel_requested_at, execution.cancel_requested_by = now, str(actor)
        audit.append(
            session,
            now=now,
            actor=actor,
            action="execution.cancel",
            object_kind="execution",
            object_id=execution_id,
        )
    if execution.owner is None:
        error = {"code": "cancelled", "message": f"Cancelled by {actor}."}
        end(session, execution, state="cancelled", error=error, now=now, rest="cancelled")
    return execution


def settle(
    session: Session, *, execution_id: UUID, verdict: Verdict, actor: audit.Actor, now: datetime,
    output: dict[str, Any] | None = None, error: dict[str, Any] | None = None,
) -> Execution:  # fmt: skip
    """Say what became of a step in doubt.

    :param verdict: ``happened`` (go on behind it), ``retry`` (do it again) or ``fail``, which means what
        the step's ``on_failure`` makes of it.
    :param output: what the step gave, when it is known after all.
    :param error: how it failed, when that is known; a retry after it counts as a try.
    :raises NotFound: no such execution.
    :raises Conflict: no step of it stands in doubt.
    """
    execution = _locked(session, execution_id)
    step = _in_doubt(session, execution)
    held = (step.error or {}).get("held")
    audit.append(
        session, now=now, actor=actor, action="execution.settle", object_kind="execution", object_id=execution_id,
        detail={"verdict": verdict, "position": step.position},
    )  # fmt: skip
    if verdict == "fail":
        error = error or {"code": "settled", "message": f"Settled as failed by {actor}."}
        step.output = output
        on_failure = _planned_on_failure(session, execution)
        fail_step(session, execution, step, error=error, on_failure=on_failure, now=now)
    elif verdict == "happened":
        step.state, step.ended_at, step.error, step.output = "completed", now, None, output
        step.doubt = None
        _go_behind(session, execution, now)
    else:
        step.state, step.error = "pending", error
        step.doubt = None
        step.tries += error is not None
        execution.state, execution.waiting_for, execution.due_at = "waiting", "retry", now
    if held is not None and execution.state == "waiting":
        # It is in doubt since a backup was restored, and had no place or no lock there: it must get one first.
        execution.waiting_for = held
    return execution


def fail_step(
    session: Session, execution: Execution, step: ExecutionStep, *, error: dict[str, Any], on_failure: str,
    now: datetime,
) -> None:  # fmt: skip
    """The next step of an un-owned execution failed without a worker to record it: apply its ``on_failure``."""
    step.state, step.ended_at, step.error, step.doubt = "failed", now, error, None
    if on_failure == "continue":
        _go_behind(session, execution, now)
        return
    error = error | {"step": step.name, "escalated": on_failure == "escalate"}
    end(session, execution, state="failed", error=error, now=now, rest="skipped")
    if on_failure == "escalate":
        escalate(session, execution, error=error, now=now)


def _go_behind(session: Session, execution: Execution, now: datetime) -> None:
    execution.next_step += 1
    if execution.next_step == execution.step_count:
        end(session, execution, state="completed", error=None, now=now, rest="skipped")
    else:
        execution.state, execution.waiting_for, execution.due_at = "waiting", "retry", now


def _planned_on_failure(session: Session, execution: Execution) -> str:
    version = session.get_one(PlaybookVersion, (execution.playbook_id, execution.playbook_version))
    return pinned(version.source).steps[execution.next_step].on_failure


def end(
    session: Session,
    execution: Execution,
    *,
    state: str,
    error: dict[str, Any] | None,
    now: datetime,
    rest: str,
) -> None:
    """Give an un-owned execution its final state; steps that have not ended become ``rest``."""
    execution.state, execution.finished_at, execution.error = state, now, error
    execution.due_at, execution.owner, execution.waiting_for = None, None, None
    session.execute(
        update(ExecutionStep)
        .where(
            ExecutionStep.execution_id == execution.id,
            ExecutionStep.state.in_(["pending", "running", "waiting", "in_doubt"]),
        )
        .values(state=rest, ended_at=now)
    )
    session.execute(
        update(Approval)
        .where(Approval.execution_id == execution.id, Approval.state == "pending")
        .values(state="void", decided_at=now, decided_by=str(audit.MEDIC))
    )
    session.execute(delete(Lock).where(Lock.execution_id == execution.id))
    metrics.EXECUTIONS.labels(state).inc()
    metrics.EXECUTION_SECONDS.labels(state).observe(max(0.0, (now - execution.created_at).total_seconds()))
    audit.append(
        session, now=now, actor=audit.MEDIC, action=f"execution.{state}", object_kind="execution",
        object_id=execution.id, detail=error or {},
    )  # fmt: skip


def _in_doubt(session: Session, execution: Execution) -> ExecutionStep:
    """The step in doubt; also while its probe waits for a worker, whose message is then fenced."""
    if execution.state not in machine.FINAL_STATES:
        step = session.get_one(ExecutionStep, (execution.id, execution.next_step))
        if execution.state == "in_doubt" or (execution.owner is None and step.doubt is not None):
            return step
        if step.doubt is not None:
            raise Conflict("The step's probe is asking at this moment; try again in a few seconds.")
    raise Conflict(f"No step is in doubt; the execution is {execution.state}.")


def _locked(session: Session, execution_id: UUID) -> Execution:
    execution = session.scalars(
        select(Execution).where(Execution.id == execution_id).with_for_update(key_share=True)
    ).one_or_none()
    if execution is None:
        raise NotFound(f"There is no execution {execution_id}.")
    return execution
