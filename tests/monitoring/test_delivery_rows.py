"""Deliveries on the real database, with time as an argument: claim, record, and what follows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, ClassVar

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from medic import audit, outbox
from medic.db import in_transaction, transaction
from medic.deliveries import claim as claims
from medic.deliveries.claim import claim
from medic.deliveries.due import due_targets, fail_orphans
from medic.deliveries.enqueue import enqueue_test
from medic.deliveries.message import ClaimedMessage
from medic.deliveries.record import record_delivered, record_permanent, record_temporary
from medic.deliveries.schedule import LEASE
from medic.models.alerting import Target
from tests.monitoring.fleet import Fleet, at

MINUTE = 60.0
LATER = 400.0
"""Long enough after T0 that an alert that is over is told all the same."""


@dataclass(frozen=True)
class Speaks:
    kind: ClassVar[str] = "webhook"
    groups: ClassVar[bool] = True


@dataclass(frozen=True)
class SpeaksOfOne:
    kind: ClassVar[str] = "pagerduty"
    groups: ClassVar[bool] = False


@dataclass
class Post:
    """Targets, routes, alerts and their deliveries of one test; times are seconds after T0."""

    fleet: Fleet

    @property
    def engine(self) -> Engine:
        return self.fleet.engine

    def target(self, name: str = "ops", *, kind: str = "webhook", per_minute: int = 1000) -> int:
        return self._one(
            "INSERT INTO targets (name, kind, per_minute) VALUES (:name, :kind, :per_minute) RETURNING id",
            name=name, kind=kind, per_minute=per_minute,
        )  # fmt: skip

    def route(
        self, *levels: list[int], name: str = "all", mode: str = "notify_all", is_default: bool = False
    ) -> int:
        route_id = self._one(
            "INSERT INTO routes (name, mode, is_default) VALUES (:name, :mode, :is_default) RETURNING id",
            name=name, mode=mode, is_default=is_default,
        )  # fmt: skip
        for level, targets in enumerate(levels):
            for position, target_id in enumerate(targets):
                self.fleet.run(
                    "INSERT INTO route_targets (route_id, target_id, level, position)"
                    " VALUES (:route_id, :target_id, :level, :position)",
                    route_id=route_id, target_id=target_id, level=level, position=position,
                )  # fmt: skip
        return route_id

    def alert(self, name: str) -> int:
        service_id = self.fleet.service(name)
        return self._one(
            "INSERT INTO alerts (service_id, service_name, priority, reasons, opened_at, detected_at)"
            " VALUES (:service_id, :name, 'p2', '{missed}', :now, :now) RETURNING id",
            service_id=service_id, name=name, now=at(0),
        )  # fmt: skip

    def tell(self, alert_id: int, target_id: int, route_id: int, *, when: float, kind: str = "opened") -> int:
        """What the sweep commits with a transition, by the real outbox."""
        transition_id = self.transition(alert_id, kind, when)
        name = self.fleet.rows("SELECT service_name FROM alerts WHERE id = :id", id=alert_id)[0][
            "service_name"
        ]
        facts = {
            "id": alert_id, "service": name, "priority": "p2", "reasons": ["missed"],
            "opened_at": "2026-01-01T00:00:00Z",
        }  # fmt: skip
        telling = outbox.Telling(
            alert_id=alert_id, transition_id=transition_id, route_id=route_id, target_id=target_id, kind=kind,
            level=0, position=0, payload={"alert": facts},
        )  # fmt: skip
        in_transaction(self.engine, lambda s: outbox.tell(s, [telling], now=at(when)))
        return self._one("SELECT max(id) FROM deliveries WHERE transition_id = :id", id=transition_id)

    def resolve(self, alert_id: int, *, when: float) -> None:
        self.fleet.run(
            "UPDATE alerts SET resolved_at = :now, resolution = 'recovered', reasons = '{}' WHERE id = :id",
            id=alert_id, now=at(when),
        )  # fmt: skip
        change = (alert_id, self.transition(alert_id, "resolved", when), {"resolution": "recovered"})
        in_transaction(self.engine, lambda s: outbox.tell_same(s, "resolved", [change], now=at(when)))

    def transition(self, alert_id: int, kind: str, when: float) -> int:
        return self._one(
            "INSERT INTO alert_transitions (alert_id, kind, at, recorded_at)"
            " VALUES (:alert_id, :kind, :now, :now) RETURNING id",
            alert_id=alert_id, kind=kind, now=at(when),
        )  # fmt: skip

    def storm(self, count: int, target_id: int, route_id: int, *, when: float) -> list[int]:
        return [
            self.tell(self.alert(f"s{number}"), target_id, route_id, when=when) for number in range(count)
        ]

    # --- what the worker does

    def claim(self, target_id: int, *, when: float) -> ClaimedMessage | None:
        return in_transaction(self.engine, lambda s: claim(s, target_id=target_id, now=at(when)))

    def claimed(self, target_id: int, *, when: float) -> ClaimedMessage:
        message = self.claim(target_id, when=when)
        assert message is not None
        return message

    def arrives(self, message: ClaimedMessage, *, when: float, receipt: dict[str, Any] | None = None) -> bool:
        return in_transaction(
            self.engine, lambda s: record_delivered(s, message, receipt or {"status": 200}, now=at(when))
        )

    def fails(self, message: ClaimedMessage, *, when: float, retry_after: float | None = None) -> set[int]:
        return in_transaction(
            self.engine,
            lambda s: record_temporary(s, message, "no answer", retry_after=retry_after, now=at(when)),
        )

    def refused(self, message: ClaimedMessage, *, when: float, disables: bool = False) -> set[int]:
        return in_transaction(
            self.engine,
            lambda s: record_permanent(s, message, "not allowed", disables=disables, now=at(when)),
        )

    def deliver_all(
        self, target_id: int, *, when: float, receipt: dict[str, Any] | None = None
    ) -> list[ClaimedMessage]:
        """All that may go at that moment arrives."""
        went = []
        while message := self.claim(target_id, when=when):
            assert self.arrives(message, when=when, receipt=receipt)
            went.append(message)
        return went

    def due(self, when: float) -> list[int]:
        return in_transaction(self.engine, lambda s: due_targets(s, now=at(when)))

    # --- what there is

    def row(self, delivery_id: int) -> dict[str, Any]:
        return self.fleet.rows("SELECT * FROM deliveries WHERE id = :id", id=delivery_id)[0]

    def rows(self) -> list[dict[str, Any]]:
        return self.fleet.rows("SELECT * FROM deliveries ORDER BY id")

    def states(self) -> list[tuple[str, str]]:
        return [(row["kind"], row["state"]) for row in self.rows()]

    def due_in(self, delivery_id: int, *, when: float) -> float:
        seconds: float = (self.row(delivery_id)["due_at"] - at(when)).total_seconds()
        return seconds

    def _one(self, sql: str, **values: Any) -> int:
        with self.engine.begin() as connection:
            found: int = connection.execute(text(sql), values).scalar_one()
            return found


@pytest.fixture
def post(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> Post:
    kinds = MappingProxyType({"webhook": Speaks(), "pagerduty": SpeaksOfOne()})
    monkeypatch.setattr(claims, "KINDS", kinds)
    return Post(fleet)


@contextmanager
def locked(engine: Engine, target_id: int) -> Iterator[None]:
    """Somebody else is at this target's row."""
    with transaction(engine) as session:
        session.execute(text("SELECT 1 FROM targets WHERE id = :id FOR NO KEY UPDATE"), {"id": target_id})
        yield


