"""Medic about itself: it cannot hear, and people are told once, and once when it is over."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest

from medic import self_alerts
from medic.db import in_transaction
from tests.monitoring.fleet import Fleet, at


def hears(fleet: Fleet, since: float, until: float) -> None:
    fleet.run("INSERT INTO coverage (process, since, until) VALUES (:process, :since, :until)",
              process=uuid4(), since=at(since), until=at(until))  # fmt: skip


def check(fleet: Fleet, when: float) -> list[str]:
    return in_transaction(fleet.engine, lambda s: self_alerts.check(s, now=at(when)))


def told(fleet: Fleet) -> list[tuple[str, str]]:
    return [
        (row["name"], row["text"])
        for row in fleet.rows("SELECT t.name, d.payload ->> 'text' AS text FROM deliveries d"
                              "  JOIN targets t ON t.id = d.target_id"
                              " WHERE d.kind = 'notice' AND d.state = 'pending' ORDER BY d.id, t.name")
    ]  # fmt: skip


def state(fleet: Fleet) -> dict[str, Any]:
    (row,) = fleet.rows("SELECT * FROM self_alerts")
    return row


@pytest.fixture
def people(fleet: Fleet) -> None:
    """The default route has two targets on its first level; others are not for this."""
    fleet.run(
        "INSERT INTO targets (name, kind) VALUES ('chat', 'slack'), ('later', 'email'), ('off', 'slack'), ('own', 'slack')"
    )
    fleet.run("UPDATE targets SET disabled_at = now(), disabled_reason = 'gone' WHERE name = 'off'")
    fleet.run("INSERT INTO routes (name, is_default) VALUES ('default', true), ('team', false)")
    for route, target, level in (
        ("default", "chat", 0), ("default", "off", 0), ("default", "later", 1), ("team", "own", 0),
    ):  # fmt: skip
        fleet.run("INSERT INTO route_targets (route_id, target_id, level)"
                  " SELECT r.id, t.id, :level FROM routes r, targets t WHERE r.name = :route AND t.name = :target",
                  route=route, target=target, level=level)  # fmt: skip


def test_two_minutes_of_deafness_are_told_once_and_so_is_their_end(fleet: Fleet, people: None) -> None:
    hears(fleet, 0, 100)
    hears(fleet, 7000, 9000)
    assert [check(fleet, when) for when in (50, 105, 220)] == [[], [], []]
    (said,) = check(fleet, 221)
    assert "since " in said
    assert [check(fleet, when) for when in (226, 500, 6999)] == [[], [], []]
    assert told(fleet) == [("chat", said)]
    row = state(fleet)
    assert (row["opened_at"], row["told_at"], row["resolved_at"]) == (at(100), at(221), None)
    (over,) = check(fleet, 7003)
    assert "1h55m" in over
    assert [check(fleet, when) for when in (7005, 7200)] == [[], []]
    assert told(fleet) == [("chat", said), ("chat", over)]
    assert state(fleet)["resolved_at"] == at(7000)
    # Once more, and it is told once more.
    (again,) = check(fleet, 9200)
    assert told(fleet)[2:] == [("chat", again)]
    assert (state(fleet)["opened_at"], state(fleet)["resolved_at"]) == (at(9000), None)


def test_one_sick_process_of_two_is_no_deafness(fleet: Fleet, people: None) -> None:
    hears(fleet, 0, 100)
    hears(fleet, 0, 5000)
    assert [check(fleet, when) for when in range(100, 400, 5)] == [[]] * 60
    assert fleet.rows("SELECT * FROM self_alerts") == []


def test_without_a_default_route_it_is_kept_although_nobody_is_told(fleet: Fleet) -> None:
    hears(fleet, 0, 100)
    assert len(check(fleet, 300)) == 1
    assert (state(fleet)["told_at"], told(fleet)) == (None, [])


def test_of_many_sweeps_at_once_one_tells(fleet: Fleet, people: None) -> None:
    hears(fleet, 0, 100)
    gate = threading.Barrier(4)

    def one(when: float) -> int:
        gate.wait()
        return len(check(fleet, when))

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(one, [300] * 4)) == 1
        hears(fleet, 310, 320)
        assert sum(pool.map(one, [311] * 4)) == 1
    assert len(told(fleet)) == 2
