"""Healthchecks' ping URLs and the teams' ping keys."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from apiflask import APIFlask
from sqlalchemy import Engine, text
from werkzeug.test import TestResponse

from medic.ratelimit import limiter_from
from tests.api.caller import Api, MakeApi, problem


def rows(engine: Engine, sql: str) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(text(sql)).mappings()]


def last(engine: Engine) -> dict[str, Any]:
    return rows(engine, "SELECT * FROM heartbeats ORDER BY id DESC LIMIT 1")[0]


def plain(response: TestResponse, status: int, body: str) -> None:
    """An answer as Healthchecks gives it."""
    assert (response.status_code, response.text) == (status, body)
    assert response.content_type == "text/plain; charset=utf-8"
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert response.headers["Ping-Body-Limit"] == "10000"


@pytest.fixture
def url(web: Api) -> str:
    shown: str = web("GET", "/v1/services/web").get_json()["ping_url"]
    return "/ping/" + shown.rsplit("/", 1)[1]


@pytest.fixture
def ping_key(web: Api) -> str:
    """The key of the team ``ops``, to which ``db`` belongs, and ``web`` does not."""
    assert web("PUT", "/v1/teams/ops", {}).status_code == 201
    assert web("POST", "/v1/services", {"name": "db", "every": "5m", "team": "ops"}).status_code == 201
    made: str = web("POST", "/v1/teams/ops/ping-key").get_json()["ping_key"]
    return made


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("path", "kind", "exit_code"),
    [("", "complete", None), ("/start", "start", None), ("/fail", "fail", None), ("/log", "log", None),
     ("/0", "complete", 0), ("/7", "fail", 7)],
)  # fmt: skip
def test_who_has_the_url_needs_no_key(
    outsider: Api, url: str, engine: Engine, method: str, path: str, kind: str, exit_code: int | None
) -> None:
    plain(outsider(method, url + path), 200, "OK")
    assert (last(engine)["kind"], last(engine)["exit_code"]) == (kind, exit_code)


def test_head_pings_and_says_nothing(outsider: Api, url: str, engine: Engine) -> None:
    response = outsider("HEAD", f"{url}/fail")
    assert (response.status_code, response.data) == (200, b"")
    assert last(engine)["kind"] == "fail"


def test_a_browser_of_any_origin_may_ping(outsider: Api, url: str) -> None:
    assert outsider("OPTIONS", url).headers["Access-Control-Allow-Origin"] == "*"


def test_a_plain_ping_ends_the_open_run_that_has_no_id(outsider: Api, url: str, engine: Engine) -> None:
    rid = str(uuid.uuid4())
    outsider("GET", f"{url}/start")
    outsider("GET", f"{url}/start?rid={rid}")
    outsider("GET", url)
    states = {row["run_id"]: row["state"] for row in rows(engine, "SELECT * FROM runs")}
    assert states == {None: "completed", rid: "open"}
    outsider("GET", f"{url}/1?rid={rid.upper()}")
    assert {row["state"] for row in rows(engine, "SELECT * FROM runs")} == {"completed", "failed"}


def test_the_body_is_kept_and_cut(outsider: Api, url: str, engine: Engine) -> None:
    plain(outsider("POST", url, raw=b"done\0 " + b"x" * 20_000), 200, "OK")
    assert last(engine)["message"] == "done\ufffd " + "x" * 9994
    plain(outsider("POST", url, raw=b"x" * 1_048_577), 413, "request body too large")


def test_what_is_not_there_or_malformed_is_told_as_healthchecks_does(
    outsider: Api, url: str, engine: Engine
) -> None:
    plain(outsider("GET", f"/ping/{uuid.uuid4()}"), 404, "not found")
    plain(outsider("GET", f"/ping/{'k' * 22}/web"), 404, "not found")
    plain(outsider("GET", f"/ping/{'k' * 22}/web?create=1"), 404, "not found")
    for number in ("256", "9" * 12, "9" * 5000):
        plain(outsider("GET", f"{url}/{number}"), 400, "invalid url format")
    plain(outsider("GET", f"{url}?rid=seven"), 400, "invalid uuid format")
    assert outsider("GET", f"{url}/begin").status_code == 404
    assert outsider("GET", "/ping/seven").status_code == 404
    assert outsider("DELETE", url).status_code == 405
    assert rows(engine, "SELECT 1 FROM heartbeats") == []


def test_a_parameter_that_nobody_knows_is_no_error(outsider: Api, url: str) -> None:
    plain(outsider("GET", f"{url}?source=cron&source=x"), 200, "OK")


def test_a_slash_at_the_end_and_another_case_are_the_same_url(
    outsider: Api, url: str, engine: Engine
) -> None:
    plain(outsider("GET", f"{url}/"), 200, "OK")
    plain(outsider("GET", "/ping/" + url.removeprefix("/ping/").upper()), 200, "OK")
    plain(outsider("GET", f"{url}/007"), 200, "OK")
    assert (len(rows(engine, "SELECT 1 FROM heartbeats")), last(engine)["exit_code"]) == (3, 7)


def test_who_pings_what_was_deleted_is_a_stranger_like_any_other(
    web: Api, outsider: Api, url: str, engine: Engine
) -> None:
    plain(outsider("GET", url), 200, "OK")
    web("DELETE", "/v1/services/web")
    codes = [outsider("GET", url).status_code for _ in range(32)]
    assert codes[0] == 404
    assert codes[-1] == 429


def test_a_service_that_is_gone_is_not_found(web: Api, outsider: Api, url: str) -> None:
    plain(outsider("GET", url), 200, "OK")
    web("DELETE", "/v1/services/web")
    plain(outsider("GET", url), 404, "not found")


def test_a_url_is_limited_by_itself_and_strangers_by_address(
    app: APIFlask, web: Api, outsider: Api, url: str
) -> None:
    shared = app.extensions["medic"]
    tight = shared.settings.model_copy(update={"rate_limit_ping": 4, "rate_limiter_type": "memory"})
    app.extensions["medic"] = replace(shared, limiter=limiter_from(tight))
    assert [outsider("GET", url).status_code for _ in range(3)] == [200, 200, 429]
    web("POST", "/v1/services", {"name": "db", "every": "5m"})
    other = "/ping/" + web("GET", "/v1/services/db").get_json()["uuid"]
    plain(outsider("GET", other), 200, "OK")
    codes = [outsider("GET", f"/ping/{uuid.uuid4()}").status_code for _ in range(32)]
    assert codes == [404] * 30 + [429] * 2
    # A URL that worked goes on, from the same address.
    plain(outsider("GET", other), 200, "OK")
    web("POST", "/v1/services", {"name": "new", "every": "5m"})
    unseen = outsider("GET", "/ping/" + web("GET", "/v1/services/new").get_json()["uuid"])
    plain(unseen, 429, "rate limit exceeded")
    assert int(unseen.headers["Retry-After"]) >= 1


def test_a_ping_key_opens_its_teams_services_and_no_others(
    outsider: Api, ping_key: str, engine: Engine
) -> None:
    plain(outsider("GET", f"/ping/{ping_key}/db/start"), 200, "OK")
    assert last(engine)["kind"] == "start"
    plain(outsider("POST", f"/ping/{ping_key}/db", raw=b"fine"), 200, "OK")
    assert (last(engine)["kind"], last(engine)["message"]) == ("complete", "fine")
    plain(outsider("GET", f"/ping/{ping_key}/web"), 404, "not found")
    plain(outsider("GET", f"/ping/{ping_key}/new?create=1"), 404, "not found")
    assert len(rows(engine, "SELECT 1 FROM heartbeats")) == 2


def test_create_makes_a_service_where_the_team_allows_it(
    web: Api, outsider: Api, ping_key: str, engine: Engine
) -> None:
    assert web("PUT", "/v1/teams/ops", {"ping_key_creates": True}).status_code == 200
    plain(outsider("GET", f"/ping/{ping_key}/nightly"), 404, "not found")
    plain(outsider("GET", f"/ping/{ping_key}/nightly/start?create=1"), 201, "Created")
    plain(outsider("GET", f"/ping/{ping_key}/nightly?create=1"), 200, "OK")
    made = web("GET", "/v1/services/nightly").get_json()
    assert (made["every"], made["grace"], made["team"]) == ("1d", "1h", "ops")
    plain(outsider("GET", f"/ping/{ping_key}/web?create=1"), 409, "ambiguous slug")
    plain(outsider("GET", f"/ping/{ping_key}/batch?create=1"), 400, "invalid url format")
    plain(outsider("GET", f"/ping/{ping_key}/other/999?create=1"), 400, "invalid url format")
    problem(web("GET", "/v1/services/other"), 404)
    audit = rows(engine, "SELECT actor_kind, actor FROM audit_entries WHERE object_id = 'nightly'")
    assert audit == [{"actor_kind": "hook", "actor": "ping:ops"}]


def test_a_ping_key_is_shown_once_and_ends_when_it_is_replaced(
    app: APIFlask, web: Api, outsider: Api, ping_key: str, engine: Engine
) -> None:
    assert len(ping_key) >= 22
    listed = web("GET", "/v1/teams")
    assert ping_key not in listed.text
    assert listed.get_json()["items"][0]["has_ping_key"] is True
    assert ping_key.encode() not in rows(engine, "SELECT ping_key_digest FROM teams")[0]["ping_key_digest"]
    own = "healthchecks-has_this-1"
    replaced = web("POST", "/v1/teams/ops/ping-key", {"ping_key": own})
    assert (replaced.status_code, replaced.get_json()["ping_key"]) == (201, own)
    plain(outsider("GET", f"/ping/{own}/db"), 200, "OK")
    plain(outsider("GET", f"/ping/{ping_key}/db"), 404, "not found")
    kept = rows(engine, "SELECT detail::text AS detail FROM audit_entries")
    assert not any(own in row["detail"] or ping_key in row["detail"] for row in kept)


def test_a_ping_key_of_ones_own_must_be_long_and_nobody_elses(web: Api, ping_key: str) -> None:
    for bad in ("short", "x" * 65, "with spaces with spaces", str(uuid.uuid4())):
        refused = web("POST", "/v1/teams/ops/ping-key", {"ping_key": bad})
        problem(refused, 422, "ping_key")
        assert bad not in refused.text
    web("PUT", "/v1/teams/other", {})
    problem(web("POST", "/v1/teams/other/ping-key", {"ping_key": ping_key}), 409)
    problem(web("POST", "/v1/teams/nobody/ping-key"), 404)


def test_teams_are_made_changed_and_listed(web: Api) -> None:
    made = web("PUT", "/v1/teams/ops", {"description": "On call"})
    assert (made.status_code, made.headers["ETag"]) == (201, '"1"')
    assert web("PUT", "/v1/teams/ops", {"description": "x"}, If_Match='"1"').headers["ETag"] == '"2"'
    problem(web("PUT", "/v1/teams/ops", {}, If_Match='"1"'), 412)
    problem(web("PUT", "/v1/teams/none", {}, If_Match='"1"'), 412)
    problem(web("PUT", "/v1/teams/ops", {"ping_key_creates": "yes"}), 422, "ping_key_creates")
    web("PUT", "/v1/teams/dev", {})
    first = web("GET", "/v1/teams?limit=1").get_json()
    assert [team["name"] for team in first["items"]] == ["dev"]
    assert [team["name"] for team in web("GET", f"/v1/teams?after={first['next']}").get_json()["items"]] == [
        "ops"
    ]


def test_a_narrow_key_makes_no_team_and_no_ping_key(web: Api, api_with: MakeApi, ping_key: str) -> None:
    narrow = api_with("services:write", "services:read", patterns=["db"])
    problem(narrow("PUT", "/v1/teams/ops", {}), 403)
    problem(narrow("POST", "/v1/teams/ops/ping-key"), 403)
    reader = api_with("services:read")
    assert reader("GET", "/v1/teams").status_code == 200
    problem(reader("PUT", "/v1/teams/ops", {}), 403)


def test_a_policy_that_changed_is_heard_of_by_the_next_ping(web: Api, app: APIFlask, url: str) -> None:
    uuid = UUID(url.rpartition("/")[2])
    directory = app.extensions["medic"].pings
    assert web.client.get(f"/ping/{uuid}").status_code == 200
    assert directory.by_uuid(uuid).every_s == 300
    etag = web("GET", "/v1/services/web").headers["ETag"]
    assert web("PUT", "/v1/services/web", {"every": "7m"}, If_Match=etag).status_code == 200
    assert web.client.get(f"/ping/{uuid}").status_code == 200
    assert directory.by_uuid(uuid).every_s == 420
