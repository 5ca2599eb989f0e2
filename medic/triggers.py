"""Triggers that are made by API: on alerts, by a schedule, by a hook.  ``version`` is a trigger's ETag.

A playbook's own trigger is one of them with origin ``playbook``; it can be seen here, and changes with the YAML.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from pydantic import SecretStr
from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from medic import audit, documents, hook_store, playbooks, services, snapshots
from medic.crypto.key_ring import KeyRing
from medic.errors import Conflict, Invalid, NotFound, PreconditionFailed, Problem
from medic.executions.admission import bind_variables
from medic.executions.pinned import pinned
from medic.models.playbooks import Hook, Playbook, Trigger, TriggerOccurrence
from medic.payloads import parse_path
from medic.playbook.document import Playbook as Document
from medic.schedule import Cron, occurrence_after, parse_schedule
from medic.suppression_rules import covers

CATCH_UP: Final = timedelta(minutes=10)
"""A time of a schedule that Medic was away for is still run within so long."""
LEAST_CATCH_UP, MOST_CATCH_UP = timedelta(minutes=1), timedelta(days=1)
MAX_PER_PLAYBOOK: Final = 100

OpenRing = Callable[[], KeyRing]


@dataclass(frozen=True, slots=True)
class HookWish:
    """How a hook is called: its proof, and what of a body becomes a variable or names the service."""

    verification: str = "bearer"
    mapping: Mapping[str, str] = field(default_factory=dict)
    service_from: str | None = None
    on_resolved: bool = False


@dataclass(frozen=True, slots=True)
class Wish:
    """What people decide about a trigger.

    :param service: the one service that a schedule or a hook is for.
    :param service_pattern: the services that an alert trigger, or a hook with ``service_from``, is for.
    """

    playbook: str
    kind: str
    service: str | None = None
    service_pattern: str | None = None
    tags: Sequence[str] = ()
    priorities: Sequence[str] = ()
    reasons: Sequence[str] = ()
    consecutive_failures: int = 1
    position: int = 100
    cooldown: timedelta | None = None
    repeat_every: timedelta | None = None
    mode: str = "live"
    enabled: bool = True
    variables: Mapping[str, Any] = field(default_factory=dict)
    cron: str | None = None
    timezone: str = "UTC"
    catch_up: timedelta = CATCH_UP
    hook: HookWish = field(default_factory=HookWish)

    @property
    def reach(self) -> str | None:
        """The services that it is for, as a glob; None: it is for none."""
        is_open = self.kind == "alert" or (self.kind == "hook" and self.hook.service_from is not None)
        return self.service or self.service_pattern or ("*" if is_open else None)


@dataclass(frozen=True, slots=True)
class Stored:
    """A trigger, its playbook's name, its hook, and the last time of its schedule."""

    trigger: Trigger
    playbook: str
    hook: Hook | None = None
    last: TriggerOccurrence | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """A hook's token and secret, which are shown once."""

    token: SecretStr
    secret: SecretStr


def create(
    session: Session, open_ring: OpenRing, *, wish: Wish, pepper: bytes, actor: audit.Actor, now: datetime,
    as_id: int | None = None,
) -> tuple[Stored, Shown | None]:  # fmt: skip
    """Make a trigger.

    :param as_id: the number of one that was deleted and comes back; numbers are never given twice.
    :returns: also the token and secret of a hook.
    :raises Invalid: naming the field that is wrong.
    """
    try:
        found = playbooks.find(session, wish.playbook)
    except NotFound as error:
        raise Invalid.at("playbook", error.message) from None
    playbook_id = found.playbook.id
    # Against its deletion meanwhile; whoever counts below counts alone.
    alive = select(Playbook.id).where(Playbook.id == playbook_id, Playbook.deleted_at.is_(None))
    if session.scalar(alive.with_for_update(key_share=True)) is None:
        raise Invalid.at("playbook", f"There is no playbook {wish.playbook}.")
    count = len(session.scalars(select(Trigger.id).where(Trigger.playbook_id == playbook_id)).all())
    if count >= MAX_PER_PLAYBOOK:
        raise Conflict(
            f"The playbook {wish.playbook} has {count} triggers, and may have no more; delete one."
        )
    values = _checked(session, wish, pinned(found.version.source), now=now)
    trigger = session.scalars(
        insert(Trigger)
        .values(
            playbook_id=playbook_id,
            kind=wish.kind,
            origin="api",
            created_at=now,
            **values,
            **({} if as_id is None else {"id": as_id}),
        )
        .returning(Trigger)
    ).one()
    hook = shown = None
    if wish.kind == "hook":
        minted = hook_store.mint(pepper, wish.hook.verification, _ring(wish.hook.verification, open_ring))
        hook = session.scalars(
            insert(Hook)
            .values(trigger_id=trigger.id, **_hook_values(wish.hook), **_kept(minted))
            .returning(Hook)
        ).one()
        shown = Shown(minted.token, minted.secret)
    _note(session, "create", Stored(trigger, wish.playbook, hook), None, actor=actor, now=now)
    return Stored(trigger, wish.playbook, hook), shown


