"""/v1/windows: planned maintenance."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Literal

from apiflask import APIBlueprint
from flask import Response
from pydantic import Field
from sqlalchemy.orm import Session

from medic import windows
from medic.db import database_now, in_transaction
from medic.errors import Forbidden
from medic.models.alerting import Window
from medic.suppression import timing_of
from medic.suppression_rules import is_within, run_after
from medic.windows import Plan
from medic_api.etag import IF_MATCH, if_match, with_etag
from medic_api.fields import Answer, Duration, Name, Page, Pattern, Request, Text, Time
from medic_api.guard import actor, caller, guard
from medic_api.guard import services as shared
from medic_api.paging import cut

bp = APIBlueprint("windows", __name__, url_prefix="/v1", tag="Windows and mutes")


class Selector(Request):
    """Which services: those that any of these names. `all` stands alone."""

    all: Literal[True] | None = None
    services: list[Pattern] = Field(default_factory=list, max_length=100)
    tags: list[Name] = Field(default_factory=list, max_length=50)
    team: Name | None = None


class WindowIn(Request):
    """A window: once, from `starts_at` to `ends_at` (or for `duration`), or each time that `cron` fires, for `duration`."""

    selector: Selector
    reason: Text = Field("", max_length=1000)
    starts_at: Time | None = Field(None, description="Now, if it is left out; with `cron`: not before.")
    ends_at: Time | None = Field(None, description="With `cron`: not after.")
    cron: Text | None = Field(None, max_length=200, examples=["0 22 * * 6"])
    duration: Duration | None = None
    timezone: Text | None = Field(None, max_length=64, examples=["Europe/Berlin"], description="Of `cron`.")
    notices: bool = Field(False, description="Tell the targets of the default route when it starts and ends.")

    def plan(self) -> Plan:
        return Plan(
            selector=self.selector.model_dump(exclude_defaults=True),
            reason=self.reason,
            starts_at=self.starts_at,
            ends_at=self.ends_at,
            cron=self.cron,
            duration=self.duration,
            timezone=self.timezone or shared().settings.timezone,
            notices=self.notices,
        )


class SelectorOut(Answer):
    all: bool | None = None
    services: list[str] = Field(default_factory=list)
    tags: list[str] = Field(default_factory=list)
    team: str | None = None


class WindowOut(Answer):
    """A window, and whether it holds now."""

    name: str
    reason: str
    selector: SelectorOut
    starts_at: Time | None
    ends_at: Time | None
    cron: str | None
    duration: Duration | None
    timezone: str
    notices: bool
    active: bool
    next_start_at: Time | None = Field(description="When it holds next; while it holds, when that began.")
    next_end_at: Time | None
    created_by: str
    created_at: Time
    version: int


class WindowPage(Answer):
    items: list[WindowOut]
    next: str | None


@bp.get("/windows")
@guard(scope="services:read", rate="management")
@bp.doc(
    summary="List maintenance windows by name",
    description="A narrowed key sees those that reach its services alone.",
)
@bp.input(Page, location="query")
@bp.output(WindowPage)
def list_windows(query_data: Page) -> Any:
    def work(session: Session) -> dict[str, Any]:
        now = database_now(session)
        rows = windows.page(
            session, after=query_data.after, limit=query_data.limit + 1, patterns=caller().service_patterns
        )
        return cut(rows, query_data, lambda window: window.name, lambda window: _view(window, now))

    return in_transaction(shared().engine, work)


@bp.get("/windows/<name:name>")
@guard(scope="services:read", rate="management")
@bp.doc(summary="Show a maintenance window")
@bp.output(WindowOut)
def show_window(name: str) -> Any:
    def work(session: Session) -> dict[str, Any]:
        window = windows.find(session, name)
        need_within(window.selector)
        return _view(window, database_now(session))

    return with_etag(in_transaction(shared().engine, work))


@bp.put("/windows/<name:name>")
@guard(scope="alerts:write", rate="management")
@bp.doc(
    summary="Make or change a maintenance window",
    responses={201: "The window was made."},
    extensions={"x-headers": IF_MATCH},
)
@bp.input(WindowIn, location="json")
@bp.output(WindowOut)
def put_window(name: str, json_data: WindowIn) -> Any:
    version = if_match()
    plan = json_data.plan()
    need_within(plan.selector)

    def work(session: Session) -> tuple[dict[str, Any], int]:
        _need_old_within(session, name)
        now = database_now(session)
        window, made = windows.put(session, name=name, plan=plan, actor=actor(), now=now, if_match=version)
        return _view(window, now), 201 if made else 200

    return with_etag(*in_transaction(shared().engine, work))


@bp.delete("/windows/<name:name>")
@guard(scope="alerts:write", rate="management")
@bp.doc(
    summary="Delete a maintenance window",
    description="What it kept quiet and still fails is told.",
    extensions={"x-headers": IF_MATCH},
)
@bp.output({}, status_code=204)
def delete_window(name: str) -> Any:
    version = if_match()

    def work(session: Session) -> None:
        _need_old_within(session, name)
        windows.remove(session, name=name, actor=actor(), now=database_now(session), if_match=version)

    in_transaction(shared().engine, work)
    return Response(status=204)


def need_within(selector: dict[str, Any]) -> None:
    """A narrowed key has windows for its own services, by their names, and for nothing else.

    :raises Forbidden: when this one reaches others.
    """
    patterns = caller().service_patterns
    if patterns is not None and not is_within(selector, patterns):
        raise Forbidden("This key is narrowed to some services; the window reaches others.")


def _need_old_within(session: Session, name: str) -> None:
    if caller().service_patterns is not None:
        for window in windows.named(session, name):
            need_within(window.selector)


def _view(window: Window, now: datetime) -> dict[str, Any]:
    run = run_after(timing_of(window), now)
    return {
        "name": window.name,
        "reason": window.reason,
        "selector": window.selector,
        "starts_at": window.starts_at,
        "ends_at": window.ends_at,
        "cron": window.cron,
        "duration": timedelta(seconds=window.duration_s) if window.duration_s else None,
        "timezone": window.timezone,
        "notices": window.notices,
        "active": run is not None and run.start <= now,
        "next_start_at": run.start if run is not None else None,
        "next_end_at": run.end if run is not None else None,
        "created_by": window.created_by,
        "created_at": window.created_at,
        "version": window.version,
    }
