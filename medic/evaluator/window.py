"""Too few: `at_least` N successes in the window that ends now."""

from __future__ import annotations

from bisect import bisect_right, insort
from datetime import datetime
from typing import Any

from medic.evaluator.case import Case
from medic.evaluator.values import Reason, Signal
from medic.schedule import AtLeast
from medic.times import format_duration, format_time


def judge_window(case: Case, schedule: AtLeast, until: datetime) -> None:
    """Judge the window at every moment up to `until`; blind intervals start it afresh."""
    for gap in case.blind:
        if gap.end <= case.state.base_at or gap.start >= until:
            continue
        _judge_heard(case, schedule, min(until, gap.start))
        _start_afresh(case, min(gap.end, until))
    _judge_heard(case, schedule, until)


def next_window(case: Case, schedule: AtLeast) -> datetime:
    """When it can next become short, or, while it is, when that counts once more."""
    armed = _armed_at(case, schedule)
    if case.state.short_since is not None:
        judged = case.state.judged_until
        return armed if judged is None else max(judged + schedule.within, armed)
    return max(_drops_at(case, schedule) or armed, armed)


def add_success(case: Case, schedule: AtLeast, signal: Signal) -> None:
    """Take a success into the window, history too; N in the window end `too_few`."""
    insort(case.window, signal.event_at)
    if case.state.short_since is None or _heard(case, schedule, case.time) < schedule.count:
        return
    case.state.short_since = None
    case.state.judged_until = None
    case.state.failures = 0
    case.state.held_from = None
    case.state.misses = 0
    case.state.missed_at = None
    evidence = _evidence(case, schedule, case.time) | {"because": "enough", "signal": signal.id}
    case.clear([Reason.TOO_FEW], signal.event_at, evidence)


def _start_afresh(case: Case, at: datetime) -> None:
    is_open = case.is_open(Reason.TOO_FEW)
    short_since = case.state.short_since if is_open else None
    case.state.base_at = at
    case.state.judged_until = None
    case.state.short_since = short_since


def _armed_at(case: Case, schedule: AtLeast) -> datetime:
    return case.state.base_at + schedule.within + case.policy.grace


def _heard(case: Case, schedule: AtLeast, at: datetime) -> int:
    return len(case.window) - bisect_right(case.window, at - schedule.within)


def _drops_at(case: Case, schedule: AtLeast) -> datetime | None:
    """When the N-th newest success leaves the window; None when there are not even N."""
    if len(case.window) < schedule.count:
        return None
    return case.window[-schedule.count] + schedule.within


def _judge_heard(case: Case, schedule: AtLeast, until: datetime) -> None:
    if case.state.short_since is None:
        # Not before `time`: what has left the window by now may have been enough until now.
        short_at = max(_drops_at(case, schedule) or case.time, _armed_at(case, schedule))
        if short_at > until:
            return
        case.state.short_since = short_at
    _count_short(case, schedule, until)


def _count_short(case: Case, schedule: AtLeast, until: datetime) -> None:
    """Becoming short counts one, and each further whole window one more."""
    state, within = case.state, schedule.within
    assert state.short_since is not None
    if state.judged_until is None:
        first = max(state.short_since, _armed_at(case, schedule))
    else:
        first = state.judged_until + within
    if first > until:
        return
    number = (until - first) // within + 1

    def finding(index: int) -> tuple[datetime, dict[str, Any]]:
        at = first + index * within
        return at, _evidence(case, schedule, at) | {"because": "too_few"}

    case.state.judged_until = first + (number - 1) * within
    case.count(Reason.TOO_FEW, number, finding)


def _evidence(case: Case, schedule: AtLeast, at: datetime) -> dict[str, Any]:
    return {
        "window_ends": format_time(at),
        "within": format_duration(schedule.within),
        "wanted": schedule.count,
        "heard": _heard(case, schedule, at),
    }
