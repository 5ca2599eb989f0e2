"""Telling people where something changes in the middle: routes, targets, acknowledgements, parents, other workers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event, text

from medic import alerts, heartbeats, route_store, services
from medic.db import in_transaction, transaction
from medic.deliveries.failover import next_in_route
from medic.sweep import sweep_batch
from tests.monitoring.fleet import ACTOR, Fleet, at
from tests.monitoring.test_notices import route, target, told
from tests.waiting import eventually

LOOK = 300
"""How often an alert that nobody can be told of looks for a route."""


@contextmanager
def statements(fleet: Fleet) -> Iterator[list[str]]:
    """What this thread sends to the database meanwhile."""
    seen: list[str] = []
    own = threading.get_ident()

    def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if threading.get_ident() == own:
            seen.append(statement)

    event.listen(fleet.engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(fleet.engine, "before_cursor_execute", note)


def waiting_for_locks(fleet: Fleet) -> bool:
    return bool(
        fleet.rows(
            "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
    )


def beside(fleet: Fleet, work: Callable[[], Any]) -> ThreadPoolExecutor:
    """Start work that comes to stand behind a lock."""
    pool = ThreadPoolExecutor(1)
    pool.submit(work)
    eventually(lambda: waiting_for_locks(fleet))
    return pool


@pytest.mark.parametrize("kind", ["silent", "lost"])
def test_a_batch_takes_as_many_statements_for_many_services_as_for_few(fleet: Fleet, kind: str) -> None:
    for name in ("chat", "pager"):
        target(fleet, name)
    route(fleet, "ladder", ["chat"], ["pager"], escalate_after_s=60)
    sent: list[list[list[str]]] = []
    for number in (10, 400):
        fleet.run("DELETE FROM alerts")
        fleet.run("DELETE FROM services")
        for one in range(number):
            fleet.service(f"job-{one}", every_s=60, renotify_every_s=60, max_runtime_s=30)
        if kind == "lost":
            names = [f"job-{one}" for one in range(number)]
            for when, sort in ((1, "start"), (2, "ok"), (3, "ok")):
                fleet.write([fleet.signal(name, sort) for name in names], when=when)
        rounds = []
        for when in (5, 80, 150):  # judged, opened and told, told again and escalated
            with statements(fleet) as seen:
                fleet.sweep(when)
            rounds.append(seen)
        fleet.write([fleet.signal(f"job-{one}") for one in range(number)], when=160)
        with statements(fleet) as seen:
            assert fleet.sweep(160).resolved == number
        sent.append([*rounds, seen])
        if kind == "lost":
            assert fleet.rows("SELECT count(*) AS n FROM runs WHERE state = 'lost'")[0]["n"] == number
    few, many = sent
    assert [len(seen) for seen in few] == [len(seen) for seen in many], sent


def test_an_alert_without_a_route_is_told_when_there_is_one(fleet: Fleet) -> None:
    fleet.service(every_s=3600, renotify_every_s=60)
    fleet.beat("web", "fail", when=70)
    fleet.sweep_until(200, since=70, step=5)
    assert (fleet.alerts()[0]["told_at"], fleet.due()) == (None, 70 + LOOK)
    target(fleet, "chat")
    route(fleet, "all", ["chat"])
    fleet.sweep_until(600, since=205, step=5)
    assert told(fleet)[:2] == [("opened", "chat", 370), ("renotified", "chat", 430)]
    assert [kind for kind, _, _ in fleet.story()[:2]] == ["opened", "renotified"]
    assert fleet.alerts()[0]["held"] is None


def test_an_alert_of_the_night_is_told_when_the_hours_of_its_route_begin(fleet: Fleet) -> None:
    target(fleet, "office")
    hours = {day: [["00:10", "24:00"]] for day in ("mon", "tue", "wed", "thu", "fri", "sat", "sun")}
    fleet.run(
        "INSERT INTO calendars (name, hours) VALUES ('office', CAST(:hours AS jsonb))",
        hours=json.dumps(hours),
    )
    calendar_id = fleet.rows("SELECT id FROM calendars")[0]["id"]
    route(fleet, "day", ["office"], period="during_hours", calendar_id=calendar_id)
    fleet.service(every_s=86_000, grace_s=0)
    fleet.beat("web", "fail", when=100)
    fleet.sweep_until(1000, since=100, step=5)
    assert told(fleet) == [("opened", "office", 700)]


def test_who_is_told_again_is_whom_a_route_names_now(fleet: Fleet) -> None:
    for name in ("old", "new"):
        target(fleet, name)
    route(fleet, "old", ["old"])
    fleet.service(every_s=3600, renotify_every_s=60)
    fleet.beat("web", "fail", when=70)
    fleet.sweep(70)
    fleet.run("DELETE FROM routes WHERE name = 'old'")
    fleet.sweep_until(200, since=75, step=5)
    assert [kind for kind, _, _ in fleet.story()] == ["opened"]  # nobody was told again
    route(fleet, "new", ["new"])
    fleet.sweep_until(480, since=205, step=5)
    fleet.beat("web", when=485)
    fleet.sweep(485)
    assert told(fleet) == [
        ("opened", "old", 70), ("renotified", "new", 430), ("resolved", "old", 485), ("resolved", "new", 485),
    ]  # fmt: skip


def test_after_an_outage_of_medic_a_reminder_comes_once_and_levels_one_by_one(fleet: Fleet) -> None:
    for name in ("first", "second", "third"):
        target(fleet, name)
    route(fleet, "ladder", ["first"], ["second"], ["third"], escalate_after_s=60)
    fleet.service(every_s=3600, renotify_every_s=60)
    fleet.beat("web", "fail", when=70)
    fleet.sweep(70)
    fleet.sweep(3000)
    assert told(fleet)[1:] == [("renotified", "first", 3000), ("escalated", "second", 3000)]
    fleet.sweep_until(3059, since=3001, step=1)
    assert len(told(fleet)) == 3
    fleet.sweep(3060)
    assert told(fleet)[-1] == ("escalated", "third", 3060)


def test_a_route_that_escalates_sooner_does_so_for_alerts_that_are_open(fleet: Fleet) -> None:
    for name in ("first", "second"):
        target(fleet, name)
    levels = (("first",), ("second",))

    def store(when: float, after: int) -> None:
        wish = route_store.Wish(levels=levels, escalate_after_s=after)
        in_transaction(
            fleet.engine, lambda s: route_store.put(s, name="ladder", wish=wish, actor=ACTOR, now=at(when))
        )

    store(0, 7200)
    fleet.service(every_s=30_000, grace_s=0)
    fleet.beat("web", "fail", when=70)
    fleet.sweep(70)
    store(75, 60)
    fleet.sweep_until(140, since=75, step=5)
    assert told(fleet) == [("opened", "first", 70), ("escalated", "second", 130)]


def test_an_acknowledgement_beside_a_sweep_stops_the_escalation_or_is_told_to_all(fleet: Fleet) -> None:
    for name in ("first", "second"):
        target(fleet, name)
    route(fleet, "ladder", ["first"], ["second"], escalate_after_s=60)
    fleet.service()
    fleet.sweep(70)
    (alert,) = fleet.alerts()
    with transaction(fleet.engine) as person:
        alerts.acknowledge(person, alert_id=alert["id"], actor=ACTOR, now=at(129))
        pool = beside(fleet, lambda: fleet.sweep(130))
    pool.shutdown()
    assert told(fleet) == [("opened", "first", 70), ("acknowledged", "first", 129)]


def test_an_acknowledgement_waits_for_the_sweep_that_tells_the_next_level(fleet: Fleet) -> None:
    for name in ("first", "second"):
        target(fleet, name)
    route(fleet, "ladder", ["first"], ["second"], escalate_after_s=60)
    fleet.service()
    fleet.sweep(70)
    (alert,) = fleet.alerts()

    def acknowledge() -> None:
        in_transaction(
            fleet.engine,
            lambda s: alerts.acknowledge(s, alert_id=alert["id"], actor=ACTOR, now=at(131)),
        )

    with transaction(fleet.engine) as sweeper:
        sweep_batch(sweeper, now=at(130))
        pool = beside(fleet, acknowledge)
    pool.shutdown()
    assert sorted(told(fleet))[:2] == [("acknowledged", "first", 131), ("acknowledged", "second", 131)]


def test_who_is_told_in_place_of_a_target_that_failed_hears_of_an_end_that_comes_meanwhile(
    fleet: Fleet,
) -> None:
    for name in ("first", "second"):
        target(fleet, name)
    route(fleet, "one", ["first", "second"], mode="notify_until_success")
    fleet.service()
    fleet.sweep(70)
    fleet.run("UPDATE deliveries SET state = 'failed', due_at = NULL, finished_at = now()")
    ids = [row["id"] for row in fleet.rows("SELECT id FROM deliveries")]
    fleet.beat("web", when=75)
    with transaction(fleet.engine) as courier:
        next_in_route(courier, ids, now=at(76))
        pool = beside(fleet, lambda: fleet.sweep(76))
    pool.shutdown()
    assert [(kind, name) for kind, name, _ in told(fleet)] == [
        ("opened", "first"), ("opened", "second"), ("resolved", "second"),
    ]  # fmt: skip


def test_an_end_that_is_being_written_leaves_nobody_to_tell_in_place_of_a_target_that_failed(
    fleet: Fleet,
) -> None:
    for name in ("first", "second"):
        target(fleet, name)
    route(fleet, "one", ["first", "second"], mode="notify_until_success")
    fleet.service()
    fleet.sweep(70)
    fleet.run("UPDATE deliveries SET state = 'failed', due_at = NULL, finished_at = now()")
    ids = [row["id"] for row in fleet.rows("SELECT id FROM deliveries")]
    fleet.beat("web", when=75)
    with transaction(fleet.engine) as sweeper:
        sweep_batch(sweeper, now=at(76))
        pool = beside(
            fleet, lambda: in_transaction(fleet.engine, lambda s: next_in_route(s, ids, now=at(76)))
        )
    pool.shutdown()
    assert [(kind, name) for kind, name, _ in told(fleet)] == [("opened", "first")]


@pytest.mark.parametrize("how", ["change", "delete"])
def test_a_child_is_let_go_when_what_stood_between_it_and_a_failing_parent_goes(
    fleet: Fleet, how: str
) -> None:
    target(fleet, "chat")
    route(fleet, "leaves", ["chat"], match=json.dumps({"service": "leaf"}))
    for name, parents in (("top", ()), ("middle", ("top",)), ("leaf", ("middle",))):
        fleet.service(name, every_s=30_000, depends_on=parents)
        fleet.beat(name, when=1)
    fleet.beat("top", "fail", when=50)
    fleet.sweep(50)
    fleet.beat("leaf", "fail", when=60)
    fleet.sweep_until(200, since=60, step=5)
    assert told(fleet) == []
    if how == "change":
        fleet.change("middle", when=201, every_s=30_000)
    else:
        in_transaction(fleet.engine, lambda s: services.remove(s, name="middle", actor=ACTOR, now=at(201)))
    fleet.sweep(205)
    assert told(fleet) == [("opened", "chat", 205)]


def test_of_a_chain_that_recovers_in_the_middle_only_the_leaf_stays_quiet_until_the_top_recovers(
    fleet: Fleet,
) -> None:
    target(fleet, "chat")
    route(fleet, "all", ["chat"])
    for name, parents in (("top", ()), ("middle", ("top",)), ("leaf", ("middle",))):
        fleet.service(name, depends_on=parents)
    fleet.sweep(70)  # all three in one batch
    assert len(told(fleet)) == 1
    fleet.beat("middle", when=75)
    fleet.sweep_until(80, since=75, step=5)
    assert len(told(fleet)) == 1
    fleet.beat("top", when=85)
    fleet.sweep_until(95, since=85, step=5)
    assert told(fleet) == [("opened", "chat", 70), ("resolved", "chat", 85), ("opened", "chat", 90)]


def test_an_alert_that_opened_ended_and_opened_again_unseen_is_told_once(fleet: Fleet) -> None:
    target(fleet, "chat")
    route(fleet, "all", ["chat"])
    fleet.service(every_s=3600)
    for when, kind in ((10, "fail"), (20, "ok"), (30, "fail"), (40, "ok"), (50, "fail")):
        fleet.beat("web", kind, when=when)
    fleet.sweep(60)
    assert [row["resolution"] for row in fleet.alerts()] == ["recovered", "recovered", None]
    assert told(fleet) == [("opened", "chat", 60)]
    (payload,) = [row["payload"] for row in fleet.rows("SELECT payload FROM deliveries")]
    assert payload["alert"]["id"] == fleet.alerts()[-1]["id"]


def test_what_changes_while_it_is_kept_back_is_told_as_it_is_in_the_end(fleet: Fleet) -> None:
    target(fleet, "chat")
    route(fleet, "all", ["chat"])
    fleet.service(max_runtime_s=30)
    fleet.run(
        "INSERT INTO mutes (service_id, reason, created_by, created_at, ends_at, due_at)"
        " SELECT id, 'known', 'me', :now, :end, :end FROM services", now=at(0), end=at(200)
    )  # fmt: skip
    fleet.beat("web", "start", when=1, run_id="a")
    fleet.sweep_until(75, since=5, step=5)  # overrun, then missed
    fleet.beat("web", "fail", when=80, run_id="a")
    fleet.sweep_until(100, since=80, step=5)
    (alert,) = fleet.alerts()
    in_transaction(
        fleet.engine, lambda s: alerts.acknowledge(s, alert_id=alert["id"], actor=ACTOR, now=at(101))
    )
    fleet.run("UPDATE mutes SET ended_at = ends_at, due_at = NULL")
    fleet.run("UPDATE service_states SET due_at = :now", now=at(200))
    fleet.sweep_until(600, since=200, step=5)
    assert told(fleet) == [("opened", "chat", 200)]
    (row,) = fleet.rows("SELECT payload FROM deliveries")
    assert row["payload"]["alert"]["reasons"] == alert["reasons"]
    assert "overrun" not in alert["reasons"]
    assert row["payload"]["alert"]["acknowledged_by"] == str(ACTOR)


def test_a_sweep_that_wakes_a_child_beside_ingest_that_waits_for_its_parent_sets_nothing_aside(
    fleet: Fleet,
) -> None:
    """They lock in opposite order; whichever PostgreSQL lets go tries once more."""
    fleet.service("a-child")
    fleet.service("b-parent")
    fleet.change("a-child", when=1, every_s=60, depends_on=("b-parent",))
    fleet.sweep(75)
    assert len(fleet.alerts()) == 2
    fleet.beat("b-parent", when=76)
    fleet.run("UPDATE service_states SET due_at = :far WHERE service_id ="
              " (SELECT id FROM services WHERE name = 'a-child')", far=at(9000))  # fmt: skip
    claimed, locked = threading.Event(), threading.Event()
    tries: list[int] = []

    def sweep(session: Any) -> Any:
        tries.append(1)
        if tries.count(1) == 1:
            # The parent's row first, as the sweep's claim takes it; then what the claim found.
            session.execute(text("SELECT 1 FROM service_states s JOIN services v ON v.id = s.service_id"
                                 " WHERE v.name = 'b-parent' FOR NO KEY UPDATE OF s"))  # fmt: skip
            claimed.set()
            locked.wait(10)
            eventually(lambda: waiting_for_locks(fleet))
        return sweep_batch(session, now=at(80))

    def ingest(session: Any) -> None:
        tries.append(2)
        session.execute(text("SELECT 1 FROM service_states s JOIN services v ON v.id = s.service_id"
                             " WHERE v.name = 'a-child' FOR NO KEY UPDATE OF s"))  # fmt: skip
        locked.set()
        heartbeats.write(session, [fleet.signal("a-child"), fleet.signal("b-parent")], now=at(79))

    with ThreadPoolExecutor(2) as pool:
        swept = pool.submit(in_transaction, fleet.engine, sweep)
        assert claimed.wait(10)
        wrote = pool.submit(in_transaction, fleet.engine, ingest)
        result = swept.result(60)
        wrote.result(60)
    assert (result.set_aside, len(fleet.rows("SELECT 1 FROM heartbeats"))) == (0, 3)
    assert len(tries) == 3  # one of them lost
    fleet.sweep(81)
    assert all(row["resolved_at"] is not None for row in fleet.alerts())
