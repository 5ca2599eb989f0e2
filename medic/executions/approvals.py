"""Approvals: a question bound to a rendered plan, decided by exactly one compare-and-set.

Deciding and cancelling lock the execution first, then the approval; both match or neither changes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from medic import audit, machine
from medic.errors import Conflict, NotFound
from medic.executions import control
from medic.executions.pinned import pinned
from medic.executions.plan import plan_of
from medic.models.executions import Approval, Execution
from medic.models.playbooks import PlaybookVersion
from medic.steps.base import AwaitApproval


@dataclass(frozen=True, slots=True)
class Decided:
    execution_id: UUID
    state: str


def ask(
    session: Session, *, execution_id: UUID, position: int | None, now: datetime,
    question: AwaitApproval | None = None,
) -> None:  # fmt: skip
    """Put the question: before the first step (``position`` None) or at an approval step.

    A question with a timeout decides itself when the time is over; one without is brought up again.
    """
    execution = session.get_one(Execution, execution_id)
    version = session.get_one(PlaybookVersion, (execution.playbook_id, execution.playbook_version))
    document = pinned(version.source)
    question = question or AwaitApproval(document.approval.timeout, "approve", "")
    timeout = question.timeout
    plan = plan_of(document, execution, start=position or 0)
    execution.look_again(now + (timeout or machine.REMINDER))
    session.add(
        Approval(
            execution_id=execution_id,
            position=position,
            message=question.message,
            plan=plan,
            plan_digest=hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest(),
            requested_at=now,
            expires_at=now + timeout if timeout else None,
            on_timeout=question.on_timeout if timeout else None,
        )
    )
    audit.append(
        session, now=now, actor=audit.MEDIC, action="approval.request", object_kind="execution",
        object_id=execution_id, detail={"position": position},
    )  # fmt: skip


def decide(
    session: Session, *, approval_id: int, verdict: str, actor: audit.Actor, now: datetime,
    plan_digest: str | None = None, comment: str | None = None,
) -> Decided:  # fmt: skip
    """Approve or reject.

    :param verdict: ``approved`` or ``rejected``.
    :param plan_digest: what the human saw; when given it must be the plan of the question.
    :raises NotFound: no such approval.
    :raises Conflict: it was decided before, the execution moved on, the plan is another, or the actor
        asks for what they started themselves.
    """
    execution_id = session.scalar(select(Approval.execution_id).where(Approval.id == approval_id))
    if execution_id is None:
        raise NotFound(f"There is no approval {approval_id}.")
    execution = session.get_one(Execution, execution_id, with_for_update={"key_share": True})
    approval = session.get_one(Approval, approval_id, with_for_update=True)
    if approval.state != "pending" or execution.state != "pending_approval":
        raise Conflict(f"This approval is {approval.state} already.")
    if plan_digest is not None and plan_digest != approval.plan_digest:
        raise Conflict("The plan is not the one that you saw; look at it again.")
    if verdict == "approved" and execution.started_by == str(actor):
        raise Conflict("Whoever started an execution cannot approve it; ask somebody else.")
    approval.state, approval.decided_at, approval.decided_by = verdict, now, str(actor)
    approval.comment = comment
    _go_on(session, execution, approval, now)
    audit.append(
        session, now=now, actor=actor, action=f"approval.{verdict}", object_kind="execution",
        object_id=execution_id, detail={"position": approval.position, "comment": comment},
    )  # fmt: skip
    return Decided(execution_id, execution.state)


def expire(session: Session, *, execution_id: UUID, now: datetime) -> None:
    """The time of a question is over: decide it as it said, or bring it up again."""
    execution = session.get_one(Execution, execution_id, with_for_update={"key_share": True})
    approval = session.scalars(
        select(Approval)
        .where(Approval.execution_id == execution_id, Approval.state == "pending")
        .with_for_update()
    ).one_or_none()
    if execution.state != "pending_approval" or approval is None:
        return
    if approval.expires_at is None or approval.expires_at > now:
        execution.look_again(min(approval.expires_at or now + machine.REMINDER, now + machine.REMINDER))
        return
    approval.state = "approved" if approval.on_timeout == "approve" else "rejected"
    approval.decided_at, approval.decided_by = now, str(audit.MEDIC)
    _go_on(session, execution, approval, now)
    audit.append(
        session, now=now, actor=audit.MEDIC, action=f"approval.{approval.state}", object_kind="execution",
        object_id=execution_id, detail={"position": approval.position, "by": "timeout"},
    )  # fmt: skip


def _go_on(session: Session, execution: Execution, approval: Approval, now: datetime) -> None:
    session.flush()  # the answer stands before the end makes open questions void
    if approval.position is None and approval.state == "rejected":
        error = {"code": "rejected", "message": "The execution was rejected."}
        control.end(session, execution, state="cancelled", error=error, now=now, rest="cancelled")
        return
    # Before the first step it has yet to find its place; at a step, the step reads the verdict and ends.
    execution.state, execution.due_at = "waiting", now
    execution.waiting_for = "concurrency" if approval.position is None else "timer"
