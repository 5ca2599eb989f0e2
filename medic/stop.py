"""The stop switch: while it is on nothing starts, running steps finish, waiting ones hold."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from medic import audit
from medic.db import advisory_lock
from medic.models.access import Stop
from medic.models.executions import Execution


def stopped(session: Session) -> Stop | None:
    """The stop that is in force."""
    return session.scalars(select(Stop).where(Stop.resumed_at.is_(None))).one_or_none()


def stop_all(session: Session, *, reason: str, actor: audit.Actor, now: datetime) -> Stop:
    """Switch on; when it is on already, that stop stands."""
    advisory_lock(session, "stop")
    standing = stopped(session)
    if standing is not None:
        return standing
    stop = Stop(reason=reason, stopped_at=now, stopped_by=str(actor))
    session.add(stop)
    session.flush()  # its id goes into the audit entry
    audit.append(
        session, now=now, actor=actor, action="stop.engage", object_kind="stop", object_id=stop.id,
        detail={"reason": reason},
    )  # fmt: skip
    return stop


def resume_all(session: Session, *, actor: audit.Actor, now: datetime) -> bool:
    """Switch off; false when it was not on."""
    ended = session.execute(
        update(Stop)
        .where(Stop.resumed_at.is_(None))
        .values(resumed_at=now, resumed_by=str(actor))
        .returning(Stop.id)
    ).scalar_one_or_none()
    if ended is None:
        return False
    # Whoever was fenced meanwhile goes on with the next sweep, not when its grace is over.
    session.execute(
        update(Execution)
        .where(Execution.state == "running", Execution.owner.is_(None), Execution.due_at > now)
        .values(due_at=now)
    )
    audit.append(session, now=now, actor=actor, action="stop.release", object_kind="stop", object_id=ended)
    return True
