"""What operators see: each step in Flower under its own name, the execution as its root, and nothing secret."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from medic import broker
from tests.recorder import Recorder
from tests.tasks.house import House
from tests.tasks.processes import Workers
from tests.waiting import eventually


@pytest.fixture
def events(house: House) -> Iterator[list[dict[str, Any]]]:
    """The events that Flower reads."""
    seen: list[dict[str, Any]] = []
    over, listening = threading.Event(), threading.Event()

    def listen() -> None:
        with broker.app().connection_for_read() as connection:
            receiver = broker.app().events.Receiver(connection, handlers={"*": seen.append})
            with receiver.consumer_context() as (own, _, _):
                listening.set()
                while not over.is_set():
                    try:
                        own.drain_events(timeout=0.2)
                    except TimeoutError:
                        continue

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    assert listening.wait(10)
    yield seen
    over.set()
    thread.join(10)


def test_flower_shows_each_step_under_its_type_its_name_and_its_execution(
    house: House, worker: Workers, outside: Recorder, events: list[dict[str, Any]]
) -> None:
    house.playbook(f"""
name: two
variables: {{PASSWORD: {{default: "hunter2-hunter2"}}}}
steps:
  - {{name: first, type: webhook, url: "{outside.url}/first", body: {{p: "${{PASSWORD}}"}}}}
  - {{name: second, type: webhook, url: "{outside.url}/second"}}
""")
    execution = house.start("two")
    assert house.ended(execution) == "completed"

    def of(kind: str, position: int) -> dict[str, Any] | None:
        uuid = f"{execution}.s{position:02d}.e1"
        return next((e for e in events if e["type"] == kind and e["uuid"] == uuid), None)

    eventually(lambda: of("task-succeeded", 0) and of("task-succeeded", 1))
    first, second = of("task-received", 0), of("task-received", 1)
    assert first is not None
    assert second is not None
    assert [event["name"] for event in (first, second)] == ["medic.step.webhook"] * 2
    assert [event["root_id"] for event in (first, second)] == [str(execution)] * 2
    assert second["parent_id"] == first["uuid"]
    assert [event["args"] for event in (first, second)] == ["('first',)", "('second',)"]
    done = of("task-succeeded", 0)
    assert done is not None
    assert "first: completed" in done["result"]
    assert "hunter2" not in repr(events)


def test_a_wait_keeps_its_execution_as_root_and_the_last_step_as_parent(
    house: House, worker: Workers, outside: Recorder, events: list[dict[str, Any]]
) -> None:
    house.playbook(f"""
name: rested
steps:
  - {{name: rest, type: wait, duration: 1s}}
  - {{name: act, type: webhook, url: "{outside.url}/act"}}
""")
    execution = house.start("rested")
    assert house.swept_to_the_end(execution) == "completed"

    def received() -> dict[str, dict[str, Any]]:
        return {event["uuid"]: event for event in list(events) if event["type"] == "task-received"}

    parked, again, act = f"{execution}.s00.e1", f"{execution}.s00.e2", f"{execution}.s01.e2"
    eventually(lambda: received().keys() >= {parked, again, act})
    assert [received()[uuid]["name"] for uuid in (again, act)] == ["medic.step.wait", "medic.step.webhook"]
    assert [received()[uuid]["parent_id"] for uuid in (again, act)] == [parked, again]
    assert {event["root_id"] for event in received().values()} == {str(execution)}


def test_every_task_and_queue_that_is_sent_is_known_to_the_workers(house: House) -> None:
    from medic.local.components import QUEUES
    from medic.steps import load_types
    from medic_tasks.app import app
    from medic_tasks.schedule import schedule

    app.loader.import_default_modules()
    sent = {broker.STEP_TASK} | {entry["task"] for entry in schedule().values()}
    assert sent <= set(app.tasks)
    known = {queue.name for queue in app.conf.task_queues}
    used = {entry["options"]["queue"] for entry in schedule().values()}
    used |= {type_.queue for type_ in load_types().values()}
    used |= {broker.SYSTEM, broker.DELIVERIES, broker.STEPS, broker.SCRIPTS, broker.HOUSEKEEPING}
    assert used <= known
    assert known == set(QUEUES)
