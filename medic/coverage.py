"""What is stored of Medic's own hearing: when each ingest process heard, and whom it refused.

A process records every few seconds, as the database's clock has it, on the very path of heartbeats: its record says
that a heartbeat would have been committed then.  What follows from the records: `medic.hearing`.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Connection, bindparam, select, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session
from sqlalchemy.types import BigInteger, Float, Integer, Text

from medic import hearing
from medic.evaluator import Interval
from medic.hearing import LIVE, TOLERANCE, Record
from medic.models.monitoring import Coverage
from medic.refusals import Refused

_POINT = timedelta(microseconds=1)
"""One refusal is a moment; an interval has a length."""

_RECORD = text(
    """
    WITH standing AS (
        SELECT since FROM coverage
         WHERE process = :process AND until >= now() - :tolerance AND NOT closed ORDER BY since DESC LIMIT 1
    )
    INSERT INTO coverage (process, since, until, closed)
    VALUES (:process, coalesce((SELECT since FROM standing), now()), now(), :closed)
        ON CONFLICT (process, since) DO UPDATE
       SET until = greatest(coverage.until, excluded.until), closed = excluded.closed
    """
)

# Of one service, what follows within the tolerance is one row, whichever process refused it.
_REFUSALS = text(
    """
    WITH noted AS MATERIALIZED (
        SELECT s.id AS service_id, n.kind, now() - make_interval(secs => max(n.first_s)) AS since,
               now() - make_interval(secs => min(n.last_s)) AS until, least(sum(n.count), 2147483647)::int AS count
          FROM unnest(:service_id, :name, :kind, :first_s, :last_s, :count)
            AS n (service_id, name, kind, first_s, last_s, count)
          JOIN services s ON s.id = coalesce(n.service_id, (SELECT id FROM services WHERE services.name = n.name))
         GROUP BY s.id, n.kind
    ), standing AS MATERIALIZED (
        SELECT r.id, n.service_id, n.kind, n.since, n.until, n.count
          FROM noted n
         CROSS JOIN LATERAL (
            SELECT id FROM refusals
             WHERE service_id = n.service_id AND kind = n.kind AND until >= n.since - :tolerance
             ORDER BY until DESC LIMIT 1
         ) r
    ), locked AS MATERIALIZED (
        SELECT id FROM refusals WHERE id IN (SELECT id FROM standing) ORDER BY id FOR UPDATE
    ), extended AS (
        UPDATE refusals r
           SET since = least(r.since, s.since), until = greatest(r.until, s.until),
               count = least(r.count::bigint + s.count, 2147483647)
          FROM standing s JOIN locked l ON l.id = s.id
         WHERE r.id = s.id
    )
    INSERT INTO refusals (service_id, kind, since, until, count)
    SELECT service_id, kind, since, until, count FROM noted n
     WHERE NOT EXISTS (SELECT FROM standing s WHERE s.service_id = n.service_id AND s.kind = n.kind)
    """
).bindparams(
    bindparam("service_id", type_=ARRAY(BigInteger)),
    bindparam("name", type_=ARRAY(Text)),
    bindparam("kind", type_=ARRAY(Text)),
    bindparam("first_s", type_=ARRAY(Float)),
    bindparam("last_s", type_=ARRAY(Float)),
    bindparam("count", type_=ARRAY(Integer)),
)


def record(connection: Connection, process: UUID, *, closed: bool = False) -> None:
    """This process hears now; in one statement.

    :param closed: and it stops on purpose.
    """
    connection.execute(_RECORD, {"process": process, "tolerance": TOLERANCE, "closed": closed})


def record_refusals(connection: Connection, refused: Sequence[Refused]) -> None:
    """Store whom this process refused, in one statement; a name that is nobody's leaves nothing."""
    at = time.monotonic()
    connection.execute(
        _REFUSALS,
        {
            "service_id": [one.service if isinstance(one.service, int) else None for one in refused],
            "name": [one.service if isinstance(one.service, str) else None for one in refused],
            "kind": [one.kind for one in refused],
            "first_s": [at - one.first for one in refused],
            "last_s": [at - one.last for one in refused],
            "count": [min(one.count, 2**31 - 1) for one in refused],
            "tolerance": TOLERANCE,
        },
    )


# The last record before `since` counts too: nobody may have heard from there on.
_RECORDS = text(
    """
    SELECT process, since, until, closed FROM coverage
     WHERE until >= coalesce((SELECT max(until) FROM coverage WHERE until <= :since), :since) - :live
       AND since <= :now
    """
)


def blind_intervals(session: Session, *, since: datetime, now: datetime) -> tuple[Interval, ...]:
    """When Medic could not hear, as far as it reaches behind `since`."""
    rows = session.execute(_RECORDS, {"since": since, "now": now, "live": LIVE})
    found = hearing.blind_intervals([Record(*row) for row in rows], now)
    return tuple(interval for interval in found if interval.end > since)


_REFUSED = text(
    """
    SELECT service_id, since, until FROM refusals
     WHERE service_id = ANY(:service_id) AND until >= :since AND since < :now
     ORDER BY service_id, since
    """
).bindparams(bindparam("service_id", type_=ARRAY(BigInteger)))


def refused_intervals(
    session: Session, service_ids: Collection[int], *, since: datetime, now: datetime
) -> dict[int, tuple[Interval, ...]]:
    """When heartbeats of these services were refused; only of those that had some refused."""
    found: dict[int, list[Interval]] = defaultdict(list)
    rows = session.execute(_REFUSED, {"service_id": list(service_ids), "since": since, "now": now})
    for service_id, start, until in rows:
        found[service_id].append(Interval(start, min(until + _POINT, now)))
    return {service_id: tuple(intervals) for service_id, intervals in found.items()}


def processes(session: Session, *, since: datetime, now: datetime, limit: int) -> Sequence[Coverage]:
    """The records that reach into this time, newest first."""
    query = select(Coverage).where(Coverage.until >= since, Coverage.since <= now)
    return session.scalars(query.order_by(Coverage.until.desc(), Coverage.process).limit(limit)).all()
