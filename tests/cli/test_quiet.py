"""Mutes and maintenance windows from the command line, on the real API."""

from __future__ import annotations

import re
import secrets
from typing import Any

from tests.cli.conftest import data_of


def test_a_service_is_muted_listed_and_heard_again(admin: Any) -> None:
    name = f"job-{secrets.token_hex(4)}"
    admin("service", "create", name, "--every", "5m")
    made = admin("mute", "create", name, "--reason", "known", "--for", "2h")
    found = re.fullmatch(
        rf"Service {name} is muted until \d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ: mute (\d+)\.\n", made.output
    )
    assert found is not None, made.output
    assert [item["service"] for item in data_of(admin("mute", "list", "--output", "json"))] == [name]
    assert "known" in admin("mute", "show", found[1]).stdout
    assert admin("mute", "end", found[1]).output == f"Service {name} is heard again.\n"
    assert admin("mute", "list").stderr == "Nothing is muted.\n"
    assert name in admin("mute", "list", "--all").stdout
    assert admin("mute", "end", found[1]).exit_code == 1
    assert admin("mute", "create", name).exit_code == 2


def test_a_window_is_set_listed_planned_and_deleted(admin: Any) -> None:
    now = admin(
        "window", "set", "disks", "--service", "db-*", "--tag", "data", "--for", "2h", "--reason", "new ones"
    )
    assert now.output.startswith("Window disks holds now, and ends ")
    later = admin("window", "set", "nightly", "--all", "--cron", "0 2 * * *", "--timezone", "Europe/Berlin",
                  "--for", "1h", "--notices")  # fmt: skip
    assert later.exit_code == 0
    listed = admin("window", "list").stdout
    assert "db-*, tag data" in listed
    assert "0 2 * * * (Europe/Berlin), 1h" in listed
    assert data_of(admin("window", "show", "nightly", "--output", "json"))["notices"] is True
    plan = data_of(admin("window", "plan", "--from", "2030-01-01T00:00:00Z", "--to", "2030-01-03T00:00:00Z",
                         "--output", "json"))  # fmt: skip
    assert [(item["name"], item["from"]) for item in plan] == [
        ("nightly", "2030-01-01T01:00:00Z"), ("nightly", "2030-01-02T01:00:00Z")
    ]  # fmt: skip
    assert "all" in admin("window", "plan").stdout
    assert admin("window", "delete", "disks").output == "Window disks is deleted.\n"
    assert admin("window", "show", "disks").exit_code == 3
    assert "Say for which services" in admin("window", "set", "x", "--for", "1h").output
