"""The due rows: claimed, and read as the evaluator's policy and state."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from medic import evaluator
from medic.evaluator import Policy, State, Verdict
from medic.models.monitoring import Service, ServiceState
from medic.schedule import parse_schedule
from medic.times import parse_time


@dataclass(frozen=True, slots=True)
class Due:
    """A claimed row, and the state that the last sweep left."""

    service: Service
    row: ServiceState
    policy: Policy
    state: State


@dataclass(frozen=True, slots=True)
class Judged:
    service: Service
    verdict: Verdict


def claim(session: Session, *, now: datetime, limit: int) -> list[tuple[Service, ServiceState]]:
    """Lock what is due and nobody else has.

    The policies are read behind the locks, by a statement of their own: in one statement with them, a row
    that was changed meanwhile would be locked as it is now and joined to the policy that it had before.
    """
    rows = session.scalars(
        select(ServiceState)
        .where(ServiceState.due_at <= now)
        .order_by(ServiceState.due_at, ServiceState.service_id)
        .limit(limit)
        .with_for_update(key_share=True, skip_locked=True)
    ).all()
    ids = [row.service_id for row in rows]
    found = session.scalars(select(Service).where(Service.id.in_(ids))) if ids else ()
    services = {service.id: service for service in found}
    return [(services[row.service_id], row) for row in rows if row.service_id in services]


def policy_of(service: Service) -> Policy:
    """A service's row as the evaluator's policy."""
    return Policy(
        version=service.policy_version,
        schedule=parse_schedule(
            every=service.every_s, cron=service.cron, on_calendar=service.on_calendar, at_least=service.at_least,
            within=service.within_s, timezone=service.timezone, default_zone="UTC",
        ),
        grace=timedelta(seconds=service.grace_s),
        started_at=service.policy_since,
        max_runtime=timedelta(seconds=service.max_runtime_s) if service.max_runtime_s else None,
        failure_threshold=service.failure_threshold,
        recovery_threshold=service.recovery_threshold,
        paused=service.paused_at is not None,
    )  # fmt: skip


def restore(policy: Policy, row: ServiceState) -> State:
    """The state that the last sweep left, or a new service's."""
    carried = dict(row.carried)
    by_hand = carried.pop("resolved_by_hand", None)
    carried.pop("set_aside_at", None)
    if not carried:
        return evaluator.first_state(policy)
    state = evaluator.restore(
        carried,
        status=row.status,
        policy_version=row.policy_version,
        last_success_at=row.last_success_at,
        failures=row.failures,
        successes=row.successes,
        folded_id=row.folded_id,
    )
    return evaluator.resolved_by_hand(state, parse_time(by_hand)) if by_hand else state
