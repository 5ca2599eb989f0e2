"""Medic about itself.  It cannot hear for longer than 2 min: people are told, once then and once when it is over.

Each sweep looks.  A row in ``self_alerts`` remembers what is open, by compare-and-set, so that of many sweeps one tells;
the messages to the default route's first level commit with it.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from medic.coverage import blind_intervals
from medic.times import format_duration, format_time

DEAF = "deaf"
PATIENCE = timedelta(minutes=2)
_REACH = timedelta(hours=1)
"""How far back chains of short gaps are followed; one gap is known from its start on, however long ago that was."""

_OPEN = text(
    """
    INSERT INTO self_alerts (name, opened_at, detail) VALUES (:name, :since, :detail)
        ON CONFLICT (name) DO UPDATE
       SET opened_at = excluded.opened_at, detail = excluded.detail, told_at = NULL, resolved_at = NULL
     WHERE self_alerts.resolved_at IS NOT NULL
    RETURNING name
    """
).bindparams(bindparam("detail", type_=JSONB))

_RESOLVE = text(
    """
    UPDATE self_alerts SET resolved_at = greatest(:at, opened_at)
     WHERE name = :name AND resolved_at IS NULL
    RETURNING opened_at
    """
)

_TELL = text(
    """
    WITH told AS (
        INSERT INTO deliveries (uuid, route_id, target_id, kind, position, payload, due_at, created_at)
        SELECT gen_random_uuid(), r.id, t.id, 'notice', rt.position, :payload, :now, :now
          FROM routes r
          JOIN route_targets rt ON rt.route_id = r.id AND rt.level = 0
          JOIN targets t ON t.id = rt.target_id AND t.disabled_at IS NULL
         WHERE r.is_default AND r.enabled
     RETURNING id
    )
    UPDATE self_alerts SET told_at = :now WHERE name = :name AND EXISTS (SELECT FROM told)
    """
).bindparams(bindparam("payload", type_=JSONB))


def check(session: Session, *, now: datetime) -> list[str]:
    """Open or resolve what Medic has to say about itself.

    :returns: the texts of what changed.
    """
    blind = blind_intervals(session, since=now - _REACH, now=now)
    current = blind[-1] if blind and blind[-1].end >= now else None
    if current is not None:
        # Short of the patience an open alert stays open: it may be the same silence, and is told of once.
        return _open(session, current.start, now) if now - current.start > PATIENCE else []
    ended = blind[-1].end if blind else now
    opened_at = session.execute(_RESOLVE, {"name": DEAF, "at": ended}).scalar_one_or_none()
    if opened_at is None:
        return []
    lasted = format_duration(_whole(max(ended, opened_at) - opened_at))
    said = (
        f"Medic hears again. It could not hear any heartbeat for {lasted}, from {format_time(opened_at)} on; what was "
        "expected in this time is neither missed nor done."
    )
    _tell(session, said, now)
    return [said]


def _open(session: Session, since: datetime, now: datetime) -> list[str]:
    detail = {"since": format_time(since)}
    opened = session.execute(_OPEN, {"name": DEAF, "since": since, "detail": detail}).scalar_one_or_none()
    if opened is None:
        return []
    said = (
        f"Medic has not been able to hear heartbeats since {format_time(since)}. Silence opens no alert until it hears "
        "again. Is its API running, and does /health/ready say that it is ready?"
    )
    _tell(session, said, now)
    return [said]


def _tell(session: Session, said: str, now: datetime) -> None:
    session.execute(_TELL, {"payload": {"text": said}, "now": now, "name": DEAF})


def _whole(span: timedelta) -> timedelta:
    return timedelta(seconds=round(span.total_seconds()))
