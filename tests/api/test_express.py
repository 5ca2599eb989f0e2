"""The express lane answers a heartbeat as Flask's view does, and leaves to it what is not plain."""

from __future__ import annotations

import threading
from typing import Any

import psycopg2
import pytest
from apiflask import APIFlask
from flask import request
from sqlalchemy import Engine, event, text
from werkzeug.test import TestResponse

from medic.db import make_engine
from medic.settings import Settings
from medic_api.app import create_app
from tests.api.caller import Api, MakeApi, MakeKey, problem

PATH = "/v1/heartbeats"


@pytest.fixture
def through_flask(app: APIFlask) -> list[str]:
    """The paths that Flask was asked for."""
    asked: list[str] = []
    app.before_request_funcs.setdefault(None, []).append(lambda: asked.append(request.path))
    return asked


def send(app: APIFlask, key: str, body: dict[str, Any], *, scheme: str) -> TestResponse:
    """``Bearer`` is for the lane; a scheme is of any case (RFC 9110, section 11.1), and Flask takes the others."""
    return app.test_client().post(PATH, json=body, headers={"Authorization": f"{scheme} {key}"})


def shape(response: TestResponse) -> tuple[Any, ...]:
    body = response.get_json()
    varying = {"id", "received_at", "request_id", "service"}
    return (
        response.status,
        {name: value for name, value in body.items() if name not in varying},
        list(body),
        sorted(
            (n, v) for n, v in response.headers if n not in {"Content-Length", "X-Request-ID", "RateLimit"}
        ),
        sorted(response.headers.keys()),
    )


def both(app: APIFlask, key: str, body: dict[str, Any], other: dict[str, Any] | None = None) -> TestResponse:
    """The lane's answer, which is Flask's but for what differs from call to call."""
    ours = send(app, key, body, scheme="Bearer")
    assert shape(ours) == shape(send(app, key, other or body, scheme="bearer"))
    return ours


def test_a_plain_heartbeat_never_reaches_flask_and_is_answered_alike(
    web: Api, app: APIFlask, make_key: MakeKey, through_flask: list[str]
) -> None:
    key = make_key("heartbeats:write")
    plain = {"service": "web", "message": "ä" * 6000, "metrics": {"rows": 3.5}, "exit_code": 3}
    assert send(app, key, plain, scheme="Bearer").status_code == 202
    assert through_flask == []
    assert both(app, key, plain).get_json()["message_cut"] is True
    assert through_flask == [PATH]
    assert both(app, key, {"service": "web", "id": "a"}, {"service": "web", "id": "b"}).status_code == 202
    assert both(app, key, {"service": "web", "id": "a"}).status_code == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"service": "nobody"}, 404),
        ({"service": "web", "statu": "ok"}, 422),
        ({"service": "web", "message": "a\0b"}, 422),
        ({"service": "web", "occurred_at": "2031-01-01T00:00:00Z"}, 422),
        ({"service": "web", "occurred_at": "2001-01-01T00:00:00Z"}, 422),
        ({"service": "db-1"}, 403),
    ],
)
def test_what_is_wrong_is_flasks_to_say_and_stores_nothing(
    web: Api, app: APIFlask, make_key: MakeKey, through_flask: list[str], engine: Engine,
    body: dict[str, Any], status: int,
) -> None:  # fmt: skip
    assert web("POST", "/v1/services", {"name": "db-1", "every": "5m"}).status_code == 201
    through_flask.clear()
    key = make_key("heartbeats:write", patterns=["web", "nobody"])
    assert both(app, key, body).status_code == status
    assert through_flask == [PATH, PATH]
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM heartbeats")).scalar_one() == 0


def test_a_key_of_another_scope_and_no_key_are_refused(web: Api, api_with: MakeApi, outsider: Api) -> None:
    problem(api_with("services:read")("POST", PATH, {"service": "web"}), 403)
    problem(outsider("POST", PATH, {"service": "web"}), 401)
    problem(Api(web.client, "mdk_" + "0" * 12 + "_" + "0" * 38)("POST", PATH, {"service": "web"}), 401)


def test_a_body_without_a_length_or_of_many_bytes_goes_the_long_way(
    web: Api, app: APIFlask, through_flask: list[str]
) -> None:
    long = web("POST", PATH, {"service": "web", "message": "x" * 70_000})
    assert (long.status_code, long.get_json()["message_cut"]) == (202, True)
    assert web("POST", f"{PATH}?create=1", {"service": "web"}).status_code == 202
    problem(web("POST", PATH), 422)
    assert through_flask == [PATH] * 3


def test_a_refusal_for_the_limit_or_a_stopping_process_looks_alike(
    web: Api, engine: Engine, settings: Settings, make_key: MakeKey
) -> None:
    for number in range(10):  # each widens the key's limit, so that the service's own is met first
        assert web("POST", "/v1/services", {"name": f"db-{number}", "every": "5m"}).status_code == 201
    few = settings.model_copy(update={"rate_limit_heartbeat": 8})
    made = create_app(few, engine=engine)
    made.testing = False
    key = make_key("heartbeats:write")
    answers = [send(made, key, {"service": "web"}, scheme="Bearer") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [202] * 4 + [429]
    refused = both(made, key, {"service": "web"})
    assert (refused.status_code, int(refused.headers["Retry-After"])) == (429, 8)
    made.extensions["medic"].heartbeats.close()
    closed = both(made, key, {"service": "db-1"})
    assert (closed.status_code, closed.headers["Retry-After"]) == (503, "2")


def test_a_policy_that_changed_is_heard_of_by_the_next_heartbeat(
    web: Api, app: APIFlask, engine: Engine
) -> None:
    """Else the service would be evaluated at every heartbeat for as long as it is remembered."""
    directory = app.extensions["medic"].directory
    assert web("POST", PATH, {"service": "web"}).status_code == 202
    before = directory.find("web")
    etag = web("GET", "/v1/services/web").headers["ETag"]
    changed = web("PUT", "/v1/services/web", {"every": "7m"}, If_Match=etag)
    assert changed.status_code == 200
    assert web("POST", PATH, {"service": "web"}).status_code == 202
    after = directory.find("web")
    assert (before.every_s, after.every_s) == (300, 420)
    assert after.policy_version > before.policy_version


def test_a_database_that_is_away_is_a_503_on_the_lane_too(
    web: Api, settings: Settings, make_key: MakeKey
) -> None:
    """Also when all that a heartbeat needs is known but how many services its key may write."""
    away = threading.Event()
    engine = make_engine(settings.need_database_url())

    @event.listens_for(engine, "do_connect")
    def connect(*_: Any) -> None:
        if away.is_set():
            raise psycopg2.OperationalError("no route to the database")

    made = create_app(settings, engine=engine)
    made.testing = False
    key = make_key("heartbeats:write")
    try:
        assert send(made, key, {"service": "web"}, scheme="Bearer").status_code == 202
        away.set()
        engine.dispose()
        made.extensions["medic"].writable._counts.clear()  # as after a minute
        problem(send(made, key, {"service": "web"}, scheme="Bearer"), 503)
    finally:
        made.extensions["medic"].heartbeats.close()
        made.extensions["medic"].hints.close()
        engine.dispose()
