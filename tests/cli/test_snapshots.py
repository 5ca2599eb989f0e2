"""The configuration's history from the command line, on the real API."""

from __future__ import annotations

from typing import Any

from tests.cli.conftest import data_of

TOKEN = "xoxb-a-secret-token"


def test_a_change_is_listed_shown_tried_and_taken_back(admin: Any) -> None:
    assert admin("service", "create", "web", "--every", "5m").exit_code == 0
    assert admin("service", "change", "web", "--every", "9m").exit_code == 0
    changed, made = data_of(
        admin("snapshot", "list", "--kind", "service", "--name", "web", "--output", "json")
    )
    assert (changed["action"], made["action"]) == ("service.change", "service.create")
    assert "service.change" in admin("snapshot", "list").stdout
    number = str(changed["id"])
    shown = admin("snapshot", "show", number).output
    assert "  every: 5m\n" in shown
    assert "  every: 9m -> 5m\n" in shown
    assert "service web: would be changed back" in admin("snapshot", "restore", number, "--dry-run").output
    assert admin("snapshot", "restore", number).output.startswith("service web: changed back\n")
    assert data_of(admin("service", "show", "web", "--output", "json"))["every"] == "5m"
    assert admin("snapshot", "restore", number).output == "service web: is as it was\n"
    assert admin("snapshot", "show", "99999").exit_code == 3


def test_everything_goes_back_and_a_targets_secret_is_asked_for(admin: Any) -> None:
    assert admin("target", "set", "chat", "--kind", "slack", "--config", "channel=C1", "--secret", "token",
                 stdin=TOKEN).exit_code == 0  # fmt: skip
    (made,) = data_of(admin("snapshot", "list", "--output", "json"))
    assert admin("service", "create", "web", "--every", "5m").exit_code == 0
    assert admin("target", "delete", "chat").exit_code == 0
    arguments = ("snapshot", "restore", "--at", made["at"])
    refused = admin(*arguments)
    assert refused.exit_code == 1
    assert "target chat" in refused.stderr
    done = admin(*arguments, "--secret", "chat.token", stdin=TOKEN)
    assert done.exit_code == 0, done.output
    assert "target chat: made again" in done.output
    assert "service web: left as it is, as it was made since" in done.output
    assert TOKEN not in done.output
    assert "service web: deleted" in admin(*arguments, "--delete-new").output
    assert admin(*arguments).output == "All is as it was then.\n"


def test_a_wrong_use_says_so(admin: Any) -> None:
    for arguments in (
        (), ("3", "--at", "2026-11-23T10:00:00Z"), ("3", "--delete-new"), ("3", "--kind", "route"),
        ("3", "--secret", "token"),
    ):  # fmt: skip
        assert admin("snapshot", "restore", *arguments).exit_code == 2, arguments
