"""Ingest: signals into heartbeats, ids, runs and the hot row of their service, in one transaction.

Who may move ``due_at`` (the sweep alone computes it in every other case):

    quiet row, `every`, a success in time       ahead, to the success + every; the row stays quiet
    failure, history, start, a late success,    now, as the verdict may change
    a success while not up
    anything else                               left alone

A row that is not quiet keeps its judged columns: the sweep folds the signals in, in their order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session
from sqlalchemy.types import BigInteger, Text

from medic import runs
from medic.runs import RunSignal

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
    def is_success(self) -> bool:
        return self.kind in SUCCESSES and not self.exit_code

    @property
    def is_final(self) -> bool:
        return self.kind not in {"start", "log"}

    @property
    def stirs(self) -> bool:
        """The sweep has to look: the verdict may change."""
        return self.kind == "start" or (self.is_final and (self.is_history or not self.is_success))

    @property
    def ends_run(self) -> bool:
        """Every final signal ends the run that it names; without a name, a plain ``ok`` ends none."""
        return self.is_final and (self.run_id is not None or self.kind != "ok" or self.exit_code is not None)

    @property
    def follows_run(self) -> bool:
        """It opens or ends a run."""
        return self.kind == "start" or self.ends_run


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a signal; ``id`` None: the service was deleted a moment ago."""

    id: int | None
    is_repeat: bool
    received_at: datetime | None


# One statement: lock the hot rows in one order, take the ids that are new, insert, move the hot rows.
_SQL = """
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
        SELECT i.*, {now} AS received_at, nextval('heartbeats_id_seq') AS id
          FROM incoming i JOIN locked l USING (service_id)
         ORDER BY i.ordinal
    ), taken AS (
        INSERT INTO heartbeat_ids (service_id, id, heartbeat_id, received_at)
        SELECT service_id, client_id, id, received_at FROM numbered
         WHERE client_id IS NOT NULL
         ORDER BY service_id, client_id, id
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
                   l.policy_version = m.policy_version AND m.every_s IS NOT NULL AND {now} < l.due_at)) AS stays_quiet
          FROM summed m JOIN locked l USING (service_id)
    ), moved AS (
        UPDATE service_states s
           SET last_success_at = CASE WHEN m.stays_quiet THEN greatest(s.last_success_at, m.success_at)
                                      ELSE s.last_success_at END,
               folded_id = CASE WHEN m.stays_quiet THEN m.last_id ELSE s.folded_id END,
               last_signal_kind = CASE WHEN s.last_signal_at > m.signal_at THEN s.last_signal_kind ELSE m.last_kind END,
               last_signal_at = greatest(s.last_signal_at, m.signal_at),
               -- A CHECK is judged on the version of the row that the snapshot saw, before the newest is read.
               quiet = m.stays_quiet AND s.status = 'up' AND s.failures = 0,
               due_at = CASE
                   WHEN s.status = 'paused' THEN s.due_at
                   WHEN m.stays_quiet THEN greatest(s.due_at, m.success_at + make_interval(secs => m.every_s))
                   WHEN m.stirs OR s.quiet OR (m.success_at IS NOT NULL AND s.status <> 'up')
                       THEN least(coalesce(s.due_at, {now}), {now})
                   ELSE s.due_at END
          FROM judged m WHERE s.service_id = m.service_id
    )
    SELECT i.ordinal, n.id, n.received_at, f.event_at, f.id IS NULL AS is_repeat
      FROM incoming i
      LEFT JOIN numbered n ON n.ordinal = i.ordinal
      LEFT JOIN fresh f ON f.id = n.id
     ORDER BY i.ordinal
"""
_COLUMNS = (
    ("ordinal", "int"), ("service_id", "bigint"), ("kind", "text"), ("age", "float8"), ("run_id", "text"),
    ("duration_ms", "bigint"), ("exit_code", "smallint"), ("message", "text"), ("metrics", "jsonb"),
    ("client_id", "text"), ("every_s", "int"), ("policy_version", "bigint"), ("stirs", "bool"), ("is_life", "bool"),
)  # fmt: skip
_WRITE = "medic_write"
_WRITE_AT = "medic_write_at"


