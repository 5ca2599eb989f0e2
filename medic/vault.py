"""Secrets by name: sealed in the database, write-only over the API, opened right before a step acts."""

from __future__ import annotations

from datetime import datetime

from pydantic import SecretStr
from sqlalchemy import delete, insert, select, tuple_
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from medic import audit
from medic.crypto.key_ring import KeyRing
from medic.crypto.redaction import check_secret_value
from medic.crypto.sealing import (
    Binding,
    Rewrapped,
    SealBroken,
    check_canary,
    rewrap,
    seal,
    seal_canary,
    unseal,
)
from medic.db import advisory_lock
from medic.errors import Invalid, Misconfigured, PreconditionFailed
from medic.models.access import Canary, Secret, SecretVersion
from medic.settings import Settings

_TABLE = "secret"
_CURRENT = (SecretVersion.secret_id == Secret.id) & (SecretVersion.version == Secret.version)


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
    for key_id in keys_in_use(session):
        ring.key(key_id)
    session.execute(
        upsert(Canary).values(key_id=ring.primary, sealed=seal_canary(ring)).on_conflict_do_nothing()
    )


def keys_in_use(session: Session) -> set[str]:
    """The names of the keys that the newest values need."""
    return set(session.scalars(select(SecretVersion.key_id).join(Secret, _CURRENT).distinct()))


def forget_keys(session: Session, keep: set[str]) -> None:
    """Forget the keys that open nothing any more, so that a process that still has only one of them does not start."""
    session.execute(delete(Canary).where(Canary.key_id.not_in(keep)))


def rewrap_batch(session: Session, ring: KeyRing, *, after: tuple[int, ...], limit: int) -> Rewrapped:
    """Wrap the data keys of some values, older versions too, under the primary key.

    :param after: the secret and version behind which to begin.
    """
    place = tuple_(SecretVersion.secret_id, SecretVersion.version)
    query = (
        select(SecretVersion, Secret)
        .join(Secret, Secret.id == SecretVersion.secret_id)
        .where(SecretVersion.key_id != ring.primary, *([place > after] if after else []))
        .order_by(SecretVersion.secret_id, SecretVersion.version)
        .limit(limit)
        .with_for_update(of=SecretVersion, key_share=True)
    )
    count, broken = 0, []
    last: tuple[int, ...] = ()
    for row, secret in session.execute(query):
        last = (row.secret_id, row.version)
        try:
            row.sealed = rewrap(ring, row.sealed, Binding(_TABLE, str(secret.id), secret.name, row.version))
        except (SealBroken, Misconfigured):
            # An older value is no use to anyone; that its key is gone is no fault.
            if row.version == secret.version:
                broken.append(f"secret {secret.name}")
        else:
            row.key_id = ring.primary
            count += 1
    session.flush()
    return Rewrapped(count, tuple(broken), last)


def _holds(ring: KeyRing, key_id: str) -> bool:
    try:
        ring.key(key_id)
    except Misconfigured:
        return False
    return True


def put(
    session: Session, ring: KeyRing, *, name: str, value: SecretStr, actor: audit.Actor, now: datetime,
    must_exist: bool = False,
) -> int:  # fmt: skip
    """Store a new version of a secret.

    :param must_exist: make no new secret.
    :returns: the version.
    :raises Invalid: the value is too short to be taken out of outputs safely.
    :raises PreconditionFailed: there is no such secret, and there must be.
    """
    check_secret_value(value.get_secret_value())
    advisory_lock(session, f"secret:{name}")
    secret = session.scalars(select(Secret).where(Secret.name == name)).one_or_none()
    if secret is None and must_exist:
        raise PreconditionFailed(f"There is no secret {name}.")
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
        .join(SecretVersion, _CURRENT)
        .where(Secret.name == name)
    ).one_or_none()
    if row is None:
        raise Invalid(f"there is no secret {name}; set it with `medic secret set {name}`")
    return unseal(ring, row.sealed, Binding(_TABLE, str(row.id), name, row.version))


def page(session: Session, *, after: str | None, limit: int) -> list[Secret]:
    """Secrets by name, without their values."""
    query = select(Secret).order_by(Secret.name).limit(limit)
    return list(session.scalars(query.where(Secret.name > after) if after else query))
