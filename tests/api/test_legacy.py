"""The original's routes: its requests and its envelope, with keys, true JSON and true codes."""

from __future__ import annotations

import string
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from apiflask import APIFlask
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text
from werkzeug.test import TestResponse

from medic.legacy import fold
from medic.models.monitoring import NAME_PATTERN
from medic.ratelimit import limiter_from
from medic.settings import Settings
from medic.times import parse_time
from medic_api.app import create_app
from tests.api.caller import PLAYBOOK, Api, MakeApi, problem

SERVICE = {"heartbeat_name": "Nightly-Backup", "service_name": "Backups", "alert_interval": 10}
SECRET = "a secret of the tests"


def results(response: TestResponse, status: int) -> Any:
    """The results of a good answer, in the original's envelope."""
    assert response.status_code == status, response.text
    assert response.content_type == "application/json"
    body = response.get_json()
    assert set(body) == {"success", "message", "results"}
    assert body["success"] is True
    return body["results"]


def refused(response: TestResponse, status: int, field: str | None = None) -> str:
    """The message of a refusal: a problem that carries the envelope."""
    body = problem(response, status, field)
    assert (body["success"], body["results"]) == (False, "")
    message: str = body["message"]
    assert message == body["detail"]
    return message


@pytest.fixture
def backup(admin: Api) -> Api:
    """The admin, with a service as the original registered it."""
    results(admin("POST", "/service", SERVICE), 201)
    return admin


@pytest.fixture
def keyless(app: APIFlask) -> Iterator[Api]:
    shared = app.extensions["medic"]
    settings = shared.settings.model_copy(update={"legacy_keyless": True})
    app.extensions["medic"] = replace(shared, settings=settings)
    yield Api(app.test_client(), None)
    app.extensions["medic"] = shared


def beats(admin: Api) -> list[dict[str, Any]]:
    return list(results(admin("GET", "/heartbeat"), 200))


def test_a_service_is_registered_under_its_folded_name(backup: Api) -> None:
    shown = backup("GET", "/v1/services/nightly-backup").get_json()
    assert (shown["every"], shown["description"], shown["team"]) == ("10m", "Backups", "site-reliability")
    again = backup("POST", "/service", SERVICE | {"heartbeat_name": "NIGHTLY-BACKUP", "alert_interval": 1})
    results(again, 200)
    assert backup("GET", "/v1/services/nightly-backup").get_json()["every"] == "10m"
    (listed,) = results(backup("GET", "/service/nightly-BACKUP"), 200)
    expected = {
        "heartbeat_name": "Nightly-Backup", "service_name": "Backups", "active": 1, "alert_interval": 10,
        "threshold": 1, "team": "site-reliability", "priority": "p3", "muted": 0, "down": 0, "runbook": None,
        "date_muted": None,
    }  # fmt: skip
    assert expected.items() <= listed.items()
    assert results(backup("GET", "/service/nobody"), 200) == []


def test_a_threshold_is_so_many_within_the_interval(admin: Api) -> None:
    wish = SERVICE | {
        "threshold": 3,
        "environment": "Prod",
        "runbook": "https://r.example.com",
        "priority": "P1",
    }
    results(admin("POST", "/service", wish), 201)
    shown = admin("GET", "/v1/services/prod-nightly-backup").get_json()
    assert (shown["every"], shown["at_least"], shown["within"]) == (None, 3, "10m")
    assert (shown["priority"], shown["runbook_url"]) == ("p1", "https://r.example.com")


def test_a_name_that_does_not_fit_is_mapped_and_still_found(admin: Api) -> None:
    results(admin("POST", "/service", SERVICE | {"heartbeat_name": "Nightly Backup (DB)"}), 201)
    name = fold("Nightly Backup (DB)")
    assert name.startswith("nightly-backup-db-")
    assert admin("GET", f"/v1/services/{name}").status_code == 200
    results(admin("POST", "/heartbeat", {"heartbeat_name": "nightly backup (db)", "status": "UP"}), 201)
    assert beats(admin)[0]["heartbeat_name"] == "Nightly Backup (DB)"


