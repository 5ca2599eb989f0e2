"""How the rate of single heartbeats goes with connections and with services.  These rows claim nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from bench import fill
from bench.api import Api, serving
from bench.load import Outcome
from bench.result import Finding, Measured, Row
from bench.rows.ingest import CONNECTIONS, QUIET_FOR, SERVICES, in_turn, ingest_database
from bench.stage import Database, Stage

BY_CONNECTIONS = (1, 4, 16, 64)
BY_SERVICES = (100, 1_000, 10_000, 100_000)
LEAST_SERVICES = 10
"""However small the scale: fewer would all be hot ones."""
WARM_UP_S = 1.0

Found = dict[tuple[str, int], list[Outcome]]
"""By server and step."""


def connections(stage: Stage, count: int) -> Finding:
    found = _by_connections(stage)
    return _measured(found, count, f"{SERVICES:,} services")


def services(stage: Stage, count: int) -> Finding:
    found = _by_services(stage)
    return _measured(
        found,
        count,
        f"{stage.effort.count(count, least=LEAST_SERVICES):,} services, {CONNECTIONS} connections",
    )


def _by_connections(stage: Stage) -> Found:
    """Each number of connections in each round: servers and steps drift alike."""
    kept = stage.keep.get("rates by connections")
    if isinstance(kept, dict):
        return kept
    database = ingest_database(stage)
    names = [service.name for service in fill.watched(database, "s-")]
    found: Found = defaultdict(list)
    with serving(stage, database, "empty", "medic") as apis:
        _warm(apis, names)
        for number in range(stage.effort.rounds):
            for count in BY_CONNECTIONS:
                for api in in_turn(apis, number):
                    found[api.name, count].append(_load(stage, api, names, count))
    stage.keep["rates by connections"] = found
    return found


def _by_services(stage: Stage) -> Found:
    """From few to many, as a database grows; the rounds of a step follow each other."""
    kept = stage.keep.get("rates by services")
    if isinstance(kept, dict):
        return kept
    database = stage.database("ingest_services")
    found: Found = defaultdict(list)
    for step in BY_SERVICES:
        _grow(database, stage.effort.count(step, least=LEAST_SERVICES))
        names = [service.name for service in fill.watched(database, "n-")]
        with serving(stage, database, "empty", "medic") as apis:
            _warm(apis, names)
            for number in range(stage.effort.rounds):
                for api in in_turn(apis, number):
                    found[api.name, step].append(_load(stage, api, names, CONNECTIONS))
    stage.keep["rates by services"] = found
    return found


def _grow(database: Database, count: int) -> None:
    there = len(fill.watched(database, "n-"))
    if count > there:
        fill.services(database, f"n-{there}-", count - there, due=QUIET_FOR)


def _warm(apis: Sequence[Api], names: Sequence[str]) -> None:
    for api in apis:
        api.load(names, connections=CONNECTIONS, seconds=WARM_UP_S)


def _load(stage: Stage, api: Api, names: Sequence[str], connections: int) -> Outcome:
    return api.load(names, connections=connections, seconds=stage.effort.seconds)


def _measured(found: Found, step: int, where: str) -> Finding:
    medic, empty = found["medic", step], found["empty", step]
    return Measured(
        [outcome.rate for outcome in medic],
        [outcome.rate for outcome in empty],
        note=f"{where}; p50 {medic[-1].p50_ms:.2f} ms, p99 {medic[-1].p99_ms:.2f} ms",
    )


def _rows() -> list[Row]:
    rows = [
        Row(f"ingest.connections.{n}", f"single heartbeats on {n} connections", "req/s", lambda stage, n=n: connections(stage, n))
        for n in BY_CONNECTIONS
    ]  # fmt: skip
    rows += [
        Row(f"ingest.services.{n}", f"single heartbeats of {n:,} services", "req/s", lambda stage, n=n: services(stage, n))
        for n in BY_SERVICES
    ]  # fmt: skip
    return rows


ROWS = tuple(_rows())
