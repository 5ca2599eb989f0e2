"""What a condition may ask: as parsed, and with its values in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from medic.errors import Invalid
from medic.playbook.scope import Json, Scope
from medic.steps.answer import Expected, Success
from medic.steps.request import Request, RequestSpec
from medic.times import format_duration


@dataclass(frozen=True, slots=True)
class HeartbeatReceived:
    """`service_id` None means the execution's service; `since` names a step."""

    min_count: int
    status: str | None
    service_id: int | None
    since: str | None


@dataclass(frozen=True, slots=True)
class AlertResolved:
    pass


@dataclass(frozen=True, slots=True)
class HttpAnswers:
    request: RequestSpec
    success: Success
    interval: timedelta


Spec: TypeAlias = HeartbeatReceived | AlertResolved | HttpAnswers


@dataclass(frozen=True, slots=True)
class RenderedHeartbeat:
    service_id: int
    min_count: int
    status: str | None
    since: str | None

    @property
    def shown(self) -> dict[str, Json]:
        return {
            "check": "heartbeat_received",
            "service_id": self.service_id,
            "min_count": self.min_count,
            "status": self.status,
            "since": self.since,
        }


@dataclass(frozen=True, slots=True)
class RenderedAlert:
    alert_id: int

    @property
    def shown(self) -> dict[str, Json]:
        return {"check": "alert_resolved", "alert_id": self.alert_id}


@dataclass(frozen=True, slots=True)
class RenderedHttp:
    request: Request
    expected: Expected
    interval: timedelta

    @property
    def shown(self) -> dict[str, Json]:
        return {"check": "http", "interval": format_duration(self.interval), **self.request.shown}


RenderedCheck: TypeAlias = RenderedHeartbeat | RenderedAlert | RenderedHttp


def render_heartbeat(spec: HeartbeatReceived, scope: Scope) -> RenderedHeartbeat:
    """A service that the step names wins over the execution's own.

    :raises Invalid: when there is neither.
    """
    service = spec.service_id or _number(scope.variables.get("SERVICE_ID"))
    if service is None:
        raise Invalid.at("parameters.service_id", "is needed: this execution is about no service")
    return RenderedHeartbeat(service, spec.min_count, spec.status, spec.since)


def render_alert(scope: Scope) -> RenderedAlert:
    """:raises Invalid: when the execution is about no alert."""
    alert = _number(scope.variables.get("ALERT_ID"))
    if alert is None:
        raise Invalid.at("check", "alert_resolved needs an alert, and this execution is about none")
    return RenderedAlert(alert)


def _number(value: Json) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value) else None
