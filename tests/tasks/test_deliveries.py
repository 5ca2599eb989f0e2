"""Deliveries by real workers to a real receiver: killed in the middle, hanging, refused; nothing is lost, nothing storms."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
import redis
from sqlalchemy import text

from medic import broker, outbox
from medic.db import database_now
from medic.deliveries.due import hint
from medic.deliveries.schedule import LEASE
from tests.recorder import Received, Recorder
from tests.tasks.house import House
from tests.tasks.processes import Workers
from tests.waiting import eventually


@dataclass
class Post:
    """Webhook targets of the outside world, and what is told them, by the real outbox."""

    house: House
    outside: Recorder

    def target(self, name: str, *, per_minute: int = 1000) -> int:
        return self._one(
            "INSERT INTO targets (name, kind, config, per_minute)"
            " VALUES (:name, 'webhook', jsonb_build_object('url', CAST(:url AS text)), :per_minute) RETURNING id",
            name=name, url=f"{self.outside.url}/{name}", per_minute=per_minute,
        )  # fmt: skip

    def route(self, *target_ids: int, mode: str = "notify_all") -> int:
        route_id = self._one("INSERT INTO routes (name, mode) VALUES ('all', :mode) RETURNING id", mode=mode)
        for position, target_id in enumerate(target_ids):
            self.house.run(
                "INSERT INTO route_targets (route_id, target_id, position) VALUES (:route, :target, :position)",
                route=route_id, target=target_id, position=position,
            )  # fmt: skip
        return route_id

    def open(self, name: str, target_id: int, route_id: int) -> int:
        """An alert opens, and this target is told."""
        service_id = self.house.service(name)
        alert_id = self._one(
            "INSERT INTO alerts (service_id, service_name, priority, reasons, opened_at, detected_at)"
            " VALUES (:id, :name, 'p2', '{missed}', now(), now()) RETURNING id",
            id=service_id, name=name,
        )  # fmt: skip
        transition_id = self._one(
            "INSERT INTO alert_transitions (alert_id, kind, at, recorded_at)"
            " VALUES (:id, 'opened', now(), now()) RETURNING id",
            id=alert_id,
        )
        facts = {
            "id": alert_id,
            "service": name,
            "priority": "p2",
            "reasons": ["missed"],
            "opened_at": "2026-01-01T00:00:00Z",
        }
        telling = outbox.Telling(
            alert_id=alert_id, transition_id=transition_id, route_id=route_id, target_id=target_id,
            kind="opened", level=0, position=0, payload={"alert": facts},
        )  # fmt: skip
        self.house.do(lambda s: outbox.tell(s, [telling], now=database_now(s)))
        return alert_id

    def rows(self) -> list[dict[str, Any]]:
        return self.house.rows("SELECT * FROM deliveries ORDER BY id")

    def states(self) -> Counter[str]:
        return Counter(row["state"] for row in self.rows())

    def end_leases(self) -> None:
        """Time passes: the leases of lost workers are over."""
        self.house.run("UPDATE deliveries SET due_at = now() - interval '1 s' WHERE owner IS NOT NULL")

    def _one(self, sql: str, **values: Any) -> int:
        with self.house.engine.begin() as connection:
            found: int = connection.execute(text(sql), values).scalar_one()
            return found


@pytest.fixture
def post(house: House, outside: Recorder) -> Post:
    return Post(house, outside)


def test_what_commits_is_sent_and_recorded(post: Post, own: Workers, outside: Recorder) -> None:
    target = post.target("ops")
    alert = post.open("web", target, post.route(target))
    own.deliveries()
    assert hint([target]) == 1
    eventually(lambda: post.states() == {"delivered": 1})
    (request,) = outside.of("/ops")
    assert request.headers["webhook-id"] == str(post.rows()[0]["uuid"])
    assert request.json["type"] == "alert.opened"
    assert [facts["id"] for facts in request.json["data"]["alerts"]] == [alert]
    assert post.rows()[0]["receipt"] == {"status": 200}


def test_a_lost_hint_and_a_doubled_one_change_nothing(
    post: Post, own: Workers, outside: Recorder, broker_client: redis.Redis
) -> None:
    target = post.target("ops")
    route = post.route(target)
    for name in ("a", "b", "c"):
        post.open(name, target, route)
    assert hint([target] * 5) == 5
    own.deliveries(concurrency=2)
    eventually(lambda: post.states() == {"delivered": 3})
    eventually(lambda: broker_client.llen(broker.DELIVERIES) + broker_client.hlen("unacked") == 0)
    post.open("d", target, route)  # and nobody says so
    own.system()
    eventually(lambda: post.states() == {"delivered": 4})
    assert len(outside.of("/ops")) == 4


def test_a_worker_that_is_killed_in_the_middle_loses_nothing_and_repeats_one_message(
    post: Post, own: Workers, outside: Recorder
) -> None:
    go_on = threading.Event()
    held: list[Received] = []

    def hold(request: Received) -> tuple[int, bytes]:
        if not go_on.is_set():
            held.append(request)
            go_on.wait(60)
        return 200, b"{}"

    outside.answer = hold
    target = post.target("ops")
    route = post.route(target)
    for number in range(10):
        post.open(f"s{number}", target, route)
    victim = own.deliveries("first")
    hint([target])
    eventually(lambda: held)
    own.kill(victim)
    go_on.set()
    # Its message was sent, and nobody knows: it is due when the lease is over, not before.
    own.deliveries("second")
    hint([target])
    eventually(lambda: post.states()["delivered"] == 3)
    (lost,) = [row for row in post.rows() if row["owner"] is not None]
    seconds = lost["due_at"] - post.house.do(database_now)
    assert 0 < seconds.total_seconds() <= LEASE.total_seconds()
    post.end_leases()
    hint([target])
    eventually(lambda: post.states()["delivered"] == 4)
    # The storm's rest was gathered; let its half minute be over.
    post.house.run("UPDATE deliveries SET due_at = now() WHERE state = 'pending'")
    hint([target])
    eventually(lambda: post.states() == {"delivered": 10})
    sent = Counter(request.headers["webhook-id"] for request in outside.of("/ops"))
    assert sorted(sent.values()) == [1, 1, 1, 1, 2]
    assert sent[str(lost["uuid"])] == 2
    told = [alert["id"] for request in outside.of("/ops") for alert in request.json["data"]["alerts"]]
    assert len(set(told)) == 10
    assert len(told) == 11


def test_a_pool_process_that_is_killed_again_and_again_ends_with_its_message_failed(
    post: Post, own: Workers, outside: Recorder
) -> None:
    died = threading.Event()

    def hang(_: Received) -> tuple[int, bytes]:
        died.wait(60)
        return 200, b"{}"

    outside.answer = hang
    target = post.target("ops")
    post.open("web", target, post.route(target))
    for attempt in range(3):
        victim = own.deliveries(f"w{attempt}")
        hint([target])
        eventually(lambda n=attempt: len(outside.of("/ops")) == n + 1)
        own.kill(victim)
        post.end_leases()
    died.set()
    own.deliveries("last")
    hint([target])
    eventually(lambda: post.states() == {"failed": 1})
    assert len(outside.of("/ops")) == 3
    assert len({request.headers["webhook-id"] for request in outside.of("/ops")}) == 1


def test_targets_that_hang_hold_up_no_other_and_no_sweep(post: Post, own: Workers, outside: Recorder) -> None:
    go_on = threading.Event()

    def hang(request: Received) -> tuple[int, bytes]:
        if request.path == "/hangs":
            go_on.wait(60)
        return 200, b"{}"

    outside.answer = hang
    hangs, fine = post.target("hangs"), post.target("fine")
    route = post.route(hangs, fine)
    for number in range(6):
        post.open(f"h{number}", hangs, route)
    own.deliveries(concurrency=3)
    own.system()
    eventually(lambda: len(outside.of("/hangs")) == 2)
    began = time.monotonic()
    post.open("web", fine, route)
    eventually(lambda: outside.of("/fine"), within=10)
    assert time.monotonic() - began < 8
    assert len(outside.of("/hangs")) == 2
    go_on.set()


def test_a_receiver_that_comes_back_gets_everything_under_the_same_ids(
    post: Post, own: Workers, outside: Recorder
) -> None:
    outside.answer = lambda _: (503, b"")
    target = post.target("ops")
    route = post.route(target)
    for name in ("a", "b"):
        post.open(name, target, route)
    own.deliveries()
    hint([target])
    eventually(lambda: post.rows()[0]["tries"] == 1)
    row = post.rows()[0]
    assert row["error"] == "The receiver answered 503."
    assert len(outside.requests) == 1  # the other one waits for it
    outside.answer = lambda _: (200, b"{}")
    post.house.run("UPDATE deliveries SET due_at = now()")
    hint([target])
    eventually(lambda: post.states() == {"delivered": 2})
    assert Counter(request.headers["webhook-id"] for request in outside.requests)[str(row["uuid"])] == 2


def test_a_receiver_that_is_gone_is_switched_off_and_the_next_of_its_route_is_told(
    post: Post, own: Workers, outside: Recorder
) -> None:
    outside.answer = lambda request: (410 if request.path == "/gone" else 200, b"{}")
    gone, there = post.target("gone"), post.target("there")
    post.open("web", gone, post.route(gone, there, mode="notify_until_success"))
    own.deliveries()
    hint([gone])
    eventually(lambda: post.states() == {"failed": 1, "delivered": 2})
    kinds = sorted(request.json["type"] for request in outside.of("/there"))
    assert kinds == ["alert.opened", "notice"]
    assert post.house.rows("SELECT disabled_at IS NOT NULL AS off FROM targets ORDER BY id") == [
        {"off": True}, {"off": False},
    ]  # fmt: skip


def test_a_target_whose_secret_does_not_open_keeps_no_other_back(
    post: Post, own: Workers, outside: Recorder
) -> None:
    sealed, fine = post.target("sealed"), post.target("fine")
    route = post.route(sealed, fine)
    post.house.run(
        "UPDATE targets SET sealed = convert_to(:sealed, 'UTF8') WHERE id = :id",
        id=sealed, sealed='{"bearer": {"version": 1, "sealed": "bm9uZQ=="}}',
    )  # fmt: skip
    post.open("a", sealed, route)
    post.open("b", fine, route)
    own.deliveries()
    hint([sealed, fine])
    eventually(lambda: post.states() == {"pending": 1, "delivered": 1})
    eventually(lambda: post.rows()[0]["tries"] == 1)
    assert outside.of("/sealed") == []
