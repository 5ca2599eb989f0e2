"""Approvals: a question bound to a rendered plan, decided by exactly one compare-and-set.

Deciding and cancelling lock the execution first, then the approval; both match or neither changes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from medic import audit, machine, stop
from medic.coverage import blind_intervals
from medic.errors import Conflict, NotFound
from medic.executions import control, telling
from medic.executions.pinned import pinned
from medic.executions.plan import plan_of
from medic.models.executions import Approval, Execution
from medic.models.playbooks import PlaybookVersion
from medic.steps.base import AwaitApproval
from medic.telemetry import metrics
from medic.times import format_time

LEAST_TIME = timedelta(minutes=5)
"""What a question's time starts again with at least, after Medic was stopped or away."""


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
    plan = plan_of(session, document, execution, start=position or 0)
    approval = Approval(
        execution_id=execution_id,
        position=position,
        message=question.message,
        plan=plan,
        plan_digest=hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest(),
        requested_at=now,
        expires_at=now + timeout if timeout else None,
        on_timeout=question.on_timeout if timeout else None,
    )
    session.add(approval)
    session.flush()  # its id goes into the message
    execution.look_again(_next_look(approval, now))
    telling.tell_of_approval(session, execution, approval, slot=0, now=now)
    audit.append(
        session, now=now, actor=audit.MEDIC, action="approval.request", object_kind="execution",
        object_id=execution_id, detail={"position": position},
    )  # fmt: skip


def decide(
    session: Session, *, approval_id: int, verdict: str, actor: audit.Actor, now: datetime,
    plan_digest: str | None = None, comment: str | None = None, same: frozenset[str] = frozenset(),
) -> Decided:  # fmt: skip
    """Approve or reject.

    :param same: other names of the actor, as ``key:…`` of somebody of Slack.
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
    if verdict == "approved" and execution.started_by in {str(actor), *same}:
        raise Conflict("Whoever started an execution cannot approve it; ask somebody else.")
    approval.state, approval.decided_at, approval.decided_by = verdict, now, str(actor)
    _count(approval, now, by="human")
    approval.comment = comment
    _go_on(session, execution, approval, now)
    audit.append(
        session, now=now, actor=actor, action=f"approval.{verdict}", object_kind="execution",
        object_id=execution_id, detail={"position": approval.position, "comment": comment},
    )  # fmt: skip
    return Decided(execution_id, execution.state)


def expire(session: Session, *, execution_id: UUID, now: datetime) -> None:
    """The time of a question is over: decide it as it said, or bring it up again.

    Time in which nobody could answer, as no heartbeat and no answer came in, does not count.
    """
    execution = session.get_one(Execution, execution_id, with_for_update={"key_share": True})
    approval = session.scalars(
        select(Approval)
        .where(Approval.execution_id == execution_id, Approval.state == "pending")
        .with_for_update()
    ).one_or_none()
    if execution.state != "pending_approval" or approval is None:
        return
    if approval.expires_at is not None and _give_time_back(session, execution, approval, now):
        return
    if approval.expires_at is None or approval.expires_at > now:
        execution.look_again(_next_look(approval, now))
        slot = int((now - approval.requested_at) / machine.REMINDER)
        if slot:
            telling.tell_of_approval(session, execution, approval, slot=slot, now=now)
        return
    approval.state = "approved" if approval.on_timeout == "approve" else "rejected"
    approval.decided_at, approval.decided_by = now, str(audit.MEDIC)
    _count(approval, now, by="timeout")
    _go_on(session, execution, approval, now)
    audit.append(
        session, now=now, actor=audit.MEDIC, action=f"approval.{approval.state}", object_kind="execution",
        object_id=execution_id, detail={"position": approval.position, "by": "timeout"},
    )  # fmt: skip


def _count(approval: Approval, now: datetime, *, by: str) -> None:
    waited = max(0.0, (now - approval.requested_at).total_seconds())
    metrics.APPROVAL_SECONDS.labels(approval.state, by).observe(waited)


def resume_all(session: Session, *, actor: audit.Actor, now: datetime) -> bool:
    """Switch the stop off; what was left of each question's time when it went on starts again.

    :returns: false when it was not on.
    """
    standing = stop.stopped(session)
    if standing is None or not stop.resume_all(session, actor=actor, now=now):
        return False
    rows = session.execute(
        select(Execution, Approval)
        .join(Approval, Approval.execution_id == Execution.id)
        .where(
            Execution.state == "pending_approval",
            Approval.state == "pending",
            Approval.expires_at.is_not(None),
        )
        .order_by(Execution.id)
        .with_for_update(key_share=True)
    ).all()
    for execution, approval in rows:
        left = _left(approval, standing.stopped_at)
        _start_again(session, execution, approval, left=left, at=now, why="Everything was stopped.", now=now)
    return True


def _give_time_back(session: Session, execution: Execution, approval: Approval, now: datetime) -> bool:
    """Whether Medic could not be reached while the question's time ran, so that it is not over yet."""
    assert approval.expires_at is not None
    if approval.expires_at > now:
        return False
    since = approval.clock_since or approval.requested_at
    away = [one for one in blind_intervals(session, since=since, now=now) if one.start < approval.expires_at]
    if not away:
        return False
    # It starts again at the end of the last one, with what was left at its start; the ones before did not count.
    lost = sum((one.end - max(one.start, since) for one in away[:-1]), timedelta(0))
    left = _left(approval, away[-1].start) + lost
    why = "Medic could not be reached."
    return _start_again(session, execution, approval, left=left, at=away[-1].end, why=why, now=now)


def _left(approval: Approval, at: datetime) -> timedelta:
    """What was left of a question's time."""
    assert approval.expires_at is not None
    return approval.expires_at - max(at, approval.clock_since or approval.requested_at)


def _start_again(
    session: Session, execution: Execution, approval: Approval, *, left: timedelta, at: datetime, why: str,
    now: datetime,
) -> bool:  # fmt: skip
    """Let what was left start again at a moment, five minutes at least; false when that is over as well."""
    ends = at + max(left, LEAST_TIME)
    if left <= timedelta(0) or ends <= now:
        return False
    approval.expires_at, approval.clock_since = ends, at
    execution.look_again(_next_look(approval, now))
    audit.append(
        session, now=now, actor=audit.MEDIC, action="approval.extend", object_kind="execution",
        object_id=execution.id, detail={"position": approval.position, "expires_at": format_time(ends)},
    )  # fmt: skip
    telling.tell_of_more_time(session, execution, approval, why=why, now=now)
    return True


def _next_look(approval: Approval, now: datetime) -> datetime:
    """Its end, or when it comes up again."""
    reminder = now + machine.REMINDER
    return min(approval.expires_at or reminder, reminder)


def _go_on(session: Session, execution: Execution, approval: Approval, now: datetime) -> None:
    session.flush()  # the answer stands before the end makes open questions void
    if approval.position is None and approval.state == "rejected":
        error = {"code": "rejected", "message": "The execution was rejected."}
        control.end(session, execution, state="cancelled", error=error, now=now, rest="cancelled")
        return
    # Before the first step it has yet to find its place; at a step, the step reads the verdict and ends.
    execution.state, execution.due_at = "waiting", now
    execution.waiting_for = "concurrency" if approval.position is None else "timer"
