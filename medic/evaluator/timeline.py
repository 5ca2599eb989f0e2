"""The order of things: signals as they arrive, and between them whatever became true meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from datetime import datetime

from medic.evaluator.case import Case, merged
from medic.evaluator.deadlines import floor, judge_calendar, judge_every, next_every
from medic.evaluator.policies import apply_policy
from medic.evaluator.runs import judge_runs, load_runs, next_run_moment
from medic.evaluator.signals import arrivals, fold
from medic.evaluator.values import Interval, OpenRun, Policy, Signal, State, Status, Verdict
from medic.evaluator.window import judge_window, next_window
from medic.schedule import AtLeast, Every, occurrence_after


def evaluate(
    policy: Policy,
    state: State,
    signals: Sequence[Signal],
    runs: Sequence[OpenRun],
    blind: Sequence[Interval],
    now: datetime,
) -> Verdict:
    """Judge one service up to `now`; the package's docstring has the rules and the contract.

    :param signals: every signal with an id above `state.folded_id`, in any order; for `at_least` also
        those of the window before `state.folded_until`.
    :param runs: the open runs as stored, and the closed ones whose run_id a given signal names.
    :param blind: the intervals in which Medic could not hear, back to the start of the oldest open run
        and to the last success; one that has not ended ends at `now`.
    """
    now = max(now, state.folded_until)
    case = Case(policy=policy, state=copy(state), blind=merged(blind, now), time=state.folded_until)
    if isinstance(policy.schedule, AtLeast):
        case.window = sorted(s.event_at for s in signals if s.id <= state.folded_id and s.is_success)
    load_runs(case, runs)
    new = list(arrivals(signals, state.folded_id))
    if state.status is Status.PAUSED and not policy.paused:
        new = _catch_up(case, new, now)
    elif state.status is not Status.PAUSED and policy.started_at != state.started_at:
        new = _take_before(case, new)
    apply_policy(case)
    for signal in new:
        _take(case, signal, now)
    _judge(case, now)
    return _verdict(case, now)


def _catch_up(case: Case, signals: Sequence[Signal], now: datetime) -> list[Signal]:
    """Take in what arrived during the pause that is over, as the pause had it; returns what came behind it."""
    resumed = case.policy
    until = min(max(resumed.started_at, case.time), now)
    case.policy = replace(resumed, paused=True)
    behind = []
    for signal in signals:
        if signal.received_at <= until:
            _take(case, signal, now)
        else:
            behind.append(signal)
    _judge(case, until)
    case.policy = resumed
    return behind


def _take_before(case: Case, signals: Sequence[Signal]) -> list[Signal]:
    """Take in what arrived before the new policy; returns what came behind it.

    The new schedule then starts behind these signals: none of them settles what it expects, and none of the runs that
    they ended is open when it is judged.
    """
    behind = []
    for signal in signals:
        if signal.received_at <= case.policy.started_at:
            case.time = max(case.time, signal.received_at)
            fold(case, signal)
        else:
            behind.append(signal)
    return behind


def _take(case: Case, signal: Signal, now: datetime) -> None:
    _judge(case, min(max(signal.received_at, case.time), now))
    fold(case, signal)


def _judge(case: Case, until: datetime) -> None:
    """Judge all that became true by `until`, in the order in which it did."""
    while (moment := next_run_moment(case)) is not None and moment <= until:
        _judge_schedule(case, max(moment, case.time))
        judge_runs(case, max(moment, case.time))
    _judge_schedule(case, until)
    case.time = until


def _judge_schedule(case: Case, until: datetime) -> None:
    schedule = case.policy.schedule
    if case.policy.paused:
        return
    if isinstance(schedule, Every):
        judge_every(case, schedule.period, until)
    elif isinstance(schedule, AtLeast):
        judge_window(case, schedule, until)
    else:
        judge_calendar(case, schedule, until)


def _next_deadline(case: Case) -> datetime:
    schedule = case.policy.schedule
    if isinstance(schedule, Every):
        return next_every(case, schedule.period)
    if isinstance(schedule, AtLeast):
        return next_window(case, schedule)
    return occurrence_after(schedule, floor(case))


def _verdict(case: Case, now: datetime) -> Verdict:
    policy = case.policy
    due = [moment] if (moment := next_run_moment(case)) is not None else []
    deadline = _next_deadline(case)
    is_window = isinstance(policy.schedule, AtLeast)
    is_late = (
        case.state.misses > 0 or case.state.short_since is not None or (not is_window and deadline <= now)
    )
    status = _status(case, is_late=is_late)
    if not policy.paused:
        # Once it is late or down, the deadline itself changes nothing; its grace's end counts.
        is_waiting = status in {Status.NEW, Status.UP} or is_window
        due.append(deadline if is_waiting and deadline > now else deadline + policy.grace)
    quiet = (
        isinstance(policy.schedule, Every)
        and status is Status.UP
        and case.state.failures == 0
        and case.state.held_from is None
        and not case.open_runs
    )
    state = case.state
    state.status = status
    if isinstance(policy.schedule, Every):
        # One form for one meaning: what ingest pushed ahead by itself reads the same afterwards.
        state.base_at = case.anchor
    state.folded_until = now
    state.last_signal_at = max(filter(None, (state.last_signal_at, state.last_success_at)), default=None)
    state.marks = tuple(case.marks[key] for key in sorted(case.marks))
    return Verdict(state, tuple(case.transitions), tuple(case.run_changes), min(due, default=None), quiet)


def _status(case: Case, *, is_late: bool) -> Status:
    if case.policy.paused:
        return Status.PAUSED
    if case.state.reasons:
        return Status.DOWN
    if is_late:
        return Status.LATE
    return Status.NEW if case.state.last_success_at is None else Status.UP
