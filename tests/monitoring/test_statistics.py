"""Days that are rolled up, today that is not, and the newest runs: against an oracle that looks at every minute."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import pytest
from sqlalchemy.orm import Session

from medic import services, statistics
from medic import settings as settings_
from medic.db import engine as process_engine
from medic.db import in_transaction
from medic.errors import NotFound
from medic.uptime import DAY
from tests.monitoring.fleet import ACTOR, T0, Fleet, at

T = TypeVar("T")

MINUTES = 24 * 60
KEEP = 30


def on(day: int, minute: float = 0) -> float:
    """Seconds after T0."""
    return (day * MINUTES + minute) * 60


@pytest.fixture
def roll_up(
    environ: dict[str, str], fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[float], int]]:
    """The task's work, at a moment in seconds after T0."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    settings_.current.cache_clear()
    process_engine.cache_clear()
    from medic_tasks import housekeeping

    yield lambda when: housekeeping.roll_up_days(at(when), keep_days=KEEP)
    process_engine().dispose()
    settings_.current.cache_clear()
    process_engine.cache_clear()


def stats(fleet: Fleet, name: str = "web", *, when: float, days: int = 30) -> statistics.Statistics:
    return in_transaction(
        fleet.engine, lambda s: statistics.of_service(s, name=name, days=days, now=at(when))
    )


def read(fleet: Fleet, work: Callable[[Session], T]) -> T:
    return in_transaction(fleet.engine, work)


def beat(fleet: Fleet, name: str = "web", kind: str = "ok", *, when: float) -> None:
    """A signal, and that the sweep has seen it."""
    fleet.beat(name, kind, when=when)
    if kind in {"ok", "complete"}:
        fleet.run(
            "UPDATE service_states SET last_success_at = :at WHERE service_id = :id",
            at=at(when),
            id=fleet.watched[name].id,
        )


def alert(fleet: Fleet, service_id: int, opened: float, resolved: float | None) -> None:
    fleet.run(
        "INSERT INTO alerts (service_id, service_name, priority, reasons, opened_at, detected_at, resolved_at,"
        " resolution) VALUES (:id, 'web', 'p3', '{missed}', :opened, :opened, :resolved, :how)",
        id=service_id,
        opened=at(opened),
        resolved=None if resolved is None else at(resolved),
        how=None if resolved is None else "recovered",
    )


def heard(fleet: Fleet, since: float, until: float) -> None:
    """Medic could hear in this time."""
    fleet.run(
        "INSERT INTO coverage VALUES (gen_random_uuid(), :since, :until, true)",
        since=at(since),
        until=at(until),
    )


def rows(fleet: Fleet) -> dict[tuple[int, int], tuple[int, ...]]:
    """By service and day after T0: up, down, unknown, alerts, heartbeats."""
    return {
        (row["service_id"], (row["day"] - T0.date()).days): (
            row["up_s"], row["down_s"], row["unknown_s"], row["alerts"], row["heartbeats"]
        )
        for row in fleet.rows("SELECT * FROM service_days")
    }  # fmt: skip


class Story:
    """A service with random fortunes, each at a whole minute, and what an observer of every minute counts."""

    def __init__(self, fleet: Fleet, dice: random.Random, number: int, days: int) -> None:
        self.end = days * MINUTES
        self.name = f"job-{number}"
        self.created = dice.randrange(self.end)
        born_paused = dice.random() < 0.3
        self.id = fleet.service(self.name, when=self.created * 60, paused=born_paused)
        flips = sorted(
            dice.sample(
                range(self.created + 1, self.end + 1), k=min(dice.randrange(5), self.end - self.created)
            )
        )
        self.changes = [(self.created, born_paused)]
        for minute in flips:
            # A change that leaves it as it is says nothing new.
            paused = dice.choice([True, False])
            fleet.change(self.name, when=minute * 60, every_s=60, grace_s=dice.randrange(99), paused=paused)
            self.changes.append((minute, paused))
        self.beats = sorted(dice.randrange(self.created, self.end) for _ in range(dice.randrange(8)))
        self.kinds = [dice.choice(["ok", "ok", "log", "fail", "complete"]) for _ in self.beats]
        for minute, kind in zip(self.beats, self.kinds, strict=True):
            beat(fleet, self.name, kind, when=minute * 60)
        self.alerts: list[tuple[int, int]] = []
        moment = self.created
        while dice.random() < 0.7 and moment < self.end - 2:
            opened = dice.randrange(moment, self.end - 1)
            resolved = dice.randrange(opened + 1, self.end + MINUTES)
            self.alerts.append((opened, resolved))
            alert(fleet, self.id, opened * 60, resolved * 60 if resolved < self.end else None)
            moment = resolved

    def oracle(self, day: int, blind: list[tuple[int, int]], until: int = MINUTES) -> tuple[int, ...]:
        began = min(
            (m for m, kind in zip(self.beats, self.kinds, strict=True) if kind in {"ok", "complete"}),
            default=self.end + MINUTES,
        )
        count = {"up": 0, "down": 0, "unknown": 0}
        for minute in range(day * MINUTES, day * MINUTES + until):
            paused = [word for moment, word in self.changes if moment <= minute]
            if any(opened <= minute < resolved for opened, resolved in self.alerts):
                count["down"] += 60
            elif minute < began or (paused and paused[-1]) or any(a <= minute < b for a, b in blind):
                count["unknown"] += 60
            else:
                count["up"] += 60
        within = range(day * MINUTES, day * MINUTES + until)
        return (
            *count.values(),
            sum(opened in within for opened, _ in self.alerts),
            sum(minute in within for minute in self.beats),
        )


