"""Calendars by API."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.caller import Api, MakeApi, problem

OFFICE = {"hours": {"tue": [["09:00", "17:30"]], "mon": [["13:00", "17:00"], ["09:00", "12:00"]]},
          "holidays": ["2026-12-25", "2026-01-01", "2026-12-25"], "timezone": "Europe/Berlin"}  # fmt: skip


def test_a_calendar_is_made_seen_changed_and_deleted(admin: Api) -> None:
    made = admin("POST", "/v1/calendars", OFFICE | {"name": "office"}, Idempotency_Key="once")
    assert (made.status_code, made.headers["ETag"]) == (201, '"1"')
    again = admin("POST", "/v1/calendars", OFFICE | {"name": "office"}, Idempotency_Key="once")
    assert again.get_json() == made.get_json()
    body = admin("GET", "/v1/calendars/office").get_json()
    assert body["hours"] == {"mon": [["09:00", "12:00"], ["13:00", "17:00"]], "tue": [["09:00", "17:30"]]}
    assert (body["holidays"], body["timezone"]) == (["2026-01-01", "2026-12-25"], "Europe/Berlin")
    assert body["changes_at"].endswith("Z")
    problem(admin("POST", "/v1/calendars", OFFICE | {"name": "office"}), 409)
    never = admin("PUT", "/v1/calendars/office", {"hours": {}}, If_Match='"1"')
    assert (never.headers["ETag"], never.get_json()["timezone"]) == ('"2"', "UTC")
    assert (never.get_json()["working"], never.get_json()["changes_at"]) == (False, None)
    always = {
        "hours": {day: [["00:00", "24:00"]] for day in ("mon", "tue", "wed", "thu", "fri", "sat", "sun")}
    }
    assert admin("PUT", "/v1/calendars/always", always).get_json()["working"] is True
    problem(admin("PUT", "/v1/calendars/office", OFFICE, If_Match='"1"'), 412)
    page = admin("GET", "/v1/calendars?limit=1").get_json()
    assert ([item["name"] for item in page["items"]], page["next"]) == (["always"], "always")
    problem(admin("DELETE", "/v1/calendars/office", If_Match='"1"'), 412)
    assert admin("DELETE", "/v1/calendars/office").status_code == 204
    problem(admin("DELETE", "/v1/calendars/office"), 404)
    problem(admin("GET", "/v1/calendars/office"), 404)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"hours": {"monday": []}}, "hours.monday"),
        ({"hours": {"mon": [["9", "17"]]}}, "hours.mon.0"),
        ({"hours": {"mon": [["09:00", 17]]}}, "hours.mon.0.1"),
        ({"timezone": "Mars/Base"}, "timezone"),
        ({"holidays": ["2026-02-30"]}, "holidays.0"),
        ({"holidays": [20261225]}, "holidays.0"),
        ({"holidays": ["2026-12-25", "9999-12-31"]}, "holidays.1"),
        ({"holidays": ["0001-01-01"]}, "holidays.0"),
        ({"name": "batch"}, "name"),
    ],
)
def test_a_wrong_calendar_is_not_made(admin: Api, change: dict[str, Any], path: str) -> None:
    problem(admin("POST", "/v1/calendars", OFFICE | {"name": "office"} | change), 422, path)


def test_a_calendar_that_a_route_goes_by_stays(admin: Api) -> None:
    admin("PUT", "/v1/calendars/office", OFFICE)
    mail = {
        "kind": "email",
        "config": {"to": ["a@example.com"], "from": "m@example.com", "host": "mail.example.com"},
    }
    admin("PUT", "/v1/targets/mail", mail)
    route = {"levels": [["mail"]], "period": "during_hours", "calendar": "office"}
    assert admin("PUT", "/v1/routes/by-day", route).status_code == 201
    assert "by-day" in problem(admin("DELETE", "/v1/calendars/office"), 409)["detail"]


def test_who_may_see_and_change_calendars(admin: Api, api_with: MakeApi, outsider: Api) -> None:
    admin("PUT", "/v1/calendars/office", OFFICE)
    changes = (
        ("POST", "/v1/calendars", OFFICE | {"name": "more"}), ("PUT", "/v1/calendars/office", OFFICE),
        ("DELETE", "/v1/calendars/office", None),
    )  # fmt: skip
    reader, narrow = api_with("services:read"), api_with("targets:write", "services:read", patterns=["db-*"])
    for caller in (reader, narrow):
        assert caller("GET", "/v1/calendars/office").status_code == 200
        for change in changes:
            problem(outsider(*change), 401)
            problem(caller(*change), 403)
    assert [api_with("targets:write")(*change).status_code for change in changes] == [201, 200, 204]
