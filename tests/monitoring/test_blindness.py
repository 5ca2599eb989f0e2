"""Medic's own silence is no evidence: outages, sick processes and refusals, through the real sweep."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest
from sqlalchemy import event

from medic.db import in_transaction
from medic.sweep import sweep_batch
from medic.times import parse_time
from tests.monitoring.fleet import Fleet, at

HOUR = 3600.0


def hears(fleet: Fleet, since: float, until: float, *, closed: bool = False) -> None:
    """A process recorded from `since` until `until`; a sweep in between sees it as it was then."""
    fleet.run(
        "INSERT INTO coverage (process, since, until, closed) VALUES (:process, :since, :until, :closed)",
        process=uuid4(), since=at(since), until=at(until), closed=closed,
    )  # fmt: skip


def refuses(fleet: Fleet, service_id: int, since: float, until: float) -> None:
    fleet.run(
        "INSERT INTO refusals (service_id, kind, since, until, count) VALUES (:id, 'limit', :since, :until, 1)",
        id=service_id, since=at(since), until=at(until),
    )  # fmt: skip


def beats(fleet: Fleet, name: str, *, since: float, until: float, every: float) -> list[tuple[float, str]]:
    moments = []
    moment = since
    while moment <= until:
        moments.append((moment, name))
        moment += every
    return moments


def live(fleet: Fleet, heard: list[tuple[float, str]], ticks: list[float]) -> None:
    """Everything in the order in which it happened."""
    for moment, name in sorted([*heard, *((tick, "") for tick in ticks)]):
        if name:
            fleet.beat(name, when=moment)
        else:
            fleet.sweep(moment)


def ticks(since: float, until: float, step: float = 5) -> list[float]:
    return [since + step * number for number in range(int((until - since) / step) + 1)]


@pytest.mark.parametrize("closed", [True, False])
def test_a_restart_of_everything_after_an_hour_raises_no_false_alarm_and_hides_no_true_one(
    fleet: Fleet, closed: bool
) -> None:
    down, up = 1000.0, 1000.0 + HOUR
    hears(fleet, 0, down, closed=closed)
    hears(fleet, up, up + HOUR)
    for name in ("well", "dies_before", "dies_meanwhile", "never"):
        fleet.service(name, every_s=300, grace_s=30)
    fleet.service("nightly", cron="*/30 * * * *", grace_s=60)
    fleet.service("counted", at_least=2, within_s=600, grace_s=0)
    heard = []
    for name, last in (
        ("well", up + HOUR),
        ("dies_before", 900),
        ("dies_meanwhile", down),
        ("counted", up + HOUR),
    ):
        # What was sent while nothing heard is lost.
        heard += [
            one for one in beats(fleet, name, since=10, until=last, every=290) if not down < one[0] < up
        ]
    heard += [
        one for one in beats(fleet, "nightly", since=5, until=up + HOUR, every=1800) if not down < one[0] < up
    ]
    # Its sweep is back before its ingest is.
    live(fleet, heard, [*ticks(0, down), *ticks(up - 20, up + HOUR)])
    never = [("opened", "missed", 330.0)]
    for name in ("well", "nightly", "counted"):
        assert fleet.story(name) == [], name
    assert fleet.story("never") == never
    # The clock of what is really gone begins anew where Medic hears again; a process that died unasked counts
    # for a minute, but that was long ago.
    for name in ("dies_before", "dies_meanwhile"):
        assert fleet.story(name) == [("opened", "missed", up + 330)], name
    opened = fleet.rows(
        "SELECT t.evidence FROM alert_transitions t JOIN alerts a ON a.id = t.alert_id"
        " WHERE a.service_name = 'dies_meanwhile'"
    )
    (blind,) = opened[0]["evidence"]["blind"]
    assert [parse_time(moment) for moment in blind] == [at(down), at(up)]


def test_an_alert_that_was_open_stays_and_ends_with_the_first_success_afterwards(fleet: Fleet) -> None:
    hears(fleet, 0, 200)
    hears(fleet, 200 + HOUR, 200 + 2 * HOUR)
    fleet.service()
    live(fleet, [(200 + HOUR + 50, "web")], [*ticks(0, 200), *ticks(200 + HOUR, 400 + HOUR)])
    assert fleet.story() == [
        ("opened", "missed", 70), ("resolved", None, 250 + HOUR), ("opened", "missed", 320 + HOUR),
    ]  # fmt: skip


def test_one_sick_process_makes_a_minute_unknown_and_no_more(fleet: Fleet) -> None:
    hears(fleet, 0, 1000)
    hears(fleet, 0, 100)
    fleet.service()
    live(fleet, [(5, "web"), (60, "web")], ticks(0, 400))
    # Missed would have been at 130; 60 s after the last record of the sick one the clock begins anew.
    assert fleet.story() == [("opened", "missed", 160 + 70)]


def test_what_a_sweep_says_in_the_middle_of_an_outage_stands_afterwards(fleet: Fleet) -> None:
    hears(fleet, 0, 100)
    hears(fleet, 500, 2000)
    for name in ("web", "db"):
        fleet.service(name)
    live(fleet, [(50, "web"), (50, "db"), (510, "web"), (550, "web")], ticks(0, 600))
    assert fleet.story("web") == []
    assert fleet.story("db") == [("opened", "missed", 570)]


def test_a_run_that_was_open_meanwhile_never_overruns(fleet: Fleet) -> None:
    hears(fleet, 0, 100)
    hears(fleet, 150, 5000)
    for name in ("heard", "unheard"):
        fleet.service(name, every_s=10_000, max_runtime_s=300)
    fleet.beat("unheard", "start", when=50)
    live(fleet, [], ticks(50, 200))
    fleet.beat("heard", "start", when=200)
    live(fleet, [], ticks(205, 700))
    assert fleet.story("unheard") == []
    assert fleet.story("heard") == [("opened", "overrun", 500)]


def test_refused_heartbeats_make_the_time_unknown_for_their_service_alone(fleet: Fleet) -> None:
    hears(fleet, 0, 5000)
    web, db = fleet.service("web"), fleet.service("db")
    refuses(fleet, web, 50, 50)
    refuses(fleet, db, 400, 400)  # later than the miss
    live(fleet, [(5, "web"), (5, "db")], ticks(0, 300))
    assert fleet.story("db") == [("opened", "missed", 75)]
    assert [row[:2] for row in fleet.story("web")] == [("opened", "missed")]
    assert 120 <= fleet.story("web")[0][2] < 120.1  # 50 + every + grace


def test_without_any_record_silence_counts_as_ever(fleet: Fleet) -> None:
    fleet.service()
    live(fleet, [], ticks(0, 100))
    assert fleet.story() == [("opened", "missed", 70)]


@pytest.fixture
def statements(fleet: Fleet) -> Iterator[list[str]]:
    sent: list[str] = []

    def note(_c: object, _cursor: object, statement: str, *_: object) -> None:
        sent.append(statement)

    event.listen(fleet.engine, "before_cursor_execute", note)
    yield sent
    event.remove(fleet.engine, "before_cursor_execute", note)


def test_hearing_costs_a_batch_two_statements_however_many_services_are_due(
    fleet: Fleet, statements: list[str]
) -> None:
    hears(fleet, 0, 100)
    hears(fleet, 300, 400)
    counts = []
    for number in (1, 30):
        for service in range(number):
            fleet.service(f"s{number}-{service}", every_s=300, when=50)
        statements.clear()
        swept = in_transaction(fleet.engine, lambda s: sweep_batch(s, now=at(350)))
        assert swept.checked >= number
        counts.append(len([one for one in statements if "coverage" in one or "refusals" in one]))
    assert counts == [2, 2]
