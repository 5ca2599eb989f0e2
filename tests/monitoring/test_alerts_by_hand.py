"""What people do to an alert or its service: acknowledge, resolve, pause, delete, change."""

from __future__ import annotations

import pytest

from medic import alerts, services
from medic.db import in_transaction
from medic.errors import Conflict, NotFound
from tests.monitoring.fleet import ACTOR, Fleet, at


def test_a_pause_closes_the_alert_and_a_resumed_service_starts_afresh(fleet: Fleet) -> None:
    fleet.service()
    fleet.sweep(80)
    fleet.change("web", when=90, every_s=60, paused=True)
    fleet.sweep(91)
    assert fleet.alerts()[0]["resolution"] == "paused"
    assert (fleet.state()["status"], fleet.due()) == ("paused", None)
    fleet.beat("web", when=100)
    assert fleet.due() is None
    assert fleet.sweep(1000).checked == 0
    fleet.change("web", when=1000, every_s=60, paused=False)
    fleet.sweep(1000)
    assert fleet.state()["last_success_at"] == at(100)
    fleet.sweep(1069)
    assert len(fleet.alerts()) == 1
    fleet.sweep(1070)
    assert len(fleet.alerts()) == 2


def test_deleting_a_service_closes_its_alert(fleet: Fleet) -> None:
    fleet.service()
    fleet.sweep(80)
    in_transaction(fleet.engine, lambda s: services.remove(s, name="web", actor=ACTOR, now=at(90)))
    (alert,) = fleet.alerts()
    assert (alert["resolution"], alert["service_id"], alert["service_name"]) == ("deleted", None, "web")
    assert fleet.rows("SELECT * FROM service_states") == []
    assert [row["object_id"] for row in fleet.audit("service.delete")] == ["web"]


def test_an_alert_resolved_by_hand_stays_closed_until_a_success(fleet: Fleet) -> None:
    fleet.service(failure_threshold=2)
    fleet.sweep(140)
    (alert,) = fleet.alerts()
    in_transaction(
        fleet.engine,
        lambda s: alerts.resolve_by_hand(s, alert_id=alert["id"], actor=ACTOR, now=at(150), note="known"),
    )
    fleet.sweep(150)
    fleet.sweep(190)
    assert [row["resolution"] for row in fleet.alerts()] == ["manual"]
    fleet.beat("web", when=200)
    fleet.sweep(201)
    fleet.sweep(400)
    assert [row["resolution"] for row in fleet.alerts()] == ["manual", None]
    assert [row["detail"] for row in fleet.audit("alert.resolve")] == [{"note": "known"}]


def test_an_alert_resolved_by_hand_opens_again_after_as_many_further_misses(fleet: Fleet) -> None:
    fleet.service()
    fleet.beat("web", when=0)
    fleet.sweep(0)
    fleet.sweep(80)
    (alert,) = fleet.alerts()
    in_transaction(
        fleet.engine, lambda s: alerts.resolve_by_hand(s, alert_id=alert["id"], actor=ACTOR, now=at(90))
    )
    fleet.sweep(90)
    fleet.sweep(129)
    assert len(fleet.alerts()) == 1
    fleet.sweep(130)
    assert [row["opened_at"] for row in fleet.alerts()] == [at(70), at(130)]


def test_an_acknowledgement_is_kept_once_and_not_for_a_closed_alert(fleet: Fleet) -> None:
    fleet.service()
    fleet.sweep(80)
    (alert,) = fleet.alerts()
    for when in (81, 82):
        in_transaction(
            fleet.engine,
            lambda s, w=when: alerts.acknowledge(s, alert_id=alert["id"], actor=ACTOR, now=at(w)),
        )
    assert fleet.alerts()[0]["acknowledged_at"] == at(81)
    assert len(fleet.audit("alert.acknowledge")) == 1
    fleet.beat("web", when=90)
    fleet.sweep(91)
    with pytest.raises(Conflict):
        in_transaction(
            fleet.engine, lambda s: alerts.acknowledge(s, alert_id=alert["id"], actor=ACTOR, now=at(92))
        )
    with pytest.raises(NotFound):
        in_transaction(fleet.engine, lambda s: alerts.acknowledge(s, alert_id=0, actor=ACTOR, now=at(92)))


def test_a_changed_schedule_is_judged_by_the_next_sweep(fleet: Fleet) -> None:
    fleet.service(every_s=3600)
    fleet.beat("web", when=5)
    fleet.sweep(5)
    fleet.change("web", when=50, every_s=20)
    assert (fleet.due(), fleet.state()["quiet"]) == (50, False)
    fleet.sweep(50)
    fleet.sweep(100)
    assert [row[:2] for row in fleet.story()] == [("opened", "missed")]
    fleet.change("web", when=110, every_s=3600)
    fleet.sweep(110)
    assert fleet.alerts()[0]["resolution"] == "policy_changed"


def test_a_change_of_a_tag_does_not_start_the_schedule_afresh(fleet: Fleet) -> None:
    fleet.service()
    fleet.beat("web", when=5)
    fleet.sweep(5)
    fleet.change("web", when=60, every_s=60, tags=("db",))
    fleet.sweep(60)
    fleet.sweep(80)
    assert fleet.story() == [("opened", "missed", 75)]
