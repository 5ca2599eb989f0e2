"""Housekeeping, on a queue of its own: partitions ahead, days rolled up, and what retention lets go.

Each task works in short transactions, one after the other, and stops when its time is over: the next tick
goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from medic import broker, coverage, statistics
from medic import retention as rules
from medic import settings as settings_
from medic.db import database_now, engine, in_transaction, is_away, sqlstate, transaction
from medic.partitions import drop_partitions, make_partitions
from medic.settings import Settings
from medic.ticks import take_tick
from medic.uptime import DAY

log = structlog.get_logger("medic.housekeeping")
app = broker.app()

LOCK_NOT_AVAILABLE = "55P03"
SURPLUS = timedelta(minutes=30)
"""Ticks come every hour; one that comes so soon behind another is surplus."""

TIME_S = 20 * 60.0
"""Well below the time after which the broker takes a message for lost and gives it to another worker."""


@app.task(name="medic.housekeeping.partitions")
def partitions() -> str:
    """Make the partitions of the next days."""
    made = in_transaction(engine(), lambda session: make_partitions(session.connection()))
    return f"made {len(made)}"


@app.task(name="medic.housekeeping.days")
def days() -> str:
    """Roll up the days that are over, for every service."""
    if not in_transaction(engine(), lambda s: take_tick(s, "days", at_least=SURPLUS)):
        return "surplus tick"
    now = in_transaction(engine(), database_now)
    return f"wrote {roll_up_days(now, keep_days=settings_.current().heartbeat_retention_days)}"


def roll_up_days(now: datetime, *, keep_days: int) -> int:
    """One transaction for each day of each batch of services; returns how many rows are new or changed."""
    bind, end = engine(), time.monotonic() + TIME_S
    since = now - (keep_days + 1) * DAY
    blind = in_transaction(bind, partial(coverage.blind_intervals, since=since, now=now))
    written = after = 0
    while time.monotonic() < end:
        service_ids = in_transaction(bind, partial(statistics.next_services, after=after))
        if not service_ids:
            return written
        after = service_ids[-1]
        for todo in in_transaction(
            bind, partial(statistics.to_roll_up, service_ids=service_ids, keep_days=keep_days, now=now)
        ):
            written += in_transaction(bind, partial(statistics.roll_up, todo=todo, blind=blind))
    log.warning("days.out_of_time", after=after)
    return written


@app.task(name="medic.housekeeping.retention")
def retention() -> str:
    """Let go of everything that is older than it is kept."""
    bind = engine()
    if not in_transaction(bind, lambda s: take_tick(s, "retention", at_least=SURPLUS)):
        return "surplus tick"
    dropped = _drop_days(settings_.current().heartbeat_retention_days)
    gone, failed = let_go(in_transaction(bind, database_now), settings_.current())
    counts = [f"{count} {what}" for what, count in gone.items() if count]
    return ", ".join([f"dropped {dropped} days", *counts, *(f"failed: {what}" for what in failed)])


def let_go(now: datetime, settings: Settings) -> tuple[dict[str, int], list[str]]:
    """Everything but the days of heartbeats.

    :returns: how many rows went, by table, and the tables that could not be cleaned: they hold up none of the others.
    """
    end = time.monotonic() + TIME_S
    parts: dict[str, Callable[[], int]] = {
        rule.table: partial(
            _in_batches, partial(rules.let_go, rule=rule, settings=settings, now=now), rule.batch, end
        )
        for rule in rules.RULES
    }
    parts["runs"] = partial(_walk, partial(rules.let_go_of_runs, settings=settings, now=now), end)
    for table in rules.ORPHANED:
        parts[f"{table} of deleted services"] = partial(
            _walk, partial(rules.let_go_of_orphans, table=table), end
        )
    parts["audit_entries"] = partial(
        _in_batches, partial(rules.let_go_of_audit, settings=settings, now=now), rules.BATCH, end
    )
    gone: dict[str, int] = {}
    failed: list[str] = []
    for what, part in parts.items():
        try:
            gone[what] = part()
        except DBAPIError as error:
            if is_away(error):
                raise
            log.exception("retention.failed", what=what, sqlstate=sqlstate(error))
            failed.append(what)
    if time.monotonic() >= end:
        log.warning("retention.out_of_time")
    return gone, failed


def _in_batches(work: Callable[[Session], int], size: int, end: float) -> int:
    """Until a batch is not full."""
    total = 0
    while time.monotonic() < end:
        count = in_transaction(engine(), work)
        total += count
        if count < size:
            break
    return total


def _walk(work: Callable[..., rules.Walked], end: float) -> int:
    """Until there is nothing to go on from."""
    total, after = 0, 0
    while time.monotonic() < end:
        walked = in_transaction(engine(), partial(work, after=after))
        total += walked.deleted
        if walked.after is None:
            break
        after = walked.after
    return total


def _drop_days(keep_days: int) -> int:
    try:
        with transaction(engine()) as session:
            # The drop needs the parent's lock for a moment; ingest must not queue behind our wait for it.
            session.execute(text("SET LOCAL lock_timeout = '1s'"))
            return len(drop_partitions(session.connection(), keep_days=keep_days))
    except DBAPIError as error:
        if sqlstate(error) != LOCK_NOT_AVAILABLE:
            raise
        log.info("retention.partitions_in_use")
        return 0
