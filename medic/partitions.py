"""Daily partitions of ``heartbeats``: made ahead, dropped by age.

A day's partition is ``heartbeats_pYYYYMMDD``, bounded by UTC midnights.  Nothing is inserted into a
default partition: a missing one is an error that ingest reports, not rows that nobody can drop.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import Connection, text

DAYS_AHEAD = 14
LEAST_AHEAD = 2
_NAME = re.compile(r"heartbeats_p(\d{4})(\d\d)(\d\d)")


def partition_days(connection: Connection) -> list[date]:
    """The days that have a partition, oldest first."""
    names = connection.execute(
        text("SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
             " WHERE i.inhparent = 'heartbeats'::regclass")
    ).scalars()  # fmt: skip
    found = (_NAME.fullmatch(name) for name in names)
    return sorted(date(*(int(part) for part in match.groups())) for match in found if match)


def today(connection: Connection) -> date:
    now: datetime = connection.execute(text("SELECT now()")).scalar_one()
    return now.astimezone(UTC).date()


def days_ahead(connection: Connection) -> int:
    """How many days in a row from tomorrow on have a partition; -1 when today has none."""
    days, day = set(partition_days(connection)), today(connection)
    ahead = -1
    while day in days:
        ahead += 1
        day += timedelta(days=1)
    return ahead


def make_partitions(connection: Connection, *, ahead: int = DAYS_AHEAD) -> list[date]:
    """Make yesterday's (a transaction may begin before midnight), today's and the next ``ahead`` days'."""
    made = []
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended('partitions', 0))"))
    start = today(connection)
    have = set(partition_days(connection))
    for offset in range(-1, ahead + 1):
        day = start + timedelta(days=offset)
        if day in have:
            continue
        name = f"heartbeats_p{day:%Y%m%d}"
        # Making it apart and attaching it needs only a SHARE UPDATE EXCLUSIVE lock on the parent, so
        # that heartbeats go on; CREATE … PARTITION OF would wait for every running insert.
        connection.execute(
            text(
                f"CREATE TABLE IF NOT EXISTS {name} (LIKE heartbeats INCLUDING DEFAULTS INCLUDING CONSTRAINTS)"
            )
        )
        connection.execute(
            text(f"ALTER TABLE heartbeats ATTACH PARTITION {name}"
                 f" FOR VALUES FROM ('{day} 00:00+00') TO ('{day + timedelta(days=1)} 00:00+00')")
        )  # fmt: skip
        made.append(day)
    return made


def drop_partitions(connection: Connection, *, keep_days: int) -> list[date]:
    """Drop the days that are older than ``keep_days`` whole days.

    Takes the parent's exclusive lock for a moment; with the caller's lock timeout it gives up rather
    than queue ingest behind a long reader.
    """
    oldest = today(connection) - timedelta(days=keep_days)
    dropped = [day for day in partition_days(connection) if day < oldest]
    for day in dropped:
        connection.execute(text(f"DROP TABLE heartbeats_p{day:%Y%m%d}"))
    return dropped
