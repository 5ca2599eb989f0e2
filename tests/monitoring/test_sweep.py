"""Alerts as the sweep opens and closes them, at moments that the test chooses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from tests.monitoring.fleet import T0, Fleet, at


def test_a_silent_service_opens_an_alert_at_the_end_of_its_grace(fleet: Fleet) -> None:
    fleet.service()
    fleet.beat("web", when=5)
    fleet.sweep(5)
    assert fleet.due() == 65
    fleet.sweep(70)
    assert (fleet.state()["status"], fleet.due()) == ("late", 75)
    assert fleet.alerts() == []
    swept = fleet.sweep(80)
    (alert,) = fleet.alerts()
    assert (swept.opened, alert["opened_at"], alert["detected_at"]) == (1, at(75), at(80))
    assert (alert["reasons"], alert["priority"], alert["service_name"]) == (["missed"], "p3", "web")
    assert fleet.story() == [("opened", "missed", 75)]


def test_nothing_is_looked_at_before_it_is_due(fleet: Fleet) -> None:
    fleet.service()
    fleet.beat("web", when=5)
    fleet.sweep(5)
    assert fleet.sweep(64.9).checked == 0
    assert fleet.sweep(65).checked == 1


def test_the_open_alert_stands_alone_however_often_it_is_swept(fleet: Fleet) -> None:
    fleet.service()
    fleet.sweep_until(600, since=0, step=5)
    assert fleet.story() == [("opened", "missed", 70)]


def test_a_success_resolves_the_open_alert(fleet: Fleet) -> None:
    fleet.service()
    fleet.sweep(80)
    fleet.beat("web", when=90)
    assert fleet.due() == 90
    swept = fleet.sweep(95)
    (alert,) = fleet.alerts()
    assert (swept.resolved, alert["resolution"], alert["resolved_at"]) == (1, "recovered", at(90))
    assert (fleet.state()["status"], fleet.state()["quiet"], fleet.due()) == ("up", True, 150)


def test_the_failure_threshold_counts_deadlines_and_not_sweeps(fleet: Fleet) -> None:
    fleet.service(failure_threshold=3)
    fleet.sweep_until(185, since=0, step=5)
    assert fleet.alerts() == []
    assert (fleet.state()["failures"], fleet.state()["status"]) == (2, "late")
    fleet.sweep(190)
    assert fleet.story() == [("opened", "missed", 190)]


def test_the_recovery_threshold_counts_successes(fleet: Fleet) -> None:
    fleet.service(recovery_threshold=2)
    fleet.sweep(80)
    fleet.beat("web", when=90)
    fleet.sweep(95)
    assert fleet.alerts()[0]["resolved_at"] is None
    fleet.beat("web", when=100)
    fleet.sweep(105)
    assert fleet.story() == [("opened", "missed", 70), ("resolved", None, 100)]
    assert fleet.alerts()[0]["resolved_at"] == at(100)


@pytest.mark.parametrize(("kind", "exit_code"), [("fail", None), ("fail", 3), ("complete", 1), ("ok", 1)])
def test_a_failed_signal_opens_an_alert_at_once(fleet: Fleet, kind: str, exit_code: int | None) -> None:
    fleet.service()
    fleet.beat("web", when=5)
    fleet.sweep(5)
    fleet.beat("web", kind, when=20, exit_code=exit_code)
    assert fleet.due() == 20
    fleet.sweep(21)
    assert fleet.story() == [("opened", "failed", 20)]
    assert fleet.state()["last_success_at"] == at(5)


def test_a_second_reason_joins_the_open_alert(fleet: Fleet) -> None:
    fleet.service()
    fleet.beat("web", "fail", when=5)
    fleet.sweep(5)
    fleet.sweep(200)
    assert [row[:2] for row in fleet.story()] == [("opened", "failed"), ("reason_joined", "missed")]
    assert fleet.alerts()[0]["reasons"] == ["failed", "missed"]


def test_a_cron_is_expected_on_the_clock_of_its_zone(fleet: Fleet) -> None:
    day = T0.date() + timedelta(days=1)
    fleet.service(cron="30 4 * * *", timezone="America/New_York", grace_s=60)
    expected = datetime(day.year, day.month, day.day, 4, 30, tzinfo=ZoneInfo("America/New_York")).astimezone(
        UTC
    )
    if expected - timedelta(days=1) > T0:
        fleet.sweep(0)
        fleet.beat("web", when=(expected - timedelta(days=1) - T0).total_seconds() + 5)
    seconds = (expected - T0).total_seconds()
    fleet.sweep(seconds - 1)
    assert fleet.due() == seconds
    fleet.sweep(seconds + 59)
    assert fleet.alerts() == []
    fleet.sweep(seconds + 60)
    assert fleet.story() == [("opened", "missed", seconds + 60)]


def test_too_few_signals_in_the_window_open_and_enough_resolve(fleet: Fleet) -> None:
    fleet.service(at_least=2, within_s=100)
    for when in (50, 90):
        fleet.beat("web", when=when)
        fleet.sweep(when)
    fleet.sweep(120)
    assert fleet.alerts() == []
    fleet.sweep(160)
    assert fleet.story() == [("opened", "too_few", 150)]
    fleet.beat("web", when=170)
    fleet.sweep(171)
    (alert,) = fleet.alerts()
    assert (alert["resolution"], alert["resolved_at"]) == ("recovered", at(170))


def test_history_takes_back_a_miss_that_it_disproves(fleet: Fleet) -> None:
    fleet.service()
    fleet.beat("web", when=0)
    fleet.sweep(0)
    fleet.sweep(80)
    fleet.beat("web", when=40, late=61)
    fleet.sweep(102)
    assert fleet.alerts()[0]["resolved_at"] is not None
    evidence = fleet.rows("SELECT evidence FROM alert_transitions WHERE kind = 'resolved'")[0]["evidence"]
    assert evidence["because"] == "disproved"
