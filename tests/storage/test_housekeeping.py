"""Ticks, and what retention lets go."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from sqlalchemy import Engine, text

from medic import settings as settings_
from medic.db import in_transaction
from medic.partitions import partition_days, today
from medic.ticks import take_tick

HOUR = timedelta(hours=1)


def test_of_many_beats_at_once_one_takes_the_tick(engine: Engine) -> None:
    for _ in range(3):
        with ThreadPoolExecutor(6) as pool:
            taken = list(
                pool.map(
                    lambda _: in_transaction(engine, lambda s: take_tick(s, "sweep", at_least=HOUR)), range(6)
                )
            )
        assert sum(taken) == 1
        with engine.begin() as connection:
            connection.execute(text("UPDATE ticks SET last_at = last_at - interval '1 hour'"))


def test_each_job_has_its_own_ticks(engine: Engine) -> None:
    for job in ("a", "b"):
        assert in_transaction(engine, lambda s, job=job: take_tick(s, job, at_least=HOUR))
    assert not in_transaction(engine, lambda s: take_tick(s, "a", at_least=HOUR))
    assert in_transaction(engine, lambda s: take_tick(s, "a", at_least=timedelta(0)))


def test_retention_lets_go_of_what_is_old_and_keeps_the_rest(engine: Engine, here: None) -> None:
    from medic_tasks import housekeeping

    keep = settings_.current().heartbeat_retention_days
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO services (id, uuid, name, every_s) OVERRIDING SYSTEM VALUE"
                 " VALUES (1, gen_random_uuid(), 'web', 60)")
        )  # fmt: skip
        old = today(connection) - timedelta(days=keep + 1)
        connection.execute(
            text(f"CREATE TABLE heartbeats_p{old:%Y%m%d} PARTITION OF heartbeats"
                 f" FOR VALUES FROM ('{old} 00:00+00') TO ('{old + timedelta(days=1)} 00:00+00')")
        )  # fmt: skip
        for age in (keep + 1, keep - 1):
            connection.execute(
                text("INSERT INTO heartbeat_ids VALUES (1, :id, 1, now() - :age)"),
                {"id": f"{age}", "age": timedelta(days=age)},
            )
        for key, end in (("old", "-1 hour"), ("new", "1 hour")):
            connection.execute(
                text("INSERT INTO idempotency_keys VALUES ('me', :key, 'x', 200, '{}', now(), now() + :end)"),
                {"key": key, "end": end},
            )
    assert housekeeping.retention() == "dropped 1 days, 1 heartbeat_ids, 1 idempotency_keys"
    assert housekeeping.retention() == "surplus tick"
    with engine.connect() as connection:
        assert old not in partition_days(connection)
        assert connection.execute(text("SELECT id FROM heartbeat_ids")).scalars().all() == [f"{keep - 1}"]
        assert connection.execute(text("SELECT key FROM idempotency_keys")).scalars().all() == ["new"]


def test_partitions_are_made_by_the_task(engine: Engine, here: None) -> None:
    from medic_tasks import housekeeping

    with engine.begin() as connection:
        far = today(connection) + timedelta(days=14)
        connection.execute(text(f"DROP TABLE heartbeats_p{far:%Y%m%d}"))
    assert housekeeping.partitions() == "made 1"
    assert housekeeping.partitions() == "made 0"


def test_days_are_rolled_up_by_the_task(engine: Engine, here: None) -> None:
    from medic_tasks import housekeeping

    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO services (id, uuid, name, every_s, created_at) OVERRIDING SYSTEM VALUE"
                 " VALUES (1, gen_random_uuid(), 'web', 60, now() - interval '3 days')")
        )  # fmt: skip
        connection.execute(text("INSERT INTO service_states (service_id) VALUES (1)"))
    # Within five minutes of midnight, yesterday is not over yet.
    assert housekeeping.days() in {"wrote 3", "wrote 2"}
    assert housekeeping.days() == "surplus tick"
