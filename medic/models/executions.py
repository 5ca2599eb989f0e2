"""Executions: the rows that decide what runs next."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from medic.db import Base, BigId

FINAL = "('completed', 'failed', 'cancelled')"


class Execution(Base):
    """One running of a playbook version.  The row decides; messages are hints.

    ``due_at`` is "look at me again by then": outbox, lease, timer, back-off and deadline in one column.
    ``epoch`` is the fencing number; ``owner`` a fresh random token per claim, null when nobody acts.
    """

    __tablename__ = "executions"

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    playbook_id: Mapped[int] = mapped_column(BigInteger)
    playbook_version: Mapped[int] = mapped_column(Integer)
    playbook_name: Mapped[str]
    service_id: Mapped[int | None] = mapped_column(ForeignKey("services.id", ondelete="SET NULL"))
    service_name: Mapped[str | None]
    alert_id: Mapped[int | None] = mapped_column(ForeignKey("alerts.id", ondelete="SET NULL"))
    trigger_id: Mapped[int | None] = mapped_column(ForeignKey("triggers.id", ondelete="SET NULL"))
    started_by: Mapped[str]
    repeat_slot: Mapped[int] = mapped_column(Integer, server_default="0")
    mode: Mapped[str] = mapped_column(server_default="live")
    variables: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))

    state: Mapped[str]
    waiting_for: Mapped[str | None]
    next_step: Mapped[int] = mapped_column(Integer, server_default="0")
    step_count: Mapped[int] = mapped_column(Integer)
    epoch: Mapped[int] = mapped_column(Integer, server_default="0")
    owner: Mapped[UUID | None] = mapped_column(Uuid)
    due_at: Mapped[datetime | None]
    deadline_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    cancel_requested_by: Mapped[str | None]
    redispatches: Mapped[int] = mapped_column(Integer, server_default="0")
    dispatched_at: Mapped[datetime | None]
    last_task_id: Mapped[str | None]
    traceparent: Mapped[str | None]

    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    error: Mapped[dict[str, Any] | None]

    def look_again(self, at: datetime) -> None:
        """Set ``due_at``: the row's only timer, so never later than its deadline."""
        self.due_at = at if self.deadline_at is None else min(at, self.deadline_at)

    __table_args__ = (
        ForeignKeyConstraint(
            ["playbook_id", "playbook_version"],
            ["playbook_versions.playbook_id", "playbook_versions.version"],
            ondelete="RESTRICT",
        ),
        CheckConstraint(
            "state IN ('pending_approval', 'running', 'waiting', 'in_doubt', 'completed', 'failed', 'cancelled')",
            name="state",
        ),
        CheckConstraint(f"(state IN {FINAL}) = (due_at IS NULL)", name="live_is_due"),
        CheckConstraint(f"(state IN {FINAL}) = (finished_at IS NOT NULL)", name="final_has_end"),
        CheckConstraint("owner IS NULL OR state = 'running'", name="owned_is_running"),
        CheckConstraint("(state = 'waiting') = (waiting_for IS NOT NULL)", name="waits_for_something"),
        CheckConstraint(
            "waiting_for IN ('timer', 'condition', 'retry', 'concurrency', 'lock')", name="waiting_for"
        ),
        CheckConstraint("next_step BETWEEN 0 AND step_count", name="next_step"),
        CheckConstraint("epoch >= 0 AND redispatches >= 0", name="counters"),
        CheckConstraint("mode IN ('live', 'shadow')", name="mode"),
        Index("ix_executions_due", "due_at", postgresql_where=text("due_at IS NOT NULL")),
        Index("ix_executions_playbook", "playbook_id", "playbook_version"),
        Index("ix_executions_playbook_created", "playbook_id", "created_at"),
        Index("ix_executions_service", "service_id", "created_at"),
        Index("ix_executions_alert", "alert_id"),
        # The partial index below does not serve the deletion of a trigger.
        Index("ix_executions_trigger", "trigger_id"),
        Index("ix_executions_finished", "finished_at"),
        Index("uq_executions_once_per_alert", "trigger_id", "alert_id", "repeat_slot", unique=True,
              postgresql_where=text("trigger_id IS NOT NULL AND alert_id IS NOT NULL")),
    )  # fmt: skip


