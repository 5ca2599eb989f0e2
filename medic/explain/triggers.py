"""Which triggers were for an alert, and why one did not start its playbook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Text, cast, func, select
from sqlalchemy.orm import Session

from medic.explain.rules import Rule, moment
from medic.models.access import AuditEntry
from medic.models.alerting import Alert
from medic.models.executions import Execution
from medic.models.monitoring import Service
from medic.models.playbooks import Playbook, Trigger
from medic.playbook.glob import matches
from medic.reactions import Failing

MOST = 50
_REASONS = {
    "stopped": "the stop switch was on",
    "breaker": "too many executions for this service within an hour opened the breaker",
    "playbook_breaker": "too many executions of this playbook within an hour opened its breaker",
    "cooldown": "the cooldown was not over",
    "already_started": "it had started already",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """A trigger asked for its playbook and was refused, so many times."""

    trigger_id: int
    playbook: str
    code: str
    count: int
    first_at: datetime
    last_at: datetime


@dataclass(frozen=True, slots=True)
class TriggerExplained:
    """``applies``: it is for this alert.  ``started``: the executions that it made."""

    id: int
    playbook: str
    mode: str
    applies: bool
    started: tuple[UUID, ...]
    rules: tuple[Rule, ...] = field(default=())


def explain_triggers(
    session: Session, alert: Alert, failing: Failing, executions: Sequence[Execution], *, names_others: bool
) -> tuple[list[TriggerExplained], list[Refusal]]:
    """Each trigger of alerts with its rules, those that are for this alert first.

    :param names_others: also those that are for other services.
    """
    rows = session.execute(
        select(Trigger, Playbook)
        .join(Playbook, Playbook.id == Trigger.playbook_id)
        .where(Trigger.kind == "alert", Playbook.deleted_at.is_(None))
        .order_by(Trigger.position, Trigger.consecutive_failures.desc(), Trigger.id)
    ).all()
    refused = _refusals(session, alert, sorted({playbook.name for _, playbook in rows}))
    by_trigger: dict[int, list[Refusal]] = {}
    for refusal in refused:
        by_trigger.setdefault(refusal.trigger_id, []).append(refusal)
    started: dict[int, list[Execution]] = {}
    for execution in executions:
        if execution.trigger_id is not None:
            started.setdefault(execution.trigger_id, []).append(execution)
    found = []
    first: str | None = None
    for trigger, playbook in rows:
        rules = match_rules(trigger, failing)
        is_for = all(rule.holds for rule in rules)
        if not names_others and not all(rule.holds for rule in rules if rule.rule in {"service", "tags"}):
            continue
        own = started.get(trigger.id, [])
        more = [_enabled(trigger, playbook), *start_rules(trigger, failing.service, own, first)]
        more += [_refused(refusal) for refusal in by_trigger.get(trigger.id, ())]
        found.append(
            TriggerExplained(
                trigger.id, playbook.name, trigger.mode, is_for, tuple(e.id for e in own), (*rules, *more)
            )
        )
        if is_for and trigger.enabled and playbook.enabled and first is None:
            first = playbook.name
    found.sort(key=lambda one: not one.applies)
    return found[:MOST], refused


def match_rules(trigger: Trigger, case: Failing) -> tuple[Rule, ...]:
    """Each thing that a trigger asks of an alert; it is for the alert when all hold."""
    service = case.service
    missing = sorted(set(trigger.tags) - set(service.tags))
    pattern = trigger.service_pattern or ""
    return (
        Rule("service", matches(pattern, service.name), f"It is for services named {pattern}; this is {service.name}."),
        Rule("tags", not missing, f"The service lacks the tag {', '.join(missing)}." if missing
             else "The service has each tag that it asks for." if trigger.tags else "It asks for no tag."),
        Rule("priority", not trigger.priorities or service.priority in trigger.priorities,
             f"It is for {', '.join(trigger.priorities) or 'any priority'}; the service has {service.priority}."),
        Rule("reason", not trigger.reasons or not set(trigger.reasons).isdisjoint(case.reasons),
             f"It is for {', '.join(trigger.reasons) or 'any reason'}; the alert has {', '.join(case.reasons) or 'none'}."),
        Rule("count", case.failures >= trigger.consecutive_failures,
             f"It starts from {trigger.consecutive_failures} misses and failures in a row on; there were {case.failures}."),
    )  # fmt: skip


def start_rules(
    trigger: Trigger, service: Service, started: Sequence[Execution], first: str | None
) -> list[Rule]:
    """What keeps back a trigger that is for the alert.

    :param first: the playbook of a trigger before it that is for the alert, too.
    """
    same = [execution for execution in started if execution.mode == trigger.mode]
    if not same:
        once = Rule("once", True, "It has not started for this alert yet.")
    elif trigger.repeat_every_s:
        last = max(execution.created_at for execution in same)
        once = Rule("once", True, f"It started {len(same)} times, the last at {moment(last)}, and repeats.")
    else:
        once = Rule(
            "once", False, f"It started at {moment(same[0].created_at)}, and starts once for each alert."
        )
    is_alone = service.playbook_policy != "first" or first is None
    said = (
        f"Only the first that matches runs, and {first} stands before it."
        if not is_alone
        else "No other one stands in its way."
    )
    return [once, Rule("first", is_alone, said)]


def _enabled(trigger: Trigger, playbook: Playbook) -> Rule:
    if not playbook.enabled:
        return Rule("enabled", False, "The playbook is switched off.")
    return Rule(
        "enabled",
        trigger.enabled,
        "It is switched on." if trigger.enabled else "The trigger is switched off.",
    )


def _refused(refusal: Refusal) -> Rule:
    why = _REASONS.get(refusal.code, refusal.code)
    often = "once" if refusal.count == 1 else f"{refusal.count} times, the last"
    return Rule(refusal.code, False, f"It was refused {often} at {moment(refusal.last_at)}: {why}.")


def _refusals(session: Session, alert: Alert, playbooks: Sequence[str]) -> list[Refusal]:
    if not playbooks:
        return []
    code = AuditEntry.detail["code"].astext
    rows = session.execute(
        select(
            AuditEntry.actor, AuditEntry.object_id, code.label("code"), func.count().label("number"),
            func.min(AuditEntry.at).label("first_at"), func.max(AuditEntry.at).label("last_at"),
        )
        .where(
            AuditEntry.object_kind == "playbook", AuditEntry.object_id.in_(playbooks),
            AuditEntry.action == "execution.refuse", AuditEntry.actor_kind == "trigger",
            AuditEntry.at >= alert.detected_at, AuditEntry.detail["alert"].astext == cast(alert.id, Text),
        )
        .group_by(AuditEntry.actor, AuditEntry.object_id, code)
        .order_by(func.min(AuditEntry.at))
        .limit(MOST)
    )  # fmt: skip
    return [
        Refusal(int(row.actor), row.object_id, row.code, row.number, row.first_at, row.last_at)
        for row in rows
        if row.actor.isdigit()
    ]


def failures_of(evidence: Sequence[Mapping[str, Any]]) -> int:
    """The highest counter that an alert's transitions tell of."""
    return max((int(one["failures"]) for one in evidence if isinstance(one.get("failures"), int)), default=0)
