from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from standardwebhooks import Webhook as Verifier

from medic.errors import Invalid
from medic.targets.base import LONGEST_WAIT, Permanent, Temporary
from medic.targets.webhook import Webhook

SECRET = "whsec_" + base64.b64encode(b"s" * 32).decode()
KIND = Webhook(timeout=5)


def test_a_webhook_is_signed_so_that_the_reference_verifies_it(
    stage: Any, settings: Any, tell: Any, envelope: Any, view: Any
) -> None:
    target = view(
        KIND, {"url": f"{stage.url}/in?x=1", "headers": {"X-Env": "prod"}},
        signing_secret=SECRET, bearer="tok-tok-tok",
    )  # fmt: skip
    assert KIND.send(target, tell(), envelope(), settings=settings) == {"status": 200}
    (request,) = stage.requests
    assert (request.method, request.path) == ("POST", "/in?x=1")
    assert request.headers["authorization"] == "Bearer tok-tok-tok"
    assert request.headers["x-env"] == "prod"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["webhook-id"] == str(envelope().key)
    sent = Verifier(SECRET).verify(request.body, request.headers)
    assert sent == json.loads(request.body)
    assert sent["type"] == "alert.opened"
    assert sent["timestamp"] == "2026-11-23T09:42:00Z"
    assert sent["data"]["title"] == "web-7 is down: missed (p2)"
    assert sent["data"]["alerts"][0]["runbook_url"] == "https://wiki.example.org/web?a=1&b=2"
    with pytest.raises(Exception, match="No matching signature"):
        Verifier(SECRET).verify(request.body + b" ", request.headers)


def test_the_id_stays_and_the_signature_is_new_when_it_is_sent_again(
    stage: Any, http: Any, settings: Any, tell: Any, envelope: Any, view: Any
) -> None:
    stage.says(http.answer(503), http.answer(204))
    target = view(KIND, {"url": stage.url}, signing_secret=SECRET)
    with pytest.raises(Temporary, match="503"):
        KIND.send(target, tell(), envelope(), settings=settings)
    KIND.send(target, tell(), envelope(), settings=settings)
    first, second = stage.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
    Verifier(SECRET).verify(second.body, second.headers)


def test_a_url_may_be_a_secret_and_is_signed_only_with_a_secret(
    stage: Any, settings: Any, tell: Any, envelope: Any, view: Any
) -> None:
    target = view(KIND, {}, url=f"{stage.url}/T0PSECRET")
    KIND.send(target, tell(storm=3), envelope(), settings=settings)
    (request,) = stage.requests
    assert request.path == "/T0PSECRET"
    assert request.headers["webhook-id"]
    assert "webhook-signature" not in request.headers
    assert len(request.json["data"]["alerts"]) == 3
    assert "T0PSECRET" not in repr(target)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{port}/", "http://2130706433:{port}/", "http://localhost:{port}/"]
)
def test_an_address_that_the_safe_client_refuses_gets_no_request(
    stage: Any, closed_settings: Any, tell: Any, envelope: Any, view: Any, url: str
) -> None:
    target = view(KIND, {"url": url.format(port=stage.port)})
    with pytest.raises(Permanent) as refused:
        KIND.send(target, tell(), envelope(), settings=closed_settings)
    assert refused.value.disables
    assert refused.value.message == "Invalid webhook URL"
    assert stage.requests == []


@pytest.mark.parametrize(
    ("status", "kind", "disables"),
    [(301, Permanent, False), (400, Permanent, False), (404, Permanent, False), (410, Permanent, True),
     (408, Temporary, None), (425, Temporary, None), (429, Temporary, None), (500, Temporary, None),
     (503, Temporary, None)],
)  # fmt: skip
def test_each_status_is_temporary_or_permanent(
    stage: Any,
    http: Any,
    settings: Any,
    tell: Any,
    envelope: Any,
    view: Any,
    status: int,
    kind: Any,
    disables: Any,
) -> None:
    stage.says(http.answer(status, b"no", Location="/elsewhere"))
    with pytest.raises(kind, match=str(status)) as failed:
        KIND.send(view(KIND, {"url": stage.url}), tell(), envelope(), settings=settings)
    assert getattr(failed.value, "disables", None) is disables
    assert len(stage.requests) == 1


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry_After": "17"}, 17.0),
        ({"Retry_After": "999999999"}, LONGEST_WAIT),
        ({"Retry_After": "Mon, 23 Nov 2026 09:01:30 GMT", "Date": "Mon, 23 Nov 2026 09:00:00 GMT"}, 90.0),
        ({"Retry_After": "Mon, 23 Nov 2026 08:00:00 GMT", "Date": "Mon, 23 Nov 2026 09:00:00 GMT"}, 0.0),
        ({"Retry_After": "soon"}, None),
        ({"Retry_After": "-5"}, None),
        ({}, None),
    ],
)
def test_a_receiver_may_say_when_to_come_back(
    stage: Any, http: Any, settings: Any, tell: Any, envelope: Any, view: Any, headers: Any, seconds: Any
) -> None:
    stage.says(http.answer(429, **headers))
    with pytest.raises(Temporary) as failed:
        KIND.send(view(KIND, {"url": stage.url}), tell(), envelope(), settings=settings)
    assert failed.value.retry_after == seconds


@pytest.mark.parametrize("badly", ["garbage", "cut", "reset", "hang"])
def test_no_whole_answer_is_temporary(
    stage: Any, http: Any, settings: Any, tell: Any, envelope: Any, view: Any, badly: str
) -> None:
    stage.says(getattr(http, badly))
    with pytest.raises(Temporary):
        Webhook(timeout=0.3).send(view(KIND, {"url": stage.url}), tell(), envelope(), settings=settings)
    assert len(stage.requests) == 1


def test_nobody_listening_is_temporary(
    settings: Any, tell: Any, envelope: Any, view: Any, free_port: int
) -> None:
    with pytest.raises(Temporary, match="No connection"):
        KIND.send(view(KIND, {"url": f"http://127.0.0.1:{free_port}"}), tell(), envelope(), settings=settings)


@pytest.mark.parametrize(
    ("config", "secrets", "where"),
    [
        ({}, {}, "config.url"),
        ({"url": "https://a.example/"}, {"url": "https://b.example/"}, "config.url"),
        ({"url": "ftp://a.example/"}, {}, "config.url"),
        ({"url": "https://user:pw@a.example/"}, {}, "config.url"),
        ({"url": 7}, {}, "config.url"),
        ({"url": "https://a.example/", "nope": 1}, {}, "config.nope"),
        ({"url": "https://a.example/", "headers": {"Authorization": "x"}}, {}, "config.headers"),
        ({"url": "https://a.example/", "headers": {"webhook-id": "x"}}, {}, "config.headers"),
        ({"url": "https://a.example/", "headers": {"X": "a\r\nY: b"}}, {}, "config.headers"),
        ({"url": "https://a.example/"}, {"signing_secret": "whsec_hunter2"}, "secrets.signing_secret"),
        ({"url": "https://a.example/"}, {"bearer": "hunter2\r\nX: y"}, "secrets.bearer"),
        ({"url": "https://a.example/"}, {"nope": "hunter2"}, "secrets.nope"),
    ],
)
def test_a_mistake_is_told_where_it_is_and_shows_no_secret(config: Any, secrets: Any, where: str) -> None:
    with pytest.raises(Invalid) as wrong:
        KIND.parse(config, secrets)
    assert [problem.path for problem in wrong.value.problems] == [where]
    assert "hunter2" not in str(wrong.value)
