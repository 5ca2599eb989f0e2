"""What Medic could not hear, as it is shown; and what a refusal of a heartbeat leaves behind."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from apiflask import APIFlask
from sqlalchemy import Engine, text

from medic import listening
from medic.settings import Settings
from medic.times import format_time, parse_time
from medic_api import health
from medic_api.app import create_app
from tests.api.caller import Api, MakeApi, MakeKey, problem
from tests.waiting import eventually


def run(engine: Engine, sql: str, **values: Any) -> None:
    with engine.begin() as connection:
        connection.execute(text(sql), values)


def hears(engine: Engine, since: str, until: str, *, closed: bool = False) -> None:
    run(engine, f"INSERT INTO coverage (process, since, until, closed) VALUES (:process, now() - interval '{since}',"
                f" now() - interval '{until}', :closed)", process=uuid4(), closed=closed)  # fmt: skip


def test_the_gaps_and_the_processes_are_shown_newest_first(
    engine: Engine, api_with: MakeApi, outsider: Api
) -> None:
    hears(engine, "20 h", "10 h", closed=True)
    hears(engine, "9 h", "5 h")
    hears(engine, "4 h", "1 h", closed=True)
    for api in (api_with("admin"), api_with("services:read"), api_with("services:read", patterns=["web-*"])):
        shown = api("GET", "/v1/coverage").get_json()
        lengths = [_length(gap) for gap in shown["items"]]
        assert [round(length / timedelta(hours=1)) for length in lengths] == [1, 1, 1]
        assert [gap["ongoing"] for gap in shown["items"]] == [True, False, False]
        assert [one["closed"] for one in shown["processes"]] == [True, False, True]
        assert shown["next"] is None
    first = api("GET", "/v1/coverage?limit=2").get_json()
    second = api("GET", f"/v1/coverage?limit=2&after={first['next']}").get_json()
    assert [gap["since"] for gap in first["items"] + second["items"]] == [
        gap["since"] for gap in shown["items"]
    ]
    assert second["next"] is None
    middle = parse_time(shown["items"][1]["since"])
    part = api(
        "GET", f"/v1/coverage?from={format_time(middle)}&to={format_time(middle + timedelta(minutes=1))}"
    )
    assert [gap["since"] for gap in part.get_json()["items"]] == [shown["items"][1]["since"]]
    assert len(part.get_json()["processes"]) == 1
    problem(api_with("heartbeats:write")("GET", "/v1/coverage"), 403)
    problem(outsider("GET", "/v1/coverage"), 401)


def _length(gap: dict[str, Any]) -> timedelta:
    return parse_time(gap["until"]) - parse_time(gap["since"])


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "from"),
        ("from=2026-01-01T00:00:00Z&to=2026-02-02T00:00:00Z", "to"),
        ("from=9999-01-01T00:00:00Z", "from"), ("to=0001-01-01T00:00:00Z", "from"), ("from=soon", "from"),
        ("after=nothing", "after"), ("since=2026-01-01T00:00:00Z", "since"), ("limit=0", "limit"),
    ],
)  # fmt: skip
def test_a_wrong_time_is_told(admin: Api, query: str, field: str) -> None:
    response = admin("GET", f"/v1/coverage?{query}")
    assert response.status_code in {400, 422}
    problem(response, response.status_code, field)


@pytest.fixture
def tight(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch, make_key: MakeKey, admin: Api
) -> Iterator[APIFlask]:
    """A server that lets few heartbeats through, and listens."""
    monkeypatch.setattr(listening, "EVERY_S", 0.05)
    few = settings.model_copy(
        update={"rate_limit_heartbeat": 4, "rate_limit_ping": 2, "rate_limiter_type": "memory"}
    )
    made = create_app(few, engine=engine)
    made.testing = False
    made.extensions["medic"].heartbeats.listen()
    yield made
    made.extensions["medic"].heartbeats.close()
    made.extensions["medic"].hints.close()


def refusals(engine: Engine) -> dict[str, int]:
    with engine.connect() as connection:
        return dict(
            connection.execute(
                text("SELECT s.name, sum(r.count) FROM refusals r JOIN services s ON s.id = r.service_id"
                     " WHERE r.kind = 'limit' GROUP BY s.name")
            ).all()
        )  # fmt: skip


def test_heartbeats_that_a_limit_refuses_are_kept_by_service_whichever_way_they_came(
    engine: Engine, tight: APIFlask, admin: Api, make_key: MakeKey
) -> None:
    pings = {}
    for name in ("express", "path", "bulk", "ping", "legacy"):
        made = admin("POST", "/v1/services", {"name": name, "every": "5m"})
        pings[name] = made.get_json()["ping_url"].split("/ping/")[1]
    client = tight.test_client()

    def sent(times: int, method: str, path: str, body: Any = None) -> int:
        """How many of so many calls of a new key were refused."""
        api = Api(client, make_key("heartbeats:write"))
        return [api(method, path, body).status_code for _ in range(times)].count(429)

    assert sent(4, "POST", "/v1/heartbeats", {"service": "express"}) == 2
    assert sent(4, "GET", "/v1/heartbeats/path") == 2
    assert sent(4, "POST", "/heartbeat", {"heartbeat_name": "Legacy", "status": "UP"}) == 2
    answer = Api(client, make_key("heartbeats:write"))(
        "POST", "/v1/heartbeats/batch", [{"service": "bulk"}] * 5 + [{"service": "nobody"}] * 5
    )
    assert [item["status"] for item in answer.get_json()["items"]][:5] == [202] * 2 + [429] * 3
    assert [client.get(f"/ping/{pings['ping']}").status_code for _ in range(3)].count(429) == 2
    expected = {"express": 2, "path": 2, "bulk": 3, "legacy": 2, "ping": 2}
    eventually(lambda: refusals(engine) == expected)


def test_what_a_keys_limit_refuses_unread_is_kept_for_the_services_that_the_key_is_for(
    engine: Engine, tight: APIFlask, admin: Api, make_key: MakeKey
) -> None:
    for name in ("web", "db"):
        admin("POST", "/v1/services", {"name": name, "every": "5m"})
    api = Api(tight.test_client(), make_key("heartbeats:write", patterns=["web"]))
    for _ in range(30):
        if api("GET", "/v1/heartbeats/nothing").status_code == 429:
            break
    calls: list[tuple[str, str, Any]] = [
        ("POST", "/v1/heartbeats?create=1", {"service": "web"}), ("POST", "/v1/heartbeats?create=1", {"service": "db"}),
        ("POST", "/v1/heartbeats/batch", [{"service": "web"}, {"service": "db"}]), ("GET", "/v1/heartbeats/web", None),
        ("POST", "/heartbeat", {"heartbeat_name": "WEB", "status": "UP"}), ("POST", "/v2/heartbeat/1/start", None),
        ("POST", "/heartbeat", {"heartbeat_name": "db", "status": "UP"}), ("POST", "/heartbeat", ["web"]),
    ]  # fmt: skip
    for method, path, body in calls:
        problem_or_legacy = api(method, path, body)
        assert problem_or_legacy.status_code == 429, path
    assert api("POST", "/v1/heartbeats?create=1", raw=b"[" * 60_000).status_code == 429
    eventually(lambda: refusals(engine) == {"web": 4})


def test_a_process_that_cannot_record_that_it_hears_is_not_ready(
    engine: Engine, tight: APIFlask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "UNCOVERED_S", 0.4)
    api = Api(tight.test_client(), None)
    eventually(lambda: api("GET", "/health/ready").status_code == 200)
    with engine.connect() as connection, connection.begin():
        connection.execute(text("LOCK TABLE coverage IN EXCLUSIVE MODE"))
        eventually(lambda: api("GET", "/health/ready").status_code == 503)
        assert api("GET", "/health/ready").get_json()["components"]["ingest"]["status"] == "down"
        assert api("GET", "/health").status_code == 503
    eventually(lambda: api("GET", "/health/ready").status_code == 200)
