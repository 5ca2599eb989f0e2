"""Restoring: each kind of object goes back through what its PUT does, so nothing is restored that could not be set.

What a key may not change by PUT or DELETE it may not restore either.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from graphlib import CycleError, TopologicalSorter
from typing import Any, ClassVar, TypeVar
from uuid import UUID

from pydantic import BaseModel, SecretStr
from sqlalchemy.orm import Session

from medic import (
    calendar_store,
    documents,
    playbooks,
    route_store,
    services,
    snapshots,
    target_store,
    teams,
    triggers,
    windows,
)
from medic.audit import Actor
from medic.documents import Document
from medic.errors import Conflict, Invalid, NotFound
from medic.models.access import Snapshot
from medic.models.playbooks import Trigger
from medic_api.calendars import CalendarIn
from medic_api.guard import caller, need_service, need_wide
from medic_api.guard import services as shared
from medic_api.intake import read_json
from medic_api.playbooks import read_playbook
from medic_api.routes import RouteIn
from medic_api.service_views import PolicyIn
from medic_api.targets import TargetIn, ring
from medic_api.teams import TeamIn
from medic_api.triggers import TriggerIn, shown_once
from medic_api.windows import WindowIn

Secrets = Mapping[str, Mapping[str, SecretStr]]
"""By target and name: what no snapshot keeps, and a target that is made again needs."""
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Difference:
    """A field that is not as it was; None where it is not given."""

    field: str
    now: Any
    then: Any


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one object: ``make``, ``change``, ``delete``, ``keep`` (made since, and left), ``none``.

    :param once: the address and secret of a hook that was made again.
    """

    kind: str
    name: str
    snapshot: int
    action: str
    differences: tuple[Difference, ...] = ()
    note: str | None = None
    once: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Work:
    """What each kind needs to go back."""

    session: Session
    actor: Actor
    now: datetime
    secrets: Secrets


class Kind(ABC):
    """One kind of object."""

    scope: ClassVar[str]
    stays: ClassVar[bool] = False
    """One that was made is never deleted."""

    @abstractmethod
    def now(self, session: Session, name: str) -> Document | None:
        """The object as it is, None when there is none."""

    @abstractmethod
    def put(self, work: Work, name: str, document: Document, current: Document | None) -> Mapping[str, str]:
        """Make the object, or change it; gives what is shown once."""

    @abstractmethod
    def remove(self, work: Work, name: str) -> None:
        """Delete the object."""

    def may(self, name: str) -> None:  # noqa: ARG002 - a service looks at its name
        """:raises Forbidden: the caller may not see or restore it."""
        need_wide()

    def is_over(self, document: Document, now: datetime) -> bool:  # noqa: ARG002 - a window looks at them
        """Whether the object would have no meaning any more."""
        return False


class _Services(Kind):
    scope = "services:write"

    def may(self, name: str) -> None:
        services.need_touch(caller().may_touch(name), name)

    def now(self, session: Session, name: str) -> Document | None:
        try:
            return services.document(session, services.find(session, name)[0])
        except NotFound:
            return None

    def put(self, work: Work, name: str, document: Document, current: Document | None) -> Mapping[str, str]:
        wish = _read(PolicyIn, {key: value for key, value in document.items() if key != "uuid"})
        for parent in set(wish.depends_on) - set((current or {}).get("depends_on", ())):
            need_service(parent)
        policy = wish.policy()
        if current is None:
            services.create(
                work.session, name=name, policy=policy, actor=work.actor, now=work.now, paused=wish.paused,
                as_uuid=UUID(document["uuid"]),
            )  # fmt: skip
        else:
            services.change(
                work.session, name=name, policy=policy, actor=work.actor, now=work.now, paused=wish.paused
            )
        return {}

    def remove(self, work: Work, name: str) -> None:
        services.remove(work.session, name=name, actor=work.actor, now=work.now)


class _Routes(Kind):
    scope = "targets:write"

    def now(self, session: Session, name: str) -> Document | None:
        try:
            return route_store.document(route_store.find(session, name))
        except NotFound:
            return None

    def put(self, work: Work, name: str, document: Document, current: Document | None) -> Mapping[str, str]:  # noqa: ARG002
        wish = _read(RouteIn, document).wish()
        route_store.put(work.session, name=name, wish=wish, actor=work.actor, now=work.now)
        return {}

    def remove(self, work: Work, name: str) -> None:
        route_store.remove(work.session, name=name, actor=work.actor, now=work.now)


