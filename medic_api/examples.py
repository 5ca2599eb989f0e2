"""Examples of the OpenAPI document: what each operation takes, and what it answers when it went well.

Requests are written down by their schema: what somebody would really send.  Answers are made of their schemas, each
field with the value that its name has in the table below, so that no operation is ever without one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Json = dict[str, Any]

_AT = "2026-11-24T09:05:00.000000Z"
_ID = "0192f0c1-5f3e-7c7a-9b0e-3f1d2c4b5a69"

REQUESTS: Mapping[str, Any] = {
    "CalendarIn": {
        "timezone": "Europe/Berlin",
        "hours": {"mon": [["09:00", "12:30"], ["13:00", "17:30"]], "fri": [["09:00", "24:00"]]},
        "holidays": ["2026-12-25"],
    },
    "DecisionIn": {"comment": "Checked with the database team."},
    "HeartbeatIn": {"service": "nightly-backup", "status": "complete", "run_id": "2026-11-24", "duration_ms": 5300},
    "KeyIn": {
        "name": "backup host", "scopes": ["heartbeats:write"], "service_patterns": ["nightly-*"], "expires_in": "90d",
    },
    "LegacyBeat": {"heartbeat_name": "web-beat", "status": "alive", "service_name": "web"},
    "LegacyChange": {"alert_interval": 600, "muted": 1},
    "LegacyService": {"heartbeat_name": "web-beat", "service_name": "web", "alert_interval": 300},
    "LegacyStart": {"service_id": 1, "variables": {"HOST": "w1"}},
    "MuteIn": {"service": "nightly-backup", "reason": "The disk is being replaced.", "for": "2h"},
    "Nothing": {},
    "PingKeyIn": {},
    "PolicyIn": {"every": "5m", "grace": "1m", "priority": "p2", "tags": ["eu"]},
    "PreviewIn": {"service": "nightly-backup", "priority": "p1"},
    "ResolveIn": {"note": "The host was switched off for good."},
    "RotationIn": {"expires_in": "90d", "overlap": "1h"},
    "RouteIn": {
        "levels": [["team-chat"], ["on-call"]], "match": {"service": "nightly-*", "priorities": ["p1", "p2"]},
        "escalate_after": "15m",
    },
    "ScriptIn": {
        "interpreter": "bash", "content": 'systemctl restart "$UNIT"\n', "parameters": {"UNIT": {"type": "text"}},
    },
    "SecretIn": {"value": "what only a step may know"},
    "ServiceIn": {"every": "1d", "grace": "1h", "priority": "p2", "tags": ["eu"]},
    "SettleIn": {"verdict": "happened"},
    "StartIn": {"service": "nightly-backup", "variables": {"HOST": "w1"}},
    "StopIn": {"reason": "The data centre moves."},
    "TargetIn": {"kind": "slack", "config": {"channel": "C0123456789"}, "secrets": {"token": "xoxb-…"}},
    "TeamIn": {"description": "Whom to ask about the shop."},
    "TriggerIn": {"playbook": "restart-worker", "kind": "alert", "service_pattern": "worker-*", "cooldown": "15m"},
    "WindowIn": {
        "selector": {"services": ["nightly-*"]}, "reason": "The databases are updated.", "cron": "0 22 * * 6",
        "duration": "2h", "timezone": "Europe/Berlin",
    },
}  # fmt: skip
"""By schema; what makes a thing takes what changes it, and whatever is needed besides."""

TEXTS: Mapping[tuple[str, str], str] = {
    ("show_metrics", "text/plain"): "# TYPE medic_alerts_active gauge\nmedic_alerts_active 2.0\n",
    ("list_audit", "text/csv"): (
        "id,at,actor,action,object,source,request_id,detail,seal\r\n"
        f"7,{_AT},key:4fGh0aBcD1eF,service.create,service:nightly-backup,192.0.2.7,,{{}},\r\n"
    ),
    ("send_batch", "application/x-ndjson"): '{"service": "web"}\n{"service": "worker-1", "status": "fail"}\n',
}
"""By operation and type, those that are neither a ping's answer nor a message of a heartbeat."""

