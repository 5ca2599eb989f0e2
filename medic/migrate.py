"""Migrations: bring the schema to this version's, one process at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from medic.db import make_engine
from medic.errors import Misconfigured, Unavailable
from medic.partitions import make_partitions

# Any number will do; it only has to be the same for every version of Medic.
LOCK_ID = 0x6D65646963
LOCK_WAIT_S = 120.0
LOCK_RETRY_S = 0.1


class LaterDatabase(Misconfigured):
    """The database is of a later version than this code: a deploy is under way, or was rolled back."""


def upgrade(database_url: str, *, revision: str = "head") -> None:
    """Migrate up, then make the partitions that are missing.  Others that try meanwhile wait.

    :raises Unavailable: when another process migrates for more than two minutes.
    :raises LaterDatabase: when the database is of a later version.
    :raises Misconfigured: when PostgreSQL is older than 15.
    """
    with _alone(database_url) as (connection, config):
        _missing(connection, config)
        connection.commit()
        command.upgrade(config, revision)
        make_partitions(connection)
        connection.commit()


def downgrade(database_url: str, *, revision: str) -> None:
    """Migrate down to ``revision``; ``base`` empties the database."""
    with _alone(database_url) as (_, config):
        command.downgrade(config, revision)


def pending(connection: Connection) -> list[str]:
    """The revisions that the database lacks, oldest first.

    :raises LaterDatabase: when the database is of a later version.
    """
    return _missing(connection, _config())


def _missing(connection: Connection, config: Config) -> list[str]:
    found = MigrationContext.configure(connection).get_current_revision()
    missing: list[str] = []
    for script in ScriptDirectory.from_config(config).walk_revisions():
        if script.revision == found:
            return missing[::-1]
        missing.append(script.revision)
    if found is not None:
        raise LaterDatabase(
            f"The database is at revision {found}, which this version does not know: run a newer Medic."
        )
    return missing[::-1]


def _config() -> Config:
    config = Config()
    here = Path(__file__).parent
    packaged = here / "migrations"
    config.set_main_option(
        "script_location", str(packaged if packaged.is_dir() else here.parent / "migrations")
    )
    return config


@contextmanager
def _alone(database_url: str) -> Iterator[tuple[Connection, Config]]:
    engine = make_engine(database_url, component="medic-migrate")
    try:
        with engine.connect() as connection:
            version = connection.execute(text("SHOW server_version_num")).scalar_one()
            if int(version) < 150_000:
                raise Misconfigured("PostgreSQL 15 or later is needed; this server is older.")
            connection.execute(text("SET statement_timeout = 0"))
            connection.commit()
            _wait_for_lock(connection)
            config = _config()
            config.attributes["connection"] = connection
            try:
                yield connection, config
            finally:
                connection.rollback()
                connection.execute(text("SELECT pg_advisory_unlock(:id)"), {"id": LOCK_ID})
                connection.commit()
    finally:
        engine.dispose()


def _wait_for_lock(connection: Connection) -> None:
    """Ask again and again, in a transaction each: an index that is made CONCURRENTLY waits for every transaction
    that is older than it, so a statement that waited here for the lock would be waited for in turn.

    :raises Unavailable: when another process holds it for too long.
    """
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        got = connection.execute(text("SELECT pg_try_advisory_lock(:id)"), {"id": LOCK_ID}).scalar_one()
        connection.commit()
        if got:
            return
        if time.monotonic() > deadline:
            raise Unavailable("Another process is migrating; try again when it is done.")
        time.sleep(LOCK_RETRY_S)
