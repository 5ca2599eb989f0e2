"""A service at a time: what was expected of it, what was heard, and each rule's verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from medic import services
from medic.errors import Invalid
from medic.evaluator import Interval, OpenRun, Policy
from medic.explain.history import history_until
from medic.explain.quiet import MayName, quiet_at, quiet_rule, without_names
from medic.explain.replay import Walked, walk
from medic.explain.rules import Rule, gaps_since, rules_of
from medic.models.alerting import Alert
from medic.models.monitoring import Heartbeat, Refusal, Service
from medic.schedule import AtLeast, describe

SHOWN = 10
"""Signals, refusals and runs that are shown."""
_LOST_AFTER = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class PolicyShown:
    """How a service is watched; ``since``: from when on."""

    schedule: str
    grace: timedelta
    since: datetime
    max_runtime: timedelta | None
    failure_threshold: int
    recovery_threshold: int
    paused: bool


@dataclass(frozen=True, slots=True)
class RunShown:
    """An open run, when it overruns, and when it counts as lost."""

    run_id: str | None
    started_at: datetime
    overruns_at: datetime | None
    lost_at: datetime
    overrun: bool


@dataclass(frozen=True, slots=True)
class ServiceExplained:
    """What is true of a service at ``at``.

    ``alert``: the alert that was open then.  ``quiet``: what would keep back its telling.  ``exact``: the state is
    walked from the service's beginning or from the last sweep, not from a success in between.
    """

    service: str
    at: datetime
    status: str
    reasons: tuple[str, ...]
    alert: int | None
    exact: bool
    policy: PolicyShown
    last_success_at: datetime | None
    last_failure_at: datetime | None
    failures: int
    successes: int
    deadline: datetime | None
    grace_ends_at: datetime | None
    next_change_at: datetime | None
    heard: int | None
    runs: tuple[RunShown, ...]
    heartbeats: Sequence[Heartbeat]
    unheard: tuple[Interval, ...]
    refused: Sequence[Refusal]
    quiet: tuple[dict[str, Any], ...]
    rules: tuple[Rule, ...]


def explain_service(
    session: Session, *, name: str, now: datetime, keep_days: int, at: datetime | None = None,
    may_name: MayName = lambda _: True,
) -> ServiceExplained:  # fmt: skip
    """Why a service is as it is, or as it was at ``at``.

    :param keep_days: how long heartbeats are kept.
    :param may_name: which other services are named.
    :raises NotFound: no such service.
    :raises Invalid: the time is ahead, before the service, or before what is kept.
    """
    service, row = services.find(session, name)
    horizon = now - timedelta(days=keep_days)
    when = now if at is None else at
    if when > now:
        raise Invalid.at("at", "is in the future")
    if when < horizon:
        raise Invalid.at("at", f"is more than {keep_days} days back; heartbeats are not kept longer")
    if when < service.created_at:
        raise Invalid.at("at", "is before the service was made")
    history = history_until(session, service, row, at=when, horizon=horizon, now=now)
    walked = walk(history, when)
    quiet = without_names(quiet_at(session, service, when), may_name)
    return _shown(session, service, walked, quiet, is_exact=history.is_exact)


def _shown(
    session: Session, service: Service, walked: Walked, quiet: list[dict[str, Any]], *, is_exact: bool
) -> ServiceExplained:
    state, policy, at = walked.state, walked.policy, walked.at
    is_window = isinstance(policy.schedule, AtLeast)
    deadline = None if is_window else walked.deadline
    since = policy.started_at if state.last_success_at is None else state.last_success_at
    return ServiceExplained(
        service=service.name,
        at=at,
        status=state.status.value,
        reasons=tuple(reason.value for reason, _ in state.reasons),
        alert=alert_at(session, service.id, at),
        exact=is_exact,
        policy=policy_shown(policy),
        last_success_at=state.last_success_at,
        last_failure_at=state.last_failure_at,
        failures=state.failures,
        successes=state.successes,
        deadline=deadline,
        grace_ends_at=None if deadline is None else deadline + policy.grace,
        next_change_at=walked.due_at,
        heard=walked.heard,
        runs=tuple(_run(walked, run) for run in walked.runs[-SHOWN:]),
        heartbeats=heartbeats_before(session, service.id, at),
        unheard=tuple(gaps_since(walked)[-SHOWN:]),
        refused=refusals(session, service.id, since, at),
        quiet=tuple(quiet),
        rules=(*rules_of(walked), quiet_rule(quiet)),
    )


def policy_shown(policy: Policy) -> PolicyShown:
    return PolicyShown(
        schedule=describe(policy.schedule),
        grace=policy.grace,
        since=policy.started_at,
        max_runtime=policy.max_runtime,
        failure_threshold=policy.failure_threshold,
        recovery_threshold=policy.recovery_threshold,
        paused=policy.paused,
    )


def _run(walked: Walked, run: OpenRun) -> RunShown:
    limit = walked.policy.max_runtime
    over = {mark.key for mark in walked.state.marks if mark.overrun}
    return RunShown(
        run_id=run.run_id,
        started_at=run.started_at,
        overruns_at=None if limit is None else run.started_at + limit,
        lost_at=run.started_at + (_LOST_AFTER if limit is None else max(_LOST_AFTER, 10 * limit)),
        overrun=run.key in over,
    )


def alert_at(session: Session, service_id: int, at: datetime) -> int | None:
    """The alert that was open then."""
    return session.scalar(
        select(Alert.id)
        .where(
            Alert.service_id == service_id,
            Alert.opened_at <= at,
            (Alert.resolved_at.is_(None) | (Alert.resolved_at > at)),
        )
        .order_by(Alert.id.desc())
        .limit(1)
    )


def heartbeats_before(session: Session, service_id: int, at: datetime) -> Sequence[Heartbeat]:
    """The last signals up to this time, newest first."""
    return session.scalars(
        select(Heartbeat)
        .where(Heartbeat.service_id == service_id, Heartbeat.received_at <= at)
        .order_by(Heartbeat.received_at.desc(), Heartbeat.id.desc())
        .limit(SHOWN)
    ).all()


def refusals(session: Session, service_id: int, since: datetime, until: datetime) -> Sequence[Refusal]:
    """Heartbeats of it that were refused between these times, newest first."""
    return session.scalars(
        select(Refusal)
        .where(Refusal.service_id == service_id, Refusal.until >= since, Refusal.since <= until)
        .order_by(Refusal.until.desc(), Refusal.id.desc())
        .limit(SHOWN)
    ).all()
