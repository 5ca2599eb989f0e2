"""Overruns and lost runs, as the sweep finds them."""

from __future__ import annotations

from tests.monitoring.fleet import Fleet, at

DAY = 86_400


def test_an_overrun_opens_at_its_moment_and_ends_with_the_run(fleet: Fleet) -> None:
    fleet.service(every_s=3600, max_runtime_s=30)
    fleet.beat("web", "start", when=5, run_id="r1")
    fleet.beat("web", "start", when=15, run_id="r2")
    fleet.sweep(16)
    assert fleet.due() == 35
    fleet.sweep(40)
    assert fleet.story() == [("opened", "overrun", 35)]
    fleet.sweep(50)
    fleet.beat("web", "complete", when=60, run_id="r1")
    fleet.sweep(61)
    assert fleet.alerts()[0]["resolved_at"] is None  # the other one still runs
    fleet.beat("web", "complete", when=62, run_id="r2")
    fleet.sweep(63)
    (alert,) = fleet.alerts()
    assert (alert["resolution"], alert["resolved_at"]) == ("run_ended", at(62))


def test_the_second_later_success_loses_a_run(fleet: Fleet) -> None:
    fleet.service(max_runtime_s=30, every_s=3600)
    fleet.beat("web", "start", when=5)
    fleet.sweep(6)
    fleet.sweep(40)
    fleet.beat("web", when=50)
    fleet.sweep(51)
    assert fleet.rows("SELECT state FROM runs") == [{"state": "open"}]
    fleet.beat("web", when=60)
    fleet.sweep(61)
    assert fleet.rows("SELECT state, ended_at FROM runs") == [{"state": "lost", "ended_at": at(60)}]
    assert fleet.alerts()[0]["resolution"] == "run_ended"


def test_a_run_that_began_and_was_lost_between_two_sweeps_is_closed(fleet: Fleet) -> None:
    fleet.service(every_s=3600)
    fleet.sweep(0)
    fleet.beat("web", "start", when=5)
    fleet.beat("web", when=50)
    fleet.beat("web", when=60)
    fleet.sweep(61)
    assert fleet.rows("SELECT state, ended_at FROM runs") == [{"state": "lost", "ended_at": at(60)}]
    assert fleet.state()["quiet"] is True


def test_a_late_start_does_not_open_a_run_that_has_ended(fleet: Fleet) -> None:
    fleet.service(every_s=3600, max_runtime_s=30)
    fleet.beat("web", "complete", when=100, run_id="r1")
    fleet.beat("web", "complete", when=101)
    fleet.sweep(102)
    fleet.beat("web", "start", when=95, late=10, run_id="r1")
    fleet.beat("web", "start", when=96, late=11)
    for when in (140, 145, 200):  # the first comes when such a run would have overrun already
        fleet.sweep(when)
    assert fleet.alerts() == []
    assert {row["state"] for row in fleet.rows("SELECT state FROM runs")} == {"completed"}


def test_a_run_whose_start_was_forgotten_in_a_long_pause_is_lost_without_an_alert(fleet: Fleet) -> None:
    fleet.service(every_s=3600, max_runtime_s=30)
    fleet.beat("web", when=1)
    fleet.sweep(2)
    fleet.change("web", when=10, paused=True, every_s=3600, max_runtime_s=30)
    fleet.sweep(11)
    fleet.beat("web", "start", when=20, run_id="r1")
    fleet.run("DELETE FROM heartbeats WHERE kind = 'start'")  # its retention is over
    resumed = 40 * DAY
    fleet.change("web", when=resumed, paused=False, every_s=3600, max_runtime_s=30)
    fleet.sweep(resumed + 1)
    assert fleet.rows("SELECT state, ended_at FROM runs") == [{"state": "lost", "ended_at": at(20 + DAY)}]
    fleet.change("web", when=resumed + 100, every_s=3600, max_runtime_s=60)
    fleet.sweep(resumed + 101)
    assert fleet.alerts() == []
