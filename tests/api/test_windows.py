"""Maintenance windows by API, and what is kept quiet between two moments."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from medic.times import format_time, parse_time
from tests.api.caller import Api, MakeApi, problem

START = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
END = START + timedelta(hours=2)
ONCE = {"selector": {"services": ["web"]}, "starts_at": format_time(START), "ends_at": format_time(END)}
NIGHTLY = {"selector": {"tags": ["db"]}, "cron": "0 2 * * *", "duration": "1h", "timezone": "Europe/Berlin"}


def test_a_window_is_made_shown_changed_and_deleted(admin: Api) -> None:
    made = admin("PUT", "/v1/windows/move", ONCE | {"reason": "New racks", "notices": True})
    assert (made.status_code, made.headers["ETag"]) == (201, '"1"')
    shown = admin("GET", "/v1/windows/move").get_json()
    assert shown == made.get_json()
    assert shown["selector"] == {"all": None, "services": ["web"], "tags": [], "team": None}
    assert (shown["active"], shown["next_start_at"], shown["next_end_at"]) == (
        False, format_time(START), format_time(END)
    )  # fmt: skip
    changed = admin("PUT", "/v1/windows/move", NIGHTLY, If_Match='"1"')
    assert changed.status_code == 200
    body = changed.get_json()
    assert (body["cron"], body["duration"], body["starts_at"], body["version"]) == (
        "0 2 * * *",
        "1h",
        None,
        2,
    )
    problem(admin("PUT", "/v1/windows/move", ONCE, If_Match='"1"'), 412)
    problem(admin("PUT", "/v1/windows/new", ONCE, If_Match='"1"'), 412)
    problem(admin("DELETE", "/v1/windows/move", If_Match='"1"'), 412)
    assert admin("DELETE", "/v1/windows/move", If_Match='"2"').status_code == 204
    problem(admin("GET", "/v1/windows/move"), 404)
    problem(admin("DELETE", "/v1/windows/move"), 404)


def test_a_window_without_a_start_holds_from_now_on(admin: Api) -> None:
    made = admin("PUT", "/v1/windows/now", {"selector": {"all": True}, "duration": "2h"}).get_json()
    assert made["active"]
    starts, ends = parse_time(made["starts_at"]), parse_time(made["ends_at"])
    assert (ends - starts, made["duration"], made["selector"]["all"]) == (timedelta(hours=2), None, True)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"selector": {}}, "selector"),
        ({"selector": {"all": False}}, "selector.all"),
        ({"selector": {"all": True, "tags": ["db"]}}, "selector.all"),
        ({"selector": {"services": ["Web"]}}, "selector.services.0"),
        ({"selector": {"team": "nobody"}}, "selector.team"),
        ({"selector": {"colour": "red"}}, "selector.colour"),
        ({"ends_at": "2020-01-01T00:00:00Z", "starts_at": None}, "ends_at"),
        ({"ends_at": "tomorrow"}, "ends_at"),
        ({"starts_at": "9999-12-31T23:59:59Z", "ends_at": None, "duration": "3000d"}, "ends_at"),
        ({"cron": "0 2 * * *"}, "duration"),
        ({"cron": "61 2 * * *", "duration": "1h"}, "cron"),
        ({"cron": "0 * * * *", "duration": "1h"}, "duration"),
        ({"cron": "0 * * * *", "duration": "10m", "timezone": "Mars/Base"}, "timezone"),
        ({"reason": "a\x00b"}, "reason"),
    ],
)
def test_a_wrong_window_names_its_field_and_makes_nothing(
    admin: Api, change: dict[str, Any], path: str
) -> None:
    problem(admin("PUT", "/v1/windows/move", ONCE | change), 422, path)
    assert admin("GET", "/v1/windows").get_json() == {"items": [], "next": None}


def test_a_list_of_windows_goes_on_where_the_page_ended(admin: Api) -> None:
    for number in range(5):
        admin("PUT", f"/v1/windows/w{number}", ONCE)
    first = admin("GET", "/v1/windows?limit=3").get_json()
    rest = admin("GET", f"/v1/windows?limit=3&after={first['next']}").get_json()
    assert [item["name"] for item in first["items"] + rest["items"]] == [f"w{number}" for number in range(5)]
    assert rest["next"] is None


def test_a_narrowed_key_has_windows_for_its_own_services_alone(admin: Api, api_with: MakeApi) -> None:
    narrow = api_with("services:read", "alerts:write", patterns=["web-*"])
    own = ONCE | {"selector": {"services": ["web-1", "web-b*"]}}
    assert narrow("PUT", "/v1/windows/mine", own).status_code == 201
    for selector in ({"all": True}, {"tags": ["web"]}, {"services": ["web-1", "*"]},
                     {"services": ["web-1"], "tags": ["x"]}):  # fmt: skip
        problem(narrow("PUT", "/v1/windows/other", ONCE | {"selector": selector}), 403)
    for number in range(4):
        admin("PUT", f"/v1/windows/a{number}", ONCE)
    assert [item["name"] for item in narrow("GET", "/v1/windows?limit=1").get_json()["items"]] == ["mine"]
    problem(narrow("GET", "/v1/windows/a1"), 403)
    problem(narrow("DELETE", "/v1/windows/a1"), 403)
    problem(narrow("PUT", "/v1/windows/a1", own), 403)
    assert narrow("DELETE", "/v1/windows/mine").status_code == 204


def between(api: Api, query: str) -> list[tuple[str, str, str, str | None]]:
    """Everything that is kept quiet, over all pages."""
    found, after = [], ""
    while True:
        page = api("GET", f"/v1/suppressions?limit=3&{query}{after}")
        assert page.status_code == 200, page.text
        body = page.get_json()
        found += [(item["kind"], item["name"], item["from"], item["to"]) for item in body["items"]]
        if body["next"] is None:
            return found
        after = f"&after={body['next']}"


@pytest.fixture
def planned(admin: Api) -> Api:
    """A service with a nightly window over both changes of the clocks of 2030, and a pause; another one without."""
    admin("POST", "/v1/services", {"name": "db-1", "every": "5m", "tags": ["db"]})
    admin("POST", "/v1/services", {"name": "web", "every": "5m"})
    admin("PUT", "/v1/windows/nightly", NIGHTLY | {"cron": "30 2 * * *"})
    return admin


def test_what_will_be_quiet_names_each_occurrence_on_the_clock_of_its_zone(planned: Api) -> None:
    spring = between(planned, "service=db-1&from=2030-03-30T00:00:00Z&to=2030-04-02T00:00:00Z")
    assert [(start, end) for _, _, start, end in spring] == [
        ("2030-03-30T01:30:00Z", "2030-03-30T02:30:00Z"),
        ("2030-03-31T01:00:00Z", "2030-03-31T02:00:00Z"),  # the clock skips 02:30
        ("2030-04-01T00:30:00Z", "2030-04-01T01:30:00Z"),
    ]
    autumn = between(planned, "from=2030-10-27T00:00:00Z&to=2030-10-28T02:00:00Z")
    assert [(start, end) for _, _, start, end in autumn] == [
        ("2030-10-27T00:30:00Z", "2030-10-27T01:30:00Z"),  # 02:30 is there twice, and counts once
        ("2030-10-28T01:30:00Z", "2030-10-28T02:30:00Z"),
    ]
    assert between(planned, "service=web&from=2030-03-30T00:00:00Z&to=2030-04-02T00:00:00Z") == []


def test_mutes_and_pauses_are_listed_with_the_windows_page_by_page(planned: Api) -> None:
    for number in range(7):
        planned("POST", "/v1/services", {"name": f"p{number}", "every": "5m", "paused": True})
    mutes = [
        planned("POST", "/v1/mutes", {"service": "web", "reason": "known", "for": "3d"}).get_json()
        for _ in range(4)
    ]
    planned("DELETE", f"/v1/mutes/{mutes[0]['id']}")
    listed = between(planned, "")
    assert [name for kind, name, _, _ in listed if kind == "mute"] == [str(mute["id"]) for mute in mutes[1:]]
    assert [name for kind, name, _, _ in listed if kind == "paused"] == [f"p{number}" for number in range(7)]
    assert [kind for kind, *_ in listed].count("window") in {7, 8}  # a week of nights, and one that begins
    assert [item[2] for item in listed] == sorted(item[2] for item in listed)
    assert {to for kind, _, _, to in listed if kind == "paused"} == {None}
    past = format_time(datetime.now(UTC) - timedelta(days=1))
    assert str(mutes[0]["id"]) in [name for _, name, _, _ in between(planned, f"from={past}&service=web")]


def test_a_narrowed_key_sees_what_is_quiet_among_its_own(planned: Api, api_with: MakeApi) -> None:
    planned("POST", "/v1/mutes", {"service": "web", "reason": "known"})
    narrow = api_with("services:read", patterns=["db-*"])
    assert between(narrow, "") == []
    problem(narrow("GET", "/v1/suppressions?service=web"), 403)
    assert {name for _, name, _, _ in between(narrow, "service=db-1")} == {"nightly"}
    planned(
        "PUT",
        "/v1/windows/both",
        ONCE | {"selector": {"services": ["db-1", "pay-secret"], "tags": ["vault"]}},
    )
    planned("PUT", "/v1/windows/own", ONCE | {"selector": {"services": ["db-*"]}})

    def selectors(api: Api) -> dict[str, Any]:
        query = f"service=db-1&from={ONCE['starts_at']}&to={ONCE['ends_at']}"
        items = api("GET", f"/v1/suppressions?{query}").get_json()["items"]
        return {item["name"]: item["selector"] for item in items}

    assert selectors(planned)["both"]["tags"] == ["vault"]
    assert (selectors(narrow)["both"], selectors(narrow)["own"]["services"]) == (None, ["db-*"])


@pytest.mark.parametrize(
    ("query", "status", "path"),
    [
        ("from=2030-01-02T00:00:00Z&to=2030-01-01T00:00:00Z", 422, "to"),
        ("from=2030-01-01T00:00:00Z&to=2030-04-04T00:00:00Z", 422, "to"),
        ("from=0001-01-01T00:00:00Z", 422, "from"),
        ("from=9999-12-31T00:00:00Z", 422, "from"),
        ("from=soon", 422, "from"),
        ("after=AAAA", 422, "after"),
        ("since=2030-01-01T00:00:00Z", 422, "since"),
        ("service=nobody", 404, None),
    ],
)
def test_a_question_that_cannot_be_answered_says_why(
    admin: Api, query: str, status: int, path: str | None
) -> None:
    problem(admin("GET", f"/v1/suppressions?{query}"), status, path)
