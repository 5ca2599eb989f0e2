"""/v1/routes: which alerts go to which targets, and when."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal

from apiflask import APIBlueprint
from flask import Response
from pydantic import Field, field_validator
from sqlalchemy import select
from sqlalchemy.orm import Session

from medic import notices, route_store, routing, services
from medic.db import database_now, in_transaction
from medic.dependencies import names_around
from medic.errors import Invalid
from medic.models.alerting import Target
from medic.route_store import Shown, Wish
from medic.routing import Failing
from medic_api.etag import IF_MATCH, if_match, with_etag
from medic_api.fields import Answer, Duration, Name, NewName, Page, Pattern, Request, Time
from medic_api.guard import actor, guard, need_service, need_wide
from medic_api.guard import services as shared
from medic_api.once import IDEMPOTENT, once
from medic_api.paging import cut

bp = APIBlueprint("routes", __name__, url_prefix="/v1", tag="Targets and routes")

Priority = Literal["p1", "p2", "p3", "p4", "p5"]
Reason = Literal["missed", "failed", "overrun", "too_few"]
Level = Annotated[list[Name], Field(min_length=1, max_length=20)]


class Match(Request):
    """What an alert has to be.  All that is given must be so; nothing given takes every alert."""

    service: Pattern | None = None
    tags: list[Name] | None = Field(
        None, min_length=1, max_length=20, description="The service has all of them."
    )
    priorities: list[Priority] | None = Field(None, min_length=1, max_length=5, description="One of them.")
    team: Name | None = None
    reasons: list[Reason] | None = Field(
        None, min_length=1, max_length=4, description="The alert has one of them."
    )


class RouteIn(Request):
    """A route.  `levels` hold names of targets: the first is told at once, each next one when nobody acknowledged
    within `escalate_after`.
    """

    levels: list[Level] = Field(min_length=1, max_length=10, examples=[[["team-chat"], ["on-call"]]])
    match: Match = Field(default_factory=Match)
    position: int = Field(100, ge=0, le=1_000_000, description="Its place in the order.")
    enabled: bool = True
    default: bool = Field(
        False, description="It takes what no other route does. At most one; without `match`."
    )
    period: Literal["always", "during_hours", "after_hours"] = Field("always", description="Of `calendar`.")
    calendar: Name | None = None
    mode: Literal["notify_all", "notify_until_success"] = Field(
        "notify_all", description="All targets of a level, or one after the other until one was reached."
    )
    escalate_after: Duration | None = Field(None, description="1m or more.")

    @field_validator("escalate_after")
    @classmethod
    def _not_soon(cls, value: timedelta | None) -> timedelta | None:
        if value is not None and value < timedelta(minutes=1):
            raise ValueError("must be 1m or more")
        return value

    def wish(self) -> Wish:
        return Wish(
            levels=tuple(tuple(level) for level in self.levels),
            match=self.match.model_dump(exclude_none=True),
            position=self.position,
            enabled=self.enabled,
            is_default=self.default,
            period=self.period,
            calendar=self.calendar,
            mode=self.mode,
            escalate_after_s=int(self.escalate_after.total_seconds()) if self.escalate_after else None,
        )


class NewRoute(RouteIn):
    """A route to make."""

    name: NewName


class MatchOut(Answer):
    service: str | None = None
    tags: list[str] | None = None
    priorities: list[str] | None = None
    team: str | None = None
    reasons: list[str] | None = None


class RouteOut(Answer):
    """A route."""

    name: str
    levels: list[list[str]]
    match: MatchOut
    position: int
    enabled: bool
    default: bool
    period: str
    calendar: str | None
    mode: str
    escalate_after: Duration | None
    from_settings: bool = Field(
        description="Made of the settings, as SLACK_API_TOKEN, and changed by them alone."
    )
    version: int
    created_at: Time


class RoutePage(Answer):
    items: list[RouteOut]
    next: str | None


class PreviewIn(Request):
    """An alert that might be.  What is not given is as the service has it."""

    service: Name
    reason: Reason = "missed"
    priority: Priority | None = None
    at: Time | None = Field(None, description="Now, if it is left out.")


class Step(Answer):
    """Whom a route tells when one of its levels is reached: with `notify_until_success` one after the other."""

    level: int
    targets: list[str]


class Way(Answer):
    route: str
    default: bool
    mode: str
    escalate_after: Duration | None
    told: list[Step]


class PreviewOut(Answer):
    """The routes that would tell of it, in their order.  Disabled targets are left out."""

    at: Time
    routes: list[Way]


@bp.get("/routes")
@guard(scope="services:read", rate="management")
@bp.doc(summary="List routes by name")
@bp.input(Page, location="query")
@bp.output(RoutePage)
def list_routes(query_data: Page) -> Any:
    def work(session: Session) -> dict[str, Any]:
        rows = route_store.page(session, after=query_data.after, limit=query_data.limit + 1)
        return cut(rows, query_data, lambda shown: shown.route.name, _view)

    return in_transaction(shared().engine, work)


@bp.post("/routes")
@guard(scope="targets:write", rate="management")
@bp.doc(summary="Make a route", extensions={"x-headers": IDEMPOTENT})
@bp.input(NewRoute, location="json")
@bp.output(RouteOut, status_code=201)
def create_route(json_data: NewRoute) -> Any:
    need_wide()

    def work(session: Session) -> dict[str, Any]:
        shown = route_store.create(
            session, name=json_data.name, wish=json_data.wish(), actor=actor(), now=database_now(session)
        )
        return RouteOut.model_validate(_view(shown)).model_dump(mode="json")

    reply = once(work, status=201)
    return with_etag(reply.body, reply.status, reply.headers)


@bp.post("/routes/preview")
@guard(scope="services:read", rate="management")
@bp.doc(
    summary="Show who would be told of an alert",
    description="By the routes alone: windows, mutes and parents are not looked at.",
)
@bp.input(PreviewIn, location="json")
@bp.output(PreviewOut)
def preview_routes(json_data: PreviewIn) -> Any:
    need_service(json_data.service)

    def work(session: Session) -> dict[str, Any]:
        service, _ = services.find(session, json_data.service)
        at = json_data.at or database_now(session)
        if not 2000 <= at.year < 2100:
            raise Invalid.at("at", "must be in this century")
        failing = Failing(
            service=service.name, priority=json_data.priority or service.priority,
            reasons=frozenset({json_data.reason}), tags=frozenset(service.tags),
            team=names_around(session, service)[0],
        )  # fmt: skip
        found = routing.ways_for(notices.ways(session), failing, at)
        ids = {target for way in found for level in way.levels for target in level}
        names = dict(session.execute(select(Target.id, Target.name).where(Target.id.in_(ids))).all())
        return {"at": at, "routes": [_way(way, names) for way in found]}

    return in_transaction(shared().engine, work)


@bp.get("/routes/<name:name>")
@guard(scope="services:read", rate="management")
@bp.doc(summary="Show a route")
@bp.output(RouteOut)
def show_route(name: str) -> Any:
    return with_etag(in_transaction(shared().engine, lambda session: _view(route_store.find(session, name))))


@bp.put("/routes/<name:name>")
@guard(scope="targets:write", rate="management")
@bp.doc(
    summary="Make or change a route",
    responses={201: "The route was made."},
    extensions={"x-headers": IF_MATCH},
)
@bp.input(RouteIn, location="json")
@bp.output(RouteOut)
def put_route(name: str, json_data: RouteIn) -> Any:
    need_wide()
    version = if_match()

    def work(session: Session) -> tuple[dict[str, Any], int]:
        shown, made = route_store.put(
            session,
            name=name,
            wish=json_data.wish(),
            actor=actor(),
            now=database_now(session),
            if_match=version,
        )
        return _view(shown), 201 if made else 200

    return with_etag(*in_transaction(shared().engine, work))


@bp.delete("/routes/<name:name>")
@guard(scope="targets:write", rate="management")
@bp.doc(
    summary="Delete a route",
    description="What it told stays told; its levels escalate no more.",
    extensions={"x-headers": IF_MATCH},
)
@bp.output({}, status_code=204)
def delete_route(name: str) -> Any:
    need_wide()
    version = if_match()
    in_transaction(
        shared().engine,
        lambda session: route_store.remove(
            session, name=name, actor=actor(), now=database_now(session), if_match=version
        ),
    )
    return Response(status=204)


def _view(shown: Shown) -> dict[str, Any]:
    route = shown.route
    return {
        "name": route.name,
        "levels": shown.levels,
        "match": route.match,
        "position": route.position,
        "enabled": route.enabled,
        "default": route.is_default,
        "period": route.period,
        "calendar": shown.calendar,
        "mode": route.mode,
        "escalate_after": route.escalate_after_s,
        "from_settings": route.name == route_store.FROM_SETTINGS,
        "version": route.version,
        "created_at": route.created_at,
    }


def _way(way: routing.Way, names: dict[int, str]) -> dict[str, Any]:
    return {
        "route": way.name,
        "default": way.is_default,
        "mode": way.mode,
        "escalate_after": way.escalate_after,
        "told": [
            {"level": number, "targets": [names[target] for target in level]}
            for number, level in enumerate(way.levels)
            if level
        ],
    }