def change(
    session: Session, *, trigger_id: int, wish: Wish, may: Callable[[Trigger], None], actor: audit.Actor,
    now: datetime, if_match: int | None = None,
) -> Stored:  # fmt: skip
    """Give a trigger other fields; its playbook, its kind and a hook's proof stay.

    :param may: raises when the caller may not change it.
    :raises NotFound: no such trigger.
    :raises Conflict: it is a playbook's own, or the wish says another playbook, kind or proof.
    :raises PreconditionFailed: it is no longer at ``if_match``.
    """
    stored = _locked(session, trigger_id, may, if_match)
    trigger, hook = stored.trigger, stored.hook
    was = document(stored)
    for name, before, after in (
        ("playbook", stored.playbook, wish.playbook),
        ("kind", trigger.kind, wish.kind),
        ("verification", hook.verification if hook else None, wish.hook.verification if hook else None),
    ):
        if before != after:
            raise Conflict(f"The {name} of trigger {trigger_id} is {before} and stays; make another trigger.")
    version = playbooks.find(session, wish.playbook).version
    before_schedule = (trigger.cron, trigger.timezone, trigger.enabled)
    due_at = trigger.due_at
    for column, value in _checked(session, wish, pinned(version.source), now=now).items():
        setattr(trigger, column, value)
    if before_schedule == (trigger.cron, trigger.timezone, trigger.enabled):
        trigger.due_at = due_at  # a time that is due this moment is not lost
    trigger.version += 1
    if hook is not None:
        for column, value in _hook_values(wish.hook).items():
            setattr(hook, column, value)
    session.flush()
    _note(session, "change", stored, was, actor=actor, now=now)
    return stored


def rotate(
    session: Session, open_ring: OpenRing, *, trigger_id: int, may: Callable[[Trigger], None], pepper: bytes,
    actor: audit.Actor, now: datetime,
) -> tuple[Stored, Shown]:  # fmt: skip
    """Give a hook another token and secret; the old ones end at once.

    :raises NotFound: no such trigger.
    :raises Conflict: it is no hook.
    """
    stored = _locked(session, trigger_id, may, None)
    hook = stored.hook
    if hook is None:
        raise Conflict(f"Trigger {trigger_id} is no hook: it has no secret.")
    minted = hook_store.mint(pepper, hook.verification, _ring(hook.verification, open_ring))
    for column, value in _kept(minted).items():
        setattr(hook, column, value)
    stored.trigger.version += 1
    session.flush()
    audit.append(
        session, now=now, actor=actor, action="trigger.rotate", object_kind="trigger", object_id=trigger_id
    )
    return stored, Shown(minted.token, minted.secret)


def remove(
    session: Session, *, trigger_id: int, may: Callable[[Trigger], None], actor: audit.Actor, now: datetime,
    if_match: int | None = None,
) -> None:  # fmt: skip
    """Delete a trigger; what it started goes on.

    :raises NotFound: no such trigger.
    :raises Conflict: it is a playbook's own.
    """
    stored = _locked(session, trigger_id, may, if_match)
    _note(session, "delete", stored, document(stored), actor=actor, now=now)
    session.execute(delete(Trigger).where(Trigger.id == trigger_id))


