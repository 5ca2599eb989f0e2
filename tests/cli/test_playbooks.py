"""Playbooks, executions, approvals, scripts, secrets and the stop switch from the command line."""

from __future__ import annotations

import json
import secrets
import uuid
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from medic.cli.execution import changes
from medic.cli.script import told_by
from medic.db import database_now, transaction
from tests.cli.conftest import data_of

GOOD = "name: restart\ndescription: Fine\nsteps:\n  - name: settle\n    type: wait\n    duration: 1s\n"
BAD = "name: restart\nsteps:\n  - name: settle\n    type: wiat\n    duration: 1s\n"
ASKS = GOOD.replace("name: restart", "name: asks").replace("steps:", "approval: required\nsteps:")


@pytest.fixture
def good(medic: Any) -> str:
    """A playbook's file, in the folder where the command line stands."""
    Path("good.yaml").write_text(GOOD)
    return "good.yaml"


def test_validate_needs_no_server_and_names_file_line_and_column(medic: Any, good: str) -> None:
    Path("bad.yaml").write_text(BAD)
    result = medic("playbook", "validate", good, "bad.yaml")
    assert result.exit_code == 1
    assert result.stdout == "good.yaml: fine, restart with 1 steps\n"
    assert result.stderr.startswith("bad.yaml:4:11: steps[0].type: ")
    assert "did you mean 'wait'?" in result.stderr


def test_validate_reads_the_standard_input_and_says_what_it_cannot_read(medic: Any) -> None:
    assert medic("playbook", "validate", "-", stdin=GOOD).stdout == "-: fine, restart with 1 steps\n"
    assert medic("playbook", "validate", "nowhere.yaml").exit_code == 78


def test_a_playbook_is_applied_shown_and_deleted(admin: Any, good: str) -> None:
    assert admin("playbook", "apply", good).output == "good.yaml: restart is at version 1\n"
    assert admin("playbook", "apply", good).output == "good.yaml: restart is at version 1\n"
    Path(good).write_text(GOOD.replace("Fine", "Finer"))
    assert admin("playbook", "apply", good).output == "good.yaml: restart is at version 2\n"
    assert admin("playbook", "show", "restart", "--version", "1").stdout == GOOD
    assert "restart  2" in admin("playbook", "list").stdout
    assert admin("playbook", "delete", "restart").exit_code == 0
    assert admin("playbook", "show", "restart").exit_code == 3


def test_nothing_is_applied_when_one_file_is_wrong(admin: Any, good: str) -> None:
    Path("bad.yaml").write_text(BAD)
    result = admin("playbook", "apply", good, "bad.yaml")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("bad.yaml:4:11: steps[0].type: ")
    assert data_of(admin("playbook", "list", "--output", "json")) == []


def test_an_execution_is_started_shown_listed_and_cancelled(admin: Any, good: str) -> None:
    admin("playbook", "apply", good)
    started = data_of(admin("playbook", "start", "restart", "--var", "HOST=w1", "--output", "json"))
    execution_id = started["id"]
    shown = data_of(admin("execution", "show", execution_id, "--output", "json"))
    assert shown["variables"]["HOST"] == "w1"
    assert "settle  wait  pending" in admin("execution", "show", execution_id).stdout
    assert execution_id in admin("execution", "list", "--playbook", "restart").stdout
    assert admin("execution", "settle", execution_id, "happened").exit_code == 1
    assert admin("execution", "cancel", execution_id).output == f"Execution {execution_id} is cancelled.\n"
    followed = admin("execution", "show", execution_id, "--follow")
    assert followed.exit_code == 1, "it did not complete"
    assert "execution: cancelled" in followed.stdout


def test_what_cannot_be_started_is_said(admin: Any, good: str) -> None:
    admin("playbook", "apply", good)
    assert admin("playbook", "start", "nothing").exit_code == 3
    assert admin("playbook", "start", "restart", "--var", "HOST").exit_code == 2
    assert admin("execution", "show", str(uuid.uuid4())).exit_code == 3
    assert admin("execution", "show", "7").exit_code == 2
    missing = admin("playbook", "start", "restart", "--service", f"no-{secrets.token_hex(4)}")
    assert missing.exit_code == 1
    assert "service" in missing.stderr


def test_the_stop_switch_stops_and_resumes(admin: Any, good: str) -> None:
    admin("playbook", "apply", good)
    assert admin("stop-all", "--reason", "a drill").exit_code == 0
    refused = admin("playbook", "start", "restart")
    assert refused.exit_code == 1
    assert "stop switch" in refused.stderr
    assert admin("resume-all").exit_code == 0
    assert admin("playbook", "start", "restart").exit_code == 0
    assert admin("stop-all").exit_code == 2, "a stop has a reason"


