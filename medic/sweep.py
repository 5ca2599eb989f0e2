"""The monitor sweep: services that are due, their verdict, and what follows from it.

Rows are claimed in bounded batches, one transaction each, with SKIP LOCKED: several sweepers share the
work.  A sweep costs what is due, not what exists; one that was missed is made up for by what is due
still.  A row that cannot be evaluated is pushed ahead, logged and counted, and stops nobody else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import Engine, bindparam, select, text, update
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Session
from sqlalchemy.types import BigInteger, Boolean, Integer, Text

from medic import alerts, evaluator
from medic.db import database_now, in_transaction
from medic.evaluator import Change, Kind, OpenRun, Policy, Reason, Signal, State, Transition, Verdict
from medic.heartbeats import HISTORY_AGE
from medic.models.alerting import Alert
from medic.models.monitoring import Run, Service, ServiceState
from medic.reactions import Failing, react
from medic.schedule import parse_schedule
from medic.telemetry import metrics
from medic.times import parse_time

BATCH = 500
SET_ASIDE = timedelta(minutes=5)
"""How far a row is pushed ahead whose verdict cannot be computed."""
COMMIT_LAG = timedelta(minutes=5)
"""No ingest transaction lives this long: older partitions hold no signal behind the cursor."""

Judged = tuple[Service, ServiceState, Verdict]

log = structlog.get_logger("medic.sweep")


@dataclass(slots=True)
class Swept:
    """What a sweep did; ``started`` are executions to dispatch now that it is committed."""

    checked: int = 0
    opened: int = 0
    resolved: int = 0
    set_aside: int = 0
    lag: timedelta = timedelta(0)
    started: list[Any] = field(default_factory=list)

    def add(self, other: Swept) -> None:
        self.checked += other.checked
        self.opened += other.opened
        self.resolved += other.resolved
        self.set_aside += other.set_aside
        self.lag = max(self.lag, other.lag)
        self.started += other.started


def sweep(engine: Engine, *, batches: int = 200) -> Swept:
    """Judge whatever is due, in batches until nothing is left or ``batches`` are done."""
    total = Swept()
    for _ in range(batches):
        swept = in_transaction(engine, sweep_batch)
        total.add(swept)
        if swept.checked + swept.set_aside < BATCH:
            break
    return total


def sweep_batch(session: Session, *, now: datetime | None = None) -> Swept:
    """Judge one batch in this transaction.

    :param now: the moment of the judgement; the transaction's own if none is given.
    """
    at = now or database_now(session)
    rows = session.execute(
        select(Service, ServiceState)
        .join(ServiceState, ServiceState.service_id == Service.id)
        .where(ServiceState.due_at <= at)
        .order_by(ServiceState.due_at, ServiceState.service_id)
        .limit(BATCH)
        .with_for_update(of=ServiceState, key_share=True, skip_locked=True)
    ).all()  # fmt: skip
    if not rows:
        return Swept()
    swept = Swept(lag=at - min(state.due_at for _, state in rows if state.due_at is not None))
    states = {service.id: restore(service, state) for service, state in rows}
    signals = _signals(session, [(service, row, states[service.id]) for service, row in rows])
    runs = _runs(session, rows)
    verdicts: list[Judged] = []
    for service, row in rows:
        try:
            verdict = evaluator.evaluate(
                policy_of(service), states[service.id], signals[service.id], runs[service.id], (), at
            )
        except Exception:
            # One row that cannot be judged must not blind Medic to all others.
            log.exception("sweep.row_set_aside", service_id=service.id)
            session.execute(
                update(ServiceState)
                .where(ServiceState.service_id == service.id)
                .values(due_at=at + SET_ASIDE, quiet=False)
            )
            swept.set_aside += 1
            continue
        verdicts.append((service, row, verdict))
        swept.checked += 1
    _write_states(session, verdicts)
    _lose_runs(session, verdicts)
    _apply(session, verdicts, swept, at)
    return swept


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


def restore(service: Service, row: ServiceState) -> State:
    """The state that the last sweep left, or a new service's."""
    carried = dict(row.carried)
    by_hand = carried.pop("resolved_by_hand", None)
    if not carried:
        return evaluator.first_state(policy_of(service))
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


