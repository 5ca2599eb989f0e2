"""What holds an execution back, and what lets it go: concurrency, locks, the stop switch, the deadline."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
import redis

from medic import broker, stop
from medic import settings as settings_
from medic.db import database_now
from medic.errors import Invalid
from medic.executions.admission import Refused
from medic.executions.dispatch import dispatch
from tests.recorder import Recorder
from tests.tasks.house import HUMAN, House
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("worker")


def playbook(url: str, name: str, more: str) -> str:
    return f"""
name: {name}
{more}
steps:
  - {{name: rest, type: wait, duration: 1h}}
  - {{name: act, type: webhook, url: "{url}/{name}"}}
"""


def end_the_wait(house: House, execution: UUID) -> None:
    house.run(
        "UPDATE execution_steps SET parked_at = now() - interval '2 h' WHERE execution_id = :id", id=execution
    )
    house.make_due(execution)


def test_no_more_executions_run_than_the_playbook_allows_and_the_oldest_goes_next(
    house: House, outside: Recorder
) -> None:
    house.playbook(playbook(outside.url, "narrow", "concurrency: {per_playbook: 1}"))
    first, second, third = (house.start("narrow") for _ in range(3))
    house.comes_to(first, "waiting")
    for held in (second, third):
        assert house.row(held)["waiting_for"] == "concurrency"
        house.make_due(held)
    house.sweep()
    assert [house.row(held)["waiting_for"] for held in (second, third)] == ["concurrency"] * 2
    end_the_wait(house, first)
    assert house.ended(first, sweeping=True) == "completed"
    for held in (third, second):
        house.make_due(held)
    house.sweep()
    assert house.row(third)["waiting_for"] == "concurrency"
    # It is let go and dispatched in one sweep.
    house.comes_to(second, "waiting")
    assert house.row(second)["waiting_for"] == "timer"


def test_no_more_executions_run_than_medic_allows_whatever_playbook_they_are_of(
    house: House, outside: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDIC_MAX_EXECUTIONS", "2")
    settings_.current.cache_clear()
    for name in ("one", "two"):
        house.playbook(playbook(outside.url, name, ""))
    first, second, third = (house.start(name) for name in ("one", "two", "one"))
    assert house.row(third)["waiting_for"] == "concurrency"
    for running in (first, second):
        house.comes_to(running, "waiting")
    house.make_due(third)
    house.sweep()
    assert house.row(third)["waiting_for"] == "concurrency"
    house.cancel(second)
    house.make_due(third)
    house.sweep()
    eventually(lambda: house.row(third)["waiting_for"] == "timer")


def test_the_limit_per_service_counts_only_its_own(house: House, outside: Recorder) -> None:
    house.service("worker-1")
    house.service("worker-2")
    house.playbook(playbook(outside.url, "narrow", "concurrency: {per_service: 1}"))
    house.start("narrow", service="worker-1")
    held = house.start("narrow", service="worker-1")
    other = house.start("narrow", service="worker-2")
    assert house.row(held)["waiting_for"] == "concurrency"
    assert house.comes_to(other, "waiting") == "waiting"
    assert house.row(other)["waiting_for"] == "timer"


def test_two_playbooks_with_the_same_lock_never_run_together(house: House, outside: Recorder) -> None:
    house.service("worker-1")
    house.playbook(playbook(outside.url, "one", 'lock: "host-${SERVICE_NAME}"'))
    house.playbook(playbook(outside.url, "two", 'lock: "host-${SERVICE_NAME}"'))
    first = house.start("one", service="worker-1")
    second = house.start("two", service="worker-1")
    house.comes_to(first, "waiting")
    assert house.row(second)["waiting_for"] == "lock"
    house.make_due(second)
    house.sweep()
    assert house.row(second)["waiting_for"] == "lock"
    assert house.rows("SELECT name FROM locks") == [{"name": "host-worker-1"}]
    house.cancel(first)
    house.make_due(second)
    house.sweep()
    assert house.comes_to(second, "waiting") == "waiting"
    assert house.rows("SELECT execution_id FROM locks") == [{"execution_id": second}]


def test_a_lock_whose_name_has_no_value_is_refused_at_the_start(house: House, outside: Recorder) -> None:
    more = 'concurrency: {per_playbook: 1}\nlock: "host-${SERVICE_NAME}"'
    house.playbook(playbook(outside.url, "one", more))
    with pytest.raises(Invalid):
        house.start("one")
    assert house.rows("SELECT 1 FROM executions") == []


def switch(house: House, *, on: bool) -> None:
    def work(session: Any) -> None:
        now = database_now(session)
        if on:
            stop.stop_all(session, reason="test", actor=HUMAN, now=now)
        else:
            stop.resume_all(session, actor=HUMAN, now=now)

    house.do(work)


def test_under_the_stop_switch_nothing_starts_waiting_ones_hold_and_a_resume_goes_on(
    house: House, outside: Recorder, broker_client: redis.Redis
) -> None:
    house.playbook(playbook(outside.url, "held", ""))
    execution = house.start("held")
    house.comes_to(execution, "waiting")
    unsent = house.start("held", publish=False)
    switch(house, on=True)
    refused = house.admit("held")
    assert isinstance(refused, Refused)
    assert refused.code == "stopped"
    end_the_wait(house, execution)
    before = house.row(execution)
    assert house.sweep(judge_leases=True).seen == 0
    assert house.row(execution) == before
    # A message that was on its way is fenced.
    assert dispatch(house.engine, execution_id=unsent, epoch=0)
    eventually(lambda: broker_client.llen(broker.STEPS) + broker_client.hlen("unacked") == 0)
    assert house.attempts(unsent) == []
    switch(house, on=False)
    assert house.swept_to_the_end(execution) == "completed"
    house.make_due(unsent)
    house.sweep()
    house.comes_to(unsent, "waiting")


def test_a_deadline_ends_what_waits_and_what_is_about_to_start(house: House, outside: Recorder) -> None:
    house.playbook(playbook(outside.url, "late", "deadline: 1s"))
    waiting = house.start("late")
    unsent = house.start("late", publish=False)
    house.comes_to(waiting, "waiting")
    row = house.row(waiting)
    assert row["due_at"] == row["deadline_at"]
    assert house.swept_to_the_end(waiting) == "failed"
    assert house.row(waiting)["error"]["code"] == "deadline"
    assert house.swept_to_the_end(unsent) == "failed"
    assert outside.requests == []


def test_no_step_is_claimed_behind_the_deadline(house: House, outside: Recorder) -> None:
    house.playbook(f"""
name: late
deadline: 1h
steps:
  - {{name: first, type: webhook, url: "{outside.url}/first"}}
  - {{name: second, type: webhook, url: "{outside.url}/second"}}
""")

    def pass_the_deadline(request: Any) -> tuple[int, bytes]:
        house.run("UPDATE executions SET deadline_at = now() - interval '1 s'")
        return 200, b"{}"

    outside.answer = pass_the_deadline
    execution = house.start("late")
    assert house.swept_to_the_end(execution) == "failed"
    assert house.row(execution)["error"]["code"] == "deadline"
    assert house.step_states(execution) == ["completed", "skipped"]
    assert outside.of("/second") == []
