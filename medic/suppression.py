"""What keeps an alert from being told now: windows, mutes, and parents that fail or may be about to.

It keeps back notifications and triggers, never the judgement, and never the end of an alert.  Whatever it keeps back
is judged once more when a window, a mute or a parent's alert ends: that wakes the service.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any

import structlog
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from medic.errors import Invalid
from medic.models.alerting import Mute, Team, Window
from medic.models.monitoring import Service
from medic.schedule import Cron
from medic.suppression_rules import Span, Timing, run_after, selects
from medic.suppression_wake import FAILING, wake
from medic.times import format_time, parse_time

WAIT_FOR_PARENTS = timedelta(minutes=2)
"""How long a child's notice waits for the judgement of its parents, from when the alert was seen."""
LOOK_EVERY = timedelta(seconds=10)
LOOK_TWICE = timedelta(seconds=30)
"""An alert that opens while its window ends in another transaction is not seen by that, so it looks once by itself."""
SHOWN = 10
"""Parents that an alert names; a service may stand below many."""

_name = attrgetter("name")
_NEVER = datetime.min.replace(tzinfo=UTC)

log = structlog.get_logger("medic.suppression")


@dataclass(frozen=True, slots=True)
class Held:
    """``by``: what keeps it back, as JSON.  ``until``: when to look again by itself; None when that wakes it."""

    by: tuple[dict[str, Any], ...]
    until: datetime | None


def held_back(
    session: Session, services: Sequence[Service], opened_at: Mapping[int, datetime], *, now: datetime
) -> dict[int, Held]:
    """What keeps back the open alerts of these services; a service that nothing holds has no entry.

    :param opened_at: when each alert was seen, for a service whose alert is no row.
    """
    if not services:
        return {}
    by: dict[int, list[dict[str, Any]]] = defaultdict(list)
    _add_windows(session, services, by, now)
    _add_mutes(session, services, by, now)
    seen = _alerts(session, opened_at)
    waits = _add_parents(session, [service.id for service in services], seen, by, now)
    found: dict[int, Held] = {}
    for service_id, reasons in by.items():
        detected = seen[service_id].detected_at if service_id in seen else now
        until = detected + LOOK_TWICE if now < detected + LOOK_TWICE else None
        if all(reason["kind"] == "waiting_for_parent" for reason in reasons):
            until = waits[service_id]
        found[service_id] = Held(tuple(reasons), until)
    return found


def timing_of(window: Window) -> Timing:
    """A window's row as its times."""
    if window.cron is None or window.duration_s is None:
        return Timing(window.starts_at, window.ends_at)
    length = timedelta(seconds=window.duration_s)
    return Timing(window.starts_at, window.ends_at, Cron(window.cron, window.timezone), length)


def _add_windows(
    session: Session, services: Sequence[Service], by: dict[int, list[dict[str, Any]]], now: datetime
) -> None:
    # A window that will end has a row in the index of what is due; one that is over has none.
    windows = session.scalars(select(Window).where(Window.due_at.is_not(None)).order_by(Window.name)).all()
    active = [(window, run) for window in windows if (run := _holds(window, now)) is not None]
    if not active:
        return
    named = {name for window, _ in active if (name := window.selector.get("team"))}
    teams: dict[int, str] = {}
    if named:
        teams = dict(session.execute(select(Team.id, Team.name).where(Team.name.in_(named))).all())
    for window, run in active:
        reason = {"kind": "window", "name": window.name, "until": format_time(run.end)}
        for service in services:
            team = teams.get(service.team_id or 0)
            if selects(window.selector, name=service.name, tags=service.tags, team=team):
                by[service.id].append(reason)


def _holds(window: Window, now: datetime) -> Span | None:
    """The time that a window keeps quiet, if that is now."""
    if (window.starts_at is not None and window.starts_at > now) or (
        window.ends_at is not None and window.ends_at <= now
    ):
        return None
    try:
        run = run_after(timing_of(window), now)
    except Exception:
        # A zone that this machine does not know, say: one window must not stop the sweep.
        log.exception("suppression.window_not_read", window=window.name)
        return None
    return run if run is not None and run.start <= now else None


def _add_mutes(
    session: Session, services: Sequence[Service], by: dict[int, list[dict[str, Any]]], now: datetime
) -> None:
    mutes = session.scalars(
        select(Mute)
        .where(
            Mute.service_id.in_([service.id for service in services]),
            Mute.ended_at.is_(None),
            Mute.ends_at > now,
        )
        .order_by(Mute.id)
    )
    for mute in mutes:
        by[mute.service_id].append(
            {"kind": "mute", "reason": mute.reason, "by": mute.created_by, "until": format_time(mute.ends_at)}
        )