# --- claim and record


def test_a_delivery_is_claimed_once_and_its_receipt_is_kept(post: Post) -> None:
    target = post.target()
    delivery = post.tell(post.alert("web"), target, post.route([target]), when=0)
    assert post.due(0) == [target]
    message = post.claimed(target, when=1)
    assert (message.ids, message.epoch, message.kind) == ((delivery,), 1, "opened")
    assert message.envelope.key == post.row(delivery)["uuid"]
    assert message.envelope.dedup == f"medic-alert-{message.alert_ids[0]}"
    notification = message.notification("http://medic")
    assert [facts.service for facts in notification.alerts] == ["web"]
    assert post.claim(target, when=1) is None
    assert post.due(1) == []
    assert post.arrives(message, when=2, receipt={"ts": "1.2"})
    row = post.row(delivery)
    assert (row["state"], row["receipt"], row["owner"], row["finished_at"]) == (
        "delivered", {"ts": "1.2"}, None, at(2),
    )  # fmt: skip
    assert post.claim(target, when=3) is None


def test_a_lost_worker_is_replaced_under_the_same_key_and_its_late_record_changes_nothing(post: Post) -> None:
    target = post.target()
    delivery = post.tell(post.alert("web"), target, post.route([target]), when=0)
    zombie = post.claimed(target, when=0)
    over = LEASE.total_seconds()
    assert post.claim(target, when=over - 1) is None
    assert post.due(over) == [target]
    second = post.claimed(target, when=over)
    assert second.key == zombie.key
    assert (zombie.epoch, second.epoch, second.tries) == (1, 2, 0)
    before = post.row(delivery)
    assert not post.arrives(zombie, when=over + 1)
    assert post.fails(zombie, when=over + 1) == post.refused(zombie, when=over + 1, disables=True) == set()
    assert post.row(delivery) == before
    assert post.arrives(second, when=over + 2)
    assert not post.arrives(second, when=over + 3)


