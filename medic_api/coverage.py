"""/v1/coverage: when Medic could not hear, so that silence in that time was no evidence."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from apiflask import APIBlueprint
from pydantic import Field
from sqlalchemy.orm import Session

from medic import coverage
from medic.db import database_now, in_transaction
from medic.errors import Invalid
from medic_api.fields import Answer, Page, Time
from medic_api.guard import guard
from medic_api.guard import services as shared
from medic_api.paging import read_time_cursor, time_cursor

bp = APIBlueprint("coverage", __name__, url_prefix="/v1", tag="Operations")

LONGEST = timedelta(days=31)
MAX_PROCESSES = 250
_FIRST = datetime(2000, 1, 1, tzinfo=UTC)
"""Nothing was recorded before."""
_ANY = "-"


class CoverageQuery(Page):
    """Which time; the last 24 hours unless said."""

    since: Time | None = Field(None, alias="from")
    until: Time | None = Field(None, alias="to", description="At the most 31 days after `from`.")


class GapOut(Answer):
    """Medic could not hear: what was expected in this time is unknown, neither missed nor done."""

    since: Time
    until: Time
    ongoing: bool = Field(description="It had not ended when this was asked.")


class ProcessOut(Answer):
    """A process of the API heard, all of the time."""

    process: str
    since: Time
    until: Time
    closed: bool = Field(description="It stopped then, on purpose.")


class CoverageOut(Answer):
    """Newest first; the gaps are paged, of the processes there are the newest 250."""

    items: list[GapOut]
    processes: list[ProcessOut]
    next: str | None


@bp.get("/coverage")
@guard(scope="services:read", rate="management")
@bp.doc(
    summary="Show when Medic could not hear",
    description="Newest first. It says nothing of any service, so a key that is narrowed to some sees it too.",
)
@bp.input(CoverageQuery, location="query")
@bp.output(CoverageOut)
def show_coverage(query_data: CoverageQuery) -> Any:
    def work(session: Session) -> dict[str, Any]:
        now = database_now(session)
        until = min(query_data.until or now, now)
        since = query_data.since or max(until, _FIRST) - timedelta(days=1)
        if since >= until:
            raise Invalid.at("from", "must be before `to`, and in the past")
        if until - since > LONGEST:
            raise Invalid.at("to", "is more than 31 days after `from`")
        gaps = [gap for gap in coverage.blind_intervals(session, since=since, now=now) if gap.start < until]
        if query_data.after is not None:
            behind, _ = read_time_cursor(query_data.after)
            gaps = [gap for gap in gaps if gap.start < behind]
        shown = gaps[::-1][: query_data.limit]
        records = coverage.processes(session, since=since, now=until, limit=MAX_PROCESSES)
        return {
            "items": [
                GapOut(since=gap.start, until=gap.end, ongoing=gap.end >= now) for gap in shown
            ],
            "processes": [
                ProcessOut(process=str(one.process), since=one.since, until=one.until, closed=one.closed)
                for one in records
            ],
            "next": time_cursor(shown[-1].start, _ANY) if len(gaps) > len(shown) else None,
        }  # fmt: skip

    return in_transaction(shared().engine, work)
