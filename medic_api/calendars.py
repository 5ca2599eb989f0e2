"""/v1/calendars: working hours, which routes may go by."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any

from apiflask import APIBlueprint
from flask import Response
from pydantic import BeforeValidator, Field, WithJsonSchema
from sqlalchemy.orm import Session

from medic import calendar_store
from medic.calendar_store import Wish
from medic.calendars import is_working, next_change
from medic.db import database_now, in_transaction
from medic.models.alerting import Calendar
from medic_api.etag import IF_MATCH, if_match, with_etag
from medic_api.fields import Answer, NewName, Page, Request, Text, Time
from medic_api.guard import actor, guard, need_wide
from medic_api.guard import services as shared
from medic_api.once import IDEMPOTENT, once
from medic_api.paging import cut

bp = APIBlueprint("calendars", __name__, url_prefix="/v1", tag="Targets and routes")

EXAMPLE = {"mon": [["09:00", "12:30"], ["13:00", "17:30"]], "fri": [["09:00", "24:00"]]}


def _date(value: Any) -> Any:
    if isinstance(value, date):
        return value
    try:
        found = datetime.strptime(value, "%Y-%m-%d").date()  # noqa: DTZ007 - a day of the calendar's own zone
    except (TypeError, ValueError):
        raise ValueError("is not a date, as 2026-12-25") from None
    if not 2000 <= found.year < 2100:
        raise ValueError("must be in this century")
    return found


Day = Annotated[date, BeforeValidator(_date), WithJsonSchema({"type": "string", "format": "date"})]


class CalendarIn(Request):
    """Working hours by weekday, on the clock of a zone."""

    timezone: Text | None = Field(None, max_length=64, examples=["Europe/Berlin"])
    hours: dict[Text, list[list[Text]]] = Field(
        examples=[EXAMPLE], max_length=7,
        description="By `mon` to `sun`: spans from a time on up to another; `24:00` is the end of the day.",
    )  # fmt: skip
    holidays: list[Day] = Field(
        default_factory=list, max_length=1000, description="Days without working hours."
    )

    def wish(self) -> Wish:
        return Wish(
            hours=self.hours,
            holidays=tuple(self.holidays),
            timezone=self.timezone or shared().settings.timezone,
        )


class NewCalendar(CalendarIn):
    """A calendar to make."""

    name: NewName


class CalendarOut(Answer):
    """A calendar, and how it is now."""

    name: str
    timezone: str
    hours: dict[str, list[list[str]]]
    holidays: list[Day]
    working: bool = Field(description="Whether these are working hours.")
    changes_at: Time | None = Field(description="When that changes.")
    version: int
    created_at: Time


class CalendarPage(Answer):
    items: list[CalendarOut]
    next: str | None


@bp.get("/calendars")
@guard(scope="services:read", rate="management")
@bp.doc(summary="List calendars by name")
@bp.input(Page, location="query")
@bp.output(CalendarPage)
def list_calendars(query_data: Page) -> Any:
    def work(session: Session) -> dict[str, Any]:
        now = database_now(session)
        rows = calendar_store.page(session, after=query_data.after, limit=query_data.limit + 1)
        return cut(rows, query_data, lambda calendar: calendar.name, lambda calendar: _view(calendar, now))

    return in_transaction(shared().engine, work)


@bp.post("/calendars")
@guard(scope="targets:write", rate="management")
@bp.doc(summary="Make a calendar", extensions={"x-headers": IDEMPOTENT})
@bp.input(NewCalendar, location="json")
@bp.output(CalendarOut, status_code=201)
def create_calendar(json_data: NewCalendar) -> Any:
    need_wide()

    def work(session: Session) -> dict[str, Any]:
        now = database_now(session)
        calendar = calendar_store.create(
            session, name=json_data.name, wish=json_data.wish(), actor=actor(), now=now
        )
        return CalendarOut.model_validate(_view(calendar, now)).model_dump(mode="json")

    reply = once(work, status=201)
    return with_etag(reply.body, reply.status, reply.headers)


@bp.get("/calendars/<name:name>")
@guard(scope="services:read", rate="management")
@bp.doc(summary="Show a calendar")
@bp.output(CalendarOut)
def show_calendar(name: str) -> Any:
    def work(session: Session) -> dict[str, Any]:
        return _view(calendar_store.find(session, name), database_now(session))

    return with_etag(in_transaction(shared().engine, work))


@bp.put("/calendars/<name:name>")
@guard(scope="targets:write", rate="management")
@bp.doc(
    summary="Make or change a calendar",
    responses={201: "The calendar was made."},
    extensions={"x-headers": IF_MATCH},
)
@bp.input(CalendarIn, location="json")
@bp.output(CalendarOut)
def put_calendar(name: str, json_data: CalendarIn) -> Any:
    need_wide()
    version = if_match()

    def work(session: Session) -> tuple[dict[str, Any], int]:
        now = database_now(session)
        calendar, made = calendar_store.put(
            session, name=name, wish=json_data.wish(), actor=actor(), now=now, if_match=version
        )
        return _view(calendar, now), 201 if made else 200

    return with_etag(*in_transaction(shared().engine, work))


@bp.delete("/calendars/<name:name>")
@guard(scope="targets:write", rate="management")
@bp.doc(
    summary="Delete a calendar",
    description="Not while a route goes by it.",
    extensions={"x-headers": IF_MATCH},
)
@bp.output({}, status_code=204)
def delete_calendar(name: str) -> Any:
    need_wide()
    version = if_match()
    in_transaction(
        shared().engine,
        lambda session: calendar_store.remove(
            session, name=name, actor=actor(), now=database_now(session), if_match=version
        ),
    )
    return Response(status=204)


def _view(calendar: Calendar, now: datetime) -> dict[str, Any]:
    return {
        "name": calendar.name,
        "timezone": calendar.timezone,
        "hours": calendar.hours,
        "holidays": calendar.holidays,
        "working": is_working(calendar.hours, calendar.holidays, calendar.timezone, now),
        "changes_at": next_change(calendar.hours, calendar.holidays, calendar.timezone, now),
        "version": calendar.version,
        "created_at": calendar.created_at,
    }
