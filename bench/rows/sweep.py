"""The sweep: what it costs when nothing is due among very many, and when very much is due at once."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import func, select, text, update

from bench import bare_alerts, fill
from bench.result import Finding, Measured, Row
from bench.stage import Database, Stage
from medic import heartbeats
from medic.db import in_transaction, transaction
from medic.heartbeats import Signal, Watched
from medic.models.monitoring import Service, ServiceState
from medic.sweep import sweep
from medic.times import format_time, parse_time

MANY = 1_000_000
FEW = 1_000
OVERDUE = 10_000
BATCH = 1_000
CLAIM = 500
SWEEPS = 15
AHEAD = timedelta(seconds=10)
"""How long before its deadline a heartbeat comes; so much later all old deadlines have passed."""
_TIME = re.compile(r"\d{4}-\d\d-\d\dT")


@dataclass(frozen=True, slots=True)
class Beside:
    """Milliseconds of single sweeps while the snapshot is open still, which it is for so many seconds."""

    sweeps: list[float]
    open_for: float


@dataclass(frozen=True, slots=True)
class Idle:
    """Milliseconds of single sweeps of many and of few services, in turn, once the snapshots are gone."""

    many: list[float]
    few: list[float]
    beside: Beside


@dataclass(frozen=True, slots=True)
class Overdue:
    """Milliseconds by round: Medic's sweep, the bare claim, and the bare claim with the rows that follow."""

    medic: list[float]
    claim: list[float]
    written: list[float]
    count: int


def idle(stage: Stage) -> Finding:
    found = _idle(stage)
    note = f"snapshot open for {found.beside.open_for:.0f} s; the first sweep after it {found.many[0]:.1f} ms"
    return Measured(found.many, found.few, note=note)


def idle_ms(stage: Stage) -> Finding:
    return Measured(_idle(stage).many)


def idle_beside(stage: Stage) -> Finding:
    return Measured(_idle(stage).beside.sweeps)


def overdue(stage: Stage) -> Finding:
    found = _overdue(stage)
    return Measured(found.medic, found.claim, note=f"{found.count:,} alerts and as many deliveries a round")


def overdue_written(stage: Stage) -> Finding:
    found = _overdue(stage)
    return Measured(found.medic, found.written)


def _overdue(stage: Stage) -> Overdue:
    kept = stage.keep.get("overdue")
    if isinstance(kept, Overdue):
        return kept
    _idle(stage)  # the other services are there, and their dead rows
    database, rounds = stage.database("sweep_many"), stage.effort.rounds
    count = stage.effort.count(OVERDUE, least=CLAIM)
    _fall_silent(database, count * rounds)
    _tell_one_target(database)
    ids = [service.id for service in fill.watched(database, "o-")]
    bystanders = [service.id for service in fill.watched(database, "s-")[: count * (rounds + 1)]]
    found = Overdue([], [], [], count)
    for number in range(rounds):
        _make_due(database, bystanders[-count:])
        found.claim.append(_timed(lambda: _claim_all(database)))
        _make_due(database, ids[number * count : (number + 1) * count])
        found.medic.append(_timed(lambda: sweep(database.engine)))
        _opened(database, count * (2 * number + 1))
        _make_due(database, bystanders[number * count : (number + 1) * count])
        found.written.append(_timed(lambda: bare_alerts.write_all(database, template=ids[0], batch=CLAIM)))
        _opened(database, count * (2 * number + 2))
    stage.keep["overdue"] = found
    return found


def _opened(database: Database, count: int) -> None:
    """Each of them must have its alert and its delivery, or the time says nothing."""
    alerts = database.one("SELECT count(*) FROM alerts WHERE resolved_at IS NULL")
    told = database.one("SELECT count(*) FROM deliveries WHERE kind = 'opened'")
    if (alerts, told) != (count, count):
        raise RuntimeError(
            f"{alerts} alerts and {told} deliveries, not {count} each: this is no measurement."
        )


def _idle(stage: Stage) -> Idle:
    kept = stage.keep.get("idle")
    if isinstance(kept, Idle):
        return kept
    few, many = stage.database("sweep_few"), stage.database("sweep_many")
    _beat_beside_a_snapshot(few, FEW)
    beside = _beat_beside_a_snapshot(many, stage.effort.count(MANY, least=FEW))
    found = Idle([], [], beside)
    for _ in range(SWEEPS):
        found.few.append(_timed(lambda: sweep(few.engine)))
        found.many.append(_timed(lambda: sweep(many.engine)))
    stage.keep["idle"] = found
    return found


def _beat_beside_a_snapshot(database: Database, count: int) -> Beside:
    fill.services(database, "s-", count, due=fill.FAR)
    services = fill.watched(database, "s-")
    with _snapshot(database) as opened:
        _beat(database, services, ahead=AHEAD)
        # Every old entry of the index then lies in the range that the sweep reads.
        time.sleep(AHEAD.total_seconds() + 1)
        _sweep_what_was_too_late(database)
        sweeps = [_timed(lambda: sweep(database.engine)) for _ in range(SWEEPS)]
        return Beside(sweeps, time.monotonic() - opened)


