"""Waits and conditions are rows: no worker holds them."""

from __future__ import annotations

import time

from tests.recorder import Recorder
from tests.tasks.house import House
from tests.tasks.processes import Workers
from tests.waiting import eventually


def test_a_wait_and_a_condition_hold_no_worker(house: House, own: Workers, outside: Recorder) -> None:
    house.service("worker-1")
    house.playbook("name: patient\nsteps:\n  - {name: rest, type: wait, duration: 1h}\n")
    house.playbook(
        "name: watchful\nsteps:\n  - {name: see, type: condition, check: heartbeat_received, timeout: 1h}\n"
    )
    house.playbook(f'name: quick\nsteps:\n  - {{name: call, type: webhook, url: "{outside.url}/call"}}\n')
    own.steps(concurrency=1)
    parked = [house.start("patient"), house.start("watchful", service="worker-1")]
    for execution in parked:
        assert house.comes_to(execution, "waiting") == "waiting"
    assert house.ended(house.start("quick")) == "completed"
    for execution in parked:
        row = house.row(execution)
        assert (row["state"], row["owner"]) == ("waiting", None)
    # Nothing of theirs is in the broker either.
    assert house.sweep().published == 0


def test_a_wait_ends_when_its_time_is_over_and_what_follows_runs_in_the_next_epoch(
    house: House, worker: Workers, outside: Recorder
) -> None:
    house.playbook(f"""
name: rested
steps:
  - {{name: before, type: webhook, url: "{outside.url}/before"}}
  - {{name: rest, type: wait, duration: 1s}}
  - {{name: after, type: webhook, url: "{outside.url}/after"}}
""")
    execution = house.start("rested")
    assert house.swept_to_the_end(execution) == "completed"
    rest = house.steps(execution)[1]
    assert (rest["ended_at"] - rest["parked_at"]).total_seconds() >= 1
    assert rest["output"] == {"waited_s": 1}
    assert [request.headers["medic-fencing-token"] for request in outside.requests] == ["1", "2"]


def test_a_wait_that_is_poked_too_early_parks_again_until_its_own_time(house: House, worker: Workers) -> None:
    house.playbook("name: patient\nsteps:\n  - {name: rest, type: wait, duration: 1h}\n")
    execution = house.start("patient")
    house.comes_to(execution, "waiting")
    parked = house.steps(execution)[0]["parked_at"]
    house.make_due(execution)
    assert house.sweep().published == 1
    eventually(lambda: len(house.attempts(execution)) == 2 and house.state(execution) == "waiting")
    row = house.row(execution)
    assert abs((row["due_at"] - parked).total_seconds() - 3600) < 5
    assert house.steps(execution)[0]["parked_at"] == parked


def test_a_condition_passes_with_a_heartbeat_that_came_after_the_last_acting_step(
    house: House, worker: Workers, outside: Recorder
) -> None:
    house.service("worker-1")
    house.beat("worker-1")  # before the step: proves nothing
    house.playbook(f"""
name: verified
steps:
  - {{name: restart, type: webhook, url: "{outside.url}/restart"}}
  - {{name: verify, type: condition, check: heartbeat_received, timeout: 10m}}
  - {{name: tell, type: webhook, url: "{outside.url}/tell"}}
""")
    execution = house.start("verified", service="worker-1")
    house.comes_to(execution, "waiting")
    house.make_due(execution)
    assert house.sweep().published == 0
    assert house.state(execution) == "waiting"
    house.beat("worker-1")
    house.make_due(execution)
    assert house.sweep().published == 1
    assert house.ended(execution) == "completed"
    assert house.steps(execution)[1]["output"]["count"] == 1
    # A poll by the sweep is no attempt, and no failure.
    assert house.steps(execution)[1]["tries"] == 0
    assert len(house.attempts(execution)) == 4


def test_a_skipped_step_does_not_move_the_moment_from_which_heartbeats_count(
    house: House, worker: Workers, outside: Recorder
) -> None:
    house.service("worker-1")
    house.playbook(f"""
name: verified
steps:
  - {{name: restart, type: webhook, url: "{outside.url}/restart"}}
  - {{name: settle, type: wait, duration: 1h}}
  - {{name: reboot, type: webhook, url: "{outside.url}/reboot", when: "false"}}
  - {{name: verify, type: condition, check: heartbeat_received, timeout: 10m}}
""")
    execution = house.start("verified", service="worker-1")
    house.comes_to(execution, "waiting")
    house.beat("worker-1")
    house.run(
        "UPDATE execution_steps SET parked_at = now() - interval '1 h' WHERE execution_id = :id AND position = 1",
        id=execution,
    )
    house.make_due(execution)
    assert house.swept_to_the_end(execution) == "completed"
    assert house.step_states(execution) == ["completed", "completed", "skipped", "completed"]


def test_a_condition_that_stays_false_fails_with_a_timeout(house: House, worker: Workers) -> None:
    house.service("worker-1")
    house.playbook("""
name: watchful
steps:
  - {name: see, type: condition, check: heartbeat_received, timeout: 1s, on_failure: escalate}
""")
    began = time.monotonic()
    execution = house.start("watchful", service="worker-1")
    assert house.swept_to_the_end(execution) == "failed"
    assert time.monotonic() - began >= 1
    error = house.row(execution)["error"]
    assert (error["code"], error["escalated"]) == ("timeout", True)


def test_an_address_is_asked_again_by_the_step_itself(
    house: House, worker: Workers, outside: Recorder
) -> None:
    outside.answer = lambda _: (200 if len(outside.requests) > 1 else 503, b"{}")
    house.playbook(f"""
name: asking
steps:
  - {{name: up, type: condition, check: http, url: "{outside.url}/up", interval: 1s, timeout: 30s}}
""")
    execution = house.start("asking")
    assert house.swept_to_the_end(execution) == "completed"
    assert len(outside.of("/up")) == 2
