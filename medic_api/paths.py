"""Heartbeats by path, for whatever can call a URL: ``curl -fsS …/v1/heartbeats/backup/$?``."""

from __future__ import annotations

from typing import Any

from apiflask import APIBlueprint
from flask import Response, request
from pydantic import Field

from medic.errors import Invalid
from medic_api.fields import Text
from medic_api.guard import guard
from medic_api.ingest import CreateQuery, HeartbeatIn, HeartbeatOut, cut_message, take

bp = APIBlueprint("paths", __name__, url_prefix="/v1", tag="Heartbeats")

WORDS = ("start", "complete", "fail", "log")
_DESCRIPTION = (
    "As `POST /v1/heartbeats`, for a client that only calls URLs. The body, if there is one, is kept as the "
    "message (text, cut to 10 kB)."
)


class PathQuery(CreateQuery):
    """What a URL may add."""

    run_id: Text | None = Field(None, min_length=1, max_length=200)
    rid: Text | None = Field(None, min_length=1, max_length=200, description="Short for `run_id`.")
    duration_ms: int | None = Field(None, ge=0, le=2**53)
    id: Text | None = Field(
        None, min_length=1, max_length=200, description="Stored at most once per service."
    )


def _send(service: str, query: PathQuery, signal: str | None = None) -> Response:
    if query.run_id is not None and query.rid is not None:
        raise Invalid.at("rid", "is short for run_id; give one of them")
    raw = request.get_data()
    message, cut = cut_message(raw) if raw else (None, False)
    body = HeartbeatIn.model_validate(
        {
            "service": service,
            "status": signal if signal in WORDS else None,
            "exit_code": int(signal) if signal is not None and signal not in WORDS else None,
            "run_id": query.run_id or query.rid,
            "duration_ms": query.duration_ms,
            "message": message,
            "id": query.id,
        }
    )
    return take(body, query, message_cut=cut)


@bp.route("/heartbeats/<name:name>", methods=["GET", "POST"])
@guard(scope="heartbeats:write", rate="heartbeat_key")
@bp.doc(
    summary="Send a success by its path",
    description=_DESCRIPTION,
    responses={200: "A repeat: stored before.", 404: "No such service."},
    extensions={"x-message": True},
)
@bp.input(PathQuery, location="query")
@bp.output(HeartbeatOut, status_code=202)
def send_by_path(name: str, query_data: PathQuery) -> Any:
    return _send(name, query_data)


@bp.route("/heartbeats/<name:name>/<signal:signal>", methods=["GET", "POST"])
@guard(scope="heartbeats:write", rate="heartbeat_key")
@bp.doc(
    summary="Send start, complete, fail, log or an exit code by its path",
    description=_DESCRIPTION,
    responses={200: "A repeat: stored before.", 404: "No such service."},
    extensions={"x-message": True},
)
@bp.input(PathQuery, location="query")
@bp.output(HeartbeatOut, status_code=202)
def send_signal_by_path(name: str, signal: str, query_data: PathQuery) -> Any:
    return _send(name, query_data, signal)
