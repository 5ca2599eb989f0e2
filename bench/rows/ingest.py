"""Heartbeats over HTTP: against an empty view, against one commit each, in batches, on one hot service."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from datetime import timedelta

from sqlalchemy import text

from bench import fill, load
from bench.api import Api, serving
from bench.load import Outcome, Plan
from bench.processes import status_of
from bench.result import Finding, Measured, NotBuilt, Row
from bench.stage import Database, Stage

SERVICES = 1_000
OTHERS = 100_000
CONNECTIONS = 32
BATCH = 1_000
BATCH_PATH = "/v1/heartbeats/batch"
HOT_RATE = 500.0
CLIENTS = 4
QUIET_FOR = timedelta(hours=1)


def single(stage: Stage) -> Finding:
    rounds = _rates(stage)
    medic, empty = rounds["medic"], rounds["empty"]
    return Measured(
        [outcome.rate for outcome in medic],
        [outcome.rate for outcome in empty],
        note=f"{CONNECTIONS} connections; p50 {medic[-1].p50_ms:.1f} ms, empty view {empty[-1].p50_ms:.1f} ms; "
        f"CPU a request: {_kept_cpu(stage)}, generator {medic[-1].cpu_us:.0f} µs",
    )


def against_naive(stage: Stage) -> Finding:
    rounds = _rates(stage)
    return Measured([o.rate for o in rounds["medic"]], [o.rate for o in rounds["naive"]])


def p99(stage: Stage) -> Finding:
    database = ingest_database(stage)
    names = [service.name for service in fill.watched(database, "s-")]
    found: dict[str, list[Outcome]] = defaultdict(list)
    with serving(stage, database, "medic", "naive") as apis:
        for number in range(stage.effort.rounds):
            for api in in_turn(apis, number):
                found[api.name].append(api.load(names, connections=1, seconds=stage.effort.seconds))
    return Measured(
        [o.p99_ms for o in found["medic"]],
        [o.p99_ms for o in found["naive"]],
        note=f"p50 {found['medic'][-1].p50_ms:.2f} ms, naive {found['naive'][-1].p50_ms:.2f} ms",
    )


def batch(stage: Stage) -> Finding:
    database = ingest_database(stage)
    services = fill.watched(database, "s-")
    values, floor = [], []
    with serving(stage, database, "medic") as (api,):
        if status_of(api.port, "POST", BATCH_PATH, body="[]", key=api.key) in {404, 405}:
            return NotBuilt(f"there is no POST {BATCH_PATH} yet")
        body = json.dumps([{"service": service.name} for service in services], separators=(",", ":"))
        for _ in range(stage.effort.rounds):
            floor.append(_bare(database, [service.id for service in services], stage.effort.seconds))
            plan = Plan(
                port=api.port, requests=[api.post(BATCH_PATH, body)], connections=4, seconds=stage.effort.seconds
            )  # fmt: skip
            values.append(load.run([plan])[0].rate * len(services))
    return Measured(values, floor)


def hot_service(stage: Stage) -> Finding:
    database = stage.database("ingest_hot")
    fill.services(database, "h-", stage.effort.count(OTHERS, least=SERVICES), due=QUIET_FOR)
    names = [service.name for service in fill.watched(database, "h-")]
    hot, spread, slowest = [], [], 0.0
    with serving(stage, database, "medic", workers=CLIENTS) as (api,):
        for _ in range(stage.effort.rounds):
            spread.append(sum(o.rate for o in _paced(api, names, stage.effort.seconds)))
            outcomes = _paced(api, names[:1], stage.effort.seconds)
            hot.append(sum(o.rate for o in outcomes))
            slowest = max(slowest, *(o.p99_ms for o in outcomes))
    return Measured(hot, spread, note=f"{HOT_RATE:.0f}/s offered by {CLIENTS} processes to {CLIENTS} API processes; "
                                      f"hot p99 {slowest:.1f} ms")  # fmt: skip


def _rates(stage: Stage) -> dict[str, list[Outcome]]:
    """All three servers in turn, measured once per run for the rows that need them."""
    kept = stage.keep.get("ingest rates")
    if isinstance(kept, dict):
        return kept
    database = ingest_database(stage)
    names = [service.name for service in fill.watched(database, "s-")]
    found: dict[str, list[Outcome]] = defaultdict(list)
    cpu: dict[str, float] = {}
    with serving(stage, database, "empty", "medic", "naive") as apis:
        for api in apis:
            api.load(names, connections=CONNECTIONS, seconds=1.0)
        for number in range(stage.effort.rounds):
            for api in in_turn(apis, number):
                before, began = api.process.cpu_s(), time.perf_counter()
                outcome = api.load(names, connections=CONNECTIONS, seconds=stage.effort.seconds)
                # The warm-up is in the CPU, so it is counted at the same rate.
                whole = outcome.rate * (time.perf_counter() - began)
                cpu[api.name] = (api.process.cpu_s() - before) / whole * 1e6
                found[api.name].append(outcome)
        stage.keep["api resident"] = next(api for api in apis if api.name == "medic").process.resident_mb()
    stage.keep["ingest cpu"] = ", ".join(f"{name} {used:.0f} µs" for name, used in cpu.items())
    stage.keep["ingest rates"] = found
    return found


def resident(stage: Stage) -> list[float]:
    """What the API's processes hold after the load, in MB."""
    _rates(stage)
    sizes = stage.keep["api resident"]
    assert isinstance(sizes, list)
    return sizes


