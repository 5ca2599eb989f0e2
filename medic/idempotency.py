"""Idempotency keys: the answer of a POST, kept in the transaction of its effect, so that a repeat gets the same.

After draft-ietf-httpapi-idempotency-key-header-07; an answer is kept for 24 hours, an error is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from medic.db import advisory_lock
from medic.errors import Invalid
from medic.models.access import IdempotencyKey

KEPT = timedelta(hours=24)


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
    """
    advisory_lock(session, f"idempotency:{request.principal}:{request.key}")
    row = session.get(IdempotencyKey, (request.principal, request.key))
    if row is None or row.expires_at <= now:
        return None
    if row.request_digest != request.digest:
        raise Invalid.at("Idempotency-Key", "was used for another request; take a new one")
    return Kept(row.status, row.response)


def keep(session: Session, request: Repeatable, answer: Kept, *, now: datetime) -> None:
    """Keep the answer for a repeat."""
    values = {
        "request_digest": request.digest, "status": answer.status, "response": answer.body, "created_at": now,
        "expires_at": now + KEPT,
    }  # fmt: skip
    session.execute(
        upsert(IdempotencyKey)
        .values(principal=request.principal, key=request.key, **values)
        .on_conflict_do_update(index_elements=["principal", "key"], set_=values)
    )
