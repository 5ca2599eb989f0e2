"""A service's state at a time, walked there by the sweep's own evaluator.  Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from datetime import datetime

from medic import evaluator
from medic.evaluator import Interval, OpenRun, Policy, Reason, RunEvent, RunMark, Signal, State, Status
from medic.evaluator.case import Case
from medic.evaluator.deadlines import floor, next_every, settle
from medic.evaluator.window import next_window
from medic.schedule import AtLeast, Every, occurrence_after

_OPENS = frozenset({RunEvent.STARTED})
_ENDS = frozenset({RunEvent.COMPLETED, RunEvent.FAILED, RunEvent.LOST})


@dataclass(frozen=True, slots=True)
class History:
    """Where a walk begins, and what happened from there on.

    :param policies: the one in force where it begins, then each later one by its start.
    :param signals: for `at_least` with those of the window before.
    :param runs: as they stood there, with the ended ones that a signal names.
    :param by_hand: when somebody resolved the open alert.
    :param is_exact: the beginning is the service's own, or the sweep's; else it is what a success says of it.
    """

    policies: tuple[Policy, ...]
    state: State
    signals: tuple[Signal, ...]
    runs: tuple[OpenRun, ...]
    blind: tuple[Interval, ...]
    by_hand: tuple[datetime, ...] = ()
    is_exact: bool = True


@dataclass(frozen=True, slots=True)
class Walked:
    """How a service is at ``at``.

    :param deadline: the next one that is not judged; for `at_least` when it can next become short, or counts again.
    :param heard: for `at_least`, the successes in the window that ends then.
    """

    at: datetime
    policy: Policy
    state: State
    runs: tuple[OpenRun, ...]
    blind: tuple[Interval, ...]
    due_at: datetime | None
    deadline: datetime | None
    heard: int | None


def walk(history: History, at: datetime) -> Walked:
    """Judge the service up to ``at``, as sweeps at every moment would have."""
    policy, state = history.policies[0], history.state
    runs = {run.key: run for run in history.runs}
    stops: list[tuple[datetime, Policy | None]] = [(p.started_at, p) for p in history.policies[1:]]
    stops += [(moment, None) for moment in history.by_hand]
    for moment, following in sorted(stops, key=lambda stop: stop[0]):
        if moment > at:
            break
        state = _go(history, policy, state, runs, moment).state
        if following is not None:
            policy = following
        elif state.reasons:
            state = evaluator.resolved_by_hand(state, moment)
    verdict = _go(history, policy, state, runs, at)
    is_window = isinstance(policy.schedule, AtLeast)
    window = (
        sorted(s.event_at for s in history.signals if s.received_at <= at and s.is_success)
        if is_window
        else []
    )
    return Walked(
        at=at,
        policy=policy,
        state=verdict.state,
        runs=tuple(
            sorted((run for run in runs.values() if run.ended_at is None), key=lambda r: r.started_at)
        ),
        blind=tuple(gap for gap in history.blind if gap.start < at),
        due_at=verdict.due_at,
        deadline=None if policy.paused else next_deadline(policy, verdict.state, window),
        heard=_heard(policy, window, at),
    )


def _go(
    history: History, policy: Policy, state: State, runs: dict[str, OpenRun], until: datetime
) -> evaluator.Verdict:
    known = [signal for signal in history.signals if signal.received_at <= until]
    verdict = evaluator.evaluate(policy, state, known, list(runs.values()), history.blind, until)
    for change in verdict.runs:
        if change.event in _OPENS:
            runs[change.run.key] = change.run
        elif change.event in _ENDS or change.event is RunEvent.UNPAIRED:
            runs.pop(change.run.key, None)
            if change.run.run_id is not None:
                runs[change.run.key] = replace(change.run, ended_at=change.at)
    return verdict


def next_deadline(policy: Policy, state: State, window: Sequence[datetime] = ()) -> datetime:
    """The next moment that the schedule names, by the state of a verdict."""
    case = Case(policy=policy, state=copy(state), blind=(), time=state.folded_until, window=list(window))
    schedule = policy.schedule
    if isinstance(schedule, Every):
        return next_every(case, schedule.period)
    if isinstance(schedule, AtLeast):
        return next_window(case, schedule)
    return occurrence_after(schedule, floor(case))


def _heard(policy: Policy, window: Sequence[datetime], at: datetime) -> int | None:
    schedule = policy.schedule
    if not isinstance(schedule, AtLeast):
        return None
    return sum(at - schedule.within < moment <= at for moment in window)


def behind_success(
    policy: Policy, success: Signal, *, reasons: Mapping[Reason, datetime], runs: Sequence[OpenRun]
) -> State:
    """The state right behind a success, when nothing before it can be read any more.

    A success ends whatever was counted before, so little is lost: the successes before it that count toward recovery,
    and a failure that is newer than it.

    :param reasons: of the alert that was open then, with the moment each became true.
    """
    schedule = policy.schedule
    state = replace(
        evaluator.first_state(policy),
        folded_until=max(success.received_at, policy.started_at),
        folded_id=success.id,
        last_success_at=success.event_at,
        last_signal_at=success.event_at,
        missed_since=reasons.get(Reason.MISSED),
        failed_since=reasons.get(Reason.FAILED),
        overrun_since=reasons.get(Reason.OVERRUN),
        too_few_since=reasons.get(Reason.TOO_FEW),
        short_since=reasons.get(Reason.TOO_FEW),
        changed_at=max(reasons.values(), default=None),
    )
    if policy.paused:
        return replace(state, status=Status.PAUSED)
    state.status = Status.DOWN if state.reasons else Status.UP
    # A run that is open behind a success has seen one at the most: the second would have ended it as lost.
    state.marks = tuple(
        RunMark(
            run.key,
            later_successes=int(run.started_at < success.event_at),
            overrun=state.overrun_since is not None and _is_over(policy, run, success),
        )
        for run in sorted(runs, key=lambda run: run.key)
        if run.ended_at is None
    )
    if isinstance(schedule, Every):
        state.base_at = max(success.event_at, policy.started_at)
    elif not isinstance(schedule, AtLeast):
        state.judged_until = max(success.event_at, policy.started_at)
        settle(
            Case(policy=policy, state=state, blind=(), time=state.folded_until), schedule, success.event_at
        )
    return state


def _is_over(policy: Policy, run: OpenRun, success: Signal) -> bool:
    limit = policy.max_runtime
    return run.ended_at is None and limit is not None and run.started_at + limit <= success.received_at
