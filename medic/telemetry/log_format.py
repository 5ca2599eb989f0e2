"""The two shapes of a log line: JSON after OpenTelemetry's log data model, and text.

JSON, one object a line (https://opentelemetry.io/docs/specs/otel/logs/data-model/)::

    {"Timestamp": "2026-11-23T09:30:00.000123Z", "SeverityText": "INFO", "SeverityNumber": 9,
     "Body": "alert.opened",
     "Resource": {"service.name": …, "service.version": …, "deployment.environment": …, "medic.component": …},
     "InstrumentationScope": {"Name": "medic.alerts"},
     "Attributes": {"service": "api", "request_id": …, "code.filepath": …, "exception.type": …},
     "TraceId": "32 hex", "SpanId": "16 hex"}

Text: ``time - logger - LEVEL - event name=value …``, then the traceback, if any.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
from collections.abc import MutableMapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, TypeAlias

from medic.telemetry.redaction import Json, redact, redact_fields
from medic.telemetry.traces import current_ids
from medic.times import format_time

Event: TypeAlias = MutableMapping[str, Any]

_SEVERITY: Final = ((logging.CRITICAL, 21), (logging.ERROR, 17), (logging.WARNING, 13), (logging.INFO, 9))
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_UNSAFE: Final = re.compile(r"[\s\"=]|" + _CONTROL.pattern)


def severity_number(level: int) -> int:
    """OpenTelemetry's number of a level of `logging`: 5, 9, 13, 17 or 21."""
    return next((number for least, number in _SEVERITY if level >= least), 5)


class JsonLine:
    """Renders an event of structlog as one line of JSON."""

    def __init__(self, resource: dict[str, str]) -> None:
        self._resource = resource

    def __call__(self, _logger: object, _method: str, event: Event) -> str:
        record: logging.LogRecord = event.pop("_record")
        body, attributes, failure = _parts(record, event)
        attributes |= {
            "code.filepath": record.pathname,
            "code.lineno": record.lineno,
            "code.function": record.funcName,
        }
        attributes |= failure
        line: dict[str, Json] = {
            "Timestamp": _timestamp(record),
            "SeverityText": record.levelname,
            "SeverityNumber": severity_number(record.levelno),
            "Body": body,
            "Resource": dict(self._resource),
            "InstrumentationScope": {"Name": record.name},
            "Attributes": attributes,
        }
        if ids := current_ids():
            line["TraceId"], line["SpanId"] = ids
        # ASCII, so that a lone surrogate from a client cannot stop the line at the stream's encoder.
        return json.dumps(line, separators=(",", ":"))


class TextLine:
    """Renders an event of structlog as a line for people."""

    def __call__(self, _logger: object, _method: str, event: Event) -> str:
        record: logging.LogRecord = event.pop("_record")
        body, attributes, failure = _parts(record, event)
        if ids := current_ids():
            attributes["trace_id"], attributes["span_id"] = ids
        stack = str(failure.pop("exception.stacktrace", ""))
        # A line break in a message would let a client write log lines of its own.
        body = _CONTROL.sub(lambda match: json.dumps(match[0])[1:-1], body)
        fields = "".join(f" {name}={_word(value)}" for name, value in (attributes | failure).items())
        line = f"{_timestamp(record)} - {record.name} - {record.levelname} - {body}{fields}"
        if stack:
            line += "\n" + stack.rstrip()
        return line.encode("utf-8", "backslashreplace").decode()


def _parts(record: logging.LogRecord, event: Event) -> tuple[str, dict[str, Json], dict[str, Json]]:
    """Body, attributes and what is known of the exception, all redacted."""
    event.pop("_from_structlog", None)
    body = redact(str(event.pop("event", "")))
    failure = _failure(event.pop("exc_info", None))
    stack = event.pop("stack_info", None)
    data = event.get("data")
    if record.name.startswith("celery.") and isinstance(data, dict) and "id" in data:
        # Celery repeats its message as a dict; of it, only whose task it was is worth a field.
        del event["data"]
        event.setdefault("task_id", data["id"])
        event.setdefault("task", data.get("name"))
    attributes = redact_fields(event)
    assert isinstance(attributes, dict)
    if isinstance(stack, str):
        attributes["code.stacktrace"] = redact(stack)
    return body, attributes, failure


def _failure(given: object) -> dict[str, Json]:
    """The exception as attributes; frames are shown without the values of their locals."""
    if not given:
        return {}
    error: BaseException | None
    trace: TracebackType | None
    if isinstance(given, BaseException):
        error, trace = given, given.__traceback__
    elif isinstance(given, tuple):
        _, error, trace = given
    else:
        _, error, trace = sys.exc_info()
    if error is None:
        return {}
    kind = type(error)
    try:
        stack = "".join(traceback.format_exception(kind, error, trace))
        message = str(error)
    except Exception:  # noqa: BLE001 - an exception that cannot print itself must not cost the line
        stack = message = f"<unprintable {kind.__name__}>"
    return {
        "exception.type": kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}",
        "exception.message": redact(message),
        "exception.stacktrace": redact(stack),
    }


def _timestamp(record: logging.LogRecord) -> str:
    return format_time(datetime.fromtimestamp(record.created, UTC))


def _word(value: Json) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if text and not _UNSAFE.search(text):
        return text
    return json.dumps(text, ensure_ascii=_CONTROL.search(text) is not None)