def test_a_message_that_three_workers_did_not_survive_fails(post: Post) -> None:
    target = post.target()
    route = post.route([target])
    deadly = post.tell(post.alert("deadly"), target, route, when=0)
    post.tell(post.alert("web"), target, route, when=0)
    for take in range(3):
        when = take * LEASE.total_seconds()
        assert post.claimed(target, when=when).ids == (deadly,)
        if take == 0:
            assert len(post.deliver_all(target, when=when)) == 1
    end = 3 * LEASE.total_seconds()
    assert post.claim(target, when=end) is None
    row = post.row(deadly)
    assert (row["state"], row["error"]) == ("failed", "3 workers were lost while they sent it.")


def test_failures_that_were_recorded_are_no_losses(post: Post) -> None:
    target = post.target()
    delivery = post.tell(post.alert("web"), target, post.route([target]), when=0)
    when = 0.0
    for _ in range(5):
        post.fails(post.claimed(target, when=when), when=when)
        when += post.due_in(delivery, when=when)
    lost = post.claimed(target, when=when)
    assert (lost.epoch, lost.tries) == (6, 5)
    assert post.claimed(target, when=when + LEASE.total_seconds()).epoch == 7


def test_two_messages_are_on_their_way_to_a_target_at_the_most(post: Post) -> None:
    target = post.target()
    post.storm(3, target, post.route([target]), when=0)
    first = post.claimed(target, when=0)
    post.claimed(target, when=0)
    assert post.claim(target, when=0) is None
    assert post.due(0) == []
    post.arrives(first, when=1)
    assert post.due(1) == [target]
    assert post.claim(target, when=1) is not None


def test_who_finds_a_target_in_use_does_not_wait(post: Post) -> None:
    target = post.target()
    post.tell(post.alert("web"), target, post.route([target]), when=0)
    with locked(post.engine, target):
        assert post.claim(target, when=0) is None
    assert post.claim(target, when=0) is not None


# --- order


def test_a_resolution_waits_for_its_opening_and_other_alerts_do_not(post: Post) -> None:
    target = post.target(kind="pagerduty")
    route = post.route([target])
    alert = post.alert("web")
    opening = post.tell(alert, target, route, when=0)
    post.fails(post.claimed(target, when=0), when=0)
    post.resolve(alert, when=2)
    other = post.tell(post.alert("db"), target, route, when=2)
    assert [message.ids for message in post.deliver_all(target, when=2)] == [(other,)]
    assert post.due(2) == []
    again = post.claimed(target, when=8)
    assert again.ids == (opening,)
    post.arrives(again, when=8, receipt={"ts": "1"})
    (resolution,) = post.deliver_all(target, when=8)
    assert (resolution.kind, resolution.earlier) == ("resolved", {"ts": "1"})


