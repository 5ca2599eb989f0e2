"""Ingest: signals into heartbeats, ids, runs and the hot row of their service, in one transaction.

Who may move ``due_at`` (the sweep alone computes it in every other case):

    quiet row, `every`, a success in time       ahead, to the success + every; the row stays quiet
    failure, history, start, a late success,    now, as the verdict may change
    a success while not up
    anything else                               left alone

A row that is not quiet keeps its judged columns: the sweep folds the signals in, in their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Session
from sqlalchemy.types import BigInteger, Boolean, Float, Integer, SmallInteger, Text

HISTORY_AGE = timedelta(seconds=60)
"""A signal older than this is history: evidence, but no sign of life now."""

KINDS = ("ok", "start", "complete", "fail", "log")
SUCCESSES = frozenset({"ok", "complete"})


@dataclass(frozen=True, slots=True)
class Watched:
    """What ingest knows of a service: enough to write, never to judge."""

    id: int
    name: str
    every_s: int | None
    policy_version: int


@dataclass(frozen=True, slots=True)
class Signal:
    """One signal to write.  ``age_s``: how long before its arrival it happened, in seconds."""

    service: Watched
    kind: str
    age_s: float = 0.0
    run_id: str | None = None
    duration_ms: int | None = None
    exit_code: int | None = None
    message: str | None = None
    metrics: dict[str, float] | None = None
    client_id: str | None = None

    @property
    def is_history(self) -> bool:
        return self.age_s > HISTORY_AGE.total_seconds()

    @property
    def stirs(self) -> bool:
        """The sweep has to look: the verdict may change."""
        return self.kind in {"fail", "start"} or (self.is_history and self.kind in SUCCESSES)


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a signal; ``id`` None: the service was deleted a moment ago."""

    id: int | None
    is_repeat: bool
    received_at: datetime | None


# One statement: lock the hot rows in one order, take the ids that are new, insert, move the hot rows.
_WRITE = text(
    """
    WITH incoming AS MATERIALIZED (
        SELECT *
          FROM unnest(:ordinal, :service_id, :kind, :age, :run_id, :duration_ms, :exit_code, :message, :metrics,
                      :client_id, :every_s, :policy_version, :stirs, :is_life)
            AS t (ordinal, service_id, kind, age, run_id, duration_ms, exit_code, message, metrics,
                  client_id, every_s, policy_version, stirs, is_life)
    ), locked AS MATERIALIZED (
        SELECT service_id, quiet, policy_version, due_at FROM service_states WHERE service_id = ANY(:service_id)
         ORDER BY service_id FOR NO KEY UPDATE
    ), numbered AS MATERIALIZED (
        -- Numbered under the lock: within a service, ids grow in the order of commits.
        SELECT i.*, now() AS received_at, nextval('heartbeats_id_seq') AS id
          FROM incoming i JOIN locked l USING (service_id)
         ORDER BY i.ordinal
    ), taken AS (
        INSERT INTO heartbeat_ids (service_id, id, heartbeat_id, received_at)
        SELECT service_id, client_id, id, received_at FROM numbered
         WHERE client_id IS NOT NULL
         ORDER BY service_id, client_id
            ON CONFLICT DO NOTHING
     RETURNING heartbeat_id
    ), fresh AS MATERIALIZED (
        SELECT *, received_at - make_interval(secs => greatest(age, 0)) AS event_at
          FROM numbered
         WHERE client_id IS NULL OR id IN (SELECT heartbeat_id FROM taken)
    ), stored AS (
        INSERT INTO heartbeats (received_at, id, service_id, kind, event_at, run_id, duration_ms, exit_code,
                                message, metrics)
        SELECT received_at, id, service_id, kind, event_at, run_id, duration_ms, exit_code, message,
               CAST(metrics AS jsonb)
          FROM fresh ORDER BY ordinal
    ), summed AS (
        SELECT service_id, max(event_at) FILTER (WHERE is_life) AS success_at, max(event_at) AS signal_at,
               (array_agg(kind ORDER BY event_at DESC, ordinal DESC))[1] AS last_kind, max(id) AS last_id,
               bool_or(stirs) AS stirs, min(every_s) AS every_s, min(policy_version) AS policy_version
          FROM fresh GROUP BY service_id ORDER BY service_id
    ), judged AS (
        SELECT m.*,
               l.quiet AND NOT m.stirs AND (m.success_at IS NULL OR (
                   l.policy_version = m.policy_version AND m.every_s IS NOT NULL AND now() < l.due_at)) AS stays_quiet
          FROM summed m JOIN locked l USING (service_id)
    ), moved AS (
        UPDATE service_states s
           SET last_success_at = CASE WHEN m.stays_quiet THEN greatest(s.last_success_at, m.success_at)
                                      ELSE s.last_success_at END,
               folded_id = CASE WHEN m.stays_quiet THEN m.last_id ELSE s.folded_id END,
               last_signal_kind = CASE WHEN s.last_signal_at > m.signal_at THEN s.last_signal_kind ELSE m.last_kind END,
               last_signal_at = greatest(s.last_signal_at, m.signal_at),
               quiet = m.stays_quiet,
               due_at = CASE
                   WHEN s.status = 'paused' THEN s.due_at
                   WHEN m.stays_quiet THEN greatest(s.due_at, m.success_at + make_interval(secs => m.every_s))
                   WHEN m.stirs OR s.quiet OR (m.success_at IS NOT NULL AND s.status <> 'up')
                       THEN least(coalesce(s.due_at, now()), now())
                   ELSE s.due_at END
          FROM judged m WHERE s.service_id = m.service_id
    )
    SELECT i.ordinal, n.id, n.received_at, f.id IS NULL AS is_repeat
      FROM incoming i
      LEFT JOIN numbered n ON n.ordinal = i.ordinal
      LEFT JOIN fresh f ON f.id = n.id
     ORDER BY i.ordinal
    """
).bindparams(
    bindparam("ordinal", type_=ARRAY(Integer)),
    bindparam("service_id", type_=ARRAY(BigInteger)),
    bindparam("kind", type_=ARRAY(Text)),
    bindparam("age", type_=ARRAY(Float)),
    bindparam("run_id", type_=ARRAY(Text)),
    bindparam("duration_ms", type_=ARRAY(BigInteger)),
    bindparam("exit_code", type_=ARRAY(SmallInteger)),
    bindparam("message", type_=ARRAY(Text)),
    bindparam("metrics", type_=ARRAY(JSONB(none_as_null=True))),
    bindparam("client_id", type_=ARRAY(Text)),
    bindparam("every_s", type_=ARRAY(Integer)),
    bindparam("policy_version", type_=ARRAY(BigInteger)),
    bindparam("stirs", type_=ARRAY(Boolean)),
    bindparam("is_life", type_=ARRAY(Boolean)),
)


