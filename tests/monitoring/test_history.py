"""A history through the real ingest and sweep against the pure evaluator, and against itself swept otherwise."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, text

from medic.db import transaction
from medic.evaluator import Change, Kind, Signal, evaluate, first_state
from medic.heartbeats import HISTORY_AGE
from medic.models.monitoring import Service
from medic.partitions import DAYS_AHEAD, make_partitions, partition_days, today
from medic.sweep import policy_of
from tests.conftest import empty
from tests.monitoring.fleet import Fleet, at

DAY = 86_400
Sent = tuple[str, float, dict[str, Any]]
"""A service's name, seconds before its arrival, and the signal's fields."""

POLICIES: list[dict[str, Any]] = [
    {"every_s": 60},
    {"every_s": 60, "failure_threshold": 3, "recovery_threshold": 2},
    {"every_s": 90, "grace_s": 0, "max_runtime_s": 40},
    {"at_least": 3, "within_s": 240},
    {"cron": "*/2 * * * *", "grace_s": 30},
    {"cron": "*/3 * * * *", "grace_s": 5, "max_runtime_s": 60, "timezone": "Asia/Kathmandu"},
]


def history(seed: int, length: float) -> list[tuple[float, Sent]]:
    """Signals of the one service `web` by their arrival: silences, failures, runs, late ones, repeats."""
    dice = random.Random(seed)
    found: list[tuple[float, Sent]] = []
    now, run = 0.0, 0
    while now < length:
        now += dice.choice((7.0, 23.0, 31.5, 58.0, 60.0, 61.0, 130.0, 200.0))
        kind = dice.choices(("ok", "fail", "start", "complete", "log"), (10, 2, 3, 3, 1))[0]
        fields: dict[str, Any] = {"kind": kind}
        if kind in {"start", "complete"} and dice.random() < 0.7:
            run += kind == "start"
            fields["run_id"] = f"r{run}"
        if dice.random() < 0.2:
            fields["client_id"] = f"c{dice.randrange(4)}"
        age = dice.choice((0.0, 0.0, 0.0, 4.0, 30.0, 61.0, 150.0))
        found.append((round(now, 1), ("web", min(age, now), fields)))
    return [(when, sent) for when, sent in found if when < length]


def live(
    fleet: Fleet, policy: dict[str, Any], sent: list[tuple[float, Sent]], ticks: list[float]
) -> list[Any]:
    """The story of the service when the sweep runs at these moments."""
    fleet.service(**policy)
    waiting = list(sent)
    for tick in ticks:
        while waiting and waiting[0][0] <= tick:
            when, (name, age, fields) = waiting.pop(0)
            fleet.write([fleet.signal(name, late=age, **fields)], when=when)
        fleet.sweep(tick)
    return fleet.story()


@pytest.mark.parametrize("seed", range(8))
def test_a_sweep_that_was_down_judges_late_with_the_same_verdict(fleet: Fleet, seed: int) -> None:
    policy, length = POLICIES[seed % len(POLICIES)], 900.0
    sent = history(seed, length)
    every_5s = [5.0 * n for n in range(int(length / 5) + 1)]
    down_from = 100.0 + 40 * seed
    outage = [tick for tick in every_5s if not down_from < tick < down_from + 300]
    ticked = live(fleet, policy, sent, every_5s)
    empty(fleet.engine)
    assert live(fleet, policy, sent, outage) == ticked
    empty(fleet.engine)
    assert live(fleet, policy, sent, [0.0, length]) == ticked
    assert ticked == sorted(ticked, key=lambda row: row[2])


def test_the_histories_above_tell_something(fleet: Fleet) -> None:
    kinds = set()
    for seed in range(6):
        kinds |= {row[:2] for row in live(fleet, POLICIES[seed], history(seed, 900.0), [0.0, 900.0])}
        empty(fleet.engine)
    reasons = {reason for kind, reason in kinds if kind == "opened"}
    assert {"missed", "failed", "too_few", "overrun"} <= reasons


MONTH: dict[str, dict[str, Any]] = {
    **{f"hourly-{n}": {"every_s": 3600, "grace_s": 600} for n in range(5)},
    **{f"patient-{n}": {"every_s": 3600, "grace_s": 60, "failure_threshold": 3, "recovery_threshold": 2}
       for n in range(3)},
    **{f"job-{n}": {"every_s": 7200, "grace_s": 300, "max_runtime_s": 5400} for n in range(4)},
    **{f"nightly-{n}": {"cron": "0 3 * * *", "grace_s": 7200, "timezone": zone}
       for n, zone in enumerate(("Europe/Berlin", "America/New_York", "UTC"))},
    "calendar": {"on_calendar": "Mon..Fri 09:00", "grace_s": 3600, "timezone": "Europe/London"},
    **{f"steady-{n}": {"at_least": 3, "within_s": 5 * 3600, "grace_s": 60} for n in range(2)},
    "dead": {"every_s": 86_400, "grace_s": 0},
    "chatty": {"cron": "*/30 * * * *", "grace_s": 1500},
}  # fmt: skip


@pytest.fixture
def a_month(engine: Engine) -> Iterator[None]:
    """Partitions for a month ahead."""
    with engine.begin() as connection:
        make_partitions(connection, ahead=32)
    yield
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM heartbeats"))
        for day in partition_days(connection):
            if (day - today(connection)).days > DAYS_AHEAD:
                connection.execute(text(f"DROP TABLE heartbeats_p{day:%Y%m%d}"))


def hour_of_signals(dice: random.Random, hour: int) -> list[Sent]:
    """What the fleet sends in one hour; each service has days on which it is silent, or fails."""
    sent: list[Sent] = []
    for number, name in enumerate(MONTH):
        mood = (hour // 24 + number) % 11
        if name == "dead" or mood == 7 or (mood == 3 and dice.random() < 0.5):
            continue
        age = dice.choice((0.0, 0.0, 0.0, 20.0, 5000.0 if mood == 5 else 0.0))
        if name.startswith("job"):
            kind = ("start", "complete")[hour % 2]
            named = {"run_id": f"{hour // 2}"} if number % 2 else {}
            if kind == "start" or dice.random() < 0.9:
                sent.append((name, min(age, 60), {"kind": kind, **named}))
            continue
        kind = "fail" if mood == 4 and dice.random() < 0.4 else "ok"
        fields: dict[str, Any] = {"kind": kind}
        if dice.random() < 0.1:
            fields["client_id"] = f"c{hour - dice.randrange(2)}"
        sent.append((name, age, fields))
    return sent


def oracle(fleet: Fleet, name: str, end: float) -> list[tuple[str, str | None, float]]:
    """The pure evaluator's transitions, in one go over all that was stored."""
    with transaction(fleet.engine) as session:
        service = session.query(Service).filter_by(name=name).one()
        policy = policy_of(service)
        beats = session.execute(
            text("SELECT * FROM heartbeats WHERE service_id = :id ORDER BY id"), {"id": service.id}
        ).all()
    signals = [
        Signal(
            id=beat.id, kind=Kind(beat.kind), event_at=beat.event_at, received_at=beat.received_at,
            run_id=beat.run_id, exit_code=beat.exit_code,
            is_history=beat.received_at - beat.event_at > HISTORY_AGE,
        )
        for beat in beats
    ]  # fmt: skip
    verdict = evaluate(policy, first_state(policy), signals, (), (), at(end))
    return [
        (
            change.kind.value,
            None if change.kind is Change.RESOLVED else change.reason.value,
            (change.at - at(0)).total_seconds(),
        )
        for change in verdict.transitions
    ]


def test_a_month_of_a_fleet_with_an_outage_of_the_sweep(fleet: Fleet, a_month: None) -> None:
    dice = random.Random(20261123)
    for name, policy in MONTH.items():
        fleet.service(name, **policy)
    days = 30
    for hour in range(days * 24):
        when = hour * 3600.0 + dice.choice((60, 300, 1200))
        sent = hour_of_signals(dice, hour)
        fleet.write([fleet.signal(name, late=age, **fields) for name, age, fields in sent], when=when)
        if 300 < hour < 336:
            continue  # a day and a half without a sweep
        fleet.sweep(hour * 3600.0 + dice.choice((1500, 3300)))
    end = days * DAY * 1.0
    while fleet.sweep(end).checked:
        pass
    told = {name: fleet.story(name) for name in MONTH}
    assert told == {name: oracle(fleet, name, end) for name in MONTH}
    assert sum(len(story) for story in told.values()) > 200
    open_now = {row["service_name"] for row in fleet.alerts() if row["resolved_at"] is None}
    down = {name for name in MONTH if fleet.state(name)["status"] == "down"}
    assert open_now == down
