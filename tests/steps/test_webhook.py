from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from medic.errors import Invalid
from medic.steps.base import Done, Failed, Outcome
from medic.steps.output import MOST_BYTES

Act = Callable[..., Outcome]
SECRET = "hunter22-hunter22"


def done(outcome: Outcome) -> dict[str, Any]:
    assert isinstance(outcome, Done), outcome
    return dict(outcome.output)


def failed(outcome: Outcome) -> Failed:
    assert isinstance(outcome, Failed), outcome
    return outcome


def test_a_webhook_sends_its_values_and_keeps_the_answer(act: Act, receiver: Any) -> None:
    output = done(
        act(
            type="webhook",
            url=receiver.url + "/restart/${SERVICE_NAME}?id=${steps.first.body.id}",
            headers={"Authorization": "Bearer ${secrets.OPS}", "X-Count": 3},
            body={
                "service": "${SERVICE_NAME}",
                "list": "${LIST}",
                "n": "${ALERT_ID}",
                "fixed": [True, None, "$${x}"],
            },
        )
    )
    (request,) = receiver.received
    assert (request.method, request.path) == ("POST", "/restart/web?id=7")
    assert json.loads(request.body) == {
        "service": "web",
        "list": [1, "x"],
        "n": 11,
        "fixed": [True, None, "${x}"],
    }
    assert request.headers["authorization"] == f"Bearer {SECRET}"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["x-count"] == "3"
    assert request.headers["idempotency-key"] == "01890000-0000-7000-8000-000000000001.s"
    assert request.headers["medic-fencing-token"] == "4"
    assert output["status"] == 200
    assert output["body"]["data"] == {"items": [{"id": 4}]}
    assert output["headers"]["content-type"] == "application/json"
    assert output["url"] == receiver.url + "/restart/web?id=7"
    assert isinstance(output["duration_ms"], int)


def test_a_text_body_is_sent_as_it_is(act: Act, receiver: Any) -> None:
    done(act(type="webhook", url=receiver.url, method="PUT", body="on ${SERVICE_NAME}"))
    (request,) = receiver.received
    assert (request.method, request.body) == ("PUT", b"on web")
    assert request.headers["content-type"] == "text/plain; charset=utf-8"


def test_a_playbook_may_choose_its_own_idempotency_key_and_content_type(act: Act, receiver: Any) -> None:
    headers = {"Idempotency-Key": "alert-${ALERT_ID}", "content-type": "application/x-www-form-urlencoded"}
    done(act(type="webhook", url=receiver.url, headers=headers, body="a=1"))
    assert receiver.received[0].headers["idempotency-key"] == "alert-11"
    assert receiver.received[0].headers["content-type"] == "application/x-www-form-urlencoded"


def test_no_secret_is_in_plan_output_or_repr(act: Act, render: Any, receiver: Any) -> None:
    receiver.body = json.dumps({SECRET: [f"you sent {SECRET}"], "accepted": True}).encode()
    receiver.headers = {"Content-Type": "application/json", "Location": f"/{SECRET}"}
    keys: dict[str, Any] = {
        "type": "webhook",
        "url": receiver.url + "/${secrets.OPS}?t=${secrets.OPS}",
        "headers": {"Authorization": "Bearer ${secrets.OPS}", "X-Api-Key": "plain-credential"},
        "body": {"token": "${secrets.OPS}"},
    }
    _, rendered = render(**keys)
    outcome = act(**keys)
    assert SECRET in receiver.received[0].path
    for text in (json.dumps(rendered.shown), repr(rendered), json.dumps(done(outcome)), repr(outcome)):
        assert SECRET not in text
        assert "plain-credential" not in text
    assert rendered.shown["url"].endswith("/[secret:OPS]?t=[secret:OPS]")
    assert rendered.shown["headers"]["Authorization"] == "Bearer [secret:OPS]"


@pytest.mark.parametrize(
    ("success", "holds"),
    [
        ({"status": [200]}, True), ({"status": "2xx"}, True), ({"status": [201, "3xx"]}, False), ({"json": {"accepted": True}}, True),
        ({"json": {"accepted": "true"}}, False), ({"json": {"data.items.0.id": 4}}, True), ({"json": {"data.items.0.id": "${steps.first.body.id}"}}, False),
        ({"json": {"gone": None}}, False), ({"body": "*accepted*"}, True), ({"body": "accepted"}, False),
    ],
)  # fmt: skip
def test_success_is_what_the_playbook_says(act: Act, receiver: Any, success: Any, holds: bool) -> None:
    outcome = act(type="webhook", url=receiver.url, success=success)
    assert isinstance(outcome, Done if holds else Failed)
    if isinstance(outcome, Failed) and "status" not in success:
        assert (outcome.code, outcome.retryable) == ("unexpected_answer", False)
        assert outcome.output["status"] == 200


@pytest.mark.parametrize(
    ("status", "retryable"), [(500, True), (503, True), (429, True), (404, False), (302, False)]
)
def test_a_wrong_status_fails_with_its_code(act: Act, receiver: Any, status: int, retryable: bool) -> None:
    receiver.status = status
    outcome = failed(act(type="webhook", url=receiver.url))
    assert (outcome.code, outcome.retryable) == (f"http_{status}", retryable)
    assert outcome.message == f"The webhook answered {status}."
    assert outcome.output["body"] == {"accepted": True, "data": {"items": [{"id": 4}]}}


def test_the_original_list_of_codes_decides_too(act: Act, receiver: Any) -> None:
    receiver.status = 404
    assert done(act(type="webhook", url=receiver.url, success_codes=[404]))["status"] == 404


