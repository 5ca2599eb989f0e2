"""Executions on real workers: steps run as chained tasks, and what they gave is in the database."""

from __future__ import annotations

import itertools

import pytest

from medic import broker
from tests.recorder import Received, Recorder
from tests.tasks.house import House
from tests.tasks.processes import Workers

pytestmark = pytest.mark.usefixtures("worker")


def test_steps_run_in_order_as_one_chain_and_read_each_others_results(
    house: House, outside: Recorder
) -> None:
    outside.answer = lambda request: (200, b'{"answer": 42}')
    house.playbook(f"""
name: two
steps:
  - {{name: first, type: webhook, url: "{outside.url}/first", body: {{n: 1}}}}
  - {{name: second, type: webhook, url: "{outside.url}/second", body: {{got: "${{steps.first.body.answer}}"}}}}
""")
    execution = house.start("two")
    assert house.ended(execution) == "completed"
    assert [request.path for request in outside.requests] == ["/first", "/second"]
    assert outside.requests[1].json == {"got": 42}
    first = outside.requests[0]
    assert first.headers["idempotency-key"] == f"{execution}.first"
    assert first.headers["medic-fencing-token"] == "1"
    assert [attempt["task_id"] for attempt in house.attempts(execution)] == [
        f"{execution}.s00.e1",
        f"{execution}.s01.e1",
    ]
    assert house.step_states(execution) == ["completed", "completed"]


def test_a_chain_longer_than_a_window_goes_on_under_the_next_epoch(house: House, outside: Recorder) -> None:
    steps = "".join(
        f'  - {{name: s{at}, type: webhook, method: GET, url: "{outside.url}/{at}"}}\n' for at in range(23)
    )
    house.playbook(f"name: long\nsteps:\n{steps}")
    execution = house.start("long")
    assert house.ended(execution) == "completed"
    assert [request.path for request in outside.requests] == [f"/{at}" for at in range(23)]
    assert [attempt["epoch"] for attempt in house.attempts(execution)] == [1] * 20 + [2] * 3


def test_a_failed_step_is_retried_after_a_pause_with_the_same_key_and_a_higher_token(
    house: House, outside: Recorder
) -> None:
    def answer(_: Received) -> tuple[int, bytes]:
        return (503, b"{}") if len(outside.requests) < 3 else (200, b"{}")

    outside.answer = answer
    house.playbook(f"""
name: retried
steps:
  - name: push
    type: webhook
    url: "{outside.url}/push"
    retry: {{attempts: 3, backoff: 1s, factor: 1, jitter: 0}}
""")
    execution = house.start("retried")
    assert house.comes_to(execution, "waiting") == "waiting"
    row = house.row(execution)
    assert (row["waiting_for"], row["owner"]) == ("retry", None)
    assert house.swept_to_the_end(execution) == "completed"
    assert {request.headers["idempotency-key"] for request in outside.requests} == {f"{execution}.push"}
    tokens = [int(request.headers["medic-fencing-token"]) for request in outside.requests]
    assert tokens == sorted(set(tokens))
    assert len(tokens) == 3
    attempts = house.attempts(execution)
    assert [attempt["outcome"] for attempt in attempts] == ["failed", "failed", "completed"]
    assert attempts[0]["error"]["code"] == "http_503"
    pauses = [
        (late["started_at"] - early["ended_at"]).total_seconds()
        for early, late in itertools.pairwise(attempts)
    ]
    assert min(pauses) >= 1
    assert house.steps(execution)[0]["tries"] == 2


def test_after_the_last_try_the_execution_fails_and_what_remains_is_skipped(
    house: House, outside: Recorder
) -> None:
    outside.answer = lambda request: (500, b"{}")
    house.playbook(f"""
name: hopeless
lock: only-one
steps:
  - {{name: push, type: webhook, url: "{outside.url}/push", on_failure: escalate}}
  - {{name: never, type: webhook, url: "{outside.url}/never"}}
""")
    execution = house.start("hopeless")
    assert house.ended(execution) == "failed"
    row = house.row(execution)
    assert (row["error"]["code"], row["error"]["step"], row["error"]["escalated"]) == (
        "http_500",
        "push",
        True,
    )
    assert row["finished_at"] is not None
    assert house.step_states(execution) == ["failed", "skipped"]
    assert house.steps(execution)[1]["error"]["code"] == "not_reached"
    assert outside.of("/never") == []
    assert house.rows("SELECT * FROM locks") == []


def test_on_failure_continue_goes_on_and_when_skips_by_what_happened(house: House, outside: Recorder) -> None:
    outside.answer = lambda request: (500 if request.path == "/broken" else 200, b"{}")
    house.playbook(f"""
name: forgiving
variables: {{ROOT: {{default: "no"}}}}
steps:
  - {{name: broken, type: webhook, url: "{outside.url}/broken", on_failure: continue}}
  - {{name: repair, type: webhook, url: "{outside.url}/repair", when: "${{steps.broken.state}} == 'failed'"}}
  - {{name: reboot, type: webhook, url: "{outside.url}/reboot", when: "${{ROOT}} == 'yes'"}}
  - {{name: last, type: webhook, url: "{outside.url}/last"}}
""")
    execution = house.start("forgiving")
    assert house.ended(execution) == "completed"
    assert house.step_states(execution) == ["failed", "completed", "skipped", "completed"]
    assert [request.path for request in outside.requests] == ["/broken", "/repair", "/last"]


def test_a_value_that_is_missing_fails_the_step_before_anything_is_sent(
    house: House, outside: Recorder
) -> None:
    house.playbook(f"""
name: blind
steps:
  - {{name: call, type: webhook, url: "{outside.url}/call", body: {{who: "${{NOBODY}}"}}}}
""")
    execution = house.start("blind")
    assert house.ended(execution) == "failed"
    assert house.row(execution)["error"]["code"] == "cannot_render"
    assert outside.requests == []


def test_a_playbook_that_the_worker_cannot_read_fails_at_once_and_says_so(
    house: House, outside: Recorder, worker: Workers
) -> None:
    house.playbook(f'name: gone\nsteps:\n  - {{name: call, type: webhook, url: "{outside.url}/call"}}\n')
    execution = house.start("gone", publish=False)
    # A step type that went away with its package.
    house.run(
        "UPDATE playbook_versions SET source = replace(source, 'webhook', 'teleport')"
        " WHERE playbook_id = (SELECT playbook_id FROM executions WHERE id = :id)",
        id=execution,
    )
    house.run("UPDATE executions SET epoch = 1, dispatched_at = now() WHERE id = :id", id=execution)
    link = broker.Link(str(execution), 0, 1, f"{execution}.s00.e1", "webhook", "call", broker.STEPS, 30.0)
    assert broker.publish_chain([link], root_id=str(execution), parent_id=None)
    assert house.ended(execution) == "failed"
    assert house.row(execution)["error"]["code"] == "unreadable"
