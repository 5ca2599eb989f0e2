"""What is kept quiet between two moments: each occurrence of each window, mutes, and services that are paused."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

import structlog
from sqlalchemy import ColumnElement, func, or_, select, tuple_
from sqlalchemy.orm import Session

from medic.models.alerting import Mute, Team, Window
from medic.models.monitoring import Service
from medic.suppression import timing_of
from medic.suppression_rules import is_within, selects, spans

log = structlog.get_logger("medic.suppression")


@dataclass(frozen=True, slots=True)
class Key:
    """Where an item stands in the list: by its start, its kind, and the number of its row."""

    since: datetime
    kind: str
    row_id: int

    @property
    def order(self) -> tuple[datetime, str, int]:
        return self.since, self.kind, self.row_id


@dataclass(frozen=True, slots=True)
class Item:
    """One time of quiet.  ``service`` or ``selector``: for whom; ``until`` None: nobody knows."""

    key: Key
    name: str
    reason: str
    until: datetime | None
    service: str | None = None
    selector: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked.

    ``service``: only what is for this one.  ``names``: an expression for the names that a narrowed key may see, and
    ``patterns`` the same as globs; None for all.
    """

    since: datetime
    until: datetime
    service: Service | None = None
    names: str | None = None
    patterns: Sequence[str] | None = None


def planned(session: Session, wish: Wish, *, after: Key | None, limit: int) -> list[Item]:
    """The times that reach into the ones that are asked for, by their start, behind ``after``."""
    found = heapq.merge(
        *(_occurrences(window, wish, after) for window in _windows(session, wish)),
        _mutes(session, wish, after, limit),
        _paused(session, wish, after, limit),
        key=lambda item: item.key.order,
    )
    return list(islice(found, limit))


def _windows(session: Session, wish: Wish) -> list[Window]:
    rows = session.scalars(
        select(Window).where(
            or_(Window.starts_at.is_(None), Window.starts_at < wish.until),
            or_(Window.ends_at.is_(None), Window.ends_at > wish.since),
        )
    ).all()
    if wish.service is None:
        return [row for row in rows if wish.patterns is None or is_within(row.selector, wish.patterns)]
    name, tags = wish.service.name, wish.service.tags
    team = session.scalar(select(Team.name).where(Team.id == wish.service.team_id))
    return [row for row in rows if selects(row.selector, name=name, tags=tags, team=team)]


def _occurrences(window: Window, wish: Wish, after: Key | None) -> Iterator[Item]:
    # Those before the start of the one behind which the list goes on were shown.
    since = wish.since if after is None else max(wish.since, after.since)
    try:
        for span in spans(timing_of(window), since, wish.until):
            key = Key(span.start, "window", window.id)
            if after is None or key.order > after.order:
                yield Item(key, window.name, window.reason, span.end, selector=window.selector)
    except Exception:
        log.exception("suppression.window_not_read", window=window.name)


def _mutes(session: Session, wish: Wish, after: Key | None, limit: int) -> Iterator[Item]:
    query = (
        select(Mute, Service.name)
        .join(Service, Service.id == Mute.service_id)
        .where(Mute.created_at < wish.until, func.coalesce(Mute.ended_at, Mute.ends_at) > wish.since)
        .where(*_mine(wish), *_behind(Mute.created_at, Mute.id, "mute", after))
        .order_by(Mute.created_at, Mute.id)
        .limit(limit)
    )
    for mute, name in session.execute(query):
        key = Key(mute.created_at, "mute", mute.id)
        yield Item(key, str(mute.id), mute.reason, mute.ended_at or mute.ends_at, service=name)


def _paused(session: Session, wish: Wish, after: Key | None, limit: int) -> Iterator[Item]:
    query = (
        select(Service.id, Service.name, Service.paused_at)
        .where(Service.paused_at < wish.until)
        .where(*_mine(wish), *_behind(Service.paused_at, Service.id, "paused", after))
        .order_by(Service.paused_at, Service.id)
        .limit(limit)
    )
    for row_id, name, paused_at in session.execute(query):
        if paused_at is not None:
            yield Item(Key(paused_at, "paused", row_id), name, "", None, service=name)


def _mine(wish: Wish) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if wish.service is not None:
        found.append(Service.id == wish.service.id)
    if wish.names is not None:
        found.append(Service.name.regexp_match(wish.names))
    return found


def _behind(since: Any, row_id: Any, kind: str, after: Key | None) -> list[ColumnElement[bool]]:
    """Only rows that stand behind ``after``, by `Key.order`."""
    if after is None:
        return []
    if after.kind == kind:
        return [tuple_(since, row_id) > (after.since, after.row_id)]
    return [since >= after.since if kind > after.kind else since > after.since]