_OF_NAME: Mapping[str, tuple[Any, ...]] = {
    "action": ("service.create",), "actor": ("key:4fGh0aBcD1eF",), "because": ("no success since 09:00",),
    "code": ("not_found",), "component": ("database",), "config": ({"channel": "C0123456789"},),
    "content": ('systemctl restart "$UNIT"\n',), "count": (3,), "created_by": ("key:4fGh0aBcD1eF",),
    "consecutive_failures": (0,), "broken": ([],), "depends_on": (["database"],), "exit_code": (0,), "failures": (0,), "deadline": (_AT,), "decided_by": ("slack:U012AB3CD",), "description": ("The nightly backup.",),
    "detail": ("Everything answers.", {}), "evidence": ({"deadline": _AT},), "execution": (_ID,),
    "executions": ([_ID],), "hook_secret": ("whsec_…",), "hook_url": ("https://medic.example.com/v1/hooks/…",),
    "hours": ({"mon": [["09:00", "17:30"]]},), "id": (7, _ID), "interpreter": ("bash",), "key": ("mdk_4fGh0aBcD1eF_…",),
    "kind": ("slack",), "last_signal": ("success",), "levels": ([["team-chat"], ["on-call"]],),
    "message": ("done", None), "mode": ("notify_all",), "name": ("nightly-backup",), "object": ("service:nightly-backup",),
    "parameters": ({"UNIT": {"type": "text"}},), "period": ("always",), "ping_key": ("…",),
    "ping_url": (f"https://medic.example.com/ping/{_ID}",), "plan": ([{"name": "restart", "type": "webhook"}],),
    "plan_digest": ("9f86d081884c7d65",), "playbook": ("restart-worker",), "playbooks": ("all",), "process": ("api-1:8",),
    "losses": (0,), "per_minute": (30,), "position": (100,), "priorities": (["p1", "p2"],), "priority": ("p2",),
    "reason": ("The disk is being replaced.",), "reasons": (["missed"],), "receipt": ({"channel": "C0123456789", "ts": "1764000000.000100", "alerts": 1},), "received_at": (_AT,), "refused": (0,),
    "repeated": (0,), "results": ([],), "route": ("night",), "rule": ("deadline",),
    "schedule": ("every 1d",), "scopes": (["heartbeats:write"],), "secrets": (["token"],), "service": ("nightly-backup",),
    "service_pattern": ("nightly-*",), "source": ("192.0.2.7",), "started": ([_ID],), "started_by": ("trigger:3",),
    "state": ("completed",), "status": ("ok", 202), "steps": (["restart", "verify"],), "text": ("Acknowledged.",), "tags": (["eu"],), "target": ("team-chat",), "targets": (["team-chat"],), "team": ("ops",),
    "timezone": ("Europe/Berlin",), "tries": (0,), "type": ("webhook",), "uuid": (_ID,), "uptime_percent": (99.98,), "variables": ({"HOST": "w1"},),
    "version": (2, "1.0.0"), "version_created_by": ("key:4fGh0aBcD1eF",), "warnings": ([],), "worker": ("steps@worker-1",),
}  # fmt: skip
"""What a field of this name holds; the first one that is of the field's type."""

_OF_FIELD: Mapping[str, Any] = {
    "CalendarOut.name": "office", "DeliveryOut.level": 0, "DeliveryOut.state": "delivered",
    "ExplainedDelivery.kind": "opened", "ExplainedDelivery.level": 0, "HeartbeatView.kind": "success",
    "ItemOut.code": None, "ItemOut.detail": None, "KeyOut.name": "backup host", "MatchOut.service": "nightly-*",
    "NewKey.name": "backup host", "PlaybookDetail.name": "restart-worker", "PlaybookDetail.source": "name: restart-worker\n…",
    "PlaybookOut.name": "restart-worker", "RouteOut.name": "night", "Rotation.name": "backup host",
    "ScriptDetail.name": "restart-unit", "ScriptOut.name": "restart-unit", "SecretOut.name": "OPS_TOKEN",
    "SecretSet.name": "OPS_TOKEN", "SelectorOut.services": ["nightly-*"], "ServiceOut.every": "1d", "Step.level": 0,
    "StepDetail.name": "restart", "StepOut.name": "restart", "StepOut.position": 1, "SuppressionOut.name": "databases",
    "TargetOut.name": "team-chat", "TeamOut.name": "ops", "TransitionOut.kind": "opened", "TransitionOut.reason": "missed",
    "ValidOut.name": "restart-worker", "Way.told": [{"level": 0, "targets": ["team-chat"]}], "WindowOut.name": "databases",
    "WindowOut.cron": "0 22 * * 6", "WindowOut.duration": "2h",
}  # fmt: skip
"""What a field of this schema holds, where its name alone does not tell."""

_FALSE = frozenset(
    {"closed", "default", "from_settings", "message_cut", "network", "ongoing", "overrun", "paused", "repeat"}
)

