"""What people decided about an object, as the body of the API's PUT says it: what a snapshot keeps.

Nothing secret is in one: of a target's secrets there are the names, of a team's ping key and a hook nothing, of a playbook its YAML, which
names secrets and never holds one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from medic.models.alerting import Calendar, Route, Target, Team, Window
from medic.models.monitoring import Service
from medic.models.playbooks import Hook, PlaybookVersion, Trigger
from medic.times import format_duration, format_time

Document = dict[str, Any]


def of_service(service: Service, *, team: str | None, parents: Sequence[str]) -> Document:
    """A service's policy; its ``uuid`` too, so that one that comes back keeps its ping URL."""
    return _given(
        every=_duration(service.every_s), cron=service.cron, on_calendar=service.on_calendar,
        at_least=service.at_least, within=_duration(service.within_s), timezone=service.timezone,
        grace=_duration(service.grace_s), max_runtime=_duration(service.max_runtime_s),
        failure_threshold=service.failure_threshold, recovery_threshold=service.recovery_threshold,
        renotify_every=_duration(service.renotify_every_s), priority=service.priority, tags=list(service.tags),
        runbook_url=service.runbook_url, description=service.description, playbooks=service.playbook_policy,
        team=team, depends_on=sorted(parents), paused=service.paused_at is not None, uuid=str(service.uuid),
    )  # fmt: skip


def of_route(route: Route, *, calendar: str | None, levels: Sequence[Sequence[str]]) -> Document:
    return _given(
        levels=[list(level) for level in levels], match=dict(route.match), position=route.position,
        enabled=route.enabled, default=route.is_default, period=route.period, calendar=calendar, mode=route.mode,
        escalate_after=_duration(route.escalate_after_s),
    )  # fmt: skip


def of_target(target: Target, *, secrets: Sequence[str]) -> Document:
    """A target; ``secrets`` are the names of those that are set."""
    return _given(
        kind=target.kind,
        config=dict(target.config),
        secrets=sorted(secrets),
        per_minute=target.per_minute,
    )


def of_team(team: Team) -> Document:
    return {"description": team.description, "ping_key_creates": team.ping_key_creates}


def of_calendar(calendar: Calendar) -> Document:
    return _given(
        timezone=calendar.timezone,
        hours=dict(calendar.hours),
        holidays=[day.isoformat() for day in calendar.holidays],
    )


def of_window(window: Window) -> Document:
    return _given(
        selector=dict(window.selector), reason=window.reason,
        starts_at=format_time(window.starts_at) if window.starts_at else None,
        ends_at=format_time(window.ends_at) if window.ends_at else None,
        cron=window.cron, duration=_duration(window.duration_s),
        timezone=window.timezone if window.cron else None, notices=window.notices,
    )  # fmt: skip


def of_playbook(version: PlaybookVersion) -> Document:
    return {"source": version.source}


def of_trigger(trigger: Trigger, *, playbook: str, hook: Hook | None) -> Document:
    """A trigger that was made by API; only the fields of its kind, as the API takes no others."""
    common = _given(
        playbook=playbook, kind=trigger.kind, mode=trigger.mode, enabled=trigger.enabled,
        variables=dict(trigger.variables), cooldown=_duration(trigger.cooldown_s),
    )  # fmt: skip
    if trigger.kind == "alert":
        return common | _given(
            service_pattern=trigger.service_pattern, tags=list(trigger.tags), priorities=list(trigger.priorities),
            reasons=list(trigger.reasons), consecutive_failures=trigger.consecutive_failures,
            position=trigger.position, repeat_every=_duration(trigger.repeat_every_s),
        )  # fmt: skip
    if trigger.kind == "schedule":
        return common | _given(
            service=trigger.service_pattern,
            cron=trigger.cron,
            timezone=trigger.timezone,
            catch_up=_duration(trigger.catch_up_s),
        )
    assert hook is not None
    mapping: Mapping[str, Any] = hook.mapping
    names_itself = mapping.get("service") is not None
    return common | _given(
        service=None if names_itself else trigger.service_pattern,
        service_pattern=trigger.service_pattern if names_itself else None,
        service_from=mapping.get("service"), verification=hook.verification,
        mapping=dict(mapping.get("variables", {})), on_resolved=hook.on_resolved,
        repeat_every=_duration(trigger.repeat_every_s),
    )  # fmt: skip


def _given(**fields: Any) -> Document:
    return {name: value for name, value in fields.items() if value is not None}


def _duration(seconds: int | None) -> str | None:
    return None if seconds is None else format_duration(timedelta(seconds=seconds))
