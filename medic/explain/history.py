"""What is stored of a service up to a time, as the evaluator takes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, bindparam, select, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session
from sqlalchemy.types import Text

from medic import evaluator
from medic.coverage import blind_intervals, refused_intervals
from medic.evaluator import Interval, Kind, OpenRun, Reason, Signal
from medic.explain.policies import policies_of
from medic.explain.replay import History, behind_success
from medic.heartbeats import HISTORY_AGE
from medic.models.alerting import Alert, AlertTransition
from medic.models.monitoring import Service, ServiceState
from medic.schedule import AtLeast
from medic.sweep import policy_of, restore
from medic.sweep.evidence import runs_behind, signals_behind
from medic.sweep.rows import Due
from medic.sweep.silence import unheard

KEPT = 500
"""Signals that a walk goes through; it begins with the first success among them."""
KEPT_OF_WINDOW = 20_000
SEARCHED = 20_000
"""Older signals among which a success is looked for when there is none among those."""
_LONGEST_RUN = timedelta(days=2)


def history_until(
    session: Session, service: Service, row: ServiceState, *, at: datetime, horizon: datetime, now: datetime
) -> History:
    """What leads to ``at``: from where the last sweep stood, if that was before, else from the past.

    :param horizon: what is older may be gone.
    """
    policy = policy_of(service)
    state = restore(policy, row)
    heard = state.last_success_at + HISTORY_AGE if row.quiet and state.last_success_at is not None else at
    if at >= now or (at >= max(state.folded_until, heard) and at >= policy.started_at):
        return _from_sweep(session, Due(service, row, policy, state), at)
    return _from_past(session, service, row, at, horizon)


def _from_sweep(session: Session, due: Due, at: datetime) -> History:
    """Exactly what a sweep at this moment would be given."""
    signals = signals_behind(session, [due])
    runs = runs_behind(session, [due], signals, now=at)
    blind = unheard(session, [due], signals, runs, now=at)
    service_id = due.service.id
    return History(
        (due.policy,),
        due.state,
        tuple(signals[service_id]),
        tuple(runs[service_id]),
        blind.get(service_id, ()),
    )


def _from_past(
    session: Session, service: Service, row: ServiceState, at: datetime, horizon: datetime
) -> History:
    known = [policy for policy in policies_of(session, service) if policy.started_at <= at]
    policies = known or [replace(policy_of(service), started_at=service.created_at)]
    schedule = policies[-1].schedule
    kept = KEPT_OF_WINDOW if isinstance(schedule, AtLeast) else KEPT
    signals = _signals(session, service.id, since=horizon, until=at, limit=kept)
    by_hand = _by_hand(session, service.id, at)
    is_whole = len(signals) < kept and service.created_at >= horizon
    if is_whole and policies[0].started_at <= service.created_at:
        blind = _gaps(session, service.id, since=service.created_at, until=at)
        first = evaluator.first_state(policies[0])
        return History(tuple(policies), first, tuple(signals), (), blind, by_hand)
    success = _anchor(signals, schedule)
    if success is None:
        oldest = signals[0].received_at if signals else at
        success = _success_before(session, service.id, since=horizon, until=oldest) or _known_success(
            row, oldest
        )
    if success is None:
        # Nothing of it was heard for as long as anything is kept.
        state = evaluator.first_state(policies[0])
        blind = _gaps(session, service.id, since=max(horizon, policies[0].started_at), until=at)
        return History(tuple(policies), state, tuple(signals), (), blind, by_hand, is_exact=False)
    start = success.received_at
    in_force = max([i for i, policy in enumerate(policies) if policy.started_at <= start], default=0)
    chain = policies[in_force:]
    runs = _runs(session, service.id, signals, success)
    reasons = _reasons_at(session, service.id, start)
    state = behind_success(chain[0], success, reasons=reasons, runs=runs)
    blind = _gaps(
        session, service.id, since=min([success.event_at, *(run.started_at for run in runs)]), until=at
    )
    later = tuple(moment for moment in by_hand if moment > start)
    return History(tuple(chain), state, tuple(signals), tuple(runs), blind, later, is_exact=False)


def _anchor(signals: Sequence[Signal], schedule: object) -> Signal | None:
    """The first success to begin behind; with a window, the first that has a whole one before it."""
    successes = [signal for signal in signals if signal.is_success and not signal.is_history]
    if isinstance(schedule, AtLeast) and successes:
        full = signals[0].received_at + schedule.within
        return next((signal for signal in successes if signal.received_at >= full), successes[-1])
    return successes[0] if successes else None


def _known_success(row: ServiceState, before: datetime) -> Signal | None:
    """The last success by the row, when the signal itself is gone."""
    last = row.last_success_at
    return Signal(0, Kind.OK, last, last) if last is not None and last < before else None


# A start that opened no run came behind its end: as in `medic.sweep.evidence`.
_SIGNALS = text(
    """
    SELECT h.id, h.event_at, h.received_at, h.run_id, h.exit_code,
           CASE WHEN h.kind = 'start' AND h.run_id IS NULL AND NOT EXISTS (
                     SELECT 1 FROM runs r
                      WHERE r.service_id = h.service_id AND r.started_at = h.event_at AND r.start_id = h.id)
                THEN 'log' ELSE h.kind END AS kind
      FROM heartbeats h
     WHERE h.service_id = :service_id AND h.received_at >= :since AND h.received_at <= :until
     ORDER BY h.received_at DESC, h.id DESC LIMIT :limit
    """
)

_SUCCESS_BEFORE = text(
    """
    SELECT * FROM (
        SELECT h.id, h.event_at, h.received_at, h.run_id, h.exit_code, h.kind
          FROM heartbeats h
         WHERE h.service_id = :service_id AND h.received_at >= :since AND h.received_at < :until
         ORDER BY h.received_at DESC LIMIT :limit
    ) searched
     WHERE kind IN ('ok', 'complete') AND coalesce(exit_code, 0) = 0 AND received_at - event_at <= :history
     ORDER BY received_at DESC, id DESC LIMIT 1
    """
)


def _signals(
    session: Session, service_id: int, *, since: datetime, until: datetime, limit: int
) -> list[Signal]:
    """The newest ones, oldest first."""
    rows = session.execute(
        _SIGNALS, {"service_id": service_id, "since": since, "until": until, "limit": limit}
    ).all()
    return [_signal(row) for row in reversed(rows)]


def _success_before(session: Session, service_id: int, *, since: datetime, until: datetime) -> Signal | None:
    row = session.execute(
        _SUCCESS_BEFORE,
        {"service_id": service_id, "since": since, "until": until, "limit": SEARCHED, "history": HISTORY_AGE},
    ).one_or_none()
    return None if row is None else _signal(row)


def _signal(row: Row[Any]) -> Signal:
    return Signal(
        id=row.id, kind=Kind(row.kind), event_at=row.event_at, received_at=row.received_at, run_id=row.run_id,
        exit_code=row.exit_code, is_history=row.received_at - row.event_at > HISTORY_AGE,
    )  # fmt: skip


_RUNS = text(
    """
    SELECT id, run_id, started_at,
           CASE WHEN state = 'open' OR end_id > :folded OR (end_id IS NULL AND ended_at > :start)
                THEN NULL ELSE ended_at END AS ended_at
      FROM runs
     WHERE service_id = :service_id AND started_at >= :oldest
       AND (start_id IS NULL OR start_id <= :folded)
       AND (state = 'open' OR end_id > :folded OR (end_id IS NULL AND ended_at > :start) OR run_id = ANY(:named))
     ORDER BY started_at
    """
).bindparams(bindparam("named", type_=ARRAY(Text)))


def _runs(session: Session, service_id: int, signals: Sequence[Signal], success: Signal) -> list[OpenRun]:
    """The runs as they stood behind this success."""
    named = sorted({s.run_id for s in signals if s.run_id is not None and s.id > success.id})
    rows = session.execute(
        _RUNS,
        {
            "service_id": service_id,
            "folded": success.id,
            "start": success.received_at,
            "oldest": success.received_at - _LONGEST_RUN,
            "named": named,
        },
    )
    return [OpenRun(*row) for row in rows]


def _gaps(session: Session, service_id: int, *, since: datetime, until: datetime) -> tuple[Interval, ...]:
    blind = blind_intervals(session, since=since, now=until)
    refused = refused_intervals(session, [service_id], since=since, now=until)
    return (*blind, *refused.get(service_id, ()))


def _by_hand(session: Session, service_id: int, until: datetime) -> tuple[datetime, ...]:
    query = select(Alert.resolved_at).where(
        Alert.service_id == service_id, Alert.resolution == "manual", Alert.resolved_at <= until
    )
    return tuple(
        moment for moment in session.scalars(query.order_by(Alert.resolved_at)) if moment is not None
    )


def _reasons_at(session: Session, service_id: int, at: datetime) -> dict[Reason, datetime]:
    """The reasons of the alert that was open then, with the moment each became true."""
    rows = session.execute(
        select(AlertTransition.kind, AlertTransition.reason, AlertTransition.at)
        .join(Alert, Alert.id == AlertTransition.alert_id)
        .where(
            Alert.service_id == service_id,
            Alert.opened_at <= at,
            (Alert.resolved_at.is_(None) | (Alert.resolved_at > at)),
            AlertTransition.at <= at,
        )
        .order_by(AlertTransition.id)
    )
    found: dict[Reason, datetime] = {}
    for kind, reason, moment in rows:
        if reason is None:
            continue
        if kind in {"opened", "reason_joined"}:
            found[Reason(reason)] = moment
        elif kind == "reason_cleared":
            found.pop(Reason(reason), None)
    return found
