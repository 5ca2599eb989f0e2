"""Routes: which alerts go to which targets, and when.  What they mean is `medic.routing`'s.

One route may be the default.  That of the settings (`medic.default_route`) stands back while people have one of
their own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import delete, exists, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from medic import audit, documents, snapshots
from medic.db import advisory_lock
from medic.errors import Conflict, Invalid, NotFound, PreconditionFailed
from medic.models.alerting import Alert, AlertRoute, Calendar, Route, RouteTarget, Target, Team
from medic.suppression_wake import wake

FROM_SETTINGS: Final = "default"
"""The route that `medic.default_route` makes; nobody else makes or changes it."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What people decide about a route.

    :param match: what of an alert it looks at; what is not named does not matter.
    :param levels: names of targets.
    """

    levels: tuple[tuple[str, ...], ...]
    match: dict[str, Any] = field(default_factory=dict)
    position: int = 100
    enabled: bool = True
    is_default: bool = False
    period: str = "always"
    calendar: str | None = None
    mode: str = "notify_all"
    escalate_after_s: int | None = None

    def check(self) -> None:
        """Its parts fit together.

        :raises Invalid: naming the one that does not.
        """
        if self.period == "always" and self.calendar is not None:
            raise Invalid.at("calendar", "goes with the period during_hours or after_hours")
        if self.period != "always" and self.calendar is None:
            raise Invalid.at("calendar", f"is needed by the period {self.period}")
        if self.is_default and self.match:
            raise Invalid.at("match", "must be empty: the default route takes what no other route does")
        if len(self.levels) > 1 and self.escalate_after_s is None:
            raise Invalid.at("escalate_after", "is needed by a second level")
        if len(self.levels) < 2 and self.escalate_after_s is not None:
            raise Invalid.at("escalate_after", "needs a second level")
        for number, level in enumerate(self.levels):
            if len(set(level)) < len(level):
                raise Invalid.at(f"levels.{number}", "names a target twice")


@dataclass(frozen=True, slots=True)
class Shown:
    """A route with the names of what it refers to."""

    route: Route
    calendar: str | None
    levels: list[list[str]]


def create(session: Session, *, name: str, wish: Wish, actor: audit.Actor, now: datetime) -> Shown:
    """Make a route.

    :raises Conflict: the name is taken, or there is a default route already.
    :raises Invalid: the wish does not fit together, or names what is not there.
    """
    _begin(session, name)
    return _make(session, name=name, wish=wish, actor=actor, now=now)


def put(
    session: Session, *, name: str, wish: Wish, actor: audit.Actor, now: datetime, if_match: int | None = None
) -> tuple[Shown, bool]:
    """Make a route, or change it; true when it was made.

    :raises PreconditionFailed: it is no longer at ``if_match``.
    :raises Conflict: there is a default route already.
    :raises Invalid: the wish does not fit together, or names what is not there.
    """
    _begin(session, name)
    route = _locked(session, name)
    if if_match is not None and (route is None or route.version != if_match):
        raise PreconditionFailed("The route was changed since; look at it again.")
    if route is None:
        return _make(session, name=name, wish=wish, actor=actor, now=now), True
    before = document(_shown(session, route))
    for column, value in _values(session, wish, name).items():
        setattr(route, column, value)
    route.version += 1
    session.flush()
    _set_levels(session, route, wish.levels)
    _wake(session, route, now=now)
    settle_default(session)
    _note(session, "change", name, before, actor=actor, now=now, detail=_detail(wish))
    return _shown(session, route), False


def remove(
    session: Session, *, name: str, actor: audit.Actor, now: datetime, if_match: int | None = None
) -> None:
    """Delete a route.

    :raises NotFound: no such route.
    """
    _begin(session, name)
    route = _locked(session, name)
    if route is None:
        raise _missing(name)
    if if_match is not None and route.version != if_match:
        raise PreconditionFailed("The route was changed since; look at it again.")
    before = document(_shown(session, route))
    session.execute(delete(Route).where(Route.id == route.id))
    settle_default(session)
    _note(session, "delete", name, before, actor=actor, now=now)


def keep_from_settings(
    session: Session, target_names: Sequence[str], *, actor: audit.Actor, now: datetime
) -> None:
    """Make the route of the settings tell these targets, at once; none: it is switched off."""
    advisory_lock(session, "routes")
    route = _locked(session, FROM_SETTINGS)
    if route is None:
        if not target_names:
            return
        route = session.scalars(
            insert(Route).values(name=FROM_SETTINGS, enabled=False, created_at=now).returning(Route)
        ).one()
        _note_settings(session, "create", [list(target_names)], actor=actor, now=now)
    levels = [list(target_names)] if target_names else []
    if _shown(session, route).levels != levels:
        _set_levels(session, route, levels)
        route.version += 1
        session.flush()
        _note_settings(session, "change", levels, actor=actor, now=now)
    settle_default(session)


def settle_default(session: Session) -> None:
    """The route of the settings is the default one as long as it has targets and people have none of their own."""
    route = _locked(session, FROM_SETTINGS)
    if route is None:
        return
    is_wanted = (
        bool(session.scalar(select(exists().where(RouteTarget.route_id == route.id))))
        and _other_default(session, FROM_SETTINGS) is None
    )
    if route.is_default != is_wanted:
        route.is_default = route.enabled = is_wanted
        route.version += 1
        session.flush()


def find(session: Session, name: str) -> Shown:
    """A route.

    :raises NotFound: no such route.
    """
    route = session.scalars(select(Route).where(Route.name == name)).one_or_none()
    if route is None:
        raise _missing(name)
    return _shown(session, route)


def document(shown: Shown) -> documents.Document:
    """What people decided about a route, as a snapshot keeps it."""
    return documents.of_route(shown.route, calendar=shown.calendar, levels=shown.levels)


def page(session: Session, *, after: str | None, limit: int) -> list[Shown]:
    """Routes by name, behind ``after``."""
    query = select(Route).order_by(Route.name).limit(limit)
    routes = session.scalars(query.where(Route.name > after) if after is not None else query).all()
    return _shown_all(session, routes)


def _make(session: Session, *, name: str, wish: Wish, actor: audit.Actor, now: datetime) -> Shown:
    values = _values(session, wish, name)
    try:
        with session.begin_nested():
            route = session.scalars(
                insert(Route).values(name=name, created_at=now, **values).returning(Route)
            ).one()
    except IntegrityError:
        raise Conflict(f"A route {name} exists already.") from None
    _set_levels(session, route, wish.levels)
    settle_default(session)
    _note(session, "create", name, None, actor=actor, now=now, detail=_detail(wish))
    return _shown(session, route)


def _wake(session: Session, route: Route, *, now: datetime) -> None:
    """Have the alerts that went by this route looked at: their next level may be told sooner, or at all."""
    waiting = session.scalars(
        select(Alert.service_id)
        .join(AlertRoute, AlertRoute.alert_id == Alert.id)
        .where(AlertRoute.route_id == route.id, Alert.resolved_at.is_(None), Alert.acknowledged_at.is_(None))
    )
    wake(session, [service_id for service_id in waiting if service_id is not None], now=now)


def _begin(session: Session, name: str) -> None:
    if name == FROM_SETTINGS:
        raise Conflict(
            f"The route {name} is made of the settings; make one of another name, with default: true if you like."
        )
    advisory_lock(session, "routes")  # two changes at once must not both be the default


def _values(session: Session, wish: Wish, name: str) -> dict[str, Any]:
    """A route's columns; the route of the settings has stood back if this one is to be the default."""
    wish.check()
    team = wish.match.get("team")
    if team is not None and session.scalar(select(Team.id).where(Team.name == team)) is None:
        raise Invalid.at("match.team", f"there is no team {team}")
    calendar_id = None
    if wish.calendar is not None:
        calendar_id = session.scalar(select(Calendar.id).where(Calendar.name == wish.calendar))
        if calendar_id is None:
            raise Invalid.at("calendar", f"there is no calendar {wish.calendar}")
    if wish.is_default:
        other = _other_default(session, name)
        if other is not None and other.name != FROM_SETTINGS:
            raise Conflict(f"The default route is {other.name}; change that first.")
        if other is not None:
            other.is_default = other.enabled = False
            other.version += 1
            session.flush()
    return {
        "position": wish.position, "enabled": wish.enabled, "is_default": wish.is_default, "match": wish.match,
        "period": wish.period, "calendar_id": calendar_id, "mode": wish.mode,
        "escalate_after_s": wish.escalate_after_s,
    }  # fmt: skip


