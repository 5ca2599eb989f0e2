"""/v1/audit: every decision and change, by page or whole as CSV."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Literal

import structlog
from apiflask import APIBlueprint
from flask import Response, request
from pydantic import Field, model_validator
from sqlalchemy import Engine, Select, select, tuple_
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from medic import csv_text
from medic.db import in_transaction
from medic.errors import Invalid
from medic.models.access import AuditEntry, AuditSeal
from medic.times import format_time
from medic_api.fields import Answer, Page, Text, Time
from medic_api.guard import guard, need_wide
from medic_api.guard import services as shared
from medic_api.paging import read_time_cursor, time_cursor

log = structlog.get_logger("medic.audit")
bp = APIBlueprint("audit", __name__, url_prefix="/v1", tag="Operations")

CSV_PAGE = 1_000
BROKE_OFF = "INCOMPLETE: the database went away here; export again"
COLUMNS = ("id", "at", "actor", "action", "object", "source", "request_id", "detail", "seal")


class AuditQuery(Page):
    """What to list; what names a kind alone means all of it."""

    actor: Text | None = Field(None, max_length=300, examples=["key:4fGh0aBcD1eF", "slack"])
    action: Text | None = Field(None, max_length=100, examples=["service.create", "key"])
    object: Text | None = Field(None, max_length=300, examples=["service:web", "target"])
    since: Time | None = Field(None, alias="from", description="At or after this time.")
    until: Time | None = Field(None, alias="to", description="Before this time.")
    format: Literal["json", "csv"] | None = Field(
        None, description="csv: all that fits, not a page; else what `Accept` asks for, JSON by default."
    )

    @model_validator(mode="after")
    def _forward(self) -> AuditQuery:
        if self.since is not None and self.until is not None and self.until <= self.since:
            raise ValueError("to must be later than from")
        return self


class AuditEntryOut(Answer):
    """A decision or a change. `seal` is its number in the chain; null until the sealer comes by."""

    id: int
    at: Time
    actor: str
    action: str
    object: str
    source: str | None
    request_id: str | None
    detail: dict[str, Any]
    seal: int | None


class AuditPage(Answer):
    items: list[AuditEntryOut]
    next: str | None


@bp.get("/audit")
@guard(scope="audit:read", rate="management")
@bp.doc(
    summary="List the audit log, newest first, or export it",
    description="For a key that is not narrowed. `Accept: text/csv` or `format=csv` gives all that fits as CSV (RFC "
    "4180); a cell that a spreadsheet would run as a formula has an apostrophe before it.",
    extensions={"x-csv": True},
)
@bp.input(AuditQuery, location="query")
@bp.output(AuditPage)
def list_audit(query_data: AuditQuery) -> Any:
    need_wide()
    engine = shared().engine
    query = _query(query_data)
    if _wants_csv(query_data):
        if {"limit", "after"} & query_data.model_fields_set:
            raise Invalid.at("format", "csv comes whole: leave limit and after out")
        return Response(
            _csv(engine, query),
            content_type="text/csv; charset=utf-8; header=present",
            headers={"Content-Disposition": 'attachment; filename="medic-audit.csv"'},
        )
    place = _place(query_data.after) if query_data.after is not None else None
    rows = _rows(engine, query, place, query_data.limit + 1)
    shown = rows[: query_data.limit]
    return {
        "items": shown,
        "next": time_cursor(shown[-1]["at"], shown[-1]["id"]) if len(rows) > query_data.limit else None,
    }


def _wants_csv(query: AuditQuery) -> bool:
    if query.format is not None:
        return query.format == "csv"
    return request.accept_mimetypes.best_match(["application/json", "text/csv"]) == "text/csv"


def _query(wish: AuditQuery) -> Select[AuditEntry, int]:
    query = select(AuditEntry, AuditSeal.number).outerjoin(AuditSeal, AuditSeal.entry_id == AuditEntry.id)
    if wish.actor is not None:
        kind, colon, name = wish.actor.partition(":")
        query = query.where(AuditEntry.actor_kind == kind)
        query = query.where(AuditEntry.actor == name) if colon else query
    if wish.action is not None:
        is_whole = "." in wish.action
        query = query.where(
            AuditEntry.action == wish.action if is_whole
            else AuditEntry.action.startswith(f"{wish.action}.", autoescape=True)
        )  # fmt: skip
    if wish.object is not None:
        kind, colon, name = wish.object.partition(":")
        query = query.where(AuditEntry.object_kind == kind)
        query = query.where(AuditEntry.object_id == name) if colon else query
    if wish.since is not None:
        query = query.where(AuditEntry.at >= wish.since)
    if wish.until is not None:
        query = query.where(AuditEntry.at < wish.until)
    return query


def _place(after: str) -> tuple[datetime, int]:
    at, entry_id = read_time_cursor(after)
    if not entry_id.isdecimal() or len(entry_id) > 18:
        raise Invalid.at("after", "is not a `next` of this list")
    return at, int(entry_id)


def _rows(
    engine: Engine,
    query: Select[AuditEntry, int],
    place: tuple[datetime, int] | None,
    limit: int,
) -> list[dict[str, Any]]:
    """The newest entries behind a place, in a transaction of their own."""
    if place is not None:
        query = query.where(tuple_(AuditEntry.at, AuditEntry.id) < tuple_(*place))
    query = query.order_by(AuditEntry.at.desc(), AuditEntry.id.desc()).limit(limit)

    def work(session: Session) -> list[dict[str, Any]]:
        return [_view(entry, seal) for entry, seal in session.execute(query)]

    return in_transaction(engine, work)


def _view(entry: AuditEntry, seal: int | None) -> dict[str, Any]:
    return {
        "id": entry.id,
        "at": entry.at,
        "actor": f"{entry.actor_kind}:{entry.actor}",
        "action": entry.action,
        "object": f"{entry.object_kind}:{entry.object_id}",
        "source": entry.source,
        "request_id": entry.request_id,
        "detail": entry.detail,
        "seal": seal,
    }


def _csv(engine: Engine, query: Select[AuditEntry, int]) -> Iterator[str]:
    """The whole, page by page: no page is read before the one before it is sent.

    The status is gone by then, and the server ends the answer like any other, so the last row says it when it is
    not the last.
    """
    yield csv_text.lines([COLUMNS])
    try:
        yield from _csv_pages(engine, query)
    except SQLAlchemyError as error:
        log.warning("audit.export_broke_off", error=type(error).__name__)
        yield csv_text.lines([[BROKE_OFF, *[None] * (len(COLUMNS) - 1)]])


def _csv_pages(engine: Engine, query: Select[AuditEntry, int]) -> Iterator[str]:
    place: tuple[datetime, int] | None = None
    while True:
        rows = _rows(engine, query, place, CSV_PAGE)
        if rows:
            yield csv_text.lines(
                [*(row[name] for name in COLUMNS)]
                for row in (
                    row
                    | {
                        "at": format_time(row["at"]),
                        "detail": json.dumps(row["detail"], ensure_ascii=False, sort_keys=True),
                    }
                    for row in rows
                )
            )
        if len(rows) < CSV_PAGE:
            return
        place = rows[-1]["at"], rows[-1]["id"]
