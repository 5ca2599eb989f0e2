"""Playbooks and executions by API."""

from __future__ import annotations

from uuid import UUID

import pytest
from sqlalchemy import Engine, text

from tests.api.caller import PLAYBOOK, Api, MakeApi, problem
from tests.waiting import eventually

GATED = PLAYBOOK.replace("name: restart", "name: gated") + "approval: required\n"


def test_each_put_makes_a_version_and_the_same_text_makes_none(web: Api) -> None:
    first = web.put_yaml("/v1/playbooks/restart", PLAYBOOK)
    assert (first.status_code, first.headers["ETag"]) == (201, '"1"')
    assert web.put_yaml("/v1/playbooks/restart", PLAYBOOK).headers["ETag"] == '"1"'
    second = web.put_yaml("/v1/playbooks/restart", PLAYBOOK.replace("30s", "31s"), If_Match='"1"')
    assert (second.status_code, second.headers["ETag"]) == (200, '"2"')
    problem(web.put_yaml("/v1/playbooks/restart", PLAYBOOK, If_Match='"1"'), 412)
    assert web("GET", "/v1/playbooks/restart?version=1").get_json()["source"] == PLAYBOOK
    assert web("GET", "/v1/playbooks/restart").get_json()["newest_version"] == 2
    problem(web("GET", "/v1/playbooks/restart?version=3"), 404)
    problem(web("GET", "/v1/playbooks/restart?version=99999999999999999999"), 422, "version")
    problem(web("DELETE", "/v1/playbooks/restart", If_Match='"1"'), 412)
    assert web("DELETE", "/v1/playbooks/restart").status_code == 204
    problem(web("GET", "/v1/playbooks/restart"), 404)
    assert web("GET", "/v1/playbooks").get_json() == {"items": [], "next": None}


@pytest.mark.parametrize(
    ("yaml", "line"),
    [
        ("name: restart\nsteps: [\n", None),
        ("name: restart\nname: restart\nsteps: []\n", 2),
        (PLAYBOOK.replace("type: wait", "type: wiat"), 4),
        (PLAYBOOK.replace("duration:", "druation:"), 5),
        (PLAYBOOK + "aproval: none\n", 10),
        (PLAYBOOK.replace("name: restart", "name: other"), None),
        ("", None),
        ("a\x00b", None),
        ('name: restart\ndescription: "a\\0b"\n' + PLAYBOOK.partition("\n")[2], None),
    ],
)
def test_a_wrong_playbook_names_its_place_and_is_not_stored(web: Api, yaml: str, line: int | None) -> None:
    body = problem(web.put_yaml("/v1/playbooks/restart", yaml), 422)
    assert body["problems"]
    if line is not None:
        assert line in [found.get("line") for found in body["problems"]]
        assert all(found["column"] >= 1 for found in body["problems"])
    problem(web("GET", "/v1/playbooks/restart"), 404)


def test_what_is_no_yaml_text_is_refused(web: Api) -> None:
    problem(web("PUT", "/v1/playbooks/restart", raw=b"\xff\xfe\xfd", Content_Type="text/yaml"), 400)
    problem(web("PUT", "/v1/playbooks/restart", raw=b"{}", Content_Type="application/json"), 415)


def test_validation_stores_nothing(web: Api) -> None:
    fine = web.put_yaml("/v1/playbooks/validate", PLAYBOOK, method="POST").get_json()
    assert (fine["valid"], fine["name"], fine["steps"]) == (True, "restart", ["pause", "verify"])
    odd = PLAYBOOK.replace("30s", "30s\n    when: ${NOBODY} == 1")
    assert web.put_yaml("/v1/playbooks/validate", odd, method="POST").get_json()["warnings"][0]["line"]
    problem(web.put_yaml("/v1/playbooks/validate", "name: x", method="POST"), 422)
    problem(web("GET", "/v1/playbooks/restart"), 404)


def test_starting_answers_202_with_the_execution_and_where_it_is(restart: Api, engine: Engine) -> None:
    started = restart("POST", "/v1/playbooks/restart/executions", {"service": "web", "variables": {"N": 1}})
    assert started.status_code == 202
    body = started.get_json()
    assert started.headers["Location"] == f"/v1/executions/{body['id']}"
    assert [step["name"] for step in body["steps"]] == ["pause", "verify"]
    shown = restart("GET", started.headers["Location"]).get_json()
    assert (shown["playbook"], shown["service"], shown["variables"]["N"]) == ("restart", "web", 1)

    def dispatched() -> bool:
        with engine.connect() as connection:
            epoch = connection.execute(
                text("SELECT epoch FROM executions WHERE id = :id"), {"id": UUID(body["id"])}
            ).scalar_one()
        return bool(epoch == 1)

    eventually(dispatched)


