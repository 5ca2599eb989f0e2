"""/v1/services/{name}/stats: how a service was, day by day, and how long its runs take."""

from __future__ import annotations

from datetime import date
from typing import Any

from apiflask import APIBlueprint
from pydantic import Field
from sqlalchemy.orm import Session

from medic import services, statistics
from medic.db import database_now, in_transaction
from medic.statistics import NEWEST_RUNS
from medic_api.fields import Answer, Request
from medic_api.guard import caller, guard
from medic_api.guard import services as shared

bp = APIBlueprint("statistics", __name__, url_prefix="/v1", tag="Services")


class StatsQuery(Request):
    days: int = Field(30, ge=1, le=400, description="How many days back, today the last of them.")


class DayOut(Answer):
    """A day in UTC; today up to now."""

    day: date
    uptime_percent: float | None = Field(description="Of the known time.")
    up_s: int
    down_s: int = Field(description="With an alert open.")
    unknown_s: int = Field(
        description="Nobody watched: before the first success, paused, or Medic could not hear."
    )
    alerts: int = Field(description="Opened on that day.")
    heartbeats: int = Field(description="Received on that day, of every kind.")


class RunStatsOut(Answer):
    """The newest runs that ended. Durations are of those whose end was heard; percentiles are by nearest rank."""

    count: int = Field(description=f"At most {NEWEST_RUNS}.")
    completed: int
    failed: int
    lost: int
    success_ratio: float | None = Field(description="Completed of all, from 0 to 1.")
    average_ms: float | None
    p50_ms: int | None
    p95_ms: int | None
    p99_ms: int | None
    min_ms: int | None
    max_ms: int | None


class StatsOut(Answer):
    """What a service was like."""

    service: str
    uptime_percent: float | None = Field(description="Of the known time of all these days.")
    alerts: int
    heartbeats: int
    runs: RunStatsOut
    days: list[DayOut] = Field(description="Oldest first; none before the service was made.")


@bp.get("/services/<name:name>/stats")
@guard(scope="services:read", rate="management")
@bp.doc(summary="Show a service's uptime, alerts and run durations")
@bp.input(StatsQuery, location="query")
@bp.output(StatsOut)
def show_statistics(name: str, query_data: StatsQuery) -> Any:
    services.need_touch(caller().may_touch(name), name)

    def work(session: Session) -> dict[str, Any]:
        found = statistics.of_service(session, name=name, days=query_data.days, now=database_now(session))
        return {
            "service": name,
            "uptime_percent": found.uptime_percent,
            "alerts": found.alerts,
            "heartbeats": found.heartbeats,
            "runs": found.runs,
            "days": [_day(day) for day in found.days],
        }

    return in_transaction(shared().engine, work)


def _day(day: statistics.Day) -> dict[str, Any]:
    return {
        "day": day.day.isoformat(),
        "uptime_percent": day.split.percent,
        "up_s": day.split.up_s,
        "down_s": day.split.down_s,
        "unknown_s": day.split.unknown_s,
        "alerts": day.alerts,
        "heartbeats": day.heartbeats,
    }
