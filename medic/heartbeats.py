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
from datetime import datetime, timedelta
from operator import itemgetter
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session
from sqlalchemy.types import BigInteger, Text

from medic import runs
from medic.runs import RunSignal

HISTORY_AGE = timedelta(seconds=60)
"""A signal older than this is history: evidence, but no sign of life now."""

_HISTORY_S = HISTORY_AGE.total_seconds()

KINDS = ("ok", "start", "complete", "fail", "log")
SUCCESSES = frozenset({"ok", "complete"})


class Watched(NamedTuple):
    """What ingest knows of a service: enough to write, never to judge."""

    id: int
    name: str
    every_s: int | None
    policy_version: int


class Signal(NamedTuple):
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
        return self.age_s > _HISTORY_S

    @property
    def is_success(self) -> bool:
        return self.kind in SUCCESSES and not self.exit_code

    @property
    def is_final(self) -> bool:
        return self.kind not in {"start", "log"}

    @property
    def is_life(self) -> bool:
        """A success, and not one of long ago."""
        return self.kind in SUCCESSES and not self.exit_code and self.age_s <= _HISTORY_S

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


class Written(NamedTuple):
    """What became of a signal; ``id`` None: the service was deleted a moment ago.

    ``is_current``: the policy is still the one that the signal's `Watched` told of.
    """

    id: int | None
    is_repeat: bool
    received_at: datetime | None
    is_current: bool = True


_NOWHERE = Written(None, is_repeat=False, received_at=None, is_current=False)

# One statement: lock the hot rows in one order, take the ids that are new, insert, move the hot rows.
# Arrays may be shorter than the others: `unnest` fills them up with NULL, and a column without a value costs nothing.
_SQL = """
    WITH incoming AS MATERIALIZED (
        SELECT t.ordinal, t.service_id, coalesce(t.kind, 'ok') AS kind, coalesce(t.age, 0) AS age, t.run_id,
               t.duration_ms, t.exit_code, t.message, t.metrics, t.client_id, t.every_s, t.policy_version,
               coalesce(t.stirs, false) AS stirs, coalesce(t.is_life, true) AS is_life
          FROM unnest(:service_id, :kind, :age, :run_id, :duration_ms, :exit_code, :message, :metrics,
                      :client_id, :every_s, :policy_version, :stirs, :is_life) WITH ORDINALITY
            AS t (service_id, kind, age, run_id, duration_ms, exit_code, message, metrics,
                  client_id, every_s, policy_version, stirs, is_life, ordinal)
    ), locked AS MATERIALIZED (
        SELECT service_id, quiet, policy_version, due_at FROM service_states WHERE service_id = ANY(:service_id)
         ORDER BY service_id FOR NO KEY UPDATE
    ), numbered AS MATERIALIZED (
        -- Numbered under the lock: within a service, ids grow in the order of commits.
        SELECT i.*, {now} AS received_at, {now} - make_interval(secs => greatest(i.age, 0)) AS event_at,
               nextval('heartbeats_id_seq') AS id, l.policy_version AS current_version
          FROM incoming i JOIN locked l USING (service_id)
         ORDER BY i.ordinal
    ){fresh}, stored AS (
        INSERT INTO heartbeats (received_at, id, service_id, kind, event_at, run_id, duration_ms, exit_code,
                                message, metrics)
        SELECT received_at, id, service_id, kind, event_at, run_id, duration_ms, exit_code, message, metrics
          FROM {source} ORDER BY ordinal
    ), summed AS (
        SELECT service_id, max(event_at) FILTER (WHERE is_life) AS success_at, max(event_at) AS signal_at,
               (array_agg(kind ORDER BY event_at DESC, ordinal DESC))[1] AS last_kind, max(id) AS last_id,
               bool_or(stirs) AS stirs, min(every_s) AS every_s, min(policy_version) AS policy_version
          FROM {source} GROUP BY service_id ORDER BY service_id
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
    SELECT n.ordinal, n.id,
           -- The same for all, and dear to read: told once.
           CASE WHEN n.id = (SELECT min(id) FROM numbered) THEN n.received_at END AS received_at,
           CASE WHEN n.kind <> 'ok' OR n.run_id IS NOT NULL OR n.exit_code IS NOT NULL THEN n.event_at END AS event_at,
           n.current_version, {is_repeat} AS is_repeat
      FROM numbered n
"""
_FRESH = """, taken AS (
        INSERT INTO heartbeat_ids (service_id, id, heartbeat_id, received_at)
        SELECT service_id, client_id, id, received_at FROM numbered
         WHERE client_id IS NOT NULL
         ORDER BY service_id, client_id, id
            ON CONFLICT DO NOTHING
     RETURNING heartbeat_id
    ), fresh AS MATERIALIZED (
        SELECT * FROM numbered WHERE client_id IS NULL OR id IN (SELECT heartbeat_id FROM taken)
    )"""
_COLUMNS = (
    ("service_id", "bigint"), ("kind", "text"), ("age", "float8"), ("run_id", "text"),
    ("duration_ms", "bigint"), ("exit_code", "smallint"), ("message", "text"), ("metrics", "jsonb"),
    ("client_id", "text"), ("every_s", "int"), ("policy_version", "bigint"), ("stirs", "bool"), ("is_life", "bool"),
)  # fmt: skip


