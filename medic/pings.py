"""Ping URLs: whose service stands behind a UUID, or behind a team's ping key and a slug."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from medic import audit, services
from medic.heartbeats import Watched
from medic.service_policy import Policy

CREATED_EVERY_S = 86_400
CREATED_GRACE_S = 3_600
"""What ``?create=1`` makes: the schedule that Healthchecks gives."""


@dataclass(frozen=True, slots=True)
class Behind:
    """A ping key's team, and its service of the slug's name; None when it has none of that name."""

    team: str
    creates: bool
    service: Watched | None


def by_uuid(session: Session, uuid: UUID) -> Watched | None:
    """The service of this UUID."""
    row = session.execute(
        text("SELECT id, name, every_s, policy_version FROM services WHERE uuid = :uuid"), {"uuid": uuid}
    ).one_or_none()
    return Watched(*row) if row is not None else None


def by_slug(session: Session, digest: bytes, slug: str) -> Behind | None:
    """The team whose ping key has this digest, with its service; None when there is no such team."""
    row = session.execute(
        text(
            "SELECT t.name, t.ping_key_creates, s.id, s.name, s.every_s, s.policy_version FROM teams t"
            "  LEFT JOIN services s ON s.team_id = t.id AND s.name = :slug WHERE t.ping_key_digest = :digest"
        ),
        {"digest": digest, "slug": slug},
    ).one_or_none()
    if row is None:
        return None
    return Behind(row[0], row[1], Watched(*row[2:]) if row[2] is not None else None)


def create(
    session: Session, *, team: str, slug: str, timezone: str, actor: audit.Actor, now: datetime
) -> None:
    """Make the team's service of this slug: once a day, with an hour's grace.

    :raises Conflict: another team has a service of this name.
    :raises Invalid: the name is reserved.
    """
    policy = Policy(every_s=CREATED_EVERY_S, grace_s=CREATED_GRACE_S, timezone=timezone, team=team)
    services.create(session, name=slug, policy=policy, actor=actor, now=now)
