"""Snapshots: what an object's configuration was before a change, kept in the transaction of that change.

A snapshot without a document says that there was no such object: its change made it.  So the first snapshot of an
object behind a moment tells what the object was at that moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Select, func, insert, select, update
from sqlalchemy.orm import Session

from medic import audit
from medic.errors import NotFound
from medic.models.access import Snapshot
from medic.times import format_time

KINDS: Final = ("team", "calendar", "target", "service", "route", "window", "playbook", "trigger")
"""What there are snapshots of, each behind what it may refer to."""


def record(
    session: Session, *, now: datetime, actor: audit.Actor, action: str, object_kind: str, object_id: object,
    before: dict[str, Any] | None, detail: dict[str, Any] | None = None,
) -> None:  # fmt: skip
    """Add the audit entry of a change, and keep what the object was before it.

    :param before: the object's document (`medic.documents`); None when the change made it.
    """
    entry = audit.append(
        session, now=now, actor=actor, action=action, object_kind=object_kind, object_id=object_id, detail=detail
    )  # fmt: skip
    session.execute(
        insert(Snapshot).values(
            at=now, actor=str(actor), action=action, object_kind=object_kind, object_name=str(object_id),
            before=before, audit_id=entry,
        )
    )  # fmt: skip


def find(session: Session, snapshot_id: int) -> Snapshot:
    """A snapshot.

    :raises NotFound: no such snapshot, or its time is over.
    """
    snapshot = session.get(Snapshot, snapshot_id)
    if snapshot is None:
        raise NotFound(f"There is no snapshot {snapshot_id}.")
    return snapshot


def query(
    *, kind: str | None = None, name: str | None = None, since: datetime | None = None,
    until: datetime | None = None, services: str | None = None,
) -> Select[Snapshot]:  # fmt: skip
    """Snapshots, to be paged.

    :param services: an expression for names of services; of everything else there is nothing then.
    """
    found = select(Snapshot)
    if kind is not None:
        found = found.where(Snapshot.object_kind == kind)
    if name is not None:
        found = found.where(Snapshot.object_name == name)
    if since is not None:
        found = found.where(Snapshot.at >= since)
    if until is not None:
        found = found.where(Snapshot.at < until)
    if services is not None:
        found = found.where(Snapshot.object_kind == "service", Snapshot.object_name.regexp_match(services))
    return found


def since(session: Session, at: datetime, kinds: Sequence[str]) -> list[Snapshot]:
    """Of each object that was changed after this moment, the first snapshot behind it: what it was then."""
    first = (
        select(func.min(Snapshot.id))
        .where(Snapshot.at > at, Snapshot.object_kind.in_(kinds))
        .group_by(Snapshot.object_kind, Snapshot.object_name)
    )
    return list(session.scalars(select(Snapshot).where(Snapshot.id.in_(first)).order_by(Snapshot.id)))


def mark_restored(
    session: Session, found: Sequence[Snapshot], *, actor: audit.Actor, now: datetime, at: datetime | None = None
) -> None:  # fmt: skip
    """Note that objects are again as these snapshots have them.

    :param at: the moment that everything was restored to; None for one snapshot by itself.
    """
    ids = [snapshot.id for snapshot in found]
    session.execute(
        update(Snapshot).where(Snapshot.id.in_(ids)).values(restored_at=now),
        execution_options={"synchronize_session": False},
    )
    if at is not None:
        audit.append(
            session, now=now, actor=actor, action="snapshot.restore", object_kind="configuration",
            object_id=format_time(at), detail={"snapshots": ids[:1_000], "count": len(ids)},
        )  # fmt: skip
        return
    for snapshot in found:
        audit.append(
            session, now=now, actor=actor, action="snapshot.restore", object_kind=snapshot.object_kind,
            object_id=snapshot.object_name, detail={"snapshot": snapshot.id, "as_of": format_time(snapshot.at)},
        )  # fmt: skip
