"""Explain over HTTP: who may read it, and that it is whole and valid."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from medic.db import in_transaction
from medic.sweep import sweep_batch
from medic.times import format_time
from tests.api.caller import Api, MakeApi, problem

AHEAD = timedelta(minutes=10)


@pytest.fixture
def alert(web: Api, engine: Engine) -> int:
    """An open alert of ``web``, as the sweep will see it in ten minutes."""
    assert web("POST", "/v1/heartbeats", {"service": "web"}).status_code == 202
    in_transaction(engine, lambda s: sweep_batch(s, now=datetime.now(UTC) + AHEAD))
    (item,) = web("GET", "/v1/alerts").get_json()["items"]
    return int(item["id"])


def test_a_service_is_explained(web: Api) -> None:
    assert web("POST", "/v1/heartbeats", {"service": "web"}).status_code == 202
    answer = web("GET", "/v1/services/web/explain")
    assert answer.status_code == 200
    body = answer.get_json()
    assert (body["service"], body["status"], body["policy"]["schedule"]) == ("web", "up", "every 5m")
    assert [beat["kind"] for beat in body["heartbeats"]] == ["ok"]
    rules = {rule["rule"]: rule for rule in body["rules"]}
    assert not rules["missed"]["holds"]
    assert "expected by" in rules["late"]["because"]


def test_a_time_is_taken_and_checked(web: Api) -> None:
    made = datetime.fromisoformat(web("GET", "/v1/services/web").get_json()["created_at"])
    at = format_time(made)
    assert web("GET", f"/v1/services/web/explain?at={at}").get_json()["at"] == at
    for wrong in (
        "yesterday",
        "2026-01-01T00:00:00",
        format_time(made + timedelta(hours=1)),
        "2001-01-01T00:00:00Z",
    ):
        problem(web("GET", f"/v1/services/web/explain?at={wrong}"), 422, "at")
    problem(web("GET", "/v1/services/web/explain?when=now"), 422, "when")
    problem(web("GET", "/v1/services/nobody/explain"), 404)


def test_an_alert_is_explained(web: Api, alert: int) -> None:
    answer = web("GET", f"/v1/alerts/{alert}/explain")
    assert answer.status_code == 200
    body = answer.get_json()
    assert (body["alert"]["id"], body["alert"]["service"]) == (alert, "web")
    assert [(rule["rule"], rule["holds"]) for rule in body["opening"]] == [("missed", True)]
    assert {rule["rule"] for rule in body["telling"] if rule["holds"]} == {"no_route"}
    assert [one["kind"] for one in body["transitions"]] == ["opened"]
    assert body["policy"]["schedule"] == "every 5m"
    problem(web("GET", f"/v1/alerts/{alert + 1}/explain"), 404)


def test_a_narrow_key_is_told_of_its_own_services_only(web: Api, alert: int, api_with: MakeApi) -> None:
    for playbook, pattern in (("own", "web"), ("other", "db-*")):
        text = f"name: {playbook}\ntrigger: {{service_pattern: {pattern!r}}}\nsteps: [{{name: a, type: wait, duration: 1s}}]\n"
        assert web.put_yaml(f"/v1/playbooks/{playbook}", text).status_code == 201
    paths = ("/v1/services/web/explain", f"/v1/alerts/{alert}/explain")
    own, stranger, other = (
        api_with("services:read", patterns=["we?"]),
        api_with("services:read", patterns=["db-*"]),
        api_with("alerts:write"),
    )
    for path in paths:
        assert own("GET", path).status_code == 200
        problem(stranger("GET", path), 403)
        problem(other("GET", path), 403)
        problem(Api(web.client, None)("GET", path), 401)
    named = {one["playbook"] for one in own("GET", paths[1]).get_json()["triggers"]}
    assert named == {"own"}
    assert {one["playbook"] for one in web("GET", paths[1]).get_json()["triggers"]} == {"own", "other"}


def test_a_narrow_key_learns_no_name_of_a_parent_that_is_not_its_own(
    web: Api, engine: Engine, api_with: MakeApi
) -> None:
    for name, parents in (("vault", []), ("db-own", []), ("db-main", ["vault"])):
        assert (
            web("POST", "/v1/services", {"name": name, "every": "1m", "depends_on": parents}).status_code
            == 201
        )
    assert (
        web("PUT", "/v1/services/web", {"every": "5m", "depends_on": ["db-main", "db-own"]}).status_code
        == 200
    )
    for name in ("vault", "db-own", "db-main", "web"):
        assert web("POST", "/v1/heartbeats", {"service": name}).status_code == 202
        assert web("POST", "/v1/heartbeats", {"service": name, "status": "fail"}).status_code == 202
    in_transaction(engine, lambda s: sweep_batch(s, now=datetime.now(UTC) + timedelta(seconds=1)))
    ids = {item["service"]: item["id"] for item in web("GET", "/v1/alerts").get_json()["items"]}
    narrow = api_with("services:read", patterns=["web", "db-own"])
    for path in ("/v1/services/web/explain", f"/v1/alerts/{ids['web']}/explain"):
        assert "vault" in web("GET", path).text
        answer = narrow("GET", path)
        assert "db-own" in answer.text
        assert "vault" not in answer.text
        assert "db-main" not in answer.text
        quiet = [one for one in answer.get_json()["quiet"] if one["kind"] == "parent"]
        assert sorted(one.get("alert", 0) for one in quiet) == [0, 0, ids["db-own"]]
    assert "vault" not in problem(narrow("GET", f"/v1/alerts/{ids['vault']}/explain"), 403)["detail"]
