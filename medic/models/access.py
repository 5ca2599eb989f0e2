"""Who may do what, what is secret, and what was done."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from medic.db import Base, BigId


class ApiKey(Base):
    """An API key: its public id and a digest; the text itself is never stored."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    digest: Mapped[bytes] = mapped_column(LargeBinary)
    scopes: Mapped[list[str]]
    service_patterns: Mapped[list[str] | None]
    created_by: Mapped[str]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    replaces: Mapped[str | None] = mapped_column(ForeignKey("api_keys.id"), unique=True)

    __table_args__ = (
        CheckConstraint("id ~ '^[0-9A-Za-z]{12}$'", name="id"),
        CheckConstraint("octet_length(digest) = 32", name="digest"),
        CheckConstraint("cardinality(scopes) > 0", name="has_scope"),
        CheckConstraint("length(name) BETWEEN 1 AND 128", name="name"),
        CheckConstraint("replaces <> id", name="replaces_another"),
    )


class Secret(Base):
    """A secret by name; its versions are sealed."""

    __tablename__ = "secrets"

    id: Mapped[BigId] = mapped_column(Identity())
    name: Mapped[str] = mapped_column(unique=True)
    description: Mapped[str] = mapped_column(server_default="")
    version: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    updated_at: Mapped[datetime] = mapped_column(server_default=text("now()"))

    __table_args__ = (CheckConstraint("name ~ '^[A-Za-z_][A-Za-z0-9_]{0,127}$'", name="name"),)


class SecretVersion(Base):
    """One sealed value of a secret."""

    __tablename__ = "secret_versions"

    secret_id: Mapped[int] = mapped_column(ForeignKey("secrets.id", ondelete="CASCADE"), primary_key=True)
    version: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    key_id: Mapped[str]
    sealed: Mapped[bytes] = mapped_column(LargeBinary)
    created_by: Mapped[str]
    created_at: Mapped[datetime]


class Canary(Base):
    """A known value, sealed: a wrong key stops the start, not the first incident."""

    __tablename__ = "canaries"

    key_id: Mapped[str] = mapped_column(primary_key=True)
    sealed: Mapped[bytes] = mapped_column(LargeBinary)


class AuditEntry(Base):
    """A decision or a change; written in the transaction of its effect, never changed."""

    __tablename__ = "audit_entries"

    id: Mapped[BigId] = mapped_column(Identity())
    at: Mapped[datetime]
    actor_kind: Mapped[str]
    actor: Mapped[str]
    action: Mapped[str]
    object_kind: Mapped[str]
    object_id: Mapped[str]
    source: Mapped[str | None]
    request_id: Mapped[str | None]
    detail: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))

    __table_args__ = (
        CheckConstraint(
            "actor_kind IN ('key', 'hook', 'slack', 'trigger', 'medic', 'console', 'shell')",
            name="actor_kind",
        ),
        CheckConstraint("action ~ '^[a-z_]+[.][a-z_]+$'", name="action"),
        Index("ix_audit_entries_object", "object_kind", "object_id", "id"),
        Index("ix_audit_entries_at", "at"),
    )


class AuditSeal(Base):
    """The chain over committed entries; its key stands outside the database."""

    __tablename__ = "audit_seals"

    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    entry_id: Mapped[int] = mapped_column(BigInteger, unique=True)
    digest: Mapped[bytes] = mapped_column(LargeBinary)
    sealed_at: Mapped[datetime]

    __table_args__ = (CheckConstraint("octet_length(digest) = 32", name="digest"),)


class IdempotencyKey(Base):
    """The answer of a POST, so that a repeat gets the same one."""

    __tablename__ = "idempotency_keys"

    principal: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_digest: Mapped[bytes] = mapped_column(LargeBinary)
    status: Mapped[int] = mapped_column(SmallInteger)
    response: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]

    __table_args__ = (
        CheckConstraint("length(key) BETWEEN 1 AND 255", name="key"),
        Index("ix_idempotency_keys_expires", "expires_at"),
    )


class SlackUser(Base):
    """A person of Slack, by the id that Slack gave them, and the API key that they stand for."""

    __tablename__ = "slack_users"

    slack_id: Mapped[str] = mapped_column(primary_key=True)
    key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(server_default="")
    created_by: Mapped[str]
    created_at: Mapped[datetime]

    __table_args__ = (CheckConstraint("slack_id ~ '^[A-Z0-9]{1,64}$'", name="slack_id"),)


class Snapshot(Base):
    """Configuration as it was before a change; ``before`` is null when there was no such object."""

    __tablename__ = "snapshots"

    id: Mapped[BigId] = mapped_column(Identity())
    at: Mapped[datetime]
    actor: Mapped[str]
    action: Mapped[str]
    object_kind: Mapped[str]
    object_name: Mapped[str]
    before: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    restored_at: Mapped[datetime | None]
    # The entry of the change; the audit log is kept for a shorter time.
    audit_id: Mapped[int | None] = mapped_column(BigInteger)

    __table_args__ = (
        Index("ix_snapshots_object", "object_kind", "object_name", "id"),
        Index("ix_snapshots_at", "at"),
    )


class Stop(Base):
    """The stop switch: nothing starts while a row stands here without an end."""

    __tablename__ = "stops"

    id: Mapped[BigId] = mapped_column(Identity())
    reason: Mapped[str]
    stopped_at: Mapped[datetime]
    stopped_by: Mapped[str]
    resumed_at: Mapped[datetime | None]
    resumed_by: Mapped[str | None]

    __table_args__ = (
        CheckConstraint("(resumed_at IS NULL) = (resumed_by IS NULL)", name="resumed_by_someone"),
        Index(
            "uq_stops_open",
            text("(resumed_at IS NULL)"),
            unique=True,
            postgresql_where=text("resumed_at IS NULL"),
        ),
    )
