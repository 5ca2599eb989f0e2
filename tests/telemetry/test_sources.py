"""Where metrics come from: the database's engine, the limiter's circuit, the broker's queues."""

from __future__ import annotations

import pytest
import redis
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from medic import census as census_
from medic.db import make_engine
from medic.queues import QUEUES, Queues
from medic.ratelimit.address import connection_options
from medic.ratelimit.circuit import Circuit
from medic.telemetry.database import measure_engine
from medic.telemetry.metrics import REGISTRY
from tests.conftest import Backends


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_statements_are_timed_by_their_first_word_and_connections_in_use_are_counted(
    database_url: str,
) -> None:
    engine = make_engine(database_url, pool_size=3)
    measure_engine(engine)
    measure_engine(engine)
    count = "medic_db_client_operation_duration_seconds_count"
    before = {word: value(count, operation=word) for word in ("select", "with", "other")}
    idle = value("medic_db_pool_in_use")
    with engine.connect() as connection:
        connection.execute(text("\n SELECT 1"))
        connection.execute(text("WITH a AS (SELECT 1) SELECT * FROM a"))
        connection.execute(text("SHOW server_version"))
        assert value("medic_db_pool_in_use") == idle + 1
    assert value("medic_db_pool_in_use") == idle
    assert value("medic_db_pool_size") == 3
    assert {word: value(count, operation=word) - before[word] for word in before} == dict.fromkeys(
        before, 1.0
    )
    engine.dispose()


def test_a_connection_that_breaks_or_cannot_be_made_is_counted_and_a_mistake_is_not(
    database_url: str, shared_engine: Engine
) -> None:
    engine = make_engine(database_url, pool_size=1)
    measure_engine(engine)
    before = value("medic_db_connection_errors_total")
    with engine.connect() as connection, pytest.raises(DBAPIError):
        connection.execute(text("SELECT 1 / 0"))
    assert value("medic_db_connection_errors_total") == before
    with engine.connect() as connection:
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        with shared_engine.begin() as other:
            other.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
        with pytest.raises(DBAPIError):
            connection.execute(text("SELECT 1"))
    assert value("medic_db_connection_errors_total") == before + 1
    engine.dispose()
    nowhere = make_engine("postgresql+psycopg2://u@127.0.0.1:1/d")
    measure_engine(nowhere)
    with pytest.raises(DBAPIError), nowhere.connect():
        pass
    assert value("medic_db_connection_errors_total") == before + 2


def test_a_limiter_that_is_degraded_says_so_and_how_often_it_became_so() -> None:
    circuit = Circuit()
    before = value("medic_rate_limit_degradations_total")
    for _ in range(3):
        circuit.failed(OSError(), now=1.0)
    assert value("medic_rate_limit_degraded") == 1
    assert value("medic_rate_limit_degradations_total") == before + 1
    circuit.succeeded()
    assert value("medic_rate_limit_degraded") == 0


def test_queues_are_read_with_their_prefix_and_a_broker_that_is_away_costs_only_itself(
    backends: Backends, engine: Engine
) -> None:
    client = redis.Redis(**connection_options_of(backends.redis_url))
    queues = Queues(backends.redis_url, prefix="metrics-test:")
    assert {found.depth for found in queues.look().values()} == {0}
    try:
        client.rpush("metrics-test:medic.steps", "no JSON", "neither")
        assert queues.look()["medic.steps"].depth == 2
        seen = census_.census(engine, queues)
        assert set(seen.queues) == set(QUEUES)
        assert seen.queues["medic.steps"].oldest_s is None
        assert seen.overdue == {"services": 0, "executions": 0, "deliveries": 0}
        assert not seen.stopped
    finally:
        client.delete("metrics-test:medic.steps")
        client.close()
    away = Queues("redis://127.0.0.1:1/0", prefix="")
    assert away.look() == away.look() == {}
    assert census_.census(engine, away).queues == {}


def connection_options_of(url: str) -> dict[str, object]:
    """For a client and not a pool: a Unix socket has another name there."""
    options = connection_options(url)
    if options.pop("connection_class", None) is not None and "path" in options:
        options["unix_socket_path"] = options.pop("path")
    return options
