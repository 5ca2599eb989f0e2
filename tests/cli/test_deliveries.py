"""Deliveries from the command line, on the real API; the worker is played by what it writes down."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import Engine, text

from tests.cli.conftest import Canned, data_of
from tests.waiting import eventually


@pytest.fixture
def chat(admin: Any) -> Any:
    """The admin, with a target ``chat``."""
    made = admin(
        "target", "set", "chat", "--kind", "slack", "--config", "channel=C1", "--secret", "token", stdin="t"
    )
    assert made.exit_code == 0, made.output
    return admin


def send(engine: Engine, state: str, *, receipt: str | None = None, error: str | None = None) -> None:
    """What a worker does, once there is something to send."""

    def ended() -> int:
        with engine.begin() as connection:
            return connection.execute(
                text(
                    "UPDATE deliveries SET state = :state, receipt = CAST(:receipt AS jsonb), error = :error, due_at = NULL,"
                    " finished_at = now() WHERE state = 'pending'"
                ),
                {"state": state, "receipt": receipt, "error": error},
            ).rowcount

    eventually(ended, within=30)


def test_a_test_message_is_waited_for_and_its_end_is_the_exit_code(chat: Any, engine: Engine) -> None:
    for state, error, code in (("delivered", None, 0), ("failed", "Slack refused it: invalid_auth.", 1)):
        worker = threading.Thread(target=send, args=(engine, state), kwargs={"error": error})
        worker.start()
        ended = chat("target", "test", "chat", "--wait")
        worker.join()
        assert ended.exit_code == code, ended.output
        assert ("reached chat" in ended.stdout) == (code == 0)
        assert (error or "") in ended.stderr


def test_deliveries_are_listed_and_shown_with_what_the_target_answered(chat: Any, engine: Engine) -> None:
    assert chat("target", "test", "chat").exit_code == 0
    send(engine, "delivered", receipt='{"channel": "C1", "ts": "1.2", "alerts": 0, "token": "xoxb-1"}')
    (listed,) = data_of(chat("delivery", "list", "--target", "chat", "--output", "json"))
    shown = data_of(chat("delivery", "show", str(listed["id"]), "--output", "json"))
    assert shown == listed
    assert shown["receipt"] == {"channel": "C1", "ts": "1.2", "alerts": 0}
    assert "test  -        chat    -      delivered" in chat("delivery", "list").stdout
    assert chat("delivery", "list", "--state", "failed").stderr == "No deliveries.\n"
    assert chat("delivery", "show", "999999").exit_code == 3


def test_a_message_that_stays_on_its_way_ends_as_unavailable_and_says_why(
    medic: Any, canned: Canned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medic.cli.delivery.PATIENCE_S", 0.0)
    canned.answer(202, {"id": 7})
    canned.answer(200, {"id": 7, "state": "pending", "error": "Slack did not answer."})
    ended = medic("target", "test", "chat", "--wait", "--url", canned.url, "--key", "mdk_x")
    assert ended.exit_code == 5
    assert "still on its way: Slack did not answer." in ended.stderr
