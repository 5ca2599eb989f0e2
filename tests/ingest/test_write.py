"""Heartbeats into the database: what is stored, and what becomes of the service's hot row."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import text

from medic import heartbeats, services
from medic.db import in_transaction, transaction
from medic.heartbeats import Signal, Watched
from tests.monitoring.fleet import ACTOR, Fleet, at


def quiet(fleet: Fleet, name: str = "web", **policy: object) -> None:
    """A service that is up, and whose row ingest may push ahead: due at 60."""
    fleet.service(name, **policy)
    fleet.beat(name, when=0)
    fleet.sweep(0)
    assert fleet.state(name)["quiet"]


def test_a_signal_is_stored_as_it_was_sent(fleet: Fleet) -> None:
    fleet.service()
    signal = fleet.signal(
        "web", "complete", late=2.5, run_id="r", duration_ms=1200, exit_code=0, message="done 'ü' \\ \"x\"",
        metrics={"rows": 3.5}, client_id="c1",
    )  # fmt: skip
    (written,) = fleet.write([signal])
    (row,) = fleet.rows("SELECT * FROM heartbeats")
    assert (row["id"], row["received_at"]) == (written.id, written.received_at)
    assert row["event_at"] == row["received_at"] - timedelta(seconds=2.5)
    assert (row["kind"], row["run_id"], row["duration_ms"], row["exit_code"]) == ("complete", "r", 1200, 0)
    assert (row["message"], row["metrics"]) == ("done 'ü' \\ \"x\"", {"rows": 3.5})


def test_what_was_not_sent_is_null(fleet: Fleet) -> None:
    fleet.service()
    fleet.beat("web", when=1)
    (row,) = fleet.rows("SELECT run_id, duration_ms, exit_code, message, metrics FROM heartbeats")
    assert set(row.values()) == {None}


def test_it_arrives_at_the_time_of_the_transaction(fleet: Fleet) -> None:
    fleet.service()
    with transaction(fleet.engine) as session:
        (written,) = heartbeats.write(session, [fleet.signal("web")])
        assert written.received_at == session.execute(text("SELECT now()")).scalar_one()


def test_a_success_in_time_pushes_a_quiet_row_ahead_and_leaves_it_quiet(fleet: Fleet) -> None:
    quiet(fleet)
    written = fleet.beat("web", when=30)
    state = fleet.state()
    assert (state["quiet"], fleet.due(), state["last_success_at"]) == (True, 90, at(30))
    assert state["folded_id"] == written.id
    assert (state["last_signal_at"], state["last_signal_kind"]) == (at(30), "ok")
    assert fleet.sweep(60).checked == 0


@pytest.mark.parametrize(
    ("kind", "when", "late", "exit_code"),
    [
        ("fail", 30, 0, None),
        ("start", 30, 0, None),
        ("ok", 30, 61, None),  # history
        ("ok", 60, 0, None),  # late: the deadline itself has passed
        ("ok", 75, 0, None),
        ("complete", 30, 0, 1),
        ("fail", 30, 61, None),
    ],
)
def test_whatever_may_change_the_verdict_makes_the_row_due(
    fleet: Fleet, kind: str, when: float, late: float, exit_code: int | None
) -> None:
    quiet(fleet)
    fleet.beat("web", kind, when=when, late=late, exit_code=exit_code)
    state = fleet.state()
    assert (state["quiet"], fleet.due()) == (False, min(when + late, 60))
    assert (state["last_success_at"], state["status"]) == (at(0), "up")


def test_a_log_changes_no_verdict(fleet: Fleet) -> None:
    quiet(fleet)
    fleet.beat("web", "log", when=30)
    state = fleet.state()
    assert (state["quiet"], fleet.due(), state["last_success_at"]) == (True, 60, at(0))
    assert state["last_signal_kind"] == "log"


def test_a_writer_that_knows_an_older_policy_pushes_nothing(fleet: Fleet) -> None:
    quiet(fleet)
    known = fleet.watched["web"]
    fleet.change("web", when=5, every_s=20)
    fleet.sweep(5)
    assert (fleet.state()["quiet"], fleet.due()) == (True, 20)
    fleet.write([Signal(known, "ok")], when=10)
    assert (fleet.state()["quiet"], fleet.due()) == (False, 10)
    fleet.sweep(11)
    assert (fleet.state()["quiet"], fleet.due()) == (True, 30)


@pytest.mark.parametrize(
    "policy", [{"cron": "0 0 1 1 *"}, {"on_calendar": "*-01-01"}, {"at_least": 1, "within_s": 60}]
)
def test_other_schedules_are_left_to_the_sweep(fleet: Fleet, policy: dict[str, object]) -> None:
    fleet.service(**policy)
    fleet.beat("web", when=0)
    fleet.sweep(0)
    due = fleet.due()
    fleet.beat("web", when=10)
    assert (fleet.due(), fleet.state()["quiet"]) == (due, False)


def test_a_success_while_down_makes_the_row_due(fleet: Fleet) -> None:
    fleet.service()
    fleet.sweep(80)
    assert fleet.state()["status"] == "down"
    fleet.beat("web", when=85)
    assert fleet.due() == 85


def test_signals_out_of_order_never_move_a_service_backwards(fleet: Fleet) -> None:
    quiet(fleet)
    fleet.beat("web", when=40)
    fleet.beat("web", when=10, late=35)  # sent before the last, heard after it
    state = fleet.state()
    assert (fleet.due(), state["last_success_at"], state["last_signal_at"]) == (100, at(40), at(40))
    fleet.sweep(45)
    fleet.beat("web", "fail", when=20, late=30)  # a newer success has overtaken it
    fleet.sweep(51)
    assert fleet.alerts() == []
    assert fleet.state()["last_success_at"] == at(40)


def test_a_batch_of_one_service_is_folded_as_a_whole(fleet: Fleet) -> None:
    quiet(fleet)
    written = fleet.write(
        [fleet.signal("web"), fleet.signal("web", late=20), fleet.signal("web", "log")], when=30
    )
    ids = [one.id or 0 for one in written]
    assert ids == sorted(ids)
    assert (fleet.due(), fleet.state()["folded_id"]) == (90, ids[-1])
    fleet.write([fleet.signal("web"), fleet.signal("web", "fail"), fleet.signal("web")], when=40)
    assert (fleet.due(), fleet.state()["quiet"]) == (40, False)


def test_a_paused_service_is_not_woken(fleet: Fleet) -> None:
    fleet.service(paused=True)
    for kind in ("ok", "fail", "start"):
        fleet.beat("web", kind, when=10)
    assert fleet.due() is None
    assert len(fleet.rows("SELECT 1 FROM heartbeats")) == 3


def test_the_same_id_counts_once_and_answers_alike(fleet: Fleet) -> None:
    quiet(fleet)
    first = fleet.beat("web", when=10, client_id="x")
    again = fleet.beat("web", "fail", when=20, client_id="x")
    assert (again.id, again.is_repeat, again.received_at) == (first.id, True, first.received_at)
    assert (fleet.due(), fleet.state()["quiet"]) == (70, True), "a repeat changes nothing"
    assert len(fleet.rows("SELECT 1 FROM heartbeats")) == 2


def test_the_same_id_twice_in_a_batch_counts_once(fleet: Fleet) -> None:
    fleet.service()
    fleet.service("other")
    signals = [
        fleet.signal("web", "start", client_id="x", run_id="r"),
        fleet.signal("web", "fail", client_id="x"),
        fleet.signal("other", client_id="x"),
    ]
    first, repeat, other = fleet.write(signals, when=1)
    assert (first.is_repeat, repeat.is_repeat, other.is_repeat) == (False, True, False)
    assert repeat.id == first.id != other.id
    assert [row["kind"] for row in fleet.rows("SELECT kind FROM heartbeats ORDER BY id")] == ["start", "ok"]


def test_a_service_deleted_a_moment_ago_gets_nothing_and_its_neighbours_all(fleet: Fleet) -> None:
    fleet.service("gone")
    fleet.service("web")
    signals = [fleet.signal("gone", "start", client_id="a"), fleet.signal("web", client_id="b")]
    in_transaction(fleet.engine, lambda s: services.remove(s, name="gone", actor=ACTOR, now=at(0)))
    gone, kept = fleet.write(signals)
    assert (gone.id, gone.is_repeat, gone.received_at) == (None, False, None)
    assert kept.id is not None
    assert [row["id"] for row in fleet.rows("SELECT id FROM heartbeats")] == [kept.id]
    assert [row["id"] for row in fleet.rows("SELECT id FROM heartbeat_ids")] == ["b"]
    assert fleet.rows("SELECT 1 FROM runs") == []


def test_a_service_that_was_never_there_gets_nothing(fleet: Fleet) -> None:
    assert fleet.write([Signal(Watched(2**40, "x", 60, 1), "ok")])[0].id is None
