"""Which routes tell of an alert, and whom.  Pure.

A route matches when each thing that its ``match`` names does, and its period holds at that moment.  All routes that
match tell; the default route tells when none of the others does.  The targets of a route stand in levels: the
first is told at once, each next one when nobody acknowledged in time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Literal

from medic.calendars import is_working
from medic.playbook.glob import matches

Period = Literal["always", "during_hours", "after_hours"]
Mode = Literal["notify_all", "notify_until_success"]


@dataclass(frozen=True, slots=True)
class Hours:
    """A calendar's working hours, as its row holds them."""

    hours: Mapping[str, Any]
    holidays: Sequence[date]
    timezone: str


@dataclass(frozen=True, slots=True)
class Way:
    """A route.

    :param levels: ids of the targets that can be told, by level, in their order; a level may be empty.
    """

    id: int
    name: str
    levels: tuple[tuple[int, ...], ...]
    match: Mapping[str, Any]
    is_default: bool = False
    period: Period = "always"
    calendar: Hours | None = None
    mode: Mode = "notify_all"
    escalate_after: timedelta | None = None

    def told_at(self, level: int) -> tuple[int, ...]:
        """The targets to tell when this level is reached: one after the other, if the first success is enough."""
        targets = self.levels[level] if level < len(self.levels) else ()
        return targets[:1] if self.mode == "notify_until_success" else targets

    def next_level(self, level: int) -> int | None:
        """The level above that has somebody to tell."""
        return next((n for n in range(level + 1, len(self.levels)) if self.levels[n]), None)


@dataclass(frozen=True, slots=True)
class Failing:
    """What a route looks at."""

    service: str
    priority: str
    reasons: frozenset[str]
    tags: frozenset[str] = frozenset()
    team: str | None = None


def ways_for(ways: Sequence[Way], failing: Failing, at: datetime) -> list[Way]:
    """The routes that tell of it at this moment, in their order; one that has nobody to tell does not count."""
    found = [
        way
        for way in ways
        if not way.is_default and any(way.levels) and applies(way, failing) and is_on(way, at)
    ]
    return found or [way for way in ways if way.is_default and is_on(way, at)]


def applies(way: Way, failing: Failing) -> bool:
    """Whether everything that the route's match names is so."""
    match = way.match
    return (
        ("service" not in match or matches(match["service"], failing.service))
        and set(match.get("tags", ())) <= failing.tags
        and ("priorities" not in match or failing.priority in match["priorities"])
        and ("team" not in match or failing.team == match["team"])
        and ("reasons" not in match or not failing.reasons.isdisjoint(match["reasons"]))
    )


def is_on(way: Way, at: datetime) -> bool:
    """Whether the route's period holds."""
    if way.period == "always" or way.calendar is None:
        return True
    calendar = way.calendar
    working = is_working(calendar.hours, calendar.holidays, calendar.timezone, at)
    return working == (way.period == "during_hours")
