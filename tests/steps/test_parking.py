"""Steps that park: wait, condition, approval."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from medic.errors import Invalid
from medic.playbook.scope import Scope
from medic.steps.base import AwaitApproval, Done, Failed, Outcome, Park

Act = Callable[..., Outcome]
NOW = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def test_a_wait_parks_until_its_time_is_over_however_often_it_is_poked(act: Act) -> None:
    keys = {"type": "wait", "duration": "1m30s"}
    end = NOW + timedelta(seconds=90)
    assert act(**keys) == Park(end)
    assert act({"now": NOW + MINUTE, "parked_at": NOW}, **keys) == Park(end)
    assert act({"now": end, "parked_at": NOW}, **keys) == Done({"waited_s": 90})


def test_an_approval_asks_a_human(act: Act) -> None:
    keys = {"type": "approval", "message": "Restart ${SERVICE_NAME}?"}
    assert act({"timeout": None}, **keys) == AwaitApproval(None, "reject", "Restart web?")
    assert act({"timeout": MINUTE}, on_timeout="approve", timeout="1m", **keys) == AwaitApproval(
        MINUTE, "approve", "Restart web?"
    )


@pytest.mark.parametrize(
    "keys", [{"message": "${secrets.OPS}"}, {"on_timeout": "approve"}, {"timeout": "1m", "on_timeout": "ask"}]
)
def test_an_approval_that_cannot_work_is_refused(render: Any, keys: Any) -> None:
    with pytest.raises(Invalid):
        render(type="approval", **keys)


def test_heartbeats_count_from_the_end_of_the_last_acting_step(act: Act, context: Any) -> None:
    keys = {"type": "condition", "check": "heartbeat_received"}
    context.facts.beats += [(5, NOW - timedelta(seconds=90), "ok"), (6, NOW, "ok"), (5, NOW, "failed")]
    parked = act({"timeout": None}, **keys)
    assert parked == Park(
        NOW + timedelta(seconds=5),
        {
            "kind": "heartbeat_received", "service_id": 5, "since": "2026-11-23T09:29:00Z", "min_count": 1, "status": None,
            "deadline": "2026-11-23T09:36:00Z",
        },
    )  # fmt: skip
    assert isinstance(act(since="first", **keys), Done)
    context.facts.beats.append((5, NOW - timedelta(seconds=30), "ok"))
    assert act(**keys) == Done({"check": "heartbeat_received", "service_id": 5, "count": 1})


def test_the_parameters_of_the_original_decide_too(act: Act, context: Any) -> None:
    keys = {
        "type": "condition",
        "check": "heartbeat_received",
        "parameters": {"min_count": 2, "status": "UP", "service_id": 9},
    }
    context.facts.beats += [(9, NOW, "UP")]
    assert isinstance(act(**keys), Park)
    context.facts.beats += [(9, NOW, "UP")]
    assert isinstance(act(**keys), Done)


def test_a_condition_fails_at_its_deadline_and_polls_no_later_than_that(act: Act) -> None:
    keys = {"type": "condition", "check": "heartbeat_received"}
    late = act({"now": NOW + timedelta(seconds=8), "parked_at": NOW}, **keys)
    assert isinstance(late, Park)
    assert late.until == NOW + timedelta(seconds=10)
    over = act({"now": NOW + timedelta(seconds=10), "parked_at": NOW}, **keys)
    assert isinstance(over, Failed)
    assert (over.code, over.retryable) == ("timeout", False)
    assert over.message == "0 of 1 heartbeats of service 5 arrived within 10s."


def test_an_alert_that_is_resolved_ends_the_condition(act: Act, context: Any) -> None:
    keys = {"type": "condition", "check": "alert_resolved"}
    context.facts.open_alerts.add(11)
    assert act(**keys) == Park(
        NOW + timedelta(seconds=5),
        {"kind": "alert_resolved", "alert_id": 11, "deadline": "2026-11-23T09:30:10Z"},
    )
    over = act({"now": NOW + MINUTE, "parked_at": NOW}, **keys)
    assert isinstance(over, Failed)
    assert over.message == "Alert 11 was not resolved within 10s."
    context.facts.open_alerts.clear()
    assert act(**keys) == Done({"check": "alert_resolved", "alert_id": 11})


def test_an_address_is_asked_again_until_it_answers_well(act: Act, receiver: Any) -> None:
    keys = {
        "type": "condition",
        "check": "http",
        "url": receiver.url + "/health",
        "interval": "20s",
        "success": {"json": {"accepted": True}},
    }
    receiver.status = 503
    assert act({"timeout": MINUTE}, **keys) == Park(NOW + timedelta(seconds=20))
    over = act({"now": NOW + MINUTE, "parked_at": NOW, "timeout": MINUTE}, **keys)
    assert isinstance(over, Failed)
    assert (over.code, over.message) == ("timeout", "The address last answered 503 within 1m.")
    receiver.status = 204
    receiver.body = b""
    assert isinstance(act({"timeout": MINUTE}, **keys), Park)
    receiver.status, receiver.body = 200, b'{"accepted": true}'
    outcome = act(**keys)
    assert isinstance(outcome, Done)
    assert outcome.output["body"] == {"accepted": True}
    assert {request.method for request in receiver.received} == {"GET"}


def test_an_address_that_is_down_parks_and_one_that_is_forbidden_fails(act: Act) -> None:
    assert isinstance(act(type="condition", check="http", url="http://127.0.0.1:1/"), Park)
    outcome = act(type="condition", check="http", url="http://10.0.0.1/")
    assert isinstance(outcome, Failed)
    assert outcome.code == "egress_refused"


def test_a_condition_about_nothing_raises_before_it_acts(render: Any) -> None:
    for check in ("heartbeat_received", "alert_resolved"):
        with pytest.raises(Invalid, match="is about no"):
            render(scope=Scope(variables={"SERVICE_ID": None}), type="condition", check=check)


@pytest.mark.parametrize(
    ("keys", "path"),
    [
        ({}, ""), ({"check": "heartbeat_recieved"}, ".check"), ({"check": "heartbeat_received", "since": "gone"}, ".since"),
        ({"check": "heartbeat_received", "parameters": {"min_count": 0}}, ".parameters.min_count"), ({"check": "alert_resolved", "url": "x"}, ".url"),
        ({"check": "heartbeat_received", "parameters": {"mincount": 1}}, ".parameters.mincount"), ({"check": "http", "url": "https://a.example/", "method": "POST"}, ".method"),
        ({"check": "http", "url": "https://a.example/", "interval": 0}, ".interval"), ({"check": "http"}, ""),
    ],
)  # fmt: skip
def test_a_condition_that_cannot_work_is_refused_when_it_is_read(render: Any, keys: Any, path: str) -> None:
    with pytest.raises(Invalid) as caught:
        render(type="condition", **keys)
    assert [problem.path for problem in caught.value.problems] == [f"steps[1]{path}"]


def test_what_is_shown_is_the_step_in_plain_words(render: Any) -> None:
    assert render(type="wait", duration="90s")[1].shown == {"duration": "1m30s"}
    assert render(type="approval", message="Go?")[1].shown == {"message": "Go?", "on_timeout": "reject"}
    assert render(type="condition", check="alert_resolved")[1].shown == {
        "check": "alert_resolved",
        "alert_id": 11,
    }
    shown = render(type="condition", check="http", url="https://a.example/?key=x")[1].shown
    assert (shown["url"], shown["interval"]) == ("https://a.example/?key=[redacted]", "5s")