@contextmanager
def _snapshot(database: Database) -> Iterator[float]:
    """A transaction that looked once and stays open; gives the time of its start."""
    with database.engine.connect() as connection:
        connection.execute(text("SET idle_in_transaction_session_timeout = 0"))
        connection.commit()
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        connection.execute(text("SELECT count(*) FROM services WHERE id = 1"))
        yield time.monotonic()
        connection.rollback()
        connection.invalidate()


def _beat(database: Database, services: list[Watched], *, ahead: timedelta | None = None) -> None:
    """A heartbeat of each, by the statement of ingest.

    :param ahead: each comes so long before its deadline; None leaves the deadlines as they are.
    """
    for at in range(0, len(services), BATCH):
        chunk = services[at : at + BATCH]
        if ahead is not None:
            database.run(
                "UPDATE service_states SET due_at = now() + :ahead WHERE service_id = ANY(:ids)",
                ahead=ahead, ids=[service.id for service in chunk],
            )  # fmt: skip
        signals = [Signal(service=service, kind="ok") for service in chunk]
        in_transaction(database.engine, partial(heartbeats.write, signals=signals))


def _sweep_what_was_too_late(database: Database) -> None:
    """On a slow machine some heartbeats came after their deadline; they are judged before we measure."""
    while sweep(database.engine).checked:
        pass


def _fall_silent(database: Database, count: int) -> None:
    """Services ``o-…`` that were up, and whose deadline and grace are over; due far ahead until a round comes.

    One is taken through its life: a heartbeat, a sweep.  The others get its row, with every time in it moved
    back by a little more than its period, so that their next deadline after the miss lies far ahead.
    """
    fill.services(database, "o-", count, due=fill.FAR)
    database.run("UPDATE services SET policy_since = policy_since - interval '2 days', created_at = created_at"
                 " - interval '2 days' WHERE starts_with(name, 'o-')")  # fmt: skip
    template = fill.watched(database, "o-1")[0]
    database.run("UPDATE service_states SET status = 'new', quiet = false, last_success_at = NULL"
                 " WHERE service_id = :id", id=template.id)  # fmt: skip
    _beat(database, [template])
    sweep(database.engine)
    with transaction(database.engine) as session:
        row = session.get_one(ServiceState, template.id)
        if row.status != "up":
            raise RuntimeError(f"A service with a heartbeat is {row.status}: this is no measurement.")
        session.expunge(row)
    back = timedelta(seconds=fill.EVERY_S + fill.GRACE_S + 10)
    values = {
        column.name: _moved(getattr(row, column.name), back)
        for column in ServiceState.__table__.columns
        if column.name not in {"service_id", "due_at"}
    }
    with database.engine.begin() as connection:
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        overdue = select(Service.id).where(Service.name.startswith("o-"))
        connection.execute(
            update(ServiceState)
            .where(ServiceState.service_id.in_(overdue))
            .values(**values, due_at=func.now() + fill.FAR)
        )
    fill.settle(database)


def _moved(value: Any, back: timedelta) -> Any:
    """A value of a hot row, with the times in it earlier by ``back``."""
    if isinstance(value, datetime):
        return value - back
    if isinstance(value, dict):
        return {name: _moved(item, back) for name, item in value.items()}
    if isinstance(value, str) and _TIME.match(value):
        return format_time(parse_time(value) - back)
    return value


def _tell_one_target(database: Database) -> None:
    database.run("INSERT INTO targets (name, kind) VALUES ('chat', 'webhook') ON CONFLICT DO NOTHING")
    database.run("INSERT INTO routes (name, is_default) VALUES ('all', true) ON CONFLICT DO NOTHING")
    database.run("INSERT INTO route_targets (route_id, target_id) SELECT r.id, t.id FROM routes r, targets t"
                 " ON CONFLICT DO NOTHING")  # fmt: skip


def _make_due(database: Database, ids: list[int]) -> None:
    database.run("UPDATE service_states SET due_at = now() WHERE service_id = ANY(:ids)", ids=ids)


_CLAIM = text(
    """
    WITH due AS MATERIALIZED (
        SELECT service_id FROM service_states WHERE due_at <= now()
         ORDER BY due_at, service_id LIMIT :batch FOR NO KEY UPDATE SKIP LOCKED
    )
    UPDATE service_states s SET due_at = now() + interval '1 day' FROM due WHERE s.service_id = due.service_id
    """
)


def _claim_all(database: Database) -> None:
    """The floor: the claim alone, in the same batches, each committed."""
    claimed = CLAIM
    while claimed == CLAIM:
        with database.engine.begin() as connection:
            claimed = connection.execute(_CLAIM, {"batch": CLAIM}).rowcount


def _timed(work: Callable[[], object]) -> float:
    """Milliseconds of one call."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


ROWS = (
    Row("sweep.idle", "none due of 1,000,000, against 1,000", "ms", idle, at_most=2.0),
    Row("sweep.idle_ms", "the same by itself", "ms", idle_ms, at_most=50.0),
    Row("sweep.idle_beside", "the same while the snapshot is open still", "ms", idle_beside, at_most=50.0),
    Row("sweep.overdue", "10,000 newly overdue, against the bare claim", "ms", overdue, at_most=5.0),
    Row("sweep.overdue_written", "the same, against its rows written bare", "ms", overdue_written),
)  # fmt: skip
