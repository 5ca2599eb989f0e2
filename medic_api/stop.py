"""/v1/stop: the stop switch."""

from __future__ import annotations

from typing import Any

from apiflask import APIBlueprint
from pydantic import Field
from sqlalchemy.orm import Session

from medic import stop
from medic.db import database_now, in_transaction
from medic.executions import approvals
from medic.models.access import Stop
from medic_api.fields import Answer, Request, Text, Time
from medic_api.guard import actor, guard, need_wide
from medic_api.guard import services as shared

bp = APIBlueprint("stop", __name__, url_prefix="/v1", tag="Stop switch")


class StopIn(Request):
    reason: Text = Field(min_length=1, max_length=1000)


class StopOut(Answer):
    """While it is on nothing starts, running steps finish, waiting ones hold."""

    stopped: bool
    reason: str | None = None
    stopped_at: Time | None = None
    stopped_by: str | None = None


@bp.get("/stop")
@guard(scope="playbooks:read", rate="management")
@bp.doc(summary="Show the stop switch")
@bp.output(StopOut)
def show_stop() -> Any:
    return in_transaction(shared().engine, lambda session: _view(stop.stopped(session)))


@bp.post("/stop")
@guard(scope="executions:run", rate="management")
@bp.doc(summary="Stop everything", description="When it is on already, that stop stands.")
@bp.input(StopIn, location="json")
@bp.output(StopOut)
def engage_stop(json_data: StopIn) -> Any:
    need_wide()

    def work(session: Session) -> dict[str, Any]:
        now = database_now(session)
        return _view(stop.stop_all(session, reason=json_data.reason, actor=actor(), now=now))

    return in_transaction(shared().engine, work)


@bp.delete("/stop")
@guard(scope="executions:run", rate="management")
@bp.doc(
    summary="Resume everything",
    description="What was left of the time of approvals starts again, five minutes at least."
    " When it is off already, nothing changes.",
)
@bp.output(StopOut)
def release_stop() -> Any:
    need_wide()

    def work(session: Session) -> dict[str, Any]:
        approvals.resume_all(session, actor=actor(), now=database_now(session))
        return _view(None)

    return in_transaction(shared().engine, work)


def _view(standing: Stop | None) -> dict[str, Any]:
    if standing is None:
        return {"stopped": False}
    return {
        "stopped": True,
        "reason": standing.reason,
        "stopped_at": standing.stopped_at,
        "stopped_by": standing.stopped_by,
    }
