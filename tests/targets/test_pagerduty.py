from __future__ import annotations

from typing import Any

import pytest

from medic.errors import Invalid
from medic.targets.base import Permanent, Temporary
from medic.targets.pagerduty import PagerDuty

KIND = PagerDuty(timeout=5)
ROUTING_KEY = "0123456789abcdef0123456789abcdef"
TAKEN = {"status": "success", "message": "Event processed", "dedup_key": "medic-alert-7"}


@pytest.fixture
def target(stage: Any, http: Any, view: Any) -> Any:
    stage.says(http.answer(202, TAKEN))
    return view(KIND, {"api_url": f"{stage.url}/v2/enqueue"}, routing_key=ROUTING_KEY)


@pytest.mark.parametrize("kind", ["opened", "reason_joined", "renotified", "escalated"])
def test_what_still_fails_triggers_one_incident_for_each_alert(
    stage: Any, settings: Any, tell: Any, envelope: Any, target: Any, kind: str
) -> None:
    assert KIND.send(target, tell(kind), envelope(), settings=settings) == {"dedup_key": "medic-alert-7"}
    (request,) = stage.requests
    sent = request.json
    assert request.path == "/v2/enqueue"
    assert (sent["routing_key"], sent["event_action"], sent["dedup_key"]) == (
        ROUTING_KEY,
        "trigger",
        "medic-alert-7",
    )
    assert sent["payload"]["summary"].endswith("web-7 is down: missed (p2)") or kind == "renotified"
    assert sent["payload"]["component"] == "web-7"
    assert sent["payload"]["custom_details"]["tags"] == ["prod"]
    assert sent["links"][0] == {"href": "https://wiki.example.org/web?a=1&b=2", "text": "Runbook"}
    assert not KIND.groups


@pytest.mark.parametrize(("kind", "action"), [("acknowledged", "acknowledge"), ("resolved", "resolve")])
def test_the_incident_is_acknowledged_and_resolved_with_the_alert(
    stage: Any, settings: Any, tell: Any, envelope: Any, target: Any, kind: str, action: str
) -> None:
    KIND.send(target, tell(kind), envelope(), settings=settings)
    assert stage.requests[0].json == {
        "routing_key": ROUTING_KEY, "event_action": action, "dedup_key": "medic-alert-7",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("priority", "severity"),
    [("p1", "critical"), ("p2", "error"), ("p3", "warning"), ("p4", "info"), ("p5", "info")],
)
def test_the_priority_is_the_severity(
    stage: Any, settings: Any, tell: Any, envelope: Any, target: Any, priority: str, severity: str
) -> None:
    KIND.send(target, tell(priority=priority), envelope(), settings=settings)
    assert stage.requests[0].json["payload"]["severity"] == severity


def test_a_test_leaves_no_incident_behind(
    stage: Any, settings: Any, tell: Any, envelope: Any, target: Any
) -> None:
    KIND.send(target, tell("test", storm=0), envelope(), settings=settings)
    trigger, resolve = (request.json for request in stage.requests)
    assert (trigger["event_action"], resolve["event_action"]) == ("trigger", "resolve")
    assert trigger["dedup_key"] == resolve["dedup_key"] != "medic-alert-7"
    assert trigger["payload"]["severity"] == "info"


@pytest.mark.parametrize(
    ("status", "body", "disables"),
    [
        (400, {"status": "invalid event", "message": "Event object is invalid",
               "errors": ["Length of 'routing_key' is incorrect (should be 32 characters)"]}, True),
        (400, {"message": f"Invalid routing key {ROUTING_KEY}"}, True),
        (400, {"status": "invalid event", "errors": ["'payload.summary' is missing"]}, False),
        (400, b"<html>", False),
        (413, b"", False),
        (404, b"", True),
    ],
)  # fmt: skip
def test_a_refusal_is_permanent_and_a_wrong_key_disables(
    stage: Any,
    http: Any,
    settings: Any,
    tell: Any,
    envelope: Any,
    target: Any,
    status: int,
    body: Any,
    disables: bool,
) -> None:
    stage.says(http.answer(status, body))
    with pytest.raises(Permanent, match=str(status)) as failed:
        KIND.send(target, tell(), envelope(), settings=settings)
    assert failed.value.disables is disables
    assert ROUTING_KEY not in failed.value.message


def test_too_many_events_wait_as_long_as_asked(
    stage: Any, http: Any, settings: Any, tell: Any, envelope: Any, target: Any
) -> None:
    stage.says(http.answer(429, {"message": "slow down"}, Retry_After="30"))
    with pytest.raises(Temporary) as failed:
        KIND.send(target, tell(), envelope(), settings=settings)
    assert failed.value.retry_after == 30


@pytest.mark.parametrize("badly", ["garbage", "cut", "reset", "hang", 500, 503, "html", "array", "deep"])
def test_an_answer_that_is_none_of_its_own_is_temporary(
    stage: Any, http: Any, settings: Any, tell: Any, envelope: Any, target: Any, badly: Any
) -> None:
    bodies = {"html": b"<html>welcome to this hotel", "array": b"[1]", "deep": b"[" * 60_000}
    said = http.answer(badly) if isinstance(badly, int) else None
    stage.says(
        said or (http.answer(202, bodies[badly]) if badly in bodies else getattr(http, str(badly), None))
    )
    with pytest.raises(Temporary):
        PagerDuty(timeout=0.3).send(target, tell(), envelope(), settings=settings)


def test_its_address_is_judged_too(
    stage: Any, closed_settings: Any, tell: Any, envelope: Any, target: Any
) -> None:
    with pytest.raises(Permanent, match="Invalid webhook URL") as refused:
        KIND.send(target, tell(), envelope(), settings=closed_settings)
    assert refused.value.disables
    assert stage.requests == []


def test_it_needs_a_key() -> None:
    with pytest.raises(Invalid, match=r"secrets\.routing_key: is required"):
        KIND.parse({}, {})
    assert KIND.parse({}, {"routing_key": ROUTING_KEY}) == ({}, {"routing_key": ROUTING_KEY})
