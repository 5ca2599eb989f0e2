"""Many writers at once, beside each other and beside the sweep."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import text

from medic import heartbeats
from medic.db import in_transaction, transaction
from medic.heartbeats import Written
from medic.sweep import sweep_batch
from tests.monitoring.fleet import Fleet


def quiet(fleet: Fleet, name: str = "web", **policy: object) -> None:
    """A service that is up, and whose row ingest may push ahead: due at 60."""
    fleet.service(name, **policy)
    fleet.beat(name, when=0)
    fleet.sweep(0)
    assert fleet.state(name)["quiet"]


def test_the_same_id_on_many_connections_at_once_counts_once(fleet: Fleet) -> None:
    fleet.service()
    barrier = threading.Barrier(4)

    def send(_: int) -> list[Written]:
        barrier.wait(timeout=20)
        return fleet.write([fleet.signal("web", client_id=f"x{number}") for number in range(10)])

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(send, range(4)))
    assert len(fleet.rows("SELECT 1 FROM heartbeats")) == 10
    assert len({tuple(one.id for one in answer) for answer in answers}) == 1, "all get the same ids"
    assert sum(not one.is_repeat for answer in answers for one in answer) == 10


def test_writers_of_the_same_services_in_opposite_order_do_not_deadlock(fleet: Fleet) -> None:
    names = [f"s{number:02}" for number in range(20)]
    for name in names:
        fleet.service(name)
    barrier = threading.Barrier(4)

    def send(turn: int) -> None:
        order = names if turn % 2 else names[::-1]
        for _ in range(15):
            barrier.wait(timeout=20)
            with transaction(fleet.engine) as session:  # not retried: a deadlock would show
                heartbeats.write(session, [fleet.signal(name, "start", run_id=f"{turn}") for name in order])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(send, range(4)))
    assert fleet.rows("SELECT count(*) AS n FROM heartbeats") == [{"n": 4 * 15 * 20}]


def test_ids_of_a_service_grow_in_the_order_of_commits(fleet: Fleet) -> None:
    """Whoever has read up to an id never finds a smaller one later: the sweep's cursor stands on it."""
    fleet.service("a")
    fleet.service("b")
    stop = threading.Event()

    def send(turn: int) -> None:
        # Both services in one transaction, so that one waits in the middle for the lock of the other.
        for number in range(60):
            signals = [fleet.signal("a"), fleet.signal("b")] if (turn + number) % 3 else [fleet.signal("b")]
            fleet.write(signals)

    def read() -> int:
        seen: set[int] = set()
        newest, looks = 0, 0
        with fleet.engine.connect() as connection:
            while True:
                last_look = stop.is_set()
                ids = set(
                    connection.execute(
                        text(
                            "SELECT h.id FROM heartbeats h JOIN services s ON s.id = h.service_id WHERE s.name = 'b'"
                        )
                    ).scalars()
                )
                connection.rollback()
                assert all(one > newest for one in ids - seen), "an id came behind the cursor"
                seen, newest, looks = ids, max(ids, default=0), looks + 1
                if last_look:
                    return looks

    with ThreadPoolExecutor(5) as pool:
        reader = pool.submit(read)
        try:
            list(pool.map(send, range(4)))
        finally:
            stop.set()
        assert reader.result() > 3
    assert fleet.rows("SELECT count(*) AS n FROM heartbeats h JOIN services s ON s.id = h.service_id"
                      " WHERE s.name = 'b'") == [{"n": 240}]  # fmt: skip


def test_a_sweeper_among_many_writers_loses_no_signal(fleet: Fleet) -> None:
    """The failures come last, while the row changes hands all the time."""
    names = ("a", "b", "c")
    for name in names:
        quiet(fleet, name, every_s=86_400)
    done = threading.Event()

    def send(_: int) -> None:
        for _ in range(40):
            fleet.write([fleet.signal(name) for name in names])

    def sweeps() -> None:
        while not done.is_set():
            in_transaction(fleet.engine, sweep_batch)
        in_transaction(fleet.engine, sweep_batch)

    with ThreadPoolExecutor(4) as pool:
        sweeper = pool.submit(sweeps)
        try:
            list(pool.map(send, range(3)))
            for name in names:
                fleet.write([fleet.signal(name, "fail")])
        finally:
            done.set()
        sweeper.result()
    assert sorted((row["service_name"], *row["reasons"]) for row in fleet.alerts()) == [
        (n, "failed") for n in names
    ]
    newest = fleet.rows("SELECT service_id, max(id) AS id FROM heartbeats GROUP BY service_id")
    folded = {row["service_id"]: row["folded_id"] for row in fleet.rows("SELECT * FROM service_states")}
    assert {row["service_id"]: row["id"] for row in newest} == folded
