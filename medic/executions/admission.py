"""Admission: may this playbook start now?  One transaction, under advisory locks in one order (global,
playbook, service), so that two sweepers cannot both take the last place.

Refused outright: the stop switch, a breaker and the cooldown.  Held back as ``waiting``, oldest first:
concurrency (of the playbook, and of all together) and locks.  Every refusal is kept in the audit log with its reason, at each new try too; what is held back
when that begins, and when it waits for something else.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, or_, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from medic import audit, stop
from medic import settings as settings_
from medic.db import advisory_lock
from medic.errors import Invalid, Problem
from medic.executions import approvals
from medic.executions.pinned import pinned
from medic.ids import ENTROPY_BYTES, uuid7
from medic.machine import FINAL_STATES
from medic.models.executions import Execution, ExecutionStep, Lock
from medic.models.playbooks import PlaybookVersion
from medic.playbook.document import Playbook as Document
from medic.playbook.scope import BUILT_INS, VARIABLE_NAME, Scope
from medic.settings import Settings
from medic.telemetry import metrics

BREAKER_WINDOW = timedelta(hours=1)
LOOK_AGAIN = timedelta(seconds=5)
MAX_VARIABLES_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Subject:
    """What a playbook is to run on, and why."""

    playbook_id: int
    playbook_version: int
    document: Document
    started_by: audit.Actor
    service_id: int | None = None
    service_name: str | None = None
    alert_id: int | None = None
    trigger_id: int | None = None
    repeat_slot: int = 0
    cooldown: timedelta | None = None
    variables: dict[str, Any] = field(default_factory=dict)
    context: dict[str, Any] = field(default_factory=dict)
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The playbook does not start; ``code`` is stable."""

    code: str
    reason: str


def start(session: Session, subject: Subject, *, now: datetime) -> UUID | Refused:
    """Admit and insert an execution, due at once; the caller dispatches it after the commit.

    :returns: the execution's id, or why it does not start.
    :raises Invalid: when the variables do not fit the playbook.
    """
    limits = settings_.current()
    variables = bind_variables(subject.document, subject.variables)
    for name in ("admission", f"playbook:{subject.playbook_id}", f"service:{subject.service_id}"):
        advisory_lock(session, name)
    refused = _refusal(session, subject, limits, now)
    if refused is not None:
        metrics.EXECUTION_REFUSALS.labels(refused.code).inc()
        _keep_refusal(session, subject, refused, now)
        return refused
    execution_id = uuid7(now, secrets.token_bytes(ENTROPY_BYTES))
    variables |= subject.context | built_ins(subject, execution_id)
    # Read here already: what waits for a place or an approval must not find out later that it has no name.
    lock = lock_name(subject.document, variables)
    state, waiting_for = "running", None
    if subject.document.approval.mode != "none":
        state = "pending_approval"
    elif _crowded(session, subject.document, subject.playbook_id, subject.service_id, limits, now):
        state, waiting_for = "waiting", "concurrency"
    inserted = session.execute(
        upsert(Execution)
        .values(
            id=execution_id,
            playbook_id=subject.playbook_id,
            playbook_version=subject.playbook_version,
            playbook_name=subject.document.name,
            service_id=subject.service_id,
            service_name=subject.service_name,
            alert_id=subject.alert_id,
            trigger_id=subject.trigger_id,
            repeat_slot=subject.repeat_slot,
            started_by=str(subject.started_by),
            variables=variables,
            state=state,
            waiting_for=waiting_for,
            step_count=len(subject.document.steps),
            due_at=now + LOOK_AGAIN if waiting_for else now,
            deadline_at=now + subject.document.deadline if subject.document.deadline else None,
            traceparent=subject.traceparent,
            created_at=now,
        )
        # Somebody else got there first: once per trigger, alert and repeat.
        .on_conflict_do_nothing()
        .returning(Execution.id)
    ).scalar_one_or_none()
    if inserted is None:
        again = Refused("already_started", "This trigger already started for this alert.")
        _keep_refusal(session, subject, again, now)
        return again
    session.execute(
        insert(ExecutionStep),
        [
            {"execution_id": execution_id, "position": position, "name": step.name, "type": step.type}
            for position, step in enumerate(subject.document.steps)
        ],
    )
    if state == "pending_approval":
        approvals.ask(session, execution_id=execution_id, position=None, now=now)
    elif state == "running" and _take_lock(session, lock, execution_id, now):
        waiting_for = "lock"
        session.execute(
            update(Execution)
            .where(Execution.id == execution_id)
            .values(state="waiting", waiting_for="lock", due_at=now + LOOK_AGAIN)
        )
    audit.append(
        session, now=now, actor=subject.started_by, action="execution.start", object_kind="execution",
        object_id=execution_id,
        detail={"playbook": subject.document.name, "version": subject.playbook_version,
                "service": subject.service_name, "alert": subject.alert_id}
        | ({"waiting_for": waiting_for} if waiting_for else {}),
    )  # fmt: skip
    return execution_id


