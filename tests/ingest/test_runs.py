"""Runs: how signals open and end them."""

from __future__ import annotations

from datetime import timedelta
from random import Random
from typing import Any

import pytest
from sqlalchemy import event

from tests.monitoring.fleet import Fleet, at


def runs(fleet: Fleet) -> list[dict[str, Any]]:
    return fleet.rows("SELECT * FROM runs ORDER BY started_at, id")


def test_a_run_opens_with_its_start_and_ends_with_its_end(fleet: Fleet) -> None:
    fleet.service()
    start = fleet.beat("web", "start", when=10, run_id="r")
    end = fleet.beat("web", "complete", when=40, run_id="r", exit_code=0)
    (run,) = runs(fleet)
    assert (run["state"], run["started_at"], run["ended_at"]) == ("completed", at(10), at(40))
    assert (run["start_id"], run["end_id"], run["duration_ms"], run["exit_code"]) == (
        start.id,
        end.id,
        30_000,
        0,
    )


@pytest.mark.parametrize(
    ("kind", "exit_code", "state"),
    [("complete", None, "completed"), ("complete", 2, "failed"), ("fail", None, "failed"), ("ok", None, "completed"),
     ("ok", 3, "failed")],
)  # fmt: skip
def test_every_final_signal_ends_the_run_that_it_names(
    fleet: Fleet, kind: str, exit_code: int | None, state: str
) -> None:
    fleet.service()
    fleet.beat("web", "start", when=10, run_id="r")
    fleet.beat("web", kind, when=40, run_id="r", exit_code=exit_code)
    assert [run["state"] for run in runs(fleet)] == [state]


def test_a_log_ends_no_run(fleet: Fleet) -> None:
    fleet.service()
    fleet.beat("web", "start", when=10, run_id="r")
    fleet.beat("web", "log", when=20, run_id="r")
    assert [run["state"] for run in runs(fleet)] == ["open"]


def test_an_end_without_a_name_ends_the_newest_run_without_one(fleet: Fleet) -> None:
    fleet.service()
    for when, run_id in ((10, None), (20, None), (30, "named")):
        fleet.beat("web", "start", when=when, run_id=run_id)
    fleet.beat("web", "ok", when=35)  # a plain success is no end
    fleet.beat("web", "complete", when=40, duration_ms=7)
    assert [(run["started_at"], run["state"]) for run in runs(fleet)] == [
        (at(10), "open"),
        (at(20), "completed"),
        (at(30), "open"),
    ]
    assert runs(fleet)[1]["duration_ms"] == 7
    fleet.beat("web", "ok", when=50, exit_code=0)
    assert [run["state"] for run in runs(fleet)] == ["completed", "completed", "open"]


def test_newest_is_by_event_time(fleet: Fleet) -> None:
    fleet.service()
    fleet.beat("web", "start", when=30)
    fleet.beat("web", "start", when=10, late=25)
    fleet.beat("web", "complete", when=20, late=20)  # of before the second one began
    assert [(run["started_at"], run["state"]) for run in runs(fleet)] == [
        (at(10), "completed"),
        (at(30), "open"),
    ]


def test_runs_overlap_by_name(fleet: Fleet) -> None:
    fleet.service()
    for when, kind, run_id in ((1, "start", "a"), (2, "start", "b"), (3, "complete", "a"), (4, "fail", "b")):
        fleet.beat("web", kind, when=when, run_id=run_id)
    assert [(run["run_id"], run["state"]) for run in runs(fleet)] == [("a", "completed"), ("b", "failed")]


def test_an_end_without_a_start_is_kept_and_a_late_start_does_not_open_it(fleet: Fleet) -> None:
    fleet.service()
    end = fleet.beat("web", "fail", when=40, run_id="r", duration_ms=5000)
    fleet.beat("web", "start", when=35, late=10, run_id="r")
    (run,) = runs(fleet)
    assert (run["state"], run["started_at"], run["end_id"]) == (
        "failed",
        at(40) - timedelta(seconds=5),
        end.id,
    )


def test_an_end_without_a_start_and_without_a_name_is_no_run(fleet: Fleet) -> None:
    fleet.service()
    fleet.beat("web", "complete", when=40)
    assert runs(fleet) == []


def test_a_start_without_a_name_that_comes_after_its_end_opens_nothing(fleet: Fleet) -> None:
    fleet.service()
    fleet.beat("web", "complete", when=40)
    fleet.beat("web", "start", when=35, late=10)
    assert runs(fleet) == []
    fleet.beat("web", "start", when=50)
    assert [run["state"] for run in runs(fleet)] == ["open"]


def test_a_start_and_its_end_in_one_batch_are_one_run(fleet: Fleet) -> None:
    fleet.service()
    fleet.write([fleet.signal("web", "start", late=9), fleet.signal("web", "complete")], when=20)
    assert [(run["state"], run["duration_ms"]) for run in runs(fleet)] == [("completed", 9000)]


