"""Targets, routes and calendars from the command line, on the real API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medic.cli.calendar import in_words
from medic.cli.route import BODY, MATCH
from tests.cli.conftest import data_of

TOKEN = "xoxb-correct-horse"


@pytest.fixture
def chat(admin: Any) -> Any:
    """The admin, with a target ``chat``."""
    made = admin(
        "target",
        "set",
        "chat",
        "--kind",
        "slack",
        "--config",
        "channel=C1",
        "--secret",
        "token",
        stdin=f"{TOKEN}\n",
    )
    assert made.output == "Target chat is set; try it with `medic target test chat`.\n"
    return admin


def test_a_target_is_set_shown_listed_tested_and_deleted(chat: Any) -> None:
    shown = data_of(chat("target", "show", "chat", "--output", "json"))
    assert (shown["kind"], shown["config"], shown["secrets"]) == ("slack", {"channel": "C1"}, ["token"])
    listed = chat("target", "list")
    assert "chat  slack  yes" in listed.stdout
    assert TOKEN not in listed.output
    assert chat("target", "test", "chat").output.startswith("A test message to chat is on its way")
    assert chat("target", "enable", "chat").output == "Target chat is told again.\n"
    assert chat("target", "delete", "chat").output == "Target chat is deleted.\n"
    assert chat("target", "show", "chat").exit_code == 3


def test_what_is_not_given_of_a_target_stays(chat: Any, tmp_path: Path) -> None:
    assert chat("target", "set", "chat", "--per-minute", "5").exit_code == 0
    assert chat("target", "set", "chat", "--config", "channel=C2").exit_code == 0
    shown = data_of(chat("target", "show", "chat", "--output", "json"))
    assert (shown["config"], shown["per_minute"], shown["secrets"]) == ({"channel": "C2"}, 5, ["token"])
    moved = chat("target", "set", "chat", "--config", "api_url=https://slack.example.com/api/")
    assert moved.exit_code == 1
    assert "token must be sent again" in moved.stderr
    (tmp_path / "token").write_text("xoxb-another\n")
    again = chat(
        "target", "set", "chat", "--config", "api_url=https://slack.example.com/api/",
        "--secret-file", f"token={tmp_path / 'token'}",
    )  # fmt: skip
    assert again.exit_code == 0, again.output
    other = chat(
        "target", "set", "chat", "--kind", "email", "--config", 'to=["a@example.com"]', "--config", "from=m@example.com",
        "--config", "host=mail.example.com", "--config", "port=2525", "--output", "json",
    )  # fmt: skip
    assert (data_of(other)["config"]["port"], data_of(other)["secrets"]) == (2525, [])


def test_a_wrong_use_says_so(admin: Any) -> None:
    for arguments in (
        ("set", "new"),
        ("set", "new", "--kind", "slack", "--config", "channel"),
        ("set", "new", "--kind", "slack", "--secret", "token", "--secret", "other"),
    ):
        wrong = admin("target", *arguments, stdin="one")
        assert (wrong.exit_code, wrong.stdout) == (2, "")
    missing = admin("target", "set", "new", "--kind", "slack", "--secret-file", "token=nowhere")
    assert (missing.exit_code, "cannot be read" in missing.stderr) == (78, True)
    assert admin("route", "set", "new").exit_code == 2
    assert admin("calendar", "set", "new").exit_code == 2
    assert admin("calendar", "set", "new", "--hours", "someday=09:00-10:00").exit_code == 2


def test_a_route_is_set_changed_shown_previewed_and_deleted(chat: Any) -> None:
    chat("target", "set", "pager", "--kind", "pagerduty", "--secret", "routing_key", stdin="R" * 32)
    office = chat(
        "calendar", "set", "office", "--hours", "mon-fri=09:00-12:00,13:00-17:00", "--timezone", "UTC"
    )
    assert office.output == "Calendar office: mon-fri=09:00-12:00,13:00-17:00 (UTC).\n"
    made = chat(
        "route", "set", "night", "--tell", "chat,pager", "--tell", "pager", "--escalate-after", "15m", "--service", "web-*",
        "--priority", "p1", "--priority", "p2", "--period", "after_hours", "--calendar", "office",
    )  # fmt: skip
    assert made.output == (
        "Route night tells chat, pager and after 15m pager of service web-*; priority p1, p2, outside of the hours of"
        " office.\n"
    )
    assert chat("calendar", "delete", "office").exit_code == 1
    changed = data_of(chat("route", "set", "night", "--tag", "eu", "--period", "always", "--output", "json"))
    assert (changed["match"]["tags"], changed["match"]["service"]) == (["eu"], "web-*")
    assert (changed["calendar"], changed["escalate_after"]) == (None, "15m")
    one = data_of(chat("route", "set", "night", "--tell", "chat", "--any", "--default", "--output", "json"))
    assert (one["levels"], one["escalate_after"], one["default"]) == ([["chat"]], None, True)
    assert "what no other route takes  always  chat" in chat("route", "list").stdout
    assert "what no other route takes" in chat("route", "show", "night").stdout
    chat("service", "create", "web-route", "--every", "5m")
    assert chat("route", "preview", "web-route").output == "night: chat\n"
    assert chat("route", "set", "night", "--disabled").exit_code == 0
    assert "Nobody would be told" in chat("route", "preview", "web-route", "--priority", "p1").output
    assert chat("route", "delete", "night").output == "Route night is deleted.\n"


def test_a_calendar_is_changed_in_part(admin: Any) -> None:
    admin(
        "calendar",
        "set",
        "shop",
        "--hours",
        "sat-mon=10:00-18:00",
        "--holiday",
        "2026-12-25",
        "--timezone",
        "UTC",
    )
    changed = admin(
        "calendar", "set", "shop", "--hours", "sun=", "--holiday", "2026-12-26", "--output", "json"
    )
    assert data_of(changed)["hours"] == {"mon": [["10:00", "18:00"]], "sat": [["10:00", "18:00"]]}
    assert data_of(changed)["holidays"] == ["2026-12-25", "2026-12-26"]
    assert data_of(admin("calendar", "set", "shop", "--clear-holidays", "--output", "json"))["holidays"] == []
    assert "shop  mon=10:00-18:00 sat=10:00-18:00  UTC" in admin("calendar", "list").stdout
    assert "mon=10:00-18:00 sat=10:00-18:00" in admin("calendar", "show", "shop").stdout
    assert admin("calendar", "delete", "shop").output == "Calendar shop is deleted.\n"


def test_the_route_that_is_written_back_is_the_whole_of_it() -> None:
    """A field that the API knows and the command line does not would be lost by a change."""
    from medic_api.routes import Match, RouteIn

    assert set(BODY) == set(RouteIn.model_fields)
    assert set(MATCH) == set(Match.model_fields)


def test_hours_are_written_as_they_are_read() -> None:
    assert in_words({}) == "never"
    spans = [["00:00", "06:00"], ["22:00", "24:00"]]
    assert in_words(dict.fromkeys(("tue", "wed", "sun"), spans)) == (
        "tue-wed=00:00-06:00,22:00-24:00 sun=00:00-06:00,22:00-24:00"
    )