@pytest.mark.parametrize("seed", range(4))
def test_each_minute_of_random_fortunes_is_counted_where_it_belongs(
    fleet: Fleet, roll_up: Callable[[float], int], seed: int
) -> None:
    dice, days = random.Random(seed), 4
    stories = [Story(fleet, dice, number, days) for number in range(12)]
    deaf = sorted(dice.sample(range(1, days * MINUTES), 6))
    blind = [(deaf[0], deaf[1]), (deaf[2], deaf[3]), (deaf[4], deaf[5])]
    borders = [0, *deaf, days * MINUTES]
    for since, until in zip(borders[::2], borders[1::2], strict=True):
        heard(fleet, since * 60, until * 60)
    expected = {
        (story.id, day): story.oracle(day, blind)
        for story in stories
        for day in range(story.created // MINUTES, days)
    }
    # Rolled up as time goes by: what is known late corrects the days before.
    for day in range(1, days):
        roll_up(on(day, 10))
    assert roll_up(on(days, 10)) > 0
    assert {key: row for key, row in rows(fleet).items() if key[1] >= days - 2} == {
        key: row for key, row in expected.items() if key[1] >= days - 2
    }
    # From nothing, all at once.
    fleet.run("DELETE FROM service_days")
    assert roll_up(on(days, 10)) == len(expected)
    assert rows(fleet) == expected
    assert roll_up(on(days, 70)) == 0, "again, it changes nothing"


def test_today_and_a_day_that_is_not_rolled_up_are_counted_when_asked(
    fleet: Fleet, roll_up: Callable[[float], int]
) -> None:
    service_id = fleet.service(when=on(0, 60), every_s=3600)
    for minute in (120, MINUTES + 5, 2 * MINUTES + 30):
        beat(fleet, when=on(0, minute))
    alert(fleet, service_id, on(1, 600), on(2, 60))
    heard(fleet, 0, on(3))
    found = stats(fleet, when=on(2, 120))
    assert [(day.day, day.alerts, day.heartbeats) for day in found.days] == [
        (T0.date() + DAY, 1, 1), (T0.date() + 2 * DAY, 0, 1)
    ]  # fmt: skip
    roll_up(on(2, 120))
    after = stats(fleet, when=on(2, 120))
    assert after.days[1:] == found.days
    assert [(day.split.up_s, day.split.down_s, day.split.unknown_s) for day in after.days] == [
        (22 * 3600, 0, 2 * 3600), (600 * 60, 840 * 60, 0), (3600, 3600, 0)
    ]  # fmt: skip
    assert after.uptime_percent == pytest.approx(100 * 33 / 48, abs=0.001)
    assert (after.alerts, after.heartbeats) == (1, 3)
    assert stats(fleet, when=on(2, 120), days=1).days == found.days[1:]


def test_history_survives_the_heartbeats(fleet: Fleet, roll_up: Callable[[float], int]) -> None:
    service_id = fleet.service()
    beat(fleet, when=30)
    alert(fleet, service_id, on(0, 700), on(0, 710))
    roll_up(on(1, 10))
    before = rows(fleet)
    fleet.run("DELETE FROM heartbeats")
    roll_up(on(2, 10))
    assert rows(fleet)[service_id, 0] == before[service_id, 0] == (86_400 - 630, 600, 30, 1, 1)
    # That it has begun is known from the day before, though no heartbeat tells of it any more.
    assert rows(fleet)[service_id, 1] == (86_400, 0, 0, 0, 0)


def test_an_alert_that_was_found_late_changes_the_days_that_it_touches(
    fleet: Fleet, roll_up: Callable[[float], int]
) -> None:
    service_id = fleet.service()
    beat(fleet, when=0)
    assert roll_up(on(2, 10)) == 2
    alert(fleet, service_id, on(0, 1430), on(1, 10))
    assert roll_up(on(2, 70)) == 2
    assert [row[1] for row in rows(fleet).values()] == [600, 600]


def test_a_day_is_rolled_up_when_its_last_heartbeat_must_have_come(
    fleet: Fleet, roll_up: Callable[[float], int]
) -> None:
    fleet.service()
    assert roll_up(on(1, 4.9)) == 0
    assert roll_up(on(1, 5)) == 1
    assert roll_up(on(3, 5)) == 2, "after an outage, each day that is missing"


def test_a_service_of_the_same_name_begins_anew(fleet: Fleet, roll_up: Callable[[float], int]) -> None:
    fleet.service(paused=True)
    in_transaction(fleet.engine, lambda s: services.remove(s, name="web", actor=ACTOR, now=at(100)))
    service_id = fleet.service(when=200)
    beat(fleet, when=200)
    fleet.change("web", when=on(0, 60), every_s=60)
    roll_up(on(1, 10))
    assert rows(fleet) == {(service_id, 0): (86_200, 0, 200, 0, 1)}


def test_more_services_than_one_batch_holds(
    fleet: Fleet, roll_up: Callable[[float], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "BATCH", 2)
    for number in range(5):
        fleet.service(f"job-{number}")
    assert roll_up(on(1, 10)) == 5


def run_rows(fleet: Fleet, service_id: int, *states: tuple[str, int]) -> None:
    """Ended runs, oldest first: state and duration."""
    for number, (state, duration) in enumerate(states):
        fleet.run(
            "INSERT INTO runs (service_id, state, started_at, ended_at, duration_ms)"
            " VALUES (:id, :state, :start, :start, :duration)",
            id=service_id,
            state=state,
            start=at(number),
            duration=None if state == "lost" else duration,
        )


def nearest_rank(durations: list[int], share: float) -> int:
    """The least duration that at least this share does not exceed."""
    return next(d for d in sorted(durations) if sum(e <= d for e in durations) >= share * len(durations))


def test_durations_are_those_of_the_newest_hundred_runs(fleet: Fleet) -> None:
    service_id, dice = fleet.service(), random.Random(7)
    old = [("failed", 10**9)] * 20
    new = [
        (dice.choice(["completed", "completed", "failed", "lost"]), dice.randrange(10_000))
        for _ in range(100)
    ]
    run_rows(fleet, service_id, *old, *new)
    fleet.run("INSERT INTO runs (service_id, started_at) VALUES (:id, :start)", id=service_id, start=at(500))
    found = read(fleet, lambda s: statistics.runs(s, service_id))
    durations = [duration for state, duration in new if state != "lost"]
    counts = {state: sum(one == state for one, _ in new) for state in ("completed", "failed", "lost")}
    assert (found.completed, found.failed, found.lost) == tuple(counts.values())
    assert found.count == 100
    assert found.success_ratio == round(counts["completed"] / 100, 4)
    assert (found.min_ms, found.max_ms) == (min(durations), max(durations))
    assert found.average_ms == pytest.approx(sum(durations) / len(durations), abs=0.1)
    assert (found.p50_ms, found.p95_ms, found.p99_ms) == tuple(
        nearest_rank(durations, share) for share in (0.5, 0.95, 0.99)
    )


def test_without_a_run_there_are_no_durations(fleet: Fleet) -> None:
    service_id = fleet.service()
    nothing = read(fleet, lambda s: statistics.runs(s, service_id))
    assert (nothing.count, nothing.success_ratio, nothing.average_ms, nothing.p50_ms) == (0, None, None, None)
    run_rows(fleet, service_id, ("lost", 0))
    lost = read(fleet, lambda s: statistics.runs(s, service_id))
    assert (lost.count, lost.success_ratio, lost.max_ms, lost.p99_ms) == (1, 0.0, None, None)


def test_the_newest_runs_are_found_by_an_index(fleet: Fleet) -> None:
    service_id = fleet.service()
    fleet.run(
        "INSERT INTO runs (service_id, state, started_at, ended_at, duration_ms)"
        " SELECT :id, 'completed', :start - n * interval '1 minute', :start, 5 FROM generate_series(1, 5000) n",
        id=service_id, start=T0,
    )  # fmt: skip
    fleet.run("ANALYZE runs")
    plan: list[dict[str, Any]] = fleet.rows(
        f"EXPLAIN {statistics._RUNS.text}", service_id=service_id, newest=statistics.NEWEST_RUNS
    )
    text = "\n".join(row["QUERY PLAN"] for row in plan)
    assert "Index Scan Backward using ix_runs_service_started" in text
    assert "Seq Scan" not in text


def test_nobody_has_statistics_of_what_is_not_there(fleet: Fleet) -> None:
    with pytest.raises(NotFound):
        stats(fleet, "nobody", when=0)


def test_a_service_made_today_has_one_day(fleet: Fleet) -> None:
    fleet.service(when=on(0, 10))
    found = stats(fleet, when=on(0, 20))
    assert [day.split.unknown_s for day in found.days] == [1200]
    assert found.uptime_percent is None
    assert found.days[0].day == (T0 + timedelta(minutes=10)).date()