class _Targets(Kind):
    scope = "targets:write"

    def now(self, session: Session, name: str) -> Document | None:
        try:
            return target_store.document(target_store.find(session, name))
        except NotFound:
            return None

    def put(self, work: Work, name: str, document: Document, current: Document | None) -> Mapping[str, str]:
        """The secrets stay what they are; one that was not set then goes, one that is gone has to be sent."""
        given = work.secrets.get(name, {})
        gone = set((current or {}).get("secrets", ())) - set(document["secrets"])
        secrets: dict[str, SecretStr | None] = {**dict.fromkeys(gone), **given}
        wish = _read(TargetIn, {key: value for key, value in document.items() if key != "secrets"}).wish()
        wish = target_store.Wish(wish.kind, wish.config, secrets, wish.per_minute)
        target_store.put(
            work.session, ring(work.session), name=name, wish=wish, actor=work.actor, now=work.now
        )
        return {}

    def remove(self, work: Work, name: str) -> None:
        target_store.remove(work.session, name=name, actor=work.actor, now=work.now)


class _Teams(Kind):
    """Its ping key stays what it is: no snapshot keeps it."""

    scope = "services:write"
    stays = True

    def now(self, session: Session, name: str) -> Document | None:
        team = teams.find(session, name)
        return documents.of_team(team) if team is not None else None

    def put(self, work: Work, name: str, document: Document, current: Document | None) -> Mapping[str, str]:  # noqa: ARG002
        wish = _read(TeamIn, document)
        teams.put(
            work.session, name=name, description=wish.description, ping_key_creates=wish.ping_key_creates,
            actor=work.actor, now=work.now,
        )  # fmt: skip
        return {}

    def remove(self, work: Work, name: str) -> None:  # noqa: ARG002
        raise Conflict(f"The team {name} stays: there may be services of it.")


class _Calendars(Kind):
    scope = "targets:write"

    def now(self, session: Session, name: str) -> Document | None:
        try:
            return documents.of_calendar(calendar_store.find(session, name))
        except NotFound:
            return None

    def put(self, work: Work, name: str, document: Document, current: Document | None) -> Mapping[str, str]:  # noqa: ARG002
        wish = _read(CalendarIn, document).wish()
        calendar_store.put(work.session, name=name, wish=wish, actor=work.actor, now=work.now)
        return {}

    def remove(self, work: Work, name: str) -> None:
        calendar_store.remove(work.session, name=name, actor=work.actor, now=work.now)


class _Windows(Kind):
    scope = "alerts:write"

    def now(self, session: Session, name: str) -> Document | None:
        found = windows.named(session, name)
        return documents.of_window(found[0]) if found else None

    def put(self, work: Work, name: str, document: Document, current: Document | None) -> Mapping[str, str]:  # noqa: ARG002
        windows.put(
            work.session, name=name, plan=_read(WindowIn, document).plan(), actor=work.actor, now=work.now
        )
        return {}

    def remove(self, work: Work, name: str) -> None:
        windows.remove(work.session, name=name, actor=work.actor, now=work.now)

    def is_over(self, document: Document, now: datetime) -> bool:
        ends_at = _read(WindowIn, document).ends_at
        return ends_at is not None and ends_at <= now


class _Playbooks(Kind):
    scope = "playbooks:write"

    def now(self, session: Session, name: str) -> Document | None:
        try:
            return documents.of_playbook(playbooks.find(session, name).version)
        except NotFound:
            return None

    def put(self, work: Work, name: str, document: Document, current: Document | None) -> Mapping[str, str]:  # noqa: ARG002
        source: str = document["source"]
        playbooks.put(
            work.session,
            name=name,
            source=source,
            parsed=read_playbook(source),
            actor=work.actor,
            now=work.now,
        )
        return {}

    def remove(self, work: Work, name: str) -> None:
        playbooks.remove(work.session, name=name, actor=work.actor, now=work.now)


class _Triggers(Kind):
    scope = "playbooks:write"

    def now(self, session: Session, name: str) -> Document | None:
        try:
            return triggers.document(triggers.find(session, int(name)))
        except NotFound:
            return None

    def put(self, work: Work, name: str, document: Document, current: Document | None) -> Mapping[str, str]:
        wish, number = _read(TriggerIn, document).wish(), int(name)
        if current is not None:
            triggers.change(
                work.session, trigger_id=number, wish=wish, may=_any, actor=work.actor, now=work.now
            )
            return {}
        _, shown = triggers.create(
            work.session, ring(work.session), wish=wish, pepper=shared().settings.need_pepper(), actor=work.actor,
            now=work.now, as_id=number,
        )  # fmt: skip
        return shown_once(shown)

    def remove(self, work: Work, name: str) -> None:
        triggers.remove(work.session, trigger_id=int(name), may=_any, actor=work.actor, now=work.now)


KINDS: Mapping[str, Kind] = {
    "team": _Teams(),
    "calendar": _Calendars(),
    "target": _Targets(),
    "service": _Services(),
    "route": _Routes(),
    "window": _Windows(),
    "playbook": _Playbooks(),
    "trigger": _Triggers(),
}
assert tuple(KINDS) == snapshots.KINDS


