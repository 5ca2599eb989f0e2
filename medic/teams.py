"""Teams: who looks after services.  A team may have one ping key, which opens its services' ping URLs."""

from __future__ import annotations

import re
import secrets
import string
from datetime import datetime

from pydantic import SecretStr
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from medic import audit, documents, snapshots
from medic.crypto import api_keys
from medic.errors import Conflict, Invalid, NotFound, PreconditionFailed
from medic.models.alerting import Team

PING_KEY_LENGTH = 22
"""Characters of a key that Medic makes: 131 bits."""
PING_KEY = r"[0-9A-Za-z_-]{22,64}"
"""Those of Healthchecks too, so that a team can bring its own."""

_ALPHABET = string.ascii_letters + string.digits
_KEY = re.compile(PING_KEY)
_UUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


def put(
    session: Session, *, name: str, description: str, ping_key_creates: bool, actor: audit.Actor, now: datetime,
    if_match: int | None = None,
) -> tuple[Team, bool]:  # fmt: skip
    """Make a team, or change it; true when it was made.

    :param ping_key_creates: whether ``?create=1`` on its ping URLs makes services.
    :raises PreconditionFailed: the team is no longer at ``if_match``.
    """
    made = if_match is None and ensure(session, name, actor=actor, now=now)
    team = _locked(session, name)
    if team is None or (if_match is not None and team.version != if_match):
        raise PreconditionFailed("The team was changed since; look at it again.")
    before = documents.of_team(team)
    team.description, team.ping_key_creates = description, ping_key_creates
    if not made:
        team.version += 1
    session.flush()
    snapshots.record(
        session, now=now, actor=actor, action="team.change", object_kind="team", object_id=name, before=before,
        detail={"ping_key_creates": ping_key_creates},
    )  # fmt: skip
    return team, made


def find(session: Session, name: str) -> Team | None:
    """The team of this name."""
    return session.scalars(select(Team).where(Team.name == name)).one_or_none()


def page(session: Session, *, after: str | None, limit: int) -> list[Team]:
    """Teams by name, behind ``after``."""
    query = select(Team).order_by(Team.name).limit(limit)
    return list(session.scalars(query.where(Team.name > after) if after is not None else query))


def set_ping_key(
    session: Session,
    *,
    name: str,
    pepper: bytes,
    actor: audit.Actor,
    now: datetime,
    given: SecretStr | None = None,
) -> SecretStr:
    """Give a team another ping key; the one before ends.

    :param given: the team's own, from Healthchecks say; else Medic makes one.
    :returns: the key, which is stored nowhere.
    :raises NotFound: no such team.
    :raises Invalid: the given one is too short, or reads as something else in a URL.
    :raises Conflict: another team has it.
    """
    key = given or SecretStr("".join(secrets.choice(_ALPHABET) for _ in range(PING_KEY_LENGTH)))
    text = key.get_secret_value()
    if _KEY.fullmatch(text) is None or _UUID.fullmatch(text) is not None:
        raise Invalid.at("ping_key", "must be 22 to 64 of A-Z, a-z, 0-9, _ and -, and no UUID")
    team = _locked(session, name)
    if team is None:
        raise NotFound(f"There is no team {name}.")
    team.ping_key_digest = ping_key_digest(pepper, text)
    team.version += 1
    try:
        session.flush()
    except IntegrityError:
        raise Conflict("This ping key is taken; send another, or none.") from None
    audit.append(
        session, now=now, actor=actor, action="team.set_ping_key", object_kind="team", object_id=name
    )
    return key


def ping_key_digest(pepper: bytes, text: str) -> bytes:
    """What the row keeps of a ping key.  The prefix keeps it apart from the digests of API keys."""
    return api_keys.digest(pepper, f"ping:{text}")


def ensure(session: Session, name: str, *, actor: audit.Actor, now: datetime) -> bool:
    """Make the team if there is none; true when it was made."""
    made = session.scalar(
        insert(Team)
        .values(name=name, created_at=now)
        .on_conflict_do_nothing(index_elements=[Team.name])
        .returning(Team.id)
    )
    if made is not None:
        snapshots.record(
            session,
            now=now,
            actor=actor,
            action="team.create",
            object_kind="team",
            object_id=name,
            before=None,
        )
    return made is not None


def _locked(session: Session, name: str) -> Team | None:
    return session.scalars(select(Team).where(Team.name == name).with_for_update()).one_or_none()
