"""Real servers for every test: PostgreSQL and a Redis-protocol server, embedded or given by URL.

Each test process migrates a database of its own.  A test that writes asks for
``engine``; what it wrote is gone before the next one.  Code under test commits, as it does in life.
"""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import make_url

from medic.db import make_engine
from medic.local.servers import Servers
from medic.migrate import upgrade

# Loaded once, for all folders that use workers: with a second copy, two shared workers would take each other's messages.
pytest_plugins = ["tests.tasks.fixtures"]

# How long an example takes says more of the machine than of the code.
settings.register_profile("medic", deadline=None)
settings.load_profile("medic")

# A proxy of the machine would see what the tests send, and answer in the place of their servers.
for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
    os.environ.pop(name, None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--using-servers", action="store_true",
        help="only tests that use the database or the broker: what a second run, on other servers, can tell",
    )  # fmt: skip


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--using-servers"):
        return
    using = [item for item in items if "backends" in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(using)])
    items[:] = using


@dataclass(frozen=True)
class Backends:
    """Where the servers are: an administrative database URL, and the broker's in kombu's form."""

    database_url: str
    redis_url: str


@pytest.fixture(scope="session")
def backends(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[Backends]:
    """The servers of this test process."""
    database, redis = os.environ.get("MEDIC_TEST_DATABASE_URL"), os.environ.get("MEDIC_TEST_REDIS_URL")
    if database and redis:
        yield Backends(
            database.replace("postgresql://", "postgresql+psycopg2://", 1), redis_of(redis, worker_id)
        )
        return
    folder = tmp_path_factory.mktemp("servers")
    with Servers(folder, durable=False, postgres=not database, valkey=not redis) as servers:
        yield Backends(database or servers.database_url, redis or servers.redis_url)


def redis_of(url: str, worker_id: str) -> str:
    """One Redis database per test process, so that they do not consume each other's messages."""
    number = 1 + int(worker_id[2:]) if worker_id.startswith("gw") else 1
    return f"{url.rstrip('/')}/{number}" if url.count("/") < 3 else url


@pytest.fixture(scope="session")
def database_url(backends: Backends, worker_id: str) -> Iterator[str]:
    """A migrated database of this test process."""
    admin = create_engine(backends.database_url, isolation_level="AUTOCOMMIT")
    name = f"medic_test_{worker_id}_{secrets.token_hex(4)}"
    with admin.connect() as connection:
        connection.execute(text(f'CREATE DATABASE "{name}"'))
    url = make_url(backends.database_url).set(database=name).render_as_string(hide_password=False)
    upgrade(url)
    yield url
    with admin.connect() as connection:
        connection.execute(text(f'DROP DATABASE "{name}" WITH (FORCE)'))
    admin.dispose()


@pytest.fixture(scope="session")
def shared_engine(database_url: str) -> Iterator[Engine]:
    made = make_engine(database_url, component="medic-test")
    yield made
    made.dispose()


@pytest.fixture
def engine(shared_engine: Engine) -> Iterator[Engine]:
    """A database with nothing in it."""
    yield shared_engine
    empty(shared_engine)


def empty(engine: Engine) -> None:
    """Remove every row; the append-only trigger is told that this is not the application."""
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        tables = connection.execute(
            text("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
                 " AND NOT relispartition AND relname <> 'alembic_version'")
        ).scalars()  # fmt: skip
        asked = " UNION ALL ".join(f"SELECT '{t}' WHERE EXISTS (SELECT 1 FROM \"{t}\")" for t in tables)
        for table in connection.execute(text(asked)).scalars().all():
            connection.execute(text(f'DELETE FROM "{table}"'))


@pytest.fixture(scope="session")
def keys() -> dict[str, str]:
    """Keys of this test run, as the environment carries them."""
    return {
        "MEDIC_SECRETS_KEY": base64.b64encode(secrets.token_bytes(32)).decode(),
        "MEDIC_API_KEY_PEPPER": secrets.token_urlsafe(32),
        "MEDIC_AUDIT_KEY": secrets.token_urlsafe(32),
    }


@pytest.fixture
def environ(database_url: str, backends: Backends, keys: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """The environment of a Medic process on this test's servers."""
    return {
        "MEDIC_DATABASE_URL": database_url,
        "REDIS_URL": backends.redis_url,
        "MEDIC_RUN_DIR": str(tmp_path / "run"),
        "MEDIC_LOG_FORMAT": "text",
        "METRICS_PORT": "0",
        **keys,
    }