def _other_default(session: Session, name: str) -> Route | None:
    return session.scalars(select(Route).where(Route.is_default, Route.name != name)).one_or_none()


def _set_levels(session: Session, route: Route, levels: Sequence[Sequence[str]]) -> None:
    wanted = {name for level in levels for name in level}
    ids = dict(session.execute(select(Target.name, Target.id).where(Target.name.in_(wanted))).all())
    for number, level in enumerate(levels):
        for name in level:
            if name not in ids:
                raise Invalid.at(f"levels.{number}", f"there is no target {name}")
    session.execute(delete(RouteTarget).where(RouteTarget.route_id == route.id))
    rows = [
        {"route_id": route.id, "target_id": ids[name], "level": number, "position": position}
        for number, level in enumerate(levels)
        for position, name in enumerate(level)
    ]
    if rows:
        session.execute(insert(RouteTarget), rows)


def _shown(session: Session, route: Route) -> Shown:
    return _shown_all(session, [route])[0]


def _shown_all(session: Session, routes: Sequence[Route]) -> list[Shown]:
    """The routes with names, in two queries."""
    levels: dict[int, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    rows = session.execute(
        select(RouteTarget.route_id, RouteTarget.level, Target.name)
        .join(Target, Target.id == RouteTarget.target_id)
        .where(RouteTarget.route_id.in_([route.id for route in routes]))
        .order_by(RouteTarget.route_id, RouteTarget.level, RouteTarget.position, Target.id)
    )
    for route_id, level, name in rows:
        levels[route_id][level].append(name)
    used = {route.calendar_id for route in routes if route.calendar_id is not None}
    calendars = dict(session.execute(select(Calendar.id, Calendar.name).where(Calendar.id.in_(used))).all())
    return [
        Shown(
            route,
            calendars.get(route.calendar_id or 0),
            [names for _, names in sorted(levels[route.id].items())],
        )
        for route in routes
    ]


def _locked(session: Session, name: str) -> Route | None:
    return session.scalars(select(Route).where(Route.name == name).with_for_update()).one_or_none()


def _missing(name: str) -> NotFound:
    return NotFound(f"There is no route {name}.")


def _detail(wish: Wish) -> dict[str, Any]:
    """What an audit entry keeps."""
    return {
        "match": wish.match, "levels": [list(level) for level in wish.levels], "period": wish.period,
        "calendar": wish.calendar, "mode": wish.mode, "escalate_after_s": wish.escalate_after_s,
        "position": wish.position, "enabled": wish.enabled, "default": wish.is_default,
    }  # fmt: skip


def _note(
    session: Session, verb: str, name: str, before: documents.Document | None, *, actor: audit.Actor, now: datetime,
    detail: dict[str, Any] | None = None,
) -> None:  # fmt: skip
    snapshots.record(
        session, now=now, actor=actor, action=f"route.{verb}", object_kind="route", object_id=name, before=before,
        detail=detail,
    )  # fmt: skip


def _note_settings(
    session: Session, verb: str, levels: list[list[str]], *, actor: audit.Actor, now: datetime
) -> None:
    # No snapshot: the settings have it, and a restart would undo what is restored.
    audit.append(
        session, now=now, actor=actor, action=f"route.{verb}", object_kind="route", object_id=FROM_SETTINGS,
        detail={"levels": levels},
    )  # fmt: skip
