"""What is watched: services, their hot state, heartbeats, runs, and Medic's own coverage."""

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
    SmallInteger,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from medic.db import Base, BigId

NAME_PATTERN = "^[a-z0-9][a-z0-9._-]{0,127}$"


def name_check(column: str = "name") -> CheckConstraint:
    return CheckConstraint(f"{column} ~ '{NAME_PATTERN}'", name=column)


class Service(Base):
    """Policy of what is watched.  Written by people; ``policy_version`` is its ETag."""

    __tablename__ = "services"

    id: Mapped[BigId] = mapped_column(Identity())
    uuid: Mapped[UUID] = mapped_column(Uuid, unique=True)
    name: Mapped[str] = mapped_column(unique=True)
    legacy_name: Mapped[str | None]
    description: Mapped[str] = mapped_column(server_default="")
    every_s: Mapped[int | None] = mapped_column(Integer)
    cron: Mapped[str | None]
    on_calendar: Mapped[str | None]
    at_least: Mapped[int | None] = mapped_column(Integer)
    within_s: Mapped[int | None] = mapped_column(Integer)
    timezone: Mapped[str] = mapped_column(server_default="UTC")
    grace_s: Mapped[int] = mapped_column(Integer, server_default="60")
    max_runtime_s: Mapped[int | None] = mapped_column(Integer)
    failure_threshold: Mapped[int] = mapped_column(Integer, server_default="1")
    recovery_threshold: Mapped[int] = mapped_column(Integer, server_default="1")
    renotify_every_s: Mapped[int | None] = mapped_column(Integer)
    priority: Mapped[str] = mapped_column(server_default="p3")
    team_id: Mapped[int | None] = mapped_column(ForeignKey("teams.id", ondelete="SET NULL"), index=True)
    tags: Mapped[list[str]] = mapped_column(server_default=text("'{}'::text[]"))
    runbook_url: Mapped[str | None]
    playbook_policy: Mapped[str] = mapped_column(server_default="all")
    paused_at: Mapped[datetime | None]
    policy_version: Mapped[int] = mapped_column(BigInteger, server_default="1")
    policy_since: Mapped[datetime] = mapped_column(server_default=text("now()"))
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    updated_at: Mapped[datetime] = mapped_column(server_default=text("now()"))

    __table_args__ = (
        name_check(),
        # A bare number would read as an exit code in a path, the words as a signal.
        CheckConstraint(
            "name !~ '^[0-9]+$' AND name NOT IN ('batch', 'start', 'complete', 'fail', 'log')", name="name_free"
        ),
        CheckConstraint("num_nonnulls(every_s, cron, on_calendar, at_least) = 1", name="one_schedule"),
        CheckConstraint("(at_least IS NULL) = (within_s IS NULL)", name="at_least_within"),
        CheckConstraint("every_s >= 1 AND within_s >= 1 AND at_least >= 1", name="schedule_positive"),
        CheckConstraint("grace_s >= 0 AND max_runtime_s >= 1 AND renotify_every_s >= 60", name="durations"),
        CheckConstraint("failure_threshold BETWEEN 1 AND 1000", name="failure_threshold"),
        CheckConstraint("recovery_threshold BETWEEN 1 AND 1000", name="recovery_threshold"),
        CheckConstraint("priority IN ('p1', 'p2', 'p3', 'p4', 'p5')", name="priority"),
        CheckConstraint("playbook_policy IN ('all', 'first')", name="playbook_policy"),
        Index("ix_services_tags", "tags", postgresql_using="gin"),
        Index("uq_services_legacy_name", text("lower(legacy_name)"), unique=True,
              postgresql_where=text("legacy_name IS NOT NULL")),
    )  # fmt: skip


