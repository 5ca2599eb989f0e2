"""Playbooks with their versions, what starts them, and the scripts they run."""

from __future__ import annotations

from datetime import datetime
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
    Uuid,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from medic.db import Base, BigId
from medic.models.monitoring import name_check


class Playbook(Base):
    """A name under which versions of YAML stand.  Deleting one keeps its versions for what ran."""

    __tablename__ = "playbooks"

    id: Mapped[BigId] = mapped_column(Identity())
    name: Mapped[str]
    description: Mapped[str] = mapped_column(server_default="")
    version: Mapped[int] = mapped_column(Integer)
    enabled: Mapped[bool] = mapped_column(server_default=text("true"))
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    updated_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    deleted_at: Mapped[datetime | None]

    __table_args__ = (
        name_check(),
        CheckConstraint("version >= 1", name="version"),
        Index("uq_playbooks_name_live", "name", unique=True, postgresql_where=text("deleted_at IS NULL")),
    )


class PlaybookVersion(Base):
    """One text of a playbook; never changed, as executions are pinned to it."""

    __tablename__ = "playbook_versions"

    playbook_id: Mapped[int] = mapped_column(
        ForeignKey("playbooks.id", ondelete="RESTRICT"), primary_key=True
    )
    version: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    source: Mapped[str]
    created_by: Mapped[str]
    created_at: Mapped[datetime]


class Trigger(Base):
    """When a playbook runs.  Those of origin ``playbook`` are replaced with each version.

    ``service_pattern`` of a schedule, and of a hook whose calls name no service, is the name of one service.
    """

    __tablename__ = "triggers"

    id: Mapped[BigId] = mapped_column(Identity())
    playbook_id: Mapped[int] = mapped_column(ForeignKey("playbooks.id", ondelete="CASCADE"), index=True)
    kind: Mapped[str]
    origin: Mapped[str]
    position: Mapped[int] = mapped_column(Integer, server_default="100")
    service_pattern: Mapped[str | None]
    tags: Mapped[list[str]] = mapped_column(server_default=text("'{}'::text[]"))
    priorities: Mapped[list[str]] = mapped_column(server_default=text("'{}'::text[]"))
    reasons: Mapped[list[str]] = mapped_column(server_default=text("'{}'::text[]"))
    consecutive_failures: Mapped[int] = mapped_column(Integer, server_default="1")
    cooldown_s: Mapped[int | None] = mapped_column(Integer)
    repeat_every_s: Mapped[int | None] = mapped_column(Integer)
    mode: Mapped[str] = mapped_column(server_default="live")
    cron: Mapped[str | None]
    timezone: Mapped[str | None]
    catch_up_s: Mapped[int] = mapped_column(Integer, server_default="600")
    variables: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    enabled: Mapped[bool] = mapped_column(server_default=text("true"))
    due_at: Mapped[datetime | None]
    version: Mapped[int] = mapped_column(BigInteger, server_default="1")
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))

    __table_args__ = (
        CheckConstraint("kind IN ('alert', 'hook', 'schedule')", name="kind"),
        CheckConstraint("origin IN ('playbook', 'api')", name="origin"),
        CheckConstraint("mode IN ('live', 'shadow')", name="mode"),
        CheckConstraint("(kind = 'schedule') = (cron IS NOT NULL)", name="schedule_has_cron"),
        CheckConstraint("kind <> 'alert' OR service_pattern IS NOT NULL", name="alert_has_pattern"),
        CheckConstraint(
            "consecutive_failures >= 1 AND cooldown_s >= 0 AND repeat_every_s >= 60", name="numbers"
        ),
        CheckConstraint("catch_up_s BETWEEN 60 AND 86400", name="catch_up"),
        Index(
            "uq_triggers_playbook_own",
            "playbook_id",
            unique=True,
            postgresql_where=text("origin = 'playbook'"),
        ),
        Index("ix_triggers_due", "due_at", postgresql_where=text("due_at IS NOT NULL")),
    )


class TriggerOccurrence(Base):
    """What became of one time of a schedule.  Its key is why no two sweepers start the same one."""

    __tablename__ = "trigger_occurrences"

    trigger_id: Mapped[int] = mapped_column(ForeignKey("triggers.id", ondelete="CASCADE"), primary_key=True)
    at: Mapped[datetime] = mapped_column(primary_key=True)
    outcome: Mapped[str]
    execution_id: Mapped[UUID | None] = mapped_column(Uuid)
    note: Mapped[str] = mapped_column(server_default="")

    __table_args__ = (
        CheckConstraint("outcome IN ('started', 'shadow', 'refused', 'failed', 'missed')", name="outcome"),
        CheckConstraint("outcome <> 'started' OR execution_id IS NOT NULL", name="started_has_execution"),
    )


class Hook(Base):
    """An inbound webhook: a token in the path, a secret beside it, a mapping to variables.

    A bearer secret is kept as a digest; one that signs is sealed, since verifying needs it.
    """

    __tablename__ = "hooks"

    id: Mapped[BigId] = mapped_column(Identity())
    trigger_id: Mapped[int] = mapped_column(ForeignKey("triggers.id", ondelete="CASCADE"), unique=True)
    token_digest: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    verification: Mapped[str]
    sealed_secret: Mapped[bytes | None] = mapped_column(LargeBinary)
    secret_digest: Mapped[bytes | None] = mapped_column(LargeBinary)
    mapping: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    on_resolved: Mapped[bool] = mapped_column(server_default=text("false"))

    __table_args__ = (
        CheckConstraint("verification IN ('bearer', 'standard_webhooks')", name="verification"),
        CheckConstraint(
            "(verification = 'bearer') = (secret_digest IS NOT NULL)"
            " AND (verification = 'bearer') = (sealed_secret IS NULL)",
            name="with_secret",
        ),
    )


class HookGroup(Base):
    """A group of Alertmanager's alerts, and what a hook heard of it last."""

    __tablename__ = "hook_groups"

    hook_id: Mapped[int] = mapped_column(ForeignKey("hooks.id", ondelete="CASCADE"), primary_key=True)
    digest: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    status: Mapped[str]
    heard_at: Mapped[datetime]
    started_at: Mapped[datetime | None]

    __table_args__ = (CheckConstraint("status IN ('firing', 'resolved')", name="status"),)


class Script(Base):
    """A registered script; only these run."""

    __tablename__ = "scripts"

    id: Mapped[BigId] = mapped_column(Identity())
    name: Mapped[str] = mapped_column(unique=True)
    description: Mapped[str] = mapped_column(server_default="")
    version: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    updated_at: Mapped[datetime] = mapped_column(server_default=text("now()"))

    __table_args__ = (name_check(),)


class ScriptVersion(Base):
    """One text of a script; never changed."""

    __tablename__ = "script_versions"

    script_id: Mapped[int] = mapped_column(ForeignKey("scripts.id", ondelete="CASCADE"), primary_key=True)
    version: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    interpreter: Mapped[str]
    content: Mapped[str]
    parameters: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    network: Mapped[bool] = mapped_column(server_default=text("false"))
    created_by: Mapped[str]
    created_at: Mapped[datetime]

    __table_args__ = (
        CheckConstraint("interpreter IN ('bash', 'python')", name="interpreter"),
        CheckConstraint("octet_length(content) <= 262144", name="content_size"),
    )
