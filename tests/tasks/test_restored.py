"""After a backup was restored nothing that already happened happens again, until a human says so."""

from __future__ import annotations

from typing import Any

from click.testing import CliRunner
from sqlalchemy import text

from medic import restored as work
from medic import stop
from medic.cli import main
from medic.db import database_now
from medic.executions.dispatch import dispatch
from tests.recorder import Recorder
from tests.tasks.house import HUMAN, House
from tests.tasks.processes import Workers
from tests.waiting import eventually


def restore(house: House) -> work.Restored:
    return house.do(lambda s: work.restored(s, actor=HUMAN, now=database_now(s)))


def resume(house: House) -> None:
    assert house.do(lambda s: stop.resume_all(s, actor=HUMAN, now=database_now(s)))


def calling(house: House, outside: Recorder, name: str, more: str = "") -> None:
    house.playbook(f"""
name: {name}
{more}
steps:
  - {{name: act, type: webhook, url: "{outside.url}/{name}"}}
""")


def back_to(house: House, rows: list[dict[str, Any]]) -> None:
    """The backup is restored: the rows say again what they said."""
    for row in rows:
        house.run(
            "UPDATE executions SET state = :state, waiting_for = :waiting_for, epoch = :epoch, owner = :owner,"
            " next_step = :next_step, due_at = :due_at, dispatched_at = :dispatched_at, finished_at = NULL,"
            " last_task_id = NULL, started_at = NULL, error = NULL WHERE id = :id",
            **row,
        )
        house.run("DELETE FROM step_attempts WHERE execution_id = :id", id=row["id"])
        house.run(
            "UPDATE execution_steps SET state = 'pending', ended_at = NULL, output = NULL, started_at = NULL"
            " WHERE execution_id = :id",
            id=row["id"],
        )


def test_what_was_done_since_the_backup_is_not_done_again_by_sweep_nor_by_old_messages(
    house: House, worker: Workers, outside: Recorder
) -> None:
    calling(house, outside, "once")
    execution = house.start("once", publish=False)
    saved = house.row(execution)
    assert dispatch(house.engine, execution_id=execution, epoch=0)
    assert house.ended(execution) == "completed"
    assert len(outside.of("/once")) == 1

    back_to(house, [saved])
    found = restore(house)
    assert (found.engaged, found.in_doubt) == (True, 1)
    assert house.sweep().seen == 0  # the stop switch
    resume(house)
    house.make_due(execution)
    house.sweep()
    assert house.state(execution) == "in_doubt"
    assert house.row(execution)["epoch"] >= work.EPOCH_LEAP
    # The lost time went up to epochs that the backup does not know; their messages may still come.
    for epoch in (1, 2, 3):
        assert not dispatch(house.engine, execution_id=execution, epoch=epoch)
    assert len(outside.of("/once")) == 1

    house.settle(execution, "happened")
    assert house.state(execution) == "completed"
    assert len(outside.of("/once")) == 1


def test_a_message_of_the_lost_time_is_fenced_and_a_retry_acts_once(
    house: House, own: Workers, outside: Recorder, broker_client: Any
) -> None:
    calling(house, outside, "queued")
    execution = house.start("queued")  # epoch 1, and its message waits for a worker
    restore(house)
    resume(house)
    own.steps()
    eventually(
        lambda: not broker_client.llen("medic.steps") and not broker_client.exists("unacked"), within=60
    )
    assert outside.requests == []
    assert house.state(execution) == "in_doubt"
    house.settle(execution, "retry")
    assert house.swept_to_the_end(execution) == "completed"
    assert len(outside.of("/queued")) == 1


def test_a_step_that_ran_when_the_backup_was_made_is_lost_and_in_doubt(
    house: House, outside: Recorder
) -> None:
    calling(house, outside, "ran")
    execution = house.start("ran", publish=False)
    house.run(
        "UPDATE executions SET epoch = 1, owner = gen_random_uuid(), due_at = now() + interval '30 s' WHERE id = :id",
        id=execution,
    )
    house.run(
        "INSERT INTO step_attempts (execution_id, position, epoch, owner, task_id, worker, started_at)"
        " SELECT id, 0, 1, owner, 't', 'w', now() FROM executions WHERE id = :id",
        id=execution,
    )
    restore(house)
    row = house.row(execution)
    assert (row["state"], row["owner"]) == ("in_doubt", None)
    assert [attempt["outcome"] for attempt in house.attempts(execution)] == ["lost"]
    (step,) = house.steps(execution)
    assert (step["state"], step["error"]["code"]) == ("in_doubt", "restored")