@pytest.mark.parametrize(("arrives", "then"), [(True, ["resolved"]), (False, [])])
def test_what_waits_for_a_message_on_its_way_goes_as_soon_as_that_is_over(
    post: Post, *, arrives: bool, then: list[str]
) -> None:
    target = post.target()
    alert = post.alert("web")
    post.tell(alert, target, post.route([target]), when=0)
    message = post.claimed(target, when=0)
    post.resolve(alert, when=1)
    assert post.claim(target, when=1) is None
    assert post.due(2) == []
    if arrives:
        post.arrives(message, when=3)
    else:
        post.refused(message, when=3)
    assert post.due(3) == [target]
    assert [sent.kind for sent in post.deliver_all(target, when=3)] == then
    assert "pending" not in dict(post.states()).values()


def test_an_alert_that_was_over_before_it_was_told_is_not_told_at_all(post: Post) -> None:
    target = post.target()
    route = post.route([target])
    alert = post.alert("web")
    post.tell(alert, target, route, when=0)
    post.resolve(alert, when=20)
    assert post.deliver_all(target, when=21) == []
    assert post.states() == [("opened", "suppressed"), ("resolved", "suppressed")]
    assert [row["error"] for row in post.rows()] == [
        "The alert was over before this was sent.",
        "Nobody was told here that the alert is open.",
    ]


def test_an_alert_that_was_over_while_medic_was_late_is_told_all_the_same(post: Post) -> None:
    target = post.target()
    alert = post.alert("web")
    post.tell(alert, target, post.route([target]), when=0)
    post.resolve(alert, when=60)
    assert [message.kind for message in post.deliver_all(target, when=LATER)] == ["opened", "resolved"]


def test_reminders_that_a_target_slept_through_are_not_all_sent_when_it_is_back(post: Post) -> None:
    target = post.target()
    route = post.route([target])
    alert = post.alert("web")
    post.tell(alert, target, route, when=0)
    post.fails(post.claimed(target, when=0), when=0)
    last = 0
    for number in range(1, 6):
        last = post.tell(alert, target, route, when=number * 100, kind="renotified")
    assert [message.kind for message in post.deliver_all(target, when=600)] == ["opened", "renotified"]
    assert post.row(last)["state"] == "delivered"
    assert post.states().count(("renotified", "suppressed")) == 4


def test_what_may_have_arrived_is_told_to_its_end(post: Post) -> None:
    target = post.target()
    alert = post.alert("web")
    post.tell(alert, target, post.route([target]), when=0)
    post.fails(post.claimed(target, when=0), when=0)  # no answer is not no arrival
    post.resolve(alert, when=1)
    assert [message.kind for message in post.deliver_all(target, when=20)] == ["opened", "resolved"]


# --- storms


def test_a_storm_is_four_messages_and_one_that_carries_the_rest(post: Post) -> None:
    target = post.target()
    ids = post.storm(12, target, post.route([target]), when=0)
    assert [message.ids for message in post.deliver_all(target, when=1)] == [(row,) for row in ids[:4]]
    assert post.due(30.5) == []
    assert post.due(31) == [target]
    (message,) = post.deliver_all(target, when=31)
    assert message.ids == tuple(ids[4:])
    assert len(message.notification("http://medic").alerts) == 8
    rows = post.rows()
    assert [row["carried_by"] for row in rows] == [None] * 5 + [ids[4]] * 7
    assert {row["state"] for row in rows} == {"delivered"}
    assert rows[-1]["receipt"] == {"status": 200}


