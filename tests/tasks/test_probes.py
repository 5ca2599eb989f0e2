"""A probe finds out whether a step happened whose worker was lost; nobody needs to be asked, and nothing is done twice."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from medic.errors import Conflict
from medic.executions import claim as protocol
from medic.executions.dispatch import raise_epoch
from tests.recorder import Received, Recorder
from tests.tasks.house import House
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("worker")


def playbook(url: str, probe: str, more: str = "") -> str:
    return f"""
name: careful
steps:
  - name: act
    type: webhook
    url: "{url}/act"
    probe: {{{probe}}}{more}
  - {{name: after, type: webhook, url: "{url}/after"}}
"""


def lost(house: House, source: str, *, service: str | None = None) -> UUID:
    """An execution whose first step a worker held that is gone, so that nobody knows whether it happened."""
    house.playbook(source)
    execution = house.start("careful", publish=False, service=service)
    ready = house.do(lambda s: raise_epoch(s, execution_id=execution, epoch=0))
    assert ready is not None
    held = house.do(
        lambda s: protocol.claim(
            s, execution_id=execution, position=0, epoch=ready.epoch, owner=uuid4(), task_id="lost",
            worker="lost", acting=["webhook"],
        )
    )  # fmt: skip
    assert held is not None
    house.take_over(execution)
    assert house.state(execution) == "in_doubt"
    return execution


def answers(outside: Recorder, *statuses: int, body: bytes = b"{}") -> None:
    """What `/state` answers, the last one for good."""
    left = list(statuses)

    def answer(request: Received) -> tuple[int, bytes]:
        if request.path.startswith("/state"):
            return (left.pop(0) if len(left) > 1 else left[0]), body
        return 200, b"{}"

    outside.answer = answer


def probe(outside: Recorder, more: str = "") -> str:
    return (
        f'url: "{outside.url}/state/${{EXECUTION_ID}}", retry_on: [404], fail_on: [410], interval: 1s{more}'
    )


@pytest.mark.parametrize(
    ("status", "state", "steps", "calls"),
    [
        (200, "completed", ["completed", "completed"], (0, 1)),
        (404, "completed", ["completed", "completed"], (1, 1)),
        (410, "failed", ["failed", "skipped"], (0, 0)),
    ],
)
def test_what_the_probe_finds_settles_the_doubt(
    house: House, outside: Recorder, status: int, state: str, steps: list[str], calls: tuple[int, int]
) -> None:
    answers(outside, status)
    execution = lost(house, playbook(outside.url, probe(outside)))
    assert house.swept_to_the_end(execution) == state
    assert house.step_states(execution) == steps
    assert (len(outside.of("/act")), len(outside.of("/after"))) == calls
    [asked] = outside.of(f"/state/{execution}")
    assert asked.method == "GET"
    assert asked.headers["idempotency-key"] == f"{execution}.act"
    assert house.steps(execution)[0]["doubt"] is None


def test_a_probe_that_does_not_know_asks_again_and_holds_the_execution(
    house: House, outside: Recorder
) -> None:
    answers(outside, 503, 503, 200)
    execution = lost(house, playbook(outside.url, probe(outside)))
    assert house.swept_to_the_end(execution) == "completed"
    assert len(outside.of(f"/state/{execution}")) == 3
    assert len(outside.of("/act")) == 0
    assert [each["outcome"] for each in house.attempts(execution)] == [
        "lost", "parked", "parked", "completed", "completed",
    ]  # fmt: skip


def test_when_its_time_is_over_a_human_is_asked_or_it_is_as_the_playbook_says(
    house: House, outside: Recorder
) -> None:
    answers(outside, 503)
    execution = lost(house, playbook(outside.url, probe(outside, ", timeout: 1s")))

    def gave_up() -> bool:
        house.sweep()
        doubt = house.steps(execution)[0]["doubt"]
        return house.state(execution) == "in_doubt" and not doubt["probing"]

    eventually(gave_up, within=30)
    assert house.state(execution) == "in_doubt"
    asked = len(outside.of(f"/state/{execution}"))
    house.make_due(execution)
    house.sweep()
    assert house.state(execution) == "in_doubt"
    assert len(outside.of(f"/state/{execution}")) == asked
    house.settle(execution, "happened")
    assert house.swept_to_the_end(execution) == "completed"
    second = lost(house, playbook(outside.url, probe(outside, ", timeout: 1s, otherwise: fail")))
    assert house.swept_to_the_end(second) == "failed"
    assert outside.of("/act") == []


def test_a_human_may_settle_it_before_the_probe_knows(house: House, outside: Recorder) -> None:
    answers(outside, 503)
    execution = lost(house, playbook(outside.url, probe(outside)))
    # Its message is out, and no worker has it: it is fenced.
    ready = house.do(lambda s: raise_epoch(s, execution_id=execution, epoch=2, probe=True))
    assert ready is not None
    assert house.state(execution) == "running"
    house.settle(execution, "happened")
    assert house.swept_to_the_end(execution) == "completed"
    assert outside.of(f"/state/{execution}") == []
    assert outside.of("/act") == []
    with pytest.raises(Conflict):
        house.settle(execution, "retry")


def test_a_worker_that_is_lost_with_the_probe_leaves_the_doubt_as_it_was(
    house: House, outside: Recorder
) -> None:
    answers(outside, 503)
    execution = lost(house, playbook(outside.url, probe(outside)))
    for losses in (2, 3):
        epoch = int(house.row(execution)["epoch"])
        ready = house.do(
            lambda s, epoch=epoch: raise_epoch(s, execution_id=execution, epoch=epoch, probe=True)
        )
        assert ready is not None
        held = house.do(
            lambda s, epoch=ready.epoch: protocol.claim(
                s, execution_id=execution, position=0, epoch=epoch, owner=uuid4(), task_id="lost",
                worker="lost", acting=["webhook"],
            )
        )  # fmt: skip
        assert held is not None
        assert held.doubt is not None
        house.make_due(execution)
        assert house.sweep(judge_leases=True).taken_over == 1
        step = house.steps(execution)[0]
        assert (house.state(execution), step["state"], step["losses"]) == ("in_doubt", "in_doubt", losses)
        assert step["doubt"]["epoch"] == 1
    assert step["doubt"]["probing"] is False  # whatever it is about this probe, a human is asked now
    house.settle(execution, "fail")
    assert house.state(execution) == "failed"


def test_a_condition_may_be_the_probe(house: House, outside: Recorder) -> None:
    house.service("worker-1")
    house.beat("worker-1")  # before the doubt: it proves nothing
    source = playbook(outside.url, "check: heartbeat_received, interval: 1s")
    execution = lost(house, source, service="worker-1")
    house.comes_to(execution, "in_doubt", sweeping=True)
    house.beat("worker-1")
    assert house.swept_to_the_end(execution) == "completed"
    assert (len(outside.of("/act")), len(outside.of("/after"))) == (0, 1)


def test_where_no_probe_knows_people_are_told_at_once_and_each_hour(house: House, outside: Recorder) -> None:
    house.run(
        "WITH t AS (INSERT INTO targets (name, kind) VALUES ('ops', 'webhook') RETURNING id),"
        " r AS (INSERT INTO routes (name, is_default) VALUES ('rest', true) RETURNING id)"
        " INSERT INTO route_targets (route_id, target_id) SELECT r.id, t.id FROM r, t"
    )
    execution = lost(
        house, playbook(outside.url, probe(outside)).replace("probe:", "success: {body: '*'}\n    #")
    )
    house.make_due(execution)
    house.sweep()
    said = [row["payload"] for row in house.rows("SELECT payload FROM deliveries ORDER BY id")]
    assert len(said) == 1
    assert said[0]["text"].startswith(
        f"In doubt: playbook careful, execution {execution}\nStep act: The worker was lost"
    )
    assert said[0]["doubt"] == {"execution": str(execution), "position": 0, "epoch": 1}
    house.run(
        'UPDATE execution_steps SET doubt = doubt || \'{"since": "2026-01-01T00:00:00Z"}\' WHERE position = 0'
    )
    house.make_due(execution)
    house.sweep()
    said = [row["payload"]["text"] for row in house.rows("SELECT payload FROM deliveries ORDER BY id")]
    assert "lock" not in "".join(said), "it has none"
    assert [text.split(":")[0] for text in said] == ["In doubt", "Still in doubt"]
