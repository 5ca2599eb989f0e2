"""Calendars: when people work, for the routes that ask."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import delete, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from medic import audit, documents, snapshots
from medic.calendars import parse_hours
from medic.errors import Conflict, NotFound, PreconditionFailed
from medic.models.alerting import Calendar, Route
from medic.times import parse_zone


@dataclass(frozen=True, slots=True)
class Wish:
    """What people decide about a calendar."""

    hours: dict[str, list[list[str]]]
    holidays: tuple[date, ...] = ()
    timezone: str = "UTC"

    def values(self) -> dict[str, Any]:
        """As the row keeps it.

        :raises Invalid: naming what is wrong.
        """
        return {
            "timezone": parse_zone(self.timezone).key,
            "hours": parse_hours(self.hours),
            "holidays": sorted(set(self.holidays)),
        }


def create(session: Session, *, name: str, wish: Wish, actor: audit.Actor, now: datetime) -> Calendar:
    """Make a calendar.

    :raises Conflict: the name is taken.
    :raises Invalid: its hours or its zone are wrong.
    """
    values = wish.values()
    try:
        with session.begin_nested():
            calendar = session.scalars(
                insert(Calendar).values(name=name, created_at=now, **values).returning(Calendar)
            ).one()
    except IntegrityError:
        raise Conflict(f"A calendar {name} exists already.") from None
    _note(session, "create", name, None, actor=actor, now=now, detail=_shown(calendar))
    return calendar


def put(
    session: Session, *, name: str, wish: Wish, actor: audit.Actor, now: datetime, if_match: int | None = None
) -> tuple[Calendar, bool]:
    """Make a calendar, or give it other hours; true when it was made.

    :raises PreconditionFailed: it is no longer at ``if_match``.
    :raises Invalid: its hours or its zone are wrong.
    """
    calendar = _locked(session, name)
    if if_match is not None and (calendar is None or calendar.version != if_match):
        raise PreconditionFailed("The calendar was changed since; look at it again.")
    if calendar is None:
        return create(session, name=name, wish=wish, actor=actor, now=now), True
    before = documents.of_calendar(calendar)
    for column, value in wish.values().items():
        setattr(calendar, column, value)
    calendar.version += 1
    session.flush()
    _note(session, "change", name, before, actor=actor, now=now, detail=_shown(calendar))
    return calendar, False


def remove(
    session: Session, *, name: str, actor: audit.Actor, now: datetime, if_match: int | None = None
) -> None:
    """Delete a calendar.

    :raises NotFound: no such calendar.
    :raises Conflict: a route goes by it.
    """
    calendar = _locked(session, name)
    if calendar is None:
        raise _missing(name)
    if if_match is not None and calendar.version != if_match:
        raise PreconditionFailed("The calendar was changed since; look at it again.")
    used = session.scalars(
        select(Route.name).where(Route.calendar_id == calendar.id).order_by(Route.name).limit(5)
    ).all()
    if used:
        raise Conflict(f"Routes go by the calendar {name}: {', '.join(used)}. Change those first.")
    _note(session, "delete", name, documents.of_calendar(calendar), actor=actor, now=now)
    session.execute(delete(Calendar).where(Calendar.id == calendar.id))


def find(session: Session, name: str) -> Calendar:
    """A calendar.

    :raises NotFound: no such calendar.
    """
    calendar = session.scalars(select(Calendar).where(Calendar.name == name)).one_or_none()
    if calendar is None:
        raise _missing(name)
    return calendar


def page(session: Session, *, after: str | None, limit: int) -> list[Calendar]:
    """Calendars by name, behind ``after``."""
    query = select(Calendar).order_by(Calendar.name).limit(limit)
    return list(session.scalars(query.where(Calendar.name > after) if after is not None else query))


def _locked(session: Session, name: str) -> Calendar | None:
    return session.scalars(select(Calendar).where(Calendar.name == name).with_for_update()).one_or_none()


def _missing(name: str) -> NotFound:
    return NotFound(f"There is no calendar {name}.")


def _shown(calendar: Calendar) -> dict[str, Any]:
    return {"timezone": calendar.timezone, "hours": calendar.hours, "holidays": len(calendar.holidays)}


def _note(
    session: Session,
    verb: str,
    name: str,
    before: documents.Document | None,
    *,
    actor: audit.Actor,
    now: datetime,
    detail: dict[str, Any] | None = None,
) -> None:
    snapshots.record(
        session, now=now, actor=actor, action=f"calendar.{verb}", object_kind="calendar", object_id=name,
        before=before, detail=detail,
    )  # fmt: skip
