"""A process records that it hears, on the path of its heartbeats, and whom it refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, text

from medic import coverage, listening
from medic.db import in_transaction
from medic.errors import Unavailable
from medic.group_commit import GroupCommit
from medic.refusals import CAPACITY, Refusals, Refused
from tests.monitoring.fleet import Fleet
from tests.waiting import eventually


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records every 50 ms instead of every 5 s, and the rest as much faster."""
    monkeypatch.setattr(listening, "EVERY_S", 0.05)
    monkeypatch.setattr(listening, "AGAIN_S", 0.05)
    monkeypatch.setattr(listening, "REFUSING_S", 0.03)


@pytest.fixture
def fleet(engine: Engine) -> Fleet:
    return Fleet(engine)


@pytest.fixture
def group(engine: Engine, brisk: None) -> Iterator[GroupCommit]:
    made = GroupCommit(engine, queue_limit=10)
    yield made
    made.close()


def rows(fleet: Fleet) -> list[dict[str, Any]]:
    return fleet.rows("SELECT * FROM coverage ORDER BY since")


def refused(fleet: Fleet) -> list[tuple[str, int]]:
    return [
        (row["kind"], row["count"])
        for row in fleet.rows("SELECT kind, count FROM refusals ORDER BY kind, service_id")
    ]


def test_a_process_that_hears_nothing_records_that_it_would_and_says_goodbye(
    fleet: Fleet, group: GroupCommit
) -> None:
    group.listen()
    (first,) = eventually(lambda: rows(fleet))
    eventually(lambda: rows(fleet)[0]["until"] > first["until"])
    assert group.uncovered_s < 5
    group.close()
    (last,) = rows(fleet)
    assert (last["process"], last["since"], last["closed"]) == (first["process"], first["since"], True)


def test_it_records_between_its_groups_as_well(fleet: Fleet, group: GroupCommit) -> None:
    fleet.service()
    group.listen()
    (first,) = eventually(lambda: rows(fleet))

    def moved() -> bool:
        group.write([fleet.signal("web")])
        return rows(fleet)[0]["until"] > first["until"]

    eventually(moved, every=0.001)


def test_who_does_not_listen_leaves_no_record(fleet: Fleet, engine: Engine, brisk: None) -> None:
    fleet.service()
    group = GroupCommit(engine, queue_limit=1)
    group.write([fleet.signal("web")])
    with pytest.raises(Unavailable):
        group.write([fleet.signal("web")] * 2)
    group.refused(["web"], "limit")
    group.close()
    assert (rows(fleet), refused(fleet), group.uncovered_s) == ([], [], 0)


@pytest.mark.parametrize(("age", "extends"), [(9.5, True), (10.5, False)])
def test_a_record_extends_the_one_before_it_within_ten_seconds(
    fleet: Fleet, engine: Engine, age: float, extends: bool
) -> None:
    process = uuid4()
    fleet.run("INSERT INTO coverage (process, since, until) VALUES (:p, now() - interval '1 h',"
              " now() - make_interval(secs => :age))", p=process, age=age)  # fmt: skip
    with engine.begin() as connection:
        coverage.record(connection, process)
        coverage.record(connection, uuid4())
    own = fleet.rows("SELECT * FROM coverage WHERE process = :p ORDER BY since", p=process)
    assert len(own) == (1 if extends else 2)
    assert own[-1]["until"] > own[0]["since"]


def test_a_goodbye_after_a_silence_does_not_hide_it(fleet: Fleet, engine: Engine) -> None:
    process = uuid4()
    fleet.run("INSERT INTO coverage (process, since, until) VALUES (:p, now() - interval '1 h',"
              " now() - interval '40 s')", p=process)  # fmt: skip
    with engine.begin() as connection:
        coverage.record(connection, process, closed=True)
    old, last = rows(fleet)
    assert (old["closed"], last["closed"], last["since"] == last["until"]) == (False, True, True)
    (gap,) = look(engine)
    assert gap.start == old["until"]
    assert gap.end >= last["until"]


def look(engine: Engine) -> tuple[Any, ...]:
    def work(session: Any) -> tuple[Any, ...]:
        now: datetime = session.execute(text("SELECT clock_timestamp()")).scalar_one()
        since: datetime = session.execute(text("SELECT now() - interval '2 h'")).scalar_one()
        return coverage.blind_intervals(session, since=since, now=now)

    return in_transaction(engine, work)


@pytest.fixture
def broken(engine: Engine) -> Iterator[Callable[[], None]]:
    """PostgreSQL takes no heartbeats, as with a full disk; the call mends it."""
    function = (
        "CREATE FUNCTION test_full() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'test' USING ERRCODE = '53100'; END $$"
    )
    trigger = "CREATE TRIGGER test_full BEFORE INSERT ON heartbeats EXECUTE FUNCTION test_full()"

    def run(*todo: str) -> None:
        with engine.begin() as connection:
            for statement in todo:
                connection.execute(text(statement))

    run(function, trigger)
    yield lambda: run("DROP FUNCTION IF EXISTS test_full CASCADE")
    run("DROP FUNCTION IF EXISTS test_full CASCADE")


