"""Deliveries that no alert asks for: a test of a target, and what Medic has to say of itself."""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import bindparam, insert, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from medic import audit
from medic.models.alerting import Delivery, Target

# The other targets of the route; if it has none, those of the default route.
_NOTICE = text(
    """
    WITH peers AS (
        SELECT DISTINCT x.target_id, x.route_id FROM route_targets x
          JOIN targets t ON t.id = x.target_id AND t.disabled_at IS NULL
          JOIN routes r ON r.id = x.route_id AND r.enabled
         WHERE x.route_id = :route_id AND x.target_id <> :target_id
    ), fallback AS (
        SELECT DISTINCT x.target_id, x.route_id FROM route_targets x
          JOIN targets t ON t.id = x.target_id AND t.disabled_at IS NULL
          JOIN routes r ON r.id = x.route_id AND r.is_default AND r.enabled
         WHERE x.target_id <> :target_id AND NOT EXISTS (SELECT 1 FROM peers)
    )
    INSERT INTO deliveries (uuid, target_id, route_id, kind, payload, due_at, created_at)
    SELECT gen_random_uuid(), target_id, route_id, 'notice', :payload, :now, :now
      FROM (SELECT * FROM peers UNION ALL SELECT * FROM fallback) told
    RETURNING target_id
    """
).bindparams(bindparam("payload", type_=JSONB))


def enqueue_test(session: Session, target: Target, actor: audit.Actor, now: datetime) -> Delivery:
    """Put a test message to this target into the outbox, also when it is switched off."""
    delivery = session.scalars(
        insert(Delivery)
        .values(
            uuid=uuid.uuid4(),
            target_id=target.id,
            kind="test",
            payload={"text": f"This is a test of the target {target.name}. Messages from Medic arrive here."},
            due_at=now,
            created_at=now,
        )
        .returning(Delivery)
    ).one()
    audit.append(
        session, now=now, actor=actor, action="target.test", object_kind="target", object_id=target.name,
        detail={"delivery": delivery.id},
    )  # fmt: skip
    return delivery


def enqueue_notice(
    session: Session, *, target: Target, route_id: int | None, text: str, now: datetime
) -> set[int]:
    """Tell the other targets of this one's route, or of the default route, something about it.

    :returns: whom.
    """
    values = {"route_id": route_id, "target_id": target.id, "payload": {"text": text}, "now": now}
    return set(session.execute(_NOTICE, values).scalars())