def _name(*, with_ids: bool, at: bool) -> str:
    """Of the prepared statement: a group without ids needs less of it; a simulation says what time it is."""
    return f"medic_write{'_ids' if with_ids else ''}{'_at' if at else ''}"


def _prepare(connection: Connection, name: str, *, with_ids: bool, at: bool) -> None:
    """Planned once per connection: of a heartbeat alone, planning is the greater half."""
    if name in connection.info:
        return
    types = [f"{kind}[]" for _, kind in _COLUMNS]
    sql = _SQL.format(
        now=f"${len(types) + 1}::timestamptz" if at else "now()",
        fresh=_FRESH if with_ids else "",
        source="fresh" if with_ids else "numbered",
        is_repeat="NOT EXISTS (SELECT FROM fresh f WHERE f.id = n.id)" if with_ids else "false",
    )
    for number, (column, _) in enumerate(_COLUMNS, start=1):
        sql = re.sub(rf":{column}\b", f"${number}", sql)
    parameters = ", ".join([*types, "timestamptz"] if at else types)
    connection.exec_driver_sql(f"PREPARE {name} ({parameters}) AS {sql}")
    connection.info[name] = True


def _plain(values: Sequence[object]) -> str:
    """Numbers and truth values as an array of PostgreSQL; much cheaper than one adaptation for each."""
    if values.count(None) == len(values):
        return "{}"
    return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"


def _texts(values: Sequence[str | None]) -> str:
    """Texts as an array of PostgreSQL, each quoted."""
    if values.count(None) == len(values):
        return "{}"
    quoted = [
        "NULL" if value is None else '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        for value in values
    ]
    return "{" + ",".join(quoted) + "}"


def write(session: Session, signals: Sequence[Signal], *, now: datetime | None = None) -> list[Written]:
    """Write the signals, in their order; the caller commits, and answers after that.

    :param now: the moment of their arrival; the transaction's own if none is given, without asking for it.
    """
    return write_on(session.connection(), signals, now=now)


def write_on(
    connection: Connection, signals: Sequence[Signal], *, now: datetime | None = None
) -> list[Written]:
    """`write` on a connection.  If no signal `follows_run`, it is one statement, and may commit by itself."""
    return write_encoded(connection, encode(signals, now=now))


class Encoded(NamedTuple):
    """Signals as the statement takes them: what can be done without the database."""

    signals: Sequence[Signal]
    with_ids: bool
    values: tuple[object, ...]
    at: bool


def encode(signals: Sequence[Signal], *, now: datetime | None = None) -> Encoded:
    """Signals for `write_encoded`.

    :raises ValueError: metrics hold NaN or Infinity.
    """
    client_ids = [s.client_id for s in signals]
    kinds = [None if s.kind == "ok" else s.kind for s in signals]
    ages = [s.age_s or None for s in signals]
    exit_codes = [s.exit_code for s in signals]
    are_life = not (any(kinds) or any(ages) or any(exit_codes))
    values: list[object] = [
        _plain([s.service.id for s in signals]),
        _plain(kinds),
        _plain(ages),
        _texts([s.run_id for s in signals]),
        _plain([s.duration_ms for s in signals]),
        _plain(exit_codes),
        _texts([s.message for s in signals]),
        _texts([None if s.metrics is None else json.dumps(s.metrics, allow_nan=False) for s in signals]),
        _texts(client_ids),
        _plain([s.service.every_s for s in signals]),
        _plain([s.service.policy_version for s in signals]),
        "{}" if are_life else _plain([s.stirs or None for s in signals]),
        "{}" if are_life else _plain([None if s.is_life else False for s in signals]),
    ]
    if now is not None:
        values.append(now)
    with_ids = client_ids.count(None) < len(client_ids)
    return Encoded(signals, with_ids, tuple(values), at=now is not None)


def write_encoded(connection: Connection, encoded: Encoded) -> list[Written]:
    """Write encoded signals; see `write_on`."""
    signals, with_ids = encoded.signals, encoded.with_ids
    name = _name(with_ids=with_ids, at=encoded.at)
    _prepare(connection, name, with_ids=with_ids, at=encoded.at)
    arguments = ", ".join(["%s"] * len(encoded.values))
    rows = connection.exec_driver_sql(f"EXECUTE {name} ({arguments})", encoded.values).all()
    written = [_NOWHERE] * len(signals)
    followed = []
    received_at = next((row.received_at for row in rows if row.received_at is not None), None)
    for ordinal, number, _, event_at, version, is_repeat in rows:
        signal = signals[ordinal - 1]
        written[ordinal - 1] = Written(
            number, is_repeat, received_at, version == signal.service.policy_version
        )
        if not is_repeat and signal.follows_run:
            followed.append((ordinal, _run_signal(signal, number, event_at)))
    if followed:
        runs.follow(connection, [run_signal for _, run_signal in sorted(followed, key=itemgetter(0))])
    repeats = [s for s, done in zip(signals, written, strict=True) if done.is_repeat] if with_ids else []
    if not repeats:
        return written
    firsts = _firsts(connection, repeats)
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
