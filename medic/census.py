"""How many there are of what, and how long it waits, read at the moment of a scrape."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Engine, func, select, text
from sqlalchemy.orm import Session

from medic.db import in_transaction
from medic.machine import FINAL_STATES
from medic.models.alerting import Alert
from medic.models.executions import Execution
from medic.models.monitoring import ServiceState
from medic.queues import Queues, Waiting
from medic.telemetry.exposition import Census, Queue

# Each finds the first row of the partial index on `due_at`.  Ages are of the database's clock alone.
_DUE = text(
    """
    SELECT extract(epoch FROM now() - (SELECT min(due_at) FROM service_states WHERE due_at <= now())) AS services,
           extract(epoch FROM now() - (SELECT min(due_at) FROM executions WHERE due_at <= now())) AS executions,
           extract(epoch FROM now() - (SELECT min(due_at) FROM deliveries
                                        WHERE due_at <= now() AND carried_by IS NULL)) AS deliveries
    """
)

_JOBS = text("SELECT job, extract(epoch FROM now() - last_at) AS age FROM ticks")

_DISPATCHED = text(
    "SELECT id, extract(epoch FROM now() - dispatched_at) AS age FROM executions"
    " WHERE id = ANY(CAST(:ids AS uuid[])) AND dispatched_at IS NOT NULL"
)

_STOPPED = text("SELECT EXISTS (SELECT FROM stops WHERE resumed_at IS NULL)")


def census(bind: Engine, queues: Queues | None) -> Census:
    """Ask the broker, then, in one transaction, the database."""
    waiting = queues.look() if queues is not None else {}
    return in_transaction(bind, lambda session: _count(session, waiting))


def _count(session: Session, waiting: Mapping[str, Waiting]) -> Census:
    by_status = select(ServiceState.status, func.count()).group_by(ServiceState.status)
    active = select(func.count()).select_from(Alert).where(Alert.resolved_at.is_(None))
    by_state = (
        select(Execution.state, func.count())
        .where(Execution.state.not_in(FINAL_STATES))
        .group_by(Execution.state)
    )
    due = session.execute(_DUE).mappings().one()
    oldest = [found.oldest for found in waiting.values() if found.oldest is not None]
    ages = {row.id: float(row.age) for row in session.execute(_DISPATCHED, {"ids": oldest})} if oldest else {}
    return Census(
        services=dict(session.execute(by_status).all()),
        alerts_active=session.scalar(active) or 0,
        executions=dict(session.execute(by_state).all()),
        overdue={what: max(0.0, float(age or 0.0)) for what, age in due.items()},
        jobs={row.job: max(0.0, float(row.age)) for row in session.execute(_JOBS)},
        stopped=bool(session.scalar(_STOPPED)),
        queues={
            name: Queue(found.depth, max(0.0, ages[found.oldest]) if found.oldest in ages else None)
            for name, found in waiting.items()
        },
    )
