"""/v1/alerts: what is failing, what happened to it, and who looks after it."""

from __future__ import annotations

from typing import Any, Literal

from apiflask import APIBlueprint
from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from medic import alerts
from medic.db import database_now, in_transaction
from medic.models.alerting import Alert
from medic.services import names_regex
from medic_api.fields import Answer, JsonValue, Name, Page, Request, Text, Time
from medic_api.guard import actor, caller, guard, need_service
from medic_api.guard import services as shared
from medic_api.paging import cut, page_by_id

bp = APIBlueprint("alerts", __name__, url_prefix="/v1", tag="Alerts")

Reason = Literal["missed", "failed", "overrun", "too_few"]


class AlertOut(Answer):
    """A service is, or was, failing."""

    id: int
    service: str
    priority: str
    reasons: list[Reason]
    active: bool
    opened_at: Time = Field(description="When it became true: deadline and grace were over.")
    detected_at: Time = Field(description="When Medic saw it.")
    acknowledged_at: Time | None
    acknowledged_by: str | None
    resolved_at: Time | None
    resolution: str | None
    resolved_by: str | None
    note: str | None


class TransitionOut(Answer):
    """One thing that happened to an alert, with what decided it."""

    kind: str
    reason: str | None
    at: Time
    recorded_at: Time
    actor: str | None
    evidence: JsonValue


class AlertDetail(AlertOut):
    transitions: list[TransitionOut]


class AlertPage(Answer):
    items: list[AlertOut]
    next: str | None


class AlertQuery(Page):
    active: bool | None = Field(None, description="true: only open ones; false: only resolved ones.")
    service: Name | None = None


class ResolveIn(Request):
    note: Text | None = Field(None, max_length=10_000)


class Nothing(Request):
    """No fields; the body may be empty."""


@bp.get("/alerts")
@guard(scope="services:read", rate="management")
@bp.doc(summary="List alerts, newest first")
@bp.input(AlertQuery, location="query")
@bp.output(AlertPage)
def list_alerts(query_data: AlertQuery) -> Any:
    def work(session: Session) -> dict[str, Any]:
        query = select(Alert)
        if query_data.active is not None:
            query = query.where(
                Alert.resolved_at.is_(None) if query_data.active else Alert.resolved_at.is_not(None)
            )
        if query_data.service is not None:
            query = query.where(Alert.service_name == query_data.service)
        patterns = caller().service_patterns
        if patterns is not None:
            query = query.where(Alert.service_name.regexp_match(names_regex(patterns)))
        rows = page_by_id(session, query, Alert.id, query_data)
        return cut(rows, query_data, lambda alert: str(alert.id), alert_view)

    return in_transaction(shared().engine, work)


@bp.get("/alerts/<id:alert_id>")
@guard(scope="services:read", rate="management")
@bp.doc(summary="Show an alert with everything that happened to it")
@bp.output(AlertDetail)
def show_alert(alert_id: int) -> Any:
    return in_transaction(shared().engine, lambda session: _detail(session, _mine(session, alert_id)))


@bp.post("/alerts/<id:alert_id>/acknowledge")
@guard(scope="alerts:write", rate="management")
@bp.doc(summary="Say that somebody looks after an alert", description="A second time changes nothing.")
@bp.input(Nothing, location="json")
@bp.output(AlertDetail)
def acknowledge_alert(alert_id: int, json_data: Nothing) -> Any:  # noqa: ARG001 - only that it is empty
    def work(session: Session) -> dict[str, Any]:
        _mine(session, alert_id)
        alert = alerts.acknowledge(session, alert_id=alert_id, actor=actor(), now=database_now(session))
        return _detail(session, alert)

    return in_transaction(shared().engine, work)


@bp.post("/alerts/<id:alert_id>/resolve")
@guard(scope="alerts:write", rate="management")
@bp.doc(
    summary="Close an alert by hand",
    description="It stays closed until the service succeeds, or misses as often as it takes to open one.",
)
@bp.input(ResolveIn, location="json")
@bp.output(AlertDetail)
def resolve_alert(alert_id: int, json_data: ResolveIn) -> Any:
    def work(session: Session) -> dict[str, Any]:
        _mine(session, alert_id)
        alert = alerts.resolve_by_hand(
            session, alert_id=alert_id, actor=actor(), now=database_now(session), note=json_data.note
        )
        return _detail(session, alert)

    return in_transaction(shared().engine, work)


def _mine(session: Session, alert_id: int) -> Alert:
    alert = alerts.find(session, alert_id)
    need_service(alert.service_name)
    return alert


def alert_view(alert: Alert) -> dict[str, Any]:
    shown = {column.key: getattr(alert, column.key) for column in Alert.__table__.columns}
    return shown | {"service": alert.service_name, "active": alert.resolved_at is None}


def _detail(session: Session, alert: Alert) -> dict[str, Any]:
    session.flush()
    happened = [TransitionOut.model_validate(row) for row in alerts.transitions(session, alert.id)]
    return alert_view(alert) | {"transitions": happened}
