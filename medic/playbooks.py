"""Playbooks: each PUT makes a version; executions stay with the one they started from."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session

from medic import audit, documents, snapshots
from medic.db import advisory_lock
from medic.errors import Invalid, NotFound, PreconditionFailed, Problem
from medic.models.playbooks import Hook, Playbook, PlaybookVersion, Trigger
from medic.playbook.document import Parsed
from medic.playbook.document import Playbook as Document
from medic.playbook.grammar import parse
from medic.steps import load_types


@dataclass(frozen=True, slots=True)
class Stored:
    """A playbook with one of its versions."""

    playbook: Playbook
    version: PlaybookVersion
    warnings: tuple[Problem, ...] = ()


def read(text: str, *, longest_step: timedelta) -> Parsed:
    """Read a playbook's YAML.

    :param longest_step: MEDIC_STEP_TIMEOUT_CAP; a drain waits no longer, so no acting step may.
    :raises Invalid: with every problem, its line and column.
    """
    return parse(text, load_types(), longest_step=longest_step)


def put(
    session: Session, *, name: str, source: str, parsed: Parsed, actor: audit.Actor, now: datetime,
    if_match: int | None = None,
) -> Stored:  # fmt: skip
    """Store a version of a playbook; the same text again makes none.

    :raises Invalid: the YAML is called otherwise.
    :raises PreconditionFailed: the playbook is no longer at ``if_match``.
    """
    document = parsed.playbook
    if document.name != name:
        raise Invalid.at("name", f"is {document.name}, but the address says {name}")
    advisory_lock(session, f"playbook-name:{name}")
    playbook = _live(session, name)
    before = None
    if if_match is not None and (playbook is None or playbook.version != if_match):
        raise PreconditionFailed("The playbook was changed since; look at it again.")
    if playbook is None:
        playbook = session.scalars(
            insert(Playbook)
            .values(name=name, description=document.description, version=1, created_at=now, updated_at=now)
            .returning(Playbook)
        ).one()
    else:
        current = session.get_one(PlaybookVersion, (playbook.id, playbook.version))
        if current.source == source:
            return Stored(playbook, current, parsed.warnings)
        before = documents.of_playbook(current)
        playbook.version += 1
        playbook.description, playbook.updated_at = document.description, now
        session.flush()
    version = session.scalars(
        insert(PlaybookVersion)
        .values(
            playbook_id=playbook.id,
            version=playbook.version,
            source=source,
            created_by=str(actor),
            created_at=now,
        )
        .returning(PlaybookVersion)
    ).one()
    _replace_trigger(session, playbook.id, document)
    snapshots.record(
        session, now=now, actor=actor, action="playbook.put", object_kind="playbook", object_id=name,
        before=before, detail={"version": playbook.version},
    )  # fmt: skip
    return Stored(playbook, version, parsed.warnings)


def remove(session: Session, *, name: str, actor: audit.Actor, now: datetime) -> None:
    """Delete a playbook: it starts no more; what runs goes on by its version.

    :raises NotFound: no such playbook.
    """
    stored = find(session, name)
    playbook = stored.playbook
    playbook.deleted_at = now
    session.flush()  # the name is free for the next statement
    _remove_triggers(session, playbook, actor=actor, now=now)
    snapshots.record(
        session, now=now, actor=actor, action="playbook.delete", object_kind="playbook", object_id=name,
        before=documents.of_playbook(stored.version),
    )  # fmt: skip


def find(session: Session, name: str, *, version: int | None = None) -> Stored:
    """A playbook with its newest version, or the one that is asked for.

    :raises NotFound: no such playbook or version.
    """
    playbook = _live(session, name)
    if playbook is None:
        raise NotFound(f"There is no playbook {name}.")
    found = session.get(PlaybookVersion, (playbook.id, version or playbook.version))
    if found is None:
        raise NotFound(f"The playbook {name} has no version {version}.")
    return Stored(playbook, found)


def page(session: Session, *, after: str | None, limit: int) -> list[Playbook]:
    """Playbooks by name."""
    query = select(Playbook).where(Playbook.deleted_at.is_(None)).order_by(Playbook.name).limit(limit)
    return list(session.scalars(query.where(Playbook.name > after) if after else query))


def _live(session: Session, name: str) -> Playbook | None:
    return session.scalars(
        select(Playbook).where(Playbook.name == name, Playbook.deleted_at.is_(None))
    ).one_or_none()


def _remove_triggers(session: Session, playbook: Playbook, *, actor: audit.Actor, now: datetime) -> None:
    made_by_api = session.execute(
        select(Trigger, Hook)
        .outerjoin(Hook, Hook.trigger_id == Trigger.id)
        .where(Trigger.playbook_id == playbook.id, Trigger.origin == "api")
        .order_by(Trigger.id)
    ).all()
    for trigger, hook in made_by_api:
        snapshots.record(
            session, now=now, actor=actor, action="trigger.delete", object_kind="trigger", object_id=trigger.id,
            before=documents.of_trigger(trigger, playbook=playbook.name, hook=hook),
            detail={"playbook": playbook.name, "kind": trigger.kind},
        )  # fmt: skip
    session.execute(delete(Trigger).where(Trigger.playbook_id == playbook.id))


def _replace_trigger(session: Session, playbook_id: int, document: Document) -> None:
    """A playbook's own trigger is one row, replaced with each version; it stays the same trigger, so that a
    new version does not start once more for an alert that an older one has started for.
    """
    own = (Trigger.playbook_id == playbook_id, Trigger.origin == "playbook")
    trigger = document.trigger
    if trigger is None:
        session.execute(delete(Trigger).where(*own))
        return
    values = {
        "service_pattern": trigger.service_pattern,
        "tags": list(trigger.tags),
        "priorities": list(trigger.priorities),
        "reasons": list(trigger.reasons),
        "consecutive_failures": trigger.consecutive_failures,
        "cooldown_s": int(trigger.cooldown.total_seconds()) or None,
        "repeat_every_s": int(trigger.repeat_every.total_seconds()) if trigger.repeat_every else None,
        "mode": trigger.mode,
    }
    changed = session.execute(
        update(Trigger).where(*own).values(version=Trigger.version + 1, **values).returning(Trigger.id)
    ).all()
    if not changed:
        session.execute(
            insert(Trigger).values(playbook_id=playbook_id, kind="alert", origin="playbook", **values)
        )
