"""Group commit: what arrives together is committed together, and an error concerns only its own."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from medic.db import make_engine
from medic.errors import Invalid, MedicError, Unavailable
from medic.group_commit import GroupCommit
from medic.heartbeats import Signal, Watched
from medic.local.servers import Servers
from medic.migrate import upgrade
from tests.waiting import eventually


def watch(engine: Engine, name: str = "web") -> Watched:
    with engine.begin() as connection:
        service_id = connection.execute(
            text("INSERT INTO services (uuid, name, every_s) VALUES (:uuid, :name, 60) RETURNING id"),
            {"uuid": uuid.uuid4(), "name": name},
        ).scalar_one()
        connection.execute(
            text("INSERT INTO service_states (service_id, due_at) VALUES (:id, now())"), {"id": service_id}
        )
    return Watched(service_id, name, 60, 1)


def stored(engine: Engine) -> int:
    with engine.connect() as connection:
        return connection.execute(text("SELECT count(*) FROM heartbeats")).scalar_one()


def waits_for_a_lock(engine: Engine) -> bool:
    with engine.connect() as connection:
        waiting = (
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return connection.execute(text(waiting)).first() is not None


@pytest.fixture
def group(engine: Engine) -> Iterator[GroupCommit]:
    made = GroupCommit(engine)
    yield made
    made.close()


def test_each_of_many_threads_is_answered_with_its_own_heartbeat(engine: Engine, group: GroupCommit) -> None:
    service = watch(engine)
    with ThreadPoolExecutor(32) as pool:
        answers = list(
            pool.map(lambda n: group.write([Signal(service, "ok", message=str(n))])[0].id, range(300))
        )
    with engine.connect() as connection:
        rows = dict(connection.execute(text("SELECT id, message FROM heartbeats")).all())
    assert {rows[answer] for answer in answers if answer} == {str(n) for n in range(300)}
    assert [rows[answer] for answer in answers if answer] == [str(n) for n in range(300)]


def test_callers_that_wait_together_share_a_transaction(engine: Engine, group: GroupCommit) -> None:
    service = watch(engine)
    with engine.connect() as blocker, blocker.begin():
        # The first group waits for this lock; whoever comes meanwhile gathers behind it.
        blocker.execute(text("SELECT 1 FROM service_states FOR UPDATE"))
        with ThreadPoolExecutor(20) as pool:
            first = pool.submit(group.write, [Signal(service, "ok")])
            eventually(lambda: waits_for_a_lock(engine))
            others = [pool.submit(group.write, [Signal(service, "ok")]) for _ in range(19)]
            eventually(lambda: group.depth == 19)
            blocker.rollback()
            times = {future.result()[0].received_at for future in others}
            alone = first.result()[0].received_at
    assert len(times) == 1
    assert times != {alone}


def test_a_value_that_postgresql_refuses_costs_its_neighbours_nothing(
    engine: Engine, group: GroupCommit
) -> None:
    service = watch(engine)
    bad = Signal(service, "ok", duration_ms=-1)
    outcomes: list[object] = []
    gate = threading.Barrier(9)

    def send(signal: Signal) -> None:
        gate.wait()
        try:
            outcomes.append(group.write([signal])[0].id)
        except MedicError as error:
            outcomes.append(error)

    with ThreadPoolExecutor(9) as pool:
        list(pool.map(send, [Signal(service, "ok")] * 4 + [bad] + [Signal(service, "ok")] * 4))
    refused = [outcome for outcome in outcomes if isinstance(outcome, MedicError)]
    assert len(refused) == 1
    assert isinstance(refused[0], Invalid)
    assert stored(engine) == 8


def test_a_service_that_was_deleted_a_moment_ago_stores_nothing(engine: Engine, group: GroupCommit) -> None:
    gone, there = watch(engine, "gone"), watch(engine, "there")
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM services WHERE id = :id"), {"id": gone.id})
    written = group.write([Signal(gone, "ok"), Signal(there, "ok")])
    assert written[0].id is None
    assert written[1].id is not None
    assert stored(engine) == 1


def test_a_full_queue_refuses_and_stores_nothing_of_what_it_refused(engine: Engine) -> None:
    group = GroupCommit(engine, queue_limit=2)
    service = watch(engine)
    with pytest.raises(Unavailable) as refused:
        group.write([Signal(service, "ok")] * 3)
    assert refused.value.retry_after > 0
    assert group.write([Signal(service, "ok")] * 2)[1].id is not None
    assert stored(engine) == 2
    group.close()


def test_closing_commits_what_was_accepted_and_takes_no_more(engine: Engine) -> None:
    group = GroupCommit(engine)
    service = watch(engine)
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(group.write, [Signal(service, "ok")]) for _ in range(50)]
        for future in futures:
            future.result()
        group.close()
        with pytest.raises(Unavailable):
            group.write([Signal(service, "ok")])
    assert stored(engine) == 50


def test_a_missing_partition_is_medics_fault_and_not_the_senders(engine: Engine, group: GroupCommit) -> None:
    service = watch(engine)
    with engine.begin() as connection:
        today = connection.execute(
            text("SELECT 'heartbeats_p' || to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')")
        ).scalar_one()
        connection.execute(text(f"ALTER TABLE heartbeats DETACH PARTITION {today}"))
    try:
        with pytest.raises(Unavailable):
            group.write([Signal(service, "ok")])
    finally:
        day = f"{today[-8:-4]}-{today[-4:-2]}-{today[-2:]}"
        with engine.begin() as connection:
            connection.execute(
                text(f"ALTER TABLE heartbeats ATTACH PARTITION {today} FOR VALUES FROM ('{day} 00:00+00')"
                     f" TO (timestamptz '{day} 00:00+00' + interval '1 day')")
            )  # fmt: skip
    assert group.write([Signal(service, "ok")])[0].id is not None


def test_a_database_that_is_away_is_told_and_comes_back_by_itself(tmp_path: Path) -> None:
    folder = tmp_path / "db"
    with Servers(folder, durable=False, valkey=False) as servers:
        upgrade(servers.database_url)
        engine = make_engine(servers.database_url)
        service = watch(engine)
        group = GroupCommit(engine)
        assert group.write([Signal(service, "ok")])[0].id is not None
        url = servers.database_url
    with pytest.raises(Unavailable):
        group.write([Signal(service, "ok")])
    with Servers(folder, durable=False, valkey=False) as servers:
        assert servers.database_url == url
        assert group.write([Signal(service, "ok")])[0].id is not None
        assert stored(engine) == 2
        group.close()
        engine.dispose()
