"""Runs: how signals open and end them, when one is lost, when one overruns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from medic.evaluator.case import Case
from medic.evaluator.values import Kind, OpenRun, Reason, RunChange, RunEvent, RunMark, Signal
from medic.times import format_duration, format_time

_LOST_AFTER = timedelta(hours=24)
_LOST_AFTER_RUNTIMES = 10
_LOST_AFTER_SUCCESSES = 2


def load_runs(case: Case, runs: Sequence[OpenRun]) -> None:
    """Take over the stored runs; one that was settled by hand meanwhile no longer overruns."""
    known = {mark.key: mark for mark in case.state.marks}
    case.open_runs = sorted((run for run in runs if run.ended_at is None), key=_order)
    case.closed_run_ids = {run.run_id for run in runs if run.ended_at is not None and run.run_id is not None}
    case.marks = {run.key: known.get(run.key, RunMark(run.key)) for run in case.open_runs}
    _clear_if_none_overruns(case, case.time, {"because": "run settled"})


def next_run_moment(case: Case) -> datetime | None:
    """The next moment at which a run is lost or overruns."""
    return min((moment for moment, _, _ in _timers(case)), default=None)


def judge_runs(case: Case, until: datetime) -> None:
    """Fire the first run timer; `until` is its moment, or later when that had passed already."""
    moment, is_lost, run = min(_timers(case), key=lambda timer: (timer[0], timer[1], _order(timer[2])))
    if is_lost:
        _close(case, run, RunEvent.LOST, moment, None)
    else:
        overrun(case, run, moment)
    case.time = max(case.time, until)


def overrun(case: Case, run: OpenRun, at: datetime) -> None:
    """The run is open for longer than `max_runtime`."""
    assert case.policy.max_runtime is not None
    case.marks[run.key] = replace(case.marks[run.key], overrun=True)
    case.run_changes.append(RunChange(RunEvent.OVERRUN, run, at))
    if not case.is_open(Reason.OVERRUN):
        evidence = {"because": "overrun", "max_runtime": format_duration(case.policy.max_runtime)}
        case.add(Reason.OVERRUN, at, evidence | _named(run))


def overruns_at(case: Case, run: OpenRun) -> datetime | None:
    """When the run overruns; None when it cannot, or when a blind interval makes it unknown."""
    limit = case.policy.max_runtime
    if limit is None or case.is_blind(run.started_at, run.started_at + limit):
        return None
    return run.started_at + limit


def recheck_overruns(case: Case, at: datetime) -> None:
    """Judge each open run by a new policy that holds from `at`."""
    for run in case.open_runs:
        moment = overruns_at(case, run)
        is_over = moment is not None and moment <= at
        mark = case.marks[run.key]
        if is_over and not mark.overrun:
            overrun(case, run, at)
        elif not is_over:
            case.marks[run.key] = replace(mark, overrun=False)
    _clear_if_none_overruns(case, at, {"because": "policy changed"})


def start_run(case: Case, signal: Signal) -> None:
    """A start opens a run, unless its end came first or it is open already."""
    run = OpenRun(None, signal.run_id, signal.event_at)
    if signal.run_id is None:
        last_end = case.state.last_end_at
        is_stale = last_end is not None and signal.event_at < last_end
    else:
        is_stale = signal.run_id in case.closed_run_ids
    if is_stale or run.key in case.marks:
        return
    case.open_runs.append(run)
    case.open_runs.sort(key=_order)
    case.marks[run.key] = RunMark(run.key)
    case.run_changes.append(RunChange(RunEvent.STARTED, run, signal.event_at, signal.id))


def end_run(case: Case, signal: Signal) -> None:
    """A final signal ends its run: the one with its `run_id`, else the newest without one."""
    event = RunEvent.FAILED if signal.is_failure else RunEvent.COMPLETED
    if signal.run_id is not None:
        matching = [run for run in case.open_runs if run.run_id == signal.run_id]
        if not matching and signal.run_id not in case.closed_run_ids:
            run = OpenRun(None, signal.run_id, signal.event_at)
            case.run_changes.append(RunChange(RunEvent.UNPAIRED, run, signal.event_at, signal.id))
            case.closed_run_ids.add(signal.run_id)
    elif signal.kind is Kind.OK and signal.exit_code is None:
        return
    else:
        matching = [run for run in case.open_runs if run.run_id is None and run.started_at <= signal.event_at]
        last = case.state.last_end_at
        newest = signal.event_at if last is None else max(last, signal.event_at)
        case.state.last_end_at = newest
    if matching:
        _close(case, matching[-1], event, max(signal.event_at, matching[-1].started_at), signal)


def lose_runs(case: Case, success: Signal, own: set[str]) -> None:
    """The second success later than a run's start says that its end will not come."""
    for run in tuple(case.open_runs):
        if run.key in own or success.event_at <= run.started_at:
            continue
        mark = case.marks[run.key]
        case.marks[run.key] = replace(mark, later_successes=mark.later_successes + 1)
        if mark.later_successes + 1 >= _LOST_AFTER_SUCCESSES:
            _close(case, run, RunEvent.LOST, success.event_at, success)


def _close(case: Case, run: OpenRun, event: RunEvent, at: datetime, signal: Signal | None) -> None:
    case.open_runs.remove(run)
    del case.marks[run.key]
    if run.run_id is not None:
        case.closed_run_ids.add(run.run_id)
    case.run_changes.append(RunChange(event, run, at, None if signal is None else signal.id))
    _clear_if_none_overruns(case, at, {"because": f"run {event.value}"} | _named(run))


def _clear_if_none_overruns(case: Case, at: datetime, evidence: dict[str, Any]) -> None:
    if not any(mark.overrun for mark in case.marks.values()):
        case.clear([Reason.OVERRUN], at, evidence)


def _timers(case: Case) -> list[tuple[datetime, bool, OpenRun]]:
    timers = []
    limit = case.policy.max_runtime
    lost_after = max(_LOST_AFTER, _LOST_AFTER_RUNTIMES * limit) if limit else _LOST_AFTER
    for run in case.open_runs:
        timers.append((run.started_at + lost_after, True, run))
        moment = None if case.policy.paused or case.marks[run.key].overrun else overruns_at(case, run)
        # A start that arrives when its time is over already says nothing: its end may be on the way.
        if moment is not None and moment >= case.time:
            timers.append((moment, False, run))
    return timers


def _order(run: OpenRun) -> tuple[datetime, str]:
    return run.started_at, run.key


def _named(run: OpenRun) -> dict[str, Any]:
    return {"run_id": run.run_id, "started_at": format_time(run.started_at)}
