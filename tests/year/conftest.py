from collections.abc import Iterator
from datetime import date

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import make_url

from medic import partitions
from medic.db import make_engine
from medic.migrate import upgrade
from tests.conftest import Backends, empty
from tests.year.simulation import Today


@pytest.fixture(scope="session")
def year_engine(backends: Backends, worker_id: str) -> Iterator[Engine]:
    """A database of its own, as its partitions are those of another year."""
    name = f"medic_year_{worker_id}"
    admin = create_engine(backends.database_url, isolation_level="AUTOCOMMIT")
    url = make_url(backends.database_url).set(database=name).render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(text(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))
        connection.execute(text(f'CREATE DATABASE "{name}"'))
    upgrade(url)
    engine = make_engine(url, component="medic-year")
    yield engine
    engine.dispose()
    with admin.connect() as connection:
        connection.execute(text(f'DROP DATABASE "{name}" WITH (FORCE)'))
    admin.dispose()


@pytest.fixture
def engine(year_engine: Engine) -> Iterator[Engine]:
    """The database with nothing in it, and no day that has a partition."""
    with year_engine.begin() as connection:
        for day in partitions.partition_days(connection):
            connection.execute(text(f"DROP TABLE heartbeats_p{day:%Y%m%d}"))
    yield year_engine
    empty(year_engine)


@pytest.fixture
def today(monkeypatch: pytest.MonkeyPatch) -> Today:
    """Sets the day by which partitions are made and dropped: the one clock that is no argument."""

    def be(day: date) -> None:
        monkeypatch.setattr(partitions, "today", lambda _: day)

    return be
