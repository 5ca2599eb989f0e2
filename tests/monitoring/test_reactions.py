"""Which playbooks an alert starts, and how often."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from medic import settings as settings_
from medic import stop
from medic.db import in_transaction
from tests.monitoring.fleet import ACTOR, Fleet, at
from tests.monitoring.test_notices import route, target


def open_alert(fleet: Fleet, name: str = "web", **policy: Any) -> None:
    fleet.service(name, **policy)
    fleet.sweep(70)
    assert fleet.alerts(name), "the alert is what these tests begin with"


def started(fleet: Fleet) -> list[str]:
    return [row["playbook_name"] for row in fleet.executions()]


def test_a_trigger_starts_its_playbook_once_per_alert(fleet: Fleet) -> None:
    fleet.playbook(service_pattern='"w*"')
    open_alert(fleet)
    fleet.sweep_until(400, since=75, step=5)
    (execution,) = fleet.executions()
    (alert,) = fleet.alerts()
    assert (execution["alert_id"], execution["service_name"], execution["mode"]) == (
        alert["id"],
        "web",
        "live",
    )
    assert (execution["state"], execution["due_at"], execution["repeat_slot"]) == ("running", at(70), 0)
    assert execution["variables"]["CONSECUTIVE_FAILURES"] == 1
    assert len(fleet.audit("execution.start")) == 1
    fleet.beat("web", when=400)
    fleet.sweep_until(500, since=400, step=5)
    assert started(fleet) == ["fix", "fix"], "the next alert starts it again"


def test_the_sweep_hands_over_what_it_started(fleet: Fleet) -> None:
    fleet.playbook(service_pattern="web")
    fleet.service()
    swept = fleet.sweep(70)
    assert swept.started == [row["id"] for row in fleet.executions()]


@pytest.mark.parametrize(
    ("trigger", "applies"),
    [
        ({"service_pattern": "web"}, True),
        ({"service_pattern": "we"}, False),
        ({"service_pattern": '"*b"'}, True),
        ({"service_pattern": '"*"', "tags": "[edge]"}, True),
        ({"service_pattern": '"*"', "tags": "[db, edge]"}, False),
        ({"service_pattern": '"*"', "tags": "[db]"}, False),
        ({"service_pattern": '"*"', "priorities": "[p1]"}, True),
        ({"service_pattern": '"*"', "priorities": "[p2, p3]"}, False),
        ({"service_pattern": '"*"', "reasons": "[missed]"}, True),
        ({"service_pattern": '"*"', "reasons": "[failed]"}, False),
        ({"service_pattern": '"*"', "consecutive_failures": "2"}, False),
    ],
)
def test_a_trigger_applies_by_name_tag_priority_reason_and_count(
    fleet: Fleet, trigger: dict[str, str], applies: bool
) -> None:
    fleet.playbook(**trigger)
    open_alert(fleet, tags=("edge",), priority="p1")
    assert started(fleet) == (["fix"] if applies else [])


def test_consecutive_failures_may_be_reached_while_the_alert_is_open(fleet: Fleet) -> None:
    fleet.playbook(service_pattern="web", consecutive_failures="3")
    fleet.service()
    fleet.beat("web", when=0)
    fleet.sweep_until(189, since=0, step=5)
    assert started(fleet) == []
    fleet.sweep(190)
    assert fleet.executions()[0]["variables"]["CONSECUTIVE_FAILURES"] == 3


def test_repeat_every_starts_again_while_the_alert_is_open(fleet: Fleet) -> None:
    fleet.playbook(service_pattern="web", repeat_every="2m")
    fleet.service()
    fleet.beat("web", when=0)
    fleet.sweep_until(400, since=0, step=5)
    assert [(row["repeat_slot"], row["created_at"]) for row in fleet.executions()] == [
        (0, at(70)),
        (1, at(190)),
        (2, at(310)),
    ]


def test_a_repeat_or_a_refusal_does_not_wait_for_a_daily_job(fleet: Fleet) -> None:
    fleet.playbook(service_pattern="web", repeat_every="10m")
    target(fleet, "chat")
    route(fleet, "all", ["chat"])  # else the alert would look for one
    fleet.service(every_s=86_400)
    in_transaction(fleet.engine, lambda s: stop.stop_all(s, reason="drill", actor=ACTOR, now=at(0)))
    fleet.beat("web", "fail", when=10)
    fleet.sweep(10)
    assert (len(fleet.alerts()), started(fleet), fleet.due()) == (1, [], 310)
    in_transaction(fleet.engine, lambda s: stop.resume_all(s, actor=ACTOR, now=at(100)))
    fleet.sweep(310)
    assert fleet.due() == 910
    fleet.sweep(910)
    assert [row["created_at"] for row in fleet.executions()] == [at(310), at(910)]


def test_a_cooldown_holds_over_alerts(fleet: Fleet) -> None:
    fleet.playbook(service_pattern="web", cooldown="10m")
    fleet.service()
    fleet.beat("web", when=0)
    fleet.sweep(0)
    fleet.sweep(70)
    fleet.run("UPDATE executions SET state = 'completed', due_at = NULL, finished_at = :at", at=at(71))
    fleet.beat("web", when=80)
    fleet.sweep(80)
    fleet.sweep(150)
    assert len(fleet.alerts()) == 2
    assert started(fleet) == ["fix"]
    assert {row["detail"]["code"] for row in fleet.audit("execution.refuse")} == {"cooldown"}
    fleet.sweep_until(740, since=200, step=60)
    assert started(fleet) == ["fix", "fix"], "the alert is still open when the cooldown is over"


def test_the_breaker_opens_after_five_executions_in_an_hour(fleet: Fleet) -> None:
    for number in range(7):
        fleet.playbook(f"fix{number}", service_pattern="web")
    open_alert(fleet)
    assert len(fleet.executions()) == 5
    assert [row["detail"]["code"] for row in fleet.audit("execution.refuse")] == ["breaker", "breaker"]


@pytest.mark.parametrize(
    ("variable", "code"),
    [("MEDIC_BREAKER_PER_SERVICE", "breaker"), ("MEDIC_BREAKER_PER_PLAYBOOK", "playbook_breaker")],
)
def test_where_a_breaker_opens_is_a_setting(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, variable: str, code: str
) -> None:
    monkeypatch.setenv(variable, "1")
    settings_.current.cache_clear()
    try:
        for number in range(2):
            fleet.playbook(f"fix{number}", service_pattern="web")
        open_alert(fleet)
        fleet.playbook("fix0", service_pattern='"w*"')
        open_alert(fleet, "worker")
    finally:
        monkeypatch.delenv(variable)
        settings_.current.cache_clear()
    assert code in {row["detail"]["code"] for row in fleet.audit("execution.refuse")}
    assert len(fleet.executions()) == 2


def test_a_playbooks_breaker_opens_after_fifty_executions_in_an_hour(fleet: Fleet) -> None:
    fleet.playbook(service_pattern='"w*"')
    for number in range(52):
        fleet.service(f"w{number}")
        fleet.beat(f"w{number}", when=0)
    fleet.sweep(0)
    fleet.sweep(70)
    assert len(fleet.alerts()) == 52
    assert len(fleet.executions()) == 50
    assert [row["detail"]["code"] for row in fleet.audit("execution.refuse")] == ["playbook_breaker"] * 2
    assert "50 executions of this playbook" in fleet.audit("execution.refuse")[0]["detail"]["reason"]
    fleet.run("UPDATE executions SET state = 'completed', due_at = NULL, finished_at = :at", at=at(100))
    fleet.sweep(400)
    assert len(fleet.audit("execution.refuse")) == 4, "each new try that is refused is kept"
    fleet.sweep(3700)
    assert len(fleet.executions()) == 52, "the alerts are open still when the hour is over"


def test_under_the_stop_switch_the_alert_opens_and_nothing_starts(fleet: Fleet) -> None:
    fleet.playbook(service_pattern="web")
    in_transaction(fleet.engine, lambda s: stop.stop_all(s, reason="drill", actor=ACTOR, now=at(0)))
    fleet.service()
    fleet.beat("web", when=0)
    fleet.sweep(70)
    assert (len(fleet.alerts()), started(fleet)) == (1, [])
    in_transaction(fleet.engine, lambda s: stop.resume_all(s, actor=ACTOR, now=at(100)))
    fleet.sweep(130)
    assert started(fleet) == ["fix"]


def test_a_shadow_trigger_is_recorded_once_and_does_nothing(fleet: Fleet) -> None:
    fleet.playbook(service_pattern="web", mode="shadow")
    fleet.service()
    fleet.beat("web", when=0)
    for when in (0, 70, 130, 190, 250):
        assert fleet.sweep(when).started == []
    (execution,) = fleet.executions()
    assert (execution["mode"], execution["state"], execution["due_at"]) == ("shadow", "completed", None)
    assert execution["finished_at"] == at(70)
    (step,) = fleet.rows("SELECT * FROM execution_steps")
    assert (step["state"], step["error"]["code"]) == ("skipped", "skipped")
    (entry,) = fleet.audit("trigger.shadow")
    assert entry["object_id"] == str(execution["id"])


def test_a_trigger_that_leaves_the_shadow_starts_for_the_alert_that_is_open(fleet: Fleet) -> None:
    fleet.playbook(service_pattern="web", mode="shadow")
    fleet.service()
    fleet.beat("web", when=0)
    fleet.sweep(70)
    fleet.playbook(service_pattern="web", mode="live")
    for when in (130, 190):
        fleet.sweep(when)
    assert [(row["mode"], row["repeat_slot"]) for row in fleet.executions()] == [("shadow", 0), ("live", 1)]


def test_a_new_version_of_the_playbook_does_not_start_again_for_the_same_alert(fleet: Fleet) -> None:
    fleet.playbook(service_pattern="web")
    fleet.service()
    fleet.beat("web", when=0)
    fleet.sweep(70)
    fleet.playbook(service_pattern="web", steps="steps:\n  - {name: pause, type: wait, duration: 2m}\n")
    fleet.sweep(130)
    assert [row["playbook_version"] for row in fleet.executions()] == [1]
    assert fleet.rows("SELECT version, count(*) OVER () AS triggers FROM triggers") == [
        {"version": 2, "triggers": 1}
    ]


@pytest.mark.parametrize(("policy", "expected"), [("all", ["a", "b"]), ("first", ["b"])])
def test_the_playbook_policy_says_whether_all_or_the_first_start(
    fleet: Fleet, policy: str, expected: list[str]
) -> None:
    fleet.playbook("a", service_pattern='"*"')
    fleet.playbook("b", service_pattern="web")
    fleet.run("UPDATE triggers SET position = 1 WHERE service_pattern = 'web'")
    fleet.service(playbook_policy=policy)
    fleet.beat("web", when=0)
    fleet.sweep(70)
    fleet.sweep(130)
    assert sorted(started(fleet)) == expected


def test_a_playbook_that_cannot_start_does_not_keep_the_alert_from_opening(fleet: Fleet) -> None:
    fleet.playbook("broken", service_pattern='"*"')
    fleet.playbook("fix", service_pattern='"*"')
    # As after a release that no longer knows a step type.
    fleet.run(
        "UPDATE playbook_versions SET source = 'name: broken' WHERE playbook_id ="
        " (SELECT id FROM playbooks WHERE name = 'broken')"
    )
    fleet.service()
    with capture_logs() as logged:
        fleet.sweep(70)
    assert [line["playbook"] for line in logged if line["event"] == "reactions.not_started"] == ["broken"]
    assert len(fleet.alerts()) == 1
    assert started(fleet) == ["fix"]


def test_variables_that_do_not_fit_do_not_keep_the_alert_from_opening(fleet: Fleet) -> None:
    fleet.playbook("fix", service_pattern='"*"')
    fleet.run('UPDATE triggers SET variables = \'{"SERVICE_NAME": "x"}\'')
    fleet.service()
    with capture_logs() as logged:
        fleet.sweep(70)
    assert [line["event"] for line in logged] == ["reactions.not_started"]
    assert (len(fleet.alerts()), started(fleet)) == (1, [])


def test_a_disabled_or_deleted_playbook_does_not_start(fleet: Fleet) -> None:
    fleet.playbook("a", service_pattern='"*"')
    fleet.playbook("b", service_pattern='"*"')
    fleet.playbook("c", service_pattern='"*"')
    fleet.run("UPDATE playbooks SET enabled = false WHERE name = 'a'")
    fleet.run("UPDATE playbooks SET deleted_at = now() WHERE name = 'b'")
    fleet.run(
        "UPDATE triggers SET enabled = false WHERE playbook_id = (SELECT id FROM playbooks WHERE name = 'c')"
    )
    open_alert(fleet)
    assert started(fleet) == []


def test_a_crowded_playbook_waits_for_its_place(fleet: Fleet) -> None:
    crowd = "concurrency: {per_playbook: 1}\nsteps:\n  - {name: pause, type: wait, duration: 1m}\n"
    fleet.playbook(service_pattern='"*"', steps=crowd)
    fleet.service("a")
    fleet.service("b")
    fleet.sweep(70)
    assert sorted((row["state"], row["waiting_for"] or "") for row in fleet.executions()) == [
        ("running", ""),
        ("waiting", "concurrency"),
    ]
    assert {row["due_at"] for row in fleet.executions()} <= {at(70), at(70) + timedelta(seconds=5)}