def test_a_storms_message_stays_as_it_is_over_retries_and_lost_workers(post: Post) -> None:
    target = post.target()
    route = post.route([target])
    ids = post.storm(6, target, route, when=0)
    post.deliver_all(target, when=0)
    first = post.claimed(target, when=30)
    post.fails(first, when=30)
    newcomer = post.tell(post.alert("late"), target, route, when=31)
    again = post.claimed(target, when=50)
    if again.ids == (newcomer,):  # what was never tried goes first
        post.arrives(again, when=50)
        again = post.claimed(target, when=50)
    assert (again.ids, again.key, again.tries) == (first.ids, first.key, 1)
    third = post.claimed(target, when=50 + LEASE.total_seconds())
    assert (third.ids, third.key, third.epoch) == (tuple(ids[4:]), first.key, 3)
    assert post.arrives(third, when=51 + LEASE.total_seconds())
    assert {row["state"] for row in post.rows()} == {"delivered"}


def test_a_storm_that_calms_down_at_once_is_silent_about_what_was_gathered(post: Post) -> None:
    target = post.target()
    post.storm(8, target, post.route([target]), when=0)
    post.deliver_all(target, when=0)
    for row in post.rows():
        post.resolve(row["alert_id"], when=10)
    first, *rest = post.deliver_all(target, when=10)
    assert first.kind == "resolved"
    assert len(rest) == 3
    post.deliver_all(target, when=30)
    states = post.states()
    assert states.count(("opened", "delivered")) == states.count(("resolved", "delivered")) == 4
    assert states.count(("opened", "suppressed")) == states.count(("resolved", "suppressed")) == 4


def test_a_kind_that_speaks_of_one_alert_is_never_sent_a_storm(post: Post) -> None:
    target = post.target(kind="pagerduty")
    ids = post.storm(10, target, post.route([target]), when=0)
    assert [message.ids for message in post.deliver_all(target, when=0)] == [(row,) for row in ids]


def test_a_resolution_knows_the_message_that_told_of_its_alert_alone_or_along(post: Post) -> None:
    target = post.target()
    ids = post.storm(6, target, post.route([target]), when=0)
    alone, *_ = post.deliver_all(target, when=0)
    post.deliver_all(target, when=30, receipt={"status": 202})
    for delivery in (ids[0], ids[5]):
        post.resolve(post.row(delivery)["alert_id"], when=40)
    of_one, of_many = post.deliver_all(target, when=40)
    assert alone.ids == (ids[0],)
    assert (of_one.earlier, of_one.earlier_of) == ({"status": 200}, {})
    assert of_many.earlier == {"status": 202}


def test_a_resolution_goes_by_the_message_of_its_alert_alone_even_if_that_came_later(post: Post) -> None:
    target = post.target()
    route = post.route([target])
    ids = post.storm(6, target, route, when=0)
    post.deliver_all(target, when=0)
    post.deliver_all(target, when=30)
    alert_id = post.row(ids[5])["alert_id"]
    post.tell(alert_id, target, route, when=600, kind="renotified")
    post.deliver_all(target, when=600, receipt={"status": 204})
    post.resolve(alert_id, when=700)
    (resolution,) = post.deliver_all(target, when=700)
    assert resolution.earlier == {"status": 204}


def test_ends_that_are_told_together_know_the_messages_of_one_alert_each(post: Post) -> None:
    target = post.target()
    ids = post.storm(12, target, post.route([target]), when=0)
    post.deliver_all(target, when=0)
    post.deliver_all(target, when=30)
    alerts = [post.row(delivery)["alert_id"] for delivery in ids]
    for alert_id in reversed(alerts):
        post.resolve(alert_id, when=40)
    post.deliver_all(target, when=40)
    (together,) = post.deliver_all(target, when=70)
    assert set(together.alert_ids) == set(alerts[:8])
    assert together.earlier is None
    assert set(together.earlier_of) == set(alerts[:4])


# --- budget