def _kept_cpu(stage: Stage) -> str:
    return str(stage.keep.get("ingest cpu", ""))


def in_turn(apis: list[Api], number: int) -> list[Api]:
    """Each second round runs backwards, so that what drifts does so for all."""
    return apis if number % 2 == 0 else apis[::-1]


def ingest_database(stage: Stage) -> Database:
    database = stage.database("ingest")
    if not fill.watched(database, "s-"):
        fill.services(database, "s-", SERVICES, due=QUIET_FOR)
    return database


def _paced(api: Api, names: list[str], seconds: float) -> list[Outcome]:
    rate = HOT_RATE / CLIENTS
    plans = [
        Plan(
            port=api.port, connections=8, seconds=seconds, rate=rate,
            requests=[api.request(name) for name in (names[number::CLIENTS] or names)[: int(rate * (seconds + 1)) + 1]],
        )
        for number in range(CLIENTS)
    ]  # fmt: skip
    return load.run(plans)


def _bare(database: Database, ids: list[int], seconds: float) -> float:
    """Rows a second of the bare statements, a commit per batch, on one connection."""
    insert = text(
        "INSERT INTO heartbeats (received_at, service_id, kind, event_at)"
        " SELECT now(), s, 'ok', now() FROM unnest(CAST(:ids AS bigint[])) s"
    )
    move = text(
        "UPDATE service_states SET last_success_at = now(), last_signal_at = now(), last_signal_kind = 'ok',"
        " due_at = now() + interval '1 hour' WHERE service_id = ANY(:ids)"
    )
    rows, began = 0, time.perf_counter()
    with database.engine.connect() as connection:
        while time.perf_counter() < began + seconds:
            chunk = ids[:BATCH]
            connection.execute(insert, {"ids": chunk})
            connection.execute(move, {"ids": chunk})
            connection.commit()
            rows += len(chunk)
    return rows / (time.perf_counter() - began)


ROWS = (
    Row("ingest.single", "single heartbeat over HTTP, durable before the 202", "req/s", single, at_least=0.50),
    Row("ingest.against_naive", "the same against one commit per request", "req/s", against_naive, at_least=1.7),
    Row("ingest.p99", "p99 on one connection, against one commit per request", "ms", p99, at_most=1.3),
    Row("ingest.batch", "batches over HTTP, against the bare statements", "rows/s", batch, at_least=0.60),
    Row("ingest.hot_service", "one service at 500/s, against the same load spread", "req/s", hot_service, at_least=0.8),
)  # fmt: skip
