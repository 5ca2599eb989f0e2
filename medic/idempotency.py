"""Idempotency keys: the answer of a POST, kept in the transaction of its effect, so that a repeat gets the same.

After draft-ietf-httpapi-idempotency-key-header-07; an answer is kept for a day unless told otherwise, an error is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from medic.db import LOCK_NOT_AVAILABLE, advisory_lock, sqlstate
from medic.errors import Conflict, Invalid
from medic.models.access import IdempotencyKey

PATIENCE_S = 2.0
"""How long a repeat waits for the first request, which may be at work this very moment."""


@dataclass(frozen=True, slots=True)
class Repeatable:
    """One request under a key.

    :param principal: who asks; two callers never share a key.
    :param digest: SHA-256 of what is asked.
    """

    principal: str
    key: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer: HTTP status and JSON body."""

    status: int
    body: dict[str, Any]


def recall(session: Session, request: Repeatable, *, now: datetime) -> Kept | None:
    """The answer that this request got before; None when it is new, and then nobody else works on it.

    Holds a lock on the key until the transaction ends, so that two repeats at once have one effect.

    :raises Invalid: the key was used for another request.
    :raises Conflict: another request with this key is worked on, and was not done within `PATIENCE_S`.
    """
    try:
        advisory_lock(session, f"idempotency:{request.principal}:{request.key}", within_s=PATIENCE_S)
    except DBAPIError as error:
        if sqlstate(error) != LOCK_NOT_AVAILABLE:
            raise
        raise Conflict("Another request with this Idempotency-Key is still worked on; try again.") from None
    row = session.get(IdempotencyKey, (request.principal, request.key))
    if row is None or row.expires_at <= now:
        return None
    if row.request_digest != request.digest:
        raise Invalid.at("Idempotency-Key", "was used for another request; take a new one")
    return Kept(row.status, row.response)


def keep(session: Session, request: Repeatable, answer: Kept, *, days: int, now: datetime) -> None:
    """Keep the answer for a repeat."""
    values = {
        "request_digest": request.digest, "status": answer.status, "response": answer.body, "created_at": now,
        "expires_at": now + timedelta(days=days),
    }  # fmt: skip
    session.execute(
        upsert(IdempotencyKey)
        .values(principal=request.principal, key=request.key, **values)
        .on_conflict_do_update(index_elements=["principal", "key"], set_=values)
    )
