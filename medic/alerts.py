"""Alerts: opened and closed by verdicts, acknowledged and resolved by people.

One alert is open per service; the schema holds that.  Each change is a transition with its evidence.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from medic import audit
from medic.errors import Conflict, NotFound
from medic.models.alerting import Alert, AlertTransition
from medic.models.monitoring import ServiceState
from medic.times import format_time


def open_alert(
    session: Session, *, service_id: int, service_name: str, priority: str, reason: str, opened_at: datetime,
    now: datetime, evidence: dict[str, Any],
) -> int | None:  # fmt: skip
    """Open a service's alert; nothing when one is open already: somebody else got there first."""
    alert_id = session.execute(
        upsert(Alert)
        .values(
            service_id=service_id, service_name=service_name, priority=priority, reasons=[reason],
            opened_at=opened_at, detected_at=now,
        )
        .on_conflict_do_nothing()
        .returning(Alert.id)
    ).scalar_one_or_none()  # fmt: skip
    if alert_id is not None:
        _record(session, alert_id, "opened", reason=reason, at=opened_at, now=now, evidence=evidence)
    return alert_id


def change_reasons(
    session: Session, *, alert_id: int, kind: str, reason: str, at: datetime, now: datetime,
    evidence: dict[str, Any],
) -> None:  # fmt: skip
    """A reason joined or was cleared."""
    change = func.array_append if kind == "reason_joined" else func.array_remove
    session.execute(update(Alert).where(Alert.id == alert_id).values(reasons=change(Alert.reasons, reason)))
    _record(session, alert_id, kind, reason=reason, at=at, now=now, evidence=evidence)


def resolve(
    session: Session, *, alert_id: int, resolution: str, at: datetime, now: datetime, evidence: dict[str, Any],
    actor: str | None = None, note: str | None = None,
) -> bool:  # fmt: skip
    """Close an open alert; false when it is closed already."""
    closed = session.execute(
        update(Alert)
        .where(Alert.id == alert_id, Alert.resolved_at.is_(None))
        .values(
            resolved_at=max(at, now) if actor else at, resolution=resolution, resolved_by=actor, note=note
        )
        .returning(Alert.id)
    ).scalar_one_or_none()
    if closed is None:
        return False
    _record(session, alert_id, "resolved", reason=None, at=at, now=now, evidence=evidence, actor=actor)
    return True


def close_for(
    session: Session, *, service_id: int, resolution: str, now: datetime, actor: audit.Actor
) -> None:
    """Close a service's alert because the service is paused or deleted."""
    alert_id = session.scalar(
        select(Alert.id).where(Alert.service_id == service_id, Alert.resolved_at.is_(None))
    )
    if alert_id is not None:
        resolve(
            session, alert_id=alert_id, resolution=resolution, at=now, now=now, evidence={}, actor=str(actor)
        )


def acknowledge(session: Session, *, alert_id: int, actor: audit.Actor, now: datetime) -> Alert:
    """Say that somebody looks after it; a second time changes nothing.

    :raises NotFound: no such alert.
    :raises Conflict: it is resolved.
    """
    alert = _open(session, alert_id)
    if alert.acknowledged_at is None:
        alert.acknowledged_at, alert.acknowledged_by = now, str(actor)
        _record(
            session, alert_id, "acknowledged", reason=None, at=now, now=now, evidence={}, actor=str(actor)
        )
        audit.append(
            session, now=now, actor=actor, action="alert.acknowledge", object_kind="alert", object_id=alert_id
        )
    return alert


def resolve_by_hand(
    session: Session, *, alert_id: int, actor: audit.Actor, now: datetime, note: str | None = None
) -> Alert:
    """Close an alert by hand; it stays closed until a success or as many further misses as open one.

    :raises NotFound: no such alert.
    :raises Conflict: it is resolved.
    """
    alert = _open(session, alert_id)
    # The hold is the evaluator's to keep: the sweep reads it with the service's next evaluation.
    session.execute(
        update(ServiceState)
        .where(ServiceState.service_id == alert.service_id)
        .values(
            due_at=now,
            quiet=False,
            carried=ServiceState.carried.op("||")({"resolved_by_hand": format_time(now)}),
        )
    )
    resolve(
        session, alert_id=alert_id, resolution="manual", at=now, now=now, evidence={"note": note},
        actor=str(actor), note=note,
    )  # fmt: skip
    audit.append(
        session, now=now, actor=actor, action="alert.resolve", object_kind="alert", object_id=alert_id,
        detail={"note": note},
    )  # fmt: skip
    session.refresh(alert)
    return alert


def find(session: Session, alert_id: int) -> Alert:
    """An alert.

    :raises NotFound: no such alert.
    """
    alert = session.get(Alert, alert_id)
    if alert is None:
        raise NotFound(f"There is no alert {alert_id}.")
    return alert


def transitions(session: Session, alert_id: int) -> list[AlertTransition]:
    """What happened to an alert, oldest first."""
    return list(
        session.scalars(
            select(AlertTransition).where(AlertTransition.alert_id == alert_id).order_by(AlertTransition.id)
        )
    )


def _open(session: Session, alert_id: int) -> Alert:
    alert = session.get(Alert, alert_id, with_for_update={"key_share": True})
    if alert is None:
        raise NotFound(f"There is no alert {alert_id}.")
    if alert.resolved_at is not None:
        raise Conflict("The alert is resolved already.")
    return alert


def _record(
    session: Session, alert_id: int, kind: str, *, reason: str | None, at: datetime, now: datetime,
    evidence: dict[str, Any], actor: str | None = None,
) -> None:  # fmt: skip
    session.execute(
        insert(AlertTransition).values(
            alert_id=alert_id,
            kind=kind,
            reason=reason,
            at=at,
            recorded_at=now,
            actor=actor,
            evidence=evidence,
        )
    )