class ServiceDependency(Base):
    """A service whose alerts are quiet while its parent is down."""

    __tablename__ = "service_dependencies"

    service_id: Mapped[int] = mapped_column(ForeignKey("services.id", ondelete="CASCADE"), primary_key=True)
    parent_id: Mapped[int] = mapped_column(
        ForeignKey("services.id", ondelete="CASCADE"), primary_key=True, index=True
    )

    __table_args__ = (CheckConstraint("service_id <> parent_id", name="not_itself"),)


class ServiceState(Base):
    """The hot row of a service: what ingest and the sweep write, and nothing else.

    ``due_at`` is the next moment at which the verdict can change.  While ``quiet``, ingest may push it
    ahead by itself; in every other case only the sweep computes it.
    """

    __tablename__ = "service_states"

    service_id: Mapped[int] = mapped_column(
        BigInteger, ForeignKey("services.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    status: Mapped[str] = mapped_column(server_default="new")
    due_at: Mapped[datetime | None]
    quiet: Mapped[bool] = mapped_column(server_default=text("false"))
    policy_version: Mapped[int] = mapped_column(BigInteger, server_default="1")
    last_success_at: Mapped[datetime | None]
    # For display: the newest signal of any kind, whether it was judged or not.
    last_signal_at: Mapped[datetime | None]
    last_signal_kind: Mapped[str | None]
    failures: Mapped[int] = mapped_column(Integer, server_default="0")
    successes: Mapped[int] = mapped_column(Integer, server_default="0")
    # The cursor: signals up to this id are judged.  Ids grow in commit order within a service, as ingest
    # numbers them under this row's lock.
    folded_id: Mapped[int] = mapped_column(BigInteger, server_default="0")
    # Whatever else the evaluator carries from call to call; only the sweep reads and writes it.
    carried: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))

    __table_args__ = (
        CheckConstraint("status IN ('new', 'up', 'late', 'down', 'paused')", name="status"),
        CheckConstraint("failures >= 0 AND successes >= 0", name="counters"),
        CheckConstraint("NOT quiet OR (status = 'up' AND failures = 0)", name="quiet_is_up"),
        Index("ix_service_states_due", "due_at", postgresql_where=text("due_at IS NOT NULL")),
        # Every heartbeat rewrites a row here; room on the page keeps the rewrite off the primary key.
        {"postgresql_with": {"fillfactor": "50"}},
    )


class Heartbeat(Base):
    """One signal.  Partitioned by day of ``received_at``; no foreign key: deletion cleans up by task."""

    __tablename__ = "heartbeats"

    received_at: Mapped[datetime] = mapped_column(primary_key=True)
    # A serial, as partitioned tables have identity columns only since PostgreSQL 17.
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=True)
    service_id: Mapped[int] = mapped_column(BigInteger)
    kind: Mapped[str]
    event_at: Mapped[datetime]
    run_id: Mapped[str | None]
    duration_ms: Mapped[int | None] = mapped_column(BigInteger)
    exit_code: Mapped[int | None] = mapped_column(SmallInteger)
    message: Mapped[str | None]
    metrics: Mapped[dict[str, Any] | None]

    __table_args__ = (
        CheckConstraint("kind IN ('ok', 'start', 'complete', 'fail', 'log')", name="kind"),
        CheckConstraint("event_at <= received_at", name="event_not_later"),
        CheckConstraint("duration_ms >= 0", name="duration"),
        Index("ix_heartbeats_service_received", "service_id", "received_at"),
        {"postgresql_partition_by": "RANGE (received_at)"},
    )


class HeartbeatId(Base):
    """At most once per (service, id): a partitioned table cannot keep ids unique."""

    __tablename__ = "heartbeat_ids"

    service_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    id: Mapped[str] = mapped_column(primary_key=True)
    heartbeat_id: Mapped[int] = mapped_column(BigInteger)
    received_at: Mapped[datetime]

    __table_args__ = (
        CheckConstraint("length(id) BETWEEN 1 AND 200", name="length"),
        Index("ix_heartbeat_ids_received", "received_at"),
    )