class ExecutionStep(Base):
    """A step of an execution, where it stands, and what it gave."""

    __tablename__ = "execution_steps"

    execution_id: Mapped[UUID] = mapped_column(
        ForeignKey("executions.id", ondelete="CASCADE"), primary_key=True
    )
    position: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    name: Mapped[str]
    type: Mapped[str]
    state: Mapped[str] = mapped_column(server_default="pending")
    tries: Mapped[int] = mapped_column(Integer, server_default="0")
    losses: Mapped[int] = mapped_column(Integer, server_default="0")
    parked_at: Mapped[datetime | None]
    # A condition that only reads the database: the due sweep judges it set-based.
    check: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    # Since when nobody knows whether the step happened, and until when its probe asks: `medic.probing`.
    doubt: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    output: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    error: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))

    __table_args__ = (
        CheckConstraint(
            "state IN ('pending', 'running', 'waiting', 'completed', 'failed', 'skipped', 'in_doubt', 'cancelled')",
            name="state",
        ),
        CheckConstraint("tries >= 0 AND losses >= 0 AND position >= 0", name="counters"),
        UniqueConstraint("execution_id", "name"),
    )


class StepAttempt(Base):
    """One try at a step under one epoch; what a zombie brought late is kept as evidence."""

    __tablename__ = "step_attempts"

    id: Mapped[BigId] = mapped_column(Identity())
    execution_id: Mapped[UUID] = mapped_column()
    position: Mapped[int] = mapped_column(Integer)
    epoch: Mapped[int] = mapped_column(Integer)
    owner: Mapped[UUID] = mapped_column(Uuid)
    task_id: Mapped[str]
    worker: Mapped[str]
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str | None]
    output: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    error: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))

    __table_args__ = (
        ForeignKeyConstraint(
            ["execution_id", "position"],
            ["execution_steps.execution_id", "execution_steps.position"],
            ondelete="CASCADE",
        ),
        UniqueConstraint("execution_id", "position", "epoch"),
        CheckConstraint("(outcome IS NULL) = (ended_at IS NULL)", name="outcome_with_end"),
        CheckConstraint(
            "outcome IN ('completed', 'failed', 'parked', 'skipped', 'lost', 'cancelled')", name="outcome"
        ),
    )


class Approval(Base):
    """A question to a human.  Decided by exactly one compare-and-set."""

    __tablename__ = "approvals"

    id: Mapped[BigId] = mapped_column(Identity())
    execution_id: Mapped[UUID] = mapped_column(ForeignKey("executions.id", ondelete="CASCADE"))
    position: Mapped[int | None] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(server_default="pending")
    on_timeout: Mapped[str | None]
    message: Mapped[str] = mapped_column(server_default="")
    plan: Mapped[dict[str, Any]]
    plan_digest: Mapped[str]
    requested_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    # From when on its time counts, when that is not from the request on: Medic was stopped or away meanwhile.
    clock_since: Mapped[datetime | None]
    decided_at: Mapped[datetime | None]
    decided_by: Mapped[str | None]
    comment: Mapped[str | None]

    __table_args__ = (
        CheckConstraint("state IN ('pending', 'approved', 'rejected', 'void')", name="state"),
        CheckConstraint("on_timeout IN ('approve', 'reject')", name="on_timeout"),
        CheckConstraint("(expires_at IS NULL) = (on_timeout IS NULL)", name="expiry_has_effect"),
        CheckConstraint("(state = 'pending') = (decided_at IS NULL)", name="decided_has_time"),
        CheckConstraint("(decided_at IS NULL) = (decided_by IS NULL)", name="decided_by_someone"),
        Index(
            "uq_approvals_pending", "execution_id", unique=True, postgresql_where=text("state = 'pending'")
        ),
        UniqueConstraint("execution_id", "position", postgresql_nulls_not_distinct=True),
    )


class Lock(Base):
    """What no two executions may hold at once; released with the final state."""

    __tablename__ = "locks"

    name: Mapped[str] = mapped_column(primary_key=True)
    execution_id: Mapped[UUID] = mapped_column(ForeignKey("executions.id", ondelete="CASCADE"), index=True)
    taken_at: Mapped[datetime]
