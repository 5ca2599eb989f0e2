"""What people are told, whom, and how often: on the real database, before anything is sent."""

from __future__ import annotations

import json
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from medic import alerts, mutes
from medic.db import in_transaction
from tests.monitoring.fleet import ACTOR, Fleet, at


def target(fleet: Fleet, name: str) -> None:
    fleet.run("INSERT INTO targets (name, kind) VALUES (:name, 'webhook')", name=name)


def route(fleet: Fleet, name: str, *levels: list[str], **columns: Any) -> None:
    """A route to these targets; `match` is JSON."""
    columns = {"match": "{}", **columns}
    names = ", ".join(columns)
    values = ", ".join(
        f"CAST(:{column} AS jsonb)" if column == "match" else f":{column}" for column in columns
    )
    fleet.run(f"INSERT INTO routes (name, {names}) VALUES (:name, {values})", name=name, **columns)
    for level, targets in enumerate(levels):
        for position, one in enumerate(targets):
            fleet.run(
                "INSERT INTO route_targets (route_id, target_id, level, position)"
                " SELECT r.id, t.id, :level, :position FROM routes r, targets t WHERE r.name = :route AND t.name = :target",
                route=name, target=one, level=level, position=position,
            )  # fmt: skip


def told(fleet: Fleet) -> list[tuple[str, str, float]]:
    """Every message: its kind, its target, and when it was put into the outbox, in seconds after T0."""
    return [
        (row["kind"], row["name"], (row["created_at"] - at(0)).total_seconds())
        for row in fleet.rows(
            "SELECT d.kind, t.name, d.created_at FROM deliveries d JOIN targets t ON t.id = d.target_id"
            " ORDER BY d.created_at, d.id"
        )
    ]


@pytest.fixture
def chat(fleet: Fleet) -> Fleet:
    """Everything goes to one target."""
    target(fleet, "chat")
    route(fleet, "all", ["chat"])
    return fleet


def test_an_opening_and_its_end_are_told_once_to_the_same_target(chat: Fleet) -> None:
    chat.service(priority="p1", tags=("edge",), runbook_url="https://wiki.example/web")
    chat.sweep_until(130, since=60, step=5)
    chat.beat("web", when=135)
    chat.sweep_until(150, since=135, step=5)
    assert told(chat) == [("opened", "chat", 70), ("resolved", "chat", 135)]
    opened, resolved = chat.rows("SELECT * FROM deliveries ORDER BY id")
    assert (opened["state"], opened["due_at"]) == ("pending", at(70))
    alert = opened["payload"]["alert"]
    assert alert | {"service": "web", "priority": "p1", "tags": ["edge"], "reasons": ["missed"]} == alert
    assert resolved["payload"]["alert"]["resolution"] == "recovered"
    assert resolved["payload"]["alert"]["runbook_url"] == "https://wiki.example/web"


def test_a_reason_that_joins_is_told_and_one_that_comes_back_is_told_again(chat: Fleet) -> None:
    chat.service(max_runtime_s=30)
    chat.beat("web", "start", when=1, run_id="a")
    chat.sweep(31)
    chat.sweep(71)
    chat.beat("web", "start", when=72, run_id="b")
    chat.beat("web", "fail", when=80, run_id="a")
    chat.sweep(80)
    chat.sweep(102)
    assert [(kind, reason) for kind, reason, _ in chat.story()] == [
        ("opened", "overrun"), ("reason_joined", "missed"), ("reason_cleared", "overrun"), ("reason_joined", "failed"),
        ("reason_joined", "overrun"),
    ]  # fmt: skip
    assert [(kind, when) for kind, _, when in told(chat)] == [
        ("opened", 31), ("reason_joined", 71), ("reason_joined", 80), ("reason_joined", 102)
    ]  # fmt: skip
    reasons = [row["payload"]["reason"] for row in chat.rows("SELECT payload FROM deliveries ORDER BY id")]
    assert reasons == ["overrun", "missed", "failed", "overrun"]


def test_whoever_was_not_told_of_the_opening_is_not_told_of_the_end(chat: Fleet) -> None:
    chat.service()
    chat.sweep(70)
    target(chat, "late")
    route(chat, "late", ["late"])
    chat.beat("web", when=80)
    chat.sweep(80)
    assert told(chat) == [("opened", "chat", 70), ("resolved", "chat", 80)]


def test_an_acknowledgement_and_a_resolution_by_hand_are_told(chat: Fleet) -> None:
    chat.service()
    chat.sweep(70)
    (alert,) = chat.alerts()
    for when in (75, 76):
        in_transaction(
            chat.engine, lambda s, w=when: alerts.acknowledge(s, alert_id=alert["id"], actor=ACTOR, now=at(w))
        )
    in_transaction(
        chat.engine, lambda s: alerts.resolve_by_hand(s, alert_id=alert["id"], actor=ACTOR, now=at(80))
    )
    assert told(chat) == [("opened", "chat", 70), ("acknowledged", "chat", 75), ("resolved", "chat", 80)]


