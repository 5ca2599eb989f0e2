"""Maintenance windows: planned quiet, by name.  ``version`` is a window's ETag.

``due_at`` is when the sweep has to do something about a window: at its end, and at its start if that is to be told.
A window that is over has none.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from medic import audit, documents, snapshots
from medic.errors import Invalid, NotFound, PreconditionFailed
from medic.models.alerting import Delivery, Route, RouteTarget, Target, Team, Window
from medic.suppression import timing_of
from medic.suppression_rules import Timing, is_active, is_within, next_due, parse_selector, passed, run_after
from medic.suppression_wake import BATCH, wake_selected
from medic.times import format_duration, format_time

SET_ASIDE = timedelta(minutes=5)

log = structlog.get_logger("medic.windows")


@dataclass(frozen=True, slots=True)
class Plan:
    """What somebody wants a window to be."""

    selector: dict[str, Any]
    reason: str = ""
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    cron: str | None = None
    duration: timedelta | None = None
    timezone: str = "UTC"
    notices: bool = False


def put(
    session: Session, *, name: str, plan: Plan, actor: audit.Actor, now: datetime, if_match: int | None = None
) -> tuple[Window, bool]:
    """Make a window, or give it another plan; true when it was made.

    What the plan before kept quiet and this one does not is judged by the next sweep.

    :raises Invalid: naming the field that is wrong.
    :raises PreconditionFailed: the window is no longer at ``if_match``.
    """
    timing = Timing.parse(
        starts_at=plan.starts_at, ends_at=plan.ends_at, cron=plan.cron, duration=plan.duration,
        timezone=plan.timezone, now=now,
    )  # fmt: skip
    selector = parse_selector(plan.selector)
    _check_team(session, selector)
    values: dict[str, Any] = {
        "reason": plan.reason,
        "starts_at": timing.starts_at,
        "ends_at": timing.ends_at,
        "cron": timing.cron.expression if timing.cron else None,
        "duration_s": int(timing.duration.total_seconds()) if timing.duration else None,
        "timezone": timing.cron.zone if timing.cron else plan.timezone,
        "selector": selector,
        "notices": plan.notices,
        "due_at": next_due(timing, now, notices=plan.notices),
    }
    window = _locked(session, name)
    made = window is None
    if window is None and if_match is None:
        window = session.scalars(
            upsert(Window)
            .values(name=name, created_by=str(actor), created_at=now, **values)
            .on_conflict_do_nothing(index_elements=[Window.name])
            .returning(Window)
        ).one_or_none()
    if window is None or (if_match is not None and window.version != if_match):
        raise PreconditionFailed("The window was changed since; look at it again.")
    before = None if made else documents.of_window(window)
    was_active = not made and _is_active(window, now)
    if not made:
        was_told = was_active and window.notices
        _free(session, window, now=now)
        for column, value in values.items():
            setattr(window, column, value)
        window.version += 1
        session.flush()
        if was_told and not is_active(timing, now):
            tell(session, window, f"{_title(window)} was changed: it does not hold now.", now=now)
    if plan.notices and is_active(timing, now) and not was_active:
        tell(session, window, _start_text(window, timing, now), now=now)
    snapshots.record(
        session, now=now, actor=actor, action="window.create" if made else "window.change",
        object_kind="window", object_id=name, before=before, detail=shown(window),
    )  # fmt: skip
    return window, made


def remove(
    session: Session, *, name: str, actor: audit.Actor, now: datetime, if_match: int | None = None
) -> None:
    """Delete a window; what it kept quiet is judged by the next sweep.

    :raises NotFound: no such window.
    :raises PreconditionFailed: it is no longer at ``if_match``.
    """
    window = _locked(session, name)
    if window is None:
        raise NotFound(f"There is no window {name}.")
    if if_match is not None and window.version != if_match:
        raise PreconditionFailed("The window was changed since; look at it again.")
    _free(session, window, now=now)
    if window.notices and _is_active(window, now):
        tell(session, window, f"{_title(window)} was deleted and holds no more.", now=now)
    snapshots.record(
        session, now=now, actor=actor, action="window.delete", object_kind="window", object_id=name,
        before=documents.of_window(window),
    )  # fmt: skip
    session.delete(window)
    session.flush()


def find(session: Session, name: str) -> Window:
    """A window.

    :raises NotFound: no such window.
    """
    found = named(session, name)
    if not found:
        raise NotFound(f"There is no window {name}.")
    return found[0]


def named(session: Session, name: str) -> list[Window]:
    """The window of this name, if there is one."""
    return list(session.scalars(select(Window).where(Window.name == name)))


def page(
    session: Session, *, after: str | None, limit: int, patterns: Sequence[str] | None = None
) -> list[Window]:
    """Windows by name, behind ``after``.

    :param patterns: names a key is narrowed to: only windows for nothing else.
    """
    found: list[Window] = []
    while len(found) < limit:
        query = select(Window).order_by(Window.name).limit(limit)
        rows = session.scalars(query.where(Window.name > after) if after is not None else query).all()
        found += [row for row in rows if patterns is None or is_within(row.selector, patterns)]
        if len(rows) < limit:
            break
        after = rows[-1].name
    return found[:limit]


def shown(window: Window) -> dict[str, Any]:
    """A window for the audit log."""
    length = timedelta(seconds=window.duration_s) if window.duration_s else None
    fields = {
        "reason": window.reason or None,
        "starts_at": format_time(window.starts_at) if window.starts_at else None,
        "ends_at": format_time(window.ends_at) if window.ends_at else None,
        "cron": window.cron,
        "duration": format_duration(length) if length else None,
        "timezone": window.timezone if window.cron else None,
        "selector": window.selector,
        "notices": window.notices,
    }
    return {key: value for key, value in fields.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Place:
    """How far the end of a window has come: woken are the services up to ``service_id``."""

    window_id: int
    due_at: datetime
    service_id: int


def end_step(session: Session, *, now: datetime, place: Place | None = None) -> tuple[bool, Place | None]:
    """One batch of a window that is due: wakes services whose alert is open, and goes on to its next moment.

    Who dies in the middle leaves the window due; waking twice changes nothing, and its notice is told by whoever
    moves it on.

    :param place: where the batch before came to.
    :returns: whether there may be more to do, and where to go on.
    """
    query = select(Window).where(Window.due_at <= now)
    if place is not None:
        query = query.where(Window.id == place.window_id, Window.due_at == place.due_at)
    window = session.scalars(
        query.order_by(Window.due_at, Window.id).limit(1).with_for_update(key_share=True, skip_locked=True)
    ).one_or_none()
    if window is None or window.due_at is None:
        return place is not None, None  # another one has it, or had
    try:
        timing = timing_of(window)
        happened = passed(timing, window.due_at, now)
        due_at = next_due(timing, now, notices=window.notices)
    except Exception:
        log.exception("windows.not_judged", window=window.name)
        window.due_at = now + SET_ASIDE
        session.flush()
        return True, None
    if happened.has_ended:
        after = place.service_id if place is not None else 0
        _, reached = wake_selected(session, window.selector, now=now, after=after, limit=BATCH)
        if reached is not None:
            return True, Place(window.id, window.due_at, reached)
    moved = session.execute(
        update(Window)
        .where(Window.id == window.id, Window.due_at == window.due_at)
        .values(due_at=due_at)
        .returning(Window.id)
        .execution_options(synchronize_session=False)
    ).scalar_one_or_none()
    if moved is not None and window.notices and happened.newest is not None:
        text = (
            _start_text(window, timing, now) if happened.newest == "start" else f"{_title(window)} is over."
        )
        tell(session, window, text, now=now)
    session.expire(window)
    return True, None


def end_due(session: Session, *, now: datetime) -> int:
    """Deal with every window that is due, in this transaction; returns how many there were."""
    count = 0
    place: Place | None = None
    while True:
        more, place = end_step(session, now=now, place=place)
        if not more:
            return count
        count += place is None


def tell(session: Session, window: Window, text: str, *, now: datetime) -> None:
    """Put a notice of a window into the outbox, for the targets of the default route."""
    targets = session.execute(
        select(RouteTarget.target_id, RouteTarget.route_id, RouteTarget.position)
        .join(Route, Route.id == RouteTarget.route_id)
        .join(Target, Target.id == RouteTarget.target_id)
        .where(Route.is_default, Route.enabled, RouteTarget.level == 0, Target.disabled_at.is_(None))
    ).all()
    payload = {"text": text, "window": window.name}
    if targets:
        session.execute(
            insert(Delivery),
            [
                {"uuid": uuid.uuid4(), "target_id": row.target_id, "route_id": row.route_id, "kind": "notice",
                 "position": row.position, "payload": payload, "due_at": now, "created_at": now}
                for row in targets
            ],
        )  # fmt: skip


def _locked(session: Session, name: str) -> Window | None:
    return session.scalars(select(Window).where(Window.name == name).with_for_update()).one_or_none()


def _check_team(session: Session, selector: dict[str, Any]) -> None:
    name = selector.get("team")
    if name is not None and session.scalar(select(Team.id).where(Team.name == name)) is None:
        raise Invalid.at("selector.team", f"there is no team {name}")


def _is_active(window: Window, now: datetime) -> bool:
    return is_active(timing_of(window), now)


def _free(session: Session, window: Window, *, now: datetime) -> None:
    """Wake what a window keeps quiet, in the transaction that ends that: a person waits for it."""
    if not _is_active(window, now) and (window.due_at is None or window.due_at > now):
        return
    after: int | None = 0
    while after is not None:
        _, after = wake_selected(session, window.selector, now=now, after=after)


def _title(window: Window) -> str:
    return f"The maintenance window {window.name}" + (f" ({window.reason})" if window.reason else "")


def _start_text(window: Window, timing: Timing, now: datetime) -> str:
    run = run_after(timing, now)
    end = f"; it ends at {format_time(run.end)}" if run is not None else ""
    return f"{_title(window)} has started{end}."
