"""A whole Medic on servers of its own, which may be killed, with a relay in front of its broker."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from medic.db import make_engine
from medic.local.servers import Servers
from medic.migrate import upgrade
from tests.chaos.crew import Crew
from tests.chaos.storm import PatientHouse, Storm
from tests.chaos.wire import Wire, once, wired
from tests.chaos.world import World, world


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with Servers(tmp_path_factory.mktemp("chaos"), durable=True) as made:
        upgrade(made.database_url)
        yield made


@pytest.fixture(scope="module")
def wire(servers: Servers) -> Iterator[Wire]:
    with wired(servers.redis_client_url.removeprefix("unix://").partition("?")[0]) as made:
        yield made


@pytest.fixture(scope="module")
def outside() -> Iterator[World]:
    with world() as made:
        yield made


@pytest.fixture(scope="module")
def there(servers: Servers, outside: World) -> Iterator[PatientHouse]:
    engine: Engine = make_engine(servers.database_url)
    house = PatientHouse(engine)
    house.furnish(outside)
    yield house
    engine.dispose()


@pytest.fixture(scope="module")
def crew(
    servers: Servers, wire: Wire, outside: World, keys: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Crew]:  # fmt: skip
    folder: Path = tmp_path_factory.mktemp("chaos-crew")
    made = Crew(
        {
            "MEDIC_DATABASE_URL": servers.database_url,
            "REDIS_URL": wire.url,
            "MEDIC_RUN_DIR": str(folder / "run"),
            "MEDIC_ALLOWED_WEBHOOK_HOSTS": f"127.0.0.1:{outside.recorder.port}",
            "MEDIC_LOG_FORMAT": "text",
            "METRICS_PORT": "0",
            "PYTHONWARNINGS": "ignore",
            "MEDIC_SANDBOX": os.environ.get("MEDIC_SANDBOX", "best-effort"),
            **keys,
        },
        folder / "crew.log",
    )
    yield made
    made.stop()


@pytest.fixture
def seed() -> int:
    """Printed, so that a failed run tells it; ``MEDIC_TEST_CHAOS_SEED`` draws the same faults again."""
    given = os.environ.get("MEDIC_TEST_CHAOS_SEED")
    drawn = int(given) if given else random.SystemRandom().randrange(1_000_000)
    print(f"chaos: MEDIC_TEST_CHAOS_SEED={drawn}")
    return drawn


@pytest.fixture
def storm(
    there: PatientHouse, servers: Servers, crew: Crew, wire: Wire, outside: World, seed: int
) -> Iterator[Storm]:
    yield Storm(there, servers, crew, wire, outside, random.Random(seed))
    wire.fate = once
