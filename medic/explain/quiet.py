"""What kept quiet about a service at a time: windows, mutes, and parents that were failing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from medic.explain.rules import Rule
from medic.models.alerting import Mute, Team, Window
from medic.models.monitoring import Service
from medic.suppression import timing_of
from medic.suppression_rules import run_after, selects
from medic.times import format_time

_MOST = 20
_PARENTS = frozenset({"parent", "waiting_for_parent"})

_FAILING_PARENTS = text(
    """
    WITH RECURSIVE above AS (
        SELECT parent_id FROM service_dependencies WHERE service_id = :service_id
         UNION
        SELECT d.parent_id FROM above JOIN service_dependencies d ON d.service_id = above.parent_id
    )
    SELECT p.name, a.id FROM above
      JOIN services p ON p.id = above.parent_id
      JOIN alerts a ON a.service_id = p.id
     WHERE a.opened_at <= :at AND (a.resolved_at IS NULL OR a.resolved_at > :at)
     ORDER BY p.name LIMIT :most
    """
)

log = structlog.get_logger("medic.explain")


def quiet_at(session: Session, service: Service, at: datetime) -> list[dict[str, Any]]:
    """Windows and parents as they are known now, mutes as they were."""
    found = [*_windows(session, service, at), *_mutes(session, service, at)]
    rows = session.execute(_FAILING_PARENTS, {"service_id": service.id, "at": at, "most": _MOST})
    found += [{"kind": "parent", "name": row.name, "alert": row.id} for row in rows]
    return found


def _windows(session: Session, service: Service, at: datetime) -> list[dict[str, Any]]:
    team = session.scalar(select(Team.name).where(Team.id == service.team_id)) if service.team_id else None
    found: list[dict[str, Any]] = []
    for window in session.scalars(
        select(Window)
        .where(Window.created_at <= at, (Window.starts_at.is_(None) | (Window.starts_at <= at)))
        .where(Window.ends_at.is_(None) | (Window.ends_at > at))
        .order_by(Window.name)
    ):
        if not selects(window.selector, name=service.name, tags=service.tags, team=team):
            continue
        try:
            run = run_after(timing_of(window), at)
        except Exception:
            log.exception("explain.window_not_read", window=window.name)
            continue
        if run is not None and run.start <= at:
            found.append({"kind": "window", "name": window.name, "until": format_time(run.end)})
    return found[:_MOST]


def _mutes(session: Session, service: Service, at: datetime) -> list[dict[str, Any]]:
    mutes = session.scalars(
        select(Mute)
        .where(
            Mute.service_id == service.id,
            Mute.created_at <= at,
            func.least(Mute.ends_at, func.coalesce(Mute.ended_at, Mute.ends_at)) > at,
        )
        .order_by(Mute.id)
        .limit(_MOST)
    )
    return [
        {
            "kind": "mute",
            "reason": mute.reason,
            "by": mute.created_by,
            "until": format_time(min(mute.ends_at, mute.ended_at or mute.ends_at)),
        }
        for mute in mutes
    ]


MayName = Callable[[str], bool]
"""Whether the asker may know of a service of this name."""


def without_names(by: Iterable[Mapping[str, Any]], may_name: MayName) -> list[dict[str, Any]]:
    """What keeps quiet, without the names and alerts of parents that the asker may not know of."""
    return [
        {key: value for key, value in one.items() if key not in {"name", "alert"}}
        if one.get("kind") in _PARENTS and not may_name(str(one.get("name")))
        else dict(one)
        for one in by
    ]


def quiet_rule(by: Iterable[Mapping[str, Any]]) -> Rule:
    """Whether an alert would be told; what keeps quiet keeps back triggers too."""
    said = [sentence(one) for one in by]
    if not said:
        return Rule("quiet", False, "No window, mute or failing parent keeps quiet about it.")
    return Rule("quiet", True, " ".join(said))


def sentence(held: Mapping[str, Any]) -> str:
    """One thing that keeps quiet, as it stands on an alert or comes from `quiet_at`."""
    until = f" until {held['until']}" if held.get("until") else ""
    match held.get("kind"):
        case "window":
            return f"The maintenance window {held.get('name')} holds{until}."
        case "mute":
            return f"Muted by {held.get('by')}{until}: {held.get('reason')}."
        case "parent":
            return f"{_parent(held)} was failing."
        case "waiting_for_parent":
            return f"Waits{until} for the verdict on {_parent(held, 'its parent')}."
        case "no_route":
            return "No route with a target that can be told was for it."
        case other:
            return f"Kept back: {other}."


def _parent(held: Mapping[str, Any], its: str = "Its parent") -> str:
    return f"{its} {held['name']}" if held.get("name") else f"{its} (of another key's services)"
