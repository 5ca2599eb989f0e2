"""What ends, is refused or is answered without a worker counts as well."""

from __future__ import annotations

from medic import stop
from medic.db import database_now
from medic.executions.admission import Refused
from medic.telemetry.metrics import REGISTRY
from tests.tasks.house import HUMAN, House

SOURCE = """
name: counted
approval: required
steps:
  - {name: rest, type: wait, duration: 1s}
"""


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_an_answer_and_an_end_by_hand_are_counted_with_how_long_they_took(house: House) -> None:
    ended = ("medic_playbook_executions_total", "medic_playbook_execution_duration_seconds_count")
    before = [value(name, status="cancelled") for name in ended]
    answered = "medic_approval_latency_seconds_sum"
    latency = value(answered, verdict="rejected", by="human")
    house.playbook(SOURCE)
    execution = house.start("counted", publish=False)
    house.run("UPDATE approvals SET requested_at = now() - interval '90 s'")
    house.decide(execution, "rejected")
    assert [value(name, status="cancelled") for name in ended] == [count + 1 for count in before]
    assert 90 <= value(answered, verdict="rejected", by="human") - latency < 300


def test_a_playbook_that_does_not_start_is_counted_by_why(house: House) -> None:
    before = value("medic_playbook_refusals_total", code="stopped")
    house.playbook(SOURCE)
    house.do(lambda s: stop.stop_all(s, reason="test", actor=HUMAN, now=database_now(s)))
    assert isinstance(house.admit("counted"), Refused)
    assert value("medic_playbook_refusals_total", code="stopped") == before + 1
