"""Executions: steps a second beside bare Celery, what a wait holds, how soon a step follows an alert."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import redis

from bench import fill, floor_tasks
from bench.executions import FLOOR_BROKER, Engine, engine
from bench.load import percentile
from bench.result import Finding, Measured, Row
from bench.stage import Stage
from medic import broker, heartbeats
from medic.cli.processes import worker_arguments
from medic.db import in_transaction
from medic.heartbeats import Signal, Watched
from medic.settings import Settings

LINKS = 20
CHAINS = 60
PARKED = 1_000
ALERTS = 30
CONCURRENCY = 2
LOOK_EVERY_S = 0.02
STEPS_QUEUES = "medic.steps,medic.scripts,medic.deliveries,medic.housekeeping"

CHAIN = "name: chain\nsteps:\n" + "".join(f"  - {{name: n{n}, type: noop}}\n" for n in range(LINKS))
WAIT = "name: park\nsteps:\n  - {name: wait, type: wait, duration: 1h}\n"
HEAL = """
name: heal
trigger: {service_pattern: "f-*", consecutive_failures: 1}
steps:
  - {name: first, type: noop}
"""


def steps(stage: Stage) -> Finding:
    chains = stage.effort.count(CHAINS, least=5)
    medic = engine(stage)
    medic.playbook(CHAIN)
    values, floor = [], []
    with (
        medic.worker("steps", STEPS_QUEUES, concurrency=CONCURRENCY) as worker,
        _floor(stage, medic) as count,
    ):
        _medic_rate(medic, 5)
        _floor_rate(count, 5)
        for _ in range(stage.effort.rounds):
            floor.append(_floor_rate(count, chains))
            values.append(_medic_rate(medic, chains))
        stage.keep["worker resident"] = worker.resident_mb()
    return Measured(values, floor, note=f"{chains} chains of {LINKS}; events on, synchronous_commit on")


def parked(stage: Stage) -> Finding:
    medic, count = engine(stage), stage.effort.count(PARKED, least=20)
    medic.playbook(WAIT)
    with medic.worker("steps", STEPS_QUEUES, concurrency=CONCURRENCY):
        medic.dispatch(medic.admit("park", count))
        _until(lambda: medic.count("state = 'waiting' AND playbook_name = 'park'") == count, within=120)
        _until(lambda: medic.broker.hlen("unacked") == 0, within=10)
        active = broker.app().control.inspect(timeout=3.0).active() or {}
        running = sum(len(tasks) for tasks in active.values())
        held = running + medic.count("owner IS NOT NULL") + int(medic.broker.llen("medic.steps"))
    if not active:
        raise RuntimeError("The worker did not say what it runs.")
    return Measured([held], note=f"{count:,} executions wait; tasks running, owned rows and queued messages")


def first_step(stage: Stage) -> Finding:
    medic = engine(stage)
    medic.playbook(HEAL)
    fill.services(medic.database, "f-", ALERTS, due=fill.FAR)
    tick = {"WORKER_INTERVAL_SECONDS": "1"}
    with (
        medic.worker("steps", STEPS_QUEUES, concurrency=CONCURRENCY),
        medic.worker("system", "medic.system", concurrency=1, **tick),
        medic.worker("beat", "", concurrency=1, command="beat", **tick),
    ):
        for number, service in enumerate(fill.watched(medic.database, "f-"), start=1):
            _fail(medic, service)
            _until(partial(_healed, medic, number), within=30)
    with medic.database.engine.connect() as connection:
        seconds = connection.exec_driver_sql(
            "SELECT extract(epoch FROM s.started_at - a.detected_at)::float FROM alerts a"
            " JOIN executions e ON e.alert_id = a.id JOIN execution_steps s ON s.execution_id = e.id ORDER BY 1"
        ).scalars().all()  # fmt: skip
    note = f"{len(seconds)} alerts, least {seconds[0]:.3f} s, greatest {seconds[-1]:.3f} s"
    return Measured([percentile(seconds, 0.95)], note=note)


def _fail(medic: Engine, service: Watched) -> None:
    signals = [Signal(service=service, kind="fail")]
    in_transaction(medic.database.engine, lambda session: heartbeats.write(session, signals))


def _healed(medic: Engine, number: int) -> bool:
    return medic.count("playbook_name = 'heal' AND started_at IS NOT NULL") >= number


def resident(stage: Stage) -> list[float]:
    """What a worker's processes hold after the steps, in MB."""
    if "worker resident" not in stage.keep:
        steps(stage)
    sizes = stage.keep["worker resident"]
    assert isinstance(sizes, list)
    return sizes


def _medic_rate(medic: Engine, chains: int) -> float:
    """Steps a second from the first dispatch until the last execution is completed."""
    executions = medic.admit("chain", chains)
    before = medic.count("state = 'completed'")
    began = time.perf_counter()
    medic.dispatch(executions)
    _until(lambda: medic.count("state = 'completed'") - before == chains, within=120)
    return chains * LINKS / (time.perf_counter() - began)


def _floor_rate(count: Callable[[], int], chains: int) -> float:
    before, began = count(), time.perf_counter()
    for _ in range(chains):
        floor_tasks.publish(LINKS, queue="medic.steps")
    _until(lambda: count() - before == chains, within=120)
    return chains * LINKS / (time.perf_counter() - began)


@contextmanager
def _floor(stage: Stage, medic: Engine) -> Iterator[Callable[[], int]]:
    """A worker of bare Celery with Medic's arguments; gives how many chains came to their end."""
    environ = stage.environ(medic.database, broker=FLOOR_BROKER)
    given = worker_arguments(
        Settings.from_env({name: environ[name] for name in ("MEDIC_DATABASE_URL", "REDIS_URL", "MEDIC_LOG_LEVEL")}),
        name="floor", queues=("medic.steps",), concurrency=CONCURRENCY, pool="prefork",
    )  # fmt: skip
    arguments = ["bench.floor_tasks:app" if part == "medic_tasks.app:app" else part for part in given]
    floor_tasks.app.conf.broker_url = environ["REDIS_URL"]
    client = redis.Redis.from_url(stage.servers.redis_client_url.replace("db=0", f"db={FLOOR_BROKER}"))
    with stage.process("floor", *arguments, environ=environ) as process:
        floor_tasks.publish(1, queue="medic.steps")
        process.await_(lambda: client.get(floor_tasks.DONE) is not None)
        yield lambda: int(client.get(floor_tasks.DONE) or 0)
    client.close()


def _until(condition: Callable[[], bool], *, within: float) -> None:
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"It did not happen within {within:g} s.")
        time.sleep(LOOK_EVERY_S)


ROWS = (
    Row("engine.steps", "chained no-op steps, against a bare Celery chain", "steps/s", steps, at_least=0.35),
    Row("engine.parked", "worker slots that 1,000 waiting executions hold", "slots", parked, at_most=0),
    Row("engine.first_step", "alert opened to first step started, p95", "s", first_step, at_most=1.0),
)
