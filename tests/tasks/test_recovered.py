"""``only_while: alert_open``: right before each acting step its execution's alert must still be open."""

from __future__ import annotations

from uuid import UUID

import pytest
from sqlalchemy import text

from medic.executions.dispatch import dispatch
from tests.recorder import Received, Recorder
from tests.tasks.house import House

pytestmark = pytest.mark.usefixtures("worker")


def for_an_alert(house: House, name: str) -> UUID:
    """An execution of this playbook for an alert that is open, given to the workers."""
    service = house.service("worker-1")
    alert = house.do(
        lambda s: s.execute(
            text(
                "INSERT INTO alerts (service_id, service_name, priority, reasons, opened_at, detected_at)"
                " VALUES (:id, 'worker-1', 'p2', '{missed}', now(), now()) RETURNING id"
            ),
            {"id": service},
        ).scalar_one()
    )
    execution = house.start(name, service="worker-1", publish=False)
    house.run("UPDATE executions SET alert_id = :alert WHERE id = :id", alert=alert, id=execution)
    dispatch(house.engine, execution_id=execution, epoch=0)
    return execution


def heals(house: House, outside: Recorder) -> None:
    """The first request that comes closes the alert."""

    def answer(request: Received) -> tuple[int, bytes]:
        if request.path == "/first":
            house.run("UPDATE alerts SET resolved_at = now(), resolution = 'recovered', reasons = '{}'")
        return 200, b"{}"

    outside.answer = answer


def test_when_the_alert_is_over_no_further_step_acts_and_the_execution_is_completed(
    house: House, outside: Recorder
) -> None:
    heals(house, outside)
    house.playbook(f"""
name: eager
lock: mine
steps:
  - {{name: first, type: webhook, url: "{outside.url}/first"}}
  - {{name: rest, type: wait, duration: 1s}}
  - {{name: second, type: webhook, url: "{outside.url}/second"}}
  - {{name: tell, type: notify, message: done}}
""")
    execution = for_an_alert(house, "eager")
    assert house.swept_to_the_end(execution) == "completed"
    assert [request.path for request in outside.requests] == ["/first"]
    # What does not act does not ask; the step that would have acted ends it, with all behind it.
    assert house.step_states(execution) == ["completed", "completed", "skipped", "skipped"]
    assert [step["error"] and step["error"]["code"] for step in house.steps(execution)] == [
        None, None, "recovered", "recovered",
    ]  # fmt: skip
    assert (house.row(execution)["error"], house.rows("SELECT 1 FROM locks")) == (None, [])


def test_a_step_may_act_whether_the_alert_is_open_or_not(house: House, outside: Recorder) -> None:
    heals(house, outside)
    house.playbook(f"""
name: thorough
steps:
  - {{name: first, type: webhook, url: "{outside.url}/first"}}
  - {{name: tidy, type: webhook, url: "{outside.url}/tidy", only_while: always}}
  - {{name: second, type: webhook, url: "{outside.url}/second"}}
""")
    execution = for_an_alert(house, "thorough")
    assert house.swept_to_the_end(execution) == "completed"
    assert [request.path for request in outside.requests] == ["/first", "/tidy"]
    assert house.step_states(execution) == ["completed", "completed", "skipped"]


def test_an_alert_that_stays_open_holds_nothing_back(house: House, outside: Recorder) -> None:
    house.playbook(f"""
name: patient
steps:
  - {{name: first, type: webhook, url: "{outside.url}/1"}}
  - {{name: second, type: webhook, url: "{outside.url}/2"}}
""")
    assert house.swept_to_the_end(for_an_alert(house, "patient")) == "completed"
    assert [request.path for request in outside.requests] == ["/1", "/2"]