@pytest.mark.parametrize(
    ("raw", "status", "path"),
    [
        (b'{"service": "nobody"}', 422, "service"),
        (b'{"variables": {"bad name": 1}}', 422, "variables.bad name"),
        (b'{"variables": {"SERVICE_NAME": "x"}}', 422, "variables.SERVICE_NAME"),
        (b'{"variables": {"N": NaN}}', 422, None),
        (b'{"variables": {"N": 1e999}}', 422, None),
        (b'{"variables": {"N": ["a\\u0000"]}}', 422, None),
        (b'{"variables": []}', 422, "variables"),
        (b'{"wariables": {}}', 422, "wariables"),
        (b"nonsense", 400, ""),
    ],
)
def test_a_wrong_start_names_its_field_and_starts_nothing(
    restart: Api, raw: bytes, status: int, path: str | None
) -> None:
    problem(restart("POST", "/v1/playbooks/restart/executions", raw=raw), status, path)
    assert restart("GET", "/v1/executions").get_json()["items"] == []


def test_an_unknown_playbook_does_not_start(web: Api) -> None:
    problem(web("POST", "/v1/playbooks/nothing/executions", {}), 404)


def test_a_repeated_start_with_an_idempotency_key_starts_once(restart: Api) -> None:
    path = "/v1/playbooks/restart/executions"
    first = restart("POST", path, {"service": "web"}, Idempotency_Key="deploy-7")
    again = restart("POST", path, {"service": "web"}, Idempotency_Key="deploy-7")
    assert (again.status_code, again.get_json()) == (202, first.get_json())
    assert again.headers["Location"] == first.headers["Location"]
    assert len(restart("GET", "/v1/executions").get_json()["items"]) == 1


def test_executions_are_listed_newest_first_filtered_and_paged(restart: Api) -> None:
    path = "/v1/playbooks/restart/executions"
    ids = [restart("POST", path, {"service": "web"}).get_json()["id"] for _ in range(3)]
    restart("POST", f"/v1/executions/{ids[0]}/cancel")
    page = restart("GET", "/v1/executions?limit=2").get_json()
    rest = restart("GET", f"/v1/executions?limit=2&after={page['next']}").get_json()
    assert {item["id"] for item in page["items"] + rest["items"]} == set(ids)
    cancelled = restart("GET", "/v1/executions?state=cancelled").get_json()["items"]
    assert [item["id"] for item in cancelled] == [ids[0]]
    assert {step["state"] for step in cancelled[0]["steps"]} == {"cancelled"}
    assert restart("GET", "/v1/executions?service=db").get_json()["items"] == []
    problem(restart("GET", "/v1/executions?after=7"), 422, "after")
    problem(restart("GET", "/v1/executions?state=done"), 422, "state")


def test_cancelling_twice_and_settling_what_is_not_in_doubt_are_conflicts(restart: Api) -> None:
    execution = restart("POST", "/v1/playbooks/restart/executions", {}).get_json()["id"]
    problem(restart("POST", f"/v1/executions/{execution}/settle", {"verdict": "happened"}), 409)
    problem(restart("POST", f"/v1/executions/{execution}/settle", {"verdict": "maybe"}), 422, "verdict")
    assert restart("POST", f"/v1/executions/{execution}/cancel").get_json()["state"] == "cancelled"
    problem(restart("POST", f"/v1/executions/{execution}/cancel"), 409)
    problem(restart("GET", f"/v1/executions/{UUID(int=1)}"), 404)


def test_a_narrowed_key_starts_and_sees_only_for_its_services(restart: Api, api_with: MakeApi) -> None:
    scopes = ("executions:run", "playbooks:read", "playbooks:write", "approvals:decide")
    narrow = api_with(*scopes, patterns=["db-*"])
    execution = restart("POST", "/v1/playbooks/restart/executions", {"service": "web"}).get_json()["id"]
    for body in ({}, {"service": "web"}):
        problem(narrow("POST", "/v1/playbooks/restart/executions", body), 403)
    problem(narrow("GET", f"/v1/executions/{execution}"), 403)
    problem(narrow("POST", f"/v1/executions/{execution}/cancel"), 403)
    assert narrow("GET", "/v1/executions").get_json()["items"] == []
    problem(narrow.put_yaml("/v1/playbooks/restart", PLAYBOOK), 403)
    problem(narrow("DELETE", "/v1/playbooks/restart"), 403)
    problem(narrow("POST", "/v1/stop", {"reason": "because"}), 403)


