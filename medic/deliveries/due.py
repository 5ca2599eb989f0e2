"""Which targets have something due, and the hints that say so."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.orm import Session

from medic import broker
from medic.deliveries.failover import give_up
from medic.deliveries.schedule import IN_FLIGHT

ORPHANS = 500

# A target whose messages are all in flight is left alone: each of them looks for the next one when it has gone.
_DUE = text(
    """
    SELECT d.target_id FROM deliveries d
     WHERE d.due_at <= :now AND d.carried_by IS NULL AND d.target_id IS NOT NULL
     GROUP BY d.target_id
    HAVING (SELECT count(*) FROM deliveries o
             WHERE o.target_id = d.target_id AND o.finished_at IS NULL AND o.owner IS NOT NULL AND o.due_at > :now
               AND o.carried_by IS NULL) < :in_flight
     ORDER BY min(d.due_at), d.target_id
    """
)

_ORPHANS = text(
    """
    SELECT id FROM deliveries WHERE due_at <= :now AND target_id IS NULL AND carried_by IS NULL
     ORDER BY id LIMIT :orphans FOR NO KEY UPDATE SKIP LOCKED
    """
)


def due_targets(session: Session, *, now: datetime) -> list[int]:
    """The targets that have something to send, the one that waits longest first."""
    return list(session.execute(_DUE, {"now": now, "in_flight": IN_FLIGHT}).scalars())


def fail_orphans(session: Session, *, now: datetime) -> int:
    """What was due to a target that was deleted, fails."""
    ids = session.execute(_ORPHANS, {"now": now, "orphans": ORPHANS}).scalars().all()
    give_up(session, ids, error="The target was deleted.", now=now, kind="deleted")
    return len(ids)


def hint(target_ids: Iterable[int]) -> int:
    """Ask the workers to look at these targets; call it after the commit.  How many messages left."""
    return sum(broker.publish_delivery(target_id) for target_id in target_ids)
