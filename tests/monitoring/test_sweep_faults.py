"""Sweepers beside each other and beside changes, and rows that cannot be judged."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from sqlalchemy import event, text
from structlog.testing import capture_logs

from medic import services
from medic.db import in_transaction
from medic.sweep import SET_ASIDE, sweep_batch
from medic.telemetry import metrics
from medic.times import format_time
from tests.monitoring.fleet import ACTOR, Fleet, at


def test_two_sweepers_at_once_open_one_alert_each(fleet: Fleet) -> None:
    for number in range(40):
        fleet.service(f"s{number:02}")
    fleet.sweep(0)
    with ThreadPoolExecutor(4) as pool:
        swept = list(pool.map(lambda _: fleet.sweep(100), range(8)))
    assert sum(one.opened for one in swept) == 40
    assert sorted(alert["service_name"] for alert in fleet.alerts()) == [f"s{n:02}" for n in range(40)]


def test_sweeps_and_deletions_at_once_neither_fail_nor_leave_an_open_alert(fleet: Fleet) -> None:
    names = [f"s{number:02}" for number in range(24)]
    for name in names:
        fleet.service(name)

    def remove(name: str) -> None:
        in_transaction(fleet.engine, lambda s: services.remove(s, name=name, actor=ACTOR, now=at(90)))

    with ThreadPoolExecutor(6) as pool:
        sweeps = [pool.submit(fleet.sweep, 80) for _ in range(6)]
        removals = [pool.submit(remove, name) for name in names]
        sweeps += [pool.submit(fleet.sweep, 80) for _ in range(6)]
        for job in [*sweeps, *removals]:
            job.result()
    assert {alert["resolution"] for alert in fleet.alerts()} <= {"deleted"}
    assert fleet.rows("SELECT 1 FROM services") == []


def test_the_policy_is_read_behind_the_lock_of_its_row(fleet: Fleet) -> None:
    """Joined to the locked row, a policy that changes in that moment would be the old one, and stay so."""
    fleet.service(every_s=86_400)
    fleet.sweep(0)
    fleet.change("web", when=10, every_s=60)
    statements: list[str] = []

    def seen(_connection: object, _cursor: object, sql: str, *_: object) -> None:
        statements.append(sql)

    event.listen(fleet.engine, "before_cursor_execute", seen)
    try:
        fleet.sweep(10)
    finally:
        event.remove(fleet.engine, "before_cursor_execute", seen)
    locking = next(n for n, sql in enumerate(statements) if "SKIP LOCKED" in sql)
    reading = next(n for n, sql in enumerate(statements) if "services.policy_since" in sql)
    assert locking < reading
    assert fleet.due() == 60


def test_a_parent_whose_child_is_held_by_another_is_looked_at_again_in_seconds(fleet: Fleet) -> None:
    fleet.service("parent", every_s=60)
    fleet.service("other", every_s=60)
    fleet.service("child", every_s=60, depends_on=("parent",))
    fleet.sweep(0)
    fleet.sweep(100)  # all three are down
    for name in ("parent", "other"):
        fleet.beat(name, when=110)
    child = "SELECT * FROM service_states t JOIN services s ON s.id = t.service_id WHERE s.name = 'child'"
    with fleet.engine.begin() as holder, capture_logs() as logged:
        holder.execute(text(f"{child} FOR UPDATE OF t"))
        swept = fleet.sweep(111)
    assert [line["event"] for line in logged] == ["sweep.row_busy"]
    assert (swept.resolved, swept.set_aside) == (1, 0)
    assert fleet.due("parent") == 116
    assert fleet.sweep(116).resolved == 1


def test_a_row_that_cannot_be_judged_is_set_aside_and_stops_nobody_else(fleet: Fleet) -> None:
    for name in ("a", "broken", "c"):
        fleet.service(name)
    fleet.sweep(0)
    fleet.run(
        'UPDATE service_states SET carried = \'{"base_at": 7, "what": []}\''
        " WHERE service_id = (SELECT id FROM services WHERE name = 'broken')"
    )
    with capture_logs() as logged:
        swept = fleet.sweep(100)
    assert [line["event"] for line in logged] == ["sweep.not_restored"]
    assert (swept.opened, swept.checked, swept.set_aside) == (2, 2, 1)
    assert {alert["service_name"] for alert in fleet.alerts()} == {"a", "c"}
    broken = fleet.state("broken")
    assert broken["due_at"] == at(100) + SET_ASIDE
    assert broken["carried"]["set_aside_at"] == format_time(at(100))


def test_a_verdict_that_cannot_be_written_is_set_aside_and_stops_nobody_else(fleet: Fleet) -> None:
    for name in ("a", "broken", "c"):
        fleet.service(name)
    fleet.sweep(0)
    # Its counter is at the end of the column's range: the next miss does not fit.
    fleet.run(
        "UPDATE service_states SET failures = 2147483647, status = 'late'"
        " WHERE service_id = (SELECT id FROM services WHERE name = 'broken')"
    )
    with capture_logs() as logged:
        swept = fleet.sweep(100)
    assert [line["event"] for line in logged] == ["sweep.not_written"]
    assert (swept.opened, swept.checked, swept.set_aside) == (2, 2, 1)
    assert {alert["service_name"] for alert in fleet.alerts()} == {"a", "c"}
    assert fleet.state("broken")["due_at"] == at(100) + SET_ASIDE


def test_what_is_rolled_back_and_written_again_one_by_one_counts_once(fleet: Fleet) -> None:
    for name in ("a", "broken", "c"):
        fleet.service(name, every_s=60, grace_s=10)
    fleet.sweep(0)
    fleet.beat("a", when=60)
    fleet.beat("c", when=60)
    fleet.sweep(100)
    fleet.beat("broken", when=125)
    fleet.run(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$"
    )
    fleet.run(
        "CREATE TRIGGER refuse BEFORE UPDATE ON alerts FOR EACH ROW WHEN (OLD.service_name = 'broken')"
        " EXECUTE FUNCTION refuse()"
    )
    before = counted()
    try:
        with capture_logs():
            swept = fleet.sweep(200)  # two open, and behind them the end of the third breaks
    finally:
        fleet.run("DROP FUNCTION refuse CASCADE")
    assert (swept.set_aside, swept.resolved) == (1, 0)
    assert swept.openings == [("p3", timedelta(seconds=70)), ("p3", timedelta(seconds=70))]
    assert counted() == before  # the caller counts, once it is committed


def counted() -> list[float | None]:
    return [
        metrics.REGISTRY.get_sample_value("medic_alerts_total", {"priority": "p3"}),
        metrics.REGISTRY.get_sample_value("medic_alerts_resolved_total"),
        metrics.REGISTRY.get_sample_value("medic_detection_latency_seconds_count"),
    ]


def test_a_batch_is_bounded_and_the_rest_stays_due(fleet: Fleet) -> None:
    fleet.run(
        "WITH made AS (INSERT INTO services (uuid, name, every_s, policy_since)"
        " SELECT gen_random_uuid(), 's' || n, 60, :since FROM generate_series(1, 501) n RETURNING id)"
        " INSERT INTO service_states (service_id, due_at) SELECT id, :since FROM made",
        since=at(0),
    )
    assert in_transaction(fleet.engine, lambda s: sweep_batch(s, now=at(0))).checked == 500
    assert in_transaction(fleet.engine, lambda s: sweep_batch(s, now=at(0))).checked == 1
    assert in_transaction(fleet.engine, lambda s: sweep_batch(s, now=at(0))).checked == 0
