"""An alert: why it opened, who was told and why not, and what started."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from medic import alerts
from medic.coverage import blind_intervals
from medic.deliveries import views as delivery_views
from medic.evaluator import Interval
from medic.explain.policies import policies_of
from medic.explain.quiet import MayName, quiet_at, quiet_rule, sentence, without_names
from medic.explain.rules import Rule, moment
from medic.explain.service import PolicyShown, heartbeats_before, policy_shown, refusals
from medic.explain.triggers import Refusal, TriggerExplained, explain_triggers, failures_of
from medic.models.alerting import Alert, AlertTransition
from medic.models.executions import Execution
from medic.models.monitoring import Heartbeat, Service, ServiceState
from medic.models.monitoring import Refusal as RefusedHeartbeats
from medic.reactions import Failing
from medic.times import parse_time

SHOWN = 10
MOST = 200


@dataclass(frozen=True, slots=True)
class DeliveryShown:
    """One message about it."""

    id: int
    kind: str
    target: str | None
    route: str | None
    level: int
    state: str
    tries: int
    error: str | None
    created_at: datetime
    due_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class ExecutionShown:
    """One execution for it."""

    id: str
    playbook: str
    trigger_id: int | None
    mode: str
    state: str
    started_by: str
    created_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class AlertExplained:
    """``opening``: why it opened.  ``telling``: why people were told, or not.  ``quiet``: what held when it opened.

    ``heartbeats``, ``unheard`` and ``refused`` are those around its opening, as far as they are kept.
    """

    alert: Alert
    opening: tuple[Rule, ...]
    telling: tuple[Rule, ...]
    transitions: Sequence[AlertTransition]
    policy: PolicyShown | None
    failures: int
    heartbeats: Sequence[Heartbeat]
    unheard: tuple[Interval, ...]
    refused: Sequence[RefusedHeartbeats]
    quiet: tuple[dict[str, Any], ...]
    deliveries: tuple[DeliveryShown, ...]
    triggers: tuple[TriggerExplained, ...]
    refusals: tuple[Refusal, ...]
    executions: tuple[ExecutionShown, ...]


def explain_alert(
    session: Session, *, alert_id: int, now: datetime, names_others: bool = True,
    may_name: MayName = lambda _: True,
) -> AlertExplained:  # fmt: skip
    """Everything that decided about an alert.

    :param names_others: whether triggers that are for other services are shown, too.
    :param may_name: which other services are named.
    :raises NotFound: no such alert.
    """
    alert = alerts.find(session, alert_id)
    happened = alerts.transitions(session, alert_id)
    service = None if alert.service_id is None else session.get(Service, alert.service_id)
    deliveries = tuple(
        _delivery(shown) for shown in delivery_views.page(session, after=None, limit=MOST, alert_id=alert_id)
    )
    executions = session.scalars(
        select(Execution).where(Execution.alert_id == alert_id).order_by(Execution.id).limit(MOST)
    ).all()
    failures = failures_of([one.evidence for one in happened])
    triggers: list[TriggerExplained] = []
    refused: list[Refusal] = []
    if service is not None:
        if alert.resolved_at is None:
            state = session.get(ServiceState, service.id)
            failures = max(failures, state.failures if state is not None else 0)
        reasons = tuple(dict.fromkeys([*(t.reason for t in happened if t.reason), *alert.reasons]))
        failing = Failing(service, alert.id, failures, reasons)
        triggers, refused = explain_triggers(session, alert, failing, executions, names_others=names_others)
    since = _since(alert, happened)
    quiet = (
        ()
        if service is None
        else tuple(without_names(quiet_at(session, service, alert.detected_at), may_name))
    )
    held = without_names((alert.held or {}).get("by", ()), may_name)
    return AlertExplained(
        alert=alert,
        opening=opening_rules(happened),
        telling=telling_rules(alert, deliveries, quiet, held),
        transitions=happened,
        policy=_policy(session, service, alert.opened_at),
        failures=failures,
        heartbeats=[] if service is None else _around(session, service.id, alert, now),
        unheard=blind_intervals(session, since=since, now=min(now, alert.detected_at))[-SHOWN:],
        refused=[] if service is None else refusals(session, service.id, since, alert.detected_at),
        quiet=quiet,
        deliveries=deliveries,
        triggers=tuple(triggers),
        refusals=tuple(refused),
        executions=tuple(_execution(execution) for execution in executions),
    )


def opening_rules(happened: Sequence[AlertTransition]) -> tuple[Rule, ...]:
    """Each reason that was or is in the alert, with the evidence in words."""
    return tuple(
        Rule(one.reason, _stands(happened, one), in_words(one.reason, one.evidence))
        for one in happened
        if one.kind in {"opened", "reason_joined"} and one.reason
    )


def _stands(happened: Sequence[AlertTransition], one: AlertTransition) -> bool:
    later = [other for other in happened if other.id > one.id]
    return not any(
        other.kind == "resolved" or (other.kind == "reason_cleared" and other.reason == one.reason)
        for other in later
    )


def in_words(reason: str, evidence: dict[str, Any]) -> str:
    """The evidence of a reason as a sentence; it is the sweep's, as it was kept."""
    last = evidence.get("last_success_at")
    heard = f"The last success was at {last}." if last else "No success of it was known."
    count = f" That was number {evidence['failures']} in a row." if evidence.get("failures") else ""
    blind = evidence.get("blind") or []
    gaps = f" Looked at: {len(blind)} intervals in which Medic could not hear." if blind else ""
    match reason:
        case "missed":
            said = f"No success came for {evidence.get('deadline')} within the grace of {evidence.get('grace')}. {heard}"
        case "failed":
            code = evidence.get("exit_code")
            how = f" with exit code {code}" if code is not None else ""
            said = f"A failure{how} of {evidence.get('event_at')} arrived. {heard}"
        case "overrun":
            name = f"The run {evidence['run_id']}" if evidence.get("run_id") else "A run"
            said = f"{name} that began at {evidence.get('started_at')} was open for longer than {evidence.get('max_runtime')}."
        case "too_few":
            said = (
                f"{evidence.get('heard')} of {evidence.get('wanted')} successes in the {evidence.get('within')}"
                f" up to {evidence.get('window_ends')}."
            )
        case _:
            said = heard
    return said + count + gaps


