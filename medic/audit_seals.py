"""Seals: the chain over the audit log, made behind the transactions that append to it.

Appending takes no lock and knows no chain; a sealer comes each second and chains what was committed.  The
chain's order is that in which commits were seen, and by id within one look: what was committed before another
entry was written stands before it.  An entry whose transaction commits late gets a later number; a transaction
that stays open holds up nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, insert, text
from sqlalchemy.orm import Session

from medic.crypto.audit_chain import GENESIS, MAX_INTEGER, Entry, Head, extend
from medic.models.access import AuditSeal

BATCH: Final = 500
LOCK: Final = "medic/audit/sealer"

# The time as text: what somebody else wrote there may be a time that Python cannot hold, as infinity.
COLUMNS: Final = (
    "e.id, to_char(e.at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US BC') AS at, e.actor_kind, e.actor,"
    " e.action, e.object_kind, e.object_id, e.source, e.request_id, e.detail"
)


@dataclass(frozen=True, slots=True)
class Horizon:
    """What a sealer knows of the last look, so that the next one need not look at the whole log.

    :param below: no entry with an id up to this one will ever want a seal again.
    :param newest: the newest id at some earlier look; every id up to it had been given away then.
    :param xmax: the first transaction that had not begun then.
    :param head: the chain's end that was left behind.
    """

    below: int = 0
    newest: int = 0
    xmax: int = 0
    head: Head = GENESIS


@dataclass(frozen=True, slots=True)
class Sealed:
    """What one call did.

    :param horizon: for the next call, once this one is committed.
    :param is_whole: the end that an earlier call left behind still stands in the chain.
    """

    count: int
    horizon: Horizon
    is_whole: bool = True


_TRY_LOCK = text("SELECT pg_try_advisory_xact_lock(hashtextextended(:name, 0))")

_LOOK = text(
    """
    SELECT head.number, head.digest,
           (SELECT coalesce(max(id), 0) FROM audit_entries) AS newest,
           pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS xmin,
           pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS xmax,
           :number = 0 OR EXISTS (SELECT 1 FROM audit_seals WHERE number = :number AND digest = :digest) AS is_whole
      FROM (SELECT 1) one
      LEFT JOIN (SELECT number, digest FROM audit_seals ORDER BY number DESC LIMIT 1) head ON true
    """
)

_UNSEALED = text(
    f"""
    SELECT {COLUMNS} FROM audit_entries e
     WHERE e.id > :below AND NOT EXISTS (
           SELECT 1 FROM audit_seals s WHERE s.entry_id = e.id AND s.entry_id > :below)
     ORDER BY e.id LIMIT :limit
    """
)


def seal(
    session: Session, key: bytes, *, now: datetime, limit: int = BATCH, horizon: Horizon | None = None
) -> Sealed | None:
    """Chain a batch of committed entries; a count of ``limit`` means that there may be more.

    :param horizon: what the call before gave; without it, the whole log is looked at.
    :returns: None when another sealer is at work.
    """
    if not session.execute(_TRY_LOCK, {"name": LOCK}).scalar_one():
        return None
    known = horizon or Horizon()
    # Behind the lock, in a statement of its own: it sees what the sealer before has committed.
    look = session.execute(_LOOK, {"number": known.head.n, "digest": known.head.digest}).one()
    is_whole = bool(look.is_whole)
    if not is_whole:
        known = Horizon()
    head = Head(look.number, bytes(look.digest)) if look.number is not None else GENESIS
    if known.below == look.newest and is_whole:
        return Sealed(0, replace(known, head=head))
    rows = session.execute(_UNSEALED, {"below": known.below, "limit": limit}).all()
    seals = []
    for row in rows:
        head = extend(key, head, form(row))
        seals.append({"number": head.n, "entry_id": row.id, "digest": head.digest, "sealed_at": now})
    if seals:
        session.execute(insert(AuditSeal), seals)
    known = replace(known, head=head)
    if len(rows) < limit:
        known = _moved(known, look)
    return Sealed(len(rows), known, is_whole)


def _moved(known: Horizon, look: Row[Any]) -> Horizon:
    """The horizon after a look that saw everything.

    A transaction takes an id, and commits it later; so ids up to the newest may still come, but only from
    transactions that had begun.  Once all of those are over, none does.
    """
    below = known.newest if look.xmin >= known.xmax else known.below
    if below == known.newest:
        return replace(known, below=below, newest=look.newest, xmax=look.xmax)
    return known


def form(row: Row[Any]) -> Entry:
    """An entry as it is chained, of a row with `COLUMNS`."""
    return {
        "id": row.id,
        "at": row.at,
        "actor_kind": row.actor_kind,
        "actor": row.actor,
        "action": row.action,
        "object_kind": row.object_kind,
        "object_id": row.object_id,
        "source": row.source,
        "request_id": row.request_id,
        "detail": _plain(row.detail),
    }


def _plain(value: Any) -> Entry:
    """What the canonical form refuses, as text under a name that no stored object can have: it holds a NUL."""
    if isinstance(value, float) or (type(value) is int and abs(value) > MAX_INTEGER):
        return {"\0number": repr(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    plain: Entry = value
    return plain


def waits_s(connection: Connection) -> float:
    """For how long the next entry has waited for its seal, in seconds; 0 when none does."""
    found = connection.execute(
        text(
            "SELECT extract(epoch FROM now() - e.at) FROM audit_entries e"
            " WHERE e.id > coalesce((SELECT max(entry_id) FROM audit_seals), 0) ORDER BY e.id LIMIT 1"
        )
    ).scalar()
    return max(0.0, float(found)) if found is not None else 0.0