def test_an_approval_is_decided_once_and_not_by_who_started(web: Api, api_with: MakeApi) -> None:
    assert web.put_yaml("/v1/playbooks/gated", GATED).status_code == 201
    started = web("POST", "/v1/playbooks/gated/executions", {"service": "web"}).get_json()
    assert started["state"] == "pending_approval"
    question = web("GET", "/v1/approvals?state=pending").get_json()["items"][0]
    assert web("GET", f"/v1/executions/{started['id']}").get_json()["approval"]["id"] == question["id"]
    path = f"/v1/approvals/{question['id']}"
    other = api_with("approvals:decide")
    problem(api_with("approvals:decide", patterns=["db-*"])("POST", f"{path}/approve"), 403)
    problem(web("POST", f"{path}/approve"), 409)
    problem(other("POST", f"{path}/approve", {"plan_digest": "0" * 64}), 409)
    decided = other("POST", f"{path}/approve", {"plan_digest": question["plan_digest"], "comment": "go"})
    assert (decided.get_json()["state"], decided.get_json()["comment"]) == ("approved", "go")
    problem(other("POST", f"{path}/reject"), 409)
    problem(other("POST", "/v1/approvals/999999/reject"), 404)
    assert web("GET", f"/v1/executions/{started['id']}").get_json()["state"] == "waiting"


def test_an_approval_shows_its_plan_with_secrets_masked(web: Api, api_with: MakeApi, outsider: Api) -> None:
    step = (
        "  - {name: call, type: webhook, url: 'https://ops.example.com/x', headers: {X-Ops: 'a ${secrets.OPS}'},"
        " body: {who: '${SERVICE_NAME}', with: '${secrets.OPS}'}}\n"
    )
    source = GATED.replace("name: gated", "name: secretive").replace("approval:", f"{step}approval:")
    assert web.put_yaml("/v1/playbooks/secretive", source).status_code == 201
    started = web("POST", "/v1/playbooks/secretive/executions", {"service": "web"}).get_json()
    listed = web("GET", "/v1/approvals?state=pending").get_json()["items"][0]
    path = f"/v1/approvals/{listed['id']}"
    shown = web("GET", path).get_json()
    assert shown == listed
    assert (shown["execution_id"], shown["state"], len(shown["plan_digest"])) == (
        started["id"],
        "pending",
        64,
    )
    planned = shown["plan"]["steps"][-1]
    assert planned["body"] == {"who": "web", "with": "[secret:OPS]"}
    narrow = api_with("playbooks:read", patterns=["db-*"])
    problem(narrow("GET", path), 403)
    problem(api_with("approvals:decide")("GET", path), 403)
    problem(outsider("GET", path), 401)
    problem(web("GET", "/v1/approvals/999999"), 404)


def test_a_list_of_executions_says_what_ran_in_shadow(restart: Api) -> None:
    execution = restart("POST", "/v1/playbooks/restart/executions", {}).get_json()
    assert execution["mode"] == "live"
    assert restart("GET", "/v1/executions").get_json()["items"][0]["mode"] == "live"


def test_a_rejection_ends_the_execution(web: Api, api_with: MakeApi) -> None:
    web.put_yaml("/v1/playbooks/gated", GATED)
    started = web("POST", "/v1/playbooks/gated/executions", {}).get_json()
    question = web("GET", "/v1/approvals?state=pending").get_json()["items"][0]
    assert web("POST", f"/v1/approvals/{question['id']}/reject").status_code == 200
    assert web("GET", f"/v1/executions/{started['id']}").get_json()["state"] == "cancelled"


def test_nothing_starts_while_the_stop_switch_is_on(restart: Api, engine: Engine) -> None:
    assert restart("GET", "/v1/stop").get_json()["stopped"] is False
    problem(restart("POST", "/v1/stop", {}), 422, "reason")
    assert restart("POST", "/v1/stop", {"reason": "fire"}).get_json()["reason"] == "fire"
    assert restart("POST", "/v1/stop", {"reason": "more"}).get_json()["reason"] == "fire"
    headers = {"Idempotency_Key": "k"}
    problem(restart("POST", "/v1/playbooks/restart/executions", {}, **headers), 409)
    with engine.connect() as connection:
        refused = connection.execute(
            text("SELECT count(*) FROM audit_entries WHERE action = 'execution.refuse'")
        ).scalar_one()
    assert refused == 1
    assert restart("DELETE", "/v1/stop").get_json()["stopped"] is False
    assert restart("POST", "/v1/playbooks/restart/executions", {}, **headers).status_code == 202


