"""Missed: deadlines of `every`, cron and OnCalendar that passed with their grace."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import islice, takewhile
from typing import Any

from medic.evaluator.case import Case
from medic.evaluator.values import Reason, Signal
from medic.schedule import Calendar, Every, occurrence_after, occurrences
from medic.times import format_duration, format_time

MAX_OCCURRENCES = 10_000
"""Of one silence on a calendar, judged in one go; see rule 12 of the package."""


def judge_every(case: Case, period: timedelta, until: datetime) -> None:
    """Judge every deadline whose grace ends by `until`; blind intervals start the schedule afresh."""
    for gap in case.blind:
        if gap.end <= case.anchor or gap.start >= until:
            continue
        _count_grid(case, period, min(until, gap.start))
        case.state.base_at = min(gap.end, until)
        case.state.misses = 0
        case.state.missed_at = None
    _count_grid(case, period, until)


def next_every(case: Case, period: timedelta) -> datetime:
    return case.anchor + _first_step(case, period) * period


def _first_step(case: Case, period: timedelta) -> int:
    """The first deadline that is not judged, counted in periods from the anchor."""
    judged = case.state.judged_until
    return 1 if judged is None or judged < case.anchor else (judged - case.anchor) // period + 1


def _count_grid(case: Case, period: timedelta, until: datetime) -> None:
    anchor, grace = case.anchor, case.policy.grace
    first = _first_step(case, period)
    last = (until - grace - anchor) // period
    if last < first:
        return
    case.state.judged_until = anchor + last * period
    history = case.state.history_at
    if history is not None and history > anchor:
        # A deadline is disproved when the one before it is older than the proof.
        first = max(first, -((anchor - history) // period) + 1)
    if last >= first:
        _count_missed(case, [anchor + first * period, anchor + last * period], last - first + 1, period)


def judge_calendar(case: Case, schedule: Calendar, until: datetime) -> None:
    """Judge every occurrence whose grace ends by `until`."""
    grace = case.policy.grace
    span_start = max(floor(case), case.anchor)
    passed = takewhile(lambda at: at + grace <= until, occurrences(schedule, floor(case)))
    missed: list[datetime] = []
    judged = None
    for seen, at in enumerate(passed):
        if seen == MAX_OCCURRENCES:
            judged = until - grace
            break
        judged = at
        history = case.state.history_at
        if case.is_blind(span_start, at + grace):
            _count_missed(case, missed, len(missed))
            missed = []
            case.state.base_at = max(at, case.state.base_at)
            case.state.misses = 0
            case.state.missed_at = None
        elif history is None or history <= span_start:
            missed.append(at)
        span_start = at
    _count_missed(case, missed, len(missed))
    if judged is not None:
        case.state.judged_until = judged


def floor(case: Case) -> datetime:
    """The next occurrence to judge is the first one later than this."""
    judged = case.state.judged_until
    return case.state.started_at if judged is None else judged


def settle(case: Case, schedule: Calendar, event_at: datetime) -> datetime:
    """A final signal settles each occurrence up to it, and the next one if it stands for that.

    :returns: the occurrence that the signal stands for, by rule 5 of the package.
    """
    before = _occurrence_before(schedule, event_at)
    own = occurrence_after(schedule, event_at)
    if before is not None:
        is_awaited = floor(case) < before
        is_within_grace = event_at <= before + case.policy.grace
        if is_awaited or is_within_grace or event_at - before < own - event_at:
            own = before
    case.state.judged_until = max(event_at, own, floor(case))
    return own


def disprove(case: Case, schedule: Every | Calendar, signal: Signal) -> None:
    """A success among history takes back the misses up to it; it is no recovery and no new deadline."""
    event_at = signal.event_at
    if event_at <= case.anchor:
        return
    state = case.state
    newest = event_at if state.history_at is None else max(event_at, state.history_at)
    remaining = min(state.misses, _misses_after(case, schedule, event_at))
    failures = state.failures - (state.misses - remaining)
    if remaining == state.misses:
        case.state.history_at = newest
        return
    case.state.history_at = newest
    case.state.failures = failures
    case.state.misses = remaining
    case.state.missed_at = state.missed_at if remaining else None
    if failures < case.policy.failure_threshold:
        if case.is_open(Reason.MISSED):
            case.state.new_alerted = False
        evidence = {"because": "disproved", "signal": signal.id, "event_at": format_time(event_at)}
        case.clear([Reason.MISSED], signal.event_at, evidence)


def _misses_after(case: Case, schedule: Every | Calendar, event_at: datetime) -> int:
    """How many judged misses have the deadline before them at or after `event_at`."""
    missed_at = case.state.missed_at
    if missed_at is None:
        return 0
    if isinstance(schedule, Every):
        last = (missed_at - case.anchor) // schedule.period
        return max(last + (case.anchor - event_at) // schedule.period, 0)
    # The first one at or after the proof is itself disproved: its span holds the proof.
    times = occurrences(schedule, event_at - timedelta(microseconds=1))
    return max(sum(1 for _ in _capped(times, missed_at)) - 1, 0)


def _capped(times: Iterator[datetime], until: datetime) -> Iterator[datetime]:
    return takewhile(lambda at: at <= until, islice(times, MAX_OCCURRENCES))


def _occurrence_before(schedule: Calendar, at: datetime) -> datetime | None:
    """The last occurrence not later than `at`; None when there was none for ten years."""
    back = timedelta(minutes=2)
    while back < timedelta(days=3_660):
        last = None
        for time in takewhile(lambda time: time <= at, occurrences(schedule, at - back)):
            last = time
        if last is not None:
            return last
        back *= 4
    return None


def _count_missed(case: Case, missed: list[datetime], number: int, period: timedelta | None = None) -> None:
    """Count `number` misses: the deadlines listed, or with `period` all from the first to the last."""
    if not number:
        return
    grace = case.policy.grace

    def finding(index: int) -> tuple[datetime, dict[str, Any]]:
        deadline = missed[index] if period is None else missed[0] + index * period
        return deadline + grace, {
            "because": "missed",
            "deadline": format_time(deadline),
            "grace": format_duration(grace),
        }

    case.state.misses = case.state.misses + number
    case.state.missed_at = missed[-1]
    case.count(Reason.MISSED, number, finding)
