"""Alerts, and how people hear of them."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import Date

from medic.db import Base, BigId
from medic.models.monitoring import name_check


class Alert(Base):
    """A service is failing.  One is open per service; it carries the set of reasons."""

    __tablename__ = "alerts"

    id: Mapped[BigId] = mapped_column(Identity())
    service_id: Mapped[int | None] = mapped_column(ForeignKey("services.id", ondelete="SET NULL"))
    service_name: Mapped[str]
    priority: Mapped[str]
    reasons: Mapped[list[str]]
    opened_at: Mapped[datetime]
    detected_at: Mapped[datetime]
    acknowledged_at: Mapped[datetime | None]
    acknowledged_by: Mapped[str | None]
    resolved_at: Mapped[datetime | None]
    resolution: Mapped[str | None]
    resolved_by: Mapped[str | None]
    note: Mapped[str | None]
    # The reasons that people were told of; what is in `reasons` and not here is still to be told.
    told: Mapped[list[str]] = mapped_column(server_default=text("'{}'::text[]"))
    told_at: Mapped[datetime | None]
    # Why nobody is told now: the windows, mutes and parents that keep it back.
    held: Mapped[dict[str, Any] | None]

    __table_args__ = (
        CheckConstraint("told <@ ARRAY['missed', 'failed', 'overrun', 'too_few']", name="told"),
        CheckConstraint("cardinality(told) = 0 OR told_at IS NOT NULL", name="told_with_time"),
        CheckConstraint("reasons <@ ARRAY['missed', 'failed', 'overrun', 'too_few']", name="reasons"),
        CheckConstraint("resolved_at IS NOT NULL OR cardinality(reasons) > 0", name="open_has_reason"),
        CheckConstraint("resolved_at IS NOT NULL OR service_id IS NOT NULL", name="open_has_service"),
        CheckConstraint("(resolved_at IS NULL) = (resolution IS NULL)", name="resolution_with_time"),
        CheckConstraint(
            "resolution IN ('recovered', 'run_ended', 'paused', 'deleted', 'manual', 'policy_changed')",
            name="resolution",
        ),
        CheckConstraint(
            "(acknowledged_at IS NULL) = (acknowledged_by IS NULL)", name="acknowledged_by_someone"
        ),
        CheckConstraint("priority IN ('p1', 'p2', 'p3', 'p4', 'p5')", name="priority"),
        Index(
            "uq_alerts_service_open", "service_id", unique=True, postgresql_where=text("resolved_at IS NULL")
        ),
        Index("ix_alerts_service", "service_id", "id"),
        Index("ix_alerts_resolved_at", "resolved_at"),
    )


class AlertTransition(Base):
    """What happened to an alert, with the evidence that decided it."""

    __tablename__ = "alert_transitions"

    id: Mapped[BigId] = mapped_column(Identity())
    alert_id: Mapped[int] = mapped_column(ForeignKey("alerts.id", ondelete="CASCADE"), index=True)
    kind: Mapped[str]
    reason: Mapped[str | None]
    at: Mapped[datetime]
    recorded_at: Mapped[datetime]
    actor: Mapped[str | None]
    evidence: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))

    __table_args__ = (
        CheckConstraint(
            "kind IN ('opened', 'reason_joined', 'reason_cleared', 'renotified', 'acknowledged', 'escalated',"
            " 'resolved', 'corrected')",
            name="kind",
        ),
        CheckConstraint("reason IN ('missed', 'failed', 'overrun', 'too_few')", name="reason"),
    )


class AlertRoute(Base):
    """A route that an alert went out by, and the level of escalation that it reached there."""

    __tablename__ = "alert_routes"

    alert_id: Mapped[int] = mapped_column(ForeignKey("alerts.id", ondelete="CASCADE"), primary_key=True)
    route_id: Mapped[int] = mapped_column(
        ForeignKey("routes.id", ondelete="CASCADE"), primary_key=True, index=True
    )
    level: Mapped[int] = mapped_column(Integer, server_default="0")
    level_at: Mapped[datetime]

    __table_args__ = (CheckConstraint("level >= 0", name="level"),)


class SelfAlert(Base):
    """Medic about itself: it cannot hear, say.  One row for each thing that can be wrong."""

    __tablename__ = "self_alerts"

    name: Mapped[str] = mapped_column(primary_key=True)
    opened_at: Mapped[datetime]
    told_at: Mapped[datetime | None]
    resolved_at: Mapped[datetime | None]
    detail: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))

    __table_args__ = (name_check(), CheckConstraint("resolved_at >= opened_at", name="ordered"))


class Team(Base):
    """Who looks after services; owns one ping key."""

    __tablename__ = "teams"

    id: Mapped[BigId] = mapped_column(Identity())
    name: Mapped[str] = mapped_column(unique=True)
    description: Mapped[str] = mapped_column(server_default="")
    ping_key_digest: Mapped[bytes | None] = mapped_column(LargeBinary, unique=True)
    ping_key_creates: Mapped[bool] = mapped_column(server_default=text("false"))
    version: Mapped[int] = mapped_column(BigInteger, server_default="1")
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))

    __table_args__ = (name_check(),)


class Calendar(Base):
    """Working hours: per weekday a list of ``[start, end)`` minutes, and holidays."""

    __tablename__ = "calendars"

    id: Mapped[BigId] = mapped_column(Identity())
    name: Mapped[str] = mapped_column(unique=True)
    timezone: Mapped[str] = mapped_column(server_default="UTC")
    hours: Mapped[dict[str, Any]]
    holidays: Mapped[list[date]] = mapped_column(ARRAY(Date), server_default=text("'{}'::date[]"))
    version: Mapped[int] = mapped_column(BigInteger, server_default="1")
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))

    __table_args__ = (name_check(),)


class Target(Base):
    """Where a notification goes.  ``sealed`` holds what of its configuration is secret."""

    __tablename__ = "targets"

    id: Mapped[BigId] = mapped_column(Identity())
    name: Mapped[str] = mapped_column(unique=True)
    kind: Mapped[str]
    config: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    sealed: Mapped[bytes | None] = mapped_column(LargeBinary)
    per_minute: Mapped[int] = mapped_column(Integer, server_default="30")
    disabled_at: Mapped[datetime | None]
    disabled_reason: Mapped[str | None]
    version: Mapped[int] = mapped_column(BigInteger, server_default="1")
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))

    __table_args__ = (
        name_check(),
        CheckConstraint("kind IN ('slack', 'pagerduty', 'webhook', 'email', 'apprise')", name="kind"),
        CheckConstraint("per_minute >= 1", name="per_minute"),
        CheckConstraint("(disabled_at IS NULL) = (disabled_reason IS NULL)", name="disabled_with_reason"),
    )


class Route(Base):
    """Which alerts go to which targets, and when."""

    __tablename__ = "routes"

    id: Mapped[BigId] = mapped_column(Identity())
    name: Mapped[str] = mapped_column(unique=True)
    position: Mapped[int] = mapped_column(Integer, server_default="100")
    is_default: Mapped[bool] = mapped_column(server_default=text("false"))
    match: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    period: Mapped[str] = mapped_column(server_default="always")
    calendar_id: Mapped[int | None] = mapped_column(
        ForeignKey("calendars.id", ondelete="RESTRICT"), index=True
    )
    mode: Mapped[str] = mapped_column(server_default="notify_all")
    escalate_after_s: Mapped[int | None] = mapped_column(Integer)
    enabled: Mapped[bool] = mapped_column(server_default=text("true"))
    version: Mapped[int] = mapped_column(BigInteger, server_default="1")
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))

    __table_args__ = (
        name_check(),
        CheckConstraint("period IN ('always', 'during_hours', 'after_hours')", name="period"),
        CheckConstraint("period = 'always' OR calendar_id IS NOT NULL", name="hours_need_calendar"),
        CheckConstraint("mode IN ('notify_all', 'notify_until_success')", name="mode"),
        CheckConstraint("escalate_after_s >= 60", name="escalate_after"),
        Index("uq_routes_default", "is_default", unique=True, postgresql_where=text("is_default")),
    )


class RouteTarget(Base):
    """A target of a route, by level of escalation and order."""

    __tablename__ = "route_targets"

    route_id: Mapped[int] = mapped_column(ForeignKey("routes.id", ondelete="CASCADE"), primary_key=True)
    target_id: Mapped[int] = mapped_column(
        ForeignKey("targets.id", ondelete="CASCADE"), primary_key=True, index=True
    )
    level: Mapped[int] = mapped_column(Integer, primary_key=True, server_default="0")
    position: Mapped[int] = mapped_column(Integer, server_default="0")

    __table_args__ = (CheckConstraint("level >= 0 AND position >= 0", name="order"),)


class Delivery(Base):
    """One notification to one target; an outbox row with its own lease."""

    __tablename__ = "deliveries"

    id: Mapped[BigId] = mapped_column(Identity())
    uuid: Mapped[UUID] = mapped_column(Uuid, unique=True)
    target_id: Mapped[int | None] = mapped_column(ForeignKey("targets.id", ondelete="SET NULL"), index=True)
    route_id: Mapped[int | None] = mapped_column(ForeignKey("routes.id", ondelete="SET NULL"), index=True)
    alert_id: Mapped[int | None] = mapped_column(ForeignKey("alerts.id", ondelete="CASCADE"), index=True)
    transition_id: Mapped[int | None] = mapped_column(
        ForeignKey("alert_transitions.id", ondelete="CASCADE"), index=True
    )
    kind: Mapped[str]
    level: Mapped[int] = mapped_column(Integer, server_default="0")
    # The place in its route's order: with `notify_until_success` the next one follows when this one fails.
    position: Mapped[int] = mapped_column(Integer, server_default="0")
    # The delivery whose message told this one along: many alerts within 30 s are one message.
    carried_by: Mapped[int | None] = mapped_column(
        BigInteger, ForeignKey("deliveries.id", ondelete="SET NULL"), index=True
    )
    state: Mapped[str] = mapped_column(server_default="pending")
    due_at: Mapped[datetime | None]
    epoch: Mapped[int] = mapped_column(Integer, server_default="0")
    owner: Mapped[UUID | None] = mapped_column(Uuid)
    tries: Mapped[int] = mapped_column(Integer, server_default="0")
    payload: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    receipt: Mapped[dict[str, Any] | None]
    error: Mapped[str | None]
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint(
            "kind IN ('opened', 'reason_joined', 'renotified', 'acknowledged', 'escalated', 'resolved', 'notice',"
            " 'test')",
            name="kind",
        ),
        CheckConstraint("state IN ('pending', 'delivered', 'failed', 'suppressed')", name="state"),
        CheckConstraint("(state = 'pending') = (due_at IS NOT NULL)", name="pending_is_due"),
        CheckConstraint("(state = 'pending') = (finished_at IS NULL)", name="final_has_end"),
        CheckConstraint("owner IS NULL OR state = 'pending'", name="owned_is_pending"),
        UniqueConstraint("transition_id", "target_id", "level"),
        Index("ix_deliveries_due", "due_at", postgresql_where=text("due_at IS NOT NULL")),
        Index("ix_deliveries_finished", "finished_at"),
        # What a target was sent within the last minute: its budget.
        Index("ix_deliveries_target_finished", "target_id", "finished_at"),
    )


class Window(Base):
    """Planned maintenance: once, or by cron with a duration, for services, tags, or all."""

    __tablename__ = "windows"

    id: Mapped[BigId] = mapped_column(Identity())
    name: Mapped[str] = mapped_column(unique=True)
    reason: Mapped[str] = mapped_column(server_default="")
    starts_at: Mapped[datetime | None]
    ends_at: Mapped[datetime | None]
    cron: Mapped[str | None]
    duration_s: Mapped[int | None] = mapped_column(Integer)
    timezone: Mapped[str] = mapped_column(server_default="UTC")
    selector: Mapped[dict[str, Any]]
    notices: Mapped[bool] = mapped_column(server_default=text("false"))
    due_at: Mapped[datetime | None]
    created_by: Mapped[str]
    version: Mapped[int] = mapped_column(BigInteger, server_default="1")
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))

    __table_args__ = (
        name_check(),
        CheckConstraint("(cron IS NULL) = (duration_s IS NULL)", name="cron_with_duration"),
        CheckConstraint(
            "cron IS NOT NULL OR (starts_at IS NOT NULL AND ends_at IS NOT NULL)", name="once_or_cron"
        ),
        CheckConstraint("ends_at > starts_at", name="ordered"),
        CheckConstraint("duration_s >= 60", name="duration"),
        Index("ix_windows_due", "due_at", postgresql_where=text("due_at IS NOT NULL")),
    )


class Mute(Base):
    """Somebody asked for quiet, with a reason, until an end."""

    __tablename__ = "mutes"

    id: Mapped[BigId] = mapped_column(Identity())
    service_id: Mapped[int] = mapped_column(ForeignKey("services.id", ondelete="CASCADE"), index=True)
    reason: Mapped[str]
    created_by: Mapped[str]
    created_at: Mapped[datetime]
    ends_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    ended_by: Mapped[str | None]
    due_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint("ends_at > created_at", name="ordered"),
        CheckConstraint("(ended_at IS NULL) = (due_at IS NOT NULL)", name="open_is_due"),
        Index("ix_mutes_due", "due_at", postgresql_where=text("due_at IS NOT NULL")),
    )
