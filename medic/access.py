"""API keys: who calls, and what they may do.

The row is found by the key's public id, and the digest compared in constant time on each request; a
cache of at most five seconds holds rows, never verdicts, so a revocation takes effect within that time, and at
once for a key that may administer or approve.
"""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import SecretStr
from sqlalchemy import Engine, insert, or_, select
from sqlalchemy.orm import Session

from medic import audit, last_use
from medic.crypto import api_keys
from medic.db import advisory_lock, database_now, in_transaction, make_engine
from medic.errors import Conflict, Forbidden, Invalid, NotFound, Unauthenticated
from medic.last_use import LastUse
from medic.models.access import ApiKey
from medic.playbook.glob import matches
from medic.times import format_time

SCOPES: dict[str, str] = {
    "admin": "everything",
    "heartbeats:write": "send heartbeats",
    "services:read": "see services, heartbeats, runs, alerts, targets and routes",
    "services:write": "make, change and delete services",
    "alerts:write": "acknowledge and resolve alerts, mute services, plan maintenance windows",
    "targets:write": "make, change, test and delete targets, routes and calendars",
    "playbooks:read": "see playbooks, scripts, executions, approvals and the stop switch",
    "playbooks:write": "make, change and delete playbooks",
    "executions:run": "start, cancel and settle executions, and use the stop switch",
    "approvals:decide": "approve and reject",
    "scripts:write": "register scripts",
    "audit:read": "see and export the audit log, and see the configuration's history",
    "metrics:read": "read /metrics",
}
_PATTERN = re.compile(r"[a-z0-9._*?-]{1,128}", re.ASCII)
_NEVER = datetime.max.replace(tzinfo=UTC)
POWERFUL = frozenset({"admin", "approvals:decide"})
"""A key with one of these is read anew at each request, but for heartbeats."""
CACHE_SECONDS = 5.0
CACHE_SIZE = 10_000
MAX_OVERLAP = timedelta(days=30)


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


@dataclass(slots=True)
class _Held:
    """A key's row as it was read: what it says is compared and judged anew at each request."""

    read_at: float
    caller: Caller
    digest: bytes
    expires_at: datetime | None
    is_revoked: bool
    use_is_due: bool


