"""Alembic's environment: one migration at a time, each in its transaction, with time limits."""

import re

from alembic import context
from sqlalchemy import Connection, text

from medic import models, settings
from medic.db import Base, make_engine

assert models  # importing it makes the metadata whole

# What runs in the database while a migration waits for a lock also waits behind it: give up early.
LOCK_TIMEOUT = "4s"
STATEMENT_TIMEOUT = "30s"
PARTITION = re.compile(r"heartbeats_p\d{8}")


def include_object(obj: object, name: str | None, type_: str, _reflected: bool, _compare_to: object) -> bool:
    """Daily partitions are made by a task, not by migrations."""
    table = name if type_ == "table" else getattr(getattr(obj, "table", None), "name", None)
    return not (table and PARTITION.fullmatch(table))


def migrate(connection: Connection) -> None:
    connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
    connection.execute(text(f"SET statement_timeout = '{STATEMENT_TIMEOUT}'"))
    connection.commit()
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        transaction_per_migration=True,
        include_object=include_object,
        compare_type=True,
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    context.configure(
        dialect_name="postgresql",
        target_metadata=Base.metadata,
        literal_binds=True,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()
elif (given := context.config.attributes.get("connection")) is not None:
    migrate(given)
else:
    with make_engine(settings.current().need_database_url(), component="medic-migrate").connect() as own:
        migrate(own)
