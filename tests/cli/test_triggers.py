"""Triggers from the command line, on the real API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import requests

from tests.cli.conftest import data_of

FIX = "name: fix\nvariables: {HOST: w1, N: 1}\nsteps:\n  - {name: a, type: wait, duration: 1m}\n"


@pytest.fixture
def fix(admin: Any, tmp_path: Path) -> Any:
    """The admin, with a playbook ``fix``."""
    (tmp_path / "fix.yml").write_text(FIX)
    assert admin("playbook", "apply", str(tmp_path / "fix.yml")).exit_code == 0
    return admin


def test_a_schedule_is_made_listed_changed_and_deleted(fix: Any) -> None:
    made = data_of(
        fix("trigger", "create", "fix", "--cron", "0 3 * * *", "--timezone", "Europe/Berlin", "--var", "N=2",
            "--var", "HOST=w2", "--catch-up", "1h", "--output", "json")
    )  # fmt: skip
    assert (made["kind"], made["variables"], made["catch_up"]) == ("schedule", {"N": 2, "HOST": "w2"}, "1h")
    number = str(made["id"])
    listed = fix("trigger", "list", "--kind", "schedule")
    assert "cron 0 3 * * * (Europe/Berlin)" in listed.stdout
    assert (
        fix("trigger", "set", number, "--disable", "--mode", "shadow").output
        == f"Trigger {number} is changed.\n"
    )
    shown = data_of(fix("trigger", "show", number, "--output", "json"))
    assert (shown["enabled"], shown["mode"], shown["next_at"]) == (False, "shadow", None)
    assert (shown["variables"], shown["catch_up"]) == (made["variables"], "1h")
    assert fix("trigger", "delete", number).output == f"Trigger {number} is deleted.\n"
    assert fix("trigger", "show", number).exit_code == 3


def test_a_hook_is_made_called_and_rotated(fix: Any) -> None:
    made = fix("trigger", "create", "fix", "--hook", "bearer", "--map", "HOST=host")
    lines = made.output.splitlines()
    assert lines[-1] == "Both are shown this once."
    url, secret = (line.partition(":")[2].strip() for line in lines[1:3])
    sent = {"headers": {"Authorization": f"Bearer {secret}"}, "json": {"host": "w9"}, "timeout": 10}
    answer = requests.post(url, **sent)
    assert (answer.status_code, answer.json()["status"]) == (202, "started")
    (number,) = [str(item["id"]) for item in data_of(fix("trigger", "list", "--output", "json"))]
    assert fix("trigger", "set", number, "--mode", "shadow").exit_code == 0
    assert requests.post(url, **sent).json()["status"] == "shadow"
    assert "has another address and secret" in fix("trigger", "rotate", number).output
    assert requests.post(url, **sent).status_code == 404


def test_a_wrong_use_says_so(fix: Any) -> None:
    for arguments in (
        (),
        ("--on-alert", "web*", "--cron", "0 3 * * *"),
        ("--hook", "bearer", "--map", "HOST"),
    ):
        wrong = fix("trigger", "create", "fix", *arguments)
        assert (wrong.exit_code, wrong.stdout) == (2, "")
    refused = fix("trigger", "create", "fix", "--on-alert", "web*", "--timezone", "UTC")
    assert (refused.exit_code, "timezone: is not a field of a trigger of kind alert" in refused.stderr) == (
        1,
        True,
    )
    made = fix("trigger", "create", "fix", "--on-alert", "web*", "--tag", "db", "--failures", "3")
    assert "alerts of web*, tags db, failures 3" in made.output
