"""Retention: what is let go of, and when.

Each call is one bounded batch for one short transaction; the caller goes on until a batch was not full.  What
still works is never touched: an open alert with all that hangs on it, an execution that is not final, a
delivery that is pending.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session
from sqlalchemy.types import BigInteger

from medic import audit
from medic.settings import Settings

BATCH = 5_000
SERVICES = 1_000
"""Services that one call looks at."""

NEWEST_RUNS = 100
"""Of each service, these stay whatever their age: its statistics are made of them."""

COVERAGE_LONGER = 3
"""Days that coverage outlasts heartbeats: the days that are judged again need all of it."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What of a table goes by age.

    :param gone: a condition on the row ``r``, which must be older than ``:before``.
    :param batch: fewer where a row takes others with it.
    """

    table: str
    gone: str
    days: Callable[[Settings], int]
    batch: int = BATCH


RULES = (
    # A resolution goes to whom the opening went, and builds on what it gave: an open alert keeps its messages.
    Rule(
        "deliveries",
        "r.finished_at < :before AND r.state <> 'pending' AND NOT EXISTS (SELECT 1 FROM alerts a"
        " WHERE a.id = r.alert_id AND (a.resolved_at IS NULL OR a.resolved_at >= :before))",
        lambda settings: settings.delivery_retention_days,
    ),
    # With its steps, attempts and approvals.  One of an open alert says that its trigger has run for it, and a
    # playbook's last one since when its cooldown lasts.
    Rule(
        "executions",
        "r.finished_at < :before"
        " AND NOT EXISTS (SELECT 1 FROM alerts a WHERE a.id = r.alert_id AND a.resolved_at IS NULL)"
        " AND NOT EXISTS (SELECT 1 FROM triggers t WHERE t.playbook_id = r.playbook_id"
        " AND r.finished_at + make_interval(secs => t.cooldown_s) > :now)",
        lambda settings: settings.execution_retention_days,
        batch=500,
    ),
    # With its transitions, routes and deliveries.
    Rule(
        "alerts",
        "r.resolved_at < :before"
        " AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.alert_id = r.id AND d.state = 'pending')"
        " AND NOT EXISTS (SELECT 1 FROM executions e WHERE e.alert_id = r.id AND e.finished_at IS NULL)",
        lambda settings: settings.alert_retention_days,
        batch=500,
    ),
    Rule("heartbeat_ids", "r.received_at < :before", lambda settings: settings.heartbeat_retention_days),
    Rule("refusals", "r.until < :before", lambda settings: settings.heartbeat_retention_days),
    # The newest of the old ones stays: it says when the silence before the others began.
    Rule(
        "coverage",
        "r.until < (SELECT max(c.until) FROM coverage c WHERE c.until < :before)",
        lambda settings: settings.heartbeat_retention_days + COVERAGE_LONGER,
    ),
    Rule(
        "service_days", "r.day < CAST(:before AS date)", lambda settings: settings.statistics_retention_days
    ),
    Rule("snapshots", "r.at < :before", lambda settings: settings.snapshot_retention_days),
    # They carry their own end.
    Rule("idempotency_keys", "r.expires_at < :before", lambda _: 0),
)


def let_go(session: Session, rule: Rule, *, settings: Settings, now: datetime) -> int:
    """Delete a batch of what is older than it is kept; fewer rows than ``rule.batch`` mean that none are left.

    A row that somebody works on is left to the next time.
    """
    deleted = session.execute(
        text(
            f"WITH gone AS MATERIALIZED (SELECT r.ctid FROM {rule.table} r WHERE {rule.gone}"
            "  LIMIT :batch FOR UPDATE SKIP LOCKED)"
            f" DELETE FROM {rule.table} WHERE ctid = ANY(ARRAY(SELECT ctid FROM gone)) RETURNING 1"
        ),
        {"before": now - timedelta(days=rule.days(settings)), "now": now, "batch": rule.batch},
    )
    return len(deleted.all())


@dataclass(frozen=True, slots=True)
class Walked:
    """One call of a walk over services: how many rows went, and where to go on (None: it is at its end)."""

    deleted: int
    after: int | None


# Behind the newest ones of its service, and old.
_RUNS = text(
    """
    WITH near AS MATERIALIZED (
        SELECT id FROM services WHERE id > :after ORDER BY id LIMIT :services
    ), borders AS (
        SELECT near.id, (SELECT b.started_at FROM runs b WHERE b.service_id = near.id AND b.state <> 'open'
                          ORDER BY b.started_at DESC OFFSET :newest - 1 LIMIT 1) AS started_at
          FROM near
    ), gone AS MATERIALIZED (
        SELECT r.id FROM borders JOIN runs r ON r.service_id = borders.id AND r.started_at < borders.started_at
         WHERE r.state <> 'open' AND r.ended_at < :before
         LIMIT :batch FOR UPDATE OF r SKIP LOCKED
    ), deleted AS (
        DELETE FROM runs WHERE id IN (SELECT id FROM gone) RETURNING 1
    )
    SELECT (SELECT count(*) FROM deleted) AS deleted, (SELECT max(id) FROM near) AS last
    """
)


def let_go_of_runs(session: Session, *, after: int, settings: Settings, now: datetime) -> Walked:
    """Delete the old runs of the next services, but for the newest of each."""
    values = {
        "after": after, "services": SERVICES, "newest": NEWEST_RUNS, "batch": BATCH,
        "before": now - timedelta(days=settings.heartbeat_retention_days),
    }  # fmt: skip
    return _walked(session.execute(_RUNS, values).one(), after)


ORPHANED = ("heartbeat_ids", "refusals")
"""Tables without a foreign key to services, so that ingest need not look there; heartbeats go with their day."""


def let_go_of_orphans(session: Session, table: str, *, after: int) -> Walked:
    """Delete what belongs to services that are deleted, of the next ids in a table."""
    # The distinct ids, one look into the index each.
    statement = f"""
        WITH RECURSIVE ids (id) AS (
            (SELECT service_id FROM {table} WHERE service_id > :after ORDER BY service_id LIMIT 1)
            UNION ALL
            SELECT (SELECT t.service_id FROM {table} t WHERE t.service_id > ids.id ORDER BY t.service_id LIMIT 1)
              FROM ids WHERE ids.id IS NOT NULL
        ), near AS MATERIALIZED (
            SELECT id FROM ids WHERE id IS NOT NULL LIMIT :services
        ), gone AS MATERIALIZED (
            SELECT r.ctid FROM near JOIN {table} r ON r.service_id = near.id
             WHERE NOT EXISTS (SELECT 1 FROM services s WHERE s.id = near.id)
             LIMIT :batch FOR UPDATE OF r SKIP LOCKED
        ), deleted AS (
            DELETE FROM {table} WHERE ctid = ANY(ARRAY(SELECT ctid FROM gone)) RETURNING 1
        )
        SELECT (SELECT count(*) FROM deleted) AS deleted, (SELECT max(id) FROM near) AS last
    """
    row = session.execute(text(statement), {"after": after, "services": SERVICES, "batch": BATCH}).one()
    return _walked(row, after)


# A prefix of the chain: from the first link that has its entry, up to the last before one that is young.
_CHECKPOINT = text(
    """
    WITH first AS MATERIALIZED (
        SELECT s.number, s.entry_id, e.at
          FROM audit_seals s JOIN audit_entries e ON e.id = s.entry_id
         ORDER BY s.number LIMIT :batch
    )
    SELECT number, entry_id FROM first
     WHERE number < coalesce((SELECT min(number) FROM first WHERE at >= :before), number + 1)
     ORDER BY number
    """
)


def let_go_of_audit(session: Session, *, settings: Settings, now: datetime) -> int:
    """Delete a batch of the audit log's beginning, up to a checkpoint.

    Only entries that are sealed into the chain go, in its order.  The seal of the last one stays: the chain is
    verified from there on.  What was done is an audit entry itself.
    """
    values = {"batch": BATCH, "before": now - timedelta(days=settings.audit_retention_days)}
    links = session.execute(_CHECKPOINT, values).all()
    if not links:
        return 0
    checkpoint = links[-1].number
    session.execute(text("SET LOCAL medic.audit_retention = 'on'"))
    session.execute(_DELETE_ENTRIES, {"ids": [link.entry_id for link in links]})
    session.execute(text("SET LOCAL medic.audit_retention = 'off'"))
    session.execute(text("DELETE FROM audit_seals WHERE number < :checkpoint"), {"checkpoint": checkpoint})
    audit.append(
        session, now=now, actor=audit.MEDIC, action="audit.let_go", object_kind="audit_seal", object_id=checkpoint,
        detail={"entries": len(links)},
    )  # fmt: skip
    return len(links)


_DELETE_ENTRIES = text("DELETE FROM audit_entries WHERE id = ANY(:ids)").bindparams(
    bindparam("ids", type_=ARRAY(BigInteger))
)


def _walked(row: Row[Any], after: int) -> Walked:
    if row.deleted == BATCH:
        return Walked(row.deleted, after)  # there may be more of the same services
    return Walked(row.deleted, row.last)
