"""What the original's routes share: its envelope ``{"success", "message", "results"}``, as JSON and with true codes.

Errors are problems (RFC 9457) that carry the envelope's three fields too, so that both kinds of clients read them.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from apiflask import APIBlueprint
from flask import Response, json
from pydantic import Field

from medic.errors import Invalid, Malformed
from medic_api.fields import Answer, JsonValue
from medic_api.problems import CONTENT_TYPE, from_medic


class Envelope(Answer):
    """What the original answered."""

    success: bool
    message: str
    results: JsonValue = Field(description="The answer itself; empty text where there is none.")


def blueprint(name: str) -> APIBlueprint:
    """A blueprint of the original's routes."""
    made = APIBlueprint(name, f"medic_api.{name}", tag="The original's routes")
    made.register_error_handler(Invalid, _as_400)
    made.after_request(_enveloped)
    return made


def envelope(results: Any = "", *, message: str = "", status: int = 200) -> Response:
    """The original's answer."""
    body = {"success": True, "message": message, "results": results}
    return Response(json.dumps(body), status=status, content_type="application/json")


def _as_400(error: Invalid) -> Response:
    """The original knew no 422."""
    return from_medic(Malformed(error.message, problems=error.problems))


def _enveloped(response: Response) -> Response:
    if response.content_type == CONTENT_TYPE:
        body = response.get_json()
        body |= {"success": False, "message": body["detail"], "results": ""}
        if response.status_code == HTTPStatus.TOO_MANY_REQUESTS:
            body["retry_after"] = int(response.headers["Retry-After"])
        response.set_data(json.dumps(body))
    return response
