"""A simulated year through the real ingest, sweep and outbox on a real database, against an oracle.

It holds every kind of schedule in eight zones, both changes of the clocks, 29 February, two outages of Medic (one in
which nothing is heard, one in which only the sweep is down), refusals, spools, runs, pauses and changed policies.

What runs by default is some weeks of it.  ``MEDIC_TEST_YEAR=full make test ARGS=tests/year`` runs 1,000 services through
366 days, twice; it takes most of an hour.  ``MEDIC_TEST_YEAR_SEED`` draws other histories.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy import Engine, text

from medic.sweep import batch
from tests.year.clock import DAY, MINUTE, SECOND, micros
from tests.year.comparison import SHOWN, Comparison, compare
from tests.year.history import Span, draw
from tests.year.simulation import Simulation, Sweep, Today, one_sweeper
from tests.year.team import Team

IS_FULL = os.environ.get("MEDIC_TEST_YEAR") == "full"
SEED = int(os.environ.get("MEDIC_TEST_YEAR_SEED", "2028"))


def utc(*parts: int) -> int:
    return micros(datetime(*parts, tzinfo=UTC))  # type: ignore[misc,arg-type]


# Berlin's clock is put forward in the hour in which nothing is heard.
DEAF = utc(2028, 3, 26, 0, 30), utc(2028, 3, 26, 1, 30)
UNSWEPT = utc(2028, 4, 1, 12), utc(2028, 4, 1, 18)
WEEKS = Span(utc(2028, 2, 26), utc(2028, 4, 4), 5 * SECOND, 15 * MINUTE, DEAF, UNSWEPT)
DAYS = Span(utc(2028, 3, 24), utc(2028, 4, 3), 5 * SECOND, 15 * MINUTE, DEAF, UNSWEPT)
# New York's goes back while the sweep is down.
YEAR = Span(
    utc(2028, 1, 1),
    utc(2029, 1, 1),
    5 * MINUTE,
    15 * MINUTE,
    DEAF,
    (utc(2028, 11, 5, 3), utc(2028, 11, 5, 9)),
)


def live(
    engine: Engine, span: Span, count: int, sweep: Sweep, today: Today, capsys: pytest.CaptureFixture[str]
) -> Comparison:
    """Run so many services through the time, and compare; says what it was, whatever comes of it."""
    began = time.monotonic()
    histories = [draw(number, SEED, span) for number in range(count)]

    def begin(day: date) -> None:
        today(day)
        if IS_FULL and day.day == 1:
            _say(capsys, f"{day} after {time.monotonic() - began:.0f} s")

    simulation = Simulation(engine, span, histories, sweep, begin)
    simulation.run()
    lasted = time.monotonic() - began
    found = compare(engine, span, histories)
    _say(
        capsys,
        f"seed {SEED}: {count} services, {(span.end - span.start) // DAY} days, {simulation.written} heartbeats,"
        f" {simulation.sweeps} sweeps in {lasted:.0f} s: {found.summary()}",
    )
    assert simulation.written == sum(len(history.beats) for history in histories)
    return found


def _say(capsys: pytest.CaptureFixture[str], line: str) -> None:
    with capsys.disabled():
        print(f"\n{line}", flush=True)


def judge(found: Comparison, least: int) -> None:
    assert found.alerts >= least, "the histories are too quiet to show anything"
    assert (found.false, found.missed) == (0, 0), "\n".join(found.problems[:SHOWN])
    assert not found.problems, "\n".join(found.problems[:SHOWN])


@pytest.mark.timeout(7200 if IS_FULL else 180)
def test_a_simulated_year_has_no_false_and_no_missed_alert(
    engine: Engine, today: Today, capsys: pytest.CaptureFixture[str]
) -> None:
    span, count = (YEAR, 1000) if IS_FULL else (WEEKS, 50)
    found = live(engine, span, count, one_sweeper(engine), today, capsys)
    judge(found, 5000 if IS_FULL else 100)


@pytest.mark.timeout(7200 if IS_FULL else 180)
def test_two_sweepers_and_two_beats_change_nothing(
    engine: Engine, today: Today, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    span, count = (YEAR, 1000) if IS_FULL else (DAYS, 50)
    # So that there is something to share.
    monkeypatch.setattr(batch, "BATCH", 8 if IS_FULL else 2)
    with Team(engine, timedelta(microseconds=span.tick)) as team:
        found = live(engine, span, count, team.tick, today, capsys)
    judge(found, 5000 if IS_FULL else 30)
    assert team.surplus > 0
    assert all(checked > 0 for checked in team.checked)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM ticks")).scalar_one() == 1
