"""``Idempotency-Key``: what holds for every POST that takes one."""

from __future__ import annotations

import time

import pytest
from sqlalchemy import Engine, text

from medic.access import SCOPES
from medic.db import advisory_lock, transaction
from tests.api.caller import PLAYBOOK, Api, MakeApi, problem

GATED = PLAYBOOK.replace("name: restart", "name: gated") + "approval: required\n"


def dump(engine: Engine, table: str) -> str:
    with engine.connect() as connection:
        return str(connection.execute(text(f"SELECT t::text FROM {table} t")).all())


def test_a_repeat_of_what_made_a_secret_shows_none_and_says_so(restart: Api, engine: Engine) -> None:
    made = restart("POST", "/v1/keys", {"name": "job", "scopes": ["heartbeats:write"]}).get_json()
    hook = restart("POST", "/v1/triggers", {"playbook": "restart", "kind": "hook"}).get_json()
    assert restart("PUT", "/v1/teams/ops", {}).status_code == 201
    for path, body, hidden in (
        ("/v1/keys", {"name": "job", "scopes": ["heartbeats:write"]}, ("key",)),
        (f"/v1/keys/{made['id']}/rotate", {}, ("key",)),
        (f"/v1/triggers/{hook['id']}/rotate", {}, ("hook_url", "hook_secret")),
        ("/v1/teams/ops/ping-key", {}, ("ping_key", "ping_url")),
    ):
        first = restart("POST", path, body, Idempotency_Key=path)
        again = restart("POST", path, body, Idempotency_Key=path)
        assert (again.status_code, again.headers["Idempotent-Replayed"]) == (first.status_code, "true"), path
        shown = first.get_json()
        assert shown["note"] is None
        nothing = dict.fromkeys(hidden) | {"note": "already created"}
        assert again.get_json() == shown | nothing, path
        for name in hidden:
            secret = shown[name].removeprefix("http://127.0.0.1:8080/")
            assert secret not in dump(engine, "idempotency_keys"), path


def test_a_decision_that_is_sent_again_gets_its_first_answer(web: Api, api_with: MakeApi) -> None:
    other = api_with(*(scope for scope in SCOPES if scope != "admin"))
    web.put_yaml("/v1/playbooks/gated", GATED)
    web("POST", "/v1/playbooks/gated/executions", {"service": "web"})
    question = web("GET", "/v1/approvals?state=pending").get_json()["items"][0]
    path = f"/v1/approvals/{question['id']}/approve"
    first, again = (other("POST", path, {"comment": "go"}, Idempotency_Key="k") for _ in range(2))
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.get_json() == again.get_json()
    problem(other("POST", path, {"comment": "go"}), 409)
    path = f"/v1/executions/{question['execution_id']}/cancel"
    first, again = (web("POST", path, Idempotency_Key="k2") for _ in range(2))
    assert (first.get_json()["state"], again.get_json()) == ("cancelled", first.get_json())
    problem(web("POST", path), 409)


def test_a_repeat_waits_for_the_first_request_for_two_seconds_and_is_then_a_conflict(
    admin: Api, engine: Engine
) -> None:
    body = {"name": "web", "every": "5m"}
    assert admin.key is not None
    principal = admin.key.split("_")[1]
    with transaction(engine) as session:
        advisory_lock(session, f"idempotency:{principal}:k")
        began = time.monotonic()
        problem(admin("POST", "/v1/services", body, Idempotency_Key="k"), 409)
        assert 1.9 <= time.monotonic() - began < 4
        assert admin("POST", "/v1/services", body, Idempotency_Key="other").status_code == 201
    problem(admin("POST", "/v1/services", body, Idempotency_Key="k"), 409)
    assert admin("POST", "/v1/services", body, Idempotency_Key="other").status_code == 201


@pytest.mark.parametrize("wrong", ["", "a b", "x" * 256])
def test_a_key_that_is_none_is_refused(admin: Api, wrong: str) -> None:
    body = {"name": "web", "every": "5m"}
    problem(admin("POST", "/v1/services", body, Idempotency_Key=wrong), 422, "Idempotency-Key")