def write(session: Session, signals: Sequence[Signal]) -> list[Written]:
    """Write the signals, in their order; the caller commits, and answers after that."""
    rows = session.execute(
        _WRITE,
        {
            "ordinal": list(range(len(signals))),
            "service_id": [s.service.id for s in signals],
            "kind": [s.kind for s in signals],
            "age": [s.age_s for s in signals],
            "run_id": [s.run_id for s in signals],
            "duration_ms": [s.duration_ms for s in signals],
            "exit_code": [s.exit_code for s in signals],
            "message": [s.message for s in signals],
            "metrics": [s.metrics for s in signals],
            "client_id": [s.client_id for s in signals],
            "every_s": [s.service.every_s for s in signals],
            "policy_version": [s.service.policy_version for s in signals],
            "stirs": [s.stirs for s in signals],
            "is_life": [s.kind in SUCCESSES and not s.is_history for s in signals],
        },
    ).all()
    written = [
        Written(None, is_repeat=False, received_at=None)
        if row.received_at is None
        else Written(row.id, is_repeat=row.is_repeat, received_at=row.received_at)
        for row in rows
    ]
    for signal, done in zip(signals, written, strict=True):
        if done.id is not None and not done.is_repeat and signal.kind in {"start", "complete", "fail"}:
            _follow_run(session, signal, done)
    return [
        _first(session, signal, done) if done.is_repeat else done
        for signal, done in zip(signals, written, strict=True)
    ]


def _first(session: Session, signal: Signal, repeat: Written) -> Written:
    """A repeat answers with what the first one got."""
    row = session.execute(
        text("SELECT heartbeat_id, received_at FROM heartbeat_ids WHERE service_id = :service AND id = :id"),
        {"service": signal.service.id, "id": signal.client_id},
    ).one_or_none()
    return Written(row[0], is_repeat=True, received_at=row[1]) if row else repeat


_START = text(
    """
    INSERT INTO runs (service_id, run_id, started_at, start_id) VALUES (:service, :run_id, :at, :id)
    ON CONFLICT (service_id, run_id) DO NOTHING
    """
)

# The run named, or the newest open one without a name that had begun by then.
_END = text(
    """
    UPDATE runs SET state = :state, ended_at = greatest(:at, started_at), exit_code = :exit_code, end_id = :id,
           duration_ms = coalesce(:duration_ms,
                                  CAST(extract(epoch FROM greatest(:at, started_at) - started_at) * 1000 AS bigint))
     WHERE id = (SELECT id FROM runs
                  WHERE service_id = :service AND state = 'open'
                    AND (run_id = :run_id OR (CAST(:run_id AS text) IS NULL AND run_id IS NULL AND started_at <= :at))
                  ORDER BY started_at DESC, id DESC LIMIT 1)
 RETURNING id
    """
)

_ENDED_UNSEEN = text(
    """
    INSERT INTO runs (service_id, run_id, state, started_at, ended_at, exit_code, duration_ms, start_id, end_id)
    VALUES (:service, :run_id, :state, :at - make_interval(secs => coalesce(:duration_ms, 0) / 1000.0), :at,
            :exit_code, :duration_ms, :id, :id)
    ON CONFLICT (service_id, run_id) DO NOTHING
    """
)


def _follow_run(session: Session, signal: Signal, done: Written) -> None:
    assert done.received_at is not None
    values: dict[str, Any] = {
        "id": done.id,
        "service": signal.service.id,
        "run_id": signal.run_id,
        "at": done.received_at - timedelta(seconds=max(signal.age_s, 0)),
        "state": "completed" if signal.kind == "complete" else "failed",
        "exit_code": signal.exit_code,
        "duration_ms": signal.duration_ms,
    }
    if signal.kind == "start":
        session.execute(_START, values)
        return
    ended = session.execute(_END, values).scalar_one_or_none()
    if ended is None and signal.run_id is not None:
        # Its start was lost or comes later: the run is known by its end.
        session.execute(_ENDED_UNSEEN, values)


def watched(session: Session, names: Sequence[str]) -> dict[str, Watched]:
    """The services of these names, as ingest needs them."""
    rows = session.execute(
        text("SELECT id, name, every_s, policy_version FROM services WHERE name = ANY(:names)"),
        {"names": list(names)},
    )
    return {row[1]: Watched(*row) for row in rows}
