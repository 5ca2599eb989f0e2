"""Explain from the command line, on the real API."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Engine

from medic.db import in_transaction
from medic.sweep import sweep_batch
from tests.cli.conftest import data_of


def test_a_service_and_its_alert_are_explained_in_words(admin: Any, engine: Engine) -> None:
    name = f"job-{secrets.token_hex(4)}"
    admin("service", "create", name, "--every", "5m", "--grace", "1m")
    said = admin("service", "explain", name)
    assert said.exit_code == 0, said.output
    assert "every 5m, grace 1m" in said.stdout
    assert "missed" in said.stdout
    assert "No deadline was missed since" in said.stdout
    assert admin("heartbeat", name, "--exit-code", "3").exit_code == 0
    in_transaction(engine, lambda s: sweep_batch(s, now=datetime.now(UTC) + timedelta(seconds=1)))
    (alert,) = data_of(admin("alert", "list", "--output", "json"))
    told = admin("alert", "explain", str(alert["id"]))
    assert told.exit_code == 0, told.output
    assert "Why it opened" in told.stdout
    assert "A failure with exit code 3" in told.stdout
    assert "No route with a target" in told.stdout
    assert (
        data_of(admin("alert", "explain", str(alert["id"]), "--output", "json"))["alert"]["service"] == name
    )


def test_a_time_that_cannot_be_explained_is_told_by_its_field(admin: Any) -> None:
    name = f"job-{secrets.token_hex(4)}"
    admin("service", "create", name, "--every", "5m")
    wrong = admin("service", "explain", name, "--at", "2001-01-01T00:00:00Z")
    assert wrong.exit_code != 0
    assert "at: is more than 30 days back" in wrong.stderr
    data = data_of(admin("service", "explain", name, "--output", "json"))
    assert (data["service"], data["status"]) == (name, "new")