@hypothesis_settings(max_examples=150, deadline=None)
@given(st.text(min_size=1, max_size=300), st.text(min_size=1, max_size=20))
def test_every_name_maps_to_one_of_ours_and_two_stay_two(one: str, other: str) -> None:
    import re

    folded = fold(one)
    assert re.fullmatch(NAME_PATTERN, folded)
    assert not folded.isdigit()
    assert folded not in {"batch", "start", "complete", "fail", "log"}
    assert fold(one) == folded
    if one.strip().lower() != other.strip().lower():
        assert fold(other) != folded


@hypothesis_settings(max_examples=50, deadline=None)
@given(st.text(alphabet=string.ascii_letters + string.digits + "._- /", min_size=1, max_size=140))
def test_case_makes_no_difference_to_a_name(name: str) -> None:
    assert fold(name) == fold(name.upper()) == fold(f" {name.lower()} ")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"alert_interval": 0}, "alert_interval"),
        ({"alert_interval": -5}, "alert_interval"),
        ({"alert_interval": "10"}, "alert_interval"),
        ({"alert_interval": None}, "alert_interval"),
        ({"threshold": 0}, "threshold"),
        ({"priority": "urgent"}, "priority"),
        ({"runbook": "javascript:alert(1)"}, "runbook"),
        ({"heartbeat_name": ""}, "heartbeat_name"),
        ({"extra": 1}, "extra"),
    ],
)
def test_a_wrong_registration_is_400_and_makes_nothing(
    admin: Api, change: dict[str, Any], field: str
) -> None:
    refused(admin("POST", "/service", SERVICE | change), 400, field)
    assert results(admin("GET", "/service"), 200) == []
    assert admin("GET", "/v1/teams").get_json()["items"] == []


def test_malformed_json_is_400(admin: Api) -> None:
    for path in ("/service", "/heartbeat", "/service/x"):
        refused(admin("POST", path, raw=b"{not json"), 400)


def test_a_service_is_changed_in_part(backup: Api) -> None:
    change = {"alert_interval": 1.5, "threshold": 2, "team": "DBA", "priority": "p2", "service_name": "Other"}
    results(backup("POST", "/service/NIGHTLY-backup", change), 200)
    shown = backup("GET", "/v1/services/nightly-backup").get_json()
    assert (shown["at_least"], shown["within"], shown["team"]) == (2, "1m30s", "dba")
    results(backup("POST", "/service/nightly-backup", {"active": 0}), 200)
    shown = backup("GET", "/v1/services/nightly-backup").get_json()
    assert (shown["paused"], shown["at_least"], shown["priority"]) == (True, 2, "p2")
    assert len(results(backup("GET", "/service?active=0&service_name=other"), 200)) == 1
    assert results(backup("GET", "/service?active=1"), 200) == []
    refused(backup("GET", "/service?active=yes"), 400, "active")


def test_a_service_is_muted_for_a_day_and_unmuted(backup: Api, api_with: MakeApi) -> None:
    writer = api_with("services:write")
    assert "alerts:write" in refused(
        writer("POST", "/service/nightly-backup", {"muted": 1, "team": "dba"}), 403
    )
    for _ in range(2):
        results(backup("POST", "/service/NIGHTLY-backup", {"muted": 1}), 200)
    (mute,) = backup("GET", "/v1/mutes").get_json()["items"]
    ends, began = (parse_time(mute[field]) for field in ("ends_at", "created_at"))
    assert (mute["service"], ends - began) == ("nightly-backup", timedelta(hours=24))
    (listed,) = results(backup("GET", "/service"), 200)
    assert (listed["muted"], listed["date_muted"]) == (1, mute["created_at"])
    results(backup("POST", "/service/nightly-backup", {"muted": 0}), 200)
    (listed,) = results(backup("GET", "/service"), 200)
    assert (listed["muted"], listed["date_muted"], listed["team"]) == (0, None, "site-reliability")
    refused(backup("POST", "/service/nightly-backup", {"muted": 2}), 400, "muted")