def _signals(
    session: Session, rows: Sequence[tuple[Service, ServiceState, State]]
) -> dict[int, list[Signal]]:
    """What arrived behind each row's cursor; a quiet row on `every` has folded its own in."""
    found: dict[int, list[Signal]] = defaultdict(list)
    wanted: list[tuple[int, int, datetime]] = []
    for service, row, state in rows:
        since = state.folded_until - COMMIT_LAG
        if service.within_s is not None:
            # The window before the cursor counts too.
            wanted.append((service.id, 0, since - timedelta(seconds=service.within_s)))
        elif not (row.quiet and service.every_s is not None):
            wanted.append((service.id, state.folded_id, since))
    if not wanted:
        return found
    heartbeats = session.execute(
        text(
            """
            SELECT h.service_id, h.id, h.kind, h.event_at, h.received_at, h.run_id, h.exit_code
              FROM unnest(:services, :folded, :since) AS w (service_id, folded_id, since)
             CROSS JOIN LATERAL (
                SELECT * FROM heartbeats b
                 WHERE b.service_id = w.service_id AND b.received_at >= w.since AND b.id > w.folded_id
             ) h
             WHERE h.received_at >= :oldest
             ORDER BY h.service_id, h.id
            """
        ),
        {
            "services": [service_id for service_id, _, _ in wanted],
            "folded": [folded for _, folded, _ in wanted],
            "since": [since for _, _, since in wanted],
            # Said once more as a constant, so that the planner leaves older partitions alone.
            "oldest": min(since for _, _, since in wanted),
        },
    )
    for beat in heartbeats:
        found[beat.service_id].append(
            Signal(
                id=beat.id,
                kind=Kind(beat.kind),
                event_at=beat.event_at,
                received_at=beat.received_at,
                run_id=beat.run_id,
                exit_code=beat.exit_code,
                is_history=beat.received_at - beat.event_at > HISTORY_AGE,
            )
        )
    return found


def _runs(session: Session, rows: Sequence[tuple[Service, ServiceState]]) -> dict[int, list[OpenRun]]:
    """The runs as they stood at each row's cursor: open ones, and those that a later signal ended."""
    found: dict[int, list[OpenRun]] = defaultdict(list)
    for run in session.execute(
        text(
            """
            SELECT r.service_id, r.id, r.run_id, r.started_at, r.start_id
              FROM unnest(:services, :folded) AS w (service_id, folded_id)
              JOIN runs r ON r.service_id = w.service_id
             WHERE (r.start_id IS NULL OR r.start_id <= w.folded_id)
               AND (r.state = 'open' OR r.end_id > w.folded_id)
             ORDER BY r.service_id, r.started_at
            """
        ),
        {
            "services": [service.id for service, _ in rows],
            "folded": [row.folded_id for _, row in rows],
        },
    ):
        found[run.service_id].append(OpenRun(run.id, run.run_id, run.started_at))
    return found


_UPDATE = text(
    """
    UPDATE service_states s
       SET status = v.status, due_at = v.due_at, quiet = v.quiet, policy_version = v.policy_version,
           last_success_at = v.last_success_at, failures = v.failures, successes = v.successes,
           folded_id = v.folded_id, carried = v.carried
      FROM unnest(:service_id, :status, CAST(:due_at AS timestamptz[]), :quiet, :policy_version,
                  CAST(:last_success_at AS timestamptz[]), :failures, :successes, :folded_id, :carried)
        AS v (service_id, status, due_at, quiet, policy_version, last_success_at, failures, successes,
              folded_id, carried)
     WHERE s.service_id = v.service_id
    """
).bindparams(
    bindparam("service_id", type_=ARRAY(BigInteger)),
    bindparam("status", type_=ARRAY(Text)),
    bindparam("quiet", type_=ARRAY(Boolean)),
    bindparam("policy_version", type_=ARRAY(BigInteger)),
    bindparam("failures", type_=ARRAY(Integer)),
    bindparam("successes", type_=ARRAY(Integer)),
    bindparam("folded_id", type_=ARRAY(BigInteger)),
    bindparam("carried", type_=ARRAY(JSONB)),
)


