"""The schema: up, down, up; the same as the models; one process at a time."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, create_engine, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.schema import UniqueConstraint

from medic import migrate, models
from medic.db import Base, make_engine
from medic.errors import Misconfigured, Unavailable
from medic.partitions import DAYS_AHEAD, days_ahead
from tests.conftest import Backends
from tests.waiting import eventually

assert models

VERSIONS = Path(__file__).resolve().parents[2] / "migrations" / "versions"
REVISIONS = [
    re.findall(r"^revision = ['\"](\d{4})['\"]$", file.read_text(encoding="utf-8"), re.MULTILINE)[0]
    for file in sorted(VERSIONS.glob("*.py"))
]


@pytest.fixture
def empty_url(backends: Backends) -> Iterator[str]:
    """A database with nothing in it, not even tables."""
    admin = create_engine(backends.database_url, isolation_level="AUTOCOMMIT")
    name = f"medic_migrate_{secrets.token_hex(4)}"
    with admin.connect() as connection:
        connection.execute(text(f'CREATE DATABASE "{name}"'))
    yield make_url(backends.database_url).set(database=name).render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(text(f'DROP DATABASE "{name}" WITH (FORCE)'))
    admin.dispose()


@pytest.fixture
def empty(empty_url: str) -> Iterator[Engine]:
    made = make_engine(empty_url, component="medic-test")
    yield made
    made.dispose()


def tables(engine: Engine) -> set[str]:
    return {name for name in inspect(engine).get_table_names() if not name.startswith("heartbeats_p")}


def test_up_down_up(empty_url: str, empty: Engine) -> None:
    migrate.upgrade(empty_url)
    up = tables(empty)
    assert up == {table.name for table in Base.metadata.sorted_tables} | {"alembic_version"}
    migrate.downgrade(empty_url, revision="base")
    assert tables(empty) == {"alembic_version"}
    with empty.connect() as connection:
        left = connection.execute(
            text("SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace UNION ALL"
                 " SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('S', 'v')")
        ).scalars().all()  # fmt: skip
    assert left == []
    migrate.upgrade(empty_url)
    assert tables(empty) == up
    with empty.connect() as connection:
        assert days_ahead(connection) == DAYS_AHEAD


def test_an_upgrade_that_has_nothing_to_do_changes_nothing(empty_url: str, empty: Engine) -> None:
    migrate.upgrade(empty_url)
    migrate.upgrade(empty_url)
    with empty.connect() as connection:
        assert migrate.pending(connection) == []


def test_the_models_and_the_schema_say_the_same(engine: Engine) -> None:
    def ours(_object: object, name: str | None, kind: str, *_: object) -> bool:
        return not (kind in {"table", "index"} and (name or "").startswith("heartbeats_p"))

    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True, "include_object": ours}
        )
        differences = compare_metadata(context, Base.metadata)
    assert [one for one in differences if "heartbeats_p" not in str(one)] == []


def test_pending_names_what_is_missing(empty_url: str, empty: Engine) -> None:
    with empty.connect() as connection:
        assert migrate.pending(connection) == REVISIONS
    migrate.upgrade(empty_url)
    with empty.connect() as connection:
        assert migrate.pending(connection) == []


def test_a_database_of_a_later_version_is_refused(empty_url: str, empty: Engine) -> None:
    migrate.upgrade(empty_url)
    with empty.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(Misconfigured, match="9999"):
        migrate.upgrade(empty_url)
    with empty.connect() as connection, pytest.raises(Misconfigured, match="9999"):
        migrate.pending(connection)
    with empty.connect() as connection:  # and the lock is free again
        assert connection.execute(text("SELECT pg_try_advisory_lock(:id)"), {"id": migrate.LOCK_ID}).scalar()


def test_a_version_that_was_rolled_back_to_leaves_a_later_database_alone(
    empty_url: str, empty: Engine
) -> None:
    migrate.upgrade(empty_url)
    with empty.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    runs = [
        subprocess.run(
            [sys.executable, "-m", "medic", "migrate", *options],
            env=os.environ | {"MEDIC_DATABASE_URL": empty_url}, capture_output=True, text=True, check=False,
        )
        for options in ([], ["--or-later"])
    ]  # fmt: skip
    assert (runs[0].returncode == 0, runs[1].returncode) == (False, 0), runs
    assert "later version" in runs[1].stdout


def test_processes_that_migrate_at_once_all_succeed(empty_url: str, empty: Engine) -> None:
    code = "import sys; from medic.migrate import upgrade; upgrade(sys.argv[1])"
    running = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code, empty_url],
            stderr=subprocess.PIPE,
            env=dict(os.environ),
        )
        for _ in range(3)
    ]
    for process in running:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors.decode()
    with empty.connect() as connection:
        assert migrate.pending(connection) == []
        assert connection.execute(text("SELECT count(*) FROM alembic_version")).scalar() == 1


def test_whoever_waits_too_long_for_another_migration_is_told(
    empty_url: str, empty: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "LOCK_WAIT_S", 0.1)
    with empty.connect() as other:
        other.execute(text("SELECT pg_advisory_lock(:id)"), {"id": migrate.LOCK_ID})
        with pytest.raises(Unavailable):
            migrate.upgrade(empty_url)
        other.execute(text("SELECT pg_advisory_unlock(:id)"), {"id": migrate.LOCK_ID})
    migrate.upgrade(empty_url)


def test_a_migration_gives_up_a_lock_that_it_does_not_get(empty_url: str, empty: Engine) -> None:
    """Whoever waits for a table's lock holds up everybody behind it: 4 s are the most."""
    migrate.upgrade(empty_url)
    code = "import sys; from medic.migrate import downgrade; downgrade(sys.argv[1], revision='base')"
    with empty.begin() as reader:
        reader.execute(text("SELECT 1 FROM services"))
        process = subprocess.run(
            [sys.executable, "-c", code, empty_url], capture_output=True, timeout=30, check=False
        )
        assert process.returncode != 0
        assert b"lock timeout" in process.stderr
    eventually(lambda: "services" in tables(empty))


