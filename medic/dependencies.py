"""What stands around a service: its team, and the parents that it depends on."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from medic.db import advisory_lock
from medic.errors import Invalid
from medic.models.alerting import Team
from medic.models.monitoring import Service, ServiceDependency


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


def depend(session: Session, service: Service, parents: tuple[str, ...]) -> None:
    """Make a service depend on these.

    :raises Invalid: one of them is not there, or depends on it in turn.
    """
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