def test_while_groups_cannot_be_stored_nothing_is_recorded_but_whom_it_cost(
    fleet: Fleet, engine: Engine, monkeypatch: pytest.MonkeyPatch, broken: Callable[[], None]
) -> None:
    monkeypatch.setattr(listening, "EVERY_S", 0.02)
    monkeypatch.setattr(listening, "AGAIN_S", 0.02)
    fleet.service()
    group = GroupCommit(engine)
    group.listen()
    with pytest.raises(Unavailable):
        group.write([fleet.signal("web")])
    until = eventually(lambda: rows(fleet))[0]["until"]
    for _ in range(5):
        with pytest.raises(Unavailable):
            group.write([fleet.signal("web")])
    eventually(lambda: refused(fleet) == [("queue", 6)])
    assert rows(fleet)[0]["until"] == until
    broken()
    group.write([fleet.signal("web")])  # what is stored is the proof that it hears
    eventually(lambda: rows(fleet)[0]["until"] > until)
    group.close()


def test_a_full_queue_is_a_refusal_of_each_service_that_found_no_room(
    fleet: Fleet, group: GroupCommit
) -> None:
    fleet.service("web")
    fleet.service("db")
    group.listen()
    with pytest.raises(Unavailable):
        group.write([fleet.signal("web")] * 9 + [fleet.signal("db")] * 2)
    eventually(lambda: refused(fleet) == [("queue", 9), ("queue", 2)])
    eventually(lambda: rows(fleet))


def test_refusals_of_one_service_within_ten_seconds_are_one_row_whoever_refused(
    fleet: Fleet, engine: Engine
) -> None:
    ids = {name: fleet.service(name) for name in ("web", "db")}
    at = 1000.0

    def keep(*found: Refused) -> None:
        with engine.begin() as connection:
            coverage.record_refusals(connection, found)

    monotonic = pytest.MonkeyPatch()
    monotonic.setattr(coverage.time, "monotonic", lambda: at)
    try:
        keep(Refused(ids["web"], "limit", at - 30, at - 25, 3), Refused("web", "limit", at - 28, at - 24, 2))
        keep(
            Refused("web", "limit", at - 15, at - 15),
            Refused("db", "limit", at, at),
            Refused("nobody", "limit", at, at),
        )
        keep(Refused("web", "queue", at - 14, at - 14), Refused("web", "limit", at - 2, at - 2, 7))
    finally:
        monotonic.undo()
    found = fleet.rows("SELECT service_id, kind, count, extract(epoch FROM until - since)::int AS s FROM refusals"
                       " ORDER BY since")  # fmt: skip
    assert [(row["service_id"], row["kind"], row["count"], row["s"]) for row in found] == [
        (ids["web"], "limit", 6, 15), (ids["web"], "queue", 1, 0), (ids["web"], "limit", 7, 0), (ids["db"], "limit", 1, 0),
    ]  # fmt: skip

    def read(session: Any) -> dict[int, tuple[Any, ...]]:
        now = session.execute(text("SELECT now() + interval '1 min'")).scalar_one()
        since = session.execute(text("SELECT now() - interval '1 h'")).scalar_one()
        return coverage.refused_intervals(session, ids.values(), since=since, now=now)

    seen = in_transaction(engine, read)
    assert {key: len(gaps) for key, gaps in seen.items()} == {ids["web"]: 3, ids["db"]: 1}
    assert all(gap.start < gap.end for gaps in seen.values() for gap in gaps)


def test_what_is_remembered_is_bounded_and_no_name_breaks_it() -> None:
    held = Refusals()
    held.note(["web", "web", "we\0b", "", "UPPER", "x" * 300], "limit")
    held.note(range(CAPACITY + 10), "queue")
    first = held.take(1)
    assert [(one.service, one.count) for one in first] == [("web", 2)]
    held.note(["web"], "limit")
    held.give_back(first)
    taken = held.take(CAPACITY * 2)
    assert len(taken) == CAPACITY
    assert [one.count for one in taken if one.service == "web"] == [3]
    assert not held


FORK = """
import os, sys
from medic.db import make_engine
from medic.group_commit import GroupCommit
from medic.heartbeats import Signal, Watched

engine = make_engine(sys.argv[1])
group = GroupCommit(engine)
group.listen()
service = Watched(int(sys.argv[2]), "web", 60, 1)
group.write([Signal(service, "ok")])
if os.fork() == 0:
    group.write([Signal(service, "ok")])
    group.close()
    os._exit(0)
os.wait()
group.write([Signal(service, "ok")])
group.close()
"""


def test_a_fork_is_a_process_of_its_own(fleet: Fleet, database_url: str) -> None:
    service = fleet.service()
    subprocess.run([sys.executable, "-c", FORK, database_url, str(service)], check=True, timeout=60)
    found = rows(fleet)
    assert len({UUID(str(row["process"])) for row in found}) == 2
    assert all(row["closed"] for row in found)
    assert fleet.rows("SELECT count(*) AS n FROM heartbeats") == [{"n": 3}]