@dataclass(frozen=True, slots=True)
class _Seen:
    """An open alert: when it became true, and when Medic saw it."""

    opened_at: datetime
    detected_at: datetime


_OPEN = text(
    "SELECT service_id, opened_at, detected_at FROM alerts WHERE resolved_at IS NULL AND service_id = ANY(CAST(:ids AS bigint[]))"
)


def _alerts(session: Session, opened_at: Mapping[int, datetime]) -> dict[int, _Seen]:
    seen = {service_id: _Seen(at, at) for service_id, at in opened_at.items()}
    for row in session.execute(_OPEN, {"ids": list(opened_at)}):
        seen[row.service_id] = _Seen(row.opened_at, row.detected_at)
    return seen


# One indexed look for each generation: a recursive query is planned as if everything had parents.
_ABOVE = text(
    "SELECT service_id, parent_id FROM service_dependencies WHERE service_id = ANY(CAST(:ids AS bigint[]))"
)
_PARENTS = text(
    """
    SELECT p.id, p.name, p.grace_s, s.status, s.last_success_at, s.due_at,
           s.carried ->> 'judged_until' AS judged_until
      FROM services p
      JOIN service_states s ON s.service_id = p.id
     WHERE p.id = ANY(CAST(:ids AS bigint[])) AND p.paused_at IS NULL
    """
)


def _add_parents(
    session: Session,
    ids: Sequence[int],
    seen: Mapping[int, _Seen],
    by: dict[int, list[dict[str, Any]]],
    now: datetime,
) -> dict[int, datetime]:
    """Add the parents, of every generation; returns when to look again at what only waits for them."""
    lines = _ancestors(session, ids)
    above = sorted(set().union(*lines.values()))
    if not above:
        return {}
    parents = {row.id: row for row in session.execute(_PARENTS, {"ids": above})}
    failing = set(session.scalars(FAILING, {"ids": above}))
    waits: dict[int, datetime] = {}
    for child, line in lines.items():
        own = sorted((parents[one] for one in line if one in parents), key=_name)
        by_failure = [parent.name for parent in own if parent.id in failing]
        if by_failure:
            by[child] += [{"kind": "parent", "name": name} for name in by_failure[:SHOWN]]
        if child not in seen:
            continue
        unknown = [
            parent.name for parent in own if parent.id not in failing and _may_fail(parent, seen[child], now)
        ]
        if unknown:
            limit = seen[child].detected_at + WAIT_FOR_PARENTS
            waits[child] = min(now + LOOK_EVERY, limit)
            until = format_time(limit)
            by[child] += [
                {"kind": "waiting_for_parent", "name": name, "until": until} for name in unknown[:SHOWN]
            ]
    return waits


def _ancestors(session: Session, ids: Sequence[int]) -> dict[int, set[int]]:
    """Everything above each of these services that has something above it."""
    parents: dict[int, set[int]] = defaultdict(set)
    edge = set(ids)
    known: set[int] = set()
    while edge:
        known |= edge
        for child, parent in session.execute(_ABOVE, {"ids": sorted(edge)}):
            parents[child].add(parent)
        edge = set().union(*(parents[child] for child in edge if child in parents)) - known
    found: dict[int, set[int]] = {}
    for child in ids:
        open_, line = list(parents.get(child, ())), set[int]()
        while open_:
            one = open_.pop()
            if one not in line:
                line.add(one)
                open_ += parents.get(one, ())
        if line:
            found[child] = line
    return found


def _may_fail(parent: Any, child: _Seen, now: datetime) -> bool:
    """Whether a parent that is not failing may turn out, within the wait, to have failed before its child."""
    limit = child.detected_at + WAIT_FOR_PARENTS
    if now >= limit or parent.due_at is None:
        return False
    if parent.last_success_at is not None and parent.last_success_at > child.opened_at:
        return False
    if _judged_until(parent.judged_until) > child.opened_at:
        return False
    # While it is not late, its next look is at its deadline, and the judgement comes with the end of its grace.
    grace = timedelta(0) if parent.status == "late" else timedelta(seconds=parent.grace_s)
    return bool(parent.due_at + grace <= limit)


def _judged_until(carried: str | None) -> datetime:
    try:
        return parse_time(carried)
    except Invalid:
        return _NEVER


_BELOW = text("SELECT service_id FROM service_dependencies WHERE parent_id = ANY(CAST(:ids AS bigint[]))")


def wake_children(session: Session, parent_ids: Sequence[int], *, now: datetime) -> int:
    """Parents recovered: whatever fails below them is judged once more.

    :returns: how many services became due.
    """
    below: set[int] = set()
    edge = set(parent_ids)
    while edge:
        found = set(session.scalars(_BELOW, {"ids": sorted(edge)}))
        edge = found - below
        below |= found
    return wake(session, sorted(below), now=now)