def find(session: Session, trigger_id: int) -> Stored:
    """A trigger.

    :raises NotFound: no such trigger.
    """
    row = session.execute(
        select(Trigger, Playbook.name, Hook)
        .join(Playbook, Playbook.id == Trigger.playbook_id)
        .outerjoin(Hook, Hook.trigger_id == Trigger.id)
        .where(Trigger.id == trigger_id)
    ).one_or_none()
    if row is None:
        raise NotFound(f"There is no trigger {trigger_id}.")
    last = session.scalars(
        select(TriggerOccurrence)
        .where(TriggerOccurrence.trigger_id == trigger_id)
        .order_by(TriggerOccurrence.at.desc())
        .limit(1)
    ).one_or_none()
    return Stored(row[0], row[1], row[2], last)


def document(stored: Stored) -> documents.Document:
    """What people decided about a trigger, as a snapshot keeps it."""
    return documents.of_trigger(stored.trigger, playbook=stored.playbook, hook=stored.hook)


def page(
    session: Session, *, after: int | None, limit: int, playbook: str | None = None, kind: str | None = None,
    patterns: Sequence[str] | None = None,
) -> list[Stored]:  # fmt: skip
    """Triggers by number, behind ``after``.

    :param patterns: names a key is narrowed to: only triggers for nothing else.
    """
    found: list[Stored] = []
    while len(found) < limit:
        query = (
            select(Trigger, Playbook.name, Hook, TriggerOccurrence)
            .join(Playbook, Playbook.id == Trigger.playbook_id)
            .outerjoin(Hook, Hook.trigger_id == Trigger.id)
            .outerjoin(
                TriggerOccurrence,
                (TriggerOccurrence.trigger_id == Trigger.id)
                & (
                    TriggerOccurrence.at
                    == select(TriggerOccurrence.at)
                    .where(TriggerOccurrence.trigger_id == Trigger.id)
                    .order_by(TriggerOccurrence.at.desc())
                    .limit(1)
                    .correlate(Trigger)
                    .scalar_subquery()
                ),
            )
            .order_by(Trigger.id)
            .limit(limit)
        )
        if after is not None:
            query = query.where(Trigger.id > after)
        if playbook is not None:
            query = query.where(Playbook.name == playbook)
        if kind is not None:
            query = query.where(Trigger.kind == kind)
        rows = session.execute(query).all()
        found += [
            Stored(*row) for row in rows if patterns is None or is_within(row[0].service_pattern, patterns)
        ]
        if len(rows) < limit:
            break
        after = rows[-1][0].id
    return found[:limit]


def is_within(reach: str | None, patterns: Iterable[str]) -> bool:
    """Whether a trigger is for nothing but services of these names."""
    return reach is not None and any(covers(pattern, reach) for pattern in patterns)


def _checked(session: Session, wish: Wish, document: Document, *, now: datetime) -> dict[str, Any]:
    """The columns of a wish that holds together.

    :raises Invalid: naming what does not.
    """
    schedule = _schedule(wish)
    _check_reach(session, wish)
    if wish.repeat_every is not None and wish.repeat_every < timedelta(minutes=1):
        raise Invalid.at("repeat_every", "must be 1m or longer")
    _check_variables(wish, document)
    return {
        "position": wish.position,
        "service_pattern": wish.reach,
        "tags": list(wish.tags),
        "priorities": list(wish.priorities),
        "reasons": list(wish.reasons),
        "consecutive_failures": wish.consecutive_failures,
        "cooldown_s": (int(wish.cooldown.total_seconds()) or None) if wish.cooldown else None,
        "repeat_every_s": int(wish.repeat_every.total_seconds()) if wish.repeat_every else None,
        "mode": wish.mode,
        "cron": schedule.expression if schedule else None,
        "timezone": schedule.zone if schedule else None,
        "catch_up_s": int(wish.catch_up.total_seconds()),
        "variables": dict(wish.variables),
        "enabled": wish.enabled,
        "due_at": _next_due(schedule, now) if schedule and wish.enabled else None,
    }


def _schedule(wish: Wish) -> Cron | None:
    if wish.kind != "schedule":
        return None
    if wish.cron is None:
        raise Invalid.at("cron", "is needed, as 0 3 * * *")
    if not LEAST_CATCH_UP <= wish.catch_up <= MOST_CATCH_UP:
        raise Invalid.at("catch_up", "must be 1m to 1d")
    schedule = parse_schedule(cron=wish.cron, timezone=wish.timezone)
    assert isinstance(schedule, Cron)
    return schedule


