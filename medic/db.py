"""The database: engine, transactions, column types.  One dialect: PostgreSQL 15 and later, through SQLAlchemy.

The boundary (a request, a task, a command) owns ``with transaction(engine) as connection``; use cases
take the session first and never commit.  No I/O happens inside a transaction.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any, TypeVar

import psycopg2
from sqlalchemy import Connection, DateTime, Engine, MetaData, create_engine, func, select, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Session, mapped_column
from sqlalchemy.types import BigInteger, Text

from medic import settings as settings_

T = TypeVar("T")

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """All tables; constraint names follow one convention, so that migrations can name them."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it from the class
        datetime: DateTime(timezone=True),
        str: Text(),
        dict[str, Any]: JSONB(),
        list[str]: ARRAY(Text()),
    }


BigId = Annotated[int, mapped_column(BigInteger, primary_key=True)]

# A statement that outlives this is a defect or a lock that somebody forgot; sweeps are far below.
STATEMENT_TIMEOUT_MS = 30_000
LOCK_TIMEOUT_MS = 5_000
LOCK_NOT_AVAILABLE = "55P03"
_RETRIED = {"40001", "40P01"}
_AWAY = ("08", "53", "57")


def make_engine(url: str, *, pool_size: int = 10, component: str = "medic") -> Engine:
    """An engine whose connections are in UTC, bounded in time, and named after the component.

    :param url: ``postgresql+psycopg2://…``
    :param pool_size: connections kept and allowed; a caller beyond them waits 5 s at the most.
    """
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=5,
        pool_pre_ping=False,  # a round trip on each checkout; a dead connection is retried by `transaction` callers
        pool_recycle=1800,
        # A value in an error text may be a secret or a message of a job.
        hide_parameters=True,
        connect_args={
            "application_name": component,
            "connect_timeout": 3,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 15_000,
            "options": (
                f"-c timezone=UTC -c statement_timeout={STATEMENT_TIMEOUT_MS} -c lock_timeout={LOCK_TIMEOUT_MS}"
                " -c idle_in_transaction_session_timeout=30000"
                # What is prepared here does not depend on its values; planning it anew is the cost that it saves.
                " -c plan_cache_mode=force_generic_plan"
            ),
        },
    )
    _invalidate_after_fork(engine)
    return engine


def _invalidate_after_fork(engine: Engine) -> None:
    """A connection opened before a fork belongs to the parent: the child drops it without closing it."""
    os.register_at_fork(after_in_child=lambda: engine.dispose(close=False))


@lru_cache(maxsize=1)
def engine() -> Engine:
    """This process's engine, from its settings.  For the edges only."""
    current = settings_.current()
    return make_engine(current.need_database_url(), pool_size=current.database_pool_size)


@contextmanager
def transaction(bind: Engine) -> Iterator[Session]:
    """One transaction: commits at the end, rolls back on an exception."""
    with Session(bind, expire_on_commit=False, autoflush=False) as session, session.begin():
        yield session


def in_transaction(bind: Engine, work: Callable[[Session], T]) -> T:
    """Run ``work`` in one transaction; once more if it lost a deadlock or a serialization conflict,
    or found only a dead connection in the pool.  ``work`` must have no effect outside the database.
    """
    for last in (False, True):
        try:
            with transaction(bind) as session:
                return work(session)
        except DBAPIError as error:
            if last or not (sqlstate(error) in _RETRIED or _stale_before_work(error)):
                raise
    raise AssertionError("unreachable")


def at_once(bind: Engine) -> Engine:
    """The same connections, on which each statement commits by itself: one round trip where a transaction takes
    three.  For work that is one statement, whose callers can tell whether it was done.
    """
    return bind.execution_options(isolation_level="AUTOCOMMIT")


class AtOnce:
    """A connection of one thread, for statements that commit by themselves: one round trip each, where a
    transaction takes three.  It stays open between them; a broken one is replaced by the next call.
    """

    def __init__(self, bind: Engine) -> None:
        self._bind = bind
        self._connection: Connection | None = None

    def run(self, work: Callable[[Connection], T]) -> T:
        """Run ``work``, which executes one writing statement.

        Tried once more after a deadlock or a serialization conflict, which PostgreSQL rolled back.
        """
        for last in (False, True):
            try:
                if self._connection is None:
                    self._connection = self._bind.connect().execution_options(isolation_level="AUTOCOMMIT")
                return work(self._connection)
            except DBAPIError as error:
                self.close()
                if last or sqlstate(error) not in _RETRIED:
                    raise
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Give the connection back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _stale_before_work(error: DBAPIError) -> bool:
    """The connection died before the commit was sent: nothing happened, the pool was emptied."""
    return error.connection_invalidated and error.statement is not None


def sqlstate(error: DBAPIError) -> str:
    """The five characters of the server's verdict, or nothing if it gave none."""
    return getattr(error.orig, "pgcode", None) or ""


def is_lost(error: DBAPIError) -> bool:
    """The whole transaction is lost, and may do better once more; a savepoint does not save it."""
    return error.connection_invalidated or sqlstate(error) in _RETRIED


def is_away(error: DBAPIError) -> bool:
    """The database did not do it because it is away, full or stopping: the caller may come back."""
    code = sqlstate(error)
    if code:
        return code.startswith(_AWAY)
    # A server that died says nothing: psycopg2 has no class of its own for that.
    return error.connection_invalidated or isinstance(
        error.orig, psycopg2.OperationalError | psycopg2.InterfaceError
    )


def database_now(session: Session) -> datetime:
    """The database's time of this transaction, aware, in UTC."""
    return session.scalars(select(func.now())).one()


def advisory_lock(session: Session, name: str, *, within_s: float | None = None) -> None:
    """Hold the lock of this name until the transaction ends.

    :param within_s: how long to wait for it, in place of the usual five seconds; then it is `LOCK_NOT_AVAILABLE`.
    """
    if within_s is not None:
        _wait_for_locks(session, round(within_s * 1000))
    session.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": name})
    if within_s is not None:
        _wait_for_locks(session, LOCK_TIMEOUT_MS)


def _wait_for_locks(session: Session, milliseconds: int) -> None:
    """What the rest of the transaction waits for a lock."""
    session.execute(text("SELECT set_config('lock_timeout', :ms, true)"), {"ms": str(milliseconds)})