def need(kind: str, name: str) -> None:
    """The caller may change this object.

    :raises Forbidden: saying what is missing.
    """
    caller().need(KINDS[kind].scope)
    KINDS[kind].may(name)


def differences(before: Document | None, current: Document | None) -> tuple[Difference, ...]:
    """The fields that are not as they were, by name."""
    now, then = current or {}, before or {}
    return tuple(
        Difference(name, now.get(name), then.get(name))
        for name in sorted(now.keys() | then.keys())
        if now.get(name) != then.get(name) and name != "uuid"
    )


def restore_one(work: Work, snapshot: Snapshot) -> Change:
    """Make an object again what this snapshot has.

    :raises Conflict: it refers to what is not there any more, or does not fit this release.
    """
    change = _plan(work, snapshot, delete_new=True)
    if change.action != "none":
        change = _apply(work, snapshot, change)
    snapshots.mark_restored(work.session, [snapshot], actor=work.actor, now=work.now)
    return change


def restore_all(work: Work, at: datetime, kinds: Sequence[str], *, delete_new: bool) -> list[Change]:
    """Make everything of these kinds again what it was at a moment.

    :param delete_new: what was made since is deleted; else it stays, and is named.
    :raises Conflict: something does not go; then nothing is changed.
    """
    found = [
        snapshot for snapshot in snapshots.since(work.session, at, kinds) if snapshot.object_kind in KINDS
    ]
    done = []
    for snapshot in _in_order(found):
        change = _plan(work, snapshot, delete_new=delete_new)
        if change.action == "none":
            continue
        if change.action != "keep":
            change = _apply(work, snapshot, change, told=True)
        done.append(change)
    changed = {change.snapshot for change in done if change.action != "keep"}
    snapshots.mark_restored(
        work.session, [s for s in found if s.id in changed], actor=work.actor, now=work.now, at=at
    )
    return done


def _plan(work: Work, snapshot: Snapshot, *, delete_new: bool) -> Change:
    kind, name, before = KINDS[snapshot.object_kind], snapshot.object_name, snapshot.before
    current = kind.now(work.session, name)
    apart = differences(before, current)
    note = None
    if before is None:
        action = "none" if current is None else "delete" if delete_new and not kind.stays else "keep"
        note = "was made since" if action == "keep" else None
    elif current is None:
        action = "make"
    else:
        action = "change" if apart else "none"
    if before is not None and action != "none" and kind.is_over(before, work.now):
        action, note = "keep", "is over"
    return Change(snapshot.object_kind, name, snapshot.id, action, apart, note)


def _apply(work: Work, snapshot: Snapshot, change: Change, *, told: bool = False) -> Change:
    kind, name = KINDS[change.kind], change.name
    need(change.kind, name)
    try:
        if change.action == "keep":
            raise Conflict(f"The {change.kind} {name} {change.note}.")
        if snapshot.before is None:
            kind.remove(work, name)
            return change
        once = kind.put(work, name, dict(snapshot.before), kind.now(work.session, name))
    except (Conflict, Invalid, NotFound) as error:
        if not told:
            raise
        raise Conflict(f"Nothing is restored: {change.kind} {name}: {error.message}") from None
    return Change(**{**_fields(change), "once": once})


def _fields(change: Change) -> dict[str, Any]:
    return {name: getattr(change, name) for name in Change.__dataclass_fields__}


def _in_order(found: Sequence[Snapshot]) -> list[Snapshot]:
    """What is referred to comes before what refers to it, and goes after it."""
    place = {kind: number for number, kind in enumerate(KINDS)}
    parents = _parents_first([s for s in found if s.object_kind == "service" and s.before is not None])

    def key(snapshot: Snapshot) -> tuple[int, int, int]:
        if snapshot.before is None:
            # A route that goes makes room for the default one of then; nothing refers to it.
            return (0, 0, 0) if snapshot.object_kind == "route" else (2, -place[snapshot.object_kind], 0)
        among = parents.get(snapshot.object_name, 0) if snapshot.object_kind == "service" else 0
        is_default = snapshot.object_kind == "route" and bool(snapshot.before.get("default"))
        return 1, place[snapshot.object_kind], among or int(is_default)

    return sorted(found, key=key)


def _parents_first(found: Sequence[Snapshot]) -> dict[str, int]:
    names = {snapshot.object_name for snapshot in found}
    graph = {s.object_name: names.intersection((s.before or {}).get("depends_on", ())) for s in found}
    try:
        return {name: number for number, name in enumerate(TopologicalSorter(graph).static_order())}
    except CycleError:  # of different times; the store says which one closes the circle
        return {}


def _any(_: Trigger) -> None:
    """Whom `need` let through may change every trigger."""


def _read(model: type[Model], document: Document) -> Model:
    return read_json(model, json.dumps(document).encode())
