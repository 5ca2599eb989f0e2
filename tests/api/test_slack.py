"""Buttons in Slack: signed requests, as Slack sends them, against the real application."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

import pytest
from apiflask import APIFlask
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from slack_sdk.signature import SignatureVerifier
from sqlalchemy import Engine, text
from werkzeug.test import TestResponse

from medic.crypto.signatures import sign_slack
from medic.errors import Malformed
from medic.settings import Settings
from medic_api.app import create_app
from medic_api.slack import read_interaction
from tests.api.caller import Api, MakeApi, MakeKey, problem
from tests.recorder import Recorder, recording

PATH = "/v1/slack/interactions"
NEWER, OLDER = "the newer secret", "the older secret"


def payload_of(action: str, value: Any, *, user: str = "U02ANNA", name: str = "anna") -> dict[str, Any]:
    return {
        "type": "block_actions",
        "user": {"id": user, "username": name, "name": name, "team_id": "T01"},
        "trigger_id": "1.2.3",
        "actions": [{"type": "button", "action_id": action, "block_id": "b", "value": value}],
    }


def form(payload: Any) -> bytes:
    return urlencode({"payload": json.dumps(payload)}).encode()


def send(
    client: Api, body: bytes, *, secret: str = NEWER, at: float | None = None, **headers: str
) -> TestResponse:
    """A request, signed by Slack's own library."""
    stamp = str(int(time.time() if at is None else at))
    signature = SignatureVerifier(secret).generate_signature(timestamp=stamp, body=body)
    assert signature is not None
    sent = {"X_Slack_Request_Timestamp": stamp, "X_Slack_Signature": signature} | headers
    return client("POST", PATH, raw=body, Content_Type="application/x-www-form-urlencoded", **sent)


def press(client: Api, action: str, value: Any, **user: str) -> str:
    response = send(client, form(payload_of(action, value, **user)))
    assert response.status_code == 200, response.text
    body = response.get_json()
    assert (body["response_type"], body["replace_original"]) == ("ephemeral", False)
    return str(body["text"])


def rows(engine: Engine, sql: str) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(text(sql)).mappings()]


@pytest.fixture
def alert(web: Api, engine: Engine) -> int:
    """An open alert of ``web``."""
    with engine.begin() as connection:
        found: int = connection.execute(
            text(
                "INSERT INTO alerts (service_id, service_name, priority, reasons, opened_at, detected_at)"
                " SELECT id, name, priority, '{missed}', now(), now() FROM services WHERE name = 'web' RETURNING id"
            )
        ).scalar_one()
    return found


@pytest.mark.parametrize("secret", [NEWER, OLDER])
def test_a_press_on_acknowledge_is_kept_with_who_pressed(
    web: Api, outsider: Api, alert: int, engine: Engine, secret: str
) -> None:
    answer = send(outsider, form(payload_of("medic_ack", str(alert))), secret=secret)
    assert answer.get_json()["text"] == f"You acknowledged alert {alert} of web."
    shown = web("GET", f"/v1/alerts/{alert}").get_json()
    assert shown["acknowledged_by"] == "slack:U02ANNA"
    (entry,) = rows(engine, "SELECT * FROM audit_entries WHERE action = 'alert.acknowledge'")
    assert (entry["actor_kind"], entry["actor"], entry["object_id"]) == ("slack", "U02ANNA", str(alert))


def test_a_press_on_mute_keeps_quiet_for_the_usual_time(outsider: Api, alert: int, engine: Engine) -> None:
    assert press(outsider, "medic_mute", str(alert)).startswith("You muted web until ")
    (mute,) = rows(engine, "SELECT m.*, ends_at - created_at AS length FROM mutes m")
    assert (mute["reason"], mute["created_by"]) == ("Muted from Slack by anna", "slack:U02ANNA")
    assert mute["length"].total_seconds() == 24 * 3600


def test_what_is_pressed_or_sent_twice_happens_once(outsider: Api, alert: int, engine: Engine) -> None:
    press(outsider, "medic_mute", str(alert))
    assert press(outsider, "medic_mute", str(alert), user="U03BEN").startswith("web is muted already, until ")
    assert len(rows(engine, "SELECT * FROM mutes")) == 1
    press(outsider, "medic_ack", str(alert))
    repeated = send(outsider, form(payload_of("medic_ack", str(alert))), X_Slack_Retry_Num="1")
    assert repeated.get_json()["text"] == f"Alert {alert} of web is acknowledged already, by you."
    assert "by slack:U02ANNA" in press(outsider, "medic_ack", str(alert), user="U03BEN")
    assert len(rows(engine, "SELECT * FROM alert_transitions WHERE kind = 'acknowledged'")) == 1


