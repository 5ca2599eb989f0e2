"""The broker loses every message once, or delivers every one twice; a worker freezes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from uuid import UUID

import pytest

from tests.chaos.crew import Crew
from tests.chaos.judgement import judged
from tests.chaos.mix import BY_NAME, drawn
from tests.chaos.storm import Storm
from tests.recorder import Answer, Received
from tests.tasks.house import FINAL
from tests.waiting import eventually

COUNT = 30


@pytest.fixture(scope="module")
def crew(crew: Crew) -> Crew:
    """At work, and never killed by the module's first tests."""
    for role in ("system", "beat"):
        crew.start(role)
    crew.start("steps", concurrency=3)
    crew.ready()
    return crew


@pytest.fixture
def held(storm: Storm) -> Iterator[threading.Event]:
    """The world answers only when it is told to."""
    told = threading.Event()
    usual = storm.world.recorder.answer

    def answer(request: Received) -> Answer:
        assert told.wait(60)
        return usual(request)

    storm.world.recorder.answer = answer
    yield told
    told.set()
    storm.world.recorder.answer = usual


def test_every_message_may_be_lost_once(storm: Storm) -> None:
    seen: set[str] = set()
    lock = threading.Lock()

    def lose_the_first(queue: str, task_id: str) -> int:
        # `<execution>.s03.e2.r2`: the same step's message, however often it is sent again.  A tick is one of many.
        name = ".".join(task_id.split(".")[:2]) if "." in task_id else queue
        with lock:
            if name in seen:
                seen.discard(queue)
                return 1
            seen.add(name)
            return 0

    storm.wire.fate = lose_the_first
    run(storm)
    assert storm.wire.lost >= COUNT * 2 // 3
    assert not storm.house.rows("SELECT 1 FROM step_attempts WHERE outcome = 'lost'")


def test_every_message_may_come_twice(storm: Storm) -> None:
    storm.wire.fate = lambda _queue, _task: 2
    effects = len(storm.world.effects())
    run(storm)
    assert storm.wire.doubled >= COUNT * 2 // 3
    assert len(storm.world.effects()) > effects
    assert not storm.house.rows("SELECT 1 FROM step_attempts WHERE outcome = 'lost'")


def run(storm: Storm) -> None:
    """A mix of executions, all of which end with every effect once."""
    with storm.attended():
        # Not the long ones: each of their steps would wait for the sweep.
        recipes = [recipe for recipe in drawn(storm.chance, COUNT) if recipe.name != "long"]
        storm.start_all(recipes, seconds=1).join(30)
        storm.settle_down(within=120)
    assert judged(storm.house, storm.world) == []


def test_a_worker_that_wakes_up_behind_its_lease_is_fenced(
    storm: Storm, crew: Crew, held: threading.Event
) -> None:
    execution = start(storm, "repeating")
    eventually(lambda: len(arrived(storm, execution)) == 1, within=30)
    sleeper = next(member for member in crew.of("steps"))
    crew.signal(sleeper, signal.SIGSTOP)
    crew.dead.append(sleeper.name)
    with storm.attended():
        # Its lease is judged only by a sweep that watched for a whole one.
        eventually(lambda: outcomes(storm, execution)[:1] == ["lost"], within=60)
        other = crew.start("steps")
        crew.ready()
        held.set()
        eventually(lambda: storm.house.state(execution) in FINAL, within=60)
        before = len(storm.world.effects())
        crew.dead.remove(sleeper.name)
        crew.signal(sleeper, signal.SIGCONT)
        # The answer that it slept through is kept as evidence, and nothing else.
        eventually(lambda: storm.house.attempts(execution)[0]["output"] is not None, within=60)
    assert (storm.house.state(execution), outcomes(storm, execution)[0]) == ("completed", "lost")
    assert len(storm.world.effects()) == before
    assert judged(storm.house, storm.world) == []
    crew.kill(other)


def start(storm: Storm, name: str) -> UUID:
    assert name in BY_NAME
    return storm.house.start(name, publish=False)


def arrived(storm: Storm, execution: UUID) -> list[str]:
    return [effect.key for effect in storm.world.effects() if effect.execution == execution]


def outcomes(storm: Storm, execution: UUID) -> list[str | None]:
    return [attempt["outcome"] for attempt in storm.house.attempts(execution)]
