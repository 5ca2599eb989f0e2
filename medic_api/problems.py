"""Errors, rendered once: RFC 9457 problem details, with our stable code and every field that is wrong."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Any

import structlog
from apiflask import APIFlask
from flask import Response, g, json, request
from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.routing import RequestRedirect

from medic.db import is_away, sqlstate
from medic.errors import Conflict, Invalid, MedicError, Problem, Throttled, Unavailable

CONTENT_TYPE = "application/problem+json"
DATABASE_AWAY = "The database is away; nothing was stored. Try again."
MISTAKE = "Medic made a mistake; it is in the log under the request's id."

log = structlog.get_logger("medic_api")

_CODES = {
    400: "malformed", 401: "unauthenticated", 403: "forbidden", 404: "not_found", 405: "method_not_allowed",
    409: "conflict", 412: "precondition_failed", 413: "too_large", 415: "unsupported_media_type", 422: "invalid",
    429: "throttled", 503: "unavailable",
}  # fmt: skip
_TEXTS = {
    400: "The request could not be read.",
    404: "There is nothing at this address.",
    405: "This address does not take this method.",
    413: "The body is larger than 1 MiB.",
}


def render(
    status: int,
    code: str,
    detail: str,
    *,
    problems: tuple[Problem, ...] = (),
    headers: dict[str, str] | None = None,
) -> Response:
    """A problem as a response."""
    body: dict[str, Any] = {
        "type": f"urn:medic:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
    }
    request_id = g.get("request_id")
    if request_id:
        body["request_id"] = request_id
    if problems:
        body["problems"] = [
            {key: value for key, value in (
                ("path", p.path), ("message", p.message), ("line", p.line), ("column", p.column)
            ) if value is not None}
            for p in problems
        ]  # fmt: skip
    return Response(json.dumps(body), status=status, content_type=CONTENT_TYPE, headers=headers)


def from_medic(error: MedicError) -> Response:
    headers = {}
    if isinstance(error, Throttled | Unavailable):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    problems = error.problems if isinstance(error, Invalid) else ()
    return render(error.status, error.code, error.message, problems=problems, headers=headers)


def from_http(error: HTTPException) -> Response:
    status = error.code or 500
    if isinstance(error.response, Response):
        return error.response
    headers = {}
    if isinstance(error, RequestRedirect):
        headers["Location"] = error.new_url
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        headers["Allow"] = ", ".join(sorted(error.valid_methods))
    return render(status, _CODES.get(status, "error"), _TEXTS.get(status, error.name), headers=headers)


def from_database(error: DBAPIError) -> Response:
    """Away: come back.  A value that PostgreSQL cannot hold: the caller's.  Anything else is our defect."""
    if is_away(error):
        log.warning("database.away", sqlstate=sqlstate(error))
        return from_medic(Unavailable(DATABASE_AWAY))
    if sqlstate(error).startswith("22"):
        return from_medic(Invalid("A value is outside of what can be stored."))
    if sqlstate(error) in {"55P03", "57014", "40001", "40P01"}:
        return from_medic(Unavailable("The database is busy; nothing was stored. Try again."))
    log.error("database.error", sqlstate=sqlstate(error), exc_info=error)
    if sqlstate(error).startswith("23"):
        # The schema's own rule said no; whatever let it come this far, the request is what is wrong.
        return from_medic(Conflict("This does not fit what is stored."))
    return render(500, "error", MISTAKE)


def validation_problems(error: ValidationError) -> tuple[Problem, ...]:
    """Pydantic's findings as ours; what was sent is not repeated."""
    found = []
    for item in error.errors(include_input=False, include_url=False, include_context=False):
        path = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = "is not a field here"
        elif item["type"] == "missing":
            message = "is required"
        found.append(Problem(path, message))
    return tuple(found)


def install(app: APIFlask) -> None:
    """Make every error of the application a problem."""
    app.register_error_handler(MedicError, from_medic)
    app.register_error_handler(DBAPIError, from_database)
    app.register_error_handler(
        PoolTimeout, lambda _: from_medic(Unavailable("Medic is busy; nothing was stored. Try again."))
    )
    app.register_error_handler(HTTPException, from_http)

    @app.errorhandler(Exception)
    def _mistake(error: Exception) -> Response:
        # The rule and not the path: that of a ping URL is its secret.
        rule = request.url_rule.rule if request.url_rule else None
        log.error("request.failed", method=request.method, route=rule, exc_info=error)
        return render(500, "error", MISTAKE)