class Run(Base):
    """Start … complete or fail of a job.  Every open run is watched."""

    __tablename__ = "runs"

    id: Mapped[BigId] = mapped_column(Identity())
    service_id: Mapped[int] = mapped_column(ForeignKey("services.id", ondelete="CASCADE"))
    run_id: Mapped[str | None]
    state: Mapped[str] = mapped_column(server_default="open")
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    duration_ms: Mapped[int | None] = mapped_column(BigInteger)
    exit_code: Mapped[int | None] = mapped_column(SmallInteger)
    # The signals that opened and ended it: the sweep judges runs as they stood at its cursor.
    start_id: Mapped[int | None] = mapped_column(BigInteger)
    end_id: Mapped[int | None] = mapped_column(BigInteger)

    __table_args__ = (
        CheckConstraint("state IN ('open', 'completed', 'failed', 'lost')", name="state"),
        CheckConstraint("(state = 'open') = (ended_at IS NULL)", name="open_has_no_end"),
        CheckConstraint("duration_ms >= 0", name="duration"),
        UniqueConstraint("service_id", "run_id"),
        Index("ix_runs_service_started", "service_id", "started_at"),
        Index("ix_runs_open", "service_id", "started_at", postgresql_where=text("state = 'open'")),
    )


class Coverage(Base):
    """Medic could hear from ``since`` until ``until`` through one ingest process."""

    __tablename__ = "coverage"

    process: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    since: Mapped[datetime] = mapped_column(primary_key=True)
    until: Mapped[datetime]
    # It stopped on purpose: what comes after is no blindness.
    closed: Mapped[bool] = mapped_column(server_default=text("false"))

    __table_args__ = (
        CheckConstraint("since <= until", name="ordered"),
        Index("ix_coverage_until", "until"),
    )


class Refusal(Base):
    """Heartbeats of one service that an ingest process refused between ``since`` and ``until``."""

    __tablename__ = "refusals"

    id: Mapped[BigId] = mapped_column(Identity())
    service_id: Mapped[int] = mapped_column(BigInteger)
    kind: Mapped[str]
    since: Mapped[datetime]
    until: Mapped[datetime]
    count: Mapped[int] = mapped_column(Integer)

    __table_args__ = (
        CheckConstraint("kind IN ('limit', 'queue')", name="kind"),
        CheckConstraint("since <= until AND count > 0", name="ordered"),
        Index("ix_refusals_service_until", "service_id", "until"),
        Index("ix_refusals_until", "until"),
    )


class Tick(Base):
    """The last tick of each beat job; surplus ticks lose the compare-and-set on it."""

    __tablename__ = "ticks"

    job: Mapped[str] = mapped_column(primary_key=True)
    last_at: Mapped[datetime]
    last_duration_ms: Mapped[int | None] = mapped_column(Integer)


class ServiceDay(Base):
    """How a service was on one day that is over, in UTC; outlives the heartbeats that tell of it.

    ``unknown_s`` is the time in which nobody watched: before its first success, paused, or Medic deaf.
    """

    __tablename__ = "service_days"

    service_id: Mapped[int] = mapped_column(
        BigInteger, ForeignKey("services.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    day: Mapped[date] = mapped_column(primary_key=True)
    up_s: Mapped[int] = mapped_column(Integer)
    down_s: Mapped[int] = mapped_column(Integer)
    unknown_s: Mapped[int] = mapped_column(Integer)
    alerts: Mapped[int] = mapped_column(Integer)
    heartbeats: Mapped[int] = mapped_column(BigInteger)

    __table_args__ = (
        CheckConstraint(
            "up_s >= 0 AND down_s >= 0 AND unknown_s >= 0 AND alerts >= 0 AND heartbeats >= 0", name="numbers"
        ),
        CheckConstraint("up_s + down_s + unknown_s = 86400", name="whole_day"),
        Index("ix_service_days_day", "day"),
    )
