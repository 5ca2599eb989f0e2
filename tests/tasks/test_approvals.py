"""Approvals: a question holds the execution, and exactly one answer counts."""

from __future__ import annotations

import pytest

from medic import scripts
from medic.db import database_now
from medic.errors import Conflict
from tests.recorder import Recorder
from tests.tasks.house import ACTOR, House

pytestmark = pytest.mark.usefixtures("worker")


def asking(url: str, approval: str) -> str:
    return f"""
name: careful
approval: {approval}
steps:
  - {{name: act, type: webhook, url: "{url}/act", body: {{who: "${{SERVICE_NAME}}"}}}}
"""


def test_an_execution_that_needs_approval_does_nothing_until_somebody_else_approves(
    house: House, outside: Recorder
) -> None:
    house.service("worker-1")
    house.playbook(asking(outside.url, "required"))
    execution = house.start("careful", service="worker-1")
    house.make_due(execution)
    house.sweep()
    assert house.state(execution) == "pending_approval"
    with pytest.raises(Conflict):
        house.decide(execution, "approved", actor=ACTOR)
    question = house.rows("SELECT * FROM approvals")[0]
    assert question["plan"]["steps"][0]["body"] == {"who": "worker-1"}
    house.decide(execution, "approved")
    assert house.swept_to_the_end(execution) == "completed"
    assert len(outside.of("/act")) == 1
    with pytest.raises(Conflict):
        house.answer(question["id"], "rejected")


def test_a_rejected_execution_is_cancelled_and_did_nothing(house: House, outside: Recorder) -> None:
    house.playbook(asking(outside.url, "required").replace('"${SERVICE_NAME}"', "nobody"))
    execution = house.start("careful")
    house.decide(execution, "rejected")
    row = house.row(execution)
    assert (row["state"], row["error"]["code"], row["due_at"]) == ("cancelled", "rejected", None)
    assert house.step_states(execution) == ["cancelled"]
    assert house.sweep().seen == 0
    assert outside.requests == []


def test_an_approval_with_a_timeout_approves_itself_when_the_time_is_over(
    house: House, outside: Recorder
) -> None:
    house.playbook(asking(outside.url, "timeout:1s").replace('"${SERVICE_NAME}"', "nobody"))
    execution = house.start("careful")
    house.sweep()
    assert house.state(execution) == "pending_approval"
    assert house.swept_to_the_end(execution) == "completed"
    question = house.rows("SELECT * FROM approvals")[0]
    assert (question["state"], question["decided_by"]) == ("approved", "medic:medic")
    assert question["decided_at"] >= question["expires_at"]


def test_an_approval_in_the_middle_holds_what_follows(house: House, outside: Recorder) -> None:
    house.playbook(f"""
name: careful
steps:
  - {{name: look, type: webhook, url: "{outside.url}/look"}}
  - {{name: ask, type: approval, message: "Restart?"}}
  - {{name: act, type: webhook, url: "{outside.url}/act"}}
""")
    execution = house.start("careful")
    house.comes_to(execution, "pending_approval")
    house.make_due(execution)
    house.sweep()
    assert house.state(execution) == "pending_approval"
    assert outside.of("/act") == []
    house.decide(execution, "approved")
    assert house.swept_to_the_end(execution) == "completed"
    assert [request.path for request in outside.requests] == ["/look", "/act"]
    assert house.steps(execution)[1]["output"] == {"approved": True}


def test_a_rejected_step_fails_the_execution(house: House, outside: Recorder) -> None:
    house.playbook(f"""
name: careful
steps:
  - {{name: ask, type: approval, message: "Restart?"}}
  - {{name: act, type: webhook, url: "{outside.url}/act"}}
""")
    execution = house.start("careful")
    house.comes_to(execution, "pending_approval")
    house.decide(execution, "rejected")
    assert house.swept_to_the_end(execution) == "failed"
    assert house.row(execution)["error"]["code"] == "rejected"
    assert outside.requests == []


def test_an_approval_step_that_nobody_answers_decides_itself_as_it_says(
    house: House, outside: Recorder
) -> None:
    house.playbook(f"""
name: careful
steps:
  - {{name: ask, type: approval, message: "Go on?", timeout: 1s, on_timeout: approve}}
  - {{name: act, type: webhook, url: "{outside.url}/act"}}
""")
    execution = house.start("careful")
    house.comes_to(execution, "pending_approval")
    assert house.swept_to_the_end(execution) == "completed"
    assert len(outside.of("/act")) == 1


def test_the_script_that_was_approved_is_what_runs_whatever_was_stored_since(house: House) -> None:
    def store(says: str) -> None:
        house.do(
            lambda s: scripts.put(
                s, name="speak", interpreter="bash", content=f"echo {says}\n", parameters={}, network=False,
                description="", actor=ACTOR, now=database_now(s),
            )
        )  # fmt: skip

    step = "  - {name: say, type: script, script: speak}\n"
    house.playbook(f"name: spoken\napproval: required\nsteps:\n{step}")
    house.playbook(f"name: free\nsteps:\n{step}")
    house.playbook(f"name: later\nsteps:\n  - {{name: ask, type: approval, message: go}}\n{step}")
    store("first")
    asked, later = house.start("spoken"), house.start("later")
    house.comes_to(later, "pending_approval")
    plans = house.rows("SELECT plan FROM approvals ORDER BY position NULLS FIRST")
    assert [row["plan"]["steps"][-1]["version"] for row in plans] == [1, 1]
    store("second")
    for execution in (asked, later):
        house.decide(execution, "approved")
        assert house.swept_to_the_end(execution) == "completed"
        said = house.steps(execution)[-1]["output"]
        assert (said["stdout"], said["version"]) == ("first\n", 1)
    free = house.start("free")
    assert house.ended(free) == "completed"
    assert house.steps(free)[0]["output"]["stdout"] == "second\n"


def test_a_question_says_which_lock_it_keeps(house: House) -> None:
    house.run(
        "WITH t AS (INSERT INTO targets (name, kind) VALUES ('ops', 'webhook') RETURNING id),"
        " r AS (INSERT INTO routes (name, is_default) VALUES ('rest', true) RETURNING id)"
        " INSERT INTO route_targets (route_id, target_id) SELECT r.id, t.id FROM r, t"
    )
    house.playbook("name: kept\nlock: host-w1\nsteps:\n  - {name: ask, type: approval, message: go}\n")
    house.playbook("name: other\nlock: host-w1\nsteps:\n  - {name: w, type: wait, duration: 1s}\n")
    execution = house.start("kept")
    house.comes_to(execution, "pending_approval")
    [said] = house.rows("SELECT payload ->> 'text' AS text FROM deliveries")
    assert "Meanwhile it keeps the lock host-w1: what needs it too waits." in said["text"]
    held = house.start("other")
    house.make_due(held)
    house.sweep()
    assert house.row(held)["waiting_for"] == "lock"
    house.decide(execution, "approved")
    assert house.swept_to_the_end(execution) == "completed"
    assert house.rows("SELECT 1 FROM locks WHERE execution_id = :id", id=execution) == []