def test_what_medic_judges_is_not_set(backup: Api) -> None:
    refused(backup("POST", "/service/nightly-backup", {"down": 0, "priority": "p1"}), 400, "down")
    assert backup("GET", "/v1/services/nightly-backup").get_json()["priority"] == "p3"
    refused(backup("POST", "/service/nobody", {"active": 1}), 404)


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [("UP", "ok", None), ("up", "ok", None), ("DOWN", "fail", None), ("Failed", "fail", "Failed"),
     ("all is well", "ok", "all is well"), ("STARTED", "start", None), ("completed", "complete", None)],
)  # fmt: skip
def test_a_heartbeat_is_stored_as_what_it_says(
    backup: Api, engine: Engine, status: str, kind: str, message: str | None
) -> None:
    body = {"heartbeat_name": "nightly-BACKUP", "service_name": "ignored", "status": status}
    results(backup("POST", "/heartbeat", body), 201)
    with engine.connect() as connection:
        stored = connection.execute(text("SELECT kind, message FROM heartbeats")).one()
    assert tuple(stored) == (kind, message)


def test_heartbeats_are_listed_newest_first(backup: Api) -> None:
    results(backup("POST", "/service", SERVICE | {"heartbeat_name": "other"}), 201)
    for name, status in (("Nightly-Backup", "UP"), ("other", "UP"), ("nightly-backup", "DOWN")):
        results(backup("POST", "/heartbeat", {"heartbeat_name": name, "status": status}), 201)
    newest = beats(backup)[0]
    assert set(newest) == {
        "heartbeat_id", "heartbeat_name", "service_name", "time", "status", "team", "priority",
    }  # fmt: skip
    assert (newest["heartbeat_name"], newest["status"]) == ("Nightly-Backup", "DOWN")
    own = results(backup("GET", "/heartbeat?heartbeat_name=nightly-backup&maxCount=1"), 200)
    assert [beat["status"] for beat in own] == ["DOWN"]
    assert len(results(backup("GET", "/heartbeat?service_name=backups"), 200)) == 3
    assert results(backup("GET", "/heartbeat?service_name=other"), 200) == []
    assert results(backup("GET", "/heartbeat?heartbeat_name=nobody"), 200) == []
    for bad in ("-1", "0", "251", "x"):
        refused(backup("GET", f"/heartbeat?maxCount={bad}"), 400, "maxCount")


def test_unknown_and_inactive_ones_are_told(backup: Api, engine: Engine) -> None:
    refused(backup("POST", "/heartbeat", {"heartbeat_name": "nobody", "status": "UP"}), 404)
    refused(backup("POST", "/heartbeat", {"heartbeat_name": "nightly-backup"}), 400, "status")
    results(backup("POST", "/service/nightly-backup", {"active": 0}), 200)
    refused(backup("POST", "/heartbeat", {"heartbeat_name": "nightly-backup", "status": "UP"}), 400)
    refused(backup("POST", "/v2/heartbeat/999999/start"), 404)
    assert beats(backup) == []