@pytest.mark.parametrize("action", ["medic_ack", "medic_mute"])
def test_a_button_that_is_out_of_date_says_so_and_changes_nothing(
    web: Api, outsider: Api, alert: int, engine: Engine, action: str
) -> None:
    web("POST", f"/v1/alerts/{alert}/resolve", {})
    assert (
        press(outsider, action, str(alert))
        == f"Alert {alert} of web is resolved already; nothing was changed."
    )
    assert press(outsider, action, str(alert + 1)) == f"There is no alert {alert + 1} any more."
    assert press(outsider, action, str(2**63 - 1)) == f"There is no alert {2**63 - 1} any more."
    assert rows(engine, "SELECT * FROM mutes") == []


def test_the_name_of_a_user_is_kept_without_what_does_not_print(
    outsider: Api, alert: int, engine: Engine
) -> None:
    press(outsider, "medic_mute", str(alert), name="an\x00na\n\x1b[31m" + "x" * 200)
    (mute,) = rows(engine, "SELECT reason FROM mutes")
    assert mute["reason"] == "Muted from Slack by " + ("anna[31m" + "x" * 200)[:80]


@pytest.mark.parametrize(
    "value", [None, "", "0", "-1", "7 ", "seven", "\u0667", str(2**63), 7, ["7"], {"id": 7}]
)
def test_a_button_that_names_no_alert_is_nothing_to_medic(outsider: Api, value: Any) -> None:
    assert press(outsider, "medic_ack", value) == ""


def test_other_buttons_and_other_interactions_are_taken_without_effect(outsider: Api, alert: int) -> None:
    assert press(outsider, "open_runbook", str(alert)) == ""
    other = send(outsider, form({"type": "view_closed", "user": {"id": "U1"}}))
    assert (other.status_code, other.get_json()["text"]) == (200, "")


def test_what_slack_did_not_sign_is_refused(outsider: Api, alert: int, engine: Engine) -> None:
    body = form(payload_of("medic_ack", str(alert)))
    problem(outsider("POST", PATH, raw=body), 401)
    problem(send(outsider, body, secret="another secret"), 401)
    problem(send(outsider, body, X_Slack_Signature="v0="), 401)
    problem(send(outsider, body, X_Slack_Request_Timestamp="0"), 401)
    for seconds in (-310, 310):
        problem(send(outsider, body, at=time.time() + seconds), 401)
    signed = send(outsider, form(payload_of("medic_ack", "1")))
    stamp, signature = (
        signed.request.headers[name] for name in ("X-Slack-Request-Timestamp", "X-Slack-Signature")
    )
    problem(send(outsider, body, X_Slack_Request_Timestamp=stamp, X_Slack_Signature=signature), 401)
    assert rows(engine, "SELECT * FROM alerts WHERE acknowledged_at IS NOT NULL") == []


def test_whoever_forges_too_often_waits_and_slack_does_not(outsider: Api, alert: int) -> None:
    for _ in range(30):
        problem(outsider("POST", PATH, raw=b"payload=1"), 401)
    assert int(problem_headers(outsider)["Retry-After"]) >= 1
    assert press(outsider, "medic_ack", str(alert)).startswith("You acknowledged")


def problem_headers(outsider: Api) -> Any:
    response = outsider("POST", PATH, raw=b"payload=1")
    problem(response, 429)
    return response.headers


def test_without_a_signing_secret_every_request_is_refused(
    engine: Engine, settings: Settings, alert: int
) -> None:
    with client_with(settings, engine, slack_signing_secret=None) as client:
        answer = send(client, form(payload_of("medic_ack", str(alert))))
        assert "SLACK_SIGNING_SECRET" in problem(answer, 503)["detail"]
        assert int(answer.headers["Retry-After"]) >= 1


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with recording() as made:
        yield made


@contextmanager
def client_with(settings: Settings, engine: Engine, **more: Any) -> Iterator[Api]:
    app: APIFlask = create_app(settings.model_copy(update=more), engine=engine)
    try:
        yield Api(app.test_client(), None)
    finally:
        app.extensions["medic"].heartbeats.close()
        app.extensions["medic"].hints.close()


def test_what_became_of_it_is_told_to_the_one_who_pressed(
    settings: Settings, engine: Engine, alert: int, recorder: Recorder
) -> None:
    payload = payload_of("medic_ack", str(alert)) | {"response_url": f"{recorder.url}/actions/x"}
    with client_with(settings, engine, allowed_webhook_hosts=(f"127.0.0.1:{recorder.port}",)) as client:
        answer = send(client, form(payload)).get_json()
        (told,) = recorder.of("/actions/x")
        assert told.json == answer
        assert told.json["text"] == f"You acknowledged alert {alert} of web."
        recorder.answer = lambda _: (404, b"expired_url")
        assert send(client, form(payload)).status_code == 200
        others = payload_of("open_runbook", str(alert)) | {"response_url": f"{recorder.url}/actions/other"}
        assert send(client, form(others)).status_code == 200
        assert recorder.of("/actions/other") == []


