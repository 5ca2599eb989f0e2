"""Services by API: versions, pages, and keys that are narrowed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.caller import Api, MakeApi, problem


def test_a_service_is_made_shown_changed_and_deleted(admin: Api) -> None:
    made = admin("POST", "/v1/services", {"name": "job", "every": "5m", "grace": 90, "tags": ["a"]})
    assert made.status_code == 201
    assert made.headers["ETag"] == '"1"'
    shown = admin("GET", "/v1/services/job").get_json()
    assert (shown["every"], shown["grace"], shown["status"], shown["tags"]) == ("5m", "1m30s", "new", ["a"])
    changed = admin("PUT", "/v1/services/job", {"cron": "0 2 * * *", "paused": True}, If_Match='"1"')
    assert changed.status_code == 200
    assert (changed.get_json()["cron"], changed.get_json()["every"]) == ("0 2 * * *", None)
    problem(admin("PUT", "/v1/services/job", {"every": "1m"}, If_Match='"1"'), 412)
    problem(admin("PUT", "/v1/services/job", {"every": "1m"}, If_Match="one"), 422, "If-Match")
    assert admin("DELETE", "/v1/services/job").status_code == 204
    problem(admin("GET", "/v1/services/job"), 404)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"every": "often"}, "every"),
        ({"every": 0}, "every"),
        ({"every": "5m", "cron": "* * * * *"}, ""),
        ({"at_least": 3}, ""),
        ({"cron": "61 * * * *"}, "cron"),
        ({"every": "5m", "timezone": "Mars/Olympus"}, "timezone"),
        ({"every": "5m", "max_runtime": 0}, "max_runtime"),
        ({"every": "5m", "renotify_every": "5s"}, "renotify_every"),
        ({"every": "5m", "failure_threshold": "3"}, "failure_threshold"),
        ({"every": "5m", "failure_threshold": 10**30}, "failure_threshold"),
        ({"every": "5m", "depends_on": ["nobody"]}, "depends_on"),
        ({"every": "5m", "team": "nobody"}, "team"),
        ({"every": "5m", "runbook_url": "javascript:alert(1)"}, "runbook_url"),
        ({"every": "5m", "description": "a\x00b"}, "description"),
        ({"every": "5m", "colour": "red"}, "colour"),
    ],
)
def test_a_wrong_policy_names_its_field_and_makes_nothing(
    admin: Api, change: dict[str, Any], path: str
) -> None:
    problem(admin("POST", "/v1/services", {"name": "job"} | change), 422, path)
    problem(admin("GET", "/v1/services/job"), 404)


@pytest.mark.parametrize("name", ["batch", "17", "Upper", "a" * 129, "-a", "a/b"])
def test_a_name_that_is_none_is_refused(admin: Api, name: str) -> None:
    problem(admin("POST", "/v1/services", {"name": name, "every": "5m"}), 422, "name")


def test_a_name_that_is_taken_is_a_conflict(web: Api) -> None:
    problem(web("POST", "/v1/services", {"name": "web", "every": "5m"}), 409)


def test_a_list_goes_on_where_the_page_ended(admin: Api) -> None:
    names = [f"job-{number}" for number in range(7)]
    for name in names:
        admin("POST", "/v1/services", {"name": name, "every": "5m"})
    seen, after = [], ""
    while True:
        page = admin("GET", f"/v1/services?limit=3{after}").get_json()
        seen += [item["name"] for item in page["items"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert seen == names
    for wrong in ("limit=0", "limit=251", "limit=x", "colour=red"):
        problem(admin("GET", f"/v1/services?{wrong}"), 422, wrong.split("=")[0])


def test_heartbeats_are_paged_by_time_and_a_made_up_cursor_is_refused(web: Api) -> None:
    sent = [web("POST", "/v1/heartbeats", {"service": "web"}).get_json()["id"] for _ in range(5)]
    first = web("GET", "/v1/services/web/heartbeats?limit=3").get_json()
    rest = web("GET", f"/v1/services/web/heartbeats?limit=3&after={first['next']}").get_json()
    assert [item["id"] for item in first["items"] + rest["items"]] == sent[::-1]
    assert rest["next"] is None
    problem(web("GET", "/v1/services/web/heartbeats?after=AAAA"), 422, "after")


def test_a_narrowed_key_sees_and_touches_only_its_own(web: Api, api_with: MakeApi) -> None:
    web("POST", "/v1/services", {"name": "db-1", "every": "5m"})
    narrow = api_with("services:read", "services:write", patterns=["db-*"])
    assert [item["name"] for item in narrow("GET", "/v1/services").get_json()["items"]] == ["db-1"]
    assert narrow("GET", "/v1/services/db-1").status_code == 200
    problem(narrow("GET", "/v1/services/web"), 403)
    problem(narrow("PUT", "/v1/services/web", {"every": "1m"}), 403)
    problem(narrow("DELETE", "/v1/services/web"), 403)
    problem(narrow("POST", "/v1/services", {"name": "web-2", "every": "1m"}), 403)


def test_a_repeat_with_the_same_idempotency_key_has_one_effect(admin: Api, api_with: MakeApi) -> None:
    body = {"name": "job", "every": "5m"}
    first = admin("POST", "/v1/services", body, Idempotency_Key="k1")
    again = admin("POST", "/v1/services", body, Idempotency_Key="k1")
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.headers
    assert first.get_json() == again.get_json()
    problem(admin("POST", "/v1/services", body | {"name": "b"}, Idempotency_Key="k1"), 422, "Idempotency-Key")
    problem(admin("POST", "/v1/services", body, Idempotency_Key="k2"), 409)
    problem(admin("POST", "/v1/services", body, Idempotency_Key="k 3"), 422, "Idempotency-Key")
    problem(api_with("services:write")("POST", "/v1/services", body, Idempotency_Key="k1"), 409)


def test_an_error_is_not_kept_under_an_idempotency_key(web: Api) -> None:
    body = {"name": "web", "every": "5m"}
    problem(web("POST", "/v1/services", body, Idempotency_Key="k"), 409)
    web("DELETE", "/v1/services/web")
    assert web("POST", "/v1/services", body, Idempotency_Key="k").status_code == 201


def test_a_narrow_key_depends_on_its_own_services_only(web: Api, api_with: MakeApi) -> None:
    """The child would tell it when the other fails."""
    narrow = api_with("services:read", "services:write", patterns=["db-*"])
    problem(narrow("POST", "/v1/services", {"name": "db-1", "every": "5m", "depends_on": ["web"]}), 403)
    assert narrow("POST", "/v1/services", {"name": "db-1", "every": "5m"}).status_code == 201
    assert web("PUT", "/v1/services/db-1", {"every": "5m", "depends_on": ["web"]}).status_code == 200
    kept = narrow("PUT", "/v1/services/db-1", {"every": "7m", "depends_on": ["web"]})
    assert (kept.status_code, kept.get_json()["depends_on"]) == (200, ["web"])
    assert narrow("PUT", "/v1/services/db-1", {"every": "7m"}).status_code == 200
    problem(narrow("PUT", "/v1/services/db-1", {"every": "7m", "depends_on": ["web"]}), 403)