def test_a_run_is_started_and_ended_by_the_services_number(backup: Api) -> None:
    policy = {"every": "10m", "max_runtime": "1s"}
    assert backup("PUT", "/v1/services/nightly-backup", policy).status_code == 200
    number = results(backup("GET", "/service/nightly-backup"), 200)[0]["service_id"]
    started = results(backup("POST", f"/v2/heartbeat/{number}/start", {"run_id": "r1"}), 201)
    assert started == {
        "service_id": number, "heartbeat_name": "Nightly-Backup", "status": "STARTED", "run_id": "r1",
    }  # fmt: skip
    ended = results(backup("POST", f"/v2/heartbeat/{number}/complete", {"run_id": "r1"}), 201)
    assert ended["status"] == "COMPLETED"
    assert 0 <= ended["duration_ms"] < 60_000
    assert ("duration_alert" in ended) == (ended["duration_ms"] > 1000)
    for raw in (b"{not json", b"[]", b"7", b""):
        assert results(backup("POST", f"/v2/heartbeat/{number}/fail", raw=raw), 201)["run_id"] is None
    refused(backup("POST", f"/v2/heartbeat/{number}/start", {"run_id": 7}), 400, "run_id")
    assert [
        run["state"] for run in backup("GET", "/v1/services/nightly-backup/runs").get_json()["items"]
    ] == ["completed"]


def test_a_run_that_took_too_long_says_so(backup: Api, engine: Engine) -> None:
    assert (
        backup("PUT", "/v1/services/nightly-backup", {"every": "10m", "max_runtime": "1s"}).status_code == 200
    )
    number = results(backup("GET", "/service/nightly-backup"), 200)[0]["service_id"]
    results(backup("POST", f"/v2/heartbeat/{number}/start"), 201)
    with engine.begin() as connection:
        connection.execute(text("UPDATE runs SET started_at = started_at - interval '10 seconds'"))
    ended = results(backup("POST", f"/v2/heartbeat/{number}/fail"), 201)
    assert ended["duration_alert"]["alert_type"] == "exceeded"
    assert ended["duration_alert"]["max_duration_ms"] == 1000
    assert ended["duration_alert"]["exceeded_by_ms"] == ended["duration_ms"] - 1000 >= 9000


def test_alerts_are_listed(backup: Api, engine: Engine) -> None:
    with engine.begin() as connection:
        for resolved in ("NULL", "now()"):
            how = "NULL" if resolved == "NULL" else "'recovered'"
            connection.execute(
                text("INSERT INTO alerts (service_id, service_name, priority, reasons, opened_at, detected_at,"
                     f" resolved_at, resolution) SELECT id, name, 'p3', ARRAY['missed'], now(), now(), {resolved},"
                     f" {how} FROM services")
            )  # fmt: skip
    shown = results(backup("GET", "/alerts"), 200)
    assert [alert["active"] for alert in shown] == [0, 1]
    assert set(shown[0]) == {
        "alert_id", "alert_name", "service_id", "active", "external_reference_id", "alert_cycle", "created_date",
        "closed_date",
    }  # fmt: skip
    assert [alert["active"] for alert in results(backup("GET", "/alerts?active=1"), 200)] == [1]
    assert results(backup("GET", "/alerts?active=0"), 200)[0]["closed_date"] is not None
    refused(backup("GET", "/alerts?active=2"), 400, "active")


def test_narrow_keys_and_outsiders_stay_outside(backup: Api, api_with: MakeApi, outsider: Api) -> None:
    number = results(backup("GET", "/service"), 200)[0]["service_id"]
    beat = {"heartbeat_name": "nightly-backup", "status": "UP"}
    narrow = api_with("heartbeats:write", "services:read", "services:write", patterns=["db-*"])
    refused(narrow("POST", "/heartbeat", beat), 403)
    refused(narrow("POST", f"/v2/heartbeat/{number}/start"), 403)
    refused(narrow("POST", "/service", SERVICE), 403)
    refused(narrow("POST", "/service/nightly-backup", {"active": 0}), 403)
    assert results(narrow("GET", "/service"), 200) == []
    assert results(narrow("GET", "/heartbeat"), 200) == []
    for method, path, body in (
        ("POST", "/heartbeat", beat), ("GET", "/heartbeat", None), ("POST", "/service", SERVICE),
        ("POST", f"/v2/heartbeat/{number}/start", {}), ("GET", "/alerts", None),
    ):  # fmt: skip
        refused(outsider(method, path, body), 401)


