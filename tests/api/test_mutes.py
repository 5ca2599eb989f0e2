"""Mutes by API: their ends, their authors, and keys that are narrowed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from medic.times import format_time, parse_time
from tests.api.caller import Api, MakeApi, problem

BODY = {"service": "web", "reason": "We know."}


def length(mute: dict[str, Any]) -> timedelta:
    return parse_time(mute["ends_at"]) - parse_time(mute["created_at"])


def test_a_mute_is_made_shown_and_ended(web: Api) -> None:
    made = web("POST", "/v1/mutes", BODY | {"for": "2h"})
    assert made.status_code == 201
    mute = made.get_json()
    assert (mute["service"], mute["reason"], mute["active"], length(mute)) == (
        "web", "We know.", True, timedelta(hours=2)
    )  # fmt: skip
    assert mute["created_by"].startswith("key:")
    path = f"/v1/mutes/{mute['id']}"
    assert web("GET", path).get_json() == mute
    ended = web("DELETE", path)
    assert (ended.status_code, ended.get_json()["active"]) == (200, False)
    assert ended.get_json()["ended_by"] == mute["created_by"]
    problem(web("DELETE", path), 409)
    problem(web("GET", f"/v1/mutes/{mute['id'] + 1}"), 404)
    problem(web("DELETE", f"/v1/mutes/{mute['id'] + 1}"), 404)


def test_a_mute_without_an_end_gets_the_usual_one(web: Api) -> None:
    assert length(web("POST", "/v1/mutes", BODY).get_json()) == timedelta(hours=24)
    end = format_time(datetime.now(UTC) + timedelta(days=3))
    assert web("POST", "/v1/mutes", BODY | {"ends_at": end}).get_json()["ends_at"] == end


@pytest.mark.parametrize(
    ("change", "status", "path"),
    [
        ({"reason": ""}, 422, "reason"),
        ({"reason": None}, 422, "reason"),
        ({"for": "soon"}, 422, "for"),
        ({"for": "0s"}, 422, "ends_at"),
        ({"ends_at": "2020-01-01T00:00:00Z"}, 422, "ends_at"),
        ({"ends_at": "9999-01-01T00:00:00Z"}, 422, "ends_at"),
        ({"ends_at": "2030-01-01T00:00:00Z", "for": "1h"}, 422, ""),
        ({"length": "1h"}, 422, "length"),
        ({"service": "nobody"}, 404, None),
    ],
)
def test_a_wrong_mute_is_refused(web: Api, change: dict[str, Any], status: int, path: str | None) -> None:
    problem(web("POST", "/v1/mutes", BODY | change), status, path)
    assert web("GET", "/v1/mutes").get_json()["items"] == []


def test_the_list_tells_what_holds_from_what_is_over(web: Api) -> None:
    web("POST", "/v1/services", {"name": "db", "every": "5m"})
    ids = [
        web("POST", "/v1/mutes", BODY | {"service": name}).get_json()["id"]
        for name in ("web", "db", "web", "web")
    ]
    web("DELETE", f"/v1/mutes/{ids[2]}")

    def listed(query: str) -> list[int]:
        return [item["id"] for item in web("GET", f"/v1/mutes?{query}").get_json()["items"]]

    assert listed("") == ids[::-1]
    assert listed("active=true") == [ids[3], ids[1], ids[0]]
    assert listed("active=false") == [ids[2]]
    assert listed("service=db") == [ids[1]]
    first = web("GET", "/v1/mutes?limit=3").get_json()
    assert listed(f"limit=3&after={first['next']}") == ids[:1]
    problem(web("GET", "/v1/mutes?after=x"), 422, "after")


def test_a_repeat_with_the_same_idempotency_key_is_one_mute(web: Api) -> None:
    first, again = (web("POST", "/v1/mutes", BODY, Idempotency_Key="k") for _ in range(2))
    assert first.get_json() == again.get_json()
    assert len(web("GET", "/v1/mutes").get_json()["items"]) == 1


def test_a_narrowed_key_mutes_and_sees_its_own_alone(web: Api, api_with: MakeApi) -> None:
    other = web("POST", "/v1/mutes", BODY).get_json()["id"]
    web("POST", "/v1/services", {"name": "db-1", "every": "5m"})
    narrow = api_with("services:read", "alerts:write", patterns=["db-*"])
    mine = narrow("POST", "/v1/mutes", BODY | {"service": "db-1"}).get_json()["id"]
    problem(narrow("POST", "/v1/mutes", BODY), 403)
    for method in ("GET", "DELETE"):
        refused = problem(narrow(method, f"/v1/mutes/{other}"), 403)
        assert BODY["service"] not in refused["detail"]  # numbers can be counted through
    assert [item["id"] for item in narrow("GET", "/v1/mutes").get_json()["items"]] == [mine]
    assert narrow("DELETE", f"/v1/mutes/{mine}").status_code == 200


def test_a_service_takes_its_mutes_with_it(web: Api) -> None:
    web("POST", "/v1/mutes", BODY)
    assert web("DELETE", "/v1/services/web").status_code == 204
    assert web("GET", "/v1/mutes").get_json()["items"] == []
