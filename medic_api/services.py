"""/v1/services: what is watched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from apiflask import APIBlueprint
from flask import Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from medic import runs, services
from medic.db import database_now, in_transaction
from medic.dependencies import names_around, names_around_all
from medic.models.monitoring import Heartbeat, Run
from medic_api.etag import IF_MATCH, if_match, with_etag
from medic_api.fields import Page
from medic_api.guard import actor, caller, guard, need_service
from medic_api.guard import services as shared
from medic_api.once import IDEMPOTENT, once
from medic_api.paging import cut, page_by_time, time_cursor
from medic_api.service_views import (
    HeartbeatPage,
    HeartbeatView,
    PolicyIn,
    RunPage,
    RunView,
    ServiceIn,
    ServiceOut,
    ServicePage,
    ServiceQuery,
    shown,
    view,
)

bp = APIBlueprint("services", __name__, url_prefix="/v1", tag="Services")


@bp.post("/services")
@guard(scope="services:write", rate="management")
@bp.doc(summary="Make a service", extensions={"x-headers": IDEMPOTENT})
@bp.input(ServiceIn, location="json")
@bp.output(ServiceOut, status_code=201)
def create_service(json_data: ServiceIn) -> Any:
    services.need_touch(caller().may_touch(json_data.name), json_data.name)
    _need_parents(json_data.depends_on)

    def work(session: Session) -> dict[str, Any]:
        services.create(
            session, name=json_data.name, policy=json_data.policy(), actor=actor(), now=database_now(session),
            paused=json_data.paused,
        )  # fmt: skip
        made = ServiceOut.model_validate(shown(session, json_data.name))
        return made.model_dump(mode="json")

    reply = once(work, status=201)
    return with_etag(reply.body, reply.status, reply.headers)


def _need_parents(parents: Sequence[str]) -> None:
    """What a key may not see it may not depend on: the child would tell when that fails."""
    for parent in parents:
        need_service(parent)


@bp.get("/services")
@guard(scope="services:read", rate="management")
@bp.doc(summary="List services by name")
@bp.input(ServiceQuery, location="query")
@bp.output(ServicePage)
def list_services(query_data: ServiceQuery) -> Any:
    def work(session: Session) -> dict[str, Any]:
        rows = services.page(
            session, after=query_data.after, limit=query_data.limit + 1, status=query_data.status,
            tag=query_data.tag, patterns=caller().service_patterns,
        )  # fmt: skip
        around = names_around_all(session, [service for service, _ in rows])
        open_runs = runs.open_counts(session, list(around))
        items = [
            view(service, state, *around[service.id], open_runs.get(service.id, 0))
            for service, state in rows[: query_data.limit]
        ]
        return {"items": items, "next": items[-1]["name"] if len(rows) > query_data.limit else None}

    return in_transaction(shared().engine, work)


@bp.get("/services/<name:name>")
@guard(scope="services:read", rate="management")
@bp.doc(summary="Show a service")
@bp.output(ServiceOut)
def show_service(name: str) -> Any:
    services.need_touch(caller().may_touch(name), name)
    return with_etag(in_transaction(shared().engine, lambda session: shown(session, name)))


@bp.put("/services/<name:name>")
@guard(scope="services:write", rate="management")
@bp.doc(
    summary="Give a service another policy",
    extensions={"x-headers": IF_MATCH},
)
@bp.input(PolicyIn, location="json")
@bp.output(ServiceOut)
def change_service(name: str, json_data: PolicyIn) -> Any:
    services.need_touch(caller().may_touch(name), name)
    version = if_match()

    def work(session: Session) -> dict[str, Any]:
        known = names_around(session, services.find(session, name)[0])[1]
        _need_parents([parent for parent in json_data.depends_on if parent not in known])
        services.change(
            session, name=name, policy=json_data.policy(), actor=actor(), now=database_now(session),
            if_match=version, paused=json_data.paused,
        )  # fmt: skip
        return shown(session, name)

    return with_etag(in_transaction(shared().engine, work))


@bp.delete("/services/<name:name>")
@guard(scope="services:write", rate="management")
@bp.doc(
    summary="Delete a service",
    description="Its open alert closes; its executions stay.",
    extensions={"x-headers": IF_MATCH},
)
@bp.output({}, status_code=204)
def delete_service(name: str) -> Any:
    services.need_touch(caller().may_touch(name), name)
    version = if_match()
    in_transaction(
        shared().engine,
        lambda session: services.remove(
            session, name=name, actor=actor(), now=database_now(session), if_match=version
        ),
    )
    return Response(status=204)


@bp.get("/services/<name:name>/heartbeats")
@guard(scope="services:read", rate="management")
@bp.doc(summary="List a service's heartbeats, newest first")
@bp.input(Page, location="query")
@bp.output(HeartbeatPage)
def list_heartbeats(name: str, query_data: Page) -> Any:
    services.need_touch(caller().may_touch(name), name)

    def work(session: Session) -> dict[str, Any]:
        service, _ = services.find(session, name)
        query = select(Heartbeat).where(Heartbeat.service_id == service.id)
        rows = page_by_time(session, query, Heartbeat.received_at, Heartbeat.id, query_data)
        return cut(
            rows, query_data, lambda row: time_cursor(row.received_at, row.id), HeartbeatView.model_validate
        )

    return in_transaction(shared().engine, work)


@bp.get("/services/<name:name>/runs")
@guard(scope="services:read", rate="management")
@bp.doc(summary="List a service's runs, newest first")
@bp.input(Page, location="query")
@bp.output(RunPage)
def list_runs(name: str, query_data: Page) -> Any:
    services.need_touch(caller().may_touch(name), name)

    def work(session: Session) -> dict[str, Any]:
        service, _ = services.find(session, name)
        query = select(Run).where(Run.service_id == service.id)
        rows = page_by_time(session, query, Run.started_at, Run.id, query_data)
        return cut(rows, query_data, lambda row: time_cursor(row.started_at, row.id), RunView.model_validate)

    return in_transaction(shared().engine, work)
