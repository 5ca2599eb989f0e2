"""The OpenAPI document: what APIFlask derives, and what the guards, the paths and the problems add to it."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any

from apiflask import APIFlask
from werkzeug.routing import Rule

from medic import __version__
from medic.settings import Settings
from medic_api.batch_body import MAX_ITEMS
from medic_api.converters import UUID_SCHEMA
from medic_api.examples import exemplify
from medic_api.guard import Guarded
from medic_api.intake import YAML_TYPES
from medic_api.problems import CONTENT_TYPE

Json = dict[str, Any]

VERSION = "3.1.0"
DESCRIPTION = (
    "Medic watches services by their heartbeats and heals them by playbooks. Durations are written `90s`, `5m`, "
    "`2h`, `1d` or `1h30m`, a bare number is seconds; times are RFC 3339 in UTC. Lists go on with `after`, which "
    "is the `next` of the page before. Errors are problems of RFC 9457; `code` is stable."
)

_TEXT: Json = {"type": "string"}
PROBLEM: Json = {
    "type": "object",
    "title": "Problem",
    "description": "RFC 9457 problem details.",
    "required": ["type", "title", "status", "code", "detail"],
    "properties": {
        "type": _TEXT,
        "title": _TEXT,
        "status": {"type": "integer"},
        "code": {"type": "string", "description": "Stable; match on this."},
        "detail": _TEXT,
        "request_id": _TEXT,
        "problems": {
            "type": "array",
            "description": "Each field that is wrong; YAML with its line and column.",
            "items": {
                "type": "object",
                "required": ["path", "message"],
                "properties": {
                    "path": _TEXT,
                    "message": _TEXT,
                    "line": {"type": "integer"},
                    "column": {"type": "integer"},
                },
            },
        },
    },
}

_MEANINGS = {
    400: "The body cannot be read.",
    401: "No key, or none of ours.",
    403: "The key lacks the scope, or is not for this.",
    404: "There is no such thing.",
    409: "Not as things stand now.",
    412: "It was changed since: `If-Match` names another version.",
    413: "The body is larger than 1 MiB.",
    415: "Another content type is needed.",
    422: "A field is wrong; `problems` names each.",
    429: "Too many calls; `Retry-After` says when to come back.",
    503: "Medic cannot do it now; `Retry-After` says when to come back.",
}


def install(app: APIFlask, settings: Settings) -> None:
    app.description = DESCRIPTION
    app.servers = [{"url": settings.base_url.rstrip("/")}]
    app.config |= {
        "OPENAPI_VERSION": VERSION,
        "AUTO_404_RESPONSE": False,
        "AUTO_VALIDATION_ERROR_RESPONSE": False,
        "AUTO_AUTH_ERROR_RESPONSE": False,
        "SECURITY_SCHEMES": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "mdk_…"}},
        "SYNC_LOCAL_SPEC": False,
    }

    @app.spec_processor
    def _complete(spec: Json | str) -> Json | str:
        assert isinstance(spec, dict)  # a text only where YAML is asked for
        spec.setdefault("components", {}).setdefault("schemas", {})["Problem"] = PROBLEM
        spec["info"]["version"] = __version__
        for rule in app.url_map.iter_rules():
            path = re.sub(r"<(?:[^<:]+:)?([^>]+)>", r"{\1}", rule.rule)
            view = app.view_functions[rule.endpoint]
            for method, operation in spec["paths"].get(path, {}).items():
                if method.upper() in (rule.methods or ()):
                    _complete_operation(operation, rule, method, view)
                    exemplify(operation, spec["components"]["schemas"])
        return spec


def _complete_operation(operation: Json, rule: Rule, method: str, view: Any) -> None:
    guarded: Guarded = view.__medic_guard__
    several = len((rule.methods or set()) - {"HEAD", "OPTIONS"}) > 1
    operation["operationId"] = f"{view.__name__}_{method}" if several else view.__name__
    operation["x-rate-class"] = guarded.rate_class
    operation["security"] = [{"bearer": []}] if guarded.scope else []
    if guarded.scope:
        operation["x-scope"] = guarded.scope
    operation["parameters"] = [
        parameter if parameter["in"] != "path" else _path_parameter(rule, parameter["name"])
        for parameter in operation.get("parameters", [])
    ]
    _unfold(operation, method)
    if "requestBody" in operation and "text/plain" not in operation["requestBody"]["content"]:
        operation["requestBody"]["required"] = True
    for status in _possible(operation, guarded, rule, method):
        operation["responses"].setdefault(str(status), {})
    for status, response in operation["responses"].items():
        if int(status) >= 400:
            meaning = _MEANINGS.get(int(status), HTTPStatus(int(status)).phrase)
            response["description"] = response.get("description") or meaning
            response["content"] = {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    if operation.pop("x-plain", None):
        for response in operation["responses"].values():
            response["content"] = {"text/plain": {"schema": _TEXT}}
    if down := operation.pop("x-down", None):
        content = operation["responses"]["200"]["content"]
        operation["responses"]["503"] = {"description": down, "content": content}


def _unfold(operation: Json, method: str) -> None:
    """What a view says in short: ``x-yaml``, ``x-message``, ``x-batch``, ``x-csv``, ``x-text``, ``x-query`` and ``x-headers``."""
    if yaml := operation.pop("x-yaml", None):
        operation["requestBody"] = {
            "required": True,
            "content": {kind: {"schema": {"type": "string"}, "example": yaml} for kind in YAML_TYPES},
        }
        operation["responses"].setdefault("415", {})
    if operation.pop("x-message", None) and method == "post":
        operation["requestBody"] = {"content": {"text/plain": {"schema": _TEXT}}}
    if operation.pop("x-batch", None):
        item: Json = {"$ref": "#/components/schemas/HeartbeatIn"}
        operation["requestBody"] = {
            "content": {
                "application/json": {"schema": {"type": "array", "items": item, "maxItems": MAX_ITEMS}},
                "application/x-ndjson": {"schema": _TEXT},
            }
        }
        operation["responses"]["207"]["content"] = operation["responses"]["202"]["content"]
        operation["responses"].setdefault("415", {})
    if operation.pop("x-csv", None):
        operation["responses"]["200"]["content"]["text/csv"] = {"schema": _TEXT}
    if kind := operation.pop("x-text", None):
        operation["responses"]["200"]["content"] = {kind: {"schema": _TEXT}}
    if "201" in operation["responses"] and "200" in operation["responses"]:
        operation["responses"]["201"]["content"] = operation["responses"]["200"]["content"]
    for place, short in (("header", "x-headers"), ("query", "x-query")):
        for name, meaning in operation.pop(short, {}).items():
            operation["parameters"].append(
                {"name": name, "in": place, "required": False, "description": meaning, "schema": _TEXT}
            )


def _possible(operation: Json, guarded: Guarded, rule: Rule, method: str) -> set[int]:
    found = {429}
    if guarded.scope:
        found |= {401, 403, 503}
    if rule.arguments:
        found.add(404)
    if operation["parameters"] or "requestBody" in operation:
        found.add(422)
    if "requestBody" in operation:
        found |= {400, 413}
    if method in {"post", "put", "delete"}:
        found.add(409)
    if any(parameter["name"] == "If-Match" for parameter in operation["parameters"]):
        found.add(412)
    return found


def _path_parameter(rule: Rule, name: str) -> Json:
    schema = getattr(rule._converters.get(name), "schema", UUID_SCHEMA)  # noqa: SLF001 - Werkzeug shows them nowhere else
    return {"name": name, "in": "path", "required": True, "schema": schema}
