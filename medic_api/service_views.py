"""What a service looks like: what people send, and what Medic answers."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator
from sqlalchemy.orm import Session

from medic import runs, services
from medic.dependencies import names_around
from medic.models.monitoring import Service, ServiceState
from medic.service_policy import DEFAULT_GRACE_S, Policy
from medic_api.fields import Answer, Duration, Name, NewName, Page, Request, Text, Time
from medic_api.guard import services as shared

Priority = Literal["p1", "p2", "p3", "p4", "p5"]


class PolicyIn(Request):
    """How a service is watched: exactly one of `every`, `cron`, `on_calendar`, or `at_least` + `within`."""

    every: Duration | None = None
    cron: Text | None = Field(None, max_length=200, examples=["30 2 * * *"])
    on_calendar: Text | None = Field(None, max_length=200, examples=["Mon..Fri 09:00"])
    at_least: int | None = Field(None, ge=1, le=1_000_000)
    within: Duration | None = None
    timezone: Text | None = Field(None, max_length=64, examples=["Europe/Berlin"])
    grace: Duration | None = Field(None, description="Default 1m.")
    max_runtime: Duration | None = None
    failure_threshold: int = Field(1, ge=1, le=1000)
    recovery_threshold: int = Field(1, ge=1, le=1000)
    renotify_every: Duration | None = None
    priority: Priority = "p3"
    tags: list[Name] = Field(default_factory=list, max_length=50)
    runbook_url: Text | None = Field(None, max_length=2048, pattern="^https?://")
    description: Text = Field("", max_length=10_000)
    playbooks: Literal["all", "first"] = Field("all", description="Which of several matching playbooks run.")
    team: Name | None = None
    depends_on: list[Name] = Field(default_factory=list, max_length=50)
    paused: bool = False

    @model_validator(mode="after")
    def _one_schedule(self) -> PolicyIn:
        given = [
            kind for kind in ("every", "cron", "on_calendar", "at_least") if getattr(self, kind) is not None
        ]
        if len(given) != 1:
            raise ValueError("give exactly one of every, cron, on_calendar, or at_least with within")
        if (self.at_least is None) != (self.within is None):
            raise ValueError("at_least and within go together")
        return self

    @field_validator("every", "within", "max_runtime")
    @classmethod
    def _not_zero(cls, value: timedelta | None) -> timedelta | None:
        if value is not None and value < timedelta(seconds=1):
            raise ValueError("must be 1s or more")
        return value

    @field_validator("renotify_every")
    @classmethod
    def _not_often(cls, value: timedelta | None) -> timedelta | None:
        if value is not None and value < timedelta(minutes=1):
            raise ValueError("must be 1m or more")
        return value

    def policy(self) -> Policy:
        return Policy(
            every_s=_seconds(self.every),
            cron=self.cron,
            on_calendar=self.on_calendar,
            at_least=self.at_least,
            within_s=_seconds(self.within),
            timezone=self.timezone or shared().settings.timezone,
            grace_s=DEFAULT_GRACE_S if self.grace is None else int(self.grace.total_seconds()),
            max_runtime_s=_seconds(self.max_runtime),
            failure_threshold=self.failure_threshold,
            recovery_threshold=self.recovery_threshold,
            renotify_every_s=_seconds(self.renotify_every),
            priority=self.priority,
            tags=tuple(dict.fromkeys(self.tags)),
            runbook_url=self.runbook_url,
            description=self.description,
            playbook_policy=self.playbooks,
            team=self.team,
            depends_on=tuple(dict.fromkeys(self.depends_on)),
        )


class ServiceIn(PolicyIn):
    """A service to make."""

    name: NewName


class ServiceOut(Answer):
    """A service: its policy and its state."""

    id: int
    uuid: str
    name: str
    ping_url: str
    every: Duration | None
    cron: str | None
    on_calendar: str | None
    at_least: int | None
    within: Duration | None
    timezone: str
    grace: Duration
    max_runtime: Duration | None
    failure_threshold: int
    recovery_threshold: int
    renotify_every: Duration | None
    priority: Priority
    tags: list[str]
    runbook_url: str | None
    description: str
    playbooks: str
    team: str | None
    depends_on: list[str]
    paused: bool
    version: int
    status: Literal["new", "up", "late", "down", "paused"]
    consecutive_failures: int
    last_success_at: Time | None
    last_signal_at: Time | None
    last_signal: str | None
    open_runs: int = Field(description="Runs that began and have not ended.")
    due_at: Time | None = Field(description="When Medic looks at it next.")
    set_aside_at: Time | None = Field(
        description="When Medic could not judge it and put it aside for 5 minutes; the cause is in the log."
    )
    created_at: Time


class ServicePage(Answer):
    items: list[ServiceOut]
    next: str | None


class ServiceQuery(Page):
    status: Literal["new", "up", "late", "down", "paused"] | None = None
    tag: Name | None = None


class HeartbeatView(Answer):
    id: int
    kind: str
    received_at: Time
    event_at: Time
    run_id: str | None
    duration_ms: int | None
    exit_code: int | None
    message: str | None
    metrics: dict[str, float] | None


class HeartbeatPage(Answer):
    items: list[HeartbeatView]
    next: str | None


class RunView(Answer):
    id: int
    run_id: str | None
    state: Literal["open", "completed", "failed", "lost"]
    started_at: Time
    ended_at: Time | None
    duration_ms: int | None
    exit_code: int | None


class RunPage(Answer):
    items: list[RunView]
    next: str | None


def _seconds(value: Any) -> int | None:
    return None if value is None else int(value.total_seconds())


def shown(session: Session, name: str) -> dict[str, Any]:
    service, state = services.find(session, name)
    open_runs = runs.open_counts(session, [service.id])
    return view(service, state, *names_around(session, service), open_runs.get(service.id, 0))


def view(
    service: Service, state: ServiceState, team: str | None, parents: tuple[str, ...], open_runs: int
) -> dict[str, Any]:
    base = shared().settings.base_url.rstrip("/")
    return {
        "id": service.id,
        "uuid": str(service.uuid),
        "name": service.name,
        "ping_url": f"{base}/ping/{service.uuid}",
        "every": service.every_s,
        "cron": service.cron,
        "on_calendar": service.on_calendar,
        "at_least": service.at_least,
        "within": service.within_s,
        "timezone": service.timezone,
        "grace": service.grace_s,
        "max_runtime": service.max_runtime_s,
        "failure_threshold": service.failure_threshold,
        "recovery_threshold": service.recovery_threshold,
        "renotify_every": service.renotify_every_s,
        "priority": service.priority,
        "tags": service.tags,
        "runbook_url": service.runbook_url,
        "description": service.description,
        "playbooks": service.playbook_policy,
        "team": team,
        "depends_on": list(parents),
        "paused": service.paused_at is not None,
        "version": service.policy_version,
        "status": state.status,
        "consecutive_failures": state.failures,
        "last_success_at": state.last_success_at,
        "last_signal_at": state.last_signal_at,
        "last_signal": state.last_signal_kind,
        "open_runs": open_runs,
        "due_at": state.due_at,
        "set_aside_at": state.carried.get("set_aside_at"),
        "created_at": service.created_at,
    }