@pytest.mark.parametrize(
    "body",
    [b'{"a": NaN}', b'{"a": 1e999}', b"[" * 3000, b"{", b"\xff\x00", b'{"a": ' + b"1" * 5000 + b"}", b""],
)
def test_a_body_that_is_no_usable_json_is_kept_as_text(act: Act, receiver: Any, body: bytes) -> None:
    receiver.body = body
    text = done(act(type="webhook", url=receiver.url))["body"]
    assert isinstance(text, str)
    assert "\x00" not in text


def test_characters_that_the_database_refuses_are_replaced(act: Act, receiver: Any) -> None:
    receiver.body = b'{"a\\u0000": "\\ud800b"}'
    assert done(act(type="webhook", url=receiver.url))["body"] == {"a\ufffd": "?b"}


def test_a_long_body_is_cut_with_a_mark(act: Act, receiver: Any) -> None:
    receiver.body = b"[" + b"1," * MOST_BYTES + b"1]"
    text = done(act(type="webhook", url=receiver.url))["body"]
    assert text.endswith("[cut at 65536 bytes]")
    assert len(text) < MOST_BYTES + 100


def test_an_answer_that_does_not_come_is_a_timeout(act: Act, receiver: Any) -> None:
    receiver.hold = threading.Event()
    outcome = failed(act({"timeout": timedelta(seconds=0.3)}, type="webhook", url=receiver.url))
    assert (outcome.code, outcome.retryable, outcome.output["sent"]) == ("timeout", True, True)
    assert outcome.message == "The webhook did not answer within 0.3s."


def test_a_closed_port_is_a_failure_to_connect(act: Act) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        outcome = failed(act(type="webhook", url=f"http://127.0.0.1:{unused.getsockname()[1]}/"))
    assert (outcome.code, outcome.retryable, outcome.output["sent"]) == ("connect", True, False)


def test_an_address_that_may_not_be_reached_is_refused_for_good(act: Act) -> None:
    outcome = failed(act(type="webhook", url="http://169.254.169.254/latest/meta-data"))
    assert (outcome.code, outcome.message, outcome.retryable) == (
        "egress_refused",
        "Invalid webhook URL",
        False,
    )


def test_a_lease_that_is_not_surely_ours_stops_the_request_before_it_leaves(act: Act, receiver: Any) -> None:
    class LeaseLost(Exception):
        pass

    def lost() -> None:
        raise LeaseLost

    with pytest.raises(LeaseLost):
        act({"before_effect": lost}, type="webhook", url=receiver.url)
    assert receiver.received == []


@pytest.mark.parametrize(
    "keys",
    [
        {"url": "https://a.example/${GONE}"}, {"headers": {"x": "${GONE}"}}, {"body": {"a": ["${steps.first.body.gone}"]}},
        {"success": {"json": {"a": "${GONE}"}}}, {"headers": {"x": "a\nb: c"}}, {"headers": {"x": "€"}}, {"headers": {"${SERVICE_NAME}": "a", "Web": "b"}},
    ],
)  # fmt: skip
def test_a_value_that_is_missing_or_does_not_fit_stops_before_anything_is_sent(
    render: Any, keys: Any
) -> None:
    with pytest.raises(Invalid):
        render(**{"type": "webhook", "url": "https://a.example/"} | keys)


@pytest.mark.parametrize(
    ("keys", "path"),
    [
        ({}, ""), ({"url": "ftp://a.example/"}, ".url"), ({"url": "https://${secrets.OPS}/"}, ".url"), ({"method": "TRACE"}, ".method"),
        ({"headers": {"Host": "x"}}, ".headers.Host"), ({"headers": {"medic-fencing-token": "9"}}, ".headers.medic-fencing-token"),
        ({"headers": {"a b": "x"}}, ".headers.a b"), ({"headers": {"${secrets.OPS}": "x"}}, ".headers.${secrets.OPS}"), ({"headers": {"a": [1]}}, ".headers.a"),
        ({"success": {"status": []}}, ".success.status"), ({"success": {"status": [99]}}, ".success.status"), ({"success": {"status": "ok"}}, ".success.status"),
        ({"success": {"json": {"a..b": 1}}}, ".success.json"), ({"success": {"json": [1]}}, ".success.json"), ({"success": {"json": {"a": "${secrets.OPS}"}}}, ".success.json"),
        ({"success": {"status": 200}, "success_codes": [200]}, ".success_codes"), ({"idempotent": "perhaps"}, ".idempotent"),
        ({"url": "${URL}", "headers": {"a": "${secrets.OPS}"}}, ".url"), ({"url": "https://${SERVICE_NAME}/", "body": {"k": ["${secrets.OPS}"]}}, ".url"),
        ({"url": "https://${steps.first.body.host}/?k=${secrets.OPS}"}, ".url"),
    ],
)  # fmt: skip
def test_a_webhook_that_cannot_work_is_refused_when_it_is_read(render: Any, keys: Any, path: str) -> None:
    with pytest.raises(Invalid) as caught:
        render(**{"type": "webhook"} | ({"url": "https://a.example/"} | keys if keys else {}))
    assert [problem.path for problem in caught.value.problems] == [f"steps[1]{path}"]


def test_a_secret_may_go_to_a_declared_or_a_pinned_address(read_with_secret: Any) -> None:
    for url in ("${URL}/go", "https://${SERVICE_NAME}.ops.example/"):
        assert read_with_secret(url).warnings == ()
