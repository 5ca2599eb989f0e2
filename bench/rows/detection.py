"""How soon an alert is committed after it became true: idle, under load, and while everything else is stuck."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from sqlalchemy import text

from bench import fill, load
from bench.api import Api, serving
from bench.executions import Engine, engine
from bench.load import Plan, percentile
from bench.processes import free_port
from bench.result import Finding, Measured, Row
from bench.rows.engine import CHAIN, STEPS_QUEUES
from bench.stage import Database, Stage
from medic import heartbeats
from medic.db import in_transaction
from medic.heartbeats import Signal

TICK_S = 1
SILENT = 100
EVERY_S = 5
GRACE_S = 1
SPREAD_S = 10.0
OTHERS = 100_000
RATE = 500.0
STUCK_EXECUTIONS = 400
LOOK_EVERY_S = 0.01

_SERVICE = """
    WITH made AS (
        INSERT INTO services (uuid, name, every_s, grace_s) VALUES (gen_random_uuid(), :name, :every, :grace)
        RETURNING id
    )
    INSERT INTO service_states (service_id, due_at) SELECT id, now() FROM made
"""


def detection(stage: Stage) -> Finding:
    """Among very many services, with heartbeats coming in."""
    medic = engine(stage)
    others = stage.effort.count(OTHERS, least=1_000)
    fill.services(medic.database, "d-", others, due=fill.FAR)
    names = [service.name for service in fill.watched(medic.database, "d-")]
    with serving(stage, medic.database, "medic") as (api,), _sweeping(medic):
        late = _late(stage, medic, "busy-", beside=partial(_beat, api, names))
    return Measured(
        [percentile(late, 0.99) - TICK_S],
        note=f"{others:,} services, {RATE:.0f} heartbeats/s, {len(late)} alerts; p50 {percentile(late, 0.5):.2f} s, "
        f"p99 {percentile(late, 0.99):.2f} s, tick {TICK_S} s",
    )


def loaded(stage: Stage) -> Finding:
    """While every target hangs and the steps' queue is full."""
    medic = engine(stage)
    medic.playbook(CHAIN)
    # The API is there because a Medic that cannot hear takes silence for nothing.
    with serving(stage, medic.database, "medic"), _sweeping(medic):
        idle = _late(stage, medic, "idle-")
        with _hanging(medic) as hosts:
            allowed = {"MEDIC_ALLOWED_WEBHOOK_HOSTS": hosts}
            with (
                medic.worker("deliveries", "medic.deliveries", concurrency=4, **allowed),
                medic.worker("steps", STEPS_QUEUES.replace("medic.deliveries,", ""), concurrency=1),
            ):
                medic.dispatch(medic.admit("chain", stage.effort.count(STUCK_EXECUTIONS, least=50)))
                stuck = _late(stage, medic, "stuck-")
    return Measured(
        [percentile(stuck, 0.99) - TICK_S],
        note=f"{len(stuck)} alerts each; p99 {percentile(stuck, 0.99):.2f} s, idle {percentile(idle, 0.99):.2f} s, "
        f"tick {TICK_S} s",
    )


@contextmanager
def _sweeping(medic: Engine) -> Iterator[None]:
    tick = {"WORKER_INTERVAL_SECONDS": str(TICK_S)}
    with (
        medic.worker("system", "medic.system", concurrency=1, **tick),
        medic.worker("beat", "", concurrency=1, command="beat", **tick),
    ):
        yield


@contextmanager
def _hanging(medic: Engine) -> Iterator[str]:
    """A default route to targets that take a connection and never answer; gives their address."""
    with socket.create_server(("127.0.0.1", free_port()), backlog=128) as listener:
        port = listener.getsockname()[1]
        for number in range(4):
            medic.database.run(
                "INSERT INTO targets (name, kind, config) VALUES (:name, 'webhook', CAST(:config AS jsonb))"
                " ON CONFLICT (name) DO UPDATE SET config = excluded.config",
                name=f"hangs-{number}", config=json.dumps({"url": f"http://127.0.0.1:{port}/{number}"}),
            )  # fmt: skip
        medic.database.run(
            "INSERT INTO routes (name, is_default) VALUES ('all', true) ON CONFLICT DO NOTHING"
        )
        medic.database.run("INSERT INTO route_targets (route_id, target_id) SELECT r.id, t.id FROM routes r, targets t"
                           " ON CONFLICT DO NOTHING")  # fmt: skip
        yield f"127.0.0.1/32:{port}"
        medic.database.run("UPDATE routes SET enabled = false")


def _late(stage: Stage, medic: Engine, prefix: str, *, beside: partial[None] | None = None) -> list[float]:
    """Seconds from the moment an alert became true until its row could be read, in rising order."""
    count = stage.effort.count(SILENT, least=30)
    database = medic.database
    seen: list[float] = []
    watcher = threading.Thread(target=_watch, args=(database, prefix, count, seen))
    noise = threading.Thread(target=beside) if beside is not None else None
    watcher.start()
    if noise is not None:
        noise.start()
    for number in range(count):
        _beat_once(database, f"{prefix}{number:04}")
        time.sleep(SPREAD_S / count)
    watcher.join()
    if noise is not None:
        noise.join()
    if len(seen) != count:
        raise RuntimeError(f"{len(seen)} of {count} alerts were opened: this is no measurement.")
    return sorted(seen)


def _beat_once(database: Database, name: str) -> None:
    """A service that falls silent after its one heartbeat."""
    database.run(_SERVICE, name=name, every=EVERY_S, grace=GRACE_S)
    (service,) = fill.watched(database, name)
    in_transaction(database.engine, partial(heartbeats.write, signals=[Signal(service=service, kind="ok")]))


def _watch(database: Database, prefix: str, count: int, seen: list[float]) -> None:
    """Look for new alerts, on the database's clock, until all are there."""
    last, deadline = 0, time.monotonic() + SPREAD_S + 60
    with database.engine.connect() as connection:
        while len(seen) < count and time.monotonic() < deadline:
            rows = connection.execute(
                text("SELECT id, extract(epoch FROM clock_timestamp() - opened_at)::float FROM alerts"
                     " WHERE id > :last AND starts_with(service_name, :prefix) ORDER BY id"),
                {"last": last, "prefix": prefix},
            ).all()  # fmt: skip
            connection.rollback()
            for row in rows:
                last = row[0]
                seen.append(row[1])
            time.sleep(LOOK_EVERY_S)


def _beat(api: Api, names: list[str]) -> None:
    requests = [api.request(name) for name in names[: int(RATE * SPREAD_S)]]
    load.run([Plan(port=api.port, requests=requests, connections=8, seconds=SPREAD_S + EVERY_S, rate=RATE)])


ROWS = (
    Row("sweep.detection", "p99 beyond the tick, 100,000 services, 500 heartbeats/s", "s", detection, at_most=1.0),
    Row(
        "sweep.loaded", "the same while targets hang and the steps' queue is full", "s", loaded, at_most=1.0,
    ),
)  # fmt: skip
