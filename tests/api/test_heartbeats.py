"""POST /v1/heartbeats: stored before the 202, and what is refused stores nothing."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, text

from tests.api.caller import Api, MakeApi, problem


def stored(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text("SELECT count(*) FROM heartbeats")).scalar_one())


def test_a_heartbeat_is_stored_when_the_answer_comes(web: Api, engine: Engine) -> None:
    response = web("POST", "/v1/heartbeats", {"service": "web", "message": "fine", "metrics": {"rows": 3.5}})
    assert response.status_code == 202
    shown = web("GET", "/v1/services/web/heartbeats").get_json()["items"]
    assert [(item["id"], item["kind"], item["metrics"]) for item in shown] == [
        (response.get_json()["id"], "ok", {"rows": 3.5})
    ]


def test_a_repeat_with_the_same_id_gets_the_first_answer_and_stores_nothing(web: Api, engine: Engine) -> None:
    first = web("POST", "/v1/heartbeats", {"service": "web", "id": "a-1"})
    again = web("POST", "/v1/heartbeats", {"service": "web", "id": "a-1"})
    assert (first.status_code, again.status_code) == (202, 200)
    assert first.get_json() | {"repeat": True} == again.get_json()
    assert stored(engine) == 1


def test_an_unknown_service_is_404_unless_the_key_may_make_it(api_with: MakeApi, engine: Engine) -> None:
    sender, maker = api_with("heartbeats:write"), api_with("heartbeats:write", "services:write")
    problem(sender("POST", "/v1/heartbeats", {"service": "job"}), 404)
    problem(sender("POST", "/v1/heartbeats?create=1", {"service": "job"}), 403)
    problem(maker("POST", "/v1/heartbeats?create=1", {"service": "batch"}), 422, "service")
    assert stored(engine) == 0
    assert maker("POST", "/v1/heartbeats?create=1&every=10m", {"service": "job"}).status_code == 202
    assert sender("POST", "/v1/heartbeats", {"service": "job"}).status_code == 202


def test_a_service_that_was_made_anew_gets_its_heartbeats_at_once(web: Api) -> None:
    assert web("POST", "/v1/heartbeats", {"service": "web"}).status_code == 202
    assert web("DELETE", "/v1/services/web").status_code == 204
    problem(web("POST", "/v1/heartbeats", {"service": "web"}), 404)
    web("POST", "/v1/services", {"name": "web", "every": "5m"})
    assert web("POST", "/v1/heartbeats", {"service": "web"}).status_code == 202


def test_a_key_for_some_services_sends_for_no_other(web: Api, api_with: MakeApi, engine: Engine) -> None:
    narrow = api_with("heartbeats:write", patterns=["db-*"])
    problem(narrow("POST", "/v1/heartbeats", {"service": "web"}), 403)
    assert stored(engine) == 0


def test_a_message_that_is_too_long_is_cut_and_says_so(web: Api) -> None:
    response = web("POST", "/v1/heartbeats", {"service": "web", "message": "ä" * 6000})
    assert response.get_json()["message_cut"] is True
    shown = web("GET", "/v1/services/web/heartbeats").get_json()["items"][0]["message"]
    assert shown == "ä" * 5000


@pytest.mark.parametrize(
    ("raw", "status", "path"),
    [
        (b"{not json", 400, ""),
        (b"\xff\xfe", 400, ""),
        (b'{"service": "web", "message": "\\ud800"}', 400, ""),
        (b"[" * 50_000, 400, ""),
        (b"", 422, "service"),
        (b"[]", 422, ""),
        (b'{"service": 7}', 422, "service"),
        (b'{"service": "web", "duration_ms": "5"}', 422, "duration_ms"),
        (b'{"service": "web", "duration_ms": 99999999999999999999}', 422, "duration_ms"),
        (b'{"service": "web", "duration_ms": true}', 422, "duration_ms"),
        (b'{"service": "web", "exit_code": 70000}', 422, "exit_code"),
        (b'{"service": "web", "staus": "ok"}', 422, "staus"),
        (b'{"service": "web", "status": "great"}', 422, "status"),
        (b'{"service": "web", "message": "a\\u0000b"}', 422, "message"),
        (b'{"service": "web", "metrics": {"x": NaN}}', 422, "metrics.x"),
        (b'{"service": "web", "metrics": {"x": 1e999}}', 422, "metrics.x"),
        (b'{"service": "web", "occurred_at": "yesterday"}', 422, "occurred_at"),
        (b'{"service": "web", "occurred_at": "2999-01-01T00:00:00Z"}', 422, "occurred_at"),
        (b'{"service": "web", "occurred_at": "1999-01-01T00:00:00Z"}', 422, "occurred_at"),
        (b'{"service": "web\\n"}', 422, "service"),
    ],
)
def test_bad_input_names_the_field_and_stores_nothing(
    web: Api, engine: Engine, raw: bytes, status: int, path: str
) -> None:
    problem(web("POST", "/v1/heartbeats", raw=raw), status, path)
    assert stored(engine) == 0


def test_a_body_over_1_mib_is_413(web: Api, engine: Engine) -> None:
    raw = b'{"service": "web", "message": "' + b"x" * 1_048_576 + b'"}'
    assert problem(web("POST", "/v1/heartbeats", raw=raw), 413)["code"] == "too_large"
    assert stored(engine) == 0


def test_an_unknown_or_doubled_parameter_is_refused(web: Api) -> None:
    problem(web("POST", "/v1/heartbeats?creat=1", {"service": "web"}), 422, "creat")
    problem(web("POST", "/v1/heartbeats?every=1m&every=2m", {"service": "web"}), 422, "every")
    problem(web("POST", "/v1/heartbeats?create=1&every=0", {"service": "new"}), 422, "every")