def test_keyless_opens_the_heartbeat_routes_and_nothing_else(backup: Api, keyless: Api) -> None:
    number = results(backup("GET", "/service"), 200)[0]["service_id"]
    results(keyless("POST", "/heartbeat", {"heartbeat_name": "nightly-backup", "status": "UP"}), 201)
    results(keyless("POST", f"/v2/heartbeat/{number}/complete"), 201)
    assert len(results(keyless("GET", "/heartbeat"), 200)) == 2
    refused(Api(keyless.client, "mdk_wrong")("GET", "/heartbeat"), 401)
    for method, path in (
        ("GET", "/service"),
        ("POST", "/service"),
        ("GET", "/alerts"),
        ("POST", "/v2/playbooks/1/execute"),
    ):
        refused(keyless(method, path), 401)
    problem(keyless("POST", "/v1/heartbeats", {"service": "nightly-backup"}), 401)
    codes = [
        keyless("POST", "/heartbeat", {"heartbeat_name": "x", "status": "UP"}).status_code for _ in range(32)
    ]
    assert codes == [404] * 30 + [429] * 2
    results(keyless("POST", "/heartbeat", {"heartbeat_name": "nightly-backup", "status": "UP"}), 201)


def test_keyless_or_not_what_cannot_be_read_is_limited_too(
    backup: Api, keyless: Api, api_with: MakeApi, app: APIFlask
) -> None:
    number = results(backup("GET", "/service"), 200)[0]["service_id"]
    beat = {"heartbeat_name": "nightly-backup", "status": "UP"}
    results(keyless("POST", "/heartbeat", beat), 201)
    results(backup("POST", "/service/nightly-backup", {"active": 0}), 200)
    # A job of a paused service is nobody's guess.
    assert {keyless("POST", "/heartbeat", beat).status_code for _ in range(35)} == {400}
    results(backup("POST", "/service/nightly-backup", {"active": 1}), 200)
    codes = [keyless("POST", "/heartbeat", raw=b"{not json").status_code for _ in range(16)]
    codes += [keyless("POST", f"/v2/heartbeat/{number}/start", {"run_id": 7}).status_code for _ in range(16)]
    assert codes == [400] * 30 + [429] * 2
    results(keyless("POST", "/heartbeat", beat), 201)
    shared = app.extensions["medic"]
    tight = shared.settings.model_copy(update={"rate_limit_heartbeat": 4, "rate_limiter_type": "memory"})
    app.extensions["medic"] = replace(shared, limiter=limiter_from(tight))
    sender = api_with("heartbeats:write", patterns=["nobody-*"])
    codes = [sender("POST", "/heartbeat", raw=b"{not json").status_code for _ in range(4)]
    assert codes == [400, 400, 429, 429]


def playbook_id(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text("SELECT id FROM playbooks")).scalar_one())


def test_a_playbook_is_started_by_its_number(restart: Api, engine: Engine, api_with: MakeApi) -> None:
    number = playbook_id(engine)
    service = restart("GET", "/v1/services/web").get_json()["id"]
    path = f"/v2/playbooks/{number}/execute"
    started = results(restart("POST", path, {"service_id": service, "variables": {"HOST": "w1"}}), 201)
    assert (started["playbook_id"], started["playbook_name"], started["service_id"]) == (
        number,
        "restart",
        service,
    )
    shown = restart("GET", f"/v1/executions/{started['execution_id']}").get_json()
    assert (shown["service"], shown["playbook"]) == ("web", "restart")
    refused(restart("POST", "/v2/playbooks/999/execute"), 404)
    refused(restart("POST", path, {"service_id": 999_999}), 404)
    refused(restart("POST", path, {"variables": {"bad name": 1}}), 400, "variables.bad name")
    refused(api_with("executions:run", patterns=["db"])("POST", path, {"service_id": service}), 403)
    refused(api_with("executions:run", patterns=["db"])("POST", path), 403)
    restart("POST", "/v1/stop", {"reason": "enough"})
    refused(restart("POST", path), 409)
    assert len(restart("GET", "/v1/executions").get_json()["items"]) == 1


