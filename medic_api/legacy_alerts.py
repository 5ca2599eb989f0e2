"""The original's ``GET /alerts``."""

from __future__ import annotations

from typing import Any

from flask import Response
from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from medic.db import in_transaction
from medic.models.alerting import Alert
from medic.models.monitoring import ServiceState
from medic.services import names_regex
from medic.times import format_time
from medic_api.fields import Request
from medic_api.guard import caller, guard
from medic_api.guard import services as shared
from medic_api.legacy import Envelope, blueprint, envelope

bp = blueprint("legacy_alerts")

LIMIT = 100


class LegacyAlertQuery(Request):
    """Which alerts to show."""

    active: int | None = Field(None, ge=0, le=1)


@bp.get("/alerts")
@guard(scope="services:read", rate="management")
@bp.doc(
    summary="List alerts, newest first, as the original",
    description=f"The {LIMIT} newest. `alert_cycle` is the misses and failures in a row while an alert is open.",
)
@bp.input(LegacyAlertQuery, location="query")
@bp.output(Envelope)
def get_alerts(query_data: LegacyAlertQuery) -> Response:
    query = (
        select(Alert, ServiceState.failures)
        .outerjoin(ServiceState, ServiceState.service_id == Alert.service_id)
        .order_by(Alert.id.desc())
        .limit(LIMIT)
    )
    if query_data.active is not None:
        query = query.where(
            Alert.resolved_at.is_(None) if query_data.active else Alert.resolved_at.is_not(None)
        )
    patterns = caller().service_patterns
    if patterns is not None:
        query = query.where(Alert.service_name.regexp_match(names_regex(patterns)))

    def work(session: Session) -> list[dict[str, Any]]:
        return [_view(alert, failures) for alert, failures in session.execute(query)]

    return envelope(in_transaction(shared().engine, work))


def _view(alert: Alert, failures: int | None) -> dict[str, Any]:
    is_open = alert.resolved_at is None
    return {
        "alert_id": alert.id,
        "alert_name": f"Medic - {', '.join(alert.reasons) or 'failure'}: {alert.service_name}",
        "service_id": alert.service_id,
        "active": int(is_open),
        "external_reference_id": None,
        "alert_cycle": failures if is_open else None,
        "created_date": format_time(alert.opened_at),
        "closed_date": format_time(alert.resolved_at) if alert.resolved_at is not None else None,
    }
