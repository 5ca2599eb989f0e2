"""What follows when a delivery fails for good: the next target of its route, and who hears of a dead target."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

import structlog
from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session
from sqlalchemy.types import BigInteger, Text

from medic import audit
from medic.deliveries.enqueue import enqueue_notice
from medic.deliveries.grouping import OPENINGS
from medic.models.alerting import Target
from medic.telemetry import metrics

log = structlog.get_logger("medic.deliveries")

# The next target of a route that tells one after the other: the first in its order, from this level on, that was not
# told of the same transition.  An alert that is over needs nobody else.
_NEXT = """
  FROM deliveries d
  JOIN routes r ON r.id = d.route_id AND r.mode = 'notify_until_success'
  JOIN alerts a ON a.id = d.alert_id AND a.resolved_at IS NULL
 CROSS JOIN LATERAL (
       SELECT x.target_id, x.level, x.position
         FROM route_targets x JOIN targets t ON t.id = x.target_id AND t.disabled_at IS NULL
        WHERE x.route_id = d.route_id AND x.level >= d.level
          AND NOT EXISTS (SELECT 1 FROM deliveries o
                           WHERE o.transition_id = d.transition_id AND o.target_id = x.target_id)
        ORDER BY x.level, x.position, x.target_id LIMIT 1) n
 WHERE d.id = ANY(:ids) AND d.kind = ANY(:openings) AND d.transition_id IS NOT NULL
"""

_OTHERS = text("SELECT 1" + _NEXT).bindparams(
    bindparam("ids", type_=ARRAY(BigInteger)), bindparam("openings", type_=ARRAY(Text))
)

_TELL_NEXT = text(
    """
    INSERT INTO deliveries (uuid, target_id, route_id, alert_id, transition_id, kind, level, position, payload,
                            due_at, created_at)
    SELECT gen_random_uuid(), n.target_id, d.route_id, d.alert_id, d.transition_id, d.kind, n.level, n.position,
           d.payload, :now, :now
    """
    + _NEXT
    # Whoever closes the alert at this moment is waited for, or sees this row: no opening stays without its end.
    + " FOR SHARE OF a ON CONFLICT DO NOTHING RETURNING target_id"
).bindparams(bindparam("ids", type_=ARRAY(BigInteger)), bindparam("openings", type_=ARRAY(Text)))

_FAIL = text(
    """
    UPDATE deliveries SET state = 'failed', owner = NULL, due_at = NULL, finished_at = :now, error = :error
     WHERE (id = ANY(:ids) OR carried_by = ANY(:ids)) AND finished_at IS NULL
    RETURNING id, target_id, alert_id
    """
).bindparams(bindparam("ids", type_=ARRAY(BigInteger)))

_WAKE = text(
    """
    UPDATE deliveries SET due_at = :now
     WHERE alert_id = ANY(:alert_ids) AND target_id = :target_id AND finished_at IS NULL AND owner IS NULL
       AND epoch = 0 AND due_at > :now
    """
).bindparams(bindparam("alert_ids", type_=ARRAY(BigInteger)))


def others_behind(session: Session, delivery_id: int) -> bool:
    """Whether another target is told when this delivery fails."""
    return session.execute(_OTHERS, {"ids": [delivery_id], "openings": list(OPENINGS)}).first() is not None


def next_in_route(session: Session, delivery_ids: Collection[int], *, now: datetime) -> set[int]:
    """Tell the next target, where a route tells one after the other until one was reached.

    :returns: the targets that have something due now.
    """
    found = session.execute(
        _TELL_NEXT, {"ids": list(delivery_ids), "openings": list(OPENINGS), "now": now}
    ).scalars()  # fmt: skip
    return set(found)


def wake_behind(session: Session, *, target_id: int, alert_ids: Collection[int], now: datetime) -> None:
    """What stood behind a delivery that is over may go."""
    if alert_ids:
        session.execute(_WAKE, {"target_id": target_id, "alert_ids": list(alert_ids), "now": now})


def give_up(
    session: Session, delivery_ids: Collection[int], *, error: str, now: datetime, kind: str
) -> set[int]:
    """These deliveries, and those that they carry, fail; what follows from that is done.

    :param kind: the target's, for the count.
    :returns: the targets that have something due now in their place.
    """
    if not delivery_ids:
        return set()
    failed = session.execute(_FAIL, {"ids": list(delivery_ids), "error": error, "now": now}).all()
    metrics.DELIVERIES.labels(kind, "failed").inc(len(failed))
    log.warning("delivery.failed", count=len(failed), first=failed[0].id if failed else None, error=error)
    alerts_of: dict[int, list[int]] = {}
    for row in failed:
        if row.target_id is not None and row.alert_id is not None:
            alerts_of.setdefault(row.target_id, []).append(row.alert_id)
    for target_id, alert_ids in alerts_of.items():
        wake_behind(session, target_id=target_id, alert_ids=alert_ids, now=now)
    return next_in_route(session, [row.id for row in failed], now=now)


def switch_off(
    session: Session, target: Target, *, reason: str, route_id: int | None, now: datetime
) -> set[int] | None:
    """A target that is wrong itself gets nothing more, and the others hear of it.  Its rows that wait, fail.

    :returns: the targets that have something due now; nothing if it was changed since we read it: what was wrong
        may be mended.
    """
    switched = session.execute(
        text("UPDATE targets SET disabled_at = :now, disabled_reason = :reason, version = version + 1"
             " WHERE id = :id AND version = :version AND disabled_at IS NULL RETURNING id"),
        {"id": target.id, "version": target.version, "reason": reason, "now": now},
    ).scalar_one_or_none()  # fmt: skip
    if switched is None:
        off = session.execute(
            text("SELECT 1 FROM targets WHERE id = :id AND disabled_at IS NOT NULL"), {"id": target.id}
        ).first()  # fmt: skip
        return None if off is None else set()
    audit.append(
        session, now=now, actor=audit.MEDIC, action="target.disable", object_kind="target",
        object_id=target.name, detail={"reason": reason},
    )  # fmt: skip
    log.error("target.switched_off", target=target.name, reason=reason)
    waiting = session.execute(
        text("SELECT id FROM deliveries WHERE target_id = :id AND finished_at IS NULL AND owner IS NULL"
             " AND carried_by IS NULL AND kind <> 'test' ORDER BY id FOR NO KEY UPDATE"),
        {"id": target.id},
    ).scalars().all()  # fmt: skip
    told = give_up(session, waiting, error=f"The target is switched off: {reason}", now=now, kind=target.kind)
    return told | enqueue_notice(
        session,
        target=target,
        route_id=route_id,
        text=f"The target {target.name} ({target.kind}) takes no messages and was switched off: {reason}",
        now=now,
    )
