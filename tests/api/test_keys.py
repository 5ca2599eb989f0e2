"""API keys by API: made with an end, rotated, used, and told to nobody."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from apiflask import APIFlask
from sqlalchemy import Engine, text

from medic.access import SCOPES
from medic.ratelimit.policy import policies_from
from medic.settings import Settings
from medic.times import parse_time
from tests.api.caller import Api, MakeApi, problem
from tests.waiting import eventually

DOCS = Path(__file__).resolve().parents[2] / "docs" / "api.md"
READER = {"name": "ci", "scopes": ["services:read"]}


def made(admin: Api, **more: Any) -> dict[str, Any]:
    response = admin("POST", "/v1/keys", READER | more)
    assert response.status_code == 201, response.text
    body: dict[str, Any] = response.get_json()
    return body


def lifetime(key: Mapping[str, Any]) -> timedelta:
    return parse_time(key["expires_at"]) - parse_time(key["created_at"])


@pytest.mark.parametrize("given", ["90d", 90 * 86_400, "2160h"])
def test_a_key_ends_after_a_duration(admin: Api, given: str | int) -> None:
    assert lifetime(made(admin, expires_in=given)) == timedelta(days=90)


@pytest.mark.parametrize(
    "wrong",
    [
        {"expires_in": "90d", "expires_at": "2999-01-01T00:00:00Z"},
        {"expires_in": 0},
        {"expires_in": "soon"},
        {"expires_in": "9999d"},
        {"expires_in": -5},
    ],
)
def test_an_end_that_is_none_or_two_is_refused(admin: Api, wrong: dict[str, Any]) -> None:
    problem(admin("POST", "/v1/keys", READER | wrong), 422, "expires_in")
    key = made(admin)
    problem(admin("POST", f"/v1/keys/{key['id']}/rotate", wrong), 422, "expires_in")
    assert len(admin("GET", "/v1/keys").get_json()["items"]) == 2


def test_a_rotated_key_and_its_successor_both_work_and_no_text_is_shown_again(
    admin: Api, app: APIFlask
) -> None:
    old = made(admin, service_patterns=["db-*"], expires_in="90d")
    reader = Api(app.test_client(), old["key"])
    assert reader("GET", "/v1/services").status_code == 200
    response = admin("POST", f"/v1/keys/{old['id']}/rotate")
    assert (response.status_code, response.headers["Cache-Control"]) == (201, "no-store")
    new = response.get_json()
    assert new["replaces"] == old["id"] != new["id"]
    assert all(new[name] == old[name] for name in ("name", "scopes", "service_patterns"))
    assert lifetime(new) == timedelta(days=90)
    assert parse_time(new["replaced_expires_at"]) - parse_time(new["created_at"]) == timedelta(hours=24)
    for key in (old["key"], new["key"]):
        assert Api(app.test_client(), key)("GET", "/v1/services").status_code == 200
    listed = admin("GET", "/v1/keys")
    assert old["key"] not in listed.text
    assert new["key"] not in listed.text
    by_id = {key["id"]: key for key in listed.get_json()["items"]}
    assert by_id[old["id"]]["expires_at"] == new["replaced_expires_at"]
    assert new["id"] in problem(admin("POST", f"/v1/keys/{old['id']}/rotate"), 409)["detail"]


def test_without_overlap_the_old_key_ends_at_once(admin: Api, app: APIFlask) -> None:
    old = made(admin)
    reader = Api(app.test_client(), old["key"])
    assert reader("GET", "/v1/services").status_code == 200
    new = admin("POST", f"/v1/keys/{old['id']}/rotate", {"overlap": 0, "expires_in": "7d"}).get_json()
    assert lifetime(new) == timedelta(days=7)
    problem(reader("GET", "/v1/services"), 401)


def test_who_may_rotate(admin: Api, api_with: MakeApi, outsider: Api) -> None:
    path = f"/v1/keys/{made(admin)['id']}/rotate"
    problem(outsider("POST", path), 401)
    problem(api_with(*(SCOPES.keys() - {"admin"}))("POST", path), 403)
    problem(api_with("admin", patterns=["*"])("POST", path), 403)
    problem(admin("POST", path, {"overlap": "31d"}), 422, "overlap")
    problem(admin("POST", path, {"scopes": ["admin"]}), 422, "scopes")
    problem(admin("POST", "/v1/keys/AAAAAAAAAAAA/rotate"), 404)
    assert admin("POST", path, {"overlap": "30d"}).status_code == 201


def test_the_last_use_is_listed(admin: Api, app: APIFlask) -> None:
    key = made(admin)
    assert key["last_used_at"] is None
    assert Api(app.test_client(), key["key"])("GET", "/v1/services").status_code == 200

    def shown() -> str | None:
        items = admin("GET", "/v1/keys").get_json()["items"]
        used: str | None = next(item["last_used_at"] for item in items if item["id"] == key["id"])
        return used

    assert abs(parse_time(eventually(shown)) - datetime.now(UTC)) < timedelta(minutes=1)


def test_a_key_anywhere_but_in_its_header_is_no_key(admin: Api, outsider: Api) -> None:
    key = made(admin)["key"]
    for name in ("key", "api_key", "access_token"):
        problem(outsider("GET", f"/v1/services?{name}={key}"), 401)
    problem(outsider("GET", "/v1/services", Cookie=f"key={key}", X_API_Key=key), 401)
    problem(outsider("GET", "/v1/services", Authorization=key), 401)
    problem(outsider("GET", "/v1/services", Authorization=f"Basic {key}"), 401)


def test_no_key_is_logged_or_audited(
    admin: Api,
    app: APIFlask,
    engine: Engine,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with caplog.at_level(logging.DEBUG):
        old = made(admin)
        new = admin("POST", f"/v1/keys/{old['id']}/rotate", {"overlap": 0}).get_json()
        for key in (old["key"], new["key"], new["key"][:-1] + "-"):
            Api(app.test_client(), key)("GET", "/v1/services")
    with engine.connect() as connection:
        kept = str(connection.execute(text("SELECT array_agg(e::text) FROM audit_entries e")).scalar())
    assert new["id"] in kept
    written = kept + caplog.text + "".join(capfd.readouterr())
    for secret in (key["key"][17:49] for key in (old, new)):
        assert secret not in written


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a heading of docs/api.md."""
    section = DOCS.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table if "---" not in line][1:]


def test_the_docs_list_the_scopes() -> None:
    written = {scope.strip("`"): re.sub("`", "", meaning) for scope, meaning in rows("Who may call")}
    assert written == SCOPES


def test_the_docs_list_the_rate_classes_and_their_defaults(environ: dict[str, str]) -> None:
    variables = {str(field.alias) for field in Settings.model_fields.values()}
    policies = policies_from(Settings.from_env(environ))
    written = {name.strip("`"): (limit, at_once) for name, _, limit, at_once, _ in rows("Rate limits")}
    assert written.keys() == set(policies)
    for name, policy in policies.items():
        more = f" + {policy.per_service} for each service" if policy.per_service else ""
        assert written[name] == (
            f"{policy.limit}{more}",
            "all" if policy.burst == policy.limit else str(policy.burst),
        )
    for *_, variable in rows("Rate limits"):
        assert variable.strip("`") in variables
