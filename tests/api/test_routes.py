"""Routes by API, and what they would tell."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, text

from tests.api.caller import Api, MakeApi, problem

ROUTE = {"levels": [["chat", "mail"], ["on-call"]], "escalate_after": "15m"}


@pytest.fixture
def told(admin: Api) -> Api:
    """The admin, with targets ``chat``, ``mail`` and ``on-call``."""
    chat = {"kind": "slack", "config": {"channel": "C1"}, "secrets": {"token": "xoxb-1"}}
    mail = {
        "kind": "email",
        "config": {"to": ["a@example.com"], "from": "m@example.com", "host": "mail.example.com"},
    }
    for name, body in (("chat", chat), ("mail", mail), ("on-call", mail)):
        assert admin("PUT", f"/v1/targets/{name}", body).status_code == 201
    return admin


def test_a_route_is_made_seen_changed_and_deleted(told: Api) -> None:
    told("PUT", "/v1/teams/ops", {})
    told("PUT", "/v1/calendars/office", {"hours": {"mon": [["09:00", "17:00"]]}})
    full = {
        "match": {"service": "web-*", "tags": ["eu"], "priorities": ["p1", "p2"], "team": "ops", "reasons": ["missed"]},
        "period": "after_hours", "calendar": "office", "mode": "notify_until_success", "position": 7,
    }  # fmt: skip
    made = told("POST", "/v1/routes", ROUTE | full | {"name": "web"}, Idempotency_Key="once")
    assert (made.status_code, made.headers["ETag"]) == (201, '"1"')
    again = told("POST", "/v1/routes", ROUTE | full | {"name": "web"}, Idempotency_Key="once")
    assert again.get_json() == made.get_json()
    shown = told("GET", "/v1/routes/web").get_json()
    assert {key: shown[key] for key in ROUTE | full} == ROUTE | full
    problem(told("POST", "/v1/routes", ROUTE | {"name": "web"}), 409)
    simple = told("PUT", "/v1/routes/web", {"levels": [["mail"]]}, If_Match='"1"').get_json()
    assert (simple["levels"], simple["match"]["service"], simple["calendar"]) == ([["mail"]], None, None)
    problem(told("PUT", "/v1/routes/web", ROUTE, If_Match='"1"'), 412)
    assert told("PUT", "/v1/routes/zoo", ROUTE).status_code == 201
    page = told("GET", "/v1/routes?limit=1").get_json()
    assert ([item["name"] for item in page["items"]], page["next"]) == (["web"], "web")
    assert told("GET", "/v1/routes?limit=1&after=web").get_json()["items"][0]["levels"] == ROUTE["levels"]
    problem(told("DELETE", "/v1/routes/web", If_Match='"1"'), 412)
    assert told("DELETE", "/v1/routes/web").status_code == 204
    problem(told("DELETE", "/v1/routes/web"), 404)
    problem(told("GET", "/v1/routes/web"), 404)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"levels": []}, "levels"),
        ({"levels": [["chat"], []]}, "levels.1"),
        ({"levels": [["chat", "chat"], ["mail"]]}, "levels.0"),
        ({"levels": [["chat"], ["nobody"]]}, "levels.1"),
        ({"levels": [["chat"]]}, "escalate_after"),
        ({"escalate_after": None}, "escalate_after"),
        ({"escalate_after": "30s"}, "escalate_after"),
        ({"match": {"team": "nobody"}}, "match.team"),
        ({"match": {"service": "A["}}, "match.service"),
        ({"match": {"tags": []}}, "match.tags"),
        ({"match": {"reasons": ["late"]}}, "match.reasons.0"),
        ({"match": {"tags": ["eu"]}, "default": True}, "match"),
        ({"period": "during_hours"}, "calendar"),
        ({"calendar": "office"}, "calendar"),
        ({"period": "during_hours", "calendar": "nowhere"}, "calendar"),
        ({"mode": "notify_some"}, "mode"),
        ({"position": -1}, "position"),
        ({"name": "preview "}, "name"),
    ],
)
def test_a_wrong_route_is_not_made(told: Api, change: dict[str, Any], path: str) -> None:
    problem(told("POST", "/v1/routes", ROUTE | {"name": "web"} | change), 422, path)
    assert told("GET", "/v1/routes").get_json()["items"] == []


def test_there_is_one_default_route(told: Api) -> None:
    assert told("PUT", "/v1/routes/all", ROUTE | {"default": True}).get_json()["default"] is True
    assert "all" in problem(told("PUT", "/v1/routes/more", ROUTE | {"default": True}), 409)["detail"]
    assert told("PUT", "/v1/routes/all", ROUTE).get_json()["default"] is False
    assert told("PUT", "/v1/routes/more", ROUTE | {"default": True}).status_code == 201


def test_a_target_that_a_route_tells_stays(told: Api) -> None:
    told("PUT", "/v1/routes/all", ROUTE)
    assert "all" in problem(told("DELETE", "/v1/targets/on-call"), 409)["detail"]


def test_a_preview_names_the_routes_and_targets_that_would_be_told(
    told: Api, engine: Engine, api_with: MakeApi
) -> None:
    told("POST", "/v1/services", {"name": "web", "every": "5m", "tags": ["eu"], "priority": "p2"})
    told("PUT", "/v1/calendars/office", {"hours": {"mon": [["09:00", "17:00"]]}, "timezone": "Europe/Berlin"})
    told("PUT", "/v1/routes/urgent", ROUTE | {"match": {"priorities": ["p1"]}, "position": 1})
    told("PUT", "/v1/routes/by-day", {"levels": [["mail"]], "period": "during_hours", "calendar": "office"})
    told("PUT", "/v1/routes/rest", {"levels": [["chat"]], "default": True})

    def names(**asked: str) -> list[str]:
        found = told("POST", "/v1/routes/preview", {"service": "web"} | asked).get_json()["routes"]
        return [way["route"] for way in found]

    monday, evening = "2026-03-02T08:30:00Z", "2026-03-02T16:00:00Z"
    assert names(at=monday) == ["by-day"]
    assert names(at=evening) == ["rest"]
    assert names(at=monday, priority="p1") == ["urgent", "by-day"]
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE targets SET disabled_at = now(), disabled_reason = 'gone' WHERE name = 'chat'")
        )
    way = told("POST", "/v1/routes/preview", {"service": "web", "priority": "p1", "at": evening}).get_json()[
        "routes"
    ][0]
    assert way["told"] == [{"level": 0, "targets": ["mail"]}, {"level": 1, "targets": ["on-call"]}]
    assert way["escalate_after"] == "15m"
    problem(told("POST", "/v1/routes/preview", {"service": "nothing"}), 404)
    for far in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"):
        problem(told("POST", "/v1/routes/preview", {"service": "web", "at": far}), 422, "at")
    narrow = api_with("services:read", patterns=["db-*"])
    problem(narrow("POST", "/v1/routes/preview", {"service": "web"}), 403)


def test_who_may_see_and_change_routes(told: Api, api_with: MakeApi, outsider: Api) -> None:
    told("PUT", "/v1/routes/web", ROUTE)
    changes = (
        ("POST", "/v1/routes", ROUTE | {"name": "more"}), ("PUT", "/v1/routes/web", ROUTE),
        ("DELETE", "/v1/routes/web", None),
    )  # fmt: skip
    reader, narrow = api_with("services:read"), api_with("targets:write", "services:read", patterns=["db-*"])
    for caller in (reader, narrow):
        assert caller("GET", "/v1/routes/web").status_code == 200
        assert "web" in [route["name"] for route in caller("GET", "/v1/routes").get_json()["items"]]
        for change in changes:
            problem(outsider(*change), 401)
            problem(caller(*change), 403)
    assert [api_with("targets:write")(*change).status_code for change in changes] == [201, 200, 204]
