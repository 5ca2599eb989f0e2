"""Which policies a service had, from the audit log's entries of its making and its changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from medic.errors import Invalid
from medic.evaluator import Policy
from medic.models.access import AuditEntry
from medic.models.monitoring import Service
from medic.service_policy import COLUMNS, JUDGED
from medic.sweep import policy_of

_MOST = 500


def policies_of(session: Session, service: Service) -> tuple[Policy, ...]:
    """The policies that are known, oldest first, each from its start on; the last is the one of now."""
    rows = session.execute(
        select(AuditEntry.at, AuditEntry.detail)
        .where(
            AuditEntry.object_kind == "service",
            AuditEntry.object_id == service.name,
            AuditEntry.action.in_(["service.create", "service.change"]),
            AuditEntry.at >= service.created_at,
            AuditEntry.at < service.policy_since,
        )
        .order_by(AuditEntry.id.desc())
        .limit(_MOST)
    ).all()
    earlier = earlier_policies([(row.at, row.detail) for row in reversed(rows)], service)
    return (*earlier, policy_of(service))


def earlier_policies(entries: Sequence[tuple[datetime, dict[str, Any]]], service: Service) -> list[Policy]:
    """The policies that these entries tell of; what an entry does not say was at its default."""
    found: list[Policy] = []
    before: dict[str, Any] | None = None
    for at, detail in entries:
        judged = {name: detail.get(name) for name in (*JUDGED, "paused")}
        if judged != before:
            try:
                found.append(_read(at, detail, service))
            except (Invalid, TypeError, ValueError):
                found.clear()  # what came before one that cannot be read leads nowhere
        before = judged
    return found


def _read(at: datetime, detail: dict[str, Any], service: Service) -> Policy:
    defaults = {
        column: None if Service.__table__.c[column].nullable else getattr(service, column)
        for column in COLUMNS
    }
    values = defaults | {name: detail[name] for name in COLUMNS if name in detail}
    row = Service(**values, policy_since=at, policy_version=0, paused_at=at if detail.get("paused") else None)
    return replace(policy_of(row), version=0)
