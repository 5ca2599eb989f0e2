"""Executions as they are read: lists, steps, attempts, and the questions that wait for a human."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from medic.errors import NotFound
from medic.executions.admission import lock_name
from medic.executions.pinned import pinned
from medic.models.executions import Approval, Execution, ExecutionStep, Lock, StepAttempt
from medic.models.playbooks import PlaybookVersion
from medic.services import names_regex


def page(
    session: Session, *, after: UUID | None, limit: int, state: str | None = None, playbook: str | None = None,
    service: str | None = None, alert_id: int | None = None, patterns: Sequence[str] | None = None,
) -> list[Execution]:  # fmt: skip
    """Executions, newest first (their ids sort by time), behind ``after``.

    :param patterns: names of services that a key is narrowed to.
    """
    query = select(Execution).order_by(Execution.id.desc()).limit(limit)
    if after is not None:
        query = query.where(Execution.id < after)
    if state is not None:
        query = query.where(Execution.state == state)
    if playbook is not None:
        query = query.where(Execution.playbook_name == playbook)
    if service is not None:
        query = query.where(Execution.service_name == service)
    if alert_id is not None:
        query = query.where(Execution.alert_id == alert_id)
    if patterns is not None:
        query = query.where(Execution.service_name.regexp_match(names_regex(patterns)))
    return list(session.scalars(query))


def find(session: Session, execution_id: UUID) -> Execution:
    """An execution.

    :raises NotFound: no such execution.
    """
    execution = session.get(Execution, execution_id)
    if execution is None:
        raise NotFound(f"There is no execution {execution_id}.")
    return execution


def steps_of(session: Session, execution_ids: Iterable[UUID]) -> dict[UUID, list[ExecutionStep]]:
    """The steps of each execution, in their order."""
    found: dict[UUID, list[ExecutionStep]] = {execution_id: [] for execution_id in execution_ids}
    rows = session.scalars(
        select(ExecutionStep)
        .where(ExecutionStep.execution_id.in_(found))
        .order_by(ExecutionStep.execution_id, ExecutionStep.position)
    )
    for step in rows:
        found[step.execution_id].append(step)
    return found


def attempts_of(session: Session, execution_id: UUID) -> dict[int, list[StepAttempt]]:
    """The attempts at each step, by its position, oldest first."""
    found: dict[int, list[StepAttempt]] = {}
    rows = session.scalars(
        select(StepAttempt)
        .where(StepAttempt.execution_id == execution_id)
        .order_by(StepAttempt.position, StepAttempt.epoch, StepAttempt.id)
    )
    for attempt in rows:
        found.setdefault(attempt.position, []).append(attempt)
    return found


def open_question(session: Session, execution_id: UUID) -> Approval | None:
    """The approval that the execution waits for."""
    return session.scalars(
        select(Approval).where(Approval.execution_id == execution_id, Approval.state == "pending")
    ).one_or_none()


@dataclass(frozen=True, slots=True)
class LockView:
    """A lock that an execution holds or waits for."""

    name: str
    held_by: UUID | None
    since: datetime | None


def lock_of(session: Session, execution: Execution) -> LockView | None:
    """The lock that the execution holds until it ends, or the one that it waits for."""
    held = session.scalars(select(Lock).where(Lock.execution_id == execution.id)).one_or_none()
    if held is not None:
        return LockView(held.name, held.execution_id, held.taken_at)
    if execution.waiting_for != "lock":
        return None
    version = session.get_one(PlaybookVersion, (execution.playbook_id, execution.playbook_version))
    name = lock_name(pinned(version.source), execution.variables)
    if name is None:
        return None
    other = session.get(Lock, name)
    return LockView(name, other.execution_id if other else None, other.taken_at if other else None)


def approvals_page(
    session: Session, *, after: int | None, limit: int, state: str | None = None,
    patterns: Sequence[str] | None = None,
) -> list[tuple[Approval, Execution]]:  # fmt: skip
    """Approvals with their executions, newest first, behind ``after``."""
    query = (
        select(Approval, Execution)
        .join(Execution, Execution.id == Approval.execution_id)
        .order_by(Approval.id.desc())
        .limit(limit)
    )
    if after is not None:
        query = query.where(Approval.id < after)
    if state is not None:
        query = query.where(Approval.state == state)
    if patterns is not None:
        query = query.where(Execution.service_name.regexp_match(names_regex(patterns)))
    return list(session.execute(query))


def approval(session: Session, approval_id: int) -> tuple[Approval, Execution]:
    """An approval with its execution.

    :raises NotFound: no such approval.
    """
    row = session.execute(
        select(Approval, Execution)
        .join(Execution, Execution.id == Approval.execution_id)
        .where(Approval.id == approval_id)
    ).one_or_none()
    if row is None:
        raise NotFound(f"There is no approval {approval_id}.")
    return row
