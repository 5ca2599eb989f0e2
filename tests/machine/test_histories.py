"""What the state machine decided once, it decides today; `tests.machine.record` says how to record anew."""

from __future__ import annotations

from typing import Any

import pytest

from tests.machine.record import files, histories, play

HISTORIES = [pytest.param(history, id=history["name"]) for file in files() for history in histories(file)]


def test_there_are_histories() -> None:
    assert len(HISTORIES) >= 80


@pytest.mark.parametrize("history", HISTORIES)
def test_a_recorded_history_is_decided_as_it_was(history: dict[str, Any]) -> None:
    assert list(play(history)) == [event["then"] for event in history["events"]]
