"""Workers die while a step acts: nothing is lost, and nobody guesses whether it happened."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from uuid import UUID

import pytest

from medic.errors import Conflict
from tests.recorder import Received, Recorder
from tests.tasks.house import House
from tests.tasks.processes import Workers
from tests.waiting import eventually


def playbook(url: str, more: str = "") -> str:
    return f"""
name: fragile
steps:
  - {{name: act, type: webhook, url: "{url}/act"{more}}}
  - {{name: after, type: webhook, url: "{url}/after"}}
"""


@pytest.fixture
def go_on(outside: Recorder) -> Iterator[threading.Event]:
    """The world answers `/act` only when it is told to."""
    told = threading.Event()

    def answer(request: Received) -> tuple[int, bytes]:
        if request.path == "/act":
            assert told.wait(60)
        return 200, b'{"id": 7}'

    outside.answer = answer
    yield told
    told.set()


def lose_a_worker(house: House, own: Workers, outside: Recorder, execution: UUID) -> None:
    """A worker is killed in the middle of the step, and its lease runs out."""
    before = len(outside.of("/act"))
    process = own.steps()
    eventually(lambda: len(outside.of("/act")) == before + 1)
    own.kill(process)
    house.take_over(execution)


def test_a_step_that_may_be_repeated_is_done_again_by_another_worker(
    house: House, own: Workers, outside: Recorder, go_on: threading.Event
) -> None:
    house.playbook(playbook(outside.url, ", on_crash: retry"))
    execution = house.start("fragile")
    lose_a_worker(house, own, outside, execution)
    go_on.set()
    own.steps("second")
    assert house.swept_to_the_end(execution) == "completed"
    first, again = outside.of("/act")
    assert first.headers["idempotency-key"] == again.headers["idempotency-key"]
    assert int(first.headers["medic-fencing-token"]) < int(again.headers["medic-fencing-token"])
    assert [attempt["outcome"] for attempt in house.attempts(execution)] == ["lost", "completed", "completed"]
    step = house.steps(execution)[0]
    assert (step["losses"], step["tries"]) == (1, 0)
    assert len(outside.of("/after")) == 1


@pytest.mark.parametrize(
    ("verdict", "state", "steps", "calls"),
    [
        ("happened", "completed", ["completed", "completed"], (1, 1)),
        ("retry", "completed", ["completed", "completed"], (2, 1)),
        ("fail", "failed", ["failed", "skipped"], (1, 0)),
    ],
)
def test_a_post_that_may_have_happened_waits_in_doubt_for_a_human_to_settle_it(
    house: House, own: Workers, outside: Recorder, go_on: threading.Event,
    verdict: str, state: str, steps: list[str], calls: tuple[int, int],
) -> None:  # fmt: skip
    house.playbook(playbook(outside.url))
    execution = house.start("fragile")
    lose_a_worker(house, own, outside, execution)
    assert house.state(execution) == "in_doubt"
    assert house.step_states(execution) == ["in_doubt", "pending"]
    house.make_due(execution)
    house.sweep()
    assert house.state(execution) == "in_doubt"
    go_on.set()
    house.settle(execution, verdict)  # type: ignore[arg-type]
    own.steps("second")
    assert house.swept_to_the_end(execution) == state
    assert house.step_states(execution) == steps
    assert (len(outside.of("/act")), len(outside.of("/after"))) == calls
    with pytest.raises(Conflict):
        house.settle(execution, "retry")


def test_the_third_loss_ends_it_whatever_the_step_says(
    house: House, own: Workers, outside: Recorder, go_on: threading.Event
) -> None:
    house.playbook(playbook(outside.url, ", on_crash: retry"))
    execution = house.start("fragile")
    for loss in range(3):
        lose_a_worker(house, own, outside, execution)
        if loss < 2:
            assert house.state(execution) == "waiting"
            assert house.sweep().published == 1
    row = house.row(execution)
    assert (row["state"], row["error"]["code"]) == ("failed", "lost_workers")
    assert house.step_states(execution) == ["failed", "skipped"]


def test_a_crash_that_counts_as_failure_does_what_the_step_says_of_failures(
    house: House, own: Workers, outside: Recorder, go_on: threading.Event
) -> None:
    house.playbook(playbook(outside.url, ", on_crash: fail, on_failure: continue"))
    execution = house.start("fragile")
    lose_a_worker(house, own, outside, execution)
    go_on.set()
    own.steps("second")
    assert house.swept_to_the_end(execution) == "completed"
    assert house.step_states(execution) == ["failed", "completed"]
    assert house.steps(execution)[0]["error"]["code"] == "lost"


def test_what_is_cancelled_ends_when_its_lost_worker_is_noticed(
    house: House, own: Workers, outside: Recorder, go_on: threading.Event
) -> None:
    house.playbook(playbook(outside.url))
    execution = house.start("fragile")
    process = own.steps()
    eventually(lambda: outside.of("/act"))
    own.kill(process)
    house.cancel(execution)
    assert house.state(execution) == "running"
    house.take_over(execution)
    assert house.state(execution) == "cancelled"
    assert house.step_states(execution) == ["cancelled", "cancelled"]


def test_a_late_result_is_kept_as_evidence_and_settles_the_doubt(
    house: House, worker: Workers, outside: Recorder, go_on: threading.Event
) -> None:
    house.playbook(playbook(outside.url))
    execution = house.start("fragile")
    eventually(lambda: outside.of("/act"))
    house.take_over(execution)
    assert house.state(execution) == "in_doubt"
    go_on.set()
    house.comes_to(execution, "waiting", "completed")
    assert house.swept_to_the_end(execution) == "completed"
    attempt = house.attempts(execution)[0]
    assert (attempt["outcome"], attempt["output"]["body"]) == ("lost", {"id": 7})
    assert house.steps(execution)[0]["output"]["body"] == {"id": 7}
    assert len(outside.of("/act")) == 1


def test_a_late_failure_does_what_the_step_says_of_failures(
    house: House, worker: Workers, outside: Recorder, go_on: threading.Event
) -> None:
    hold = outside.answer

    def refuse(request: Received) -> tuple[int, bytes]:
        status, body = hold(request)
        return (500 if request.path == "/act" else status), body

    outside.answer = refuse
    house.playbook(playbook(outside.url, ", on_failure: continue"))
    execution = house.start("fragile")
    eventually(lambda: outside.of("/act"))
    house.take_over(execution)
    go_on.set()
    house.comes_to(execution, "waiting", "completed")
    assert house.swept_to_the_end(execution) == "completed"
    assert house.step_states(execution) == ["failed", "completed"]
    assert house.steps(execution)[0]["error"]["code"] == "http_500"


def test_a_zombie_changes_nothing_when_another_worker_went_on(
    house: House, worker: Workers, outside: Recorder, go_on: threading.Event
) -> None:
    house.playbook(playbook(outside.url, ", on_crash: retry"))
    execution = house.start("fragile")
    eventually(lambda: outside.of("/act"))
    house.take_over(execution)
    assert house.sweep().published == 1
    eventually(lambda: len(outside.of("/act")) == 2)
    go_on.set()
    assert house.ended(execution) == "completed"
    eventually(lambda: house.attempts(execution)[0]["output"] is not None)
    assert [attempt["outcome"] for attempt in house.attempts(execution)] == ["lost", "completed", "completed"]
    assert len(outside.of("/after")) == 1


def test_a_lease_is_not_judged_before_the_sweep_reached_the_database_for_a_whole_lease(
    house: House, worker: Workers, outside: Recorder, go_on: threading.Event
) -> None:
    house.playbook(playbook(outside.url))
    execution = house.start("fragile")
    eventually(lambda: outside.of("/act"))
    house.make_due(execution)
    assert house.sweep(judge_leases=False).taken_over == 0
    assert house.state(execution) == "running"
    go_on.set()
    assert house.ended(execution) == "completed"


def test_a_worker_that_is_told_to_stop_lets_its_step_finish(
    house: House, own: Workers, outside: Recorder, go_on: threading.Event
) -> None:
    house.playbook(playbook(outside.url))
    process = own.steps()
    execution = house.start("fragile")
    eventually(lambda: outside.of("/act"))
    process.send_signal(signal.SIGTERM)
    eventually(lambda: "Warm shutdown" in own.said() or process.poll() is not None)
    assert process.poll() is None
    go_on.set()
    assert process.wait(30) == 0
    assert house.attempts(execution)[0]["outcome"] == "completed"
    own.steps("second")
    assert house.ended(execution) == "completed"
    assert len(outside.of("/act")) == 1