def _next_due(schedule: Cron, now: datetime) -> datetime | None:
    try:
        return occurrence_after(schedule, now)
    except StopIteration:  # the calendar's end
        return None


def _check_reach(session: Session, wish: Wish) -> None:
    names_itself = wish.kind == "hook" and wish.hook.service_from is not None
    if wish.service is not None:
        if names_itself:
            raise Invalid.at("service", "is either given or read from the body by service_from, not both")
        try:
            services.find(session, wish.service)
        except NotFound as error:
            raise Invalid.at("service", error.message) from None
    elif wish.kind == "alert" and wish.service_pattern is None and not wish.tags:
        raise Invalid.at("service_pattern", 'or tags is needed; "*" means every service')
    elif wish.kind == "hook" and wish.service_pattern is not None and not names_itself:
        raise Invalid.at("service_pattern", "goes with service_from: it says which services a body may name")


def _check_variables(wish: Wish, document: Document) -> None:
    """The playbook gets each variable that it needs, and a stranger's body sets none that it does not declare."""
    mapped = dict(wish.hook.mapping) if wish.kind == "hook" else {}
    problems = []
    for name, text in mapped.items():
        if name not in document.variables:
            problems.append(
                Problem(f"mapping.{name}", f"is no variable that the playbook {document.name} declares")
            )
        elif name in wish.variables:
            problems.append(Problem(f"mapping.{name}", "is given in variables too"))
        parse_path(text, path=f"mapping.{name}")
    if problems:
        raise Invalid(f"{problems[0].path}: {problems[0].message}", problems=tuple(problems))
    if wish.kind == "hook" and wish.hook.service_from is not None:
        parse_path(wish.hook.service_from, path="service_from")
    bind_variables(document, {**dict.fromkeys(mapped), **wish.variables})


def _ring(verification: str, open_ring: OpenRing) -> KeyRing | None:
    return open_ring() if verification != "bearer" else None


def _hook_values(wish: HookWish) -> dict[str, Any]:
    mapping: dict[str, Any] = {"variables": dict(wish.mapping)}
    if wish.service_from is not None:
        mapping["service"] = wish.service_from
    return {"verification": wish.verification, "mapping": mapping, "on_resolved": wish.on_resolved}


def _kept(minted: hook_store.Minted) -> dict[str, Any]:
    return {
        "token_digest": minted.token_digest,
        "secret_digest": minted.secret_digest,
        "sealed_secret": minted.sealed_secret,
    }


def _locked(
    session: Session, trigger_id: int, may: Callable[[Trigger], None], if_match: int | None
) -> Stored:
    session.execute(select(Trigger.id).where(Trigger.id == trigger_id).with_for_update(key_share=True))
    stored = find(session, trigger_id)
    trigger = stored.trigger
    may(trigger)
    if trigger.origin == "playbook":
        raise Conflict(
            f"Trigger {trigger_id} is the playbook's own: change `trigger:` in the YAML of {stored.playbook} and"
            " apply it."
        )
    if if_match is not None and trigger.version != if_match:
        raise PreconditionFailed("The trigger was changed since; look at it again.")
    return stored


def _note(
    session: Session, verb: str, stored: Stored, before: documents.Document | None, *, actor: audit.Actor,
    now: datetime,
) -> None:  # fmt: skip
    trigger, playbook, hook = stored.trigger, stored.playbook, stored.hook
    detail: dict[str, Any] = {
        "playbook": playbook, "kind": trigger.kind, "mode": trigger.mode, "enabled": trigger.enabled,
        "services": trigger.service_pattern, "cron": trigger.cron, "timezone": trigger.timezone,
        "variables": sorted(trigger.variables), "verification": hook.verification if hook else None,
    }  # fmt: skip
    snapshots.record(
        session, now=now, actor=actor, action=f"trigger.{verb}", object_kind="trigger", object_id=trigger.id,
        before=before, detail={key: value for key, value in detail.items() if value is not None},
    )  # fmt: skip
