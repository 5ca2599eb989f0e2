"""Cancelling: at once where nobody acts; a script dies with its children; a webhook runs out."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import psutil
import pytest

from medic import scripts
from medic.db import database_now
from medic.errors import Conflict
from medic.executions.dispatch import dispatch
from tests.recorder import Received, Recorder
from tests.tasks.house import ACTOR, House
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("worker")


def test_what_waits_is_cancelled_at_once(house: House, outside: Recorder) -> None:
    house.playbook(f"""
name: patient
lock: mine
steps:
  - {{name: rest, type: wait, duration: 1h}}
  - {{name: act, type: webhook, url: "{outside.url}/act"}}
""")
    execution = house.start("patient")
    house.comes_to(execution, "waiting")
    house.cancel(execution)
    row = house.row(execution)
    assert (row["state"], row["due_at"], row["error"]["code"]) == ("cancelled", None, "cancelled")
    assert house.step_states(execution) == ["cancelled", "cancelled"]
    assert house.rows("SELECT 1 FROM locks") == []
    with pytest.raises(Conflict):
        house.cancel(execution)


def test_what_was_sent_but_not_begun_is_cancelled_and_its_message_is_fenced(
    house: House, outside: Recorder
) -> None:
    house.playbook(f'name: one\nsteps:\n  - {{name: act, type: webhook, url: "{outside.url}/act"}}\n')
    execution = house.start("one", publish=False)
    house.cancel(execution)
    assert not dispatch(house.engine, execution_id=execution, epoch=0)
    assert house.state(execution) == "cancelled"


def test_a_question_is_void_when_its_execution_is_cancelled(house: House, outside: Recorder) -> None:
    house.playbook(
        f'name: one\napproval: required\nsteps:\n  - {{name: act, type: webhook, url: "{outside.url}/act"}}\n'
    )
    execution = house.start("one")
    house.cancel(execution)
    assert [row["state"] for row in house.rows("SELECT state FROM approvals")] == ["void"]


def test_a_webhook_that_runs_runs_out_and_its_answer_is_kept(house: House, outside: Recorder) -> None:
    go_on = threading.Event()

    def hold(_: Received) -> tuple[int, bytes]:
        assert go_on.wait(20)
        return 200, b'{"id": 7}'

    outside.answer = hold
    house.playbook(f"""
name: two
steps:
  - {{name: act, type: webhook, url: "{outside.url}/act"}}
  - {{name: never, type: webhook, url: "{outside.url}/never"}}
""")
    execution = house.start("two")
    eventually(lambda: outside.of("/act"))
    house.cancel(execution)
    assert house.state(execution) == "running"
    go_on.set()
    assert house.ended(execution) == "cancelled"
    act, never = house.steps(execution)
    assert (act["state"], act["output"]["body"]) == ("completed", {"id": 7})
    assert never["state"] == "cancelled"
    assert outside.of("/never") == []


def test_while_steps_run_their_lease_is_renewed_and_a_cancelled_script_dies_with_its_children(
    house: House, outside: Recorder, tmp_path: Path
) -> None:
    go_on = threading.Event()

    def hold(_: Received) -> tuple[int, bytes]:
        assert go_on.wait(40)
        return 200, b"{}"

    outside.answer = hold
    mark = f"{time.time_ns() % 10**9}"
    house.do(
        lambda s: scripts.put(
            s, name="sleeper", interpreter="bash", content=f"sleep 301.{mark} &\nsleep 302.{mark}\n",
            parameters={}, network=False, description="", actor=ACTOR, now=database_now(s),
        )
    )  # fmt: skip
    house.playbook("name: scripted\nsteps:\n  - {name: doze, type: script, script: sleeper, timeout: 2m}\n")
    house.playbook(
        f'name: slow\nsteps:\n  - {{name: act, type: webhook, url: "{outside.url}/act", timeout: 1m}}\n'
    )
    scripted, slow = house.start("scripted"), house.start("slow")
    eventually(lambda: len(_sleeping(mark)) == 2)
    eventually(lambda: outside.of("/act"))
    # Leases that would be over soon: whoever lives renews them.
    house.run("UPDATE executions SET due_at = now() + interval '12 s'")
    first = house.row(slow)["due_at"]
    house.cancel(scripted)
    assert house.ended(scripted, within=30) == "cancelled"
    assert _sleeping(mark) == []
    assert house.steps(scripted)[0]["error"]["code"] == "stopped"
    eventually(lambda: house.row(slow)["due_at"] > first, within=20)
    assert house.sweep(judge_leases=True).taken_over == 0
    go_on.set()
    assert house.ended(slow) == "completed"
    assert [attempt["outcome"] for attempt in house.attempts(slow)] == ["completed"]


def _sleeping(mark: str) -> list[int]:
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if words[:1] == ["sleep"] and words[-1].endswith(f".{mark}"):
            found.append(process.pid)
    return found
