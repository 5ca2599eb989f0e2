"""The outbox: what is to be told commits with what happened, and leaves afterwards.

A delivery is unique by (transition, target, level), so telling twice of one thing is one message.  What is about no
transition is told once by its name: the delivery's id is made of that and the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID, uuid5

from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Session


@dataclass(frozen=True, slots=True)
class Telling:
    """One message to one target.  ``position``: its place among the targets of the level."""

    alert_id: int
    transition_id: int
    route_id: int
    target_id: int
    kind: str
    level: int
    position: int
    payload: dict[str, Any]


class Reader(NamedTuple):
    """A target that is told something, and by which route."""

    target_id: int
    route_id: int | None = None
    level: int = 0
    position: int = 0


_NAMES = UUID("6f1c2a52-0f0c-4c0a-9d8e-3a3c64a5b7d1")
"""The name space of messages that are about no transition."""

# Whoever deletes a target at this moment is waited for: then the message is to nobody, and fails with that reason.
_TELL_ONCE = text(
    """
    WITH t AS MATERIALIZED (
        SELECT id FROM targets WHERE id = ANY(CAST(:target_id AS bigint[])) ORDER BY id FOR KEY SHARE
    ), r AS MATERIALIZED (
        SELECT id FROM routes WHERE id = ANY(CAST(:route_id AS bigint[])) ORDER BY id FOR KEY SHARE
    )
    INSERT INTO deliveries (uuid, target_id, route_id, kind, level, position, payload, due_at, created_at)
    SELECT n.uuid, t.id, r.id, 'notice', n.level, n.position, :payload, :now, :now
      FROM unnest(CAST(:uuid AS uuid[]), CAST(:target_id AS bigint[]), CAST(:route_id AS bigint[]),
                  CAST(:level AS int[]), CAST(:position AS int[]))
        AS n (uuid, target_id, route_id, level, position)
      LEFT JOIN t ON t.id = n.target_id
      LEFT JOIN r ON r.id = n.route_id
    ON CONFLICT (uuid) DO NOTHING
    RETURNING target_id
    """
).bindparams(bindparam("payload", type_=JSONB))

_TELL = text(
    """
    INSERT INTO deliveries (uuid, alert_id, transition_id, route_id, target_id, kind, level, position, payload,
                            due_at, created_at)
    SELECT gen_random_uuid(), t.alert_id, t.transition_id, t.route_id, t.target_id, t.kind, t.level, t.position,
           t.payload, :now, :now
      FROM unnest(CAST(:alert_id AS bigint[]), CAST(:transition_id AS bigint[]), CAST(:route_id AS bigint[]),
                  CAST(:target_id AS bigint[]), CAST(:kind AS text[]), CAST(:level AS int[]),
                  CAST(:position AS int[]), :payload)
        AS t (alert_id, transition_id, route_id, target_id, kind, level, position, payload)
    ON CONFLICT DO NOTHING
    """
).bindparams(bindparam("payload", type_=ARRAY(JSONB)))

_TELL_SAME = text(
    """
    INSERT INTO deliveries (uuid, alert_id, transition_id, route_id, target_id, kind, level, payload, due_at, created_at)
    SELECT gen_random_uuid(), told.alert_id, told.transition_id, told.route_id, told.target_id, :kind, told.level,
           jsonb_build_object('alert', (told.payload -> 'alert') || told.more), :now, :now
      FROM (
        SELECT DISTINCT ON (d.alert_id, d.target_id)
               d.alert_id, v.transition_id, d.route_id, d.target_id, d.level, d.payload, v.more
          FROM unnest(CAST(:alert_id AS bigint[]), CAST(:transition_id AS bigint[]), :more)
            AS v (alert_id, transition_id, more)
          JOIN deliveries d ON d.alert_id = v.alert_id
         WHERE d.target_id IS NOT NULL AND d.state IN ('pending', 'delivered')
           AND d.kind IN ('opened', 'reason_joined', 'renotified', 'escalated')
         ORDER BY d.alert_id, d.target_id, d.id DESC
      ) told
    ON CONFLICT DO NOTHING
    """
).bindparams(bindparam("more", type_=ARRAY(JSONB)))


def tell(session: Session, tellings: Sequence[Telling], *, now: datetime) -> None:
    """Put messages into the outbox; what is there already stays as it is."""
    if tellings:
        session.execute(
            _TELL,
            {
                "alert_id": [one.alert_id for one in tellings],
                "transition_id": [one.transition_id for one in tellings],
                "route_id": [one.route_id for one in tellings],
                "target_id": [one.target_id for one in tellings],
                "kind": [one.kind for one in tellings],
                "level": [one.level for one in tellings],
                "position": [one.position for one in tellings],
                "payload": [one.payload for one in tellings],
                "now": now,
            },
        )


def tell_once(
    session: Session, once: str, readers: Sequence[Reader], payload: dict[str, Any], *, now: datetime
) -> set[int]:
    """Put a notice into the outbox, unless it was put there before.

    :param once: the notice's name: to each target, one message has it.
    :param payload: with `text`.
    :returns: the targets that have something due now.
    """
    unique = {reader.target_id: reader for reader in reversed(readers)}.values()
    if not unique:
        return set()
    values = {
        "uuid": [str(uuid5(_NAMES, f"{once}/{reader.target_id}")) for reader in unique],
        "target_id": [reader.target_id for reader in unique],
        "route_id": [reader.route_id for reader in unique],
        "level": [reader.level for reader in unique],
        "position": [reader.position for reader in unique],
        "payload": payload,
        "now": now,
    }
    return {target_id for target_id in session.execute(_TELL_ONCE, values).scalars() if target_id is not None}


def tell_same(
    session: Session, kind: str, changes: Sequence[tuple[int, int, dict[str, Any]]], *, now: datetime
) -> None:
    """Tell of a change whoever was told that the alert is open, and nobody else.

    :param changes: alert, transition, and what is new about the alert.
    """
    if changes:
        session.execute(
            _TELL_SAME,
            {
                "kind": kind,
                "alert_id": [alert_id for alert_id, _, _ in changes],
                "transition_id": [transition_id for _, transition_id, _ in changes],
                "more": [more for _, _, more in changes],
                "now": now,
            },
        )
