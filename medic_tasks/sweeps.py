"""The sweeps of `medic.system`: services that are due, executions that are due."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from medic import broker, self_alerts
from medic import settings as settings_
from medic.db import database_now, engine, in_transaction, is_away
from medic.deliveries.due import due_targets, hint
from medic.executions.claim import LEASE
from medic.executions.dispatch import dispatch
from medic.executions.due import Reach
from medic.executions.due import sweep as sweep_executions_due
from medic.steps import load_types
from medic.sweep import Swept, sweep
from medic.telemetry import metrics
from medic.ticks import take_tick
from medic.vitals import SERVICES_TICK

log = structlog.get_logger("medic.sweeps")
app = broker.app()

REACH = Reach()
"""Of this pool process; `medic.system` has one, and its worker does nothing else."""


Sweep = Callable[[], str]


def while_away(sweep_: Sweep) -> Sweep:
    """A database that is away is one line per tick: the next tick finds what is due."""

    @functools.wraps(sweep_)
    def guarded() -> str:
        try:
            return sweep_()
        except (DBAPIError, PoolTimeout) as error:
            if isinstance(error, DBAPIError) and not is_away(error):
                raise
            log.warning("sweep.database_away", error=type(error).__name__)
            return "the database is away"

    return guarded


@app.task(name="medic.sweep.services")
@while_away
def sweep_services() -> str:
    """Judge the services that are due."""
    bind = engine()
    least = timedelta(seconds=settings_.current().worker_interval_seconds / 2)
    if not in_transaction(bind, lambda session: take_tick(session, SERVICES_TICK, at_least=least)):
        return "surplus tick"
    swept = judge(bind)
    for execution_id in swept.started:
        dispatch(bind, execution_id=execution_id, epoch=0)
    if swept.told:
        hint(in_transaction(bind, lambda session: due_targets(session, now=database_now(session))))
    return f"checked {swept.checked}, opened {swept.opened}, resolved {swept.resolved}"


def judge(bind: Engine) -> Swept:
    """One sweep of whoever took the tick, and what Medic has to say about itself; the caller dispatches."""
    began = time.monotonic()
    swept = sweep(bind)
    metrics.CYCLE_SECONDS.observe(time.monotonic() - began)
    metrics.SERVICES_CHECKED.inc(swept.checked)
    metrics.SWEEP_SET_ASIDE.inc(swept.set_aside)
    metrics.SWEEP_LAG_SECONDS.set(swept.lag.total_seconds())
    metrics.ALERTS_RESOLVED.inc(swept.resolved)
    for priority, unseen in swept.openings:
        metrics.ALERTS.labels(priority).inc()
        metrics.DETECTION_SECONDS.observe(unseen.total_seconds())
    if swept.opened or swept.resolved or swept.set_aside:
        log.info("sweep.done", checked=swept.checked, opened=swept.opened, resolved=swept.resolved,
                 set_aside=swept.set_aside, started=len(swept.started))  # fmt: skip
    for said in in_transaction(bind, lambda session: self_alerts.check(session, now=database_now(session))):
        log.warning("medic.about_itself", said=said)
    return swept


@app.task(name="medic.sweep.executions")
@while_away
def sweep_executions() -> str:
    """Look at the executions that are due."""
    bind = engine()
    began = time.monotonic()
    in_transaction(bind, database_now)
    REACH.mark(began)
    swept = sweep_executions_due(
        bind, oldest_dispatch=oldest_dispatch, judge_leases=REACH.whole_lease(began, LEASE)
    )
    if swept.taken_over:
        log.warning("executions.taken_over", count=swept.taken_over)
    return f"seen {swept.seen}, published {swept.published}, taken over {swept.taken_over}"


def oldest_dispatch(step_type: str) -> datetime | None:
    """When the execution of the oldest message in a step type's queue was last dispatched.

    Asked of the row and not of the message, so that no machine's clock is compared with the database's.
    """
    types = load_types()
    queue = types[step_type].queue if step_type in types else broker.STEPS
    try:
        with app.connection_for_read() as connection:
            # LINDEX is not among the commands that kombu puts the prefix to.
            key = settings_.current().broker_prefix + queue
            raw = connection.default_channel.client.lindex(key, -1)
    except (OperationalError, RedisError, OSError) as error:
        log.warning("sweep.broker_away", error=type(error).__name__)
        return None
    if raw is None:
        return None
    task_id = str(json.loads(raw)["headers"].get("root_id", ""))
    try:
        execution_id = UUID(task_id)
    except ValueError:
        return None

    def read(session: Session) -> datetime | None:
        return session.execute(
            text("SELECT dispatched_at FROM executions WHERE id = :id"), {"id": execution_id}
        ).scalar_one_or_none()

    return in_transaction(engine(), read)