def foresee(session: Session, subject: Subject, lock: str | None, *, now: datetime) -> tuple[str, str | None]:
    """What `start` would do at this moment, without doing it: the state, or ``refused``, and why."""
    limits = settings_.current()
    refused = _refusal(session, subject, limits, now)
    if refused is not None:
        return "refused", refused.reason
    if subject.document.approval.mode != "none":
        return "pending_approval", "Somebody has to approve it first."
    if _crowded(session, subject.document, subject.playbook_id, subject.service_id, limits, now):
        return "waiting", "It would wait for a place."
    holder = session.scalar(select(Lock.execution_id).where(Lock.name == lock)) if lock is not None else None
    if holder is not None:
        return "waiting", f"It would wait for the lock {lock}, which execution {holder} holds."
    return "running", None


def admit_held(session: Session, *, execution_id: UUID, now: datetime) -> bool:
    """Let an execution that waits for a place or a lock run, if it may by now; it is due at once."""
    execution = session.get(Execution, execution_id)
    if execution is None:
        return False
    for name in ("admission", f"playbook:{execution.playbook_id}", f"service:{execution.service_id}"):
        advisory_lock(session, name)
    session.refresh(execution, with_for_update={"key_share": True})
    if execution.state != "waiting" or execution.waiting_for not in {"concurrency", "lock"}:
        return False
    document = pinned(_source(session, execution))
    held = _crowded(
        session, document, execution.playbook_id, execution.service_id, settings_.current(), now, before=execution
    )  # fmt: skip
    if held is None:
        held = _take_lock(session, lock_name(document, execution.variables), execution_id, now)
    if held is not None:
        if held != execution.waiting_for:
            audit.append(
                session, now=now, actor=audit.MEDIC, action="execution.hold", object_kind="execution",
                object_id=execution_id, detail={"waiting_for": held},
            )  # fmt: skip
        execution.waiting_for = held
        execution.look_again(now + LOOK_AGAIN)
        return False
    execution.state, execution.waiting_for, execution.due_at = "running", None, now
    session.flush()  # it may be dispatched in this very transaction
    return True


def bind_variables(document: Document, given: dict[str, Any]) -> dict[str, Any]:
    """The execution's variables: what was given over the declared defaults.

    :raises Invalid: naming each that is required and missing, badly named, or Medic's own.
    """
    problems = []
    for name in given:
        if not VARIABLE_NAME.fullmatch(name):
            problems.append(Problem(f"variables.{name[:128]}", "is not a name; use letters, digits and _"))
        elif name in BUILT_INS:
            problems.append(Problem(f"variables.{name}", "is set by Medic itself"))
    bound = {
        name: declared.default for name, declared in document.variables.items() if not declared.required
    } | given
    problems += [
        Problem(f"variables.{name}", "is required by the playbook")
        for name, declared in document.variables.items()
        if declared.required and name not in given
    ]
    if len(json.dumps(bound).encode()) > MAX_VARIABLES_BYTES:
        problems.append(Problem("variables", "are larger than 64 kB together"))
    if problems:
        raise Invalid("The variables do not fit the playbook.", problems=tuple(problems))
    return bound


def built_ins(subject: Subject, execution_id: UUID) -> dict[str, Any]:
    """What the playbook may read of its execution; kept with its variables, so that plan, lock and step agree."""
    known = {
        "EXECUTION_ID": str(execution_id),
        "PLAYBOOK_ID": subject.playbook_id,
        "PLAYBOOK_NAME": subject.document.name,
        "SERVICE_ID": subject.service_id,
        "SERVICE_NAME": subject.service_name,
        "ALERT_ID": subject.alert_id,
        "TRIGGER_ID": subject.trigger_id,
    }
    return {name: value for name, value in known.items() if value is not None}


