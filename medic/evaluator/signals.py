"""What one signal does to the state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from medic.evaluator.case import Case
from medic.evaluator.deadlines import disprove, settle
from medic.evaluator.runs import end_run, lose_runs, start_run
from medic.evaluator.values import Kind, Reason, Signal
from medic.evaluator.window import add_success
from medic.schedule import AtLeast, Every
from medic.times import format_time


def arrivals(signals: Iterable[Signal], folded_id: int) -> Iterator[Signal]:
    """Those not yet folded in, each once, in the order in which they arrived."""
    new = {signal.id: signal for signal in signals if signal.id > folded_id}
    yield from sorted(new.values(), key=lambda signal: (signal.received_at, signal.id))


def fold(case: Case, signal: Signal) -> None:
    """Take one signal in; `case.time` is when it counts as arrived."""
    case.state.folded_id = max(case.state.folded_id, signal.id)
    case.state.last_signal_at = _later(case.state.last_signal_at, signal.event_at)
    if signal.kind is Kind.START:
        start_run(case, signal)
    if signal.kind in {Kind.START, Kind.LOG}:
        return
    before = set(case.marks)
    end_run(case, signal)
    if signal.is_failure:
        if not signal.is_history:
            _fail(case, signal)
    elif signal.is_history:
        _remember(case, signal)
    else:
        lose_runs(case, signal, before - set(case.marks))
        _succeed(case, signal)


def _remember(case: Case, signal: Signal) -> None:
    schedule = case.policy.schedule
    if isinstance(schedule, AtLeast):
        add_success(case, schedule, signal)
    else:
        disprove(case, schedule, signal)


def _succeed(case: Case, signal: Signal) -> None:
    state, schedule = case.state, case.policy.schedule
    case.state.last_success_at = _later(state.last_success_at, signal.event_at)
    case.state.new_alerted = False
    if not isinstance(schedule, AtLeast | Every):
        settle(case, schedule, signal.event_at)
    if isinstance(schedule, AtLeast):
        add_success(case, schedule, signal)
    if state.last_failure_at is not None and signal.event_at < state.last_failure_at:
        return  # A newer failure has overtaken it.
    if case.state.short_since is None:
        case.state.failures = 0
        case.state.held_from = None
    case.state.misses = 0
    case.state.missed_at = None
    case.state.failed_for = None
    broken = [reason for reason in (Reason.MISSED, Reason.FAILED) if case.is_open(reason)]
    if not broken:
        return
    successes = case.state.successes + 1
    case.state.successes = successes
    if successes >= case.policy.recovery_threshold:
        case.clear(
            broken, signal.event_at, _evidence(signal) | {"because": "recovered", "successes": successes}
        )
        case.state.successes = 0


def _fail(case: Case, signal: Signal) -> None:
    state, schedule = case.state, case.policy.schedule
    event_at = signal.event_at
    case.state.last_failure_at = _later(state.last_failure_at, event_at)
    if case.policy.paused or (state.last_success_at is not None and event_at < state.last_success_at):
        return  # Nobody is to be told, or a newer success has overtaken it.
    counts = True
    if isinstance(schedule, Every):
        # A miss that was judged before this failure of the same span arrived becomes the failure.
        counts = state.missed_at is None or event_at > state.missed_at + case.policy.grace
    elif not isinstance(schedule, AtLeast):
        own = settle(case, schedule, event_at)
        counts = own not in {state.missed_at, state.failed_for}
        case.state.failed_for = own
    if not isinstance(schedule, AtLeast):
        case.state.base_at = max(state.base_at, event_at)
        case.state.misses = 0
        case.state.missed_at = None
    if not counts:
        # The counter stands; taking one back and counting it again lets the reason join.
        case.state.failures = max(case.state.failures - 1, 0)
    evidence = _evidence(signal) | {"because": "failed", "exit_code": signal.exit_code}
    case.count(Reason.FAILED, 1, lambda _: (event_at, evidence))


def _evidence(signal: Signal) -> dict[str, Any]:
    return {"signal": signal.id, "event_at": format_time(signal.event_at), "run_id": signal.run_id}


def _later(known: datetime | None, at: datetime) -> datetime:
    return at if known is None else max(known, at)
