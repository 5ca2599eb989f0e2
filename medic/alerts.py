"""Alerts: opened and closed by verdicts, acknowledged and resolved by people.

One alert is open per service; the schema holds that.  Each change is a transition with its evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, insert, select, text, update
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Session

from medic import audit, outbox, suppression
from medic.errors import Conflict, NotFound
from medic.models.alerting import Alert, AlertTransition
from medic.models.monitoring import ServiceState
from medic.times import format_time


@dataclass(frozen=True, slots=True)
class Opening:
    """A service's alert that is to open; ``at`` is when it became true."""

    service_id: int
    service_name: str
    priority: str
    reason: str
    at: datetime
    evidence: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Turn:
    """What happens to an open alert.  ``kind``: a transition's; ``resolution`` goes with ``resolved``."""

    alert_id: int
    kind: str
    reason: str | None
    at: datetime
    evidence: dict[str, Any]
    resolution: str | None = None


_OPEN = text(
    """
    INSERT INTO alerts (service_id, service_name, priority, reasons, opened_at, detected_at)
    SELECT service_id, service_name, priority, ARRAY[reason], at, :now
      FROM unnest(CAST(:service_id AS bigint[]), CAST(:service_name AS text[]), CAST(:priority AS text[]),
                  CAST(:reason AS text[]), CAST(:at AS timestamptz[]))
        AS o (service_id, service_name, priority, reason, at)
    ON CONFLICT DO NOTHING
 RETURNING service_id, id
    """
)

_RESOLVE = text(
    """
    UPDATE alerts a SET resolved_at = v.at, resolution = v.resolution
      FROM unnest(CAST(:alert_id AS bigint[]), CAST(:at AS timestamptz[]), CAST(:resolution AS text[]))
        AS v (alert_id, at, resolution)
     WHERE a.id = v.alert_id AND a.resolved_at IS NULL
 RETURNING a.id, a.service_id
    """
)

_CHANGE_REASONS = text(
    """
    UPDATE alerts a
       SET reasons = CASE WHEN v.kind = 'reason_joined' THEN array_append(a.reasons, v.reason)
                          ELSE array_remove(a.reasons, v.reason) END,
           -- What ends and comes back is told again.
           told = CASE WHEN v.kind = 'reason_joined' THEN a.told ELSE array_remove(a.told, v.reason) END
      FROM unnest(CAST(:alert_id AS bigint[]), CAST(:kind AS text[]), CAST(:reason AS text[]))
        AS v (alert_id, kind, reason)
     WHERE a.id = v.alert_id
    """
)

_RECORD = text(
    """
    INSERT INTO alert_transitions (alert_id, kind, reason, at, recorded_at, evidence)
    SELECT alert_id, kind, reason, at, :now, evidence
      FROM unnest(CAST(:alert_id AS bigint[]), CAST(:kind AS text[]), CAST(:reason AS text[]),
                  CAST(:at AS timestamptz[]), :evidence)
        AS t (alert_id, kind, reason, at, evidence)
 RETURNING id, alert_id
    """
).bindparams(bindparam("evidence", type_=ARRAY(JSONB)))


def open_all(session: Session, openings: Sequence[Opening], *, now: datetime) -> dict[int, int]:
    """Open alerts, at most one per service.

    :returns: the alerts by their service; without those where one is open already.
    """
    if not openings:
        return {}
    rows = session.execute(
        _OPEN,
        {
            "service_id": [one.service_id for one in openings],
            "service_name": [one.service_name for one in openings],
            "priority": [one.priority for one in openings],
            "reason": [one.reason for one in openings],
            "at": [one.at for one in openings],
            "now": now,
        },
    )
    opened: dict[int, int] = {row.service_id: row.id for row in rows}
    turns = [
        Turn(opened[one.service_id], "opened", one.reason, one.at, one.evidence)
        for one in openings
        if one.service_id in opened
    ]
    record_all(session, turns, now=now)
    return opened