NAMES = {
    "p": re.compile(r"pk_\w+"),
    "f": re.compile(r"fk_\w+"),
    "u": re.compile(r"uq_\w+"),
    "c": re.compile(r"ck_\w+"),
}


def test_constraints_and_indexes_are_named_by_the_convention(engine: Engine) -> None:
    with engine.connect() as connection:
        rows = connection.execute(
            text(
                "SELECT contype, conname, conrelid::regclass::text FROM pg_constraint"
                " WHERE connamespace = 'public'::regnamespace AND contype IN ('p', 'f', 'u', 'c')"
                " AND conrelid NOT IN (SELECT inhrelid FROM pg_inherits)"
            )
        ).all()
        indexes = connection.execute(
            text(
                "SELECT c.relname, i.indisunique, i.indrelid::regclass::text FROM pg_index i"
                " JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relnamespace = 'public'::regnamespace"
                " AND i.indrelid NOT IN (SELECT inhrelid FROM pg_inherits)"
                " AND NOT EXISTS (SELECT 1 FROM pg_constraint k WHERE k.conindid = i.indexrelid)"
            )
        ).all()
    ours = [row for row in rows if row[2] != "alembic_version"]
    assert [
        row for row in ours if not NAMES[row[0]].fullmatch(row[1]) or not row[1][3:].startswith(row[2])
    ] == []
    assert [
        row for row in indexes if not row[0].startswith(("uq_" if row[1] else "ix_") + row[2] + "_")
    ] == []
    assert all(len(name) <= 63 for _, name, _ in ours), "a longer name is cut by the server"


def test_every_foreign_key_is_covered_by_an_index(engine: Engine) -> None:
    """Else the deletion of the parent reads the whole child."""
    inspector = inspect(engine)
    bare = []
    for table in Base.metadata.sorted_tables:
        # A partial index serves only where its condition follows from the search itself.
        whole = [list(key.columns.keys()) for key in (table.primary_key,)]
        whole += [list(c.columns.keys()) for c in table.constraints if isinstance(c, UniqueConstraint)]
        whole += [
            [str(name) for name in index["column_names"]]
            for index in inspector.get_indexes(table.name)
            if not index.get("dialect_options", {}).get("postgresql_where")
        ]
        for key in table.foreign_key_constraints:
            columns = set(key.column_keys)
            if not any(set(index[: len(columns)]) == columns for index in whole):
                bare.append(key.name)
    assert bare == []


def test_every_due_column_has_its_partial_index(engine: Engine) -> None:
    inspector = inspect(engine)
    for table in Base.metadata.sorted_tables:
        if "due_at" in table.columns:
            found = [
                index
                for index in inspector.get_indexes(table.name)
                if index["column_names"] == ["due_at"]
                and "due_at IS NOT NULL" in str(index.get("dialect_options", {}).get("postgresql_where"))
            ]
            assert len(found) == 1, table.name
