"""Schedule triggers: one execution for each time, whoever sweeps, whatever the clocks do, and after an absence."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine

from medic import occurrences, stop, triggers
from medic.crypto.key_ring import KeyRing
from medic.db import in_transaction
from medic.occurrences import passed
from medic.schedule import Cron
from medic.triggers import Wish
from tests.monitoring.fleet import ACTOR, T0, Fleet, at

HOUR = 3600.0


def no_ring() -> KeyRing:
    raise AssertionError("no key is needed")


def schedule(fleet: Fleet, *, now: float | datetime = 0, **more: Any) -> int:
    wish = Wish(**{"playbook": "fix", "kind": "schedule", "cron": "0 * * * *", **more})
    moment = now if isinstance(now, datetime) else at(now)
    stored, _ = in_transaction(
        fleet.engine,
        lambda s: triggers.create(s, no_ring, wish=wish, pepper=b"p" * 32, actor=ACTOR, now=moment),
    )
    return stored.trigger.id


def tick(engine: Engine, moment: datetime) -> list[UUID]:
    """What the task does: until nothing is due."""
    started = []
    while True:
        found, execution_id = in_transaction(engine, lambda s: occurrences.fire_due(s, now=moment))
        started += [execution_id] if execution_id is not None else []
        if not found:
            return started


def outcomes(fleet: Fleet) -> list[tuple[float, str]]:
    rows = fleet.rows("SELECT * FROM trigger_occurrences ORDER BY at, trigger_id")
    return [((row["at"] - T0).total_seconds(), row["outcome"]) for row in rows]


def test_each_time_starts_one_execution(fleet: Fleet) -> None:
    fleet.playbook()
    service = fleet.service("web")
    trigger = schedule(fleet, service="web", variables={"A": 1})
    assert tick(fleet.engine, at(HOUR - 1)) == []
    (first,) = tick(fleet.engine, at(HOUR + 4))
    assert tick(fleet.engine, at(HOUR + 9)) == []
    (second,) = tick(fleet.engine, at(2 * HOUR))
    rows = fleet.executions()
    assert [row["id"] for row in rows] == [first, second]
    assert (rows[0]["service_id"], rows[0]["trigger_id"], rows[0]["started_by"]) == (
        service, trigger, f"trigger:{trigger}"
    )  # fmt: skip
    assert (rows[0]["variables"]["trigger"], rows[0]["variables"]["A"]) == ("schedule", 1)
    assert outcomes(fleet) == [(HOUR, "started"), (2 * HOUR, "started")]
    last = in_transaction(fleet.engine, lambda s: triggers.find(s, trigger)).last
    assert last is not None
    assert (last.at, last.execution_id) == (at(2 * HOUR), second)


def test_two_sweepers_at_once_start_each_time_once(fleet: Fleet) -> None:
    fleet.playbook()
    for _ in range(12):
        schedule(fleet)
    gate = threading.Barrier(4)
    started: list[UUID] = []

    def sweeper() -> None:
        gate.wait()
        started.extend(tick(fleet.engine, at(HOUR)))

    threads = [threading.Thread(target=sweeper) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    started += tick(fleet.engine, at(HOUR))  # what one of them skipped as another had it
    assert len(started) == len(set(started)) == len(fleet.executions()) == 12


def test_the_schema_itself_lets_no_time_start_twice(fleet: Fleet) -> None:
    fleet.playbook()
    schedule(fleet)
    assert len(tick(fleet.engine, at(HOUR))) == 1
    fleet.run("UPDATE triggers SET due_at = :due", due=at(HOUR))
    assert tick(fleet.engine, at(HOUR + 5)) == []
    assert len(fleet.executions()) == 1


@pytest.mark.parametrize(
    ("away_until", "expected"),
    [
        (5 * HOUR + 599, [(HOUR, "missed"), (5 * HOUR, "started")]),
        (5 * HOUR + 601, [(HOUR, "missed")]),
        (HOUR + 600, [(HOUR, "started")]),
        (HOUR + 601, [(HOUR, "missed")]),
    ],
)
def test_after_an_absence_the_last_time_runs_if_it_is_young_enough(
    fleet: Fleet, away_until: float, expected: list[tuple[float, str]]
) -> None:
    fleet.playbook()
    schedule(fleet)
    tick(fleet.engine, at(away_until))
    assert outcomes(fleet) == expected
    assert len(fleet.executions()) == sum(outcome == "started" for _, outcome in expected)
    due = fleet.rows("SELECT due_at FROM triggers")[0]["due_at"]
    assert due == at((away_until // HOUR + 1) * HOUR)


@pytest.mark.parametrize(
    ("cron", "day", "expected"),
    [
        # 02:30 is skipped on 29 March 2026 and comes twice on 25 October 2026 in Berlin.
        ("30 2 * * *", datetime(2026, 3, 28, 12, tzinfo=UTC), ["2026-03-29T01:00", "2026-03-30T00:30"]),
        ("30 2 * * *", datetime(2026, 10, 24, 12, tzinfo=UTC), ["2026-10-25T00:30", "2026-10-26T01:30"]),
    ],
)
def test_a_change_of_the_clocks_neither_loses_nor_doubles_a_time(
    fleet: Fleet, cron: str, day: datetime, expected: list[str]
) -> None:
    fleet.playbook()
    schedule(fleet, now=day, cron=cron, timezone="Europe/Berlin")
    for minutes in range(0, 48 * 60, 5):
        tick(fleet.engine, day + timedelta(minutes=minutes))
    rows = fleet.rows("SELECT at FROM trigger_occurrences WHERE outcome = 'started' ORDER BY at")
    assert [row["at"].isoformat()[:16] for row in rows] == expected
    assert len(fleet.executions()) == len(expected)


def test_one_that_cannot_start_says_so_and_keeps_neither_itself_nor_others_back(fleet: Fleet) -> None:
    fleet.playbook()
    fleet.service("web")
    gone, lost, good = schedule(fleet, service="web"), schedule(fleet), schedule(fleet)
    fleet.run("DELETE FROM services")
    fleet.run("UPDATE triggers SET timezone = 'Mars/Base' WHERE id = :id", id=lost)
    assert len(tick(fleet.engine, at(HOUR))) == 1
    rows = fleet.rows("SELECT trigger_id, outcome, note FROM trigger_occurrences ORDER BY trigger_id")
    assert [(row["trigger_id"], row["outcome"]) for row in rows] == [(gone, "failed"), (good, "started")]
    assert rows[0]["note"] == "service: There is no service web."
    due = {row["id"]: row["due_at"] for row in fleet.rows("SELECT id, due_at FROM triggers")}
    assert due == {gone: at(2 * HOUR), lost: at(HOUR + 300), good: at(2 * HOUR)}


def test_a_refused_time_is_not_run_later(fleet: Fleet) -> None:
    fleet.playbook()
    schedule(fleet)
    in_transaction(fleet.engine, lambda s: stop.stop_all(s, reason="drill", actor=ACTOR, now=at(0)))
    assert tick(fleet.engine, at(HOUR)) == []
    in_transaction(fleet.engine, lambda s: stop.resume_all(s, actor=ACTOR, now=at(HOUR + 60)))
    fleet.run("UPDATE playbooks SET enabled = false")
    assert tick(fleet.engine, at(2 * HOUR)) == []
    fleet.run("UPDATE playbooks SET enabled = true")
    assert len(tick(fleet.engine, at(3 * HOUR))) == 1
    assert [outcome for _, outcome in outcomes(fleet)] == ["refused", "refused", "started"]
    assert [entry["detail"]["code"] for entry in fleet.audit("execution.refuse")] == ["stopped", "disabled"]


def test_a_schedule_in_the_shadow_records_and_does_nothing(fleet: Fleet) -> None:
    fleet.playbook()
    schedule(fleet, mode="shadow")
    assert tick(fleet.engine, at(HOUR)) == []
    (row,) = fleet.executions()
    assert (row["mode"], row["state"]) == ("shadow", "completed")
    assert outcomes(fleet) == [(HOUR, "shadow")]


def test_what_became_of_a_time_is_kept_for_a_month(fleet: Fleet) -> None:
    fleet.playbook()
    schedule(fleet, mode="shadow", cron="0 0 * * *", now=-1)
    for day in range(33):
        tick(fleet.engine, at(day * 86_400))
    assert len(outcomes(fleet)) == 31


@pytest.mark.parametrize(("policy", "expected"), [("all", ["second", "first"]), ("first", ["second"])])
def test_alert_triggers_that_match_go_by_their_position(
    fleet: Fleet, policy: str, expected: list[str]
) -> None:
    for name, position in (("first", 20), ("second", 10)):
        fleet.playbook(name)
        schedule(fleet, playbook=name, kind="alert", cron=None, service_pattern="web*", position=position)
    fleet.service("web", playbook_policy=policy)
    fleet.beat("web", "fail", when=5)
    fleet.sweep(6)
    rows = fleet.rows("SELECT object_id FROM audit_entries WHERE action = 'execution.start' ORDER BY id")
    started = {str(row["id"]): row["playbook_name"] for row in fleet.executions()}
    assert [started[row["object_id"]] for row in rows] == expected


def test_the_tick_of_beat_starts_what_is_due(
    fleet: Fleet, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from medic import settings as settings_
    from medic.db import engine as process_engine

    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    for cache in (settings_.current, process_engine):
        cache.cache_clear()
    try:
        from medic_tasks.app import app
        from medic_tasks.triggers import sweep_triggers

        (entry,) = [e for e in app.conf.beat_schedule.values() if e["task"] == "medic.sweep.triggers"]
        assert (entry["options"]["queue"], entry["schedule"]) == ("medic.system", 5.0)
        assert "medic_tasks.triggers" in app.conf.imports
        fleet.playbook()
        schedule(fleet)
        fleet.run("UPDATE triggers SET due_at = date_trunc('hour', now())")
        fleet.run("UPDATE triggers SET catch_up_s = 7200")
        assert sweep_triggers() == "seen 1, started 1"
        assert sweep_triggers() == "seen 0, started 0"
        assert [row["epoch"] for row in fleet.executions()] == [1]  # it was dispatched after the commit
    finally:
        process_engine().dispose()
        for cache in (settings_.current, process_engine):
            cache.cache_clear()


@given(
    st.sampled_from(["* * * * *", "*/7 * * * *", "30 2 * * *", "0 3 * * 1", "15 1,2 * * *"]),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]),
    st.integers(0, 370 * 24 * 60),
    st.integers(0, 3 * 24 * 60),
    st.sampled_from([60, 600, 86_400]),
)
def test_what_passed_is_told_as_by_reading_every_time(
    cron: str, zone: str, start: int, away: int, catch_up: int
) -> None:
    from medic.schedule import occurrences as times

    schedule_ = Cron(cron, zone)
    due = next(times(schedule_, datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=start)))
    now = due + timedelta(minutes=away, seconds=3)
    every, following = [due], None
    for moment in times(schedule_, due):
        if moment > now:
            following = moment
            break
        every.append(moment)
    young = every[-1] if every[-1] >= now - timedelta(seconds=catch_up) else None
    found = passed(schedule_, due, timedelta(seconds=catch_up), now)
    assert (found.run, found.next) == (young, following)
    assert (found.missed is None) == (young == due)
