"""Keys, secrets, scripts and alerts by API."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest
from apiflask import APIFlask
from pydantic import SecretStr
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from medic import alerts, vault
from medic.db import database_now, in_transaction
from medic.settings import Settings
from medic_api.app import create_app
from tests.api.caller import Api, MakeApi, MakeKey, problem


def test_a_key_is_shown_once_works_and_is_revoked_at_once(admin: Api, app: APIFlask) -> None:
    made = admin("POST", "/v1/keys", {"name": "ci", "scopes": ["services:read"]})
    assert (made.status_code, made.headers["Cache-Control"]) == (201, "no-store")
    key = Api(app.test_client(), made.get_json()["key"])
    assert key("GET", "/v1/services").status_code == 200
    assert made.get_json()["key"] not in admin("GET", "/v1/keys").text
    assert admin("DELETE", f"/v1/keys/{made.get_json()['id']}").status_code == 204
    problem(key("GET", "/v1/services"), 401)
    problem(admin("DELETE", "/v1/keys/AAAAAAAAAAAA"), 404)


def test_the_last_admin_key_cannot_be_revoked(admin: Api) -> None:
    own = admin("GET", "/v1/keys").get_json()["items"][0]["id"]
    problem(admin("DELETE", f"/v1/keys/{own}"), 409)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"scopes": ["everything"]}, "scopes"),
        ({"scopes": []}, "scopes"),
        ({"name": ""}, "name"),
        ({"service_patterns": ["A["]}, "service_patterns.0"),
        ({"expires_at": "2001-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "tomorrow"}, "expires_at"),
    ],
)
def test_a_wrong_key_is_not_made(admin: Api, change: dict[str, object], path: str) -> None:
    problem(admin("POST", "/v1/keys", {"name": "ci", "scopes": ["services:read"]} | change), 422, path)
    assert len(admin("GET", "/v1/keys").get_json()["items"]) == 1


def test_an_expired_key_is_no_key(app: APIFlask, make_key: MakeKey) -> None:
    key = make_key("admin", expires_at=datetime.now(UTC) + timedelta(seconds=0.2))
    from tests.waiting import eventually

    eventually(lambda: Api(app.test_client(), key)("GET", "/v1/services").status_code == 401)


def test_an_address_that_guesses_is_told_to_wait_and_a_known_key_goes_on(
    admin: Api, app: APIFlask, make_key: MakeKey
) -> None:
    assert admin("GET", "/v1/stop").status_code == 200
    fresh = make_key("admin")
    guesser = Api(app.test_client(), "mdk_guess")
    seen = [guesser("GET", "/v1/stop").status_code for _ in range(31)]
    assert seen == [401] * 30 + [429]
    assert int(guesser("GET", "/v1/stop").headers["Retry-After"]) > 0
    assert admin("GET", "/v1/stop").status_code == 200
    problem(Api(app.test_client(), fresh)("GET", "/v1/stop"), 429)


def test_a_narrowed_admin_makes_no_wider_key(api_with: MakeApi) -> None:
    narrow = api_with("admin", patterns=["db-*"])
    problem(narrow("POST", "/v1/keys", {"name": "x", "scopes": ["admin"]}), 403)
    problem(narrow("GET", "/v1/secrets"), 403)


def test_a_secret_goes_in_and_never_comes_out(admin: Api) -> None:
    value = "correct horse battery"
    assert admin("PUT", "/v1/secrets/TOKEN", {"value": value}).get_json() == {"name": "TOKEN", "version": 1}
    assert admin("PUT", "/v1/secrets/TOKEN", {"value": value + "!"}).get_json()["version"] == 2
    listed = admin("GET", "/v1/secrets")
    assert value not in listed.text
    assert listed.get_json()["items"][0]["name"] == "TOKEN"
    for wrong in ({"value": "x"}, {"value": 7}, {}, {"value": "a\x00" + value}):
        answer = admin("PUT", "/v1/secrets/TOKEN", wrong)
        problem(answer, 422)
        assert value not in answer.text


def test_a_secret_is_replaced_only_where_there_is_one_if_that_is_asked_for(admin: Api) -> None:
    body = {"value": "correct horse battery"}
    problem(admin("PUT", "/v1/secrets/TOKEN", body, If_Match="*"), 412)
    assert admin("PUT", "/v1/secrets/TOKEN", body).get_json()["version"] == 1
    assert admin("PUT", "/v1/secrets/TOKEN", body, If_Match="*").get_json()["version"] == 2
    problem(admin("PUT", "/v1/secrets/TOKEN", body, If_Match='"1"'), 422, "If-Match")


def test_secrets_move_to_a_new_key_and_the_old_one_goes(
    engine: Engine, settings: Settings, admin: Api, api_with: MakeApi, outsider: Api
) -> None:
    value = "correct horse battery"
    target = {"kind": "webhook", "secrets": {"url": "https://hooks.example.com/x"}}
    assert admin("PUT", "/v1/secrets/rewrap", {"value": value}).status_code == 200  # a name like any other
    assert admin("PUT", "/v1/targets/hook", target).status_code in {200, 201}
    assert settings.secrets_key is not None
    old, new = settings.secrets_key.get_secret_value(), base64.b64encode(b"n" * 32).decode()

    def with_keys(keys: str) -> Api:
        app = create_app(settings.model_copy(update={"secrets_key": SecretStr(keys)}), engine=engine)
        return Api(app.test_client(), admin.key)

    both, rewrapped, body = with_keys(f"second:{new},{old}"), 0, {}
    while True:
        batch = both("POST", "/v1/secrets/rewrap", body).get_json()
        assert (batch["key_id"], batch["broken"]) == ("second", [])
        rewrapped += batch["rewrapped"]
        if batch["next"] is None:
            break
        body = {"after": batch["next"], "key_id": "second"}
    assert (rewrapped, batch["in_use"]) == (2, ["second"])
    with Session(engine) as session:
        ring = vault.key_ring(settings.model_copy(update={"secrets_key": SecretStr(f"second:{new}")}))
        assert vault.reveal(session, ring, "rewrap").get_secret_value() == value
    assert with_keys(f"second:{new}")("POST", "/v1/secrets/rewrap", {}).get_json()["rewrapped"] == 0
    problem(admin("POST", "/v1/secrets/rewrap", {}), 503)  # a process that has the old key only
    problem(with_keys(f"second:{new}")("POST", "/v1/secrets/rewrap", {"key_id": "other"}), 409)
    problem(both("POST", "/v1/secrets/rewrap", {"after": "nowhere"}), 422, "after")
    problem(api_with("services:write")("POST", "/v1/secrets/rewrap", {}), 403)
    problem(api_with("admin", patterns=["db-*"])("POST", "/v1/secrets/rewrap", {}), 403)
    problem(outsider("POST", "/v1/secrets/rewrap", {}), 401)


def test_secrets_without_a_key_say_what_to_set(engine: Engine, settings: Settings, admin: Api) -> None:
    bare = create_app(settings.model_copy(update={"secrets_key": None}), engine=engine)
    body = problem(Api(bare.test_client(), admin.key)("PUT", "/v1/secrets/T", {"value": "long enough"}), 503)
    assert "MEDIC_SECRETS_KEY" in body["detail"]


def test_scripts_have_versions(admin: Api, api_with: MakeApi) -> None:
    body = {"interpreter": "bash", "content": "echo ok\n", "parameters": {"HOST": {"required": True}}}
    first = admin("PUT", "/v1/scripts/hello", body)
    assert (first.status_code, first.headers["ETag"]) == (201, '"1"')
    assert admin("PUT", "/v1/scripts/hello", body, If_Match='"1"').headers["ETag"] == '"1"'
    second = admin("PUT", "/v1/scripts/hello", body | {"content": "echo no\n"}, If_Match='"1"')
    assert (second.status_code, second.headers["ETag"]) == (200, '"2"')
    problem(admin("PUT", "/v1/scripts/hello", body, If_Match='"1"'), 412)
    assert admin("GET", "/v1/scripts/hello").get_json()["content"] == "echo no\n"
    assert [item["version"] for item in admin("GET", "/v1/scripts").get_json()["items"]] == [2]
    problem(admin("PUT", "/v1/scripts/hello", body | {"parameters": {"a b": {}}}), 422, "parameters.a b")
    problem(admin("PUT", "/v1/scripts/hello", body | {"interpreter": "perl"}), 422, "interpreter")
    problem(admin("PUT", "/v1/scripts/hello", body | {"content": "x" * 262_145}), 422, "content")
    problem(api_with("playbooks:read")("PUT", "/v1/scripts/hello", body), 403)


def test_an_alert_is_seen_acknowledged_and_resolved(web: Api, engine: Engine, api_with: MakeApi) -> None:
    service = web("GET", "/v1/services/web").get_json()["id"]

    def fail(session: Session) -> int | None:
        now = database_now(session)
        opening = alerts.Opening(service, "web", "p1", "missed", now, {"deadline": "then"})
        return alerts.open_all(session, [opening], now=now)[service]

    alert = in_transaction(engine, fail)
    listed = web("GET", "/v1/alerts?active=true&service=web").get_json()["items"]
    assert [(item["id"], item["service"], item["reasons"]) for item in listed] == [(alert, "web", ["missed"])]
    narrow = api_with("services:read", "alerts:write", patterns=["db-*"])
    assert narrow("GET", "/v1/alerts").get_json()["items"] == []
    problem(narrow("GET", f"/v1/alerts/{alert}"), 403)
    problem(narrow("POST", f"/v1/alerts/{alert}/resolve"), 403)
    assert web("POST", f"/v1/alerts/{alert}/acknowledge").get_json()["acknowledged_by"].startswith("key:")
    problem(web("POST", f"/v1/alerts/{alert}/resolve", {"note": 7}), 422, "note")
    resolved = web("POST", f"/v1/alerts/{alert}/resolve", {"note": "by hand"}).get_json()
    assert (resolved["active"], resolved["resolution"], resolved["note"]) == (False, "manual", "by hand")
    assert [item["kind"] for item in resolved["transitions"]] == ["opened", "acknowledged", "resolved"]
    assert resolved["transitions"][0]["evidence"] == {"deadline": "then"}
    problem(web("POST", f"/v1/alerts/{alert}/resolve"), 409)
    assert web("GET", "/v1/alerts?active=true").get_json()["items"] == []
    problem(web("GET", "/v1/alerts/999999"), 404)
