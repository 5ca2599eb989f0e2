"""The original's ``/service`` routes.

Its ``service_name`` is kept as the description, ``alert_interval`` (minutes) and ``threshold`` become ``every``, or
``at_least … within`` for a threshold above 1.  Teams that are not there are made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from flask import Response
from pydantic import Field
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from medic import legacy, mutes, services, teams
from medic.db import advisory_lock, database_now, in_transaction
from medic.dependencies import names_around
from medic.errors import Invalid, NotFound
from medic.models.alerting import Mute, Team
from medic.models.monitoring import Service, ServiceState
from medic.service_policy import Policy, policy_of
from medic.services import names_regex
from medic.times import format_time
from medic_api.fields import Request, Text
from medic_api.guard import actor, caller, guard
from medic_api.guard import services as shared
from medic_api.legacy import Envelope, blueprint, envelope

bp = blueprint("legacy_services")

MAX_MINUTES = 5_256_000
"""Ten years."""
_MUTED = "Muted by the original's API."
_NO_DOWN = "is judged by Medic and cannot be set"
_LegacyName = Field(min_length=1, max_length=255)
_Minutes = Field(ge=1, le=MAX_MINUTES, description="Minutes.")
_Threshold = Field(ge=1, le=1_000_000, description="Heartbeats that the interval must hold.")


class LegacyService(Request):
    """A service as the original registered it."""

    heartbeat_name: Text = _LegacyName
    service_name: Text = _LegacyName
    alert_interval: int = _Minutes
    environment: Text | None = Field(None, max_length=100, description="Put before the name, with a `-`.")
    threshold: int = Field(1, ge=1, le=1_000_000, description="Heartbeats that the interval must hold.")
    team: Text = Field("site-reliability", min_length=1, max_length=255)
    priority: Text = "p3"
    runbook: Text | None = Field(None, max_length=2048)


class LegacyChange(Request):
    """What the original let change; all else of the policy stays."""

    service_name: Text | None = Field(None, min_length=1, max_length=255)
    muted: int | None = Field(
        None,
        ge=0,
        le=1,
        description="1 mutes for `ALERT_AUTO_UNMUTE_HOURS`, 0 ends every mute; needs `alerts:write`.",
    )
    active: int | None = Field(None, ge=0, le=1)
    alert_interval: float | None = Field(None, gt=0, le=MAX_MINUTES, description="Minutes.")
    threshold: int | None = Field(None, ge=1, le=1_000_000)
    team: Text | None = Field(None, min_length=1, max_length=255)
    priority: Text | None = None
    runbook: Text | None = Field(None, max_length=2048)
    down: int | None = Field(None, description="Refused: Medic judges it.")


class LegacyServiceQuery(Request):
    """Which services to show."""

    service_name: Text | None = Field(None, max_length=255)
    active: int | None = Field(None, ge=0, le=1)


@bp.post("/service")
@guard(scope="services:write", rate="management")
@bp.doc(
    summary="Register a service, as with the original",
    description="The name is folded to lower case; one that does not fit Medic's names gets `-` for what does not "
    "and ends in ten digits of its hash.",
    responses={200: "It is registered already."},
)
@bp.input(LegacyService, location="json")
@bp.output(Envelope, status_code=201)
def post_service(json_data: LegacyService) -> Response:
    called = (
        f"{json_data.environment}-{json_data.heartbeat_name}"
        if json_data.environment
        else json_data.heartbeat_name
    )
    name = legacy.fold(called)
    services.need_touch(caller().may_touch(name), name)

    def work(session: Session) -> bool:
        advisory_lock(session, f"legacy-service:{name}")
        if session.scalar(select(Service.id).where(Service.name == name)) is not None:
            return False
        now = database_now(session)
        policy = Policy(
            timezone=shared().settings.timezone,
            priority=_priority(json_data.priority),
            runbook_url=_runbook(json_data.runbook),
            description=json_data.service_name,
            team=_team(session, json_data.team),
        )
        policy = _scheduled(policy, json_data.alert_interval * 60, json_data.threshold)
        made = services.create(session, name=name, policy=policy, actor=actor(), now=now)
        made.legacy_name = called
        return True

    if in_transaction(shared().engine, work):
        return envelope(message=f"{called} is registered.", status=201)
    return envelope(message=f"{called} is registered already.")


@bp.get("/service")
@guard(scope="services:read", rate="management")
@bp.doc(summary="List services, as the original")
@bp.input(LegacyServiceQuery, location="query")
@bp.output(Envelope)
def get_services(query_data: LegacyServiceQuery) -> Response:
    return envelope(in_transaction(shared().engine, lambda session: _list(session, query_data, None)))


@bp.get("/service/<legacy_name:heartbeat_name>")
@guard(scope="services:read", rate="management")
@bp.doc(summary="Show a service, as the original", description="An empty list if there is none.")
@bp.output(Envelope)
def get_service(heartbeat_name: str) -> Response:
    query = LegacyServiceQuery()
    return envelope(in_transaction(shared().engine, lambda session: _list(session, query, heartbeat_name)))


@bp.post("/service/<legacy_name:heartbeat_name>")
@guard(scope="services:write", rate="management")
@bp.doc(summary="Change a service, as with the original")
@bp.input(LegacyChange, location="json")
@bp.output(Envelope)
def post_service_change(heartbeat_name: str, json_data: LegacyChange) -> Response:
    name = legacy.fold(heartbeat_name)
    services.need_touch(caller().may_touch(name), heartbeat_name)
    if json_data.down is not None:
        raise Invalid.at("down", _NO_DOWN)
    if json_data.muted is not None:
        caller().need("alerts:write")

    def work(session: Session) -> None:
        try:
            service, _ = services.find(session, name)
        except NotFound:
            raise NotFound(f"There is no service {heartbeat_name}.") from None
        now = database_now(session)
        team, parents = names_around(session, service)
        policy = policy_of(service, team=team, depends_on=parents)
        services.change(
            session, name=name, policy=_changed(session, policy, json_data), actor=actor(), now=now,
            if_match=service.policy_version, paused=None if json_data.active is None else json_data.active == 0,
        )  # fmt: skip
        if json_data.muted is not None:
            _mute(session, service, json_data.muted == 1, now)

    in_transaction(shared().engine, work)
    return envelope(message=f"{heartbeat_name} is changed.")


def _mute(session: Session, service: Service, wish: bool, now: datetime) -> None:
    standing = mutes.active(session, [service.id], now=now).get(service.id, [])
    if wish and not standing:
        ends_at = now + timedelta(hours=shared().settings.auto_unmute_hours)
        mutes.create(session, service=service.name, reason=_MUTED, ends_at=ends_at, actor=actor(), now=now)
    for mute in () if wish else standing:
        mutes.end(session, mute_id=mute.id, actor=actor(), now=now)


def _changed(session: Session, policy: Policy, wish: LegacyChange) -> Policy:
    if wish.alert_interval is not None or wish.threshold is not None:
        interval = policy.every_s or policy.within_s
        if wish.alert_interval is not None:
            interval = max(1, round(wish.alert_interval * 60))
        if interval is None:
            raise Invalid.at("threshold", "needs alert_interval: the service has a calendar as its schedule")
        policy = _scheduled(policy, interval, wish.threshold or policy.at_least or 1)
    if wish.service_name is not None:
        policy = replace(policy, description=wish.service_name)
    if wish.team is not None:
        policy = replace(policy, team=_team(session, wish.team))
    if wish.priority is not None:
        policy = replace(policy, priority=_priority(wish.priority))
    if wish.runbook is not None:
        policy = replace(policy, runbook_url=_runbook(wish.runbook))
    return policy


def _scheduled(policy: Policy, interval_s: int, threshold: int) -> Policy:
    bare = replace(policy, every_s=None, cron=None, on_calendar=None, at_least=None, within_s=None)
    if threshold > 1:
        return replace(bare, at_least=threshold, within_s=interval_s)
    return replace(bare, every_s=interval_s)


def _priority(given: str) -> str:
    found = given.strip().lower()
    if found not in {"p1", "p2", "p3", "p4", "p5"}:
        raise Invalid.at("priority", "must be p1, p2, p3, p4 or p5")
    return found


def _runbook(given: str | None) -> str | None:
    if not given:
        return None
    if not given.startswith(("http://", "https://")):
        raise Invalid.at("runbook", "must be an address, http:// or https://")
    return given


def _team(session: Session, given: str) -> str:
    """The team's name here; it is made if there is none."""
    name = legacy.fold(given)
    teams.ensure(session, name, actor=actor(), now=database_now(session))
    return name


