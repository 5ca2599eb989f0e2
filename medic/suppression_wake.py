"""Waking services: what was kept back is judged by the next sweep, once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from medic.models.alerting import Alert, Team
from medic.models.monitoring import Service
from medic.suppression_rules import selects

BATCH = 500

# The rows first, in one order.  Whoever sweeps one of them at this moment is waited for, and looks once more.
_WAKE = text(
    """
    WITH rows AS MATERIALIZED (
        SELECT service_id FROM service_states WHERE service_id = ANY(CAST(:ids AS bigint[])) ORDER BY service_id FOR NO KEY UPDATE
    )
    UPDATE service_states s SET due_at = least(s.due_at, :now), quiet = false
      FROM rows WHERE s.service_id = rows.service_id
    """
)

FAILING = text(
    """
    SELECT service_id FROM alerts WHERE resolved_at IS NULL AND service_id = ANY(CAST(:ids AS bigint[]))
    """
)


def wake(session: Session, service_ids: Sequence[int], *, now: datetime) -> int:
    """Make those of these services due whose alert is open."""
    ids = list(session.scalars(FAILING, {"ids": list(service_ids)})) if service_ids else []
    if ids:
        session.execute(_WAKE, {"ids": ids, "now": now})
    return len(ids)


def wake_selected(
    session: Session, selector: Mapping[str, Any], *, now: datetime, after: int = 0, limit: int = BATCH
) -> tuple[int, int | None]:
    """Make services due that a window was for and whose alert is open; looks at ``limit`` open alerts.

    :param after: the service to go on behind.
    :returns: how many, and the service to go on behind; None when that were all.
    """
    rows = session.execute(
        select(Service.id, Service.name, Service.tags, Team.name.label("team"))
        .join(Alert, Alert.service_id == Service.id)
        .outerjoin(Team, Team.id == Service.team_id)
        .where(Alert.resolved_at.is_(None), Alert.service_id > after)
        .order_by(Alert.service_id)
        .limit(limit)
    ).all()
    chosen = [row.id for row in rows if selects(selector, name=row.name, tags=row.tags, team=row.team)]
    if chosen:
        session.execute(_WAKE, {"ids": chosen, "now": now})
    return len(chosen), rows[-1].id if len(rows) == limit else None
