"""Deliveries as people see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, Select, select
from sqlalchemy.orm import Session

from medic.errors import NotFound
from medic.models.alerting import Alert, Delivery, Route, Target
from medic.services import names_regex
from medic.telemetry.redaction import redact

RECEIPT = ("status", "channel", "ts", "alerts", "dedup_key", "message_id", "refused")
"""What a receipt may show: what names the message at the target, and what the target said to it."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A delivery with the names of what it belongs to."""

    delivery: Delivery
    target: str | None
    route: str | None
    service: str | None


def page(
    session: Session, *, after: int | None, limit: int, alert_id: int | None = None, target: str | None = None,
    state: str | None = None, patterns: Sequence[str] | None = None,
) -> list[Shown]:  # fmt: skip
    """Deliveries, newest first.

    :param patterns: only those about alerts of the services of these names.
    """
    query = _query().order_by(Delivery.id.desc()).limit(limit)
    if after is not None:
        query = query.where(Delivery.id < after)
    if alert_id is not None:
        query = query.where(Delivery.alert_id == alert_id)
    if target is not None:
        query = query.where(Target.name == target)
    if state is not None:
        query = query.where(Delivery.state == state)
    if patterns is not None:
        query = query.where(Alert.service_name.regexp_match(names_regex(patterns)))
    return [_shown(row) for row in session.execute(query)]


def show(session: Session, delivery_id: int) -> Shown:
    """One delivery, which is there."""
    return _shown(session.execute(_query().where(Delivery.id == delivery_id)).one())


def find(session: Session, delivery_id: int, *, patterns: Sequence[str] | None = None) -> Shown:
    """One delivery.

    :param patterns: as for `page`.
    :raises NotFound: no such delivery, or none for this caller.
    """
    query = _query().where(Delivery.id == delivery_id)
    if patterns is not None:
        query = query.where(Alert.service_name.regexp_match(names_regex(patterns)))
    row = session.execute(query).one_or_none()
    if row is None:
        raise NotFound(f"There is no delivery {delivery_id}.")
    return _shown(row)


def receipt(delivery: Delivery) -> dict[str, Any] | None:
    """What the target answered, without what looks like a credential."""
    if delivery.receipt is None:
        return None
    return {name: _shown_value(delivery.receipt[name]) for name in RECEIPT if name in delivery.receipt}


def _shown_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {redact(str(name)): _shown_value(one) for name, one in value.items()}
    return value if isinstance(value, int | float) or value is None else redact(str(value))


def _query() -> Select[Delivery, str, str, str]:
    return (
        select(Delivery, Target.name, Route.name, Alert.service_name)
        .outerjoin(Target, Target.id == Delivery.target_id)
        .outerjoin(Route, Route.id == Delivery.route_id)
        .outerjoin(Alert, Alert.id == Delivery.alert_id)
    )


def _shown(row: Row[Delivery, str, str, str]) -> Shown:
    delivery, target, route, service = row
    return Shown(delivery, target, route, service)