def turn_all(session: Session, turns: Sequence[Turn], *, now: datetime) -> None:
    """Change open alerts, each at most once; one that was resolved meanwhile is not resolved again."""
    changes = [turn for turn in turns if turn.kind != "resolved"]
    ends = [turn for turn in turns if turn.kind == "resolved"]
    resolved: set[int] = set()
    if changes:
        session.execute(
            _CHANGE_REASONS,
            {
                "alert_id": [turn.alert_id for turn in changes],
                "kind": [turn.kind for turn in changes],
                "reason": [turn.reason for turn in changes],
            },
        )
    if ends:
        rows = session.execute(
            _RESOLVE,
            {
                "alert_id": [turn.alert_id for turn in ends],
                "at": [turn.at for turn in ends],
                "resolution": [turn.resolution for turn in ends],
            },
        )
        gone = {row.id: row.service_id for row in rows}
        resolved = set(gone)
        suppression.wake_children(session, list(gone.values()), now=now)
    over = {turn.alert_id: turn for turn in ends if turn.alert_id in resolved}
    recorded = record_all(session, [*changes, *over.values()], now=now)
    outbox.tell_same(
        session,
        "resolved",
        [
            (
                alert_id,
                recorded[alert_id],
                {"resolved_at": format_time(turn.at), "resolution": turn.resolution},
            )
            for alert_id, turn in over.items()
        ],
        now=now,
    )


def record_all(session: Session, turns: Sequence[Turn], *, now: datetime) -> dict[int, int]:
    """Keep what happened to alerts, each at most once.

    :returns: the transitions by their alert.
    """
    if not turns:
        return {}
    rows = session.execute(
        _RECORD,
        {
            "alert_id": [turn.alert_id for turn in turns],
            "kind": [turn.kind for turn in turns],
            "reason": [turn.reason for turn in turns],
            "at": [turn.at for turn in turns],
            "evidence": [turn.evidence for turn in turns],
            "now": now,
        },
    )
    return {row.alert_id: row.id for row in rows}


def resolve(
    session: Session, *, alert_id: int, resolution: str, now: datetime, evidence: dict[str, Any], actor: str,
    note: str | None = None,
) -> None:  # fmt: skip
    """Close an open alert because somebody did something."""
    closed = session.execute(
        update(Alert)
        .where(Alert.id == alert_id, Alert.resolved_at.is_(None))
        .values(resolved_at=now, resolution=resolution, resolved_by=actor, note=note)
        .returning(Alert.service_id)
    ).scalar_one_or_none()
    if closed is not None:
        suppression.wake_children(session, [closed], now=now)
        transition_id = _record(session, alert_id, "resolved", now=now, evidence=evidence, actor=actor)
        more = {"resolved_at": format_time(now), "resolution": resolution}
        outbox.tell_same(session, "resolved", [(alert_id, transition_id, more)], now=now)


def close_for(
    session: Session, *, service_id: int, resolution: str, now: datetime, actor: audit.Actor
) -> None:
    """Close a service's alert because the service is paused or deleted."""
    alert_id = session.scalar(
        select(Alert.id).where(Alert.service_id == service_id, Alert.resolved_at.is_(None))
    )
    if alert_id is not None:
        resolve(session, alert_id=alert_id, resolution=resolution, now=now, evidence={}, actor=str(actor))


def acknowledge(session: Session, *, alert_id: int, actor: audit.Actor, now: datetime) -> Alert:
    """Say that somebody looks after it; a second time changes nothing.

    :raises NotFound: no such alert.
    :raises Conflict: it is resolved.
    """
    alert = _open(session, alert_id)
    if alert.acknowledged_at is None:
        alert.acknowledged_at, alert.acknowledged_by = now, str(actor)
        transition_id = _record(session, alert_id, "acknowledged", now=now, evidence={}, actor=str(actor))
        more = {"acknowledged_by": str(actor)}
        outbox.tell_same(session, "acknowledged", [(alert_id, transition_id, more)], now=now)
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
    # The service's row first, as in a sweep; the alert is not locked the other way around.
    session.execute(
        select(ServiceState.service_id)
        .join(Alert, Alert.service_id == ServiceState.service_id)
        .where(Alert.id == alert_id)
        .with_for_update(of=ServiceState, key_share=True)
    )
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
        session, alert_id=alert_id, resolution="manual", now=now, evidence={"note": note},
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
    session: Session, alert_id: int, kind: str, *, now: datetime, evidence: dict[str, Any], actor: str
) -> int:
    return session.execute(
        insert(AlertTransition)
        .values(alert_id=alert_id, kind=kind, at=now, recorded_at=now, actor=actor, evidence=evidence)
        .returning(AlertTransition.id)
    ).scalar_one()