def test_the_budget_counts_what_went_and_what_is_on_its_way(post: Post) -> None:
    target = post.target(kind="pagerduty", per_minute=3)
    ids = post.storm(5, target, post.route([target]), when=0)
    post.arrives(post.claimed(target, when=0), when=5)
    second = post.claimed(target, when=10)
    post.arrives(post.claimed(target, when=10), when=12)
    assert post.claim(target, when=20) is None
    assert post.due_in(ids[3], when=0) == 65
    assert post.due_in(ids[4], when=0) == 72
    post.arrives(second, when=21)
    assert post.claim(target, when=64) is None
    assert post.claimed(target, when=65).ids == (ids[3],)
    assert post.claimed(target, when=72).ids == (ids[4],)


def test_a_budget_that_was_lowered_holds_at_once(post: Post) -> None:
    target = post.target(kind="pagerduty", per_minute=5)
    ids = post.storm(6, target, post.route([target]), when=0)
    for second in range(5):
        post.arrives(post.claimed(target, when=second), when=second)
    post.fleet.run("UPDATE targets SET per_minute = 2")
    assert post.claim(target, when=5) is None
    assert post.due_in(ids[5], when=0) == 63
    assert post.claimed(target, when=63).ids == (ids[5],)


def test_what_the_budget_keeps_back_goes_as_one(post: Post) -> None:
    target = post.target(per_minute=1)
    ids = post.storm(4, target, post.route([target]), when=0)
    assert [message.ids for message in post.deliver_all(target, when=0)] == [(ids[0],)]
    assert post.due(59) == []
    (message,) = post.deliver_all(target, when=60)
    assert message.ids == tuple(ids[1:])


def test_workers_at_once_keep_the_budget(post: Post) -> None:
    rounds = 12
    targets = [post.target(f"t{number}", kind="pagerduty", per_minute=1) for number in range(rounds)]
    route = post.route(targets)
    alerts = [post.alert(f"s{number}") for number in range(2)]
    for target in targets:
        for alert in alerts:
            post.tell(alert, target, route, when=0)
    barrier = threading.Barrier(2)

    def work(_: int) -> list[int]:
        taken = []
        for target in targets:
            barrier.wait(10)
            if message := post.claim(target, when=0):
                taken += message.ids
        return taken

    with ThreadPoolExecutor(2) as pool:
        taken = [row for found in pool.map(work, range(2)) for row in found]
    assert len(taken) == len(set(taken)) == rounds


# --- failures that pass


def test_it_is_tried_for_a_day_and_then_fails(post: Post) -> None:
    target = post.target()
    delivery = post.tell(post.alert("web"), target, post.route([target]), when=0)
    when, tries = 0.0, 0
    while post.row(delivery)["state"] == "pending":
        assert post.due(when) == [target]
        post.fails(post.claimed(target, when=when), when=when)
        tries += 1
        if post.row(delivery)["state"] == "pending":
            when += post.due_in(delivery, when=when)
    row = post.row(delivery)
    assert (row["state"], row["error"], row["tries"]) == ("failed", "no answer", tries)
    assert 20 * 3600 < when <= 24 * 3600
    assert 20 < tries < 40


def test_a_target_that_asks_for_time_gets_it_for_all_its_messages(post: Post) -> None:
    target = post.target(kind="pagerduty")
    ids = post.storm(3, target, post.route([target]), when=0)
    post.fails(post.claimed(target, when=0), when=0, retry_after=120)
    assert [post.due_in(row, when=0) for row in ids] == [120, 120, 120]
    assert post.due(119) == []


def test_while_a_target_does_not_answer_one_message_tries_for_all(post: Post) -> None:
    target = post.target(kind="pagerduty")
    ids = post.storm(3, target, post.route([target]), when=0)
    post.fails(post.claimed(target, when=0), when=0)
    assert post.due(3) == []
    assert all(3 < post.due_in(row, when=0) <= 15 for row in ids)
    # A message that never works does not stand before those that may.
    assert post.claimed(target, when=15).ids == (ids[1],)


# --- failures that stay