def _write_states(session: Session, verdicts: Sequence[Judged]) -> None:
    if not verdicts:
        return
    states = [verdict.state for _, _, verdict in verdicts]
    session.execute(
        _UPDATE,
        {
            "service_id": [service.id for service, _, _ in verdicts],
            "status": [state.status.value for state in states],
            "due_at": [verdict.due_at for _, _, verdict in verdicts],
            "quiet": [verdict.quiet for _, _, verdict in verdicts],
            "policy_version": [state.policy_version for state in states],
            "last_success_at": [state.last_success_at for state in states],
            "failures": [state.failures for state in states],
            "successes": [state.successes for state in states],
            "folded_id": [state.folded_id for state in states],
            "carried": [evaluator.carry(state) for state in states],
        },
    )


def _lose_runs(session: Session, verdicts: Sequence[Judged]) -> None:
    lost = [(change.run.id, change.at) for _, _, verdict in verdicts for change in verdict.lost_runs]
    for run_id, at in lost:
        if run_id is not None:
            session.execute(
                update(Run).where(Run.id == run_id, Run.state == "open").values(state="lost", ended_at=at)
            )


def _apply(session: Session, verdicts: Sequence[Judged], swept: Swept, now: datetime) -> None:
    """Write what the verdicts changed about alerts, then let the triggers look at what still fails."""
    ids = [service.id for service, _, verdict in verdicts if verdict.transitions or verdict.state.reasons]
    if not ids:
        return
    standing = dict(
        session.execute(
            select(Alert.service_id, Alert.id).where(Alert.service_id.in_(ids), Alert.resolved_at.is_(None))
        )
    )
    failing: list[Failing] = []
    for service, _, verdict in verdicts:
        alert_id = standing.get(service.id)

        for transition in verdict.transitions:
            alert_id = _change(session, service, transition, alert_id, swept, now)
        if alert_id is not None and verdict.state.reasons:
            failing.append(
                Failing(
                    service=service, alert_id=alert_id, failures=verdict.state.failures,
                    reasons=tuple(reason.value for reason, _ in verdict.state.reasons),
                )
            )  # fmt: skip
    swept.started += react(session, failing, now=now)


def _change(
    session: Session, service: Service, transition: Transition, alert_id: int | None,
    swept: Swept, now: datetime,
) -> int | None:  # fmt: skip
    """Write one transition; returns the alert that is open behind it."""
    evidence = transition.evidence | {"policy_version": service.policy_version}
    reason = transition.reason.value
    if transition.kind is Change.OPENED:
        swept.opened += 1
        metrics.ALERTS.labels(service.priority).inc()
        metrics.DETECTION_SECONDS.observe(max(0.0, (now - transition.at).total_seconds()))
        return alerts.open_alert(
            session, service_id=service.id, service_name=service.name, priority=service.priority, reason=reason,
            opened_at=transition.at, now=now, evidence=evidence,
        )  # fmt: skip
    if alert_id is None:
        return None  # resolved by hand meanwhile
    if transition.kind is Change.RESOLVED:
        swept.resolved += 1
        metrics.ALERTS_RESOLVED.inc()
        alerts.resolve(
            session, alert_id=alert_id, resolution=_resolution(transition), at=transition.at, now=now,
            evidence=evidence,
        )  # fmt: skip
        return None
    alerts.change_reasons(
        session, alert_id=alert_id, kind=transition.kind.value, reason=reason, at=transition.at, now=now,
        evidence=evidence,
    )  # fmt: skip
    return alert_id


def _resolution(transition: Transition) -> str:
    if transition.reason is Reason.PAUSED:
        return "paused"
    if transition.evidence.get("because") == "policy changed":
        return "policy_changed"
    return "run_ended" if transition.reason is Reason.OVERRUN else "recovered"
