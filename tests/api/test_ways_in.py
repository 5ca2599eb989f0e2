"""What holds for every way in: ids have a bound, a service may be gone, and Medic may be full."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from apiflask import APIFlask
from sqlalchemy import Engine, text
from werkzeug.test import TestResponse

from tests.api.caller import Api

Service = dict[str, Any]
"""As the API shows it."""
Way = Callable[[Api, Service, dict[str, str]], TestResponse]


def single(api: Api, service: Service, more: dict[str, str]) -> TestResponse:
    return api("POST", "/v1/heartbeats", {"service": service["name"]} | more)


def batch(api: Api, service: Service, more: dict[str, str]) -> TestResponse:
    return api("POST", "/v1/heartbeats/batch", [{"service": service["name"], "status": "start"} | more])


def large_batch(api: Api, service: Service, more: dict[str, str]) -> TestResponse:
    """In the lane of its own."""
    return api("POST", "/v1/heartbeats/batch", [{"service": service["name"], "status": "start"} | more] * 101)


def path(api: Api, service: Service, more: dict[str, str]) -> TestResponse:
    return api("GET", f"/v1/heartbeats/{service['name']}/start?{query(more)}")


def path_rid(api: Api, service: Service, more: dict[str, str]) -> TestResponse:
    return path(api, service, as_rid(more))


def ping(api: Api, service: Service, more: dict[str, str]) -> TestResponse:
    return api("POST", f"{urlsplit(service['ping_url']).path}/start?{query(more)}")


def ping_rid(api: Api, service: Service, more: dict[str, str]) -> TestResponse:
    return ping(api, service, as_rid(more))


def legacy(api: Api, service: Service, more: dict[str, str]) -> TestResponse:
    return api("POST", "/heartbeat", {"heartbeat_name": service["name"].upper(), "status": "UP"} | more)


def legacy_run(api: Api, service: Service, more: dict[str, str]) -> TestResponse:
    return api("POST", f"/v2/heartbeat/{service['id']}/start", raw=json.dumps(more).encode())


def as_rid(more: dict[str, str]) -> dict[str, str]:
    """A way that calls a run's id so."""
    return {"rid": more["run_id"]}


def query(more: dict[str, str]) -> str:
    return "&".join(f"{name}={quote(value)}" for name, value in more.items())


WAYS: tuple[Way, ...] = (single, batch, large_batch, path, ping, legacy, legacy_run)
ID_WAYS: tuple[tuple[Way, str], ...] = (
    *((way, name) for way in (single, batch, large_batch, path) for name in ("id", "run_id")),
    (path_rid, "run_id"), (legacy_run, "run_id"),
)  # fmt: skip


@pytest.fixture
def service(web: Api) -> Service:
    shown: Service = web("GET", "/v1/services/web").get_json()
    return shown


def stored(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text("SELECT count(*) FROM heartbeats")).scalar_one())


def widest(length: int) -> str:
    """Four bytes each, which nothing compresses: the largest entry of an index that a text of this length makes."""
    random = Random(length)
    return "".join(chr(random.randrange(0x20000, 0x2A000)) for _ in range(length))


@pytest.mark.parametrize(("way", "name"), ID_WAYS)
def test_an_id_has_200_characters_at_the_most(
    web: Api, service: Service, engine: Engine, way: Way, name: str
) -> None:
    assert way(web, service, {name: widest(200)}).status_code in {201, 202}
    kept = stored(engine)
    assert kept > 0
    for wrong in (widest(201), "x" * 201, "x" * 6_000, "", "a\0b"):
        assert way(web, service, {name: wrong}).status_code in {400, 422}
    assert stored(engine) == kept


@pytest.mark.parametrize("wrong", ["x" * 201, "x" * 6_000, "1" * 37, "a\0b", "{" * 40])
def test_the_run_of_a_ping_is_a_uuid(web: Api, service: Service, engine: Engine, wrong: str) -> None:
    assert ping_rid(web, service, {"run_id": wrong}).status_code == 400
    assert stored(engine) == 0


def test_half_of_a_surrogate_pair_is_refused(web: Api, service: Service, engine: Engine) -> None:
    for way, name in ((single, "id"), (batch, "run_id"), (legacy_run, "run_id"), (legacy, "status")):
        assert way(web, service, {name: "\ud800"}).status_code in {400, 422}
    assert stored(engine) == 0


@pytest.mark.parametrize("way", WAYS)
def test_a_service_that_was_deleted_a_moment_ago_is_not_found(
    web: Api, service: Service, engine: Engine, way: Way
) -> None:
    assert way(web, service, {}).status_code in {200, 201, 202}
    kept = stored(engine)
    with engine.begin() as connection:  # as another process does it: this one still knows the service
        connection.execute(text("DELETE FROM services"))
    assert way(web, service, {}).status_code == 404
    assert stored(engine) == kept


@pytest.mark.parametrize("way", [way for way in WAYS if way is not large_batch])
def test_medic_that_takes_no_more_says_when_to_come_back(
    app: APIFlask, web: Api, service: Service, engine: Engine, way: Way
) -> None:
    app.extensions["medic"].heartbeats.close()
    response = way(web, service, {})
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) >= 1
    assert stored(engine) == 0
