"""Daily partitions of heartbeats."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta

import psycopg2.errors
import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from medic.db import in_transaction
from medic.partitions import DAYS_AHEAD, days_ahead, drop_partitions, make_partitions, partition_days, today

BEAT = text("INSERT INTO heartbeats (received_at, service_id, kind, event_at) VALUES (:at, 1, 'ok', :at) RETURNING"
            " tableoid::regclass::text")  # fmt: skip


@pytest.fixture
def restored(engine: Engine) -> Iterator[Engine]:
    """The usual partitions again afterwards: other tests write into them."""
    yield engine
    with engine.begin() as connection:
        usual = {today(connection) + timedelta(days=n) for n in range(-1, DAYS_AHEAD + 1)}
        for day in set(partition_days(connection)) - usual:
            connection.execute(text(f"DROP TABLE heartbeats_p{day:%Y%m%d}"))
        make_partitions(connection)


def add_days(connection: Connection, *days: int) -> list[date]:
    """Partitions that were made when those days were ahead."""
    made = []
    for offset in days:
        day = today(connection) + timedelta(days=offset)
        connection.execute(
            text(f"CREATE TABLE heartbeats_p{day:%Y%m%d} PARTITION OF heartbeats"
                 f" FOR VALUES FROM ('{day} 00:00+00') TO ('{day + timedelta(days=1)} 00:00+00')")
        )  # fmt: skip
        made.append(day)
    return made


def test_yesterday_and_fourteen_days_ahead_are_there(engine: Engine) -> None:
    with engine.connect() as connection:
        now = today(connection)
        assert partition_days(connection) == [now + timedelta(days=n) for n in range(-1, 15)]
        assert days_ahead(connection) == 14
        assert make_partitions(connection) == []


def test_days_ahead_counts_without_a_gap(restored: Engine) -> None:
    with restored.begin() as connection:
        now = today(connection)
        connection.execute(text(f"DROP TABLE heartbeats_p{now + timedelta(days=3):%Y%m%d}"))
        assert days_ahead(connection) == 2
        connection.execute(text(f"DROP TABLE heartbeats_p{now:%Y%m%d}"))
        assert days_ahead(connection) == -1
        assert make_partitions(connection) == [now, now + timedelta(days=3)]
        assert days_ahead(connection) == 14


def test_a_partition_made_later_is_like_the_others(restored: Engine) -> None:
    with restored.begin() as connection:
        far = today(connection) + timedelta(days=15)
        assert make_partitions(connection, ahead=15) == [far]
        moment = datetime(far.year, far.month, far.day, 12, tzinfo=UTC)
        assert connection.execute(BEAT, {"at": moment}).scalar() == f"heartbeats_p{far:%Y%m%d}"
        counts = connection.execute(
            text("SELECT (SELECT count(*) FROM pg_index x WHERE x.indrelid = i.inhrelid),"
                 " (SELECT count(*) FROM pg_constraint c WHERE c.conrelid = i.inhrelid)"
                 " FROM pg_inherits i WHERE i.inhparent = 'heartbeats'::regclass")
        ).all()  # fmt: skip
        assert len(set(counts)) == 1
        with pytest.raises(DBAPIError), connection.begin_nested():
            connection.execute(text("UPDATE heartbeats SET kind = 'odd'"))


def test_retention_keeps_the_days_that_it_says(restored: Engine) -> None:
    with restored.begin() as connection:
        now = today(connection)
        add_days(connection, -2, -6, -7, -8, -30)
        assert drop_partitions(connection, keep_days=7) == [now - timedelta(days=30), now - timedelta(days=8)]
        assert partition_days(connection)[:3] == [now - timedelta(days=n) for n in (7, 6, 2)]
        assert drop_partitions(connection, keep_days=7) == []
        assert days_ahead(connection) == 14


def test_making_a_partition_does_not_wait_for_inserts_nor_they_for_it(restored: Engine) -> None:
    with restored.connect() as writer, restored.connect() as maker:
        writer.execute(BEAT, {"at": datetime.now(UTC)})  # and stays open
        maker.execute(text("SET LOCAL lock_timeout = '500ms'"))
        assert len(make_partitions(maker, ahead=16)) == 2
        with restored.connect() as other:
            other.execute(text("SET LOCAL lock_timeout = '500ms'"))
            other.execute(BEAT, {"at": datetime.now(UTC)})  # while the maker has not committed
            other.rollback()
        maker.commit()
        writer.rollback()


def test_dropping_gives_way_to_a_long_reader(restored: Engine) -> None:
    with restored.begin() as connection:
        add_days(connection, -30)
    with restored.connect() as reader:
        reader.execute(text("SELECT count(*) FROM heartbeats"))
        with restored.connect() as dropper:
            dropper.execute(text("SET LOCAL lock_timeout = '100ms'"))
            with pytest.raises(DBAPIError) as caught:
                drop_partitions(dropper, keep_days=7)
            assert isinstance(caught.value.orig, psycopg2.errors.LockNotAvailable)
        reader.rollback()


def test_makers_at_once_do_not_trip_over_each_other(restored: Engine) -> None:
    barrier = threading.Barrier(4)

    def make(_: int) -> int:
        barrier.wait(timeout=20)
        return in_transaction(restored, lambda s: len(make_partitions(s.connection(), ahead=18)))

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(make, range(4))) == 4


def test_a_day_begins_at_midnight_in_utc(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL timezone = 'Pacific/Auckland'"))
        tomorrow = today(connection) + timedelta(days=1)
        midnight = datetime(tomorrow.year, tomorrow.month, tomorrow.day, tzinfo=UTC)
        before = midnight - timedelta(microseconds=1)
        assert connection.execute(BEAT, {"at": midnight}).scalar() == f"heartbeats_p{tomorrow:%Y%m%d}"
        assert (
            connection.execute(BEAT, {"at": before}).scalar()
            == f"heartbeats_p{tomorrow - timedelta(days=1):%Y%m%d}"
        )


def test_a_day_without_a_partition_is_an_error(engine: Engine) -> None:
    with engine.connect() as connection, pytest.raises(DBAPIError, match="no partition"):
        connection.execute(BEAT, {"at": datetime.now(UTC) + timedelta(days=400)})
