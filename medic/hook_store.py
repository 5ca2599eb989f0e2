"""The token and the secret of an inbound hook: made here, shown once, kept as digests or sealed."""

from __future__ import annotations

import contextlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime

from pydantic import SecretStr
from sqlalchemy import select
from sqlalchemy.orm import Session

from medic.crypto import api_keys
from medic.crypto.key_ring import KeyRing
from medic.crypto.sealing import Binding, Rewrapped, SealBroken, key_id, rewrap, seal, unseal
from medic.crypto.signatures import SECRET_BYTES, verify_webhook, webhook_key, webhook_secret
from medic.errors import Misconfigured
from medic.models.playbooks import Hook

TOKEN_BYTES = 24
TOKEN = r"[0-9A-Za-z_-]{32}"  # noqa: S105 - what one looks like
"""A token as it stands in a path: 192 random bits."""
BEARER_PREFIX = "mdh_"


@dataclass(frozen=True, slots=True)
class Minted:
    """What its holder needs, shown this once; and what the row keeps of it."""

    token: SecretStr
    secret: SecretStr
    token_digest: bytes
    secret_digest: bytes | None
    sealed_secret: bytes | None


@dataclass(frozen=True, slots=True)
class Proof:
    """How a caller proves that it holds the secret: the headers as they came, None where there was none."""

    bearer: str | None
    message_id: str | None
    timestamp: str | None
    signature: str | None


def mint(pepper: bytes, verification: str, ring: KeyRing | None) -> Minted:
    """A new token with a new secret.

    :param ring: the keys that seal a secret which signs; a bearer secret needs none.
    """
    token = secrets.token_urlsafe(TOKEN_BYTES)
    digest = token_digest(pepper, token)
    if verification == "bearer":
        text = BEARER_PREFIX + secrets.token_urlsafe(32)
        return Minted(SecretStr(token), SecretStr(text), digest, _secret_digest(pepper, text), None)
    assert ring is not None
    secret = webhook_secret(secrets.token_bytes(SECRET_BYTES))
    return Minted(SecretStr(token), secret, digest, None, seal(ring, secret, _binding(digest)))


def find(session: Session, pepper: bytes, token: str) -> Hook | None:
    """The hook of this token."""
    return session.scalars(select(Hook).where(Hook.token_digest == token_digest(pepper, token))).one_or_none()


def token_digest(pepper: bytes, text: str) -> bytes:
    """What the row keeps of a token.  The prefix keeps it apart from the digests of other secrets."""
    return api_keys.digest(pepper, f"hook:{text}")


def is_proven(
    hook: Hook, proof: Proof, body: bytes, *, pepper: bytes, ring: KeyRing | None, now: datetime
) -> bool:
    """Whether whoever sent this body holds the hook's secret.

    :raises SealBroken: the secret was changed or moved in the database.
    :raises Misconfigured: the key that sealed it is not there.
    """
    if hook.verification == "bearer":
        if proof.bearer is None or hook.secret_digest is None:
            return False
        return hmac.compare_digest(_secret_digest(pepper, proof.bearer), hook.secret_digest)
    if ring is None or hook.sealed_secret is None:
        return False
    secret = unseal(ring, hook.sealed_secret, _binding(hook.token_digest))
    return verify_webhook(
        [webhook_key(secret)], message_id=proof.message_id, timestamp=proof.timestamp,
        signature=proof.signature, body=body, now=now,
    )  # fmt: skip


def check_key(session: Session, ring: KeyRing) -> None:
    """A key that sealed a hook's secret and is gone stops the start.

    :raises Misconfigured: naming the key.
    """
    for name in keys_in_use(session):
        ring.key(name)


def keys_in_use(session: Session) -> set[str]:
    """The names of the keys that hooks' secrets need."""
    found = set()
    for envelope in session.scalars(select(Hook.sealed_secret).where(Hook.sealed_secret.is_not(None))):
        with contextlib.suppress(SealBroken):  # no key would open it
            found.add(key_id(envelope or b""))
    return found


def rewrap_batch(session: Session, ring: KeyRing, *, after: tuple[int, ...], limit: int) -> Rewrapped:
    """Wrap the data keys of some hooks' secrets under the primary key.

    :param after: the hook behind which to begin.
    """
    query = select(Hook).where(Hook.sealed_secret.is_not(None), *([Hook.id > after[0]] if after else []))
    hooks = session.scalars(query.order_by(Hook.id).limit(limit).with_for_update(key_share=True)).all()
    count, broken = 0, []
    for hook in hooks:
        before = hook.sealed_secret or b""
        try:
            hook.sealed_secret = rewrap(ring, before, _binding(hook.token_digest))
        except (SealBroken, Misconfigured):
            broken.append(f"hook of trigger {hook.trigger_id}")
        else:
            count += hook.sealed_secret != before
    session.flush()
    return Rewrapped(count, tuple(broken), (hooks[-1].id,) if hooks else ())


def _secret_digest(pepper: bytes, text: str) -> bytes:
    return api_keys.digest(pepper, f"hook-secret:{text}")


def _binding(digest: bytes) -> Binding:
    # A new secret comes with a new token, so its digest is the row, the name and the version of the secret.
    return Binding("hook", digest.hex(), "secret", 1)