def test_one_that_was_asked_to_be_cancelled_is_cancelled(house: House, outside: Recorder) -> None:
    calling(house, outside, "stopped")
    execution = house.start("stopped", publish=False)
    house.run(
        "UPDATE executions SET epoch = 1, owner = gen_random_uuid(), cancel_requested_at = now(),"
        " cancel_requested_by = 'key:x' WHERE id = :id",
        id=execution,
    )
    assert restore(house).cancelled == 1
    assert house.state(execution) == "cancelled"


def test_an_approval_is_asked_on_but_its_time_alone_decides_nothing(house: House, outside: Recorder) -> None:
    calling(house, outside, "asking", 'approval: "timeout:10m"')
    execution = house.start("asking", publish=False)
    assert house.state(execution) == "pending_approval"
    found = restore(house)
    assert (found.in_doubt, found.waiting_for_approval) == (0, 1)
    resume(house)
    house.run("UPDATE approvals SET requested_at = now() - interval '1 d'")
    house.make_due(execution)
    house.sweep()
    assert house.state(execution) == "pending_approval"
    house.decide(execution, "rejected")
    assert house.state(execution) == "cancelled"


def test_one_that_waited_for_a_lock_still_has_to_get_it_when_it_is_settled(
    house: House, outside: Recorder
) -> None:
    calling(house, outside, "locked", "lock: host\nconcurrency: {per_playbook: 5}")
    first, second = house.start("locked", publish=False), house.start("locked", publish=False)
    assert house.row(second)["waiting_for"] == "lock"
    assert restore(house).in_doubt == 2
    resume(house)
    house.settle(second, "retry")
    assert house.row(second)["waiting_for"] == "lock"
    house.make_due(second)
    house.sweep()
    assert house.row(second)["waiting_for"] in {"lock", "concurrency"}
    house.settle(first, "happened")
    house.make_due(second)
    house.sweep()
    assert house.state(second) == "running"


def test_running_it_again_changes_nothing_and_ended_executions_stay_ended(
    house: House, outside: Recorder
) -> None:
    calling(house, outside, "twice")
    over, still = house.start("twice", publish=False), house.start("twice", publish=False)
    house.cancel(over)
    first = restore(house)
    before = house.row(still)
    again = restore(house)
    assert (first.engaged, again.engaged) == (True, False)
    assert (first.in_doubt, again.in_doubt) == (1, 1)
    after = house.row(still)
    assert (after["state"], after["next_step"]) == (before["state"], before["next_step"])
    assert after["epoch"] > before["epoch"]
    assert house.state(over) == "cancelled"
    assert len(house.rows("SELECT 1 FROM stops")) == 1
    actions = [row["action"] for row in house.rows("SELECT action FROM audit_entries ORDER BY id")]
    assert actions.count("execution.doubt") == 1
    assert actions.count("backup.restore") == 2


def test_no_id_of_the_lost_time_is_given_again(house: House) -> None:
    before = house.service("before")
    restore(house)
    assert house.service("after") > before + work.ID_LEAP


def test_the_command_asks_first_tells_what_is_to_be_done_and_speaks_json(
    house: House, outside: Recorder, task_environ: dict[str, str]
) -> None:
    calling(house, outside, "told")
    house.start("told", publish=False)

    def medic(*arguments: str, stdin: str = "") -> Any:
        return CliRunner().invoke(main, ["restored", *arguments], input=stdin, env=task_environ)

    assert medic(stdin="n\n").exit_code == 1
    with house.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM stops")).scalar() == 0
    done = medic("--yes")
    assert done.exit_code == 0, done.output
    assert "1 executions are in doubt" in done.output
    assert "medic resume-all" in done.output
    assert '"in_doubt": 1' in medic("--yes", "--output", "json").output
