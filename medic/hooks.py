"""Inbound hooks: somebody else's system starts a playbook.  What it proves, what its body says, what it starts.

Alertmanager tells of a group of alerts again and again while it fires; a hook acts when a group changes.  A group that
nothing was heard of for a day counts as over, so that one whose end is never sent may start a playbook again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from medic import audit
from medic.errors import Conflict, Invalid, NotFound
from medic.executions.pinned import pinned
from medic.firing import fire
from medic.models.playbooks import Hook, HookGroup, Playbook, PlaybookVersion, Trigger
from medic.payloads import MISSING, Group, group_of, is_storable, parse_path, value_at
from medic.playbook.glob import matches

FORGOTTEN: Final = timedelta(days=1)
"""Alertmanager tells of what fires every four hours unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Called:
    """``status``: ``started``, ``shadow``, ``already`` or ``ignored``."""

    status: str
    execution_id: UUID | None
    detail: str


def receive(
    session: Session, *, hook_id: int, body: Any, actor: audit.Actor, source_ip: str | None, now: datetime,
    traceparent: str | None = None,
) -> Called | Conflict:  # fmt: skip
    """Do what a proven call asks for; the caller dispatches after the commit.

    :returns: a Conflict when it is refused, whose record is to be committed all the same.
    :raises NotFound: the hook was deleted meanwhile.
    :raises Conflict: its trigger is switched off.
    :raises Invalid: the body does not give what the playbook needs.
    """
    hook, trigger = _locked(session, hook_id)
    if not trigger.enabled:
        raise Conflict(f"Trigger {trigger.id} is switched off.")
    group = group_of(body)
    held = _held(session, hook, trigger, group, now) if group is not None else None
    if held is not None:
        keep_unanswered(session, trigger.id, held, actor=actor, now=now)
        return held
    service = _service(hook, trigger, body)
    variables = _variables(session, hook, trigger, body)
    context = {"trigger": "webhook"} | ({"source_ip": source_ip} if source_ip else {})
    fired = fire(
        session, trigger, actor=actor, context=context, now=now, service=service, variables=variables,
        traceparent=traceparent,
    )  # fmt: skip
    if fired.outcome == "refused":
        return Conflict(fired.note)  # of the group nothing is kept: told again, it is judged again
    if group is not None:
        _remember(session, hook, group, now, started=True)
    text = "Recorded; the trigger is in shadow mode." if fired.outcome == "shadow" else "The playbook starts."
    return Called(fired.outcome, fired.execution_id, text)


def keep_unanswered(
    session: Session, trigger_id: int, called: Called, *, actor: audit.Actor, now: datetime
) -> None:
    """A call that started nothing, as it was a repeat or asked for nothing, leaves an entry too."""
    audit.append(
        session, now=now, actor=actor, action=f"hook.{called.status}", object_kind="trigger", object_id=trigger_id,
        detail={"reason": called.detail},
    )  # fmt: skip


def _locked(session: Session, hook_id: int) -> tuple[Hook, Trigger]:
    """The hook and its trigger, which is locked: calls of one hook go one by one."""
    trigger_id = session.scalar(select(Hook.trigger_id).where(Hook.id == hook_id))
    trigger = session.scalars(
        select(Trigger).where(Trigger.id == trigger_id).with_for_update(key_share=True)
    ).one_or_none()
    hook = session.get(Hook, hook_id, populate_existing=True)
    if hook is None or trigger is None:
        raise NotFound("There is no such hook.")
    return hook, trigger


def _held(session: Session, hook: Hook, trigger: Trigger, group: Group, now: datetime) -> Called | None:
    """The answer to a notification that starts nothing; None for one that does."""
    session.execute(
        delete(HookGroup).where(HookGroup.hook_id == hook.id, HookGroup.heard_at <= now - FORGOTTEN)
    )
    known = session.get(HookGroup, (hook.id, group.digest))
    if group.status == "resolved" and not hook.on_resolved:
        if known is not None:
            _remember(session, hook, group, now, started=False)
        return Called("ignored", None, "The group is resolved; this hook starts nothing for that.")
    if known is None or known.status != group.status:
        return None
    every = trigger.repeat_every_s if group.status == "firing" else None
    if every and known.started_at and known.started_at <= now - timedelta(seconds=every):
        return None
    _remember(session, hook, group, now, started=False)
    return Called(
        "already", None, f"The group is {group.status} as before; the playbook was started for that."
    )


def _remember(session: Session, hook: Hook, group: Group, now: datetime, *, started: bool) -> None:
    values: dict[str, Any] = {"status": group.status, "heard_at": now}
    if started:
        values["started_at"] = now
    session.execute(
        upsert(HookGroup)
        .values(hook_id=hook.id, digest=group.digest, **values)
        .on_conflict_do_update(index_elements=["hook_id", "digest"], set_=values)
    )


def _service(hook: Hook, trigger: Trigger, body: Any) -> str | None:
    path = hook.mapping.get("service")
    if path is None:
        return trigger.service_pattern
    named = value_at(body, parse_path(path, path="service_from"))
    if not isinstance(named, str) or not is_storable(named):
        raise Invalid.at(path, "holds no name of a service")
    name = named.strip().lower()
    if not matches(trigger.service_pattern or "*", name):
        raise Invalid.at(path, "names a service that this hook is not for")
    return name


def _variables(session: Session, hook: Hook, trigger: Trigger, body: Any) -> Mapping[str, Any]:
    """What the body gives; where it gives nothing, the playbook's default stands."""
    mapping: Mapping[str, str] = hook.mapping.get("variables", {})
    if not mapping:
        return {}
    playbook = session.get_one(Playbook, trigger.playbook_id)
    version = session.get_one(PlaybookVersion, (playbook.id, playbook.version))
    declared = pinned(version.source).variables
    found = {}
    for name, path in mapping.items():
        # A version that came since may declare it no more; a stranger's value must not stand for anything else then.
        if name not in declared:
            continue
        value = value_at(body, parse_path(path, path=f"mapping.{name}"))
        if value is MISSING:
            if declared[name].required:
                raise Invalid.at(path, f"is not in the body, and the playbook needs it as {name}")
            continue
        if not is_storable(value):
            raise Invalid.at(path, "holds a NUL character or another value that cannot be stored")
        found[name] = value
    return found
