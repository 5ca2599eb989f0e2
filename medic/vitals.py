"""Does Medic itself work: does the sweep move on, and do deliveries leave?  For whoever watches the watcher."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.orm import Session

from medic.ticks import last_tick

SERVICES_TICK = "sweep-services"
LATE_INTERVALS = 3
PATIENCE = timedelta(minutes=2)
"""How long services and deliveries may have been due before they count as standing still."""

# What a target refused is due later, so a delivery that stays due is one that nobody sends.
_OLDEST = text(
    """
    SELECT (SELECT min(due_at) FROM service_states WHERE due_at <= :now) AS services,
           (SELECT min(due_at) FROM deliveries WHERE due_at <= :now AND carried_by IS NULL) AS deliveries
    """
)


def failing(session: Session, *, now: datetime, interval: timedelta) -> str | None:
    """What does not work, in words; nothing when all does.

    :param interval: the time between two sweeps.
    """
    last = last_tick(session, SERVICES_TICK)
    if last is None:
        return "no sweep ran yet"
    if now - last > max(PATIENCE, LATE_INTERVALS * interval):
        return "no sweep began lately"
    oldest = session.execute(_OLDEST, {"now": now}).mappings().one()
    if oldest["services"] is not None and now - oldest["services"] > PATIENCE + interval:
        return "services that are due are not judged"
    if oldest["deliveries"] is not None and now - oldest["deliveries"] > PATIENCE:
        return "deliveries that are due do not leave"
    return None