_OF_FORMAT = {"date-time": _AT, "date": "2026-11-24", "uuid": _ID}
_JSON_TYPES: tuple[tuple[str, type | tuple[type, ...]], ...] = (
    ("string", str), ("integer", int), ("number", (int, float)), ("array", list), ("object", dict),
)  # fmt: skip


def exemplify(operation: Json, schemas: Mapping[str, Json]) -> None:
    """Give a finished operation its examples; one that it brings along stays."""
    name = operation["operationId"]
    if body := operation.get("requestBody"):
        for kind, content in body["content"].items():
            if "example" not in content:
                content["example"] = _request(name, kind, content["schema"], schemas)
    answers = {status: found for status, found in operation["responses"].items() if int(status) < 300}
    typed = next((found["schema"] for found in _json_of(answers) if found.get("schema")), None)
    for answer in answers.values():
        for kind, content in (answer.get("content") or {}).items():
            if kind == "application/json" and typed and not content.get("schema"):
                content["schema"] = typed  # the same answer under another status
            if "example" not in content:
                content["example"] = _answer(name, kind, content.get("schema") or {}, schemas)


def _json_of(answers: Mapping[str, Json]) -> list[Json]:
    found = ((answer.get("content") or {}).get("application/json") for answer in answers.values())
    return [content for content in found if content]


def _request(operation: str, kind: str, schema: Json, schemas: Mapping[str, Json]) -> Any:
    if (operation, kind) in TEXTS:
        return TEXTS[operation, kind]
    if kind.startswith("text/"):
        return "done: 3 of 3 files"
    if schema.get("type") == "array":
        return [_request(operation, kind, schema["items"], schemas)]
    written = schema["$ref"].rsplit("/", 1)[-1]
    name = written.rstrip("0123456789")  # schemas of one name are numbered
    fields: Json = schemas[written].get("properties", {})
    wanted = REQUESTS.get(name) or REQUESTS.get(f"{name.removeprefix('New')}In", {})
    needed = schemas[written].get("required", ())
    return {field: _value(field, fields[field], schemas) for field in needed if field not in wanted} | wanted


def _answer(operation: str, kind: str, schema: Json, schemas: Mapping[str, Json]) -> Any:
    if kind.startswith("text/"):
        return TEXTS.get((operation, kind), "OK")
    return _value("", schema, schemas)


def _value(name: str, schema: Json, schemas: Mapping[str, Json], *, of: str = "") -> Any:
    """A value of this schema, for a field of this name; ``of``: the schema's own name."""
    if "$ref" in schema:
        written = schema["$ref"].rsplit("/", 1)[-1]
        return _value(name, schemas[written], schemas, of=written.rsplit(".", 1)[-1])
    if "enum" in schema or "const" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    if schema.get("examples"):
        return schema["examples"][0]
    if "anyOf" in schema:
        return _of_several(name, schema["anyOf"], schemas)
    kind = schema.get("type")
    if schema.get("format") in _OF_FORMAT:
        return _OF_FORMAT[schema["format"]]
    fits = [one for one in _OF_NAME.get(name, ()) if _is_of(one, kind)]
    if fits and (kind != "array" or not fits[0] or "$ref" not in schema.get("items", {})):
        return fits[0]
    if kind == "object":
        properties: Json = schema.get("properties", {})
        if not properties and isinstance(of_all := schema.get("additionalProperties"), dict):
            return {"database": _value("", of_all, schemas)}
        return {
            field: _OF_FIELD[f"{of}.{field}"] if f"{of}.{field}" in _OF_FIELD else _value(field, one, schemas)
            for field, one in properties.items()
        }
    if kind == "array":
        return [_value(name.removesuffix("s"), schema.get("items", {}), schemas)]
    return {"string": "…", "integer": 1, "number": 1.0, "boolean": name not in _FALSE}.get(kind or "")


def _of_several(name: str, ways: list[Json], schemas: Mapping[str, Json]) -> Any:
    """A field that may be null is so, unless there is something to show."""
    nullable = any(way.get("type") == "null" for way in ways)
    first = next(way for way in ways if way.get("type") != "null")
    if nullable and name not in _OF_NAME and first.get("type") != "array" and "$ref" not in first:
        return None
    return _value(name, first, schemas)


def _is_of(value: Any, kind: str | None) -> bool:
    return kind is None or any(kind == name and isinstance(value, type_) for name, type_ in _JSON_TYPES)
