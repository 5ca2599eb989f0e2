"""The audit log: every decision and change, appended in the transaction of its effect."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import insert
from sqlalchemy.orm import Session

from medic.models.access import AuditEntry


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does something: the kind of principal, its id, and where the request came from."""

    kind: str
    id: str
    source: str | None = None
    request_id: str | None = None

    def __str__(self) -> str:
        return f"{self.kind}:{self.id}"


MEDIC = Actor("medic", "medic")


def append(
    session: Session,
    *,
    now: datetime,
    actor: Actor,
    action: str,
    object_kind: str,
    object_id: object,
    detail: dict[str, Any] | None = None,
) -> int:
    """Add an entry and give its number; ``action`` is ``noun.verb``, ``detail`` holds nothing secret."""
    number: int = session.execute(
        insert(AuditEntry)
        .values(
            at=now,
            actor_kind=actor.kind,
            actor=actor.id,
            action=action,
            object_kind=object_kind,
            object_id=str(object_id),
            source=actor.source,
            request_id=actor.request_id,
            detail=detail or {},
        )
        .returning(AuditEntry.id)
    ).scalar_one()
    return number