@pytest.mark.parametrize("url", ["{}/actions/x", "http://[::", "", "ftp://example.org/", 7])
def test_no_address_of_an_interaction_leads_inside_or_to_an_error(
    outsider: Api, alert: int, recorder: Recorder, url: Any
) -> None:
    if isinstance(url, str):
        url = url.format(recorder.url)
    payload = payload_of("medic_ack", str(alert)) | {"response_url": url}
    assert send(outsider, form(payload)).get_json()["text"].startswith("You acknowledged")
    assert recorder.requests == []


def test_two_secrets_and_no_blank_one_are_live(outsider: Api) -> None:
    for secret in (",", "the newer secret, the older secret"):
        problem(send(outsider, form(payload_of("medic_ack", "1")), secret=secret), 401)
    stamp = int(time.time())
    blank = sign_slack(b"", timestamp=stamp, body=b"payload=1")
    problem(
        outsider(
            "POST", PATH, raw=b"payload=1", X_Slack_Signature=blank, X_Slack_Request_Timestamp=str(stamp)
        ),
        401,
    )


nested = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.sampled_from(["medic_ack", "1", "block_actions"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "user", "id", "actions", "action_id", "value", "username", "name"])
            | st.text(),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)
bodies = (
    st.binary(max_size=200)
    | nested.map(form)
    | nested.map(lambda user: form(payload_of("medic_ack", "1") | {"user": user}))
    | nested.map(lambda actions: form(payload_of("medic_ack", "1") | {"actions": actions}))
    | st.just(b"payload=" + b"[" * 100_000)
)


@hypothesis_settings(max_examples=300, deadline=None)
@given(bodies)
def test_whatever_is_signed_is_read_or_refused(body: bytes) -> None:
    try:
        found = read_interaction(body).presses
    except Malformed:
        return
    assert all(press.action == "medic_ack" and press.about == "1" and press.user for press in found)


@hypothesis_settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    bodies,
    st.text(st.characters(codec="latin-1", exclude_characters="\r\n"), max_size=80),
    st.text("0123456789-x", max_size=12),
)
def test_no_stranger_makes_an_error(outsider: Api, body: bytes, signature: str, stamp: str) -> None:
    answer = outsider("POST", PATH, raw=body, X_Slack_Signature=signature, X_Slack_Request_Timestamp=stamp)
    assert answer.status_code in {401, 429}
    # Slack's library signs UTF-8 only.
    now = int(time.time())
    genuine = sign_slack(NEWER.encode(), timestamp=now, body=body)
    answer = outsider("POST", PATH, raw=body, X_Slack_Signature=genuine, X_Slack_Request_Timestamp=str(now))
    assert answer.status_code in {200, 400}


ASKED = "name: careful\napproval: required\nsteps:\n  - {name: pause, type: wait, duration: 30s}\n"


def question(api: Api) -> tuple[str, int]:
    """An execution of ``web`` that waits for a human, and the question."""
    assert api.put_yaml("/v1/playbooks/careful", ASKED).status_code in {200, 201}
    made = api("POST", "/v1/playbooks/careful/executions", {"service": "web"})
    assert made.status_code in {201, 202}, made.text
    (asked,) = api("GET", "/v1/approvals?state=pending").get_json()["items"]
    return made.get_json()["id"], asked["id"]


def stands_for(admin: Api, user: str, key: str) -> None:
    body = {"key_id": key[4:16], "name": user.lower()}
    assert admin("PUT", f"/v1/slack/users/{user}", body).status_code in {200, 201}


def test_whoever_stands_for_a_key_that_may_approves_in_slack(
    web: Api, outsider: Api, make_key: MakeKey, engine: Engine
) -> None:
    execution, approval = question(web)
    assert "Medic does not know you, U02ANNA" in press(outsider, "medic_approve", str(approval))
    stands_for(web, "U02ANNA", make_key("approvals:decide", patterns=["db-*"]))
    assert "not for this service" in press(outsider, "medic_approve", str(approval))
    stands_for(web, "U02ANNA", make_key("services:read"))
    assert "lacks the scope approvals:decide" in press(outsider, "medic_approve", str(approval))
    assert web("GET", f"/v1/executions/{execution}").get_json()["state"] == "pending_approval"
    stands_for(web, "U02ANNA", make_key("approvals:decide", patterns=["web*"]))
    said = press(outsider, "medic_approve", str(approval))
    assert said == f"You approved the playbook careful (approval {approval})."
    assert web("GET", f"/v1/executions/{execution}").get_json()["state"] == "waiting"
    (entry,) = rows(engine, "SELECT * FROM audit_entries WHERE action = 'approval.approved'")
    assert (entry["actor_kind"], entry["actor"], entry["detail"]["comment"]) == (
        "slack", "U02ANNA", "In Slack, as test",
    )  # fmt: skip
    assert "approved already" in press(outsider, "medic_reject", str(approval)), (
        "a second press changes nothing"
    )
    assert "There is no approval 999" in press(outsider, "medic_approve", "999")


