"""/v1/mutes: quiet about one service, for a reason, until an end."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from apiflask import APIBlueprint
from pydantic import Field, model_validator
from sqlalchemy import select
from sqlalchemy.orm import Session

from medic import mutes
from medic.db import database_now, in_transaction
from medic.models.alerting import Mute
from medic.models.monitoring import Service
from medic.services import names_regex
from medic_api.fields import Answer, Duration, Name, Page, Request, Text, Time
from medic_api.guard import actor, caller, guard, need_service
from medic_api.guard import services as shared
from medic_api.once import IDEMPOTENT, once
from medic_api.paging import id_cursor

bp = APIBlueprint("mutes", __name__, url_prefix="/v1", tag="Windows and mutes")


class MuteIn(Request):
    """A mute: until `ends_at`, or `for` a time; `ALERT_AUTO_UNMUTE_HOURS` without either."""

    service: Name
    reason: Text = Field(min_length=1, max_length=1000)
    ends_at: Time | None = None
    length: Duration | None = Field(None, alias="for", examples=["2h"])

    @model_validator(mode="after")
    def _one_end(self) -> MuteIn:
        if self.ends_at is not None and self.length is not None:
            raise ValueError("give one of ends_at and for")
        return self


class MuteOut(Answer):
    """A mute, and whether it holds now."""

    id: int
    service: str
    reason: str
    active: bool
    created_by: str
    created_at: Time
    ends_at: Time
    ended_at: Time | None
    ended_by: str | None


class MutePage(Answer):
    items: list[MuteOut]
    next: str | None


class MuteQuery(Page):
    active: bool | None = Field(
        None, description="true: only those that hold now; false: only those that are over."
    )
    service: Name | None = None


@bp.get("/mutes")
@guard(scope="services:read", rate="management")
@bp.doc(summary="List mutes, newest first")
@bp.input(MuteQuery, location="query")
@bp.output(MutePage)
def list_mutes(query_data: MuteQuery) -> Any:
    def work(session: Session) -> dict[str, Any]:
        now = database_now(session)
        query = select(Mute, Service.name).join(Service, Service.id == Mute.service_id)
        if query_data.active is not None:
            holds = Mute.ended_at.is_(None) & (Mute.ends_at > now)
            query = query.where(holds if query_data.active else ~holds)
        if query_data.service is not None:
            query = query.where(Service.name == query_data.service)
        patterns = caller().service_patterns
        if patterns is not None:
            query = query.where(Service.name.regexp_match(names_regex(patterns)))
        after = id_cursor(query_data)
        if after is not None:
            query = query.where(Mute.id < after)
        rows = session.execute(query.order_by(Mute.id.desc()).limit(query_data.limit + 1)).all()
        items = [_view(mute, name, now) for mute, name in rows[: query_data.limit]]
        return {"items": items, "next": str(items[-1]["id"]) if len(rows) > query_data.limit else None}

    return in_transaction(shared().engine, work)


@bp.post("/mutes")
@guard(scope="alerts:write", rate="management")
@bp.doc(
    summary="Mute a service",
    description="It is watched as before, and its playbooks and messages wait; what is resolved is told all the same.",
    extensions={"x-headers": IDEMPOTENT},
)
@bp.input(MuteIn, location="json")
@bp.output(MuteOut, status_code=201)
def create_mute(json_data: MuteIn) -> Any:
    need_service(json_data.service)

    def work(session: Session) -> dict[str, Any]:
        now = database_now(session)
        length = json_data.length
        if length is None:
            length = timedelta(hours=shared().settings.auto_unmute_hours)
        mute = mutes.create(
            session, service=json_data.service, reason=json_data.reason, ends_at=json_data.ends_at or now + length,
            actor=actor(), now=now,
        )  # fmt: skip
        return MuteOut.model_validate(_view(mute, json_data.service, now)).model_dump(mode="json")

    reply = once(work, status=201)
    return reply.body, reply.status, reply.headers


@bp.get("/mutes/<id:mute_id>")
@guard(scope="services:read", rate="management")
@bp.doc(summary="Show a mute")
@bp.output(MuteOut)
def show_mute(mute_id: int) -> Any:
    def work(session: Session) -> dict[str, Any]:
        mute, name = mutes.find(session, mute_id)
        need_service(name)
        return _view(mute, name, database_now(session))

    return in_transaction(shared().engine, work)


@bp.delete("/mutes/<id:mute_id>")
@guard(scope="alerts:write", rate="management")
@bp.doc(summary="Unmute before the time", description="What still fails is told. The mute stays in the list.")
@bp.output(MuteOut)
def end_mute(mute_id: int) -> Any:
    def work(session: Session) -> dict[str, Any]:
        now = database_now(session)
        _, name = mutes.find(session, mute_id)
        need_service(name)
        mute = mutes.end(session, mute_id=mute_id, actor=actor(), now=now)
        return _view(mute, name, now)

    return in_transaction(shared().engine, work)


def _view(mute: Mute, service: str, now: datetime) -> dict[str, Any]:
    return {
        "id": mute.id,
        "service": service,
        "reason": mute.reason,
        "active": mute.ended_at is None and mute.ends_at > now,
        "created_by": mute.created_by,
        "created_at": mute.created_at,
        "ends_at": mute.ends_at,
        "ended_at": mute.ended_at,
        "ended_by": mute.ended_by,
    }