def test_an_end_before_its_start_by_the_clock_takes_no_negative_time(fleet: Fleet) -> None:
    fleet.service()
    fleet.beat("web", "start", when=30, run_id="r")
    fleet.beat("web", "complete", when=20, late=20, run_id="r")
    assert [(run["ended_at"], run["duration_ms"]) for run in runs(fleet)] == [(at(30), 0)]


def test_an_ended_run_is_not_ended_again(fleet: Fleet) -> None:
    fleet.service()
    fleet.beat("web", "start", when=10, run_id="r")
    fleet.beat("web", "complete", when=20, run_id="r")
    fleet.beat("web", "fail", when=30, run_id="r")
    fleet.beat("web", "start", when=40, run_id="r")
    assert [(run["state"], run["ended_at"]) for run in runs(fleet)] == [("completed", at(20))]


def test_the_same_name_belongs_to_each_service_alone(fleet: Fleet) -> None:
    fleet.service("a")
    fleet.service("b")
    fleet.beat("a", "start", when=10, run_id="r")
    fleet.beat("b", "start", when=10, run_id="r")
    fleet.beat("b", "complete", when=20, run_id="r")
    assert [run["state"] for run in runs(fleet)] == ["open", "completed"]


def test_a_batch_makes_of_its_runs_what_the_signals_one_by_one_do(fleet: Fleet) -> None:
    """Starts and ends with and without names, several of one run, some of them late, over two services."""
    random = Random(7)
    for service in ("one", "all"):
        for number in range(2):
            fleet.service(f"{service}{number}")
    for turn in range(12):
        story = [
            (
                random.randrange(2),
                random.choice(("start", "start", "complete", "fail", "ok", "log")),
                random.choice((0, 0, 5, 40)),
                {
                    "run_id": random.choice((None, None, "r1", f"r{turn}")),
                    "exit_code": random.choice((None, 0, 3)),
                    "duration_ms": random.choice((None, 1500)),
                },
            )
            for _ in range(25)
        ]
        when = 100 + turn * 60
        for number, kind, late, rest in story:
            fleet.write([fleet.signal(f"one{number}", kind, late=late, **rest)], when=when)
        fleet.write(
            [fleet.signal(f"all{n}", kind, late=late, **rest) for n, kind, late, rest in story], when=when
        )
    told = [
        [
            tuple(
                row[column]
                for column in ("run_id", "state", "started_at", "ended_at", "duration_ms", "exit_code")
            )
            for row in runs(fleet)
            if row["service_id"] == fleet.watched[name].id
        ]
        for name in ("one0", "all0", "one1", "all1")
    ]
    assert told[0] == told[1]
    assert told[2] == told[3]
    states = {row["state"] for row in runs(fleet)}
    assert len(runs(fleet)) > 60
    assert states == {"open", "completed", "failed"}


def test_a_large_batch_of_runs_takes_a_few_statements(fleet: Fleet) -> None:
    for number in range(100):
        fleet.service(f"s{number}")
    kinds = ("start", "complete", "start", "fail")
    signals = [fleet.signal(f"s{n}", kind) for kind in kinds for n in range(100)]
    asked: list[str] = []

    def listen(*args: Any) -> None:
        asked.append(args[2])

    event.listen(fleet.engine, "before_cursor_execute", listen)
    try:
        fleet.write(signals, when=20)
    finally:
        event.remove(fleet.engine, "before_cursor_execute", listen)
    assert len(asked) <= 5
    assert {row["state"]: row["n"] for row in fleet.rows("SELECT state, count(*) AS n FROM runs GROUP BY state")} == {
        "completed": 100, "failed": 100,
    }  # fmt: skip


def test_a_start_behind_its_end_overruns_nothing_though_the_row_was_quiet(fleet: Fleet) -> None:
    fleet.service(every_s=600, max_runtime_s=60)
    fleet.beat("web", when=0)
    fleet.sweep(0)
    fleet.beat("web", "complete", when=30)
    assert fleet.state()["quiet"], "ingest alone has judged the end"
    fleet.beat("web", "start", when=20, late=15)
    fleet.sweep(200)  # the sweep was down for longer than the run may take
    assert (runs(fleet), fleet.alerts()) == ([], [])
    assert fleet.state()["quiet"]


def test_starts_without_a_name_at_one_moment_are_one_run_and_judged(fleet: Fleet) -> None:
    """As they are when they come in one group: the evaluator tells runs without a name apart by their start."""
    fleet.service(every_s=600, max_runtime_s=60)
    fleet.write([fleet.signal("web", "start"), fleet.signal("web", "start")], when=10)
    fleet.beat("web", "start", when=10)
    fleet.sweep(20)
    assert [run["state"] for run in runs(fleet)] == ["open"]
    fleet.sweep(71)
    for when in (75, 80, 85):
        fleet.beat("web", "complete", when=when)
        fleet.sweep(when)
    assert [(run["state"], run["ended_at"]) for run in runs(fleet)] == [("completed", at(75))]
    assert fleet.state()["status"] == "up", "it was set aside"
    assert fleet.story() == [("opened", "overrun", 70), ("resolved", None, 75)]