def test_a_message_that_is_refused_fails_alone(post: Post) -> None:
    target = post.target()
    route = post.route([target])
    first, second = (post.tell(post.alert(name), target, route, when=0) for name in ("a", "b"))
    assert post.refused(post.claimed(target, when=0), when=0) == set()
    assert (post.row(first)["state"], post.row(first)["error"]) == ("failed", "not allowed")
    assert [message.ids for message in post.deliver_all(target, when=0)] == [(second,)]


def test_a_target_that_is_wrong_is_switched_off_and_the_others_hear_of_it(post: Post) -> None:
    wrong, other, higher, outside = (post.target(name) for name in ("wrong", "other", "higher", "outside"))
    route = post.route([wrong, other], [higher])
    post.route([outside], name="default", is_default=True)
    first, second = (post.tell(post.alert(name), wrong, route, when=0) for name in ("a", "b"))
    assert post.refused(post.claimed(wrong, when=1), when=1, disables=True) == {other, higher}
    (target,) = post.fleet.rows("SELECT * FROM targets WHERE id = :id", id=wrong)
    assert (target["disabled_at"], target["disabled_reason"], target["version"]) == (at(1), "not allowed", 2)
    assert [entry["object_id"] for entry in post.fleet.audit("target.disable")] == ["wrong"]
    assert [post.row(row)["state"] for row in (first, second)] == ["failed", "failed"]
    assert post.row(second)["error"] == "The target is switched off: not allowed"
    (notice,) = post.deliver_all(other, when=2)
    assert notice.kind == "notice"
    assert "wrong (webhook) takes no messages" in str(notice.notification("http://medic").text)
    assert post.deliver_all(outside, when=2) == []
    later = post.tell(post.alert("c"), wrong, route, when=3)
    assert post.deliver_all(wrong, when=3) == []
    assert post.row(later)["state"] == "failed"


def test_without_others_in_its_route_the_default_route_hears_of_it(post: Post) -> None:
    wrong, fallback = post.target("wrong"), post.target("fallback")
    post.route([fallback, wrong], name="default", is_default=True)
    post.tell(post.alert("a"), wrong, post.route([wrong]), when=0)
    assert post.refused(post.claimed(wrong, when=1), when=1, disables=True) == {fallback}


def test_a_route_that_is_off_is_told_nothing_of_a_target_that_is_wrong(post: Post) -> None:
    wrong, other, fallback = (post.target(name) for name in ("wrong", "other", "fallback"))
    route = post.route([wrong, other])
    post.route([fallback], name="default", is_default=True)
    post.tell(post.alert("a"), wrong, route, when=0)
    post.fleet.run("UPDATE routes SET enabled = false")
    assert post.refused(post.claimed(wrong, when=1), when=1, disables=True) == set()


def test_a_target_that_was_changed_meanwhile_is_not_switched_off(post: Post) -> None:
    target = post.target()
    delivery = post.tell(post.alert("a"), target, post.route([target]), when=0)
    message = post.claimed(target, when=0)
    post.fleet.run("UPDATE targets SET version = version + 1")
    post.refused(message, when=1, disables=True)
    assert post.fleet.rows("SELECT disabled_at FROM targets") == [{"disabled_at": None}]
    assert (post.row(delivery)["state"], post.due(1)) == ("pending", [target])


def test_a_test_reaches_a_target_that_is_switched_off_and_switches_none_off(post: Post) -> None:
    target_id = post.target()

    def ask(session: Session) -> int:
        target = session.get_one(Target, target_id)
        return enqueue_test(session, target, audit.Actor("key", "me"), at(0)).id

    first = in_transaction(post.engine, ask)
    assert post.refused(post.claimed(target_id, when=0), when=0, disables=True) == set()
    assert (post.row(first)["state"], post.row(first)["error"]) == ("failed", "not allowed")
    assert post.fleet.rows("SELECT disabled_at FROM targets") == [{"disabled_at": None}]
    post.fleet.run("UPDATE targets SET disabled_at = now(), disabled_reason = 'wrong token'")
    in_transaction(post.engine, ask)
    (message,) = post.deliver_all(target_id, when=0)
    assert (message.kind, message.envelope.dedup) == ("test", f"medic-delivery-{message.key}")
    assert len(post.fleet.audit("target.test")) == 2


