"""A new policy, a pause, the end of a pause: what of the state still holds."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from medic.evaluator.case import Case
from medic.evaluator.runs import recheck_overruns
from medic.evaluator.values import Policy, Reason, State, Status
from medic.schedule import AtLeast, Every, occurrence_after


def first_state(policy: Policy) -> State:
    """The state of a service that was just made."""
    return State(
        status=Status.PAUSED if policy.paused else Status.NEW,
        policy_version=policy.version,
        started_at=policy.started_at,
        base_at=policy.started_at,
        folded_until=policy.started_at,
    )


def apply_policy(case: Case) -> None:
    """Bring the state under the policy in force."""
    policy = case.policy
    was_paused = case.state.status is Status.PAUSED
    if policy.paused:
        if not was_paused:
            _pause(case)
    elif was_paused or policy.started_at != case.state.started_at:
        _start_afresh(case)
    case.state.policy_version = policy.version
    case.state.started_at = policy.started_at


def _pause(case: Case) -> None:
    case.pause(case.policy.started_at)
    for key, mark in case.marks.items():
        case.marks[key] = replace(mark, overrun=False)
    case.state.failures = 0
    case.state.misses = 0
    case.state.missed_at = None
    case.state.failed_for = None
    case.state.short_since = None
    case.state.successes = 0
    case.state.held_from = None


def _start_afresh(case: Case) -> None:
    policy, schedule = case.policy, case.policy.schedule
    since = policy.started_at
    because = {"because": "policy changed"}
    if isinstance(schedule, AtLeast):
        _forget_misses(case)
        case.clear([Reason.MISSED], since, because)
        short_since = case.state.short_since if case.is_open(Reason.TOO_FEW) else None
        case.state.base_at = since
        case.state.judged_until = None
        case.state.short_since = short_since
    else:
        case.clear([Reason.TOO_FEW], since, because)
        case.state.short_since = None
        if occurrence_after(schedule, case.anchor) + policy.grace > since:
            _forget_misses(case)
            case.clear([Reason.MISSED], since, because)
        elif isinstance(schedule, Every):
            case.state.base_at = since
        case.state.judged_until = None if isinstance(schedule, Every) else since
    recheck_overruns(case, since)


def _forget_misses(case: Case) -> None:
    state = case.state
    case.state.failures = max(state.failures - state.misses, 0)
    case.state.misses = 0
    case.state.missed_at = None


def resolved_by_hand(state: State, at: datetime) -> State:
    """The state after somebody resolved the open alert by hand, at `at`.

    The counter goes on; the alert opens again after `failure_threshold` further misses, a run that
    overran stays quiet, and a success ends the hold.
    """
    is_silent = state.misses > 0 or state.short_since is not None
    return replace(
        state,
        status=Status.LATE if is_silent else Status.UP,
        changed_at=at if state.changed_at is None else max(at, state.changed_at),
        missed_since=None,
        failed_since=None,
        overrun_since=None,
        too_few_since=None,
        successes=0,
        held_from=state.failures,
    )