class Keyring:
    """Authenticates keys against the database, with a short cache of rows."""

    def __init__(self, engine: Engine, pepper: bytes, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._pepper = pepper
        self._clock = clock
        self._held: dict[str, _Held] = {}
        self._lock = threading.Lock()
        self._last_use = LastUse(engine)

    def authenticate(self, text: str | None, *, now: datetime | None = None, anew: bool = False) -> Caller:
        """The caller behind a key.

        :param anew: the row of a powerful key is not taken from the cache.
        :param now: the time at which an expiry is judged; this moment if none is given.
        :raises Unauthenticated: with one text for every cause.
        """
        if not text:
            raise _refusal()
        held = self._held.get(text[api_keys.ID_PLACE])
        # The digest is of the whole text, so what has a row needs no look at shape and checksum.
        if (
            held is None
            or self._clock() - held.read_at >= CACHE_SECONDS
            or (anew and not POWERFUL.isdisjoint(held.caller.scopes))
        ):
            key_id = api_keys.parse(text)
            if key_id is None:
                raise _refusal()
            held = self._read(key_id)
        genuine = api_keys.matches(self._pepper, text, held.digest if held is not None else None)
        if held is None or not genuine or held.is_revoked:
            raise _refusal()
        if held.expires_at is not None and held.expires_at <= (now or datetime.now(UTC)):
            raise _refusal()
        if held.use_is_due:
            held.use_is_due = False
            self._last_use.note(held.caller.key_id)
        return held.caller

    def forget(self, key_id: str) -> None:
        """Read the key's row anew at its next use; other processes do within `CACHE_SECONDS`."""
        with self._lock:
            self._held.pop(key_id, None)

    def _read(self, key_id: str) -> _Held | None:
        at = self._clock()
        query = select(
            ApiKey.id, ApiKey.name, ApiKey.scopes, ApiKey.service_patterns, ApiKey.digest, ApiKey.expires_at,
            ApiKey.revoked_at, last_use.is_due().label("use_is_due"),
        ).where(ApiKey.id == key_id)  # fmt: skip
        row = in_transaction(self._engine, lambda session: session.execute(query).one_or_none())
        if row is None:
            self.forget(key_id)  # an unknown id is never remembered
            return None
        patterns = tuple(row.service_patterns) if row.service_patterns is not None else None
        held = _Held(
            read_at=at,
            caller=Caller(row.id, row.name, frozenset(row.scopes), patterns),
            digest=row.digest,
            expires_at=row.expires_at,
            is_revoked=row.revoked_at is not None,
            use_is_due=row.use_is_due,
        )
        with self._lock:
            if len(self._held) >= CACHE_SIZE:
                self._held.clear()
            self._held[key_id] = held
        return held


def _refusal() -> Unauthenticated:
    return Unauthenticated("A valid API key is needed: Authorization: Bearer mdk_…")


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
    if any(_PATTERN.fullmatch(pattern) is None for pattern in service_patterns or ()):
        raise Invalid.at(
            "service_patterns", "are names of services, with * and ? for any text and any character"
        )
    return _make(
        session, name=name, scopes=sorted(set(scopes)), pepper=pepper, actor=actor, now=now,
        service_patterns=service_patterns, expires_at=expires_at, replaces=None,
    )  # fmt: skip


def _make(
    session: Session, *, name: str, scopes: list[str], pepper: bytes, actor: audit.Actor, now: datetime,
    service_patterns: list[str] | None, expires_at: datetime | None, replaces: str | None,
) -> tuple[str, SecretStr]:  # fmt: skip
    if expires_at is not None and expires_at <= now:
        raise Invalid.at("expires_at", "is in the past")
    minted = api_keys.mint(random=secrets.token_bytes(api_keys.RANDOM_BYTES))
    session.execute(
        insert(ApiKey).values(
            id=minted.public_id,
            name=name,
            digest=api_keys.digest(pepper, minted.text.get_secret_value()),
            scopes=scopes,
            service_patterns=service_patterns,
            created_by=str(actor),
            created_at=now,
            expires_at=expires_at,
            replaces=replaces,
        )
    )
    detail: dict[str, Any] = {"name": name, "scopes": scopes}
    if service_patterns is not None:
        detail["service_patterns"] = service_patterns
    if replaces is not None:
        detail["replaces"] = replaces
    audit.append(
        session, now=now, actor=actor, action="key.create", object_kind="key", object_id=minted.public_id,
        detail=detail,
    )  # fmt: skip
    return minted.public_id, minted.text


@dataclass(frozen=True, slots=True)
class Rotated:
    """A key's successor, and when the key itself ends."""

    key_id: str
    text: SecretStr
    old_ends_at: datetime


def rotate(
    session: Session, *, key_id: str, overlap: timedelta, pepper: bytes, actor: audit.Actor, now: datetime,
    expires_at: datetime | None = None,
) -> Rotated:  # fmt: skip
    """Make a key that may do the same, and end the old one after an overlap, or sooner if it would.

    :param overlap: how long both work; none ends the old one at once.
    :param expires_at: the new key's end; without one it lasts as long as the old one was made for.
    :raises NotFound: no such key.
    :raises Conflict: it has a successor, or is revoked or expired.
    """
    row = session.get(ApiKey, key_id, with_for_update=True)
    if row is None:
        raise NotFound(f"There is no key {key_id}.")
    successor = session.scalar(select(ApiKey.id).where(ApiKey.replaces == key_id))
    if successor is not None:
        raise Conflict(f"The key {key_id} was rotated before: {successor} is its successor.")
    if row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= now):
        raise Conflict(f"The key {key_id} has ended; make a new one.")
    if expires_at is None and row.expires_at is not None:
        expires_at = now + min(row.expires_at - row.created_at, _NEVER - now)
    new_id, text = _make(
        session, name=row.name, scopes=row.scopes, pepper=pepper, actor=actor, now=now,
        service_patterns=row.service_patterns, expires_at=expires_at, replaces=key_id,
    )  # fmt: skip
    ends = min(now + overlap, row.expires_at or _NEVER)
    row.expires_at = ends
    audit.append(
        session, now=now, actor=actor, action="key.rotate", object_kind="key", object_id=key_id,
        detail={"successor": new_id, "ends_at": format_time(ends)},
    )  # fmt: skip
    return Rotated(new_id, text, ends)


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
    # A narrowed key makes no others, whatever its scopes.
    if (
        "admin" in row.scopes
        and row.service_patterns is None
        and not session.scalar(
            select(ApiKey.id)
            .where(
                ApiKey.id != key_id,
                ApiKey.scopes.contains(["admin"]),
                ApiKey.service_patterns.is_(None),
                ApiKey.revoked_at.is_(None),
                or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > now),
            )
            .limit(1)
        )
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
