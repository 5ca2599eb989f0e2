"""Executions on real workers: steps run as chained tasks, and what they gave is in the database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.recorder import Recorder

if TYPE_CHECKING:
    from tests.tasks.conftest import House, Workers

TWO_WEBHOOKS = """
name: two
steps:
  - {{name: first, type: webhook, url: "{url}/first", body: {{n: 1}}}}
  - {{name: second, type: webhook, url: "{url}/second", body: {{got: "${{steps.first.body.answer}}"}}}}
"""


def test_steps_run_in_order_as_one_chain_and_read_each_others_results(
    house: House, workers: Workers, outside: Recorder
) -> None:
    outside.answer = lambda request: (200, b'{"answer": 42}')
    house.playbook(TWO_WEBHOOKS.format(url=outside.url))
    workers.steps()
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
    assert [step["state"] for step in house.steps(execution)] == ["completed", "completed"]