def test_an_approval_is_listed_and_decided_by_somebody_else(admin: Any) -> None:
    Path("asks.yaml").write_text(ASKS)
    admin("playbook", "apply", "asks.yaml")
    first = data_of(admin("playbook", "start", "asks", "--output", "json"))["id"]
    waiting = data_of(admin("approve", "--output", "json"))
    assert [(item["execution_id"], item["playbook"]) for item in waiting] == [(first, "asks")]
    approval = str(waiting[0]["id"])
    assert f"medic approve {approval}" in admin("execution", "show", first).stdout
    own = admin("approve", approval)
    assert own.exit_code == 1
    assert "ask somebody else" in own.stderr
    other = admin("key", "create", "--admin").stdout.strip()
    stale = admin("approve", approval, "--plan-digest", "0" * 64, MEDIC_API_KEY=other)
    assert stale.exit_code == 1
    decided = admin(
        "approve",
        approval,
        "--comment",
        "go",
        "--plan-digest",
        waiting[0]["plan_digest"],
        MEDIC_API_KEY=other,
    )
    assert decided.output == f"Approval {approval} is approved: asks ({first}).\n"
    second = data_of(admin("playbook", "start", "asks", "--output", "json"))["id"]
    again = str(data_of(admin("approve", "--output", "json"))[0]["id"])
    assert admin("reject", again, "--comment", "no").exit_code == 0
    assert data_of(admin("execution", "show", second, "--output", "json"))["state"] == "cancelled"
    assert admin("approve", "999999").exit_code == 3


def test_an_alert_is_listed_acknowledged_and_resolved(admin: Any, engine: Engine) -> None:
    from medic import alerts, services
    from medic.audit import MEDIC
    from medic.service_policy import Policy

    name = f"db-{secrets.token_hex(4)}"
    with transaction(engine) as session:
        now = database_now(session)
        service = services.create(session, name=name, policy=Policy(every_s=60), actor=MEDIC, now=now)
        alerts.open_all(session, [alerts.Opening(service.id, name, "p2", "missed", now, {})], now=now)
    opened = data_of(admin("alert", "list", "--output", "json"))
    assert [(item["service"], item["reasons"]) for item in opened] == [(name, ["missed"])]
    alert_id = str(opened[0]["id"])
    assert admin("alert", "ack", alert_id).output == f"Alert {alert_id} of {name} is acknowledged.\n"
    assert admin("alert", "resolve", alert_id, "--note", "by hand").exit_code == 0
    assert admin("alert", "resolve", alert_id).exit_code == 1
    assert "No open alerts" in admin("alert", "list").stderr
    assert name in admin("alert", "list", "--all", "--service", name).stdout
    shown = admin("alert", "show", alert_id).stdout
    assert [word for word in ("opened", "acknowledged", "resolved", "by hand") if word not in shown] == []
    assert admin("alert", "show", "999999").exit_code == 3


def test_a_script_is_registered_by_its_first_line(admin: Any) -> None:
    Path("fix.sh").write_text("#!/bin/bash\necho fixed\n")
    Path("rules.json").write_text('{"host": {"type": "string"}}')
    assert admin("script", "put", "fix", "fix.sh").output == "Script fix is at version 1 (bash).\n"
    assert (
        admin("script", "put", "fix", "fix.sh", "--network").output == "Script fix is at version 2 (bash).\n"
    )
    assert admin("script", "show", "fix").stdout == "#!/bin/bash\necho fixed\n"
    assert "fix   2        bash         yes" in admin("script", "list").stdout
    Path("plain").write_text("echo")
    assert admin("script", "put", "plain", "plain").exit_code == 2
    assert admin("script", "put", "plain", "plain", "--interpreter", "python").exit_code == 0
    assert admin("script", "put", "fix", "fix.sh", "--parameters", "plain").exit_code == 78


@pytest.mark.parametrize(
    ("first", "interpreter"),
    [
        ("#!/usr/bin/env python3", "python"),
        ("#!/bin/sh -e", "bash"),
        ("#!/usr/bin/perl", None),
        ("echo", None),
    ],
)
def test_the_first_line_tells_the_interpreter(first: str, interpreter: str | None) -> None:
    assert told_by(f"{first}\n") == interpreter


