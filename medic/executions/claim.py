"""Claim, renew and record: the three statements by which a worker acts on an execution.

    claim  (one transaction)   the row is ours: a fresh random owner, a lease in ``due_at``
    act    (no transaction)    a thread renews the lease and reads whether somebody cancelled
    record (one transaction)   the result, and what comes next, guarded by epoch, step and owner

Each is one round trip.  Whoever finds the row moved on is fenced, and changes nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from medic.machine import Decision
from medic.prepared import Prepared

LEASE = timedelta(seconds=30)
RENEW_EVERY = timedelta(seconds=10)
EFFECT_MARGIN = timedelta(seconds=5)
"""An effect starts only while the last confirmed renewal is younger than ``LEASE - EFFECT_MARGIN``."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a worker knows of the execution that it holds."""

    execution_id: UUID
    position: int
    epoch: int
    owner: UUID
    now: datetime
    playbook_id: int
    playbook_version: int
    playbook_name: str
    source: str
    step_count: int
    service_id: int | None
    service_name: str | None
    alert_id: int | None
    alert_open: bool | None
    trigger_id: int | None
    mode: str
    variables: dict[str, Any]
    tries: int
    patience_s: int | None
    parked_at: datetime | None
    deadline_at: datetime | None
    results: dict[str, Any]
    last_acting_ended_at: datetime | None
    approval: str | None
    doubt: dict[str, Any] | None
    traceparent: str | None
    created_at: datetime


_VIEW = """
SELECT e.id AS execution_id, e.next_step AS position, e.epoch, e.owner, now() AS now,
       e.playbook_id, e.playbook_version, e.playbook_name, v.source, e.step_count,
       e.service_id, e.service_name, e.alert_id, e.trigger_id, e.mode, e.variables, e.deadline_at,
       e.traceparent, e.created_at,
       (SELECT a.resolved_at IS NULL FROM alerts a WHERE a.id = e.alert_id) AS alert_open,
       s.tries, s.parked_at, s.doubt,
       (SELECT coalesce(w.every_s, w.within_s, 300) + w.grace_s FROM services w
         WHERE w.id = e.service_id) AS patience_s,
       (SELECT coalesce(jsonb_object_agg(
                   d.name, coalesce(d.output, '{}') || jsonb_build_object('state', d.state)), '{}')
          FROM execution_steps d WHERE d.execution_id = e.id AND d.position < e.next_step) AS results,
       (SELECT max(d.ended_at) FROM execution_steps d
         WHERE d.execution_id = e.id AND d.position < e.next_step AND d.type = ANY(:acting)
           AND d.state <> 'skipped') AS last_acting_ended_at,
       (SELECT p.state FROM approvals p
         WHERE p.execution_id = e.id AND p.position = e.next_step) AS approval
"""

_CLAIM = Prepared(
    "claim_step",
    """
    WITH e AS (
        UPDATE executions
           SET owner = :owner, due_at = now() + :lease, redispatches = 0, last_task_id = :task_id,
               started_at = coalesce(started_at, now())
         WHERE id = :id AND epoch = :epoch AND next_step = :position AND state = 'running' AND owner IS NULL
           AND cancel_requested_at IS NULL AND (deadline_at IS NULL OR deadline_at > now())
           AND NOT EXISTS (SELECT 1 FROM stops WHERE resumed_at IS NULL)
     RETURNING *
    ), s AS (
        UPDATE execution_steps d SET state = 'running', started_at = coalesce(d.started_at, now())
          FROM e WHERE d.execution_id = e.id AND d.position = e.next_step
     RETURNING d.*
    ), a AS (
        INSERT INTO step_attempts (execution_id, position, epoch, owner, task_id, worker, started_at)
        SELECT e.id, e.next_step, e.epoch, e.owner, :task_id, :worker, now() FROM e
     RETURNING id
    )
    """
    + _VIEW
    + " FROM e, s, playbook_versions v, a WHERE v.playbook_id = e.playbook_id AND v.version = e.playbook_version",
    {
        "id": "uuid", "position": "int", "epoch": "int", "owner": "uuid", "lease": "interval", "task_id": "text",
        "worker": "text", "acting": "text[]",
    },
)  # fmt: skip