def telling_rules(
    alert: Alert,
    deliveries: Sequence[DeliveryShown],
    quiet: Sequence[dict[str, Any]],
    held: Sequence[dict[str, Any]],
) -> tuple[Rule, ...]:
    """Why people were told, or why nobody was.

    :param quiet: what kept quiet when Medic saw the alert.
    :param held: what keeps it back now.
    """
    by_state = {
        state: sum(one.state == state for one in deliveries)
        for state in ("delivered", "pending", "failed", "suppressed")
    }
    counted = ", ".join(f"{count} {state}" for state, count in by_state.items() if count) or "no message"
    if alert.told_at is None:
        told = Rule(
            "told", False, "Nobody was told of it." if alert.resolved_at else "Nobody was told of it yet."
        )
    elif not deliveries:
        told = Rule("told", False, f"There was nobody to tell when it was due, at {moment(alert.told_at)}.")
    else:
        named = ", ".join(alert.told) or "reasons that are over"
        told = Rule("told", True, f"Told of {named}, last at {moment(alert.told_at)}: {counted}.")
    no_route = [one for one in held if one.get("kind") == "no_route"]
    kept = [one for one in held if one.get("kind") != "no_route"]
    then = quiet_rule(quiet)
    return (
        told,
        Rule("quiet_when_seen", then.holds, then.because),
        Rule("kept_back", bool(kept), " ".join(map(sentence, kept)) or "Nothing keeps it back."),
        Rule("no_route", bool(no_route), sentence(no_route[0]) if no_route else "A route was for it, or none was asked yet."
             if alert.told_at is None else "A route was for it."),
        Rule("acknowledged", alert.acknowledged_at is not None,
             f"{alert.acknowledged_by} looks after it since {moment(alert.acknowledged_at)}: only new reasons are told."
             if alert.acknowledged_at is not None else "Nobody acknowledged it."),
        Rule("undelivered", by_state["failed"] > 0, _errors(deliveries)),
    )  # fmt: skip


def _errors(deliveries: Sequence[DeliveryShown]) -> str:
    failed = [one for one in deliveries if one.state == "failed"]
    if not failed:
        return "No message failed for good."
    said = [
        f"{one.target or 'a target that is gone'}: {one.error or 'no reason is known'}" for one in failed[:3]
    ]
    return f"{len(failed)} failed for good: {'; '.join(said)}."


def _since(alert: Alert, happened: Sequence[AlertTransition]) -> datetime:
    """Back to the silence that it began with."""
    last = next((one.evidence.get("last_success_at") for one in happened), None)
    return min(alert.opened_at, parse_time(last)) if isinstance(last, str) else alert.opened_at


def _policy(session: Session, service: Service | None, at: datetime) -> PolicyShown | None:
    if service is None:
        return None
    known = [policy for policy in policies_of(session, service) if policy.started_at <= at]
    return policy_shown(known[-1]) if known else None


def _around(session: Session, service_id: int, alert: Alert, now: datetime) -> list[Heartbeat]:
    """The signals up to its opening, and the first behind it, newest first."""
    before = heartbeats_before(session, service_id, alert.detected_at)
    after = session.scalars(
        select(Heartbeat)
        .where(
            Heartbeat.service_id == service_id,
            Heartbeat.received_at > alert.detected_at,
            Heartbeat.received_at <= now,
        )
        .order_by(Heartbeat.received_at, Heartbeat.id)
        .limit(SHOWN)
    ).all()
    return [*reversed(after), *before]


def _delivery(shown: delivery_views.Shown) -> DeliveryShown:
    row = shown.delivery
    return DeliveryShown(
        row.id, row.kind, shown.target, shown.route, row.level, row.state, row.tries, row.error, row.created_at,
        row.due_at, row.finished_at,
    )  # fmt: skip


def _execution(row: Execution) -> ExecutionShown:
    return ExecutionShown(
        str(row.id), row.playbook_name, row.trigger_id, row.mode, row.state, row.started_by, row.created_at,
        row.finished_at,
    )  # fmt: skip
