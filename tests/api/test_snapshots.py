"""What the configuration was before each change, and back to it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, text

from medic.db import transaction
from tests.api.caller import PLAYBOOK, Api, MakeApi, problem

TOKEN = "xoxb-a-secret-token"
OTHER = PLAYBOOK.replace("30s", "40s")


def newest(api: Api, kind: str, name: str, action: str) -> dict[str, Any]:
    """The newest snapshot of an action."""
    listed = api("GET", f"/v1/snapshots?kind={kind}&name={name}").get_json()["items"]
    return next(item for item in listed if item["action"] == action)


def restore(api: Api, snapshot: dict[str, Any], **body: Any) -> dict[str, Any]:
    answer = api("POST", f"/v1/snapshots/{snapshot['id']}/restore", body)
    assert answer.status_code == 200, answer.text
    (change,) = answer.get_json()["changes"]
    return dict(change)


def moment(engine: Engine) -> str:
    """The database's time; everything later is another transaction's."""
    with transaction(engine) as session:
        return str(session.scalar(text("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")))  # fmt: skip


def test_a_service_goes_back_to_what_it_was(web: Api) -> None:
    changed = {"every": "9m", "grace": "3m", "tags": ["new"], "paused": True}
    assert web("PUT", "/v1/services/web", changed).status_code == 200
    snapshot = newest(web, "service", "web", "service.change")
    assert (snapshot["existed"], snapshot["restored_at"]) == (True, None)
    shown = web("GET", f"/v1/snapshots/{snapshot['id']}").get_json()
    assert (shown["before"]["every"], shown["before"]["paused"]) == ("5m", False)
    assert {item["field"] for item in shown["differences"]} == {"every", "grace", "tags", "paused"}
    tried = restore(web, snapshot, dry_run=True)
    assert web("GET", "/v1/services/web").get_json()["every"] == "9m", "a dry run changes nothing"
    done = restore(web, snapshot)
    assert done == tried
    assert done["action"] == "change"
    assert {"field": "every", "now": "9m", "then": "5m"} in done["differences"]
    service = web("GET", "/v1/services/web").get_json()
    assert (service["every"], service["grace"], service["tags"], service["paused"]) == ("5m", "1m", [], False)
    again = newest(web, "service", "web", "service.change")
    assert again["id"] > snapshot["id"], "the restore left a snapshot of its own"
    assert web("GET", f"/v1/snapshots/{again['id']}").get_json()["before"]["every"] == "9m"
    assert web("GET", f"/v1/snapshots/{snapshot['id']}").get_json()["restored_at"] is not None
    entries = web("GET", "/v1/audit?action=snapshot.restore").get_json()["items"]
    assert [(entry["object"], entry["detail"]["snapshot"]) for entry in entries] == [
        ("service:web", snapshot["id"])
    ]
    assert restore(web, snapshot)["action"] == "none"


def test_a_deleted_service_comes_back_with_its_ping_url(web: Api) -> None:
    before = web("GET", "/v1/services/web").get_json()
    assert web("DELETE", "/v1/services/web").status_code == 204
    assert restore(web, newest(web, "service", "web", "service.delete"))["action"] == "make"
    after = web("GET", "/v1/services/web").get_json()
    assert after["ping_url"] == before["ping_url"]
    made = newest(web, "service", "web", "service.create")
    assert not made["existed"]
    assert restore(web, made)["action"] == "delete", "undoing what made it"
    problem(web("GET", "/v1/services/web"), 404)


def test_a_snapshot_knows_a_targets_secrets_by_name_only(admin: Api, engine: Engine) -> None:
    body = {"kind": "slack", "config": {"channel": "C1"}, "secrets": {"token": TOKEN}}
    assert admin("PUT", "/v1/targets/chat", body).status_code == 201
    assert admin("PUT", "/v1/targets/chat", {"kind": "slack", "config": {"channel": "C2"}}).status_code == 200
    changed = newest(admin, "target", "chat", "target.change")
    shown = admin("GET", f"/v1/snapshots/{changed['id']}")
    assert shown.get_json()["before"] == {
        "kind": "slack", "config": {"channel": "C1"}, "secrets": ["token"], "per_minute": 30,
    }  # fmt: skip
    restore(admin, changed)
    target = admin("GET", "/v1/targets/chat").get_json()
    assert (target["config"]["channel"], target["secrets"]) == ("C1", ["token"]), "its secret stayed"
    assert admin("DELETE", "/v1/targets/chat").status_code == 204
    deleted = newest(admin, "target", "chat", "target.delete")
    refused = problem(admin("POST", f"/v1/snapshots/{deleted['id']}/restore", {}), 422)
    assert "token" in str(refused)
    assert restore(admin, deleted, secrets={"chat": {"token": TOKEN}})["action"] == "make"
    with transaction(engine) as session:
        kept = session.scalar(text("SELECT string_agg(before::text, '') FROM snapshots"))
    assert TOKEN not in kept
    assert "sealed" not in kept


def test_a_deleted_playbook_comes_back_with_its_triggers(restart: Api) -> None:
    made = restart("POST", "/v1/triggers", {"playbook": "restart", "kind": "hook", "mapping": {}}).get_json()
    schedule = {"playbook": "restart", "kind": "schedule", "cron": "0 3 * * *", "timezone": "Europe/Berlin"}
    planned = restart("POST", "/v1/triggers", schedule).get_json()
    assert restart.put_yaml("/v1/playbooks/restart", OTHER).status_code == 200
    restore(restart, newest(restart, "playbook", "restart", "playbook.put"))
    assert restart("GET", "/v1/playbooks/restart").get_json()["source"] == PLAYBOOK
    assert restart("DELETE", "/v1/playbooks/restart").status_code == 204
    problem(restart("GET", f"/v1/triggers/{made['id']}"), 404)
    restore(restart, newest(restart, "playbook", "restart", "playbook.delete"))
    back = restore(restart, newest(restart, "trigger", str(made["id"]), "trigger.delete"))
    assert back["hook_url"] != made["hook_url"], "its address and secret are new, and shown this once"
    assert restart.client.post(back["hook_url"], headers={"Authorization": f"Bearer {back['hook_secret']}"}).status_code == 202  # fmt: skip
    restore(restart, newest(restart, "trigger", str(planned["id"]), "trigger.delete"))
    shown = restart("GET", f"/v1/triggers/{planned['id']}").get_json()
    assert (shown["cron"], shown["timezone"]) == ("0 3 * * *", "Europe/Berlin")


def test_everything_goes_back_to_a_moment(restart: Api, engine: Engine) -> None:
    hours = {"hours": {"mon": [["09:00", "17:00"]]}, "holidays": ["2026-12-25"], "timezone": "Europe/Berlin"}
    assert restart("POST", "/v1/calendars", hours | {"name": "office"}).status_code == 201
    chat = {"kind": "slack", "config": {"channel": "C1"}, "secrets": {"token": TOKEN}}
    assert restart("PUT", "/v1/targets/chat", chat).status_code == 201
    day = {"levels": [["chat"]], "period": "during_hours", "calendar": "office"}
    assert restart("PUT", "/v1/routes/day", day).status_code == 201
    assert restart("PUT", "/v1/routes/rest", {"levels": [["chat"]], "default": True}).status_code == 201
    window = {"selector": {"services": ["web"]}, "cron": "0 22 * * 6", "duration": "2h", "timezone": "UTC"}
    assert restart("PUT", "/v1/windows/weekend", window).status_code == 201
    assert restart("PUT", "/v1/services/child", {"every": "5m"}).status_code == 404
    child = {"name": "child", "every": "5m", "depends_on": ["web"]}
    assert restart("POST", "/v1/services", child).status_code == 201
    paths = [
        "/v1/calendars/office", "/v1/routes/day", "/v1/routes/rest", "/v1/windows/weekend", "/v1/services/web",
        "/v1/services/child", "/v1/playbooks/restart",
    ]  # fmt: skip
    then = [decided(restart, path) for path in paths]
    at = moment(engine)

    for path in (
        "routes/day",
        "calendars/office",
        "windows/weekend",
        "services/child",
        "services/web",
        "playbooks/restart",
    ):
        assert restart("DELETE", f"/v1/{path}").status_code == 204
    assert restart("PUT", "/v1/routes/rest", {"levels": [["chat"]], "position": 7}).status_code == 200
    assert restart("PUT", "/v1/routes/all", {"levels": [["chat"]], "default": True}).status_code == 201
    assert restart("POST", "/v1/services", {"name": "fresh", "every": "5m"}).status_code == 201

    stuck = problem(restart("POST", "/v1/snapshots/restore", {"at": at}), 409)
    assert "route rest: The default route is all" in stuck["detail"]
    problem(restart("GET", "/v1/services/web"), 404)
    body = {"at": at, "delete_new": True}
    tried = restart("POST", "/v1/snapshots/restore", body | {"dry_run": True}).get_json()
    assert tried["dry_run"]
    problem(restart("GET", "/v1/services/web"), 404)
    done = restart("POST", "/v1/snapshots/restore", body).get_json()
    assert done["changes"] == tried["changes"]
    assert {(change["kind"], change["name"]): change["action"] for change in done["changes"]} == {
        ("calendar", "office"): "make", ("route", "day"): "make", ("route", "rest"): "change",
        ("route", "all"): "delete", ("window", "weekend"): "make", ("service", "web"): "make",
        ("service", "child"): "make", ("service", "fresh"): "delete", ("playbook", "restart"): "make",
    }  # fmt: skip
    assert [decided(restart, path) for path in paths] == then
    assert restart("POST", "/v1/snapshots/restore", body).get_json()["changes"] == []
    newest_entry = restart("GET", "/v1/audit?action=snapshot.restore").get_json()["items"][-1]
    assert newest_entry["object"] == f"configuration:{at}"
    assert newest_entry["detail"]["count"] == 9


def decided(api: Api, path: str) -> dict[str, Any]:
    """An object without what nobody decides."""
    own = {"id", "version", "newest_version", "created_at", "updated_at", "version_created_at", "due_at"}
    return {name: value for name, value in api("GET", path).get_json().items() if name not in own}


def test_what_was_made_since_stays_unless_it_is_to_go(web: Api, engine: Engine) -> None:
    at = moment(engine)
    assert web("POST", "/v1/services", {"name": "fresh", "every": "5m"}).status_code == 201
    (kept,) = web("POST", "/v1/snapshots/restore", {"at": at, "kinds": ["service"]}).get_json()["changes"]
    assert (kept["name"], kept["action"], kept["note"]) == ("fresh", "keep", "was made since")
    assert web("GET", "/v1/services/fresh").status_code == 200
    problem(web("POST", "/v1/snapshots/restore", {"at": "2001-01-01T00:00:00Z"}), 422, "at")
    problem(web("POST", "/v1/snapshots/restore", {"at": at, "kinds": ["secret"]}), 422, "kinds.0")


def test_a_repeat_of_a_restore_shows_no_secret(restart: Api) -> None:
    made = restart("POST", "/v1/triggers", {"playbook": "restart", "kind": "hook"}).get_json()
    assert restart("DELETE", f"/v1/triggers/{made['id']}").status_code == 204
    path = f"/v1/snapshots/{newest(restart, 'trigger', str(made['id']), 'trigger.delete')['id']}/restore"
    first, second = (
        restart("POST", path, {}, Idempotency_Key="one").get_json()["changes"][0] for _ in range(2)
    )
    assert first["hook_secret"] is not None
    assert second == first | {"hook_secret": None, "hook_url": None}


def test_a_list_is_paged_and_filtered(web: Api, engine: Engine) -> None:
    for minutes in range(6, 10):
        assert web("PUT", "/v1/services/web", {"every": f"{minutes}m"}).status_code == 200
    between = moment(engine)
    assert web("PUT", "/v1/services/web", {"every": "10m"}).status_code == 200
    pages, after = [], ""
    while after is not None:
        page = web("GET", f"/v1/snapshots?limit=2{after and '&after=' + after}").get_json()
        pages.append([item["id"] for item in page["items"]])
        after = page["next"]
    assert [len(page) for page in pages] == [2, 2, 2]
    ids = [number for page in pages for number in page]
    assert ids == sorted(ids, reverse=True)
    assert len(web("GET", f"/v1/snapshots?from={between}").get_json()["items"]) == 1
    assert len(web("GET", f"/v1/snapshots?to={between}").get_json()["items"]) == 5
    problem(web("GET", f"/v1/snapshots?from={between}&to={between}"), 422)
    problem(web("GET", "/v1/snapshots/999999"), 404)


def test_a_restore_needs_the_right_to_change_the_object(web: Api, api_with: MakeApi) -> None:
    assert web("POST", "/v1/services", {"name": "db", "every": "5m"}).status_code == 201
    for name in ("web", "db"):
        assert web("PUT", f"/v1/services/{name}", {"every": "9m"}).status_code == 200
    mine, other = (newest(web, "service", name, "service.change") for name in ("web", "db"))
    reader = api_with("audit:read")
    assert reader("GET", f"/v1/snapshots/{mine['id']}").status_code == 200
    refused = problem(reader("POST", f"/v1/snapshots/{mine['id']}/restore", {}), 403)
    assert "services:write" in refused["detail"]
    problem(reader("POST", "/v1/snapshots/restore", {"at": mine["at"]}), 403)
    narrow = api_with("audit:read", "services:write", patterns=["web*"])
    assert {item["name"] for item in narrow("GET", "/v1/snapshots").get_json()["items"]} == {"web"}
    problem(narrow("GET", f"/v1/snapshots/{other['id']}"), 403)
    problem(narrow("POST", f"/v1/snapshots/{other['id']}/restore", {"dry_run": True}), 403)
    problem(narrow("POST", "/v1/snapshots/restore", {"at": mine["at"], "kinds": ["service"]}), 403)
    assert restore(narrow, mine)["action"] == "change"


def test_a_team_goes_back_to_what_it_was_and_stays_when_it_was_made_since(web: Api, engine: Engine) -> None:
    before = moment(engine)
    assert web("PUT", "/v1/teams/ops", {"description": "Shop"}).status_code == 201
    key = web("POST", "/v1/teams/ops/ping-key", {}).get_json()["ping_key"]
    changed = {"description": "Nobody", "ping_key_creates": True}
    assert web("PUT", "/v1/teams/ops", changed).status_code == 200
    snapshot = newest(web, "team", "ops", "team.change")
    shown = web("GET", f"/v1/snapshots/{snapshot['id']}")
    assert shown.get_json()["before"] == {"description": "Shop", "ping_key_creates": False}
    assert key not in shown.text
    assert restore(web, snapshot)["action"] == "change"
    team = web("GET", "/v1/teams").get_json()["items"][0]
    assert (team["description"], team["ping_key_creates"], team["has_ping_key"]) == ("Shop", False, True)
    body = {"at": before, "kinds": ["team"], "delete_new": True}
    (change,) = web("POST", "/v1/snapshots/restore", body).get_json()["changes"]
    assert (change["action"], change["note"]) == ("keep", "was made since")
    problem(web("POST", f"/v1/snapshots/{newest(web, 'team', 'ops', 'team.create')['id']}/restore", {}), 409)
    assert len(web("GET", "/v1/teams").get_json()["items"]) == 1