_READ_BACK = text(
    _VIEW
    + """
      FROM executions e
      JOIN execution_steps s ON s.execution_id = e.id AND s.position = e.next_step
      JOIN playbook_versions v ON v.playbook_id = e.playbook_id AND v.version = e.playbook_version
     WHERE e.id = :id AND e.owner = :owner
    """
)


def claim(
    session: Session,
    *,
    execution_id: UUID,
    position: int,
    epoch: int,
    owner: UUID,
    task_id: str,
    worker: str,
    acting: list[str],
) -> Claim | None:
    """Take the step, or nothing when somebody else has it, had it, or stopped it.

    :param owner: a fresh random token; never the task's id, which a redelivery would share.
    :param acting: the step types with an outside effect.
    """
    row = _CLAIM.execute(
        session.connection(),
        {
            "id": execution_id, "position": position, "epoch": epoch, "owner": owner, "lease": LEASE,
            "task_id": task_id, "worker": worker, "acting": acting,
        },
    ).mappings().one_or_none()  # fmt: skip
    return Claim(**row) if row else None


def read_back(session: Session, *, execution_id: UUID, owner: UUID, acting: list[str]) -> Claim | None:
    """The claim whose commit was unsure, if it did happen."""
    row = session.execute(
        _READ_BACK, {"id": execution_id, "owner": owner, "acting": acting}
    ).mappings().one_or_none()  # fmt: skip
    return Claim(**row) if row else None