TRIED = """\
name: tried
trigger: {service_pattern: "web*", consecutive_failures: 3}
lock: "host-${HOST}"
variables: {HOST: {default: w1}}
steps:
  - {name: call, type: webhook, url: "http://127.0.0.1:9/${HOST}", headers: {X-Ops: "${secrets.TRIED_OPS}"}}
  - {name: run, type: script, script: tried-script, parameters: {UNIT: "${HOST}"}}
  - {name: gone, type: script, script: not-there}
  - {name: later, type: webhook, url: "http://169.254.169.254/${steps.call.body.id}", when: "${HOST} == 'w2'"}
  - {name: heard, type: condition, check: alert_resolved}
  - {name: tell, type: notify, message: "done ${steps.call.body.id}", target: nobody}
"""


def test_a_dry_run_shows_each_step_says_what_would_stop_it_and_does_nothing(web: Api, engine: Engine) -> None:
    assert web.put_yaml("/v1/playbooks/tried", TRIED).status_code == 201
    script = {"interpreter": "bash", "content": "true\n", "parameters": {"UNIT": {"type": "whole"}}}
    assert web("PUT", "/v1/scripts/tried-script", script).status_code in {200, 201}
    answer = web("POST", "/v1/playbooks/tried/dry-run", {"service": "web"})
    assert answer.status_code == 200
    tried = answer.get_json()
    assert (tried["fine"], tried["now"], tried["lock"]) == (False, "running", "host-w1")
    assert (tried["variables"]["ALERT_ID"], tried["variables"]["CONSECUTIVE_FAILURES"]) == (0, 3)
    call, run, gone, later, heard, tell = tried["steps"]
    assert call["shown"]["url"] == "http://127.0.0.1:9/w1"
    assert call["shown"]["headers"] == {"X-Ops": "[secret:TRIED_OPS]"}
    assert "There is no secret TRIED_OPS." in call["problems"]
    assert len(call["problems"]) == 2
    assert "may not be reached" in call["problems"][1], "it is the loopback's"
    assert run["problems"] == ["parameters.UNIT must be a whole number"]
    assert gone["problems"] == ["There is no script not-there."]
    assert (later["skipped"], later["needs"], len(later["problems"])) == (True, ["call"], 1)
    assert (heard["problems"], heard["shown"]["check"]) == ([], "alert_resolved")
    assert tell["shown"]["message"] == "done [steps.call.body.id]"
    with engine.connect() as connection:
        for table in ("executions", "locks", "deliveries"):
            assert connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one() == 0
    assert web("GET", "/v1/audit?action=execution.start").get_json()["items"] == []


def test_a_dry_run_says_what_a_start_would_be_answered(restart: Api, api_with: MakeApi) -> None:
    path = "/v1/playbooks/restart/dry-run"
    fine = restart("POST", path, {"service": "web"}).get_json()
    assert (fine["fine"], fine["now"], fine["why"]) == (True, "running", None)
    assert [step["shown"]["check"] for step in fine["steps"][1:]] == ["heartbeat_received"]
    restart("POST", "/v1/stop", {"reason": "fire"})
    refused = restart("POST", path, {"service": "web"}).get_json()
    assert (refused["now"], refused["why"]) == ("refused", "The stop switch is on.")
    restart("DELETE", "/v1/stop")
    restart.put_yaml("/v1/playbooks/gated", GATED)
    assert restart("POST", "/v1/playbooks/gated/dry-run").get_json()["now"] == "pending_approval"
    problem(restart("POST", path, {"service": "nobody"}), 422, "service")
    problem(restart("POST", path, {"variables": {"SERVICE_NAME": "x"}}), 422)
    problem(restart("POST", "/v1/playbooks/nothing/dry-run"), 404)
    problem(api_with("executions:run", patterns=["db-*"])("POST", path, {"service": "web"}), 403)


LOCKED = """\
name: locked
lock: "host-${HOST}"
variables: {HOST: {default: w1}}
steps:
  - {name: pause, type: wait, duration: 1h}
"""


def test_an_execution_says_which_lock_it_holds_or_waits_for(web: Api) -> None:
    assert web.put_yaml("/v1/playbooks/locked", LOCKED).status_code == 201
    path = "/v1/playbooks/locked/executions"
    first, second = (web("POST", path, {}).get_json()["id"] for _ in range(2))
    for execution in (first, second):
        lock = web("GET", f"/v1/executions/{execution}").get_json()["lock"]
        assert (lock["name"], lock["held_by"]) == ("host-w1", first)
        assert lock["since"]
    assert web("POST", "/v1/playbooks/locked/dry-run", {}).get_json()["why"] == (
        f"It would wait for the lock host-w1, which execution {first} holds."
    )
    cancelled = web("POST", f"/v1/executions/{first}/cancel").get_json()
    assert cancelled["lock"] is None
    assert web("GET", f"/v1/executions/{second}").get_json()["lock"]["held_by"] is None