def test_a_secret_comes_from_outside_and_is_never_shown(admin: Any) -> None:
    done = admin("secret", "set", "OPS_TOKEN", stdin="correct-horse-battery\n")
    assert (done.exit_code, done.output) == (0, "Secret OPS_TOKEN is at version 1.\n")
    listed = admin("secret", "list", "--output", "json")
    assert [item["name"] for item in data_of(listed)] == ["OPS_TOKEN"]
    assert "correct-horse" not in listed.output
    assert admin("secret", "set", "9bad", stdin="correct-horse-battery").exit_code == 2
    short = admin("secret", "set", "OPS_TOKEN", stdin="short\n")
    assert short.exit_code == 1
    assert "too short" in short.stderr


def test_a_secret_that_is_rotated_must_be_there(admin: Any) -> None:
    name = f"T{secrets.token_hex(4)}"
    missing = admin("secret", "rotate", name, stdin="correct-horse-battery\n")
    assert missing.exit_code == 3
    assert f"medic secret set {name}" in missing.stderr
    admin("secret", "set", name, stdin="correct-horse-battery\n")
    done = admin("secret", "rotate", name, stdin="another-horse-battery\n")
    assert (done.exit_code, done.output) == (0, f"Secret {name} is at version 2.\n")


def test_rewrap_says_that_no_older_key_is_needed(admin: Any) -> None:
    admin("secret", "set", "OPS_TOKEN", stdin="correct-horse-battery\n")
    done = admin("secret", "rewrap")
    assert done.exit_code == 0
    assert "No other key is needed" in done.output
    found = json.loads(admin("secret", "rewrap", "--output", "json").stdout)
    assert (found["rewrapped"], found["broken"], found["still_needed"]) == (0, [], [])


def test_rewrap_walks_on_and_tells_what_does_not_open_or_is_still_needed(medic: Any, canned: Any) -> None:
    first = {"key_id": "new", "rewrapped": 7, "broken": ["secret A"], "next": "target", "in_use": None}
    last = {"key_id": "new", "rewrapped": 1, "broken": [], "next": None, "in_use": ["new", "old"]}
    canned.answer(200, first)
    canned.answer(200, last)
    done = medic("secret", "rewrap", MEDIC_BASE_URL=canned.url, MEDIC_API_KEY="mdk_x")
    assert done.exit_code == 1
    assert "secret A" in done.stderr
    assert "another: 8. Still needed besides: old" in done.stdout
    assert json.loads(canned.requests[1][3]) == {"after": "target", "key_id": "new"}


def test_a_follower_tells_each_change_once() -> None:
    step = {"name": "restart", "type": "webhook", "state": "pending", "error": None}
    told: dict[str, str] = {}
    begun = {"state": "running", "waiting_for": None, "steps": [step]}
    assert changes(begun, told) == []
    failed = step | {"state": "failed", "error": {"code": "timeout", "message": "No answer\x1b[2J"}}
    ended = {"state": "failed", "waiting_for": None, "steps": [failed]}
    assert changes(ended, told) == ["restart (webhook): failed, No answer\\x1b[2J", "execution: failed"]
    assert changes(ended, told) == []


def test_json_of_a_followed_start_is_one_document(admin: Any, engine: Engine, good: str) -> None:
    admin("playbook", "apply", good)
    started = data_of(admin("playbook", "start", "restart", "--output", "json"))
    with engine.begin() as connection:  # no worker runs here: what one would write
        connection.execute(
            text("UPDATE executions SET state = 'completed', due_at = NULL, finished_at = now()")
        )
    followed = admin("execution", "show", started["id"], "--follow", "--output", "json")
    assert json.loads(followed.stdout)["state"] == "completed"
    assert followed.exit_code == 0


def test_a_dry_run_shows_what_would_happen_and_starts_nothing(admin: Any, good: str) -> None:
    admin("playbook", "apply", good)
    fine = admin("playbook", "dry-run", "restart")
    assert fine.exit_code == 0, fine.output
    assert "settle  wait" in fine.stdout
    assert fine.stdout.endswith("Started now it would be running.\n")
    Path("odd.yaml").write_text(
        "name: odd\nsteps:\n  - {name: run, type: script, script: not-there}\n"
        "  - {name: tell, type: notify, message: 'was ${steps.run.exit_code}'}\n"
        "  - {name: never, type: wait, duration: 1s, when: '${HOST} == 2'}\n"
    )
    admin("playbook", "apply", "odd.yaml")
    odd = admin("playbook", "dry-run", "odd", "--var", "HOST=1")
    assert odd.exit_code == 1
    assert "There is no script not-there." in odd.stdout
    assert "skipped: its condition does not hold" in odd.stdout
    tried = data_of(admin("playbook", "dry-run", "restart", "--output", "json"))
    assert (tried["fine"], tried["steps"][0]["shown"]) == (True, {"duration": "1s"})
    assert data_of(admin("execution", "list", "--playbook", "odd", "--output", "json")) == []