def test_the_webhook_secret_starts_a_playbook(restart: Api, outsider: Api, engine: Engine) -> None:
    number = playbook_id(engine)
    path = f"/v2/webhooks/playbooks/{number}/trigger"
    started = results(outsider("POST", path, X_Webhook_Secret=SECRET), 201)
    with engine.connect() as connection:
        row = connection.execute(text("SELECT started_by, variables FROM executions")).one()
    assert row.started_by == "hook:webhook-secret"
    assert (row.variables["trigger"], row.variables["source_ip"]) == ("webhook", "127.0.0.1")
    assert started["status"] == "running"
    refused(outsider("POST", "/v2/webhooks/playbooks/999/trigger", X_Webhook_Secret=SECRET), 404)


def test_two_webhook_secrets_hold_while_one_is_changed(restart: Api, outsider: Api, engine: Engine) -> None:
    path = f"/v2/webhooks/playbooks/{playbook_id(engine)}/trigger"
    results(outsider("POST", path, X_Webhook_Secret="the next one"), 201)
    refused(outsider("POST", path, X_Webhook_Secret="the next"), 401)


def test_guessing_the_webhook_secret_is_stopped(restart: Api, outsider: Api, engine: Engine) -> None:
    path = f"/v2/webhooks/playbooks/{playbook_id(engine)}/trigger"
    refused(outsider("POST", path), 401)
    # Before the body is read, and whatever bytes the header holds.
    refused(outsider("POST", path, raw=b"{not json", X_Webhook_Secret="é" + SECRET), 401)
    refused(restart("POST", path, X_Webhook_Secret=SECRET[:-1]), 401)
    results(outsider("POST", path, X_Webhook_Secret=SECRET), 201)
    codes = [outsider("POST", path, X_Webhook_Secret=f"guess {n}").status_code for n in range(30)]
    assert codes == [401] * 27 + [429] * 3
    # Who had it already, goes on.
    results(outsider("POST", path, X_Webhook_Secret=SECRET), 201)


def test_without_a_webhook_secret_nothing_starts(
    app: APIFlask, restart: Api, outsider: Api, engine: Engine
) -> None:
    shared = app.extensions["medic"]
    app.extensions["medic"] = replace(
        shared, settings=shared.settings.model_copy(update={"webhook_secret": None})
    )
    path = f"/v2/webhooks/playbooks/{playbook_id(engine)}/trigger"
    headers: tuple[dict[str, Any], ...] = ({}, {"X_Webhook_Secret": ""}, {"X_Webhook_Secret": SECRET})
    for header in headers:
        assert refused(outsider("POST", path, **header), 503)


def test_without_a_webhook_secret_calls_are_limited_all_the_same(
    engine: Engine, settings: Settings, restart: Api
) -> None:
    few = settings.model_copy(
        update={"webhook_secret": None, "rate_limit_trigger": 3, "rate_limiter_type": "memory"}
    )
    api = Api(create_app(few, engine=engine).test_client(), None)
    answers = [api("POST", f"/v2/webhooks/playbooks/{playbook_id(engine)}/trigger") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [503, 503, 503, 429]
    refused(answers[3], 429)
    # As the original said it, beside the header.
    assert answers[3].get_json()["retry_after"] == int(answers[3].headers["Retry-After"]) >= 1


def test_a_playbook_that_was_deleted_or_made_anew_has_another_number(restart: Api, engine: Engine) -> None:
    number = playbook_id(engine)
    restart("DELETE", "/v1/playbooks/restart")
    refused(restart("POST", f"/v2/playbooks/{number}/execute"), 404)
    assert restart.put_yaml("/v1/playbooks/restart", PLAYBOOK).status_code == 201
    refused(restart("POST", f"/v2/playbooks/{number}/execute"), 404)