def test_an_alert_is_told_again_until_somebody_acknowledges(chat: Fleet) -> None:
    chat.service(renotify_every_s=60)
    chat.sweep_until(200, since=65, step=5)
    assert told(chat) == [("opened", "chat", 70), ("renotified", "chat", 130), ("renotified", "chat", 190)]
    (alert,) = chat.alerts()
    in_transaction(
        chat.engine, lambda s: alerts.acknowledge(s, alert_id=alert["id"], actor=ACTOR, now=at(200))
    )
    chat.sweep_until(400, since=205, step=5)
    assert told(chat)[3:] == [("acknowledged", "chat", 200)]
    assert [kind for kind, _, _ in chat.story()] == ["opened", "renotified", "renotified", "acknowledged"]


def test_the_next_level_is_told_when_nobody_acknowledged_in_time(fleet: Fleet) -> None:
    for name in ("first", "second", "third"):
        target(fleet, name)
    route(fleet, "ladder", ["first"], [], ["second", "third"], escalate_after_s=60)
    fleet.service()
    fleet.sweep_until(400, since=65, step=5)
    assert told(fleet) == [("opened", "first", 70), ("escalated", "second", 130), ("escalated", "third", 130)]
    fleet.beat("web", when=410)
    fleet.sweep(410)
    assert sorted(name for kind, name, _ in told(fleet) if kind == "resolved") == ["first", "second", "third"]


def test_a_target_in_two_levels_and_two_routes_gets_each_thing_once(fleet: Fleet) -> None:
    target(fleet, "chat")
    for name in ("ladder", "other"):
        route(fleet, name, ["chat"], ["chat"], escalate_after_s=60)
    fleet.service(max_runtime_s=400)
    fleet.beat("web", "start", when=1)
    fleet.sweep_until(410, since=65, step=5)
    assert told(fleet) == [("opened", "chat", 70), ("escalated", "chat", 130), ("reason_joined", "chat", 405)]


def test_the_first_success_is_enough_where_a_route_says_so(fleet: Fleet) -> None:
    for name in ("first", "second"):
        target(fleet, name)
    route(fleet, "one", ["first", "second"], mode="notify_until_success")
    fleet.service()
    fleet.sweep(70)
    assert told(fleet) == [("opened", "first", 70)]


def test_the_default_route_tells_what_no_other_does_and_a_disabled_target_nothing(fleet: Fleet) -> None:
    for name in ("web-team", "rest", "broken"):
        target(fleet, name)
    fleet.run("UPDATE targets SET disabled_at = now(), disabled_reason = 'gone' WHERE name = 'broken'")
    route(fleet, "web", ["web-team", "broken"], match=json.dumps({"service": "web*"}))
    route(fleet, "rest", ["rest"], is_default=True)
    route(fleet, "nobody", ["broken"], match=json.dumps({"service": "db"}))
    for name in ("web", "db"):
        fleet.service(name)
    fleet.sweep(70)
    assert sorted(told(fleet)) == [("opened", "rest", 70), ("opened", "web-team", 70)]


def test_without_a_route_the_alert_says_that_nobody_was_told(fleet: Fleet) -> None:
    fleet.service()
    fleet.sweep_until(90, since=70, step=5)
    (alert,) = fleet.alerts()
    assert (told(fleet), alert["held"]) == ([], {"by": [{"kind": "no_route"}]})


def test_what_is_muted_is_told_once_when_that_is_over_if_it_still_holds(chat: Fleet) -> None:
    for name in ("web", "db"):
        chat.service(name)
        mute = partial(
            mutes.create, service=name, reason="moving house", ends_at=at(200), actor=ACTOR, now=at(60)
        )
        in_transaction(chat.engine, mute)
    chat.playbook(service_pattern='"*"')
    chat.sweep_until(190, since=65, step=5)
    assert (told(chat), chat.executions()) == ([], [])
    (why,) = chat.alerts("web")[0]["held"]["by"]
    assert (why["kind"], why["reason"]) == ("mute", "moving house")
    chat.beat("db", when=195)
    chat.sweep(195)
    in_transaction(chat.engine, partial(mutes.end_due, now=at(200)))
    chat.sweep_until(250, since=200, step=5)
    assert told(chat) == [("opened", "chat", 200)]
    assert [row["service_name"] for row in chat.executions()] == ["web"]
    assert chat.alerts("web")[0]["held"] is None


def test_two_sweeps_of_one_moment_tell_once(chat: Fleet) -> None:
    chat.service()
    chat.sweep(70)
    chat.run("UPDATE service_states SET due_at = :now", now=at(70))
    chat.run("UPDATE alerts SET told = '{}', told_at = NULL")
    chat.sweep(70)
    assert told(chat) == [("opened", "chat", 70)]


def test_a_closing_for_a_pause_is_told(chat: Fleet) -> None:
    chat.service()
    chat.sweep(70)
    chat.change("web", when=75, paused=True, every_s=60)
    chat.sweep(75)
    assert told(chat) == [("opened", "chat", 70), ("resolved", "chat", 75)]
    assert timedelta(0) == chat.alerts()[0]["resolved_at"] - at(75)