def _list(session: Session, wish: LegacyServiceQuery, called: str | None) -> list[dict[str, Any]]:
    query = (
        select(Service, ServiceState, Team.name)
        .join(ServiceState, ServiceState.service_id == Service.id)
        .outerjoin(Team, Team.id == Service.team_id)
        .order_by(Service.id)
    )
    if called is not None:
        query = query.where(Service.name == legacy.fold(called))
    if wish.service_name is not None:
        shown = func.coalesce(func.nullif(Service.description, ""), Service.name)
        query = query.where(func.lower(shown) == wish.service_name.lower())
    if wish.active is not None:
        query = query.where(Service.paused_at.is_(None) if wish.active else Service.paused_at.is_not(None))
    patterns = caller().service_patterns
    if patterns is not None:
        query = query.where(Service.name.regexp_match(names_regex(patterns)))
    rows = session.execute(query).all()
    muted = mutes.active(session, [service.id for service, _, _ in rows], now=database_now(session))
    return [_view(service, state, team, muted.get(service.id, ())) for service, state, team in rows]


def _view(service: Service, state: ServiceState, team: str | None, muted: Sequence[Mute]) -> dict[str, Any]:
    interval = service.every_s or service.within_s
    return {
        "service_id": service.id,
        "heartbeat_name": service.legacy_name or service.name,
        "service_name": service.description or service.name,
        "active": int(service.paused_at is None),
        "alert_interval": None if interval is None else -(-interval // 60),
        "threshold": service.at_least or 1,
        "team": team,
        "priority": service.priority,
        "muted": int(bool(muted)),
        "down": int(state.status == "down"),
        "runbook": service.runbook_url,
        "date_added": format_time(service.created_at),
        "date_modified": format_time(service.updated_at),
        "date_muted": format_time(muted[0].created_at) if muted else None,
    }
