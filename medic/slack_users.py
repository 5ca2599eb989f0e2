"""People of Slack: which API key each of them stands for, and so what they may decide there.

A key that was replaced goes on as the one that replaced it.  One that ended, or was revoked, gives nobody anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from medic import audit
from medic.access import Caller
from medic.errors import Invalid, NotFound
from medic.models.access import ApiKey, SlackUser


@dataclass(frozen=True, slots=True)
class Principal:
    """Whom somebody of Slack stands for.

    :param names: that key as the audit log has it, with those that it replaced and that replaced it.
    """

    caller: Caller
    names: frozenset[str]


def put(
    session: Session, *, slack_id: str, key_id: str, name: str, actor: audit.Actor, now: datetime
) -> tuple[SlackUser, bool]:
    """Let somebody of Slack stand for a key; true when they stood for none.

    :raises Invalid: there is no such key.
    """
    key = session.scalars(
        select(ApiKey).where(ApiKey.id == key_id).with_for_update(key_share=True)
    ).one_or_none()
    if key is None or key.revoked_at is not None or (key.expires_at is not None and key.expires_at <= now):
        raise Invalid.at("key_id", "is no key that works")
    known = session.scalars(
        select(SlackUser).where(SlackUser.slack_id == slack_id).with_for_update()
    ).one_or_none()
    values = {"key_id": key_id, "name": name}
    user = session.scalars(
        upsert(SlackUser)
        .values(slack_id=slack_id, created_by=str(actor), created_at=now, **values)
        .on_conflict_do_update(index_elements=[SlackUser.slack_id], set_=values)
        .returning(SlackUser)
        .execution_options(populate_existing=True)
    ).one()
    audit.append(
        session, now=now, actor=actor, action="slack_user.put", object_kind="slack_user", object_id=slack_id,
        detail={"key": key_id, "name": name},
    )  # fmt: skip
    return user, known is None


def remove(session: Session, *, slack_id: str, actor: audit.Actor, now: datetime) -> None:
    """Somebody of Slack stands for no key any more.

    :raises NotFound: they did not.
    """
    gone = session.execute(
        delete(SlackUser).where(SlackUser.slack_id == slack_id).returning(SlackUser.slack_id)
    ).all()
    if not gone:
        raise NotFound(f"The Slack user {slack_id} stands for no key.")
    audit.append(
        session,
        now=now,
        actor=actor,
        action="slack_user.delete",
        object_kind="slack_user",
        object_id=slack_id,
    )


def page(session: Session, *, after: str | None, limit: int) -> list[SlackUser]:
    """By id, behind ``after``."""
    query = select(SlackUser).order_by(SlackUser.slack_id).limit(limit)
    return list(session.scalars(query.where(SlackUser.slack_id > after) if after is not None else query))


def principal(session: Session, slack_id: str, *, now: datetime) -> Principal | None:
    """Whom somebody of Slack stands for at this moment; None: nobody, or a key that works no more."""
    user = session.get(SlackUser, slack_id)
    key = session.get(ApiKey, user.key_id) if user is not None else None
    if key is None:
        return None
    names, earlier = {f"key:{key.id}"}, key.replaces
    while earlier is not None and f"key:{earlier}" not in names:
        names.add(f"key:{earlier}")
        earlier = session.scalar(select(ApiKey.replaces).where(ApiKey.id == earlier))
    newer = key
    while (
        following := session.scalars(select(ApiKey).where(ApiKey.replaces == newer.id)).one_or_none()
    ) and (f"key:{following.id}" not in names):
        names.add(f"key:{following.id}")
        newer = following
    if newer.revoked_at is not None or (newer.expires_at is not None and newer.expires_at <= now):
        return None
    patterns = tuple(newer.service_patterns) if newer.service_patterns is not None else None
    return Principal(Caller(newer.id, newer.name, frozenset(newer.scopes), patterns), frozenset(names))
