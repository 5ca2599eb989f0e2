"""Secrets by name: sealed in the database, write-only over the API, opened right before a step acts."""

from __future__ import annotations

from datetime import datetime

from pydantic import SecretStr
from sqlalchemy import insert, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from medic import audit
from medic.crypto.key_ring import KeyRing
from medic.crypto.redaction import check_secret_value
from medic.crypto.sealing import Binding, check_canary, seal, seal_canary, unseal
from medic.db import advisory_lock
from medic.errors import Invalid, Misconfigured
from medic.models.access import Canary, Secret, SecretVersion
from medic.settings import Settings

_TABLE = "secret"


def key_ring(settings: Settings) -> KeyRing:
    """The keys that seal secrets.

    :raises Misconfigured: when MEDIC_SECRETS_KEY is unset or wrong.
    """
    if settings.secrets_key is None:
        raise Misconfigured("MEDIC_SECRETS_KEY: must be set, base64 of 32 random bytes, to use secrets.")
    return KeyRing.parse(settings.secrets_key)


def check_key(session: Session, ring: KeyRing) -> None:
    """A wrong key stops the start: what the keys before it sealed must open.

    :raises Misconfigured: when no known canary opens, or a secret is sealed by a key that is not there.
    """
    canaries = session.scalars(select(Canary).order_by(Canary.key_id)).all()
    known = [canary for canary in canaries if _holds(ring, canary.key_id)]
    if canaries and not known:
        raise Misconfigured(
            "MEDIC_SECRETS_KEY: is not the key that this database was sealed with; set the key it had."
        )
    for canary in known:
        check_canary(ring, canary.sealed)
    current = (SecretVersion.secret_id == Secret.id) & (SecretVersion.version == Secret.version)
    for key_id in session.scalars(select(SecretVersion.key_id).join(Secret, current).distinct()):
        ring.key(key_id)
    session.execute(
        upsert(Canary).values(key_id=ring.primary, sealed=seal_canary(ring)).on_conflict_do_nothing()
    )


def _holds(ring: KeyRing, key_id: str) -> bool:
    try:
        ring.key(key_id)
    except Misconfigured:
        return False
    return True


def put(
    session: Session, ring: KeyRing, *, name: str, value: SecretStr, actor: audit.Actor, now: datetime
) -> int:
    """Store a new version of a secret.

    :returns: the version.
    :raises Invalid: the value is too short to be taken out of outputs safely.
    """
    check_secret_value(value.get_secret_value())
    advisory_lock(session, f"secret:{name}")
    secret = session.scalars(select(Secret).where(Secret.name == name)).one_or_none()
    if secret is None:
        secret = session.scalars(insert(Secret).values(name=name, version=1).returning(Secret)).one()
    else:
        secret.version += 1
        secret.updated_at = now
        session.flush()
    sealed = seal(ring, value, Binding(_TABLE, str(secret.id), name, secret.version))
    session.execute(
        insert(SecretVersion).values(
            secret_id=secret.id, version=secret.version, key_id=ring.primary, sealed=sealed,
            created_by=str(actor), created_at=now,
        )
    )  # fmt: skip
    audit.append(
        session, now=now, actor=actor, action="secret.set", object_kind="secret", object_id=name,
        detail={"version": secret.version},
    )  # fmt: skip
    return secret.version


def reveal(session: Session, ring: KeyRing, name: str) -> SecretStr:
    """The newest value.

    :raises Invalid: there is no such secret.
    """
    row = session.execute(
        select(Secret.id, Secret.version, SecretVersion.sealed)
        .join(
            SecretVersion, (SecretVersion.secret_id == Secret.id) & (SecretVersion.version == Secret.version)
        )
        .where(Secret.name == name)
    ).one_or_none()
    if row is None:
        raise Invalid(f"there is no secret {name}; set it with `medic secret set {name}`")
    return unseal(ring, row.sealed, Binding(_TABLE, str(row.id), name, row.version))


def page(session: Session, *, after: str | None, limit: int) -> list[Secret]:
    """Secrets by name, without their values."""
    query = select(Secret).order_by(Secret.name).limit(limit)
    return list(session.scalars(query.where(Secret.name > after) if after else query))