def test_nobody_approves_in_slack_what_their_key_started(
    web: Api, app: APIFlask, outsider: Api, make_key: MakeKey
) -> None:
    key = make_key("executions:run", "approvals:decide", "playbooks:read", "playbooks:write")
    execution, approval = question(Api(app.test_client(), key))
    stands_for(web, "U02ANNA", key)
    assert "Whoever started an execution cannot approve it" in press(outsider, "medic_approve", str(approval))
    rotated = web("POST", f"/v1/keys/{key[4:16]}/rotate", {"overlap": 0})
    assert rotated.status_code == 201, rotated.text
    said = press(outsider, "medic_approve", str(approval))
    assert "Whoever started an execution cannot approve it" in said, "nor by the key that replaced it"
    assert "You rejected" in press(outsider, "medic_reject", str(approval))
    assert web("GET", f"/v1/executions/{execution}").get_json()["state"] == "cancelled"


def test_a_key_that_was_revoked_or_taken_away_decides_nothing(
    web: Api, outsider: Api, make_key: MakeKey
) -> None:
    _, approval = question(web)
    key = make_key("approvals:decide")
    stands_for(web, "U02ANNA", key)
    assert web("DELETE", f"/v1/keys/{key[4:16]}").status_code in {200, 204}
    assert "Medic does not know you" in press(outsider, "medic_approve", str(approval))
    problem(web("PUT", "/v1/slack/users/U02ANNA", {"key_id": key[4:16]}), 422, "key_id")
    stands_for(web, "U02ANNA", make_key("approvals:decide"))
    assert [user["slack_id"] for user in web("GET", "/v1/slack/users").get_json()["items"]] == ["U02ANNA"]
    assert web("DELETE", "/v1/slack/users/U02ANNA").status_code == 204
    problem(web("DELETE", "/v1/slack/users/U02ANNA"), 404)
    assert "Medic does not know you" in press(outsider, "medic_approve", str(approval))
    assert web("GET", "/v1/approvals?state=pending").get_json()["items"][0]["id"] == approval


def test_a_doubt_is_settled_in_slack_once_and_for_that_attempt_alone(
    restart: Api, outsider: Api, make_key: MakeKey, engine: Engine
) -> None:
    made = restart("POST", "/v1/playbooks/restart/executions", {"service": "web"}).get_json()["id"]
    with engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE executions SET state = 'in_doubt', waiting_for = NULL, epoch = 3, owner = NULL WHERE id = :id"
            ),
            {"id": made},
        )
        connection.execute(
            text(
                "UPDATE execution_steps SET state = 'in_doubt', doubt = CAST(:doubt AS jsonb)"
                " WHERE execution_id = :id AND position = 0"
            ),
            {"id": made, "doubt": json.dumps({"since": "2026-01-01T00:00:00Z", "epoch": 2, "probing": False})},
        )  # fmt: skip
    stands_for(restart, "U02ANNA", make_key("executions:run"))
    assert "not in doubt any more" in press(outsider, "medic_happened", f"{made}.0.1"), "an older attempt"
    assert "not in doubt any more" in press(outsider, "medic_happened", f"{made}.1.2"), "another step"
    said = press(outsider, "medic_happened", f"{made}.0.2")
    assert said == "You settled step 1 of the playbook restart: happened."
    shown = restart("GET", f"/v1/executions/{made}").get_json()
    assert shown["steps"][0]["state"] == "completed"
    assert "not in doubt any more" in press(outsider, "medic_fail", f"{made}.0.2")
    (entry,) = rows(engine, "SELECT * FROM audit_entries WHERE action = 'execution.settle'")
    assert (entry["actor_kind"], entry["actor"]) == ("slack", "U02ANNA")
    for value in ("7", f"{made}", f"{made}.0", f"{made}.x.1", ""):
        assert press(outsider, "medic_happened", value) == "", "no button of Medic's"


def test_only_an_admin_says_who_of_slack_stands_for_what(api_with: MakeApi, make_key: MakeKey) -> None:
    body = {"key_id": make_key("admin")[4:16]}
    for caller in (api_with("approvals:decide"), api_with("admin", patterns=["web*"])):
        problem(caller("PUT", "/v1/slack/users/U02ANNA", body), 403)
        problem(caller("GET", "/v1/slack/users"), 403)
    problem(api_with("admin")("PUT", "/v1/slack/users/U02ANNA", {"key_id": "A" * 12}), 422, "key_id")