def _keep_refusal(session: Session, subject: Subject, refused: Refused, now: datetime) -> None:
    audit.append(
        session, now=now, actor=subject.started_by, action="execution.refuse", object_kind="playbook",
        object_id=subject.document.name,
        detail={"code": refused.code, "reason": refused.reason, "service": subject.service_name,
                "alert": subject.alert_id, "trigger": subject.trigger_id},
    )  # fmt: skip


def _refusal(session: Session, subject: Subject, limits: Settings, now: datetime) -> Refused | None:
    if stop.stopped(session) is not None:
        return Refused("stopped", "The stop switch is on.")
    if subject.trigger_id is None:
        return None  # a human who asks by name knows what ran before
    recent = (
        select(func.count())
        .select_from(Execution)
        .where(Execution.created_at > now - BREAKER_WINDOW, Execution.mode == "live")
    )
    of_playbook = session.scalar(recent.where(Execution.playbook_id == subject.playbook_id)) or 0
    # For all services together: one that does not heal must not go through a whole fleet.
    if of_playbook >= limits.breaker_per_playbook:
        return Refused(
            "playbook_breaker",
            f"{of_playbook} executions of this playbook within an hour; its breaker is open.",
        )
    if subject.service_id is None:
        return None
    of_service = session.scalar(recent.where(Execution.service_id == subject.service_id)) or 0
    if of_service >= limits.breaker_per_service:
        return Refused(
            "breaker", f"{of_service} executions for this service within an hour; the breaker is open."
        )
    if subject.cooldown:
        last = session.scalar(
            select(func.max(func.coalesce(Execution.finished_at, Execution.created_at))).where(
                Execution.service_id == subject.service_id,
                Execution.playbook_id == subject.playbook_id,
                Execution.mode == "live",
            )
        )
        if last is not None and last > now - subject.cooldown:
            return Refused("cooldown", "The playbook's cooldown for this service is not over.")
    return None


def _crowded(
    session: Session, document: Document, playbook_id: int, service_id: int | None, limits: Settings,
    now: datetime, *, before: Execution | None = None,
) -> str | None:  # fmt: skip
    """``concurrency`` when there is no place left; of one playbook, those who wait longer go first."""
    if limits.max_executions is not None and _busy(session) >= limits.max_executions:
        return "concurrency"
    in_front = (
        Execution.playbook_id == playbook_id,
        Execution.state.not_in([*FINAL_STATES, "pending_approval"]),
        or_(
            Execution.waiting_for.is_(None),
            Execution.waiting_for.not_in(["concurrency", "lock"]),
            Execution.created_at < (before.created_at if before else now),
        ),
        Execution.id != (before.id if before else UUID(int=0)),
    )
    places = document.concurrency
    query = select(func.count()).select_from(Execution).where(*in_front)
    if places.per_playbook is not None and (session.scalar(query) or 0) >= places.per_playbook:
        return "concurrency"
    if places.per_service is not None and service_id is not None:
        here = session.scalar(query.where(Execution.service_id == service_id))
        if (here or 0) >= places.per_service:
            return "concurrency"
    return None


def _busy(session: Session) -> int:
    """Executions of all playbooks that have a place: neither over, nor before their approval, nor held back."""
    query = select(func.count()).where(
        Execution.state.not_in([*FINAL_STATES, "pending_approval"]),
        or_(Execution.waiting_for.is_(None), Execution.waiting_for.not_in(["concurrency", "lock"])),
    )
    return session.scalar(query) or 0


def lock_name(document: Document, variables: dict[str, Any]) -> str | None:
    """:raises Invalid: when the playbook's lock names a variable that has no value."""
    return str(document.lock.render(Scope(variables=variables)).value) if document.lock else None


def _take_lock(session: Session, name: str | None, execution_id: UUID, now: datetime) -> str | None:
    """``lock`` when another execution holds the lock; nothing when it is ours or none is asked."""
    if name is None:
        return None
    taken = session.execute(
        upsert(Lock)
        .values(name=name, execution_id=execution_id, taken_at=now)
        .on_conflict_do_nothing()
        .returning(Lock.name)
    ).scalar_one_or_none()
    return None if taken is not None else "lock"


def _source(session: Session, execution: Execution) -> str:
    version = session.get_one(PlaybookVersion, (execution.playbook_id, execution.playbook_version))
    return version.source
