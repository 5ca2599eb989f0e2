"""Executions tell people: once, whom they should, and never what is secret."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from medic import stop
from medic.db import database_now
from medic.executions import approvals
from tests.recorder import Recorder
from tests.tasks.house import HUMAN, House

pytestmark = pytest.mark.usefixtures("worker")


def target(house: House, name: str) -> int:
    return _one(
        house,
        "INSERT INTO targets (name, kind, config) VALUES (:name, 'webhook', '{\"url\": \"http://127.0.0.1:1/\"}')"
        " RETURNING id",
        name=name,
    )


def route(house: House, name: str, *levels: list[int], match: str = "{}", default: bool = False) -> int:
    route_id = _one(
        house,
        "INSERT INTO routes (name, is_default, match) VALUES (:name, :default, CAST(:match AS jsonb)) RETURNING id",
        name=name, default=default, match=match,
    )  # fmt: skip
    for level, ids in enumerate(levels):
        for position, target_id in enumerate(ids):
            house.run(
                "INSERT INTO route_targets (route_id, target_id, level, position) VALUES (:r, :t, :l, :p)",
                r=route_id, t=target_id, l=level, p=position,
            )  # fmt: skip
    return route_id


def alert(house: House, service: int, *, told_by: int | None = None, level: int = 0) -> int:
    alert_id = _one(
        house,
        "INSERT INTO alerts (service_id, service_name, priority, reasons, opened_at, detected_at, told, told_at)"
        " SELECT id, name, 'p2', '{missed}', now(), now(), CAST(:told AS text[]),"
        "        CASE WHEN :told = '{missed}' THEN now() END FROM services WHERE id = :id RETURNING id",
        id=service, told="{}" if told_by is None else "{missed}",
    )  # fmt: skip
    if told_by is not None:
        house.run(
            "INSERT INTO alert_routes (alert_id, route_id, level, level_at) VALUES (:a, :r, :l, now())",
            a=alert_id, r=told_by, l=level,
        )  # fmt: skip
    return alert_id


def of_alert(house: House, execution: UUID, alert_id: int) -> None:
    house.run("UPDATE executions SET alert_id = :a WHERE id = :id", a=alert_id, id=execution)


def told(house: House, kind: str = "notice") -> list[tuple[str, str]]:
    rows = house.rows(
        "SELECT t.name, d.payload ->> 'text' AS text FROM deliveries d JOIN targets t ON t.id = d.target_id"
        " WHERE d.kind = :kind ORDER BY d.id",
        kind=kind,
    )
    return [(row["name"], row["text"]) for row in rows]


def _one(house: House, sql: str, **values: Any) -> int:
    with house.engine.begin() as connection:
        found: int = connection.execute(text(sql), values).scalar_one()
        return found


# --- notify


def notify(*keys: str) -> str:
    steps = "\n".join(f"  - {{name: n{at}, type: notify, {each}}}" for at, each in enumerate(keys))
    return f"name: talk\nvariables: {{WHO: {{default: w1}}}}\nsteps:\n{steps}\n"


def test_a_notify_step_tells_a_target_a_route_or_whom_the_service_tells(house: House) -> None:
    ops, night, team, everybody = (target(house, name) for name in ("ops", "night", "team", "everybody"))
    route(house, "night-shift", [], [night], match='{"service": "nothing"}')
    route(house, "team", [team], [ops], match='{"service": "worker-*"}')
    route(house, "default", [everybody], default=True)
    house.service("worker-1")
    house.playbook(
        notify(
            'target: ops, message: "Restarted ${WHO} for ${SERVICE_NAME}"',
            'route: night-shift, message: "${steps.n0.targets}"',
            "message: Done",
        )
    )
    execution = house.start("talk", service="worker-1")
    assert house.ended(execution) == "completed"
    assert told(house) == [
        ("ops", "Restarted w1 for worker-1"),
        ("night", '["ops"]'),
        ("team", "Done"),
    ]
    house.playbook(notify("message: Nobody's"))
    assert house.ended(house.start("talk")) == "completed"
    assert told(house)[-1] == ("everybody", "Nobody's")


def test_a_target_that_does_not_exist_fails_the_step_and_says_so(house: House) -> None:
    house.playbook(notify("target: nobody, message: Hello"))
    execution = house.start("talk")
    assert house.ended(execution) == "failed"
    error = house.row(execution)["error"]
    assert (error["code"], error["message"]) == ("nobody_to_tell", "There is no target 'nobody'.")
    house.playbook(notify("route: nobody, message: Hello"))
    execution = house.start("talk")
    assert house.ended(execution) == "failed"
    assert house.row(execution)["error"]["message"] == "There is no route 'nobody'."
    house.playbook(notify("message: Hello"))
    execution = house.start("talk")
    assert house.ended(execution) == "failed"
    assert "No route tells anybody" in house.row(execution)["error"]["message"]
    assert told(house) == []


def test_a_step_that_runs_twice_tells_once(house: House) -> None:
    target(house, "ops")
    house.playbook(notify("target: ops, message: Hello", "target: ops, message: Bye"))
    execution = house.start("talk")
    assert house.ended(execution) == "completed"
    # As if the record had been lost with its worker: the row stands before the step again, in a later epoch.
    house.run(
        "UPDATE executions SET state = 'waiting', waiting_for = 'retry', next_step = 0, due_at = now(),"
        " finished_at = NULL WHERE id = :id",
        id=execution,
    )
    assert house.swept_to_the_end(execution) == "completed"
    assert len(house.attempts(execution)) == 4
    assert told(house) == [("ops", "Hello"), ("ops", "Bye")]


# --- escalate


def failing(url: str) -> str:
    return f"name: heal\nsteps:\n  - {{name: act, type: webhook, url: '{url}/act', on_failure: escalate}}\n"


def test_escalate_tells_the_next_level_of_the_alert_and_then_the_last_one_again(
    house: House, outside: Recorder
) -> None:
    outside.answer = lambda _: (400, b"no")
    first, second = target(house, "first"), target(house, "second")
    way = route(house, "team", [first], [second], match='{"service": "worker-*"}')
    alert_id = alert(house, house.service("worker-1"), told_by=way)
    house.playbook(failing(outside.url))
    for told_so_far in (1, 2):
        execution = house.start("heal", publish=False, service="worker-1")
        of_alert(house, execution, alert_id)
        assert house.swept_to_the_end(execution) == "failed"
        messages = told(house, "escalated")
        assert [name for name, _ in messages] == ["second"] * told_so_far
        assert messages[-1][1].startswith("Playbook heal failed at step act: ")
        assert house.row(execution)["error"]["escalated"] is True
    assert house.rows("SELECT level FROM alert_routes") == [{"level": 1}]
    kinds = house.rows("SELECT kind, evidence FROM alert_transitions ORDER BY id")
    assert [row["kind"] for row in kinds] == ["escalated"] * 2
    assert kinds[-1]["evidence"]["execution"] == str(execution)
    assert told(house) == []


def test_an_execution_without_an_alert_escalates_to_the_default_route(
    house: House, outside: Recorder
) -> None:
    outside.answer = lambda _: (400, b"no")
    route(house, "default", [target(house, "everybody")], default=True)
    house.playbook(failing(outside.url))
    execution = house.start("heal")
    assert house.ended(execution) == "failed"
    [(name, said)] = told(house)
    assert name == "everybody"
    assert "Playbook heal failed at step act" in said
    assert str(execution) in said
    audited = house.rows("SELECT detail FROM audit_entries WHERE action = 'execution.escalate'")
    assert [len(row["detail"]["targets"]) for row in audited] == [1]


def test_a_muted_service_is_not_escalated(house: House, outside: Recorder) -> None:
    outside.answer = lambda _: (400, b"no")
    first, second = target(house, "first"), target(house, "second")
    way = route(house, "team", [first], [second], match='{"service": "worker-*"}')
    service = house.service("worker-1")
    alert_id = alert(house, service, told_by=way)
    house.run(
        "INSERT INTO mutes (service_id, reason, created_by, created_at, ends_at, due_at)"
        " VALUES (:id, 'quiet', 'key:a', now(), now() + interval '1 h', now() + interval '1 h')",
        id=service,
    )
    house.playbook(failing(outside.url))
    execution = house.start("heal", publish=False, service="worker-1")
    of_alert(house, execution, alert_id)
    assert house.swept_to_the_end(execution) == "failed"
    assert told(house) == told(house, "escalated") == []


# --- approvals


def asked(house: House, *, timeout: str = "") -> UUID:
    route(house, "default", [target(house, "everybody")], default=True)
    house.playbook(
        f"name: careful\napproval: {timeout or 'required'}\nsteps: [{{name: w, type: wait, duration: 1s}}]\n"
    )
    return house.start("careful", publish=False)


def pass_time(house: House, execution: UUID, *, due: bool = True, **span: float) -> None:
    """Everything of the question lies further back, and it is due."""
    for name in ("requested_at", "expires_at", "clock_since"):
        house.run(f"UPDATE approvals SET {name} = {name} - :span", span=timedelta(**span))
    if due:
        house.make_due(execution)


def test_a_question_is_told_at_once_and_comes_up_again_each_hour(house: House) -> None:
    execution = asked(house)
    question = house.rows("SELECT * FROM approvals")[0]
    [(name, said)] = told(house)
    assert name == "everybody"
    assert said.startswith(f"Approval needed: playbook careful, execution {execution}")
    assert f"medic approve {question['id']}" in said
    payload = house.rows("SELECT payload FROM deliveries")[0]["payload"]
    assert payload["approval"] == {"id": question["id"], "plan_digest": question["plan_digest"]}
    house.make_due(execution)
    house.sweep()
    assert len(told(house)) == 1  # an early look is no reminder
    pass_time(house, execution, minutes=61)
    house.sweep()
    house.make_due(execution)
    house.sweep()
    assert [text.split(":")[0] for _, text in told(house)] == [
        "Approval needed",
        "Still waiting for approval",
    ]
    due = house.rows("SELECT due_at - now() AS ahead FROM executions")[0]["ahead"]
    assert timedelta(minutes=50) < due <= timedelta(hours=1)


def test_a_stop_gives_back_what_was_left_of_a_questions_time(house: House) -> None:
    execution = asked(house, timeout="timeout:30m")
    pass_time(house, execution, minutes=10)
    house.do(lambda s: stop.stop_all(s, reason="fire", actor=HUMAN, now=database_now(s)))
    house.run("UPDATE stops SET stopped_at = stopped_at - interval '5 min'")
    pass_time(house, execution, minutes=20)  # 30 of 30 minutes, 5 min of real time before the stop
    house.run("UPDATE stops SET stopped_at = stopped_at - interval '20 min'")
    assert house.sweep().seen == 0
    assert house.do(lambda s: approvals.resume_all(s, actor=HUMAN, now=database_now(s)))
    assert not house.do(lambda s: approvals.resume_all(s, actor=HUMAN, now=database_now(s)))
    house.sweep()
    assert house.state(execution) == "pending_approval"
    left = house.rows("SELECT expires_at - now() AS left FROM approvals")[0]["left"]
    assert timedelta(minutes=24) < left <= timedelta(minutes=25)  # stopped 5 min after it was asked
    assert "Everything was stopped. That time does not count" in told(house)[-1][1]


def test_what_is_left_after_a_stop_is_five_minutes_at_least(house: House) -> None:
    execution = asked(house, timeout="timeout:10m")
    pass_time(house, execution, minutes=9)
    house.do(lambda s: stop.stop_all(s, reason="fire", actor=HUMAN, now=database_now(s)))
    house.do(lambda s: approvals.resume_all(s, actor=HUMAN, now=database_now(s)))
    left = house.rows("SELECT expires_at - now() AS left FROM approvals")[0]["left"]
    assert timedelta(minutes=4) < left <= timedelta(minutes=5)
    pass_time(house, execution, minutes=6)
    house.sweep()
    assert house.rows("SELECT state, decided_by FROM approvals")[0]["state"] == "approved"


def test_time_in_which_medic_could_not_be_reached_does_not_count(house: House) -> None:
    execution = asked(house, timeout="timeout:20m")
    pass_time(house, execution, minutes=21)
    # It heard until 18 minutes ago, and again for the last two.
    for since, until in ((40, 18), (2, 0)):
        house.run(
            "INSERT INTO coverage (process, since, until, closed) VALUES (gen_random_uuid(),"
            " now() - make_interval(mins => :since), now() - make_interval(mins => :until), true)",
            since=since, until=until,
        )  # fmt: skip
    house.sweep()
    assert house.state(execution) == "pending_approval"
    left = house.rows("SELECT expires_at - now() AS left FROM approvals")[0]["left"]
    assert timedelta(minutes=14) < left <= timedelta(minutes=15, seconds=1)  # 17 from two minutes ago on
    assert "Medic could not be reached." in told(house)[-1][1]
    pass_time(house, execution, minutes=16)
    house.run("UPDATE coverage SET since = since - interval '16 min', until = until - interval '16 min'")
    house.run(
        "UPDATE coverage SET until = now(), closed = false WHERE until = (SELECT max(until) FROM coverage)"
    )
    house.sweep()
    assert house.rows("SELECT state FROM approvals")[0]["state"] == "approved"


def test_a_decision_ends_the_reminders(house: House) -> None:
    execution = asked(house)
    house.decide(execution, "rejected")
    pass_time(house, execution, hours=2, due=False)
    house.sweep()
    assert len(told(house)) == 1


def test_a_notice_is_one_message_for_each_target(house: House) -> None:
    """Two levels of two routes may name one target."""
    ops = target(house, "ops")
    route(house, "a", [ops], match='{"service": "worker-*"}')
    route(house, "b", [ops], match='{"service": "worker-*"}')
    house.service("worker-1")
    house.playbook(notify("message: Hello"))
    assert house.ended(house.start("talk", service="worker-1")) == "completed"
    assert told(house) == [("ops", "Hello")]
