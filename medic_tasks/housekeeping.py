"""Housekeeping, on a queue of its own: partitions ahead, and what retention lets go."""

from __future__ import annotations

from datetime import timedelta

import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from medic import broker
from medic import settings as settings_
from medic.db import engine, in_transaction, sqlstate, transaction
from medic.partitions import drop_partitions, make_partitions
from medic.ticks import take_tick

log = structlog.get_logger("medic.housekeeping")
app = broker.app()

BATCH = 5_000
LOCK_NOT_AVAILABLE = "55P03"


@app.task(name="medic.housekeeping.partitions")
def partitions() -> str:
    """Make the partitions of the next days."""
    made = in_transaction(engine(), lambda session: make_partitions(session.connection()))
    return f"made {len(made)}"


@app.task(name="medic.housekeeping.retention")
def retention() -> str:
    """Drop heartbeats, their ids, and coverage that are older than they are kept."""
    bind = engine()
    if not in_transaction(bind, lambda s: take_tick(s, "retention", at_least=timedelta(minutes=30))):
        return "surplus tick"
    keep = settings_.current().heartbeat_retention_days
    try:
        with transaction(bind) as session:
            # The drop needs the parent's lock for a moment; ingest must not queue behind our wait for it.
            session.execute(text("SET LOCAL lock_timeout = '1s'"))
            dropped = len(drop_partitions(session.connection(), keep_days=keep))
    except DBAPIError as error:
        if sqlstate(error) != LOCK_NOT_AVAILABLE:
            raise
        log.info("retention.partitions_in_use")
        dropped = 0
    gone = _delete(
        "DELETE FROM heartbeat_ids WHERE ctid IN (SELECT ctid FROM heartbeat_ids"
        " WHERE received_at < now() - :age LIMIT :batch)",
        timedelta(days=keep),
    )
    _delete(
        "DELETE FROM idempotency_keys WHERE ctid IN (SELECT ctid FROM idempotency_keys"
        " WHERE expires_at < now() - :age LIMIT :batch)",
        timedelta(0),
    )
    _delete(
        "DELETE FROM coverage WHERE ctid IN (SELECT ctid FROM coverage WHERE until < now() - :age LIMIT :batch)",
        timedelta(days=keep),
    )
    return f"dropped {dropped} days, {gone} ids"


def _delete(statement: str, age: timedelta) -> int:
    """Delete in batches, one short transaction each."""
    total = 0
    while True:
        with transaction(engine()) as session:
            count = session.connection().execute(text(statement), {"age": age, "batch": BATCH}).rowcount
        total += count
        if count < BATCH:
            return total
