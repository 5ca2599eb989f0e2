"""Real worker processes on real servers.

One worker is shared by the tests of a process, as its start takes seconds; a test that kills or starves
workers asks for ``own`` ones, and the shared one is gone while they run.  No beat runs: a test sweeps itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis
from sqlalchemy import Engine

from medic import broker
from medic import settings as settings_
from medic.db import engine as process_engine
from medic.ratelimit.address import connection_options
from tests.recorder import Recorder, recording
from tests.tasks.house import House
from tests.tasks.processes import Workers

if TYPE_CHECKING:  # it loads this module
    from tests.conftest import Backends


@pytest.fixture(scope="session")
def world() -> Iterator[Recorder]:
    """What webhooks reach, for as long as the shared worker lives: its allow-list names the port."""
    with recording() as recorder:
        yield recorder


@pytest.fixture
def outside(world: Recorder) -> Iterator[Recorder]:
    """The world, with nothing in it yet."""
    world.requests.clear()
    world.answer = lambda _: (200, b"{}")
    yield world
    world.answer = lambda _: (200, b"{}")


@pytest.fixture(scope="session")
def task_environ(
    database_url: str, backends: Backends, keys: dict[str, str], world: Recorder,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, str]:  # fmt: skip
    """The environment of Medic's processes in these tests."""
    return {
        "MEDIC_DATABASE_URL": database_url,
        "REDIS_URL": backends.redis_url,
        "MEDIC_RUN_DIR": str(tmp_path_factory.mktemp("run")),
        "MEDIC_ALLOWED_WEBHOOK_HOSTS": f"127.0.0.1:{world.port}",
        "MEDIC_LOG_FORMAT": "text",
        "WORKER_INTERVAL_SECONDS": "1",
        "METRICS_PORT": "0",
        "PYTHONWARNINGS": "ignore",  # Celery warns of root; these are not the tests' own warnings
        # Tests run as root in containers, where the kernel may lack a wall that the sandbox asks for.
        "MEDIC_SANDBOX": os.environ.get("MEDIC_SANDBOX", "best-effort"),
        **keys,
    }


@pytest.fixture
def broker_client(task_environ: dict[str, str]) -> Iterator[redis.Redis]:
    """The broker, with no message in it."""
    pool = redis.ConnectionPool(**connection_options(task_environ["REDIS_URL"]))
    client = redis.Redis(connection_pool=pool)
    _forget_messages(client)
    yield client
    _forget_messages(client)
    client.close()
    pool.disconnect()


def _forget_messages(client: redis.Redis) -> None:
    queues = (broker.SYSTEM, broker.DELIVERIES, broker.STEPS, broker.SCRIPTS, broker.HOUSEKEEPING)
    client.delete(*queues, "unacked", "unacked_index")


@pytest.fixture(scope="session")
def publisher() -> Iterator[None]:
    """This process's connections to the broker, kept from test to test as a process of Medic keeps them."""
    yield
    if broker.app.cache_info().currsize and broker.app().configured:
        broker.app().pool.force_close_all()


@pytest.fixture
def house(
    engine: Engine, task_environ: dict[str, str], broker_client: redis.Redis, monkeypatch: pytest.MonkeyPatch,
    publisher: None,
) -> Iterator[House]:  # fmt: skip
    """This process as one of Medic's: its use cases, and it may publish."""
    for name, value in task_environ.items():
        monkeypatch.setenv(name, value)
    settings_.current.cache_clear()
    process_engine.cache_clear()
    yield House(engine)
    process_engine().dispose()
    settings_.current.cache_clear()
    process_engine.cache_clear()


@pytest.fixture(scope="session")
def shared_workers(
    task_environ: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Workers]:
    made = Workers(task_environ, tmp_path_factory.mktemp("shared") / "workers.log")
    yield made
    made.stop()


@pytest.fixture
def worker(house: House, shared_workers: Workers) -> Workers:
    """The shared worker, at work on steps and scripts with two processes."""
    if not shared_workers.alive():
        shared_workers.steps("shared", concurrency=2)
    return shared_workers


@pytest.fixture
def own(
    house: House, shared_workers: Workers, task_environ: dict[str, str], tmp_path: Path
) -> Iterator[Workers]:
    """Workers of this test alone; none runs yet."""
    shared_workers.stop()
    made = Workers(task_environ | {"MEDIC_RUN_DIR": str(tmp_path / "run")}, tmp_path / "workers.log")
    yield made
    made.stop()