def is_done(session: Session, *, execution_id: UUID, position: int, epoch: int) -> bool:
    """The step was recorded in this very epoch: its message may let the next link go."""
    return bool(
        session.execute(
            text("SELECT 1 FROM executions WHERE id = :id AND epoch = :epoch AND next_step > :position"
                 " AND state = 'running'"),
            {"id": execution_id, "epoch": epoch, "position": position},
        ).scalar()
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Renewal:
    cancelled: bool


def renew(session: Session, *, execution_id: UUID, epoch: int, owner: UUID) -> Renewal | None:
    """Hold the lease for another while; nothing when it is no longer ours."""
    row = session.execute(
        text("UPDATE executions SET due_at = now() + :lease WHERE id = :id AND epoch = :epoch AND owner = :owner"
             " RETURNING cancel_requested_at IS NOT NULL"),
        {"id": execution_id, "epoch": epoch, "owner": owner, "lease": LEASE},
    ).one_or_none()  # fmt: skip
    return Renewal(cancelled=row[0]) if row else None


_RECORD = Prepared(
    "record_step",
    """
    WITH seen AS (
        SELECT id, cancel_requested_at IS NOT NULL AS cancelled FROM executions
         WHERE id = :id AND epoch = :epoch AND next_step = :position AND owner = :owner
           FOR NO KEY UPDATE
    ), e AS (
        UPDATE executions x
           SET owner = NULL,
               state = CASE WHEN seen.cancelled THEN 'cancelled' ELSE :state END,
               next_step = :next_step,
               waiting_for = CASE WHEN seen.cancelled THEN NULL ELSE :waiting_for END,
               due_at = CASE WHEN NOT (seen.cancelled OR :final)
                             THEN least(CAST(:due_at AS timestamptz), x.deadline_at) END,
               dispatched_at = now(),
               finished_at = CASE WHEN seen.cancelled OR :final THEN now() END,
               error = CASE WHEN seen.cancelled THEN CAST(:cancelled_error AS jsonb) ELSE CAST(:error AS jsonb) END
          FROM seen WHERE x.id = seen.id
     RETURNING x.id, x.state, x.next_step, seen.cancelled
    ), a AS (
        UPDATE step_attempts t SET ended_at = now(), outcome = :outcome, output = :output, error = :step_error
          FROM e WHERE t.execution_id = e.id AND t.position = :position AND t.epoch = :epoch
    ), s AS (
        UPDATE execution_steps d
           SET state = CASE WHEN e.cancelled AND NOT :ended THEN 'cancelled' ELSE :step_state END,
               tries = d.tries + CAST(:counts AS int),
               -- From the claim on, as the step itself counted: else it would wake a moment before its time.
               parked_at = CASE WHEN :parks THEN coalesce(d.parked_at, (
                               SELECT t.started_at FROM step_attempts t
                                WHERE t.execution_id = e.id AND t.position = :position AND t.epoch = :epoch))
                           WHEN :ended THEN d.parked_at END,
               "check" = :check, doubt = :doubt,
               ended_at = CASE WHEN :ended OR e.cancelled THEN now() END,
               output = :output, error = :step_error
          FROM e WHERE d.execution_id = e.id AND d.position = :position
    ), r AS (
        UPDATE execution_steps d
           SET state = CASE WHEN e.cancelled THEN 'cancelled' ELSE 'skipped' END,
               error = CAST(:rest_error AS jsonb)
          FROM e WHERE (:final OR e.cancelled) AND d.execution_id = e.id AND d.position > :position
           AND d.state = 'pending'
    ), l AS (
        DELETE FROM locks USING e WHERE locks.execution_id = e.id AND (:final OR e.cancelled)
    ), audit AS (
        INSERT INTO audit_entries (at, actor_kind, actor, action, object_kind, object_id, detail)
        SELECT now(), 'medic', :worker, :action, 'execution', e.id::text, :detail FROM e WHERE :audited
    ), audit_end AS (
        INSERT INTO audit_entries (at, actor_kind, actor, action, object_kind, object_id, detail)
        SELECT now(), 'medic', :worker, 'execution.' || e.state, 'execution', e.id::text, '{}'::jsonb
          FROM e WHERE :final OR e.cancelled
    )
    SELECT state, cancelled FROM e
    """,
    {
        "id": "uuid", "position": "int", "epoch": "int", "owner": "uuid", "worker": "text", "state": "text",
        "next_step": "int", "waiting_for": "text", "due_at": "timestamptz", "final": "bool", "error": "jsonb",
        "cancelled_error": "jsonb", "outcome": "text", "output": "jsonb", "step_error": "jsonb",
        "step_state": "text", "ended": "bool", "parks": "bool", "counts": "int", "check": "jsonb",
        "doubt": "jsonb",
        "rest_error": "jsonb", "action": "text", "audited": "bool", "detail": "jsonb",
    },
)  # fmt: skip


_CANCELLED = json.dumps({"code": "cancelled", "message": "Cancelled while a step ran."})


def _json(value: dict[str, Any] | None) -> str | None:
    return None if value is None else json.dumps(value, allow_nan=False)


@dataclass(frozen=True, slots=True)
class Recorded:
    """Where the execution stands after the record."""

    state: str
    cancelled: bool


def record(
    session: Session,
    *,
    execution_id: UUID,
    position: int,
    epoch: int,
    owner: UUID,
    worker: str,
    decision: Decision,
) -> Recorded | None:
    """Write the result and what comes next; nothing when this worker was fenced."""
    row: Any = _RECORD.execute(
        session.connection(),
        {
            "id": execution_id, "position": position, "epoch": epoch, "owner": owner, "worker": worker,
            "state": decision.state, "next_step": decision.next_step, "waiting_for": decision.waiting_for,
            "due_at": decision.due_at, "final": decision.is_final, "error": _json(decision.error),
            "cancelled_error": _CANCELLED,
            "outcome": decision.outcome, "output": _json(decision.output), "step_error": _json(decision.step_error),
            "step_state": decision.step_state, "ended": decision.step_ended, "parks": decision.parks,
            "counts": int(decision.counts_try), "check": _json(decision.check),
            "doubt": _json(decision.doubt),
            "rest_error": _json(decision.rest_error), "action": f"step.{decision.outcome}",
            "audited": decision.outcome != "parked",
            "detail": _json({"position": position, "epoch": epoch, "step_state": decision.step_state}),
        },
    ).one_or_none()  # fmt: skip
    return Recorded(state=row[0], cancelled=row[1]) if row else None
