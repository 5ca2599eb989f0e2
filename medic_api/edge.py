"""What every request passes on its way in and out: its id, its log context, its headers, its metrics."""

from __future__ import annotations

import re
import secrets
import time

from flask import Flask, Response, g, request

from medic.telemetry.logs import bind_context, clear_context
from medic.telemetry.metrics import observe_request
from medic_api.guard import add_limit_headers

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Frame-Options", "DENY"),
    ("Content-Security-Policy", _POLICY),
)
"""Of every answer; only `/docs` has another policy of content."""
# Swagger UI sets style attributes; scripts stay in files.
_DOCS_POLICY = _POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")


def install(app: Flask) -> None:
    app.before_request(_begin)
    app.after_request(add_limit_headers)
    app.after_request(_finish)
    app.teardown_request(_forget)


def _begin() -> None:
    g.began = time.perf_counter()
    given = request.headers.get("X-Request-ID", "")
    g.request_id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(12)
    clear_context()
    bind_context(request_id=g.request_id)


def _finish(response: Response) -> Response:
    headers = response.headers
    headers["X-Request-ID"] = g.request_id
    for name, value in SECURITY_HEADERS:
        headers[name] = value
    if request.endpoint == "docs.page":
        headers["Content-Security-Policy"] = _DOCS_POLICY
    if request.endpoint != "static" or response.status_code >= 400:
        headers.setdefault("Cache-Control", "no-store")
    rule = request.url_rule.rule if request.url_rule else None
    observe_request(request.method, rule, response.status_code, time.perf_counter() - g.began)
    return response


def _forget(_: BaseException | None) -> None:
    clear_context()
