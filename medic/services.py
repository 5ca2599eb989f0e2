"""Services: what is watched, and by which policy.  ``policy_version`` is a service's ETag."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from medic import alerts, audit
from medic.db import advisory_lock, sqlstate
from medic.errors import Conflict, Forbidden, Invalid, NotFound, PreconditionFailed
from medic.models.alerting import Team
from medic.models.monitoring import Service, ServiceDependency, ServiceState
from medic.schedule import parse_schedule

DEFAULT_GRACE_S = 60
CHECK_VIOLATION = "23514"


@dataclass(frozen=True, slots=True)
class Policy:
    """What people decide about a service; durations in whole seconds."""

    every_s: int | None = None
    cron: str | None = None
    on_calendar: str | None = None
    at_least: int | None = None
    within_s: int | None = None
    timezone: str = "UTC"
    grace_s: int = DEFAULT_GRACE_S
    max_runtime_s: int | None = None
    failure_threshold: int = 1
    recovery_threshold: int = 1
    renotify_every_s: int | None = None
    priority: str = "p3"
    tags: tuple[str, ...] = ()
    runbook_url: str | None = None
    description: str = ""
    playbook_policy: str = "all"
    team: str | None = None
    depends_on: tuple[str, ...] = ()

    def check(self) -> None:
        """The schedule is whole and can fire.

        :raises Invalid: naming the field that is wrong.
        """
        parse_schedule(
            every=self.every_s, cron=self.cron, on_calendar=self.on_calendar, at_least=self.at_least,
            within=self.within_s, timezone=self.timezone, default_zone="UTC",
        )  # fmt: skip


_JUDGED = (
    "every_s", "cron", "on_calendar", "at_least", "within_s", "timezone", "grace_s", "max_runtime_s",
    "failure_threshold", "recovery_threshold",
)  # fmt: skip
"""What the verdict depends on.  An edit of anything else must not start the schedule afresh."""

_COLUMNS = frozenset(Policy.__dataclass_fields__) - {"team", "depends_on", "tags"}


def create(
    session: Session, *, name: str, policy: Policy, actor: audit.Actor, now: datetime, paused: bool = False
) -> Service:
    """Make a service; it is due at its first deadline.

    :raises Conflict: the name is taken.
    :raises Invalid: the policy is wrong, or names a team or parent that is not there.
    """
    policy.check()
    values = _values(session, policy)
    try:
        with session.begin_nested():
            service = session.scalars(
                insert(Service)
                .values(
                    name=name, uuid=uuid.uuid4(), paused_at=now if paused else None, policy_since=now,
                    created_at=now, updated_at=now, **values,
                )
                .returning(Service)
            ).one()  # fmt: skip
    except IntegrityError as error:
        if sqlstate(error) == CHECK_VIOLATION:
            raise Invalid(
                f"The service {name} cannot be kept: its name or a number is out of range."
            ) from error
        raise Conflict(f"A service {name} exists already.") from error
    session.execute(
        insert(ServiceState).values(
            service_id=service.id, status="paused" if paused else "new", due_at=None if paused else now
        )
    )
    _depend(session, service, policy.depends_on)
    audit.append(
        session, now=now, actor=actor, action="service.create", object_kind="service", object_id=name,
        detail=_shown(policy),
    )  # fmt: skip
    return service


def change(
    session: Session, *, name: str, policy: Policy, actor: audit.Actor, now: datetime,
    if_match: int | None = None, paused: bool | None = None,
) -> Service:  # fmt: skip
    """Give a service another policy; its verdict is judged anew by the next sweep.

    :param paused: None leaves it as it is.
    :raises NotFound: no such service.
    :raises PreconditionFailed: it is no longer at ``if_match``.
    """
    policy.check()
    service = _locked(session, name, if_match)
    values = _values(session, policy)
    same_schedule = all(getattr(service, column) == values[column] for column in _JUDGED)
    for column, value in values.items():
        setattr(service, column, value)
    if paused is not None and paused != (service.paused_at is not None):
        service.paused_at = now if paused else None
        same_schedule = False
    service.policy_version += 1
    service.updated_at = now
    if not same_schedule:
        service.policy_since = now
    session.flush()
    session.execute(delete(ServiceDependency).where(ServiceDependency.service_id == service.id))
    _depend(session, service, policy.depends_on)
    session.execute(
        update(ServiceState)
        .where(ServiceState.service_id == service.id)
        .values(policy_version=service.policy_version, due_at=now, quiet=False)
    )
    audit.append(
        session, now=now, actor=actor, action="service.change", object_kind="service", object_id=name,
        detail=_shown(policy) | {"paused": service.paused_at is not None},
    )  # fmt: skip
    return service


def remove(
    session: Session, *, name: str, actor: audit.Actor, now: datetime, if_match: int | None = None
) -> None:
    """Delete a service: its alert closes, its heartbeats go by retention, its executions stay as history."""
    service = _locked(session, name, if_match)
    # Ingest and the sweep hold this row when they come to the service's runs and alert: behind it, no alert
    # opens between the closing and the deletion, and none of them waits for the other.
    session.execute(
        select(ServiceState.service_id).where(ServiceState.service_id == service.id).with_for_update()
    )
    alerts.close_for(session, service_id=service.id, resolution="deleted", now=now, actor=actor)
    session.execute(delete(Service).where(Service.id == service.id))
    audit.append(
        session, now=now, actor=actor, action="service.delete", object_kind="service", object_id=name
    )


def find(session: Session, name: str) -> tuple[Service, ServiceState]:
    """A service with its state.

    :raises NotFound: no such service.
    """
    row = session.execute(
        select(Service, ServiceState)
        .join(ServiceState, ServiceState.service_id == Service.id)
        .where(Service.name == name)
    ).one_or_none()
    if row is None:
        raise NotFound(f"There is no service {name}.")
    return row


def page(
    session: Session, *, after: str | None, limit: int, status: str | None = None, tag: str | None = None,
    patterns: Sequence[str] | None = None,
) -> list[tuple[Service, ServiceState]]:  # fmt: skip
    """Services by name, behind ``after``.

    :param patterns: names a key is narrowed to, with ``*`` and ``?``.
    """
    query = (
        select(Service, ServiceState)
        .join(ServiceState, ServiceState.service_id == Service.id)
        .order_by(Service.name)
        .limit(limit)
    )
    if after is not None:
        query = query.where(Service.name > after)
    if status is not None:
        query = query.where(ServiceState.status == status)
    if tag is not None:
        query = query.where(Service.tags.contains([tag]))
    if patterns is not None:
        query = query.where(Service.name.regexp_match(names_regex(patterns)))
    return list(session.execute(query))


def count(session: Session, *, patterns: Sequence[str] | None = None) -> int:
    """How many services there are, or how many that match."""
    query = select(func.count()).select_from(Service)
    if patterns is not None:
        query = query.where(Service.name.regexp_match(names_regex(patterns)))
    return session.scalar(query) or 0


def names_regex(patterns: Sequence[str]) -> str:
    """A POSIX expression for names that match one of the globs; all else stands for itself."""
    inner = "|".join(
        "".join({"*": ".*", "?": "."}.get(char, char if char.isalnum() else "\\" + char) for char in pattern)
        for pattern in patterns
    )
    return f"^({inner})$" if patterns else "^$"


def policy_of(service: Service, *, team: str | None, depends_on: tuple[str, ...]) -> Policy:
    """The policy of a stored service, to be changed in part."""
    return Policy(
        **{column: getattr(service, column) for column in _COLUMNS},
        tags=tuple(service.tags),
        team=team,
        depends_on=depends_on,
    )


def names_around(session: Session, service: Service) -> tuple[str | None, tuple[str, ...]]:
    """The names of a service's team and parents."""
    return names_around_all(session, [service])[service.id]


