"""What verdicts change: hot rows, runs, alerts; then the triggers look at what still fails."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import bindparam, select, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Session
from sqlalchemy.types import BigInteger, Boolean, Integer, Text

from medic import alerts, evaluator, notices
from medic.evaluator import Change, Reason, RunEvent, Transition
from medic.models.alerting import Alert
from medic.models.monitoring import Service
from medic.reactions import Failing, react
from medic.sweep.rows import Judged
from medic.sweep.swept import Swept


def settle(session: Session, verdicts: Sequence[Judged], *, now: datetime) -> Swept:
    """Write the verdicts and everything that follows from them."""
    swept = Swept(checked=len(verdicts))
    _write_states(session, verdicts)
    _lose_runs(session, verdicts)
    failing = _change_alerts(session, verdicts, swept, now)
    successes = {case.service.id: case.verdict.state.last_success_at for case in verdicts}
    told = notices.tell(
        session,
        [
            notices.Open(case.service, case.alert_id, case.failures, successes[case.service.id])
            for case in failing
        ],
        now=now,
    )
    swept.told += told.count
    reaction = react(session, [case for case in failing if case.service.id in told.free], now=now)
    swept.started += reaction.started
    for service_id, moment in reaction.again.items():
        told.look(service_id, moment)
    if told.again:
        session.execute(_LOOK_AGAIN, {"service_id": list(told.again), "moment": list(told.again.values())})
    return swept


_LOOK_AGAIN = text(
    """
    UPDATE service_states s SET due_at = v.moment
      FROM unnest(CAST(:service_id AS bigint[]), CAST(:moment AS timestamptz[])) AS v (service_id, moment)
     WHERE s.service_id = v.service_id AND (s.due_at IS NULL OR s.due_at > v.moment)
    """
)


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
    states = [case.verdict.state for case in verdicts]
    session.execute(
        _UPDATE,
        {
            "service_id": [case.service.id for case in verdicts],
            "status": [state.status.value for state in states],
            "due_at": [case.verdict.due_at for case in verdicts],
            "quiet": [case.verdict.quiet for case in verdicts],
            "policy_version": [state.policy_version for state in states],
            "last_success_at": [state.last_success_at for state in states],
            "failures": [state.failures for state in states],
            "successes": [state.successes for state in states],
            "folded_id": [state.folded_id for state in states],
            "carried": [evaluator.carry(state) for state in states],
        },
    )


# A run that began and was lost in one call has no row id yet there, but its start has one.
_LOSE = text(
    """
    UPDATE runs r SET state = 'lost', ended_at = v.at
      FROM unnest(CAST(:service_id AS bigint[]), CAST(:run AS bigint[]), CAST(:start AS bigint[]),
                  CAST(:at AS timestamptz[]))
        AS v (service_id, run_id, start_id, at)
     WHERE r.service_id = v.service_id AND r.state = 'open'
       AND (r.id = v.run_id OR v.run_id IS NULL AND r.start_id = v.start_id)
    """
)


def _lose_runs(session: Session, verdicts: Sequence[Judged]) -> None:
    lost: list[tuple[int, int | None, int | None, datetime]] = []
    for case in verdicts:
        if not case.verdict.lost_runs:
            continue
        started = {c.run: c.signal_id for c in case.verdict.runs if c.event is RunEvent.STARTED}
        lost += [
            (case.service.id, change.run.id, started.get(change.run), change.at)
            for change in case.verdict.lost_runs
        ]
    if lost:
        services, runs, starts, ends = zip(*lost, strict=True)
        session.execute(
            _LOSE,
            {"service_id": list(services), "run": list(runs), "start": list(starts), "at": list(ends)},
        )


def _change_alerts(
    session: Session, verdicts: Sequence[Judged], swept: Swept, now: datetime
) -> list[Failing]:
    """Write the transitions; returns the services whose alert is open behind them."""
    ids = [case.service.id for case in verdicts if case.verdict.transitions or case.verdict.state.reasons]
    if not ids:
        return []
    rows = session.execute(
        select(Alert.service_id, Alert.id).where(Alert.service_id.in_(ids), Alert.resolved_at.is_(None))
    )
    standing: dict[int, int] = {
        service_id: alert_id for service_id, alert_id in rows if service_id is not None
    }
    # The first transition of every service, then every second one: each round is a few statements.
    rounds = max(len(case.verdict.transitions) for case in verdicts)
    for number in range(rounds):
        changes = [
            (case.service, case.verdict.transitions[number])
            for case in verdicts
            if number < len(case.verdict.transitions)
        ]
        _change_once(session, changes, standing, swept, now)
    return [
        Failing(
            service=case.service, alert_id=standing[case.service.id], failures=case.verdict.state.failures,
            reasons=tuple(reason.value for reason, _ in case.verdict.state.reasons),
        )
        for case in verdicts
        if case.verdict.state.reasons and case.service.id in standing
    ]  # fmt: skip


def _change_once(
    session: Session, changes: Sequence[tuple[Service, Transition]], standing: dict[int, int], swept: Swept,
    now: datetime,
) -> None:  # fmt: skip
    """Write one transition of each service, and keep ``standing`` true: the open alerts by service id."""
    openings: list[alerts.Opening] = []
    turns: list[alerts.Turn] = []
    for service, change in changes:
        evidence = change.evidence | {"policy_version": service.policy_version}
        if change.kind is Change.OPENED:
            openings.append(
                alerts.Opening(
                    service.id, service.name, service.priority, change.reason.value, change.at, evidence
                )
            )
        elif service.id in standing:  # else it was resolved by hand meanwhile
            is_over = change.kind is Change.RESOLVED
            turns.append(
                alerts.Turn(
                    standing[service.id], change.kind.value, None if is_over else change.reason.value, change.at,
                    evidence, _resolution(change) if is_over else None,
                )
            )  # fmt: skip
            if is_over:
                del standing[service.id]
                swept.resolved += 1
    opened = alerts.open_all(session, openings, now=now)
    standing |= opened
    for opening in openings:
        if opening.service_id in opened:
            swept.openings.append((opening.priority, max(timedelta(0), now - opening.at)))
    alerts.turn_all(session, turns, now=now)


def _resolution(transition: Transition) -> str:
    if transition.reason is Reason.PAUSED:
        return "paused"
    if transition.evidence.get("because") == "policy changed":
        return "policy_changed"
    return "run_ended" if transition.reason is Reason.OVERRUN else "recovered"
