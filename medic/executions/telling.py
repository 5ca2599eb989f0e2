"""What executions tell people: ordinary rows of the outbox, each made once, in the transaction of what they tell."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from medic import notices, outbox, routing
from medic.errors import NotFound
from medic.models.alerting import Alert, Route, Target, Team
from medic.models.executions import Approval, Execution, ExecutionStep, Lock
from medic.models.monitoring import Service
from medic.routing import Way
from medic.steps.base import Notice, Recipient
from medic.times import format_time


def named_target(session: Session, name: str) -> tuple[Recipient, ...]:
    """:raises NotFound: when there is none, or it is switched off."""
    target = session.scalars(select(Target).where(Target.name == name)).one_or_none()
    if target is None:
        raise NotFound(f"There is no target '{name}'.")
    if target.disabled_at is not None:
        raise NotFound(f"The target '{name}' is switched off: {target.disabled_reason}")
    return (Recipient(target.id, target.name),)


def named_route(session: Session, name: str) -> tuple[Recipient, ...]:
    """The first level of a route that has somebody, whatever the route matches and whenever it does.

    :raises NotFound: when there is none, or it has nobody to tell.
    """
    way = next((way for way in notices.ways(session) if way.name == name), None)
    if way is None:
        stored = session.scalars(select(Route.id).where(Route.name == name)).first()
        raise NotFound(
            f"There is no route '{name}'." if stored is None else f"The route '{name}' is switched off."
        )
    told = _first_levels(session, [way])
    if not told:
        raise NotFound(f"The route '{name}' has no target that can be told.")
    return told


def audience(
    session: Session, *, service_id: int | None, alert_id: int | None, now: datetime
) -> tuple[Recipient, ...]:
    """Who hears of an execution: whom the routes of its service tell, else the default route; maybe nobody."""
    ways = notices.ways(session)
    failing = _failing(session, service_id, alert_id)
    if failing is None:
        chosen = [way for way in ways if way.is_default and routing.is_on(way, now)]
    else:
        chosen = routing.ways_for(ways, failing, now)
    return _first_levels(session, chosen)


def tell(session: Session, notice: Notice, *, once: str, now: datetime, **more: Any) -> set[int]:
    """Put a notice into the outbox; the same `once` is one message for each target.

    :param more: what else the message holds beside its text.
    :returns: the targets that have something due now.
    """
    readers = [
        outbox.Reader(one.target_id, one.route_id, one.level, one.position) for one in notice.recipients
    ]
    return outbox.tell_once(session, once, readers, {"text": notice.text} | more, now=now)


def tell_people(
    session: Session, execution: Execution, text: str, *, once: str, now: datetime, **more: Any
) -> set[int]:
    """Tell the `audience` of an execution."""
    told = audience(session, service_id=execution.service_id, alert_id=execution.alert_id, now=now)
    return tell(session, Notice(text, told), once=once, now=now, **more)


def tell_of_approval(
    session: Session, execution: Execution, approval: Approval, *, slot: int, now: datetime
) -> None:
    """A question waits for a human.

    :param slot: 0 for the question itself, then one for each time that it comes up again.
    """
    head = f"{'Still waiting for approval' if slot else 'Approval needed'}: {_what(execution)}"
    lines = [head, *([approval.message] if approval.message else [])]
    lines += _kept_lock(session, execution)
    if approval.expires_at is not None:
        then = "goes on" if approval.on_timeout == "approve" else "is rejected"
        lines.append(f"Without an answer it {then} by itself at {format_time(approval.expires_at)}.")
    lines.append(f"Look at the plan, then: medic approve {approval.id} (or medic reject {approval.id})")
    tell_people(
        session, execution, "\n".join(lines), once=f"approval/{approval.id}/{slot}", now=now,
        approval={"id": approval.id, "plan_digest": approval.plan_digest},
    )  # fmt: skip


def tell_of_more_time(
    session: Session, execution: Execution, approval: Approval, *, why: str, now: datetime
) -> None:
    """The time of a question starts again."""
    assert approval.expires_at is not None
    then = "goes on" if approval.on_timeout == "approve" else "is rejected"
    text = (
        f"Approval needed: {_what(execution)}\n{why} That time does not count: without an answer it {then} by itself at"
        f" {format_time(approval.expires_at)}."
    )
    tell_people(
        session, execution, text, once=f"approval/{approval.id}/resumed/{format_time(now)}", now=now,
        approval={"id": approval.id, "plan_digest": approval.plan_digest},
    )  # fmt: skip


def tell_of_doubt(
    session: Session, execution: Execution, step: ExecutionStep, *, epoch: int, slot: int, now: datetime
) -> set[int]:
    """Nobody knows whether a step happened, and a human is to say.

    :param epoch: of the attempt that was lost.
    :returns: the targets that have something due now.
    """
    why = (step.error or {}).get("message", "Whether it happened is unknown.")
    lines = [
        f"{'Still in' if slot else 'In'} doubt: {_what(execution)}",
        f"Step {step.name}: {why}",
        *_kept_lock(session, execution),
        f"Find out, then: medic execution settle {execution.id} happened (or retry, or fail)",
    ]
    once = f"{execution.id}.s{step.position}.e{epoch}.doubt.{slot}"
    doubt = {"execution": str(execution.id), "position": step.position, "epoch": epoch}
    return tell_people(session, execution, "\n".join(lines), once=once, now=now, doubt=doubt)


def _kept_lock(session: Session, execution: Execution) -> list[str]:
    """What waits for a human keeps its lock, and so holds up others: whoever is asked should know."""
    held = session.scalars(select(Lock.name).where(Lock.execution_id == execution.id))
    return [f"Meanwhile it keeps the lock {name}: what needs it too waits." for name in held]


def _what(execution: Execution) -> str:
    on = f" on {execution.service_name}" if execution.service_name else ""
    return f"playbook {execution.playbook_name}{on}, execution {execution.id}"


def _failing(session: Session, service_id: int | None, alert_id: int | None) -> routing.Failing | None:
    service = session.get(Service, service_id) if service_id is not None else None
    if service is None:
        return None
    alert = session.get(Alert, alert_id) if alert_id is not None else None
    team = session.get(Team, service.team_id) if service.team_id is not None else None
    return routing.Failing(
        service=service.name,
        priority=alert.priority if alert else service.priority,
        reasons=frozenset(alert.reasons if alert else ()),
        tags=frozenset(service.tags),
        team=team.name if team else None,
    )


def _first_levels(session: Session, ways: Sequence[Way]) -> tuple[Recipient, ...]:
    """All targets of the first level of each way that has any: a notice has no second try at another target."""
    found = [
        (target_id, way.id, level, position)
        for way in ways
        if (level := way.next_level(-1)) is not None
        for position, target_id in enumerate(way.levels[level])
    ]
    if not found:
        return ()
    ids = [row[0] for row in found]
    names = {
        row.id: row.name for row in session.execute(select(Target.id, Target.name).where(Target.id.in_(ids)))
    }
    unique = {row[0]: row for row in reversed(found)}
    return tuple(
        Recipient(target_id, names[target_id], route_id, level, position)
        for target_id, route_id, level, position in reversed(unique.values())
        if target_id in names
    )
