"""Triggers by API: each kind, what a playbook keeps for itself, versions, secrets, and keys that are narrowed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, text

from medic.times import parse_time
from tests.api.caller import Api, MakeApi, problem

FIX = """\
name: fix
variables: {HOST: {required: true}, MODE: soft}
steps:
  - {name: pause, type: wait, duration: 1m}
"""
ALERT = {"playbook": "restart", "kind": "alert", "service_pattern": "web*"}
SCHEDULE = {"playbook": "restart", "kind": "schedule", "cron": "0 3 * * *", "timezone": "Europe/Berlin"}
HOOK = {"playbook": "restart", "kind": "hook"}


@pytest.fixture
def fix(restart: Api) -> Api:
    """The admin, with a service ``web`` and the playbooks ``restart`` and ``fix``."""
    assert restart.put_yaml("/v1/playbooks/fix", FIX).status_code == 201
    return restart


def made(api: Api, body: dict[str, Any]) -> dict[str, Any]:
    response = api("POST", "/v1/triggers", body)
    assert response.status_code == 201, response.text
    answer: dict[str, Any] = response.get_json()
    assert response.headers["Location"] == f"/v1/triggers/{answer['id']}"
    assert response.headers["ETag"] == '"1"'
    return answer


def test_an_alert_trigger_is_made_shown_changed_and_deleted(restart: Api) -> None:
    trigger = made(restart, ALERT | {"reasons": ["failed"], "cooldown": "15m", "position": 5})
    assert (trigger["playbook"], trigger["origin"], trigger["mode"], trigger["enabled"]) == (
        "restart", "api", "live", True
    )  # fmt: skip
    assert (trigger["reasons"], trigger["cooldown"], trigger["position"]) == (["failed"], "15m", 5)
    assert (trigger["cron"], trigger["mapping"], trigger["hook_url"], trigger["next_at"]) == (None,) * 4
    path = f"/v1/triggers/{trigger['id']}"
    changed = restart("PUT", path, ALERT | {"mode": "shadow"}, If_Match='"1"')
    assert (changed.status_code, changed.headers["ETag"]) == (200, '"2"')
    assert (changed.get_json()["mode"], changed.get_json()["cooldown"]) == ("shadow", None)
    problem(restart("PUT", path, ALERT, If_Match='"1"'), 412)
    problem(restart("DELETE", path, If_Match='"1"'), 412)
    assert restart("GET", path).get_json() == changed.get_json()
    assert restart("DELETE", path, If_Match='"2"').status_code == 204
    for method in ("GET", "DELETE"):
        problem(restart(method, path), 404)
    problem(restart("PUT", path, ALERT), 404)


def test_a_schedule_shows_when_it_comes_next_and_keeps_its_time_over_a_change(restart: Api) -> None:
    trigger = made(restart, SCHEDULE | {"service": "web", "catch_up": "1h"})
    assert (trigger["service"], trigger["catch_up"], trigger["last"]) == ("web", "1h", None)
    next_at = parse_time(trigger["next_at"])
    assert timedelta(0) < next_at - datetime.now(UTC) <= timedelta(hours=25)
    path = f"/v1/triggers/{trigger['id']}"
    assert restart("PUT", path, SCHEDULE | {"mode": "shadow"}).get_json()["next_at"] == trigger["next_at"]
    assert restart("PUT", path, SCHEDULE | {"enabled": False}).get_json()["next_at"] is None
    assert restart("PUT", path, SCHEDULE).get_json()["next_at"] == trigger["next_at"]
    other = restart("PUT", path, SCHEDULE | {"timezone": "Asia/Tokyo"}).get_json()["next_at"]
    assert other != trigger["next_at"]


def test_the_secrets_of_a_hook_are_shown_once_and_kept_nowhere(restart: Api, engine: Engine) -> None:
    answer = restart("POST", "/v1/triggers", HOOK, Idempotency_Key="k")
    hook = answer.get_json()
    token, secret = hook["hook_url"].rpartition("/v1/hooks/")[2], hook["hook_secret"]
    assert len(token) == 32
    assert secret.startswith("mdh_")
    again = restart("POST", "/v1/triggers", HOOK, Idempotency_Key="k")
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.get_json() == hook | {"hook_url": None, "hook_secret": None, "note": "already created"}
    shown = restart("GET", f"/v1/triggers/{hook['id']}")
    assert "hook_url" not in shown.get_json()
    signed = made(restart, HOOK | {"verification": "standard_webhooks"})
    assert signed["hook_secret"].startswith("whsec_")
    with engine.connect() as connection:
        for table in ("hooks", "idempotency_keys", "audit_entries"):
            dump = str(connection.execute(text(f"SELECT t::text FROM {table} t")).all())
            assert dump.count("(") > 1
            for hidden in (token, secret, signed["hook_secret"], token.encode().hex(), secret.encode().hex()):
                assert hidden not in dump, table


def test_a_playbooks_own_trigger_is_listed_and_read_only(restart: Api) -> None:
    own = "trigger: {service_pattern: 'web*'}\nsteps:\n  - {name: a, type: wait, duration: 1s}\n"
    restart.put_yaml("/v1/playbooks/own", "name: own\n" + own)
    other = made(restart, ALERT)["id"]
    (mine,) = restart("GET", "/v1/triggers?playbook=own").get_json()["items"]
    assert (mine["origin"], mine["service_pattern"], mine["version"]) == ("playbook", "web*", 1)
    path = f"/v1/triggers/{mine['id']}"
    for response in (restart("PUT", path, ALERT | {"playbook": "own"}), restart("DELETE", path)):
        assert "change `trigger:` in the YAML of own and apply it" in problem(response, 409)["detail"]
    listed = [item["id"] for item in restart("GET", "/v1/triggers").get_json()["items"]]
    assert listed == sorted([mine["id"], other])
    first = restart("GET", "/v1/triggers?limit=1").get_json()
    second = restart("GET", f"/v1/triggers?limit=1&after={first['next']}").get_json()
    assert ([first["items"][0]["id"], second["items"][0]["id"]], second["next"]) == (listed, None)
    assert restart("GET", "/v1/triggers?kind=hook").get_json()["items"] == []
    restart("DELETE", "/v1/playbooks/restart")
    assert [item["id"] for item in restart("GET", "/v1/triggers").get_json()["items"]] == [mine["id"]]


@pytest.mark.parametrize(
    ("body", "status", "path"),
    [
        (ALERT | {"service_pattern": None}, 422, "service_pattern"),
        (ALERT | {"cron": "* * * * *"}, 422, "cron"),
        (ALERT | {"service": "web"}, 422, "service"),
        (ALERT | {"repeat_every": "59s"}, 422, "repeat_every"),
        (ALERT | {"priorities": ["p9"]}, 422, "priorities.0"),
        (ALERT | {"playbook": "nothing"}, 422, "playbook"),
        (ALERT | {"playbook": "fix"}, 422, "variables.HOST"),
        (ALERT | {"variables": {"a b": 1}}, 422, "variables.a b"),
        (ALERT | {"variables": {"SERVICE_NAME": "db"}}, 422, "variables.SERVICE_NAME"),
        (ALERT | {"kind": "luck"}, 422, "kind"),
        (SCHEDULE | {"cron": "0 3 * *"}, 422, "cron"),
        (SCHEDULE | {"cron": "0 3 31 2 *"}, 422, "cron"),
        (SCHEDULE | {"cron": None}, 422, "cron"),
        (SCHEDULE | {"timezone": "Mars/Base"}, 422, "timezone"),
        (SCHEDULE | {"catch_up": "59s"}, 422, "catch_up"),
        (SCHEDULE | {"catch_up": "25h"}, 422, "catch_up"),
        (SCHEDULE | {"service": "nobody"}, 422, "service"),
        (SCHEDULE | {"service_pattern": "web*"}, 422, "service_pattern"),
        (SCHEDULE | {"repeat_every": "5m"}, 422, "repeat_every"),
        (HOOK | {"verification": "none"}, 422, "verification"),
        (HOOK | {"service": "web", "service_from": "a"}, 422, "service"),
        (HOOK | {"service_pattern": "web"}, 422, "service_pattern"),
        (HOOK | {"service_from": "a..b"}, 422, "service_from"),
        (HOOK | {"playbook": "fix", "mapping": {"HOST": "/a~2"}}, 422, "mapping.HOST"),
        (HOOK | {"playbook": "fix", "mapping": {"HOST": ".".join("a" * 17)}}, 422, "mapping.HOST"),
        (HOOK | {"playbook": "fix", "mapping": {"HOST": "a", "OTHER": "b"}}, 422, "mapping.OTHER"),
        (HOOK | {"playbook": "fix", "mapping": {"HOST": "a"}, "variables": {"HOST": 1}}, 422, "mapping.HOST"),
        (HOOK | {"playbook": "fix"}, 422, "variables.HOST"),
    ],
)
def test_a_wrong_trigger_is_refused(fix: Api, body: dict[str, Any], status: int, path: str) -> None:
    problem(fix("POST", "/v1/triggers", body), status, path)
    assert fix("GET", "/v1/triggers").get_json()["items"] == []


def test_kind_playbook_and_proof_stay(fix: Api) -> None:
    trigger = made(fix, ALERT)["id"]
    problem(fix("PUT", f"/v1/triggers/{trigger}", SCHEDULE), 409)
    variables = {"variables": {"HOST": "w1"}}
    problem(fix("PUT", f"/v1/triggers/{trigger}", ALERT | {"playbook": "fix"} | variables), 409)
    hook = made(fix, HOOK)["id"]
    problem(fix("PUT", f"/v1/triggers/{hook}", HOOK | {"verification": "standard_webhooks"}), 409)
    problem(fix("POST", f"/v1/triggers/{trigger}/rotate"), 409)
    problem(fix("POST", f"/v1/triggers/{hook + 1}/rotate"), 404)


def test_a_narrowed_key_has_to_do_with_triggers_for_its_own_services_alone(
    restart: Api, api_with: MakeApi
) -> None:
    restart("POST", "/v1/services", {"name": "db-1", "every": "5m"})
    wide, none = made(restart, ALERT)["id"], made(restart, HOOK)["id"]
    narrow = api_with("playbooks:read", "playbooks:write", patterns=["db-*"])
    for body in (
        ALERT, ALERT | {"service_pattern": None, "tags": ["db"]}, SCHEDULE, SCHEDULE | {"service": "web"},
        HOOK, HOOK | {"service_from": "name"},
    ):  # fmt: skip
        problem(narrow("POST", "/v1/triggers", body), 403)
    mine = [
        made(narrow, body)["id"]
        for body in (
            ALERT | {"service_pattern": "db-*"},
            SCHEDULE | {"service": "db-1"},
            HOOK | {"service_from": "name", "service_pattern": "db-?"},
        )
    ]
    assert [item["id"] for item in narrow("GET", "/v1/triggers").get_json()["items"]] == mine
    for other in (wide, none):
        problem(narrow("GET", f"/v1/triggers/{other}"), 403)
        problem(narrow("PUT", f"/v1/triggers/{other}", ALERT | {"service_pattern": "db-1"}), 403)
        problem(narrow("DELETE", f"/v1/triggers/{other}"), 403)
        problem(narrow("POST", f"/v1/triggers/{other}/rotate"), 403)
    problem(narrow("PUT", f"/v1/triggers/{mine[0]}", ALERT), 403)
    assert narrow("DELETE", f"/v1/triggers/{mine[0]}").status_code == 204
    problem(api_with("playbooks:read")("POST", "/v1/triggers", ALERT), 403)


def test_each_change_is_in_the_audit_log(restart: Api, engine: Engine) -> None:
    hook = made(restart, HOOK)["id"]
    restart("PUT", f"/v1/triggers/{hook}", HOOK | {"enabled": False})
    restart("POST", f"/v1/triggers/{hook}/rotate")
    restart("DELETE", f"/v1/triggers/{hook}")
    with engine.connect() as connection:
        rows = connection.execute(
            text("SELECT action, object_id FROM audit_entries WHERE object_kind = 'trigger' ORDER BY id")
        ).all()
    assert [tuple(row) for row in rows] == [
        (f"trigger.{verb}", str(hook)) for verb in ("create", "change", "rotate", "delete")
    ]