def names_around_all(
    session: Session, services: Sequence[Service]
) -> dict[int, tuple[str | None, tuple[str, ...]]]:
    """The names of each service's team and parents, in two queries."""
    teams = dict(
        session.execute(
            select(Team.id, Team.name).where(
                Team.id.in_({s.team_id for s in services if s.team_id is not None})
            )
        ).all()
    )
    parents: dict[int, list[str]] = {service.id: [] for service in services}
    rows = session.execute(
        select(ServiceDependency.service_id, Service.name)
        .join(Service, ServiceDependency.parent_id == Service.id)
        .where(ServiceDependency.service_id.in_(parents))
        .order_by(Service.name)
    )
    for service_id, name in rows:
        parents[service_id].append(name)
    return {s.id: (teams.get(s.team_id or 0), tuple(parents[s.id])) for s in services}


def need_touch(allowed: bool, name: str) -> None:
    """A narrowed key may only see and touch its own services.

    :raises Forbidden: when this is none of them.
    """
    if not allowed:
        raise Forbidden(f"This key is not for the service {name}.")


def _locked(session: Session, name: str, if_match: int | None) -> Service:
    service = session.scalars(
        select(Service).where(Service.name == name).with_for_update(key_share=True)
    ).one_or_none()
    if service is None:
        raise NotFound(f"There is no service {name}.")
    if if_match is not None and service.policy_version != if_match:
        raise PreconditionFailed(f"The service was changed since: it is at version {service.policy_version}.")
    return service


def _values(session: Session, policy: Policy) -> dict[str, Any]:
    values = {column: getattr(policy, column) for column in _COLUMNS}
    values["tags"] = list(policy.tags)
    values["team_id"] = None
    if policy.team is not None:
        values["team_id"] = session.scalar(select(Team.id).where(Team.name == policy.team))
        if values["team_id"] is None:
            raise Invalid.at("team", f"there is no team {policy.team}")
    return values


def _depend(session: Session, service: Service, parents: tuple[str, ...]) -> None:
    if not parents:
        return
    found = dict(session.execute(select(Service.name, Service.id).where(Service.name.in_(parents))).all())
    missing = sorted(set(parents) - found.keys())
    if missing:
        raise Invalid.at("depends_on", f"there is no service {missing[0]}")
    advisory_lock(session, "service-dependencies")  # two changes at once must not close a circle together
    if _reaches(session, set(found.values()), service.id):
        raise Invalid.at("depends_on", "would close a circle")
    session.execute(
        insert(ServiceDependency),
        [{"service_id": service.id, "parent_id": parent} for parent in found.values()],
    )


def _reaches(session: Session, start: set[int], goal: int) -> bool:
    seen: set[int] = set()
    edge = start
    while edge:
        if goal in edge:
            return True
        seen |= edge
        edge = (
            set(
                session.scalars(
                    select(ServiceDependency.parent_id).where(ServiceDependency.service_id.in_(edge))
                )
            )
            - seen
        )
    return False


def _shown(policy: Policy) -> dict[str, Any]:
    return {
        key: value
        for key, value in asdict(replace(policy, description="")).items()
        if value not in (None, (), "")
    }
