"""API keys: who calls, and what they may do.

The row is found by the key's public id, and the digest compared in constant time on each request; a
cache of at most five seconds holds rows, never verdicts, so a revocation takes effect within that time.
"""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from pydantic import SecretStr
from sqlalchemy import Engine, insert, or_, select
from sqlalchemy.orm import Session

from medic import audit
from medic.crypto import api_keys
from medic.db import advisory_lock, database_now, in_transaction, make_engine
from medic.errors import Conflict, Forbidden, Invalid, NotFound, Unauthenticated
from medic.models.access import ApiKey
from medic.playbook.glob import matches

SCOPES: dict[str, str] = {
    "admin": "everything",
    "heartbeats:write": "send heartbeats",
    "services:read": "see services, heartbeats, runs and alerts",
    "services:write": "make, change and delete services",
    "alerts:write": "acknowledge and resolve alerts",
    "playbooks:read": "see playbooks, executions and their results",
    "playbooks:write": "make and change playbooks and triggers",
    "executions:run": "start, cancel and settle executions, and use the stop switch",
    "approvals:decide": "approve and reject",
    "scripts:write": "register scripts",
    "metrics:read": "read /metrics",
}
_PATTERN = re.compile(r"[a-z0-9._*?-]{1,128}", re.ASCII)
CACHE_SECONDS = 5.0
CACHE_SIZE = 10_000


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated API key."""

    key_id: str
    name: str
    scopes: frozenset[str]
    service_patterns: tuple[str, ...] | None

    def need(self, scope: str) -> None:
        """Go on only with the scope.

        :raises Forbidden: naming the scope that is missing.
        """
        if scope not in self.scopes and "admin" not in self.scopes:
            raise Forbidden(f"This key lacks the scope {scope}.")

    def may_touch(self, service: str) -> bool:
        """Whether the key is for this service."""
        return self.service_patterns is None or any(
            matches(pattern, service) for pattern in self.service_patterns
        )


class Keyring:
    """Authenticates keys against the database, with a short cache of rows."""

    def __init__(self, engine: Engine, pepper: bytes, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._pepper = pepper
        self._clock = clock
        self._rows: dict[str, tuple[float, ApiKey]] = {}
        self._lock = threading.Lock()

    def authenticate(self, text: str | None, *, now: datetime | None = None) -> Caller:
        """The caller behind a key.

        :param now: the time at which an expiry is judged; the row's reading time if none is given.
        :raises Unauthenticated: with one text for every cause.
        """
        key_id = api_keys.parse(text) if text else None
        if text is None or key_id is None:
            raise Unauthenticated("A valid API key is needed: Authorization: Bearer mdk_…")
        row = self._row(key_id)
        genuine = api_keys.matches(self._pepper, text, row.digest if row else None)
        if row is None or not genuine or row.revoked_at is not None or self._is_expired(row, now):
            raise Unauthenticated("A valid API key is needed: Authorization: Bearer mdk_…")
        patterns = tuple(row.service_patterns) if row.service_patterns is not None else None
        return Caller(row.id, row.name, frozenset(row.scopes), patterns)

    def forget(self, key_id: str) -> None:
        """Read the key's row anew at its next use; other processes do within `CACHE_SECONDS`."""
        with self._lock:
            self._rows.pop(key_id, None)

    @staticmethod
    def _is_expired(row: ApiKey, now: datetime | None) -> bool:
        return row.expires_at is not None and row.expires_at <= (now or datetime.now(row.expires_at.tzinfo))

    def _row(self, key_id: str) -> ApiKey | None:
        at = self._clock()
        held = self._rows.get(key_id)
        if held is not None and at - held[0] < CACHE_SECONDS:
            return held[1]
        row = in_transaction(self._engine, lambda session: session.get(ApiKey, key_id))
        with self._lock:
            if row is None:
                self._rows.pop(key_id, None)  # an unknown id is never remembered
            else:
                if len(self._rows) >= CACHE_SIZE:
                    self._rows.clear()
                self._rows[key_id] = (at, row)
        return row


def create_key(
    session: Session, *, name: str, scopes: list[str], pepper: bytes, actor: audit.Actor, now: datetime,
    service_patterns: list[str] | None = None, expires_at: datetime | None = None,
) -> tuple[str, SecretStr]:  # fmt: skip
    """Make a key.

    :returns: its public id, and its text, which is shown this once and stored nowhere.
    :raises Invalid: an unknown scope, an end in the past, or a pattern that no name can match.
    """
    unknown = sorted(set(scopes) - SCOPES.keys())
    if unknown or not scopes:
        raise Invalid.at("scopes", f"must be some of: {', '.join(SCOPES)}")
    if expires_at is not None and expires_at <= now:
        raise Invalid.at("expires_at", "is in the past")
    if any(_PATTERN.fullmatch(pattern) is None for pattern in service_patterns or ()):
        raise Invalid.at(
            "service_patterns", "are names of services, with * and ? for any text and any character"
        )
    minted = api_keys.mint(random=secrets.token_bytes(api_keys.RANDOM_BYTES))
    session.execute(
        insert(ApiKey).values(
            id=minted.public_id,
            name=name,
            digest=api_keys.digest(pepper, minted.text.get_secret_value()),
            scopes=sorted(set(scopes)),
            service_patterns=service_patterns,
            created_by=str(actor),
            created_at=now,
            expires_at=expires_at,
        )
    )
    audit.append(
        session, now=now, actor=actor, action="key.create", object_kind="key", object_id=minted.public_id,
        detail={"name": name, "scopes": sorted(set(scopes))},
    )  # fmt: skip
    return minted.public_id, minted.text


def revoke(session: Session, *, key_id: str, actor: audit.Actor, now: datetime) -> ApiKey:
    """End a key, everywhere within `CACHE_SECONDS`; a second time changes nothing.

    :raises NotFound: no such key.
    :raises Conflict: it is the last one that may make others.
    """
    advisory_lock(session, "revoke-key")
    row = session.get(ApiKey, key_id, with_for_update=True)
    if row is None:
        raise NotFound(f"There is no key {key_id}.")
    if row.revoked_at is not None:
        return row
    if "admin" in row.scopes and not session.scalar(
        select(ApiKey.id)
        .where(
            ApiKey.id != key_id,
            ApiKey.scopes.contains(["admin"]),
            ApiKey.revoked_at.is_(None),
            or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > now),
        )
        .limit(1)
    ):
        raise Conflict("This is the last key with the scope admin; make another one first.")
    row.revoked_at = now
    audit.append(session, now=now, actor=actor, action="key.revoke", object_kind="key", object_id=key_id)
    return row


def page(session: Session, *, after: str | None, limit: int) -> list[ApiKey]:
    """Keys by their public id, the revoked ones too."""
    query = select(ApiKey).order_by(ApiKey.id).limit(limit)
    return list(session.scalars(query.where(ApiKey.id > after) if after else query))


def first_admin_key(database_url: str, pepper: bytes) -> str | None:
    """Make the first key of an empty installation; nothing when there is one."""
    engine = make_engine(database_url, component="medic-setup")

    def make(session: Session) -> SecretStr | None:
        advisory_lock(session, "first-admin-key")
        if session.scalar(select(ApiKey.id).limit(1)) is not None:
            return None
        actor = audit.Actor("shell", "first-start")
        return create_key(
            session, name="admin", scopes=["admin"], pepper=pepper, actor=actor, now=database_now(session)
        )[1]

    try:
        key = in_transaction(engine, make)
    finally:
        engine.dispose()
    return key.get_secret_value() if key else None
