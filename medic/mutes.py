"""Mutes: somebody asked for quiet about one service, for a reason, until an end."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select, text, update
from sqlalchemy.orm import Session

from medic import audit
from medic.errors import Conflict, Invalid, NotFound
from medic.models.alerting import Mute
from medic.models.monitoring import Service
from medic.suppression_wake import BATCH, wake
from medic.times import MAX_DURATION, format_time


def create(
    session: Session, *, service: str, reason: str, ends_at: datetime, actor: audit.Actor, now: datetime
) -> Mute:
    """Keep quiet about a service.  What people were told already stays told.

    :raises NotFound: no such service.
    :raises Invalid: the end is past, or too far ahead.
    """
    if ends_at <= now:
        raise Invalid.at("ends_at", "is in the past")
    if ends_at > now + MAX_DURATION:
        raise Invalid.at("ends_at", "is more than ten years ahead")
    service_id = session.scalar(
        select(Service.id).where(Service.name == service).with_for_update(read=True, key_share=True)
    )
    if service_id is None:
        raise NotFound(f"There is no service {service}.")
    mute = Mute(
        service_id=service_id,
        reason=reason,
        created_by=str(actor),
        created_at=now,
        ends_at=ends_at,
        due_at=ends_at,
    )
    session.add(mute)
    session.flush()
    audit.append(
        session, now=now, actor=actor, action="mute.create", object_kind="mute", object_id=mute.id,
        detail={"service": service, "reason": reason, "ends_at": format_time(ends_at)},
    )  # fmt: skip
    return mute


def find(session: Session, mute_id: int) -> tuple[Mute, str]:
    """A mute with the name of its service.

    :raises NotFound: no such mute.
    """
    row = session.execute(
        select(Mute, Service.name).join(Service, Service.id == Mute.service_id).where(Mute.id == mute_id)
    ).one_or_none()
    if row is None:
        raise NotFound(f"There is no mute {mute_id}.")
    return row.Mute, row.name


def end(session: Session, *, mute_id: int, actor: audit.Actor, now: datetime) -> Mute:
    """Unmute before the time; what still fails is judged by the next sweep.

    :raises NotFound: no such mute.
    :raises Conflict: it is over.
    """
    mute = session.get(Mute, mute_id, with_for_update={"key_share": True}, populate_existing=True)
    if mute is None:
        raise NotFound(f"There is no mute {mute_id}.")
    if mute.ended_at is not None or mute.ends_at <= now:
        raise Conflict("The mute is over already.")
    mute.ended_at, mute.ended_by, mute.due_at = now, str(actor), None
    session.flush()
    wake(session, [mute.service_id], now=now)
    audit.append(session, now=now, actor=actor, action="mute.end", object_kind="mute", object_id=mute_id)
    return mute


def active(session: Session, service_ids: Sequence[int], *, now: datetime) -> dict[int, list[Mute]]:
    """The mutes of these services that hold now, oldest first."""
    found: dict[int, list[Mute]] = {}
    query = select(Mute).where(Mute.service_id.in_(service_ids), Mute.ended_at.is_(None), Mute.ends_at > now)
    for mute in session.scalars(query.order_by(Mute.id)):
        found.setdefault(mute.service_id, []).append(mute)
    return found


_DUE = text(
    """
    SELECT id FROM mutes WHERE due_at <= :now ORDER BY due_at, id LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED
    """
)


def end_due(session: Session, *, now: datetime, limit: int = BATCH) -> int:
    """End the mutes whose time is over, up to ``limit`` of them, and wake their services; returns how many."""
    ids = list(session.scalars(_DUE, {"now": now, "limit": limit}))
    if not ids:
        return 0
    ended = session.scalars(
        update(Mute)
        .where(Mute.id.in_(ids), Mute.due_at <= now)
        .values(ended_at=Mute.ends_at, ended_by=str(audit.MEDIC), due_at=None)
        .returning(Mute.service_id)
        .execution_options(synchronize_session=False)
    ).all()
    wake(session, sorted(set(ended)), now=now)
    return len(ended)
