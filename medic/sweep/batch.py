"""One batch of due services, and batch after batch until nothing is left."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog
from sqlalchemy import Engine, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from medic import evaluator
from medic.db import LOCK_NOT_AVAILABLE, database_now, in_transaction, is_lost, sqlstate
from medic.models.monitoring import Service, ServiceState
from medic.sweep.effects import settle
from medic.sweep.evidence import runs_behind, signals_behind
from medic.sweep.rows import Due, Judged, claim, policy_of, restore
from medic.sweep.silence import unheard
from medic.sweep.swept import Swept
from medic.times import format_time

BATCH = 500
SET_ASIDE = timedelta(minutes=5)
"""How far a row is pushed ahead whose verdict cannot be computed or written."""
BUSY = timedelta(seconds=5)
"""How far when it waited too long for a row that somebody else holds, as that of a child to wake."""

log = structlog.get_logger("medic.sweep")


def sweep(engine: Engine, *, batches: int = 200) -> Swept:
    """Judge whatever is due, in batches until nothing is left or ``batches`` are done."""
    total = Swept()
    for _ in range(batches):
        swept = in_transaction(engine, sweep_batch)
        total.add(swept)
        if swept.checked + swept.set_aside < BATCH:
            break
    return total


def sweep_batch(session: Session, *, now: datetime | None = None) -> Swept:
    """Judge one batch in this transaction.

    :param now: the moment of the judgement; the transaction's own if none is given.
    """
    at = now or database_now(session)
    rows = claim(session, now=at, limit=BATCH)
    if not rows:
        return Swept()
    swept = Swept(lag=at - min(row.due_at for _, row in rows if row.due_at is not None))
    dues = _restored(session, rows, swept, at)
    signals = signals_behind(session, dues)
    runs = runs_behind(session, dues, signals, now=at)
    blind = unheard(session, dues, signals, runs, now=at)
    verdicts: list[Judged] = []
    for due in dues:
        service_id = due.service.id
        try:
            verdict = evaluator.evaluate(
                due.policy, due.state, signals[service_id], runs[service_id], blind.get(service_id, ()), at
            )
        except Exception:
            log.exception("sweep.not_judged", service_id=service_id)
            _set_aside(session, service_id, swept, at)
        else:
            verdicts.append(Judged(due.service, verdict))
    _settle(session, verdicts, swept, at)
    return swept


def _restored(
    session: Session, rows: Sequence[tuple[Service, ServiceState]], swept: Swept, at: datetime
) -> list[Due]:
    dues: list[Due] = []
    for service, row in rows:
        try:
            policy = policy_of(service)
            dues.append(Due(service, row, policy, restore(policy, row)))
        except Exception:
            log.exception("sweep.not_restored", service_id=service.id)
            _set_aside(session, service.id, swept, at)
    return dues


def _settle(session: Session, verdicts: Sequence[Judged], swept: Swept, at: datetime) -> None:
    """Write all verdicts at once; if that fails, one by one, so that one cannot keep back the others."""
    if not verdicts:
        return
    try:
        with session.begin_nested():
            settled = settle(session, verdicts, now=at)
    except Exception as error:
        if isinstance(error, DBAPIError) and is_lost(error):
            raise
        if len(verdicts) == 1 and isinstance(error, DBAPIError) and sqlstate(error) == LOCK_NOT_AVAILABLE:
            log.warning("sweep.row_busy", service_id=verdicts[0].service.id)
            _push_ahead(session, verdicts[0].service.id, at + BUSY)
            return
        if len(verdicts) == 1:
            log.exception("sweep.not_written", service_id=verdicts[0].service.id)
            _set_aside(session, verdicts[0].service.id, swept, at)
            return
        for case in verdicts:
            _settle(session, [case], swept, at)
        return
    swept.add(settled)


def _push_ahead(session: Session, service_id: int, until: datetime) -> None:
    session.execute(
        update(ServiceState).where(ServiceState.service_id == service_id).values(due_at=until, quiet=False)
    )


def _set_aside(session: Session, service_id: int, swept: Swept, at: datetime) -> None:
    """One row that cannot be judged must not blind Medic to all others."""
    session.execute(
        update(ServiceState)
        .where(ServiceState.service_id == service_id)
        .values(
            due_at=at + SET_ASIDE,
            quiet=False,
            carried=ServiceState.carried.op("||")({"set_aside_at": format_time(at)}),
        )
    )
    swept.set_aside += 1