def test_what_was_due_to_a_deleted_target_fails_and_keeps_nobody_back(post: Post) -> None:
    gone, there = post.target("gone"), post.target("there")
    route = post.route([gone, there])
    lost = post.tell(post.alert("a"), gone, route, when=0)
    post.tell(post.alert("b"), there, route, when=0)
    post.fleet.run("DELETE FROM targets WHERE id = :id", id=gone)
    assert post.due(0) == [there]
    assert in_transaction(post.engine, lambda s: fail_orphans(s, now=at(0))) == 1
    assert (post.row(lost)["state"], post.row(lost)["error"]) == ("failed", "The target was deleted.")
    assert in_transaction(post.engine, lambda s: fail_orphans(s, now=at(0))) == 0


# --- until one was reached


def test_until_success_tells_one_target_after_the_other_then_the_next_level(post: Post) -> None:
    first, off, second, third = (post.target(name) for name in ("first", "off", "second", "third"))
    route = post.route([first, off, second], [third], mode="notify_until_success")
    post.fleet.run("UPDATE targets SET disabled_at = now(), disabled_reason = 'x' WHERE id = :id", id=off)
    alert = post.alert("web")
    post.tell(alert, first, route, when=0)
    assert post.refused(post.claimed(first, when=1), when=1) == {second}
    # While somebody stands behind it, three tries are enough.
    when = 1.0
    for left in (2, 1, 0):
        told = post.fails(post.claimed(second, when=when), when=when)
        assert told == (set() if left else {third})
        when += 20
    (message,) = post.deliver_all(third, when=when)
    assert message.payloads[0]["alert"]["service"] == "web"
    rows = post.rows()
    assert [(row["target_id"], row["level"], row["state"]) for row in rows] == [
        (first, 0, "failed"), (second, 0, "failed"), (third, 1, "delivered"),
    ]  # fmt: skip
    post.resolve(alert, when=when)
    assert post.rows()[-1]["target_id"] == third
    assert len(post.rows()) == 4


def test_the_last_target_is_tried_for_as_long_as_any(post: Post) -> None:
    only = post.target()
    delivery = post.tell(post.alert("web"), only, post.route([only], mode="notify_until_success"), when=0)
    when = 0.0
    for _ in range(5):
        post.fails(post.claimed(only, when=when), when=when)
        when += post.due_in(delivery, when=when)
    assert post.row(delivery)["state"] == "pending"


def test_nobody_else_is_told_of_an_alert_that_is_over(post: Post) -> None:
    first, second = post.target("first"), post.target("second")
    alert = post.alert("web")
    post.tell(alert, first, post.route([first, second], mode="notify_until_success"), when=0)
    message = post.claimed(first, when=0)
    post.resolve(alert, when=1)
    assert post.refused(message, when=2) == set()
    assert post.deliver_all(first, when=2) == []
    assert post.states() == [("opened", "failed"), ("resolved", "suppressed")]


def test_a_target_that_is_switched_off_hands_on_what_waited_for_it(post: Post) -> None:
    first, second = post.target("first"), post.target("second")
    route = post.route([first, second], mode="notify_until_success")
    for name in ("a", "b", "c"):
        post.tell(post.alert(name), first, route, when=0)
    assert post.refused(post.claimed(first, when=0), when=0, disables=True) == {second}
    kinds = [message.kind for message in post.deliver_all(second, when=1)]
    assert sorted(kinds) == ["notice", "opened", "opened", "opened"]


def test_times_are_the_callers(post: Post) -> None:
    """A row that the clock of this machine calls due is not, before the time that is passed says so."""
    target = post.target()
    post.tell(post.alert("web"), target, post.route([target]), when=100)
    assert isinstance(at(0), datetime)
    assert at(100) - at(99) == timedelta(seconds=1)
    assert post.claim(target, when=99) is None
    assert post.claim(target, when=100) is not None
