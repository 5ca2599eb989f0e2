"""What windows, mutes and parents keep back, and how it is told afterwards: once, on the real database."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from medic import alerts, mutes, windows
from medic.db import in_transaction, transaction
from medic.errors import Conflict, PreconditionFailed
from medic.models.monitoring import Service
from medic.suppression import Held, held_back
from medic.windows import Place, Plan
from tests.monitoring.fleet import ACTOR, T0, Fleet, at


@pytest.fixture
def chat(fleet: Fleet) -> Fleet:
    """Every alert and every notice goes to one target."""
    fleet.run("INSERT INTO targets (name, kind) VALUES ('chat', 'webhook')")
    fleet.run("INSERT INTO routes (name, is_default) VALUES ('rest', true)")
    fleet.run("INSERT INTO route_targets (route_id, target_id) SELECT r.id, t.id FROM routes r, targets t")
    return fleet


def told(fleet: Fleet) -> list[tuple[str, str, float]]:
    """Every message: its kind, its service, and when it was put into the outbox."""
    rows = fleet.rows("SELECT * FROM deliveries ORDER BY created_at, id")
    return [
        (row["kind"], row["payload"]["alert"]["service"], (row["created_at"] - T0).total_seconds())
        for row in rows
    ]


def window(
    fleet: Fleet, start: float, end: float, *, name: str = "work", when: float = 0, **rest: Any
) -> None:
    plan = Plan(**{"selector": {"all": True}, "starts_at": at(start), "ends_at": at(end), **rest})
    in_transaction(fleet.engine, lambda s: windows.put(s, name=name, plan=plan, actor=ACTOR, now=at(when)))


def mute(fleet: Fleet, service: str, until: float, *, when: float = 0) -> int:
    return in_transaction(
        fleet.engine,
        lambda s: (
            mutes.create(s, service=service, reason="known", ends_at=at(until), actor=ACTOR, now=at(when)).id
        ),
    )


def tick(fleet: Fleet, when: float) -> int:
    """What the tick of suppression does, in one transaction."""
    return in_transaction(
        fleet.engine, lambda s: windows.end_due(s, now=at(when)) + mutes.end_due(s, now=at(when))
    )


def run(fleet: Fleet, since: float, until: float, step: float = 5) -> None:
    moment = since
    while moment <= until:
        tick(fleet, moment)
        fleet.sweep(moment)
        moment += step


def held(fleet: Fleet, names: Sequence[str], when: float) -> dict[str, Held]:
    with transaction(fleet.engine) as session:
        found = {s.id: s for s in session.scalars(select(Service).where(Service.name.in_(names)))}
        seen = {row["service_id"]: row["detected_at"] for row in fleet.alerts() if row["resolved_at"] is None}
        seen = {service_id: seen.get(service_id, at(when)) for service_id in found}
        back = held_back(session, list(found.values()), seen, now=at(when))
    return {found[service_id].name: one for service_id, one in back.items()}


def why(fleet: Fleet, name: str, when: float) -> list[tuple[str, str | None]]:
    found = held(fleet, [name], when).get(name)
    return [(reason["kind"], reason.get("name")) for reason in found.by] if found else []


def test_a_window_keeps_quiet_and_what_still_fails_at_its_end_is_told_once(chat: Fleet) -> None:
    window(chat, 60, 300)
    chat.service("web")
    chat.service("back-soon")
    run(chat, 60, 100)
    assert [len(chat.alerts(name)) for name in ("web", "back-soon")] == [1, 1]  # judged all the same
    assert chat.alerts("web")[0]["held"]["by"] == [
        {"kind": "window", "name": "work", "until": at(300).isoformat()[:-6] + "Z"}
    ]
    chat.beat("back-soon", when=110)
    for second in range(170, 400, 60):
        chat.beat("back-soon", when=second)
    run(chat, 105, 400)
    assert told(chat) == [("opened", "web", 300)]


def test_who_was_told_of_the_opening_is_told_of_the_end_within_a_window(chat: Fleet) -> None:
    chat.service("web")
    run(chat, 60, 80)
    window(chat, 90, 300, when=85)
    chat.beat("web", when=100)
    run(chat, 100, 105)
    assert told(chat) == [("opened", "web", 70), ("resolved", "web", 100)]


def test_triggers_wait_with_the_messages(chat: Fleet) -> None:
    chat.playbook(service_pattern="web", consecutive_failures=1)
    window(chat, 60, 200)
    chat.service("web")
    run(chat, 60, 195)
    assert chat.executions() == []
    run(chat, 200, 205)
    assert len(chat.executions()) == 1


@pytest.mark.parametrize(
    ("selector", "quiet"),
    [({"all": True}, {"web-1", "db-1", "misc"}), ({"services": ["web-*", "misc"]}, {"web-1", "misc"}),
     ({"tags": ["data"]}, {"db-1"}), ({"team": "sre"}, {"misc"}),
     ({"tags": ["data"], "team": "sre"}, {"db-1", "misc"})],
)  # fmt: skip
def test_a_window_is_for_the_services_that_it_selects_and_wakes_those(
    chat: Fleet, selector: dict[str, Any], quiet: set[str]
) -> None:
    chat.run("INSERT INTO teams (name) VALUES ('sre')")
    names = {"web-1", "db-1", "misc"}
    chat.service("web-1")
    chat.service("db-1", tags=("data",))
    chat.service("misc", team="sre")
    window(chat, 0, 100, selector=selector)
    chat.sweep(70)
    assert set(held(chat, sorted(names), 70)) == quiet
    chat.run("UPDATE service_states SET due_at = :far", far=at(9000))
    tick(chat, 100)
    assert {name for name in names if chat.due(name) == 100} == quiet


def test_overlapping_windows_hold_until_the_last_is_over(chat: Fleet) -> None:
    window(chat, 60, 200, name="one")
    window(chat, 150, 300, name="two")
    chat.service("web")
    run(chat, 60, 195)
    assert why(chat, "web", 180) == [("window", "one"), ("window", "two")]
    run(chat, 200, 400)
    assert told(chat) == [("opened", "web", 300)]


def test_a_recurring_window_goes_on_to_its_next_end(chat: Fleet) -> None:
    window(
        chat, 0, 0, starts_at=None, ends_at=None, cron="*/10 * * * *", duration=timedelta(minutes=3), when=30
    )
    (row,) = chat.rows("SELECT * FROM windows")
    assert row["due_at"] == at(180)
    for end in (180, 780, 1380):
        assert (tick(chat, end - 1), tick(chat, end)) == (0, 1)
    assert why(chat, "web", 0) == []
    chat.service("web", when=1000)
    chat.sweep(1070)
    assert (why(chat, "web", 1199), why(chat, "web", 1200), why(chat, "web", 1380)) == (
        [],
        [("window", "work")],
        [],
    )
    assert tick(chat, 90_000) == 1  # the ends that nobody came to are over together
    assert chat.rows("SELECT due_at FROM windows")[0]["due_at"] > at(90_000)


def test_start_and_end_are_told_once_if_asked_for_and_only_the_newest_of_what_was_slept_through(
    chat: Fleet,
) -> None:
    def notices() -> list[tuple[str, float]]:
        rows = chat.rows("SELECT * FROM deliveries WHERE kind = 'notice' ORDER BY id")
        return [(row["payload"]["text"], (row["created_at"] - T0).total_seconds()) for row in rows]

    window(chat, 60, 120, reason="new disks", notices=True)
    window(chat, 60, 120, name="silent")
    for when in range(0, 200, 5):
        tick(chat, when)
    ends = at(120).isoformat()[:-6]
    assert notices() == [
        (f"The maintenance window work (new disks) has started; it ends at {ends}Z.", 60),
        ("The maintenance window work (new disks) is over.", 120),
    ]
    assert {row["state"] for row in chat.rows("SELECT * FROM deliveries")} == {"pending"}
    window(chat, 300, 400, name="slept", notices=True, when=200)
    tick(chat, 500)
    assert [text for text, _ in notices()[2:]] == ["The maintenance window slept is over."]


def test_a_window_that_is_deleted_or_moved_lets_go_at_once(chat: Fleet) -> None:
    chat.service("web")
    window(chat, 60, 9000)
    run(chat, 60, 80)
    in_transaction(chat.engine, lambda s: windows.remove(s, name="work", actor=ACTOR, now=at(82)))
    assert chat.due() == 82
    chat.sweep(85)
    chat.service("db")
    window(chat, 60, 9000, when=86, selector={"services": ["db"]})
    run(chat, 90, 160)
    chat.run("UPDATE service_states SET due_at = :far", far=at(9000))
    window(chat, 60, 9000, when=165, selector={"services": ["other"]})
    assert chat.due("db") == 165
    chat.sweep(165)
    assert told(chat) == [("opened", "web", 85), ("opened", "db", 165)]


def test_a_window_is_not_changed_over_the_head_of_another_change(fleet: Fleet) -> None:
    window(fleet, 60, 90)
    plan = Plan(selector={"all": True}, starts_at=at(60), ends_at=at(100))

    def put(version: int) -> Any:
        return in_transaction(
            fleet.engine,
            lambda s: windows.put(s, name="work", plan=plan, actor=ACTOR, now=at(0), if_match=version),
        )

    changed, made = put(1)
    assert (changed.version, made) == (2, False)
    with pytest.raises(PreconditionFailed):
        put(1)
    assert len(fleet.audit("window.create")) == len(fleet.audit("window.change")) == 1


def test_a_mute_holds_until_its_end_and_then_tells_what_still_fails(chat: Fleet) -> None:
    chat.service("web")
    mute(chat, "web", 200)
    run(chat, 60, 195)
    assert why(chat, "web", 199) == [("mute", None)]
    assert told(chat) == []
    run(chat, 200, 300)
    assert told(chat) == [("opened", "web", 200)]
    (row,) = chat.rows("SELECT * FROM mutes")
    assert (row["ended_at"], row["ended_by"], row["due_at"]) == (at(200), "medic:medic", None)


def test_unmuting_early_wakes_the_service_and_is_in_the_audit_log(chat: Fleet) -> None:
    chat.service("web")
    first = mute(chat, "web", 900)
    chat.sweep(70)
    chat.run("UPDATE service_states SET due_at = :far", far=at(9000))
    in_transaction(chat.engine, lambda s: mutes.end(s, mute_id=first, actor=ACTOR, now=at(80)))
    assert chat.due() == 80
    chat.sweep(80)
    assert told(chat) == [("opened", "web", 80)]
    with pytest.raises(Conflict):
        in_transaction(chat.engine, lambda s: mutes.end(s, mute_id=first, actor=ACTOR, now=at(90)))
    assert [chat.audit(f"mute.{verb}")[0]["actor"] for verb in ("create", "end")] == ["test", "test"]


def family(fleet: Fleet, *, child_every: int = 60, parent_every: int = 60) -> None:
    """Top <- middle <- leaf; middle is not expected for long."""
    fleet.service("top", every_s=parent_every)
    fleet.service("middle", every_s=9000, depends_on=("top",))
    fleet.service("leaf", every_s=child_every, depends_on=("middle",))


def test_a_failing_ancestor_keeps_its_children_quiet_and_its_recovery_tells_what_still_fails(
    chat: Fleet,
) -> None:
    family(chat, parent_every=50)
    chat.service("stranger")
    run(chat, 60, 200)
    assert told(chat) == [("opened", "top", 60), ("opened", "stranger", 70)]
    assert why(chat, "leaf", 200) == [("parent", "top")]
    assert held(chat, ["leaf"], 200)["leaf"].until is None
    chat.run("UPDATE service_states SET due_at = :far WHERE due_at > :now", far=at(9000), now=at(200))
    chat.beat("top", when=203)
    run(chat, 205, 210)
    assert told(chat)[2:] == [("resolved", "top", 205), ("opened", "leaf", 210)]


def test_a_child_that_recovered_with_its_parent_is_never_told(chat: Fleet) -> None:
    family(chat, parent_every=50)
    run(chat, 60, 200)
    for name in ("leaf", "top"):
        chat.beat(name, when=203)
    run(chat, 205, 250)
    assert told(chat) == [("opened", "top", 60), ("resolved", "top", 205)]


def test_the_parent_that_fails_a_little_later_is_waited_for(chat: Fleet) -> None:
    family(chat, child_every=60, parent_every=100)
    run(chat, 60, 105)
    assert why(chat, "leaf", 105) == [("waiting_for_parent", "top")]
    run(chat, 110, 400)
    assert told(chat) == [("opened", "top", 110)]


def test_a_parent_that_shows_life_after_the_child_failed_sets_its_notice_free(chat: Fleet) -> None:
    family(chat, child_every=60, parent_every=100)
    run(chat, 60, 80)
    chat.beat("top", when=82)
    run(chat, 85, 100)
    ((kind, name, when),) = told(chat)
    assert (kind, name) == ("opened", "leaf")
    assert 82 <= when <= 95


def test_a_parent_that_is_judged_at_a_later_deadline_sets_the_notice_free(chat: Fleet) -> None:
    chat.service("top", every_s=80, failure_threshold=3)
    chat.service("leaf", depends_on=("top",))
    run(chat, 60, 88)
    assert told(chat) == []
    run(chat, 90, 105)
    assert told(chat) == [("opened", "leaf", 90)]


def test_a_parent_that_is_never_heard_is_waited_for_two_minutes_at_the_most(chat: Fleet) -> None:
    """It is late all the time, so that its judgement could come at any moment."""
    family(chat)
    chat.run("UPDATE service_states SET due_at = :far", far=at(9000))
    chat.run("UPDATE service_states SET due_at = :now WHERE service_id ="
             " (SELECT id FROM services WHERE name = 'leaf')", now=at(60))  # fmt: skip
    chat.sweep(60)
    chat.run("UPDATE service_states SET due_at = :soon WHERE service_id ="
             " (SELECT id FROM services WHERE name = 'top')", soon=at(100))  # fmt: skip
    chat.sweep(70)
    looks = {when: held(chat, ["leaf"], when) for when in (71, 185, 189.9, 190)}
    assert [found["leaf"].until for found in looks.values() if found] == [at(81), at(190), at(190)]
    assert looks[190] == {}


def test_a_parent_that_is_not_judged_in_time_or_paused_is_not_waited_for(chat: Fleet) -> None:
    chat.service("yearly", every_s=30_000_000)
    chat.service("paused", paused=True)
    chat.service("leaf", depends_on=("yearly", "paused"))
    run(chat, 60, 75)
    assert told(chat) == [("opened", "leaf", 70)]


def test_a_parent_that_is_paused_lets_go_of_its_children(chat: Fleet) -> None:
    family(chat, parent_every=50)
    run(chat, 60, 100)
    assert why(chat, "leaf", 100) == [("parent", "top")]
    chat.change("top", when=101, paused=True, every_s=50)
    run(chat, 105, 120)
    assert told(chat)[1:] == [("resolved", "top", 105), ("opened", "leaf", 110)]


def test_a_parent_that_is_resolved_by_hand_lets_go_of_its_children(chat: Fleet) -> None:
    family(chat, parent_every=9000)
    chat.beat("top", "fail", when=50)
    run(chat, 60, 100)
    assert told(chat) == [("opened", "top", 60)]
    chat.run("UPDATE service_states SET due_at = :far WHERE due_at > :now", far=at(9000), now=at(100))
    alert_id = chat.alerts("top")[0]["id"]
    in_transaction(
        chat.engine, lambda s: alerts.resolve_by_hand(s, alert_id=alert_id, actor=ACTOR, now=at(101))
    )
    run(chat, 105, 105)
    assert ("opened", "leaf", 105) in told(chat)


def test_an_alert_that_opens_beside_the_end_of_what_holds_it_looks_twice(chat: Fleet) -> None:
    """The window ends before the alert is committed, so that its end wakes nobody."""
    window(chat, 60, 72)
    chat.service("web", every_s=3600, grace_s=0)
    chat.beat("web", when=10)
    chat.sweep(10)
    chat.beat("web", "fail", when=70)
    with transaction(chat.engine) as late:
        from medic.sweep import sweep_batch

        sweep_batch(late, now=at(71))
        tick(chat, 72)
    assert chat.due() == 101
    chat.sweep(101)
    assert told(chat) == [("opened", "web", 101)]


def test_two_sweepers_end_a_window_once_and_wake_all_of_a_great_many(chat: Fleet) -> None:
    chat.run(
        "INSERT INTO services (uuid, name, every_s) SELECT gen_random_uuid(), 'job-' || n, 60"
        "  FROM generate_series(1, 1200) n"
    )
    chat.run("INSERT INTO service_states (service_id, status, due_at) SELECT id, 'down', :far FROM services",
             far=at(9000))  # fmt: skip
    chat.run(
        "INSERT INTO alerts (service_id, service_name, priority, reasons, opened_at, detected_at)"
        " SELECT id, name, 'p3', '{missed}', :now, :now FROM services", now=at(10)
    )  # fmt: skip
    window(chat, 60, 120, notices=True, when=61)
    gate = threading.Barrier(2)
    steps: list[int] = []

    def work() -> None:
        place: Place | None = None
        more = True
        gate.wait()
        while more:
            here = place
            more, place = in_transaction(
                chat.engine, lambda s, here=here: windows.end_step(s, now=at(120), place=here)
            )
            steps.append(1)

    sweepers = [threading.Thread(target=work) for _ in range(2)]
    for sweeper in sweepers:
        sweeper.start()
    for sweeper in sweepers:
        sweeper.join(timeout=60)
    assert len(steps) >= 4
    assert (
        chat.rows("SELECT count(*) AS n FROM service_states WHERE due_at = :now", now=at(120))[0]["n"] == 1200
    )
    texts = [
        row["payload"]["text"]
        for row in chat.rows("SELECT * FROM deliveries WHERE kind = 'notice' ORDER BY id")
    ]
    assert [text.split()[-2:] for text in texts] == [[*texts[0].split()[-2:]], ["is", "over."]]
    assert chat.rows("SELECT due_at FROM windows") == [{"due_at": None}]


def test_who_dies_while_a_window_ends_leaves_it_due(chat: Fleet) -> None:
    chat.service("web")
    window(chat, 60, 120, notices=True, when=61)
    chat.sweep(70)
    with Session(chat.engine) as dying:
        assert windows.end_due(dying, now=at(120)) == 1
    tick(chat, 125)
    tick(chat, 130)
    assert len(chat.rows("SELECT * FROM deliveries WHERE kind = 'notice'")) == 2


def test_a_window_that_cannot_be_read_stops_neither_the_sweep_nor_the_other_windows(chat: Fleet) -> None:
    window(chat, 60, 120, name="good")
    window(
        chat, 0, 0, name="bad", starts_at=None, ends_at=None, cron="0 1 * * *", duration=timedelta(hours=1)
    )
    chat.run("UPDATE windows SET timezone = 'Mars/Base', due_at = :now WHERE name = 'bad'", now=at(100))
    chat.service("web")
    chat.sweep(70)
    assert why(chat, "web", 110) == [("window", "good")]
    assert tick(chat, 120) == 2
    due = {row["name"]: row["due_at"] for row in chat.rows("SELECT name, due_at FROM windows")}
    assert due == {"good": None, "bad": at(420)}
