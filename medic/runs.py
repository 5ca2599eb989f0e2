"""Runs: what the start and end signals of a batch make of them, in a few statements whatever its size.

Within a service the signals take effect in their order, also several of one run; services do not touch each
other.  The caller holds each service's hot row, so nobody else moves these runs meanwhile.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, TextClause, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session
from sqlalchemy.types import BigInteger, DateTime, SmallInteger, Text

_NEW = 1 << 63
"""Runs of this batch come behind every stored one when both began at the same moment."""


@dataclass(frozen=True, slots=True)
class RunSignal:
    """A stored start, or a signal that ends a run.  ``at`` is its stored event time: the evaluator knows a
    run without a name by it.
    """

    id: int
    service_id: int
    run_id: str | None
    at: datetime
    is_start: bool
    state: str
    exit_code: int | None
    duration_ms: int | None


@dataclass(slots=True)
class _Run:
    """A run as it stands within this batch; ``row`` is None until it is stored.

    ``started_at`` is None when only the end was seen, ``start`` when the start was stored before.
    """

    row: int | None
    started_at: datetime | None
    start: RunSignal | None = None
    end: RunSignal | None = None
    is_open: bool = True


_Open = tuple[datetime, int, _Run]
"""An open run without a name, in the order of its start; its place tells apart those of one moment."""


def follow(connection: Connection, signals: Sequence[RunSignal]) -> None:
    """Open and end the runs that these signals, in their order, tell of."""
    if not signals:
        return
    named, unnamed = _known(connection, signals)
    behind = _starts_of_nothing(connection, signals)
    touched: list[_Run] = []
    for signal in signals:
        if signal.run_id is not None:
            run = _follow_named(signal, named)
        elif not signal.is_start:
            run = _end_newest(signal, unnamed[signal.service_id])
        elif signal.id not in behind and not _is_open_at(signal.at, unnamed[signal.service_id]):
            run = _Run(None, signal.at, start=signal)
            bisect.insort(unnamed[signal.service_id], (signal.at, _NEW + signal.id, run))
        else:
            run = None
        # A run of this batch is listed once, where it begins; a stored one where it ends.
        if run is not None and (run.row is not None or run.start is signal):
            touched.append(run)
    _insert(connection, [run for run in touched if run.row is None])
    _end(connection, [run for run in touched if run.row is not None])


def _follow_named(signal: RunSignal, named: dict[tuple[int, str], _Run]) -> _Run | None:
    """The run of this name, if the signal changes it."""
    assert signal.run_id is not None
    key = (signal.service_id, signal.run_id)
    run = named.get(key)
    if run is None:
        # With its end alone, its start was lost or comes later: the run is known by its end.
        end = None if signal.is_start else signal
        run = named[key] = _Run(None, signal.at if signal.is_start else None, start=signal, end=end)
        run.is_open = signal.is_start
        return run
    if signal.is_start or not run.is_open:
        return None
    run.is_open, run.end = False, signal
    return run


def _end_newest(signal: RunSignal, open_ones: list[_Open]) -> _Run | None:
    """The newest open run without a name that had begun by then."""
    at = bisect.bisect_right(open_ones, signal.at, key=lambda one: one[0])
    if at == 0:
        return None
    run = open_ones.pop(at - 1)[2]
    run.end = signal
    return run


def _is_open_at(at: datetime, open_ones: list[_Open]) -> bool:
    place = bisect.bisect_left(open_ones, at, key=lambda one: one[0])
    return place < len(open_ones) and open_ones[place][0] == at


# The second and third part: of the open runs without a name, all that the ends of this batch can reach.
_KNOWN = text(
    """
    SELECT r.id, r.service_id, r.run_id, r.state, r.started_at
      FROM (SELECT DISTINCT * FROM unnest(:named_service, :named_run) AS n (service_id, run_id)) n
      JOIN runs r ON r.service_id = n.service_id AND r.run_id = n.run_id
    UNION ALL
    SELECT r.id, r.service_id, r.run_id, r.state, r.started_at
      FROM unnest(:ended_service, :ends, :earliest, :latest) AS e (service_id, ends, earliest, latest)
      JOIN runs r ON r.service_id = e.service_id AND r.state = 'open' AND r.run_id IS NULL
                 AND r.started_at > e.earliest AND r.started_at <= e.latest
    UNION ALL
    SELECT r.*
      FROM unnest(:ended_service, :ends, :earliest, :latest) AS e (service_id, ends, earliest, latest)
     CROSS JOIN LATERAL (
        SELECT id, service_id, run_id, state, started_at FROM runs
         WHERE service_id = e.service_id AND state = 'open' AND run_id IS NULL AND started_at <= e.earliest
         ORDER BY started_at DESC, id DESC LIMIT e.ends) r
    """
).bindparams(
    bindparam("named_service", type_=ARRAY(BigInteger)),
    bindparam("named_run", type_=ARRAY(Text)),
    bindparam("ended_service", type_=ARRAY(BigInteger)),
    bindparam("ends", type_=ARRAY(BigInteger)),
    bindparam("earliest", type_=ARRAY(DateTime(timezone=True))),
    bindparam("latest", type_=ARRAY(DateTime(timezone=True))),
)


def _known(
    connection: Connection, signals: Sequence[RunSignal]
) -> tuple[dict[tuple[int, str], _Run], defaultdict[int, list[_Open]]]:
    """The stored runs that the signals may touch: by name, and the open ones without."""
    named_ones = {(signal.service_id, signal.run_id) for signal in signals if signal.run_id is not None}
    ends: defaultdict[int, list[datetime]] = defaultdict(list)
    for signal in signals:
        if signal.run_id is None and not signal.is_start:
            ends[signal.service_id].append(signal.at)
    named: dict[tuple[int, str], _Run] = {}
    unnamed: defaultdict[int, list[_Open]] = defaultdict(list)
    if not named_ones and not ends:
        return named, unnamed
    rows = connection.execute(
        _KNOWN,
        {
            "named_service": [service for service, _ in named_ones],
            "named_run": [run for _, run in named_ones],
            "ended_service": list(ends),
            "ends": [len(moments) for moments in ends.values()],
            "earliest": [min(moments) for moments in ends.values()],
            "latest": [max(moments) for moments in ends.values()],
        },
    )
    for row_id, service_id, run_id, state, started_at in rows:
        run = _Run(row_id, started_at, is_open=state == "open")
        if run_id is None:
            bisect.insort(unnamed[service_id], (started_at, row_id, run))
        else:
            named[service_id, run_id] = run
    return named, unnamed


_LONELY = text(
    """
    SELECT s.id FROM unnest(:service, :at, :id) AS s (service_id, at, id)
     WHERE EXISTS (
        SELECT 1 FROM heartbeats h
         WHERE h.service_id = s.service_id AND h.received_at > s.at AND h.event_at > s.at AND h.id < s.id
           AND h.run_id IS NULL
           AND (h.kind IN ('complete', 'fail') OR (h.kind = 'ok' AND h.exit_code IS NOT NULL)))
        OR EXISTS (
        SELECT 1 FROM runs r
         WHERE r.service_id = s.service_id AND r.started_at = s.at AND r.run_id IS NULL AND r.state = 'open')
    """
).bindparams(
    bindparam("service", type_=ARRAY(BigInteger)),
    bindparam("at", type_=ARRAY(DateTime(timezone=True))),
    bindparam("id", type_=ARRAY(BigInteger)),
)


def _starts_of_nothing(connection: Connection, signals: Sequence[RunSignal]) -> set[int]:
    """Starts without a name whose end was heard first, as a run that nobody can end would overrun; and those of
    the very moment at which one is open, as nothing tells the two apart.
    """
    starts = [signal for signal in signals if signal.is_start and signal.run_id is None]
    if not starts:
        return set()
    values = {
        "service": [start.service_id for start in starts],
        "at": [start.at for start in starts],
        "id": [start.id for start in starts],
    }
    return set(connection.scalars(_LONELY, values))


_ENDED: tuple[Any, ...] = (
    bindparam("state", type_=ARRAY(Text)),
    bindparam("ended_at", type_=ARRAY(DateTime(timezone=True))),
    bindparam("exit_code", type_=ARRAY(SmallInteger)),
    bindparam("duration_ms", type_=ARRAY(BigInteger)),
    bindparam("end_id", type_=ARRAY(BigInteger)),
)
_LASTED = "CAST(extract(epoch FROM greatest(t.ended_at, {start}) - {start}) * 1000 AS bigint)"
_INSERT = text(
    f"""
    INSERT INTO runs (service_id, run_id, state, started_at, ended_at, exit_code, duration_ms, start_id, end_id)
    SELECT t.service_id, t.run_id, t.state,
           coalesce(t.started_at, t.ended_at - make_interval(secs => coalesce(t.duration_ms, 0) / 1000.0)),
           CASE WHEN t.ended_at IS NOT NULL THEN greatest(t.ended_at, t.started_at) END,
           t.exit_code,
           CASE WHEN t.started_at IS NULL THEN t.duration_ms
                ELSE coalesce(t.duration_ms, {_LASTED.format(start="t.started_at")}) END,
           t.start_id, t.end_id
      FROM unnest(:service, :run_id, :started_at, :start_id, :state, :ended_at, :exit_code, :duration_ms, :end_id)
           WITH ORDINALITY AS t (service_id, run_id, started_at, start_id, state, ended_at, exit_code, duration_ms,
                                 end_id, place)
     ORDER BY t.place
    ON CONFLICT (service_id, run_id) DO NOTHING
    """
).bindparams(
    bindparam("service", type_=ARRAY(BigInteger)),
    bindparam("run_id", type_=ARRAY(Text)),
    bindparam("started_at", type_=ARRAY(DateTime(timezone=True))),
    bindparam("start_id", type_=ARRAY(BigInteger)),
    *_ENDED,
)
_UPDATE = text(
    f"""
    UPDATE runs r
       SET state = t.state, ended_at = greatest(t.ended_at, r.started_at), exit_code = t.exit_code, end_id = t.end_id,
           duration_ms = coalesce(t.duration_ms, {_LASTED.format(start="r.started_at")})
      FROM unnest(:id, :state, :ended_at, :exit_code, :duration_ms, :end_id)
           AS t (id, state, ended_at, exit_code, duration_ms, end_id)
     WHERE r.id = t.id AND r.state = 'open'
    """
).bindparams(bindparam("id", type_=ARRAY(BigInteger)), *_ENDED)


def _insert(connection: Connection, runs: Sequence[_Run]) -> None:
    values = {
        "service": [run.start.service_id for run in runs if run.start],
        "run_id": [run.start.run_id for run in runs if run.start],
        "started_at": [run.started_at for run in runs],
        "start_id": [run.start.id for run in runs if run.start],
    }
    _execute(connection, _INSERT, values, runs)


def _end(connection: Connection, runs: Sequence[_Run]) -> None:
    _execute(connection, _UPDATE, {"id": [run.row for run in runs]}, runs)


def _execute(
    connection: Connection, statement: TextClause, values: dict[str, Any], runs: Sequence[_Run]
) -> None:
    if not runs:
        return
    ends = [run.end for run in runs]
    values |= {
        "state": [end.state if end else "open" for end in ends],
        "ended_at": [end.at if end else None for end in ends],
        "exit_code": [end.exit_code if end else None for end in ends],
        "duration_ms": [end.duration_ms if end else None for end in ends],
        "end_id": [end.id if end else None for end in ends],
    }
    connection.execute(statement, values)


def open_counts(session: Session, service_ids: Sequence[int]) -> dict[int, int]:
    """How many runs of each service are open; services without one are left out."""
    rows = session.execute(
        text(
            "SELECT service_id, count(*) FROM runs WHERE state = 'open' AND service_id = ANY(:ids) GROUP BY service_id"
        ),
        {"ids": list(service_ids)},
    )
    return dict(rows.all())
