"""Services: what is watched, and by which policy.  ``policy_version`` is a service's ETag."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from medic import alerts, audit, documents, snapshots, suppression
from medic.db import sqlstate
from medic.dependencies import depend, names_around
from medic.errors import Conflict, Forbidden, Invalid, NotFound, PreconditionFailed
from medic.models.alerting import Team
from medic.models.monitoring import Service, ServiceDependency, ServiceState
from medic.service_policy import COLUMNS, JUDGED, Policy, shown

CHECK_VIOLATION = "23514"


def create(
    session: Session, *, name: str, policy: Policy, actor: audit.Actor, now: datetime, paused: bool = False,
    as_uuid: uuid.UUID | None = None,
) -> Service:  # fmt: skip
    """Make a service; it is due at its first deadline.

    :param as_uuid: of one that was deleted and comes back, so that its ping URL stays.
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
                    name=name, uuid=as_uuid or uuid.uuid4(), paused_at=now if paused else None, policy_since=now,
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
    depend(session, service, policy.depends_on)
    snapshots.record(
        session, now=now, actor=actor, action="service.create", object_kind="service", object_id=name,
        before=None, detail=shown(policy) | {"paused": paused},
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
    before = document(session, service)
    values = _values(session, policy)
    same_schedule = all(getattr(service, column) == values[column] for column in JUDGED)
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
    gone = session.execute(
        delete(ServiceDependency)
        .where(ServiceDependency.service_id == service.id)
        .returning(ServiceDependency.parent_id)
    ).all()
    depend(session, service, policy.depends_on)
    session.execute(
        update(ServiceState)
        .where(ServiceState.service_id == service.id)
        .values(policy_version=service.policy_version, due_at=now, quiet=False)
    )
    if gone:
        # What stands below this one may have been kept quiet by one of those, whose end wakes it no more.
        suppression.wake_children(session, [service.id], now=now)
    snapshots.record(
        session, now=now, actor=actor, action="service.change", object_kind="service", object_id=name,
        before=before, detail=shown(policy) | {"paused": service.paused_at is not None},
    )  # fmt: skip
    return service


def remove(
    session: Session, *, name: str, actor: audit.Actor, now: datetime, if_match: int | None = None
) -> None:
    """Delete a service: its alert closes, its heartbeats go by retention, its executions stay as history."""
    service = _locked(session, name, if_match)
    before = document(session, service)
    # Ingest and the sweep hold this row when they come to the service's runs and alert: behind it, no alert
    # opens between the closing and the deletion, and none of them waits for the other.
    session.execute(
        select(ServiceState.service_id).where(ServiceState.service_id == service.id).with_for_update()
    )
    alerts.close_for(session, service_id=service.id, resolution="deleted", now=now, actor=actor)
    # Below it, something may be kept quiet by a parent of this one, whose end wakes it no more.
    suppression.wake_children(session, [service.id], now=now)
    session.execute(delete(Service).where(Service.id == service.id))
    snapshots.record(
        session, now=now, actor=actor, action="service.delete", object_kind="service", object_id=name,
        before=before,
    )  # fmt: skip


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


def document(session: Session, service: Service) -> documents.Document:
    """What people decided about a service, as a snapshot keeps it."""
    team, parents = names_around(session, service)
    return documents.of_service(service, team=team, parents=parents)


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
    values = {column: getattr(policy, column) for column in COLUMNS}
    values["tags"] = list(policy.tags)
    values["team_id"] = None
    if policy.team is not None:
        values["team_id"] = session.scalar(select(Team.id).where(Team.name == policy.team))
        if values["team_id"] is None:
            raise Invalid.at("team", f"there is no team {policy.team}")
    return values
