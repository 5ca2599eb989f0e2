"""Rows in bulk, as the product's own statements would have left them."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.orm import Session

from bench.stage import Database, Stage
from medic import access, audit
from medic.db import database_now, in_transaction
from medic.heartbeats import Watched

ACTOR = audit.Actor("shell", "bench")
EVERY_S = 3600
GRACE_S = 60
FAR = timedelta(days=1)

_SERVICES = """
    INSERT INTO services (uuid, name, every_s, grace_s)
    SELECT gen_random_uuid(), :prefix || i, :every, :grace FROM generate_series(1, :count) i
"""
_STATES = """
    INSERT INTO service_states (service_id, status, due_at, quiet, last_success_at)
    SELECT id, 'up', clock_timestamp() + :due, true, now() FROM services WHERE starts_with(name, :prefix) ORDER BY id
"""


def services(database: Database, prefix: str, count: int, *, due: timedelta) -> None:
    """Services called ``<prefix>1`` and so on: up, quiet, and due in that time."""
    with database.engine.begin() as connection:
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(
            text(_SERVICES), {"prefix": prefix, "count": count, "every": EVERY_S, "grace": GRACE_S}
        )
        connection.execute(text(_STATES), {"prefix": prefix, "due": due})
    settle(database)


def settle(database: Database) -> None:
    """What autovacuum would do in its own time, so that it does not fall into a round."""
    with database.engine.connect() as connection:
        autocommit = connection.execution_options(isolation_level="AUTOCOMMIT")
        autocommit.execute(text("SET statement_timeout = 0"))
        autocommit.execute(text("VACUUM ANALYZE services, service_states, heartbeats"))
        autocommit.execute(text("CHECKPOINT"))


def watched(database: Database, prefix: str) -> list[Watched]:
    """The services of a prefix, as ingest knows them."""
    with database.engine.connect() as connection:
        rows = connection.execute(
            text(
                "SELECT id, name, every_s, policy_version FROM services WHERE starts_with(name, :prefix) ORDER BY id"
            ),
            {"prefix": prefix},
        )
        return [Watched(*row) for row in rows]


def key(stage: Stage, database: Database) -> str:
    """A key that may send heartbeats."""

    def make(session: Session) -> str:
        _, secret = access.create_key(
            session, name="bench", scopes=["heartbeats:write"], pepper=stage.pepper.encode(), actor=ACTOR,
            now=database_now(session),
        )  # fmt: skip
        return secret.get_secret_value()

    return in_transaction(database.engine, make)