def _prepare(connection: Connection, name: str) -> None:
    """Planned once per connection: of a heartbeat alone, planning is the greater half."""
    if name in connection.info:
        return
    types = [f"{kind}[]" for _, kind in _COLUMNS]
    sql = _SQL.format(now="now()" if name == _WRITE else f"${len(types) + 1}::timestamptz")
    for number, (column, _) in enumerate(_COLUMNS, start=1):
        sql = re.sub(rf":{column}\b", f"${number}", sql)
    parameters = ", ".join(types if name == _WRITE else [*types, "timestamptz"])
    connection.exec_driver_sql(f"PREPARE {name} ({parameters}) AS {sql}")
    connection.info[name] = True


def _execute_text(name: str) -> str:
    arguments = [f"%s::{kind}[]" for _, kind in _COLUMNS] + (["%s"] if name == _WRITE_AT else [])
    return f"EXECUTE {name} ({', '.join(arguments)})"


_EXECUTE = {name: _execute_text(name) for name in (_WRITE, _WRITE_AT)}


def write(session: Session, signals: Sequence[Signal], *, now: datetime | None = None) -> list[Written]:
    """Write the signals, in their order; the caller commits, and answers after that.

    :param now: the moment of their arrival; the transaction's own if none is given, without asking for it.
    """
    return write_on(session.connection(), signals, now=now)


def write_on(
    connection: Connection, signals: Sequence[Signal], *, now: datetime | None = None
) -> list[Written]:
    """`write` on a connection.  If no signal `follows_run`, it is one statement, and may commit by itself."""
    name = _WRITE if now is None else _WRITE_AT
    _prepare(connection, name)
    values: tuple[Any, ...] = (
        list(range(len(signals))),
        [s.service.id for s in signals],
        [s.kind for s in signals],
        [s.age_s for s in signals],
        [s.run_id for s in signals],
        [s.duration_ms for s in signals],
        [s.exit_code for s in signals],
        [s.message for s in signals],
        [None if s.metrics is None else json.dumps(s.metrics, allow_nan=False) for s in signals],
        [s.client_id for s in signals],
        [s.service.every_s for s in signals],
        [s.service.policy_version for s in signals],
        [s.stirs for s in signals],
        [s.is_success and not s.is_history for s in signals],
    )
    rows = connection.exec_driver_sql(_EXECUTE[name], values if now is None else (*values, now)).all()
    written = [
        Written(None, is_repeat=False, received_at=None)
        if row.received_at is None
        else Written(row.id, is_repeat=row.is_repeat, received_at=row.received_at)
        for row in rows
    ]
    followed = [
        _run_signal(signal, row.id, row.event_at)
        for signal, row in zip(signals, rows, strict=True)
        if row.event_at is not None and signal.follows_run
    ]
    if followed:
        runs.follow(connection, followed)
    repeats = [s for s, done in zip(signals, written, strict=True) if done.is_repeat]
    firsts = _firsts(connection, repeats) if repeats else {}
    return [
        firsts.get((signal.service.id, signal.client_id), done) if done.is_repeat else done
        for signal, done in zip(signals, written, strict=True)
    ]


_FIRSTS = text(
    """
    SELECT h.service_id, h.id, h.heartbeat_id, h.received_at
      FROM (SELECT DISTINCT * FROM unnest(:service, :id) AS r (service_id, id)) r
      JOIN heartbeat_ids h ON h.service_id = r.service_id AND h.id = r.id
    """
).bindparams(bindparam("service", type_=ARRAY(BigInteger)), bindparam("id", type_=ARRAY(Text)))


def _firsts(connection: Connection, repeats: Sequence[Signal]) -> dict[tuple[int, str | None], Written]:
    """A repeat answers with what the first one got."""
    values = {"service": [s.service.id for s in repeats], "id": [s.client_id for s in repeats]}
    return {
        (service_id, client_id): Written(heartbeat_id, is_repeat=True, received_at=received_at)
        for service_id, client_id, heartbeat_id, received_at in connection.execute(_FIRSTS, values)
    }


def _run_signal(signal: Signal, signal_id: int, event_at: datetime) -> RunSignal:
    return RunSignal(
        id=signal_id,
        service_id=signal.service.id,
        run_id=signal.run_id,
        at=event_at,
        is_start=signal.kind == "start",
        state="completed" if signal.is_success else "failed",
        exit_code=signal.exit_code,
        duration_ms=signal.duration_ms,
    )


def watched(session: Session, names: Sequence[str]) -> dict[str, Watched]:
    """The services of these names, as ingest needs them."""
    rows = session.execute(
        text("SELECT id, name, every_s, policy_version FROM services WHERE name = ANY(:names)"),
        {"names": list(names)},
    )
    return {row[1]: Watched(*row) for row in rows}
