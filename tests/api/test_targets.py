"""Targets by API: secrets go in and never come out."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, text

from medic.settings import Settings
from medic_api.app import create_app
from tests.api.caller import Api, MakeApi, problem

TOKEN = "xoxb-correct-horse"
CHAT = {"kind": "slack", "config": {"channel": "C0123456789"}, "secrets": {"token": TOKEN}}
MAIL = {
    "kind": "email",
    "config": {"to": ["a@example.com"], "from": "m@example.com", "host": "mail.example.com"},
}


def test_a_target_is_made_seen_changed_and_deleted(admin: Api) -> None:
    made = admin("POST", "/v1/targets", CHAT | {"name": "chat", "per_minute": 10})
    assert (made.status_code, made.headers["ETag"]) == (201, '"1"')
    body = made.get_json()
    assert (body["secrets"], body["per_minute"], body["enabled"]) == (["token"], 10, True)
    for name in ("chat", body["id"]):
        assert admin("GET", f"/v1/targets/{name}").get_json() == body
    problem(admin("POST", "/v1/targets", CHAT | {"name": "chat"}), 409)
    moved = {"kind": "slack", "config": {"channel": "C9"}}
    problem(admin("PUT", "/v1/targets/chat", moved, If_Match='"7"'), 412)
    changed = admin("PUT", "/v1/targets/chat", moved, If_Match='"1"')
    assert (changed.status_code, changed.headers["ETag"]) == (200, '"2"')
    assert changed.get_json()["secrets"] == ["token"]
    assert admin("PUT", "/v1/targets/mail", MAIL).status_code == 201
    problem(admin("PUT", "/v1/targets/none", MAIL, If_Match='"1"'), 412)
    page = admin("GET", "/v1/targets?limit=1").get_json()
    assert ([item["name"] for item in page["items"]], page["next"]) == (["chat"], "chat")
    page = admin("GET", "/v1/targets?limit=1&after=chat").get_json()
    assert ([item["name"] for item in page["items"]], page["next"]) == (["mail"], None)
    problem(admin("DELETE", "/v1/targets/chat", If_Match='"1"'), 412)
    assert admin("DELETE", "/v1/targets/chat", If_Match='"2"').status_code == 204
    for method, path in (("GET", "chat"), ("DELETE", "chat"), ("POST", "chat/test"), ("POST", "chat/enable")):
        problem(admin(method, f"/v1/targets/{path}"), 404)
    problem(admin("PUT", "/v1/targets/999", MAIL), 404)


def test_a_secret_is_in_no_answer_and_in_no_table(admin: Api, engine: Engine) -> None:
    body = CHAT | {"name": "chat"}
    first = admin("POST", "/v1/targets", body, Idempotency_Key="once")
    again = admin("POST", "/v1/targets", body, Idempotency_Key="once")
    assert again.headers["Idempotent-Replayed"] == "true"
    assert first.get_json() == again.get_json()
    refused = admin("PUT", "/v1/targets/chat", CHAT | {"secrets": {"token": TOKEN + " with blanks"}})
    problem(refused, 422, "secrets.token")
    unknown = admin("PUT", "/v1/targets/chat", CHAT | {"secrets": {"token": TOKEN, TOKEN: "x"}, "config": {}})
    problem(unknown, 422, "config.channel")
    answers = (first, again, refused, admin("GET", "/v1/targets"), admin("PUT", "/v1/targets/chat", CHAT))
    assert not any(TOKEN in answer.text for answer in answers)
    with engine.connect() as connection:
        for table in ("targets", "audit_entries", "idempotency_keys"):
            rows = connection.execute(text(f"SELECT t::text FROM {table} t")).scalars().all()
            assert rows
            assert not any(TOKEN in row or TOKEN.encode().hex() in row for row in rows)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"kind": "pigeon"}, "kind"),
        ({"config": {}}, "config.channel"),
        ({"config": {"channel": "C1", "chanel": "C2"}}, "config.chanel"),
        ({"config": {"channel": "C1", "api_url": "ftp://x"}}, "config.api_url"),
        ({"secrets": {}}, "secrets.token"),
        ({"secrets": {"token": 7}}, "secrets.token"),
        ({"secrets": {"token": "x\x00"}}, "secrets"),
        ({"secrets": {"token": "x" * 8193}}, "secrets.token"),
        ({"per_minute": 0}, "per_minute"),
        ({"name": "7"}, "name"),
        ({"more": 1}, "more"),
    ],
)
def test_a_wrong_target_is_not_made(admin: Api, change: dict[str, Any], path: str) -> None:
    problem(admin("POST", "/v1/targets", CHAT | {"name": "chat"} | change), 422, path)
    assert admin("GET", "/v1/targets").get_json()["items"] == []


def test_a_token_is_not_sent_to_another_address_than_it_was_given_for(admin: Api) -> None:
    admin("PUT", "/v1/targets/chat", CHAT)
    moved: dict[str, Any] = CHAT | {"config": {"channel": "C1", "api_url": "https://thief.example.com/"}}
    problem(admin("PUT", "/v1/targets/chat", moved | {"secrets": {}}), 422, "secrets")
    assert admin("PUT", "/v1/targets/chat", moved).status_code == 200


def test_a_target_that_medic_disabled_is_enabled_again(admin: Api, engine: Engine) -> None:
    admin("PUT", "/v1/targets/chat", CHAT)
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE targets SET disabled_at = now(), disabled_reason = 'Slack: invalid_auth'")
        )
    shown = admin("GET", "/v1/targets/chat").get_json()
    assert (shown["enabled"], shown["disabled_reason"]) == (False, "Slack: invalid_auth")
    enabled = admin("POST", "/v1/targets/chat/enable").get_json()
    assert (enabled["enabled"], enabled["disabled_reason"], enabled["version"]) == (True, None, 2)
    assert admin("POST", "/v1/targets/chat/enable").get_json() == enabled


def test_a_test_is_a_delivery(admin: Api, engine: Engine) -> None:
    target = admin("PUT", "/v1/targets/chat", CHAT).get_json()
    sent = admin("POST", f"/v1/targets/{target['id']}/test", Idempotency_Key="try")
    assert sent.status_code == 202
    assert (sent.get_json()["target"], sent.get_json()["state"]) == ("chat", "pending")
    assert (
        admin("POST", f"/v1/targets/{target['id']}/test", Idempotency_Key="try").get_json() == sent.get_json()
    )
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT id, target_id, kind FROM deliveries")).all()
    assert [tuple(row) for row in rows] == [(sent.get_json()["id"], target["id"], "test")]


def test_who_may_see_and_change_targets(admin: Api, api_with: MakeApi, outsider: Api) -> None:
    admin("PUT", "/v1/targets/chat", CHAT)
    changes = (
        ("POST", "/v1/targets", CHAT | {"name": "more"}), ("PUT", "/v1/targets/chat", CHAT),
        ("POST", "/v1/targets/chat/test", {}), ("POST", "/v1/targets/chat/enable", {}),
        ("DELETE", "/v1/targets/chat", None),
    )  # fmt: skip
    reader, narrow = api_with("services:read"), api_with("targets:write", "services:read", patterns=["db-*"])
    for caller in (reader, narrow):
        assert caller("GET", "/v1/targets").get_json()["items"][0]["name"] == "chat"
    for method, path, body in changes:
        problem(outsider(method, path, body), 401)
        for caller in (reader, narrow):
            problem(caller(method, path, body), 403)
    writer = api_with("targets:write")
    problem(writer("GET", "/v1/targets"), 403)
    assert [writer(*change).status_code for change in changes] == [201, 200, 202, 200, 204]


def test_secrets_without_a_key_say_what_to_set(engine: Engine, settings: Settings, admin: Api) -> None:
    bare = create_app(settings.model_copy(update={"secrets_key": None}), engine=engine)
    keyless = Api(bare.test_client(), admin.key)
    body = problem(keyless("PUT", "/v1/targets/chat", CHAT), 503)
    assert "MEDIC_SECRETS_KEY" in body["detail"]
    assert keyless("PUT", "/v1/targets/mail", MAIL).status_code == 201


def test_a_damaged_secret_is_mended_by_sending_it_again(admin: Api, engine: Engine) -> None:
    admin("PUT", "/v1/targets/chat", CHAT)
    admin("PUT", "/v1/targets/other", CHAT)
    with engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE targets SET sealed = (SELECT sealed FROM targets WHERE name = 'other') WHERE name = 'chat'"
            )
        )
    problem(admin("PUT", "/v1/targets/chat", CHAT | {"secrets": {}}), 409)
    assert admin("PUT", "/v1/targets/chat", CHAT).status_code == 200
